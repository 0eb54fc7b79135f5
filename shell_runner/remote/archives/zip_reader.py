"""A reader of zip archives that accepts only consistent ones.

Responsible for the format and its limits: the central directory at the end, the local headers,
which must agree with it, and the contents of members, which must not overlap.  Must not write
files or check names.

``zipfile`` cannot be used: it compares only the name of a local header with the central directory,
accepts duplicate names, reads the central directory into memory, and detects overlapping members
only since the patches of 2024.  Hosts run any Python from 3.8 on.

A client may run any program on a host (docs/security.md), so on a host this is robustness.  The
trust boundary that matters is the dispatcher, which reads the packages that a host has sent.  The
limits are documented in docs/design/0004-jobs.md.
"""

import os
import struct
import zlib
from typing import BinaryIO, Iterator, List, NamedTuple, Optional, Tuple

from .decompress import MemberDecompressor
from .limits import PIECE_BYTES, BadArchive, decode_name

#: Compression methods.
STORED, DEFLATED, BZIP2 = 0, 8, 12
#: Flag: the name is UTF-8.
UTF8 = 0x800
#: Flag: the sizes follow the contents, and the local header has none.
_SIZES_FOLLOW = 0x8
#: Flags of unsupported members: encrypted (three ways), or a patch for another file.
_UNSUPPORTED_FLAGS = 0x1 | 0x40 | 0x2000 | 0x20
_MAX32, _MAX16 = 0xFFFFFFFF, 0xFFFF

LOCAL_HEADER = struct.Struct("<4s5H3L2H")
CENTRAL_HEADER = struct.Struct("<4s4B4H3L5H2L")
END_RECORD = struct.Struct("<4s4H2LH")
_ZIP64_END_RECORD = struct.Struct("<4sQ2H2L4Q")
_ZIP64_LOCATOR = struct.Struct("<4sLQL")
_WRONG_OFFSET = "its directory is not at the offset that it claims"
LOCAL_MAGIC, CENTRAL_MAGIC, END_MAGIC = b"PK\3\4", b"PK\1\2", b"PK\5\6"
ZIP64_END_MAGIC, ZIP64_LOCATOR_MAGIC = b"PK\6\6", b"PK\6\7"


class ZipEntry(NamedTuple):
    """One member in the central directory."""

    #: The bytes of the name without decoding.
    raw_name: bytes
    flags: int
    method: int
    crc: int
    #: Bytes of the contents, compressed and decompressed.
    compressed_size: int
    size: int
    #: Offset of the local header.
    header_offset: int
    #: The system that defines ``attributes``; 3 is Unix.
    system: int
    attributes: int
    #: Date and time in the format of MS-DOS.
    date: Tuple[int, int]

    @property
    def name(self) -> bytes:
        """The name in UTF-8; a name that is not valid UTF-8 is decoded as code page 437."""
        if self.flags & UTF8 or self.raw_name.isascii() or is_utf8(self.raw_name):
            return self.raw_name
        return self.raw_name.decode("cp437").encode()


class _CentralDirectory(NamedTuple):
    """The position of the central directory."""

    offset: int
    size: int
    members: int
    #: ``members`` is the exact count, not only its lower 16 bits.
    is_count_exact: bool


