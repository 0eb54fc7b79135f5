"""Reading tar archives as a stream: ustar, GNU and pax, without sparse files.

Owns the format and its bounds.  Must not write, nor judge names.

``tarfile`` does not do, though a reader that a project keeps for itself needs a reason:

- Until the patches of 2025 it never ends on a member of negative size (CVE-2025-8194), and a pax
  header that says it has 8 GiB is read into memory whole.  Hosts run any Python from 3.8 on.
- Its ``data_filter`` is missing before 3.8.17.

A client may run any program on a host (docs/security.md), so on a host this is robustness.  The
trust boundary that matters is the dispatcher, which unpacks what a host has sent.  The bounds are
in docs/design/0004-jobs.md.
"""

from typing import Dict, Iterator, NamedTuple, Optional, Tuple, TypeVar

from .decompress import Source
from .limits import PIECE, BadArchive, Limits, show

FILE, FOLDER, LINK, HARD_LINK = "file", "folder", "link", "hard link"
_BLOCK = 512
_ZEROS = bytes(_BLOCK)
#: A sparse file in the format of GNU tar that is older than pax.
_OLD_SPARSE = b"S"
#: Keys of pax headers that only sparse files have begin so.
_PAX_SPARSE = "GNU.sparse."
_KINDS = {
    b"0": FILE, b"\0": FILE, b"7": FILE, _OLD_SPARSE: FILE,
    b"1": HARD_LINK, b"2": LINK, b"5": FOLDER,
}  # fmt: skip
_REFUSED = {
    b"3": "a character device", b"4": "a block device", b"6": "a FIFO",
    b"D": "a folder of an incremental archive", b"M": "the rest of a file of another volume",
    b"N": "a list of names of an old tar",
}  # fmt: skip
#: What a global header may not say: it would be said of every member.
_OF_ONE = ("path", "linkpath", "size", "GNU.sparse")
#: Digits of a number in a pax record.
_DIGITS = 20

_T = TypeVar("_T")


class Member(NamedTuple):
    """What a header says of one member."""

    name: bytes
    kind: str
    mode: int
    modified: float
    #: Bytes of the file.
    size: int
    target: bytes


class _Extra:
    """What headers say of the member that comes next."""

    def __init__(self) -> None:
        self.name: Optional[bytes] = None
        self.target: Optional[bytes] = None
        self.pax: Optional[Dict[str, bytes]] = None

    def is_empty(self) -> bool:
        return self.name is None and self.target is None and self.pax is None


def is_tar(source: Source) -> bool:
    """Whether its first block is a header, or the end mark of an archive without members."""
    block = source.peek(_BLOCK)
    if len(block) < _BLOCK or block == _ZEROS:
        return len(block) == _BLOCK
    try:
        _check_sum(block)
        return True
    except BadArchive:
        return False


