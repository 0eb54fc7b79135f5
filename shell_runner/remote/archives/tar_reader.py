"""A streaming reader of tar archives: ustar, GNU and pax, without sparse files.

Responsible for the format and its limits.  Must not write files or check names.

``tarfile`` cannot be used, for these reasons:

- Before the patches of 2025 it does not terminate on a member of negative size (CVE-2025-8194),
  and it reads a pax header that claims 8 GiB into memory.  Hosts run any Python from 3.8 on.
- Its ``data_filter`` is missing before 3.8.17.

A client may run any program on a host (docs/security.md), so on a host this is robustness.  The
trust boundary that matters is the dispatcher, which extracts archives that a host has sent.  The
limits are documented in docs/design/0004-jobs.md.
"""

from typing import Dict, Iterator, NamedTuple, Optional, Tuple, TypeVar

from .decompress import ByteSource
from .limits import PIECE_BYTES, BadArchive, Limits, decode_name

FILE, FOLDER, LINK, HARD_LINK = "file", "folder", "link", "hard link"
_BLOCK = 512
_ZEROS = bytes(_BLOCK)
#: The type of a sparse file in the old format of GNU tar.
_OLD_SPARSE_TYPE = b"S"
#: The prefix of keys in pax headers of sparse files.
_PAX_SPARSE_PREFIX = "GNU.sparse."
_MEMBER_KINDS = {
    b"0": FILE, b"\0": FILE, b"7": FILE, _OLD_SPARSE_TYPE: FILE,
    b"1": HARD_LINK, b"2": LINK, b"5": FOLDER,
}  # fmt: skip
_REFUSED_TYPES = {
    b"3": "a character device", b"4": "a block device", b"6": "a FIFO",
    b"D": "a folder of an incremental archive", b"M": "a file that continues from another volume",
    b"N": "a list of long names of an old tar",
}  # fmt: skip
#: Keys that a global header must not have, since they would apply to every member.
_PER_MEMBER_KEYS = ("path", "linkpath", "size", "GNU.sparse")
#: Maximum digits of a number in a pax record.
_MAX_DIGITS = 20
#: Bytes of headers that one pax record counts as, since parsing it takes as long.
_RECORD_COST = 64
#: Folders above a member that cost nothing.  Each further one counts as 64 bytes of headers,
#: since the kernel walks all of them for each access to the member.
_FREE_FOLDERS, _FOLDER_COST = 64, 64

_T = TypeVar("_T")


class TarMember(NamedTuple):
    """The header of one member."""

    name: bytes
    kind: str
    mode: int
    modified: float
    #: Bytes of the file; 0 for other kinds.
    size: int
    #: The target of a link.
    target: bytes


class _ExtendedHeaders:
    """The extended headers of the next member."""

    def __init__(self) -> None:
        self.name: Optional[bytes] = None
        self.target: Optional[bytes] = None
        self.pax: Optional[Dict[str, bytes]] = None

    def is_empty(self) -> bool:
        return self.name is None and self.target is None and self.pax is None


def is_tar(source: ByteSource) -> bool:
    """Return whether the first block is a header, or the end mark of an empty archive."""
    block = source.peek(_BLOCK)
    if len(block) < _BLOCK or block == _ZEROS:
        return len(block) == _BLOCK
    try:
        _verify_checksum(block)
        return True
    except BadArchive:
        return False