class ZipReader:
    """A reader of one archive in a file that does not change meanwhile."""

    def __init__(self, file: BinaryIO, members: int, names: int) -> None:
        """Find the central directory.

        ``members`` and ``names`` are the maximum number of members and of bytes in all names.
        Raises BadArchive.
        """
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._central_directory = self._find_directory()
        max_size = members * (CENTRAL_HEADER.size + 64) + names
        if self._central_directory.members > members or self._central_directory.size > max_size:
            raise BadArchive("", "more than %d members" % members)

    def entries(self) -> Iterator[ZipEntry]:
        """Yield all members in the order of the central directory.  Raises BadArchive."""
        directory, count = self._central_directory, 0
        at, end = directory.offset, directory.offset + directory.size
        while at < end:
            entry, at = self._read_entry(at, end)
            count += 1
            yield entry
        claimed = directory.members
        if count != claimed and (directory.is_count_exact or count & _MAX16 != claimed):
            raise BadArchive("", "its directory claims %d members and has %d" % (claimed, count))

    def verify(self) -> None:
        """Raise BadArchive if local headers disagree with the directory or contents overlap."""
        spans: List[int] = []
        for entry in self.entries():
            begin = self._find_contents(entry)
            # One integer for begin and end saves memory: there may be a million members.
            spans.append(entry.header_offset << 64 | (begin + entry.compressed_size))
        spans.sort()
        last = 0
        for span in spans:
            at, end = span >> 64, span & ((1 << 64) - 1)
            if at < last:
                raise BadArchive(self._find_name(at), "it overlaps another member")
            last = end

    def read_contents(self, entry: ZipEntry) -> Iterator[bytes]:
        """Yield the contents of a member in pieces.

        Raises BadArchive as soon as the size is exceeded, or if size or CRC are wrong at the end.
        """
        crc = total = 0
        try:
            for piece in self._read_decompressed(entry):
                total += len(piece)
                if total > entry.size:
                    raise ValueError("it has more than the %d bytes that it claims" % entry.size)
                crc = zlib.crc32(piece, crc)
                yield piece
        except ValueError as error:
            raise BadArchive(decode_name(entry.name), str(error)) from None
        if total != entry.size:
            message = "it claims %d bytes and has %d" % (entry.size, total)
            raise BadArchive(decode_name(entry.name), message)
        if crc != entry.crc:
            raise BadArchive(decode_name(entry.name), "its contents are corrupt: wrong CRC")

    def _read_decompressed(self, entry: ZipEntry) -> Iterator[bytes]:
        begin = self._find_contents(entry)
        chunks = self._read_chunks(begin, entry.compressed_size)
        if entry.method == STORED:
            return chunks
        return MemberDecompressor(bzip2=entry.method == BZIP2).decompress(chunks)

    def _read_chunks(self, at: int, count: int) -> Iterator[bytes]:
        while count:
            data = self._read_at(at, min(PIECE_BYTES, count))
            yield data
            at += len(data)
            count -= len(data)

    # -- central directory --------------------------------------------------------

    def _find_directory(self) -> _CentralDirectory:
        tail = self._read_at(max(0, self._size - END_RECORD.size - _MAX16), 0, to_end=True)
        at = tail.rfind(END_MAGIC)
        while at >= 0:
            end = at + END_RECORD.size
            if end <= len(tail) and end + END_RECORD.unpack_from(tail, at)[7] == len(tail):
                return self._read_directory(self._size - len(tail) + at)
            at = tail.rfind(END_MAGIC, 0, at)
        raise BadArchive("", "a zip archive without its directory: it was truncated")

    def _read_directory(self, end: int) -> _CentralDirectory:
        row = END_RECORD.unpack(self._read_at(end, END_RECORD.size))
        disk, first, here, count, size, at = row[1:7]
        is_exact, stop = count == _MAX16, end
        is_full = _MAX16 in (disk, first, here, count) or _MAX32 in (size, at)
        # Python's zipfile writes zip64 fields from 2 GiB on, other programs only from 4 GiB on.
        if is_full or at + size != end:
            zip64 = self._read_zip64_directory(end)
            if zip64 and (is_full or zip64[0] == row[1:7]):
                (disk, first, here, count, size, at), stop, is_exact = zip64[0], zip64[1], True
        if disk or first or here != count:
            raise BadArchive("", "it is a part of a zip archive of several volumes")
        if at + size != stop:
            raise BadArchive("", _WRONG_OFFSET)
        return _CentralDirectory(at, size, count, is_exact)

    def _read_zip64_directory(self, end: int) -> "Optional[Tuple[Tuple[int, ...], int]]":
        if end < _ZIP64_LOCATOR.size:
            return None
        magic, disk, at, disks = _ZIP64_LOCATOR.unpack(
            self._read_at(end - _ZIP64_LOCATOR.size, _ZIP64_LOCATOR.size)
        )
        if magic != ZIP64_LOCATOR_MAGIC:
            return None
        if at + _ZIP64_END_RECORD.size > end - _ZIP64_LOCATOR.size:
            raise BadArchive("", _WRONG_OFFSET)
        row = _ZIP64_END_RECORD.unpack(self._read_at(at, _ZIP64_END_RECORD.size))
        if (
            row[0] != ZIP64_END_MAGIC
            or at + 12 + row[1] != end - _ZIP64_LOCATOR.size
            or disk
            or disks > 1
        ):
            raise BadArchive("", _WRONG_OFFSET)
        return row[4:10], at

    def _read_entry(self, at: int, end: int) -> Tuple[ZipEntry, int]:
        if end - at < CENTRAL_HEADER.size:
            raise BadArchive("", "its directory is truncated")
        row = CENTRAL_HEADER.unpack(self._read_at(at, CENTRAL_HEADER.size))
        name_size, extra_size, comment_size = row[12:15]
        entry_end = at + CENTRAL_HEADER.size + name_size + extra_size + comment_size
        if row[0] != CENTRAL_MAGIC or entry_end > end:
            raise BadArchive("", "its directory is invalid")
        rest = self._read_at(at + CENTRAL_HEADER.size, name_size + extra_size)
        raw, extra = rest[:name_size], rest[name_size:]
        size, packed, begin = _resolve_zip64(raw, extra, [row[11], row[10], row[18]])
        entry = ZipEntry(
            raw, row[5], row[6], row[9], packed, size, begin, row[2], row[17], (row[8], row[7])
        )
        _check_entry(entry)
        return entry, entry_end

    # -- local headers and contents -----------------------------------------------

    def _find_contents(self, entry: ZipEntry) -> int:
        """Return the offset of the contents; raises BadArchive if the headers disagree."""
        name = decode_name(entry.name)
        if entry.header_offset + LOCAL_HEADER.size > self._central_directory.offset:
            raise BadArchive(name, "its header is not in the archive")
        row = LOCAL_HEADER.unpack(self._read_at(entry.header_offset, LOCAL_HEADER.size))
        begin: int = entry.header_offset + LOCAL_HEADER.size + row[9] + row[10]
        if row[0] != LOCAL_MAGIC:
            raise BadArchive(name, "its header is invalid")
        if begin + entry.compressed_size > self._central_directory.offset:
            raise BadArchive(name, "its contents are not in the archive")
        rest = self._read_at(entry.header_offset + LOCAL_HEADER.size, row[9] + row[10])
        sizes = _resolve_zip64(rest[: row[9]], rest[row[9] :], [row[8], row[7]])
        pairs = ((row[6], entry.crc), (sizes[0], entry.size), (sizes[1], entry.compressed_size))
        sizes_follow = row[2] & _SIZES_FOLLOW
        agree = all(local == central or (sizes_follow and not local) for local, central in pairs)
        if (
            rest[: row[9]] != entry.raw_name
            or row[3] != entry.method
            or row[2] & _UNSUPPORTED_FLAGS
            or not agree
        ):
            raise BadArchive(name, "its header and the directory disagree")
        return int(begin)

    def _find_name(self, at: int) -> str:
        return next(
            (decode_name(entry.name) for entry in self.entries() if entry.header_offset == at), ""
        )

    def _read_at(self, at: int, count: int, to_end: bool = False) -> bytes:
        self._file.seek(at)
        data = self._file.read() if to_end else self._file.read(count)
        if not to_end and len(data) != count:
            raise BadArchive("", "unexpected end: it was truncated")
        return data


