"""Reading zip archives, and believing nothing twice.

Owns the format and its bounds: the directory at the end, the headers in front of the
contents, which must say the same, and the contents, no two of which may share bytes.
Must not write, nor judge names.

``zipfile`` does not do: it compares no more than the name of a header with the directory, takes a
name twice, reads the directory into memory whole, and looks for overlapping members only since the
patches of 2024.  Hosts run any Python from 3.8 on.

A client may run any program on a host (docs/security.md), so on a host this is robustness.  The
trust boundary that matters is the dispatcher, which reads the packages that a host has sent.  The
bounds are in docs/design/0004-jobs.md.
"""

import os
import struct
import zlib
from typing import BinaryIO, Iterator, List, NamedTuple, Optional, Tuple

from .decompress import Contents
from .limits import PIECE, BadArchive, show

STORED, DEFLATED, BZIP2 = 0, 8, 12
#: The name is UTF-8.
UTF8 = 0x800
#: Sizes follow the contents, the header in front of them has none.
_LATER = 0x8
#: Encrypted, in one of three ways; a patch for another file.
_REFUSED = 0x1 | 0x40 | 0x2000 | 0x20
_MAX32, _MAX16 = 0xFFFFFFFF, 0xFFFF

LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s4B4H3L5H2L")
END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_FIND64 = struct.Struct("<4sLQL")
LOCAL_MAGIC, CENTRAL_MAGIC, END_MAGIC = b"PK\3\4", b"PK\1\2", b"PK\5\6"
END64_MAGIC, FIND64_MAGIC = b"PK\6\6", b"PK\6\7"


class Entry(NamedTuple):
    """What the directory says of one member."""

    #: Bytes of the name, as they are.
    raw: bytes
    flags: int
    method: int
    crc: int
    #: Bytes of its compressed contents, and of its contents.
    packed: int
    size: int
    #: Where its header is.
    at: int
    #: 3: Unix; it tells what ``attributes`` are.
    system: int
    attributes: int
    #: Date and time of MS-DOS.
    date: Tuple[int, int]

    @property
    def name(self) -> bytes:
        """In UTF-8; names of other programs than ours may be in the code page of a PC."""
        if self.flags & UTF8 or self.raw.isascii() or is_utf8(self.raw):
            return self.raw
        return self.raw.decode("cp437").encode()


class _Directory(NamedTuple):
    at: int
    size: int
    members: int
    #: ``members`` is all of it, and not what fits into 16 bits.
    exact: bool