class Tar:
    """One archive, read once from its start to its end."""

    def __init__(self, source: Source, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self._last = ""

    def members(self) -> Iterator[Tuple[Member, Iterator[bytes]]]:
        """Each member, and its contents, which are to be read before the next one."""
        return self._named(self._members())

    def _named(self, found: "Iterator[_T]") -> "Iterator[_T]":
        """A refusal without a name is of the member that was read last."""
        try:
            yield from found
        except BadArchive as error:
            raise BadArchive(error.member or self._last, error.why) from None

    def _members(self) -> Iterator[Tuple[Member, Iterator[bytes]]]:
        extra = _Extra()
        while True:
            block = self._source.exactly(_BLOCK)
            if block == _ZEROS:
                break
            _check_sum(block)
            kind = block[156:157]
            if kind in b"xXgLK":
                self._read_extra(kind, block, extra)
                continue
            if kind == b"V":  # the label of a volume
                continue
            member = self._member(kind, block, extra)
            self._last = show(member.name)
            pieces = self._named(self._pieces(member))
            yield member, pieces
            for _ in pieces:
                pass
            extra = _Extra()
        if not extra.is_empty():
            raise BadArchive("", "it ends after an extended header: it was cut")
        self._end()

    def _end(self) -> None:
        """Nothing but zeros; all is read, because checksums of compressed data come last."""
        while True:
            data = self._source.read(PIECE)
            if not data:
                return
            if data.strip(b"\0"):
                raise BadArchive("", "data follows the end of the archive")

    def _read_extra(self, kind: bytes, block: bytes, extra: _Extra) -> None:
        size = _number(block[124:136])
        if size > self._limits.header:
            raise BadArchive(self._last, "an extended header of %d bytes follows it" % size)
        data = self._source.exactly(_padded(size))[:size]
        if kind == b"g":
            _check_global(_records(data))
        elif kind in b"xX":
            if extra.pax is not None:
                raise BadArchive(self._last, "two extended headers for one member follow it")
            extra.pax = _records(data)
        elif (extra.name if kind == b"L" else extra.target) is not None:
            raise BadArchive(self._last, "two long names for one member follow it")
        elif kind == b"L":
            extra.name = data.rstrip(b"\0")
        else:
            extra.target = data.rstrip(b"\0")

    def _member(self, kind: bytes, block: bytes, extra: _Extra) -> Member:
        name = _name(block, extra)
        self._last = show(name)
        if kind in _REFUSED:
            raise BadArchive(show(name), "%s; only files, folders and links" % _REFUSED[kind])
        if kind not in _KINDS:
            raise BadArchive(show(name), "a kind of member that nobody knows: %r" % kind)
        pax = extra.pax or {}
        _check_not_sparse(name, kind, pax)
        size = _decimal(pax["size"]) if "size" in pax else _number(block[124:136])
        what = _KINDS[kind]
        if what == FILE and name.endswith(b"/"):
            what = FOLDER
        if what != FILE and size:
            words = "a %s with contents: what reads it disagrees on what they are"
            raise BadArchive(show(name), words % what)
        modified = _date(pax["mtime"]) if "mtime" in pax else float(_signed(block[136:148]))
        target = _target(block, extra)
        mode = _number(block[100:108]) & 0o7777
        return Member(name, what, mode, modified, size, target)

    def _pieces(self, member: Member) -> Iterator[bytes]:
        left = member.size
        while left:
            data = self._source.exactly(min(PIECE, left))
            yield data
            left -= len(data)
        self._source.exactly(_padded(member.size) - member.size)


def _check_not_sparse(name: bytes, kind: bytes, pax: Dict[str, bytes]) -> None:
    """Raise BadArchive for a file with holes, in any of the formats of GNU tar."""
    if kind == _OLD_SPARSE:
        form = "the old GNU format"
    elif not any(key.startswith(_PAX_SPARSE) for key in pax):
        return
    elif _PAX_SPARSE + "major" in pax:
        form = "pax format 1.0"
    else:
        form = "pax format 0.%d" % (_PAX_SPARSE + "map" in pax)
    raise BadArchive(show(name), "a sparse file in %s of GNU tar: pack without --sparse" % form)


def _padded(size: int) -> int:
    return (size + _BLOCK - 1) // _BLOCK * _BLOCK


def _check_sum(block: bytes) -> None:
    """The sum of a header's bytes; old programs took them as signed."""
    try:
        said = _number(block[148:156])
    except BadArchive:
        said = -1
    rest = block[:148] + b" " * 8 + block[156:]
    total = sum(rest)
    if said not in (total, total - 256 * sum(byte > 127 for byte in rest)):
        raise BadArchive("", "no header of a member where one should be")


def _signed(field: bytes) -> int:
    """A number of a header: octal digits, or binary for those that are too large."""
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
        raise BadArchive("", "a number in a header that is none: %r" % field)
    return int(digits, 8)


def _number(field: bytes) -> int:
    value = _signed(field)
    if not 0 <= value < 1 << 63:
        raise BadArchive("", "a number in a header that cannot be: %d" % value)
    return value


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > _DIGITS or int(text) >= 1 << 63:
        raise BadArchive("", "a number in an extended header that is none: %r" % text[:80])
    return int(text)


def _date(text: bytes) -> float:
    """Seconds; dates that cannot be are none."""
    try:
        return float(text.decode("ascii")) if len(text) < 64 else 0.0
    except ValueError:
        return 0.0


def _name(block: bytes, extra: _Extra) -> bytes:
    pax = extra.pax or {}
    said = pax.get("GNU.sparse.name") or pax.get("path")
    if said is not None and extra.name is not None:
        raise BadArchive(show(said), "two extended headers give it different names")
    if said is not None or extra.name is not None:
        return said if said is not None else (extra.name or b"")
    name = block[:100].split(b"\0")[0]
    prefix = block[345:500].split(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _target(block: bytes, extra: _Extra) -> bytes:
    said = (extra.pax or {}).get("linkpath")
    if said is not None and extra.target is not None:
        raise BadArchive(show(said), "two extended headers give it different targets")
    if said is not None:
        return said
    return extra.target if extra.target is not None else block[157:257].split(b"\0")[0]


def _records(data: bytes) -> Dict[str, bytes]:
    """Return the records ``LENGTH KEY=VALUE`` of a pax header but those with an empty value."""
    found: Dict[str, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + _DIGITS)
        length = int(data[at:space]) if space > at and data[at:space].isdigit() else 0
        end = at + length
        if not space + 1 < end <= len(data) or data[end - 1 : end] != b"\n":
            raise BadArchive("", "an extended header that cannot be read")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals:
            raise BadArchive("", "an extended header that cannot be read")
        found[show(key)] = value
        at = end
    return {key: value for key, value in found.items() if value}


def _check_global(records: Dict[str, bytes]) -> None:
    for key in records:
        if key.startswith(_OF_ONE):
            raise BadArchive("", "a global header says %r of every member" % key)