def _check_entry(entry: ZipEntry) -> None:
    name = decode_name(entry.name)
    if entry.flags & _UNSUPPORTED_FLAGS:
        raise BadArchive(name, "it is encrypted or a patch; neither is supported")
    if entry.method not in (STORED, DEFLATED, BZIP2):
        message = "compression method %d is not supported; use stored, deflate or bzip2"
        raise BadArchive(name, message % entry.method)
    if entry.method == STORED and entry.compressed_size != entry.size:
        raise BadArchive(name, "it is stored but has two different sizes")


def _resolve_zip64(raw: bytes, extra: bytes, values: List[int]) -> List[int]:
    """Return ``values``, with those that do not fit into 32 bits read from the zip64 field."""
    if _MAX32 not in values:
        return values
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            return _read_zip64_field(raw, extra[at + 4 : at + 4 + size], values)
        at += 4 + size
    raise BadArchive(decode_name(raw), "its zip64 field is missing")


def _read_zip64_field(raw: bytes, field: bytes, values: List[int]) -> List[int]:
    resolved, at = [], 0
    for value in values:
        if value == _MAX32:
            if at + 8 > len(field):
                raise BadArchive(decode_name(raw), "its zip64 field is too short")
            value = int.from_bytes(field[at : at + 8], "little")
            at += 8
        resolved.append(value)
    return resolved


def is_utf8(raw: bytes) -> bool:
    """Return whether the bytes are valid UTF-8."""
    try:
        raw.decode("utf-8")
        return True
    except UnicodeDecodeError:
        return False