class TarReader:
    """A reader of one archive, which is read once from its start to its end."""

    def __init__(self, source: ByteSource, limits: Limits, archive_bytes: int) -> None:
        """Read ``source``, the contents of an archive file of ``archive_bytes`` bytes."""
        self._source = source
        self._limits = limits
        self._max_overhead = limits.base_overhead + limits.overhead_ratio * archive_bytes
        self._overhead = 0
        self._last_name = ""

    def members(self) -> Iterator[Tuple[TarMember, Iterator[bytes]]]:
        """Yield each member and its contents, which must be read before the next member.

        Raises BadArchive.
        """
        return self._add_member_name(self._read_members())

    def _add_member_name(self, items: "Iterator[_T]") -> "Iterator[_T]":
        """Add the name of the last member to a BadArchive that has none."""
        try:
            yield from items
        except BadArchive as error:
            raise BadArchive(error.member or self._last_name, error.reason) from None

    def _read_members(self) -> Iterator[Tuple[TarMember, Iterator[bytes]]]:
        headers = _ExtendedHeaders()
        while True:
            block = self._source.read_exactly(_BLOCK)
            self._add_overhead(_BLOCK)
            if block == _ZEROS:
                break
            _verify_checksum(block)
            kind = block[156:157]
            if kind in b"xXgLK":
                self._read_extended_header(kind, block, headers)
                continue
            if kind == b"V":
                self._check_label(block, headers)
                continue
            member = self._parse_member(kind, block, headers)
            self._last_name = decode_name(member.name)
            pieces = self._add_member_name(self._read_contents(member))
            yield member, pieces
            for _ in pieces:
                pass
            headers = _ExtendedHeaders()
        if not headers.is_empty():
            raise BadArchive("", "unexpected end after an extended header: it was truncated")
        self._check_end()

    def _check_end(self) -> None:
        """Read the rest, which must be zeros; checksums of compressed data come last."""
        while True:
            data = self._source.read(PIECE_BYTES)
            if not data:
                return
            self._add_overhead(len(data))
            if data.strip(b"\0"):
                raise BadArchive("", "data follows the end of the archive")

    def _add_overhead(self, count: int) -> None:
        """Count bytes that are not contents of files; raises BadArchive at the limit."""
        self._overhead += count
        if self._overhead > self._max_overhead:
            message = "more than %d bytes of headers and padding (limit: %d for each archive byte)"
            raise BadArchive("", message % (self._max_overhead, self._limits.overhead_ratio))

    def _check_label(self, block: bytes, headers: _ExtendedHeaders) -> None:
        """Raise BadArchive if the label of a volume has contents; programs disagree on these.

        They disagree, too, on whether extended headers before it apply to the next member.
        """
        if _parse_number(block[124:136]) or not headers.is_empty():
            raise BadArchive(
                decode_name(block[:100].split(b"\0")[0]),
                "a label with contents, or after an extended header",
            )

    def _parse_records(self, data: bytes) -> Dict[str, bytes]:
        self._add_overhead(_RECORD_COST * data.count(b"\n"))
        return _parse_records(data)

    def _read_extended_header(self, kind: bytes, block: bytes, headers: _ExtendedHeaders) -> None:
        size = _parse_number(block[124:136])
        if size > self._limits.header_bytes:
            raise BadArchive(
                self._last_name, "it is followed by an extended header of %d bytes" % size
            )
        self._add_overhead(_round_up(size))
        data = self._source.read_exactly(_round_up(size))[:size]
        if kind == b"g":
            _check_global_header(self._parse_records(data))
        elif kind in b"xX":
            if headers.pax is not None:
                raise BadArchive(self._last_name, "it is followed by two extended headers in a row")
            headers.pax = self._parse_records(data)
        elif (headers.name if kind == b"L" else headers.target) is not None:
            raise BadArchive(self._last_name, "it is followed by two long names in a row")
        elif kind == b"L":
            headers.name = data.rstrip(b"\0")
        else:
            headers.target = data.rstrip(b"\0")

    def _parse_member(self, kind: bytes, block: bytes, headers: _ExtendedHeaders) -> TarMember:
        name = _parse_name(block, headers)
        self._last_name = decode_name(name)
        self._add_overhead(_FOLDER_COST * max(name.count(b"/") - _FREE_FOLDERS, 0))
        if kind in _REFUSED_TYPES:
            raise BadArchive(
                decode_name(name), "%s; only files, folders and links" % _REFUSED_TYPES[kind]
            )
        if kind not in _MEMBER_KINDS:
            raise BadArchive(decode_name(name), "unknown type of member: %r" % kind)
        pax = headers.pax or {}
        _check_not_sparse(name, kind, pax)
        size = _parse_decimal(pax["size"]) if "size" in pax else _parse_number(block[124:136])
        member_kind = _MEMBER_KINDS[kind]
        if member_kind == FILE and name.endswith(b"/"):
            member_kind = FOLDER
        if member_kind != FILE and size:
            message = "a %s with contents, which programs interpret differently"
            raise BadArchive(decode_name(name), message % member_kind)
        modified = (
            _parse_time(pax["mtime"]) if "mtime" in pax else float(_parse_signed(block[136:148]))
        )
        target = _parse_target(block, headers)
        mode = _parse_number(block[100:108]) & 0o7777
        return TarMember(name, member_kind, mode, modified, size, target)

    def _read_contents(self, member: TarMember) -> Iterator[bytes]:
        remaining = member.size
        while remaining:
            data = self._source.read_exactly(min(PIECE_BYTES, remaining))
            yield data
            remaining -= len(data)
        self._source.read_exactly(_round_up(member.size) - member.size)