class Zip:
    """One archive, in a file that does not change meanwhile."""

    def __init__(self, file: BinaryIO, members: int, names: int) -> None:
        """``members`` and ``names``: how many there may be, and how many bytes of names."""
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._where = self._find()
        most = members * (CENTRAL.size + 64) + names
        if self._where.members > members or self._where.size > most:
            raise BadArchive("", "more than %d members" % members)

    def entries(self) -> Iterator[Entry]:
        """All members, in the order of the directory."""
        at, end, count = self._where.at, self._where.at + self._where.size, 0
        while at < end:
            entry, at = self._entry(at, end)
            count += 1
            yield entry
        said = self._where.members
        if count != said and (self._where.exact or count & _MAX16 != said):
            raise BadArchive("", "its directory says %d members and has %d" % (said, count))

    def check(self) -> None:
        """Headers say what the directory says, and contents do not overlap."""
        spans: List[int] = []
        for entry in self.entries():
            begin = self._data_at(entry)
            # One number for both, for there may be a million of them.
            spans.append(entry.at << 64 | (begin + entry.packed))
        spans.sort()
        last = 0
        for span in spans:
            at, end = span >> 64, span & ((1 << 64) - 1)
            if at < last:
                raise BadArchive(self._name_at(at), "it overlaps another member")
            last = end

    def contents(self, entry: Entry) -> Iterator[bytes]:
        """Pieces of a member, checked by size while they come and by CRC at the end."""
        crc = total = 0
        try:
            for piece in self._inflated(entry):
                total += len(piece)
                if total > entry.size:
                    raise ValueError("it inflates to more than the %d bytes it says" % entry.size)
                crc = zlib.crc32(piece, crc)
                yield piece
        except ValueError as error:
            raise BadArchive(show(entry.name), str(error)) from None
        if total != entry.size:
            words = "it says %d bytes and has %d" % (entry.size, total)
            raise BadArchive(show(entry.name), words)
        if crc != entry.crc:
            raise BadArchive(show(entry.name), "its contents are spoilt: wrong CRC")

    def _inflated(self, entry: Entry) -> Iterator[bytes]:
        begin = self._data_at(entry)
        chunks = self._chunks(begin, entry.packed)
        if entry.method == STORED:
            return chunks
        return Contents(bzip2=entry.method == BZIP2).pieces(chunks)

    def _chunks(self, at: int, count: int) -> Iterator[bytes]:
        while count:
            data = self._read(at, min(PIECE, count))
            yield data
            at += len(data)
            count -= len(data)

    # The directory

    def _find(self) -> _Directory:
        tail = self._read(max(0, self._size - END.size - _MAX16), 0, to_end=True)
        at = tail.rfind(END_MAGIC)
        while at >= 0:
            if len(tail) - at >= END.size and at + END.size + END.unpack_from(tail, at)[7] == len(
                tail
            ):
                return self._directory(self._size - len(tail) + at)
            at = tail.rfind(END_MAGIC, 0, at)
        raise BadArchive("", "a zip archive without its directory: it was cut")

    def _directory(self, end: int) -> _Directory:
        row = END.unpack(self._read(end, END.size))
        disk, first, here, count, size, at = row[1:7]
        exact, stop = count == _MAX16, end
        is_full = _MAX16 in (disk, first, here, count) or _MAX32 in (size, at)
        # zipfile writes the fields of zip64 from 2 GiB on, where others do not need them yet.
        if is_full or at + size != end:
            found = self._directory64(end)
            if found and (is_full or found[0] == row[1:7]):
                (disk, first, here, count, size, at), stop, exact = found[0], found[1], True
        if disk or first or here != count:
            raise BadArchive("", "a part of a zip archive of several volumes")
        if at + size != stop:
            raise BadArchive("", "its directory is not where it says")
        return _Directory(at, size, count, exact)

    def _directory64(self, end: int) -> "Optional[Tuple[Tuple[int, ...], int]]":
        if end < _FIND64.size:
            return None
        magic, disk, at, disks = _FIND64.unpack(self._read(end - _FIND64.size, _FIND64.size))
        if magic != FIND64_MAGIC:
            return None
        if at + _END64.size > end - _FIND64.size:
            raise BadArchive("", "its directory is not where it says")
        row = _END64.unpack(self._read(at, _END64.size))
        if row[0] != END64_MAGIC or at + 12 + row[1] != end - _FIND64.size or disk or disks > 1:
            raise BadArchive("", "its directory is not where it says")
        return row[4:10], at

    def _entry(self, at: int, end: int) -> Tuple[Entry, int]:
        if end - at < CENTRAL.size:
            raise BadArchive("", "its directory ends in the middle")
        row = CENTRAL.unpack(self._read(at, CENTRAL.size))
        name_size, extra_size, comment_size = row[12:15]
        done = at + CENTRAL.size + name_size + extra_size + comment_size
        if row[0] != CENTRAL_MAGIC or done > end:
            raise BadArchive("", "its directory cannot be read")
        rest = self._read(at + CENTRAL.size, name_size + extra_size)
        raw, extra = rest[:name_size], rest[name_size:]
        size, packed, begin = _wide(raw, extra, [row[11], row[10], row[18]])
        entry = Entry(
            raw, row[5], row[6], row[9], packed, size, begin, row[2], row[17], (row[8], row[7])
        )
        _check(entry)
        return entry, done

    # Headers in front of the contents

    def _data_at(self, entry: Entry) -> int:
        """Where the contents are, once their header has said what the directory says."""
        name = show(entry.name)
        if entry.at + LOCAL.size > self._where.at:
            raise BadArchive(name, "its header is not in the archive")
        row = LOCAL.unpack(self._read(entry.at, LOCAL.size))
        begin: int = entry.at + LOCAL.size + row[9] + row[10]
        if row[0] != LOCAL_MAGIC:
            raise BadArchive(name, "its header is none")
        if begin + entry.packed > self._where.at:
            raise BadArchive(name, "its contents are not in the archive")
        rest = self._read(entry.at + LOCAL.size, row[9] + row[10])
        said = _wide(rest[: row[9]], rest[row[9] :], [row[8], row[7]])
        facts = ((row[6], entry.crc), (said[0], entry.size), (said[1], entry.packed))
        later = row[2] & _LATER
        good = all(here == there or (later and not here) for here, there in facts)
        if rest[: row[9]] != entry.raw or row[3] != entry.method or row[2] & _REFUSED or not good:
            raise BadArchive(name, "its header and the directory disagree")
        return int(begin)

    def _name_at(self, at: int) -> str:
        return next((show(entry.name) for entry in self.entries() if entry.at == at), "")

    def _read(self, at: int, count: int, to_end: bool = False) -> bytes:
        self._file.seek(at)
        data = self._file.read() if to_end else self._file.read(count)
        if not to_end and len(data) != count:
            raise BadArchive("", "it ends in the middle: it was cut")
        return data


def _check(entry: Entry) -> None:
    name = show(entry.name)
    if entry.flags & _REFUSED:
        raise BadArchive(name, "it is encrypted, or a patch")
    if entry.method not in (STORED, DEFLATED, BZIP2):
        words = "compressed by method %d; only stored, deflate and bzip2 are known"
        raise BadArchive(name, words % entry.method)
    if entry.method == STORED and entry.packed != entry.size:
        raise BadArchive(name, "it is stored, and has two sizes")


def _wide(raw: bytes, extra: bytes, values: List[int]) -> List[int]:
    """``values``, those of them from the zip64 field that do not fit into 32 bits."""
    if _MAX32 not in values:
        return values
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            return _from_zip64(raw, extra[at + 4 : at + 4 + size], values)
        at += 4 + size
    raise BadArchive(show(raw), "a size of 4 GiB without the field that zip64 needs")


def _from_zip64(raw: bytes, field: bytes, values: List[int]) -> List[int]:
    found, at = [], 0
    for value in values:
        if value == _MAX32:
            if at + 8 > len(field):
                raise BadArchive(show(raw), "a zip64 field that is too short")
            value = int.from_bytes(field[at : at + 8], "little")
            at += 8
        found.append(value)
    return found


def is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
        return True
    except UnicodeDecodeError:
        return False