def _check_not_sparse(name: bytes, kind: bytes, pax: Dict[str, bytes]) -> None:
    """Raise BadArchive for a sparse file in any of the formats of GNU tar."""
    if kind == _OLD_SPARSE_TYPE:
        sparse_format = "the old GNU format"
    elif not any(key.startswith(_PAX_SPARSE_PREFIX) for key in pax):
        return
    elif _PAX_SPARSE_PREFIX + "major" in pax:
        sparse_format = "pax format 1.0"
    else:
        sparse_format = "pax format 0.%d" % (_PAX_SPARSE_PREFIX + "map" in pax)
    raise BadArchive(
        decode_name(name), "a sparse file in %s of GNU tar: pack without --sparse" % sparse_format
    )


def _round_up(size: int) -> int:
    return (size + _BLOCK - 1) // _BLOCK * _BLOCK


def _verify_checksum(block: bytes) -> None:
    """Raise BadArchive if the checksum of a header is wrong; old programs sum signed bytes."""
    try:
        checksum = _parse_number(block[148:156])
    except BadArchive:
        checksum = -1
    rest = block[:148] + b" " * 8 + block[156:]
    total = sum(rest)
    if checksum != total and checksum != total - 256 * sum(byte > 127 for byte in rest):
        raise BadArchive("", "invalid header: wrong checksum")


def _parse_signed(field: bytes) -> int:
    """Parse a number of a header: octal digits, or binary (GNU) if it is too large for them."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        if field[0] == 0xFF:
            return value - (1 << bits)
        return value - (1 << (bits - 1))
    digits = field.strip(b" \0")
    if not digits:
        return 0
    digits = digits.split(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise BadArchive("", "invalid number in a header: %r" % field)
    return int(digits, 8)


def _parse_number(field: bytes) -> int:
    value = _parse_signed(field)
    if not 0 <= value < 1 << 63:
        raise BadArchive("", "number in a header out of range: %d" % value)
    return value


def _parse_decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > _MAX_DIGITS or int(text) >= 1 << 63:
        raise BadArchive("", "invalid number in an extended header: %r" % text[:80])
    return int(text)


def _parse_time(text: bytes) -> float:
    """Parse a time in seconds; an invalid one becomes 0."""
    try:
        return float(text.decode("ascii")) if len(text) < 64 else 0.0
    except ValueError:
        return 0.0


def _parse_name(block: bytes, headers: _ExtendedHeaders) -> bytes:
    pax = headers.pax or {}
    value = pax.get("GNU.sparse.name") or pax.get("path")
    if value is not None and headers.name is not None:
        raise BadArchive(decode_name(value), "two extended headers give it different names")
    if value is not None or headers.name is not None:
        return value if value is not None else (headers.name or b"")
    name = block[:100].split(b"\0")[0]
    prefix = block[345:500].split(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _parse_target(block: bytes, headers: _ExtendedHeaders) -> bytes:
    value = (headers.pax or {}).get("linkpath")
    if value is not None and headers.target is not None:
        raise BadArchive(decode_name(value), "two extended headers give it different targets")
    if value is not None:
        return value
    return headers.target if headers.target is not None else block[157:257].split(b"\0")[0]


def _parse_records(data: bytes) -> Dict[str, bytes]:
    """Return the records ``LENGTH KEY=VALUE`` of a pax header, without those of empty value."""
    records: Dict[str, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + _MAX_DIGITS)
        length = int(data[at:space]) if space > at and data[at:space].isdigit() else 0
        end = at + length
        if not at < space < end - 1 < len(data) or data[end - 1 : end] != b"\n":
            raise BadArchive("", "invalid extended header")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals:
            raise BadArchive("", "invalid extended header")
        records[decode_name(key)] = value
        at = end
    return {key: value for key, value in records.items() if value}


def _check_global_header(records: Dict[str, bytes]) -> None:
    for key in records:
        if key.startswith(_PER_MEMBER_KEYS):
            raise BadArchive("", "a global header sets %r for every member" % key)
