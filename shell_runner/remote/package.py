"""The result package: a zip of all that a job has left, written once and read with mistrust.

Owns its format: which bytes the same members make, and what a reader must have seen before
it believes any.  Must not know queues, jobs or hosts.
"""

import hashlib
import json
import os
import stat
import struct
import zlib
from typing import Any, BinaryIO, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from . import archive, zips
from .archive import PIECE, Account, BadArchive
from .landing import Landing, Looks, is_zeros, parts_of
from .model import Execution, execution_from_row

#: Version of the format; a reader refuses those that it does not know.
FORMAT = 1
MANIFEST = "manifest.json"
EXECUTIONS = "executions.jsonl"
INSTALL = "install.json"

#: Nothing in a package depends on clocks: 1980-01-01 00:00, the first date of zip.
_DATE, _TIME = 0x21, 0
_LEVEL = 6
#: More than what deflate makes of any member in a package: it is stored instead, so that
#: the reader's bound on what a package inflates to stops nothing that we wrote.
_RATIO = 200
#: Sizes and places from which on a member has the fields of zip64; deflate can add to a size.
_LARGE = 0xFFF00000
#: As many members, and the end of the zip has those fields too.
_MANY = 0xFFFF
_MAX32, _MAX16 = 0xFFFFFFFF, 0xFFFF
_ZIP64 = struct.Struct("<2H2Q")
_ZIP64_END = struct.Struct("<4sQ2H2L4Q4sLQL")


class Limits(NamedTuple):
    """What a package may ask of who reads it."""

    members: int = 250_000
    #: Bytes of all members.
    size: int = 64 << 30
    #: Bytes on the disk for each byte of the package, and bytes that it may take anyway.
    ratio: int = 250
    free: int = 256 << 20
    #: Bytes of the manifest, and of one row.
    manifest: int = 64 << 20
    row: int = 128 << 20
    #: Values in the manifest, or in one row.
    values: int = 4_000_000
    #: Bytes that ``read`` returns.
    read: int = 256 << 20


LIMITS = Limits()


class Member(NamedTuple):
    """What goes into a package: bytes, or a file on the disk."""

    name: str
    data: Optional[bytes] = None
    path: Optional[str] = None


class BadPackage(Exception):
    """A package is refused: ``member`` is to blame (empty: all of it), and ``why``."""

    def __init__(self, member: str, why: str) -> None:
        super().__init__(member, why)
        self.member = member
        self.why = why

    def __str__(self) -> str:
        return str(BadArchive(self.member, self.why))


def is_name(name: str) -> bool:
    """Whether a member can be called so."""
    try:
        return bool(_Names().add(name))
    except BadPackage:
        return False


def fits(text: str, share: int = 1) -> bool:
    """Whether a reader takes this JSON for a row (or for one of ``share`` parts of a manifest)."""
    size, values = (LIMITS.row, LIMITS.values) if share == 1 else (LIMITS.manifest, LIMITS.values)
    # With room for what is around it.
    return len(text) < size // share - 1024 and _count(text) < values // share - 1024


def execution_line(test: int, number: int, row: str) -> bytes:
    """A line of ``executions.jsonl``; ``row`` is the JSON of an Execution."""
    return b"[%d, %d, %s]\n" % (test, number, row.encode("utf-8"))


# Writing


def write(path: str, manifest: Dict[str, Any], members: Iterable[Member]) -> Tuple[str, int]:
    """Make the package ``path``; its SHA-256 in hex, and its bytes.

    The same manifest and members, in the same order, make the same bytes.  It is there
    whole or not at all.  ``manifest`` gets ``format`` and ``members``.
    """
    part = path + ".part"
    try:
        with open(part, "w+b") as file:
            os.fchmod(file.fileno(), 0o600)
            writer = _Writer(file)
            for member in members:
                writer.add(member)
            writer.finish(manifest)
            file.flush()
            os.fsync(file.fileno())
            found = _digest(file)
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.unlink(part)
        raise
    _sync_folder(os.path.dirname(os.path.abspath(path)))
    return found


def _digest(file: BinaryIO) -> Tuple[str, int]:
    seen, size = hashlib.sha256(), 0
    file.seek(0)
    while True:
        data = file.read(1 << 20)
        if not data:
            return seen.hexdigest(), size
        seen.update(data)
        size += len(data)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Row(NamedTuple):
    """A member that has been written."""

    name: bytes
    method: int
    crc: int
    packed: int
    size: int
    at: int
    digest: str
    wide: bool


class _Writer:
    """A zip in a file; headers are put right once their members are written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rows: List[_Row] = []
        self._names = _Names()

    def add(self, member: Member) -> None:
        if member.name == MANIFEST:
            raise BadPackage(member.name, "the manifest is written by itself")
        if len(self._rows) >= LIMITS.members - 1:
            raise BadPackage(member.name, "more than %d members" % LIMITS.members)
        self._add(member)

    def _add(self, member: Member) -> None:
        name = self._names.add(member.name)
        with _Contents(member) as contents:
            at = self._file.tell()
            wide = contents.size >= _LARGE
            method = zips.DEFLATED if contents.is_worth_it() else zips.STORED
            row = self._write(name, method, at, wide, contents)
            if row.packed * _RATIO < row.size and method == zips.DEFLATED:
                self._file.seek(at)
                self._file.truncate()
                row = self._write(name, zips.STORED, at, wide, contents)
        self._rows.append(row)

    def _write(self, name: bytes, method: int, at: int, wide: bool, contents: "_Contents") -> _Row:
        header = zips.LOCAL.size + len(name) + (_ZIP64.size if wide else 0)
        self._file.seek(at + header)
        seen, crc, size = hashlib.sha256(), 0, 0
        deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15) if method else None
        for piece in contents.pieces():
            seen.update(piece)
            crc = zlib.crc32(piece, crc)
            size += len(piece)
            if deflater:
                self._file.write(deflater.compress(piece))
            elif is_zeros(piece):
                self._file.seek(len(piece), os.SEEK_CUR)  # a hole: something always follows
            else:
                self._file.write(piece)
        if deflater:
            self._file.write(deflater.flush())
        end = self._file.tell()
        packed = end - at - header
        row = _Row(name, method, crc, packed, size, at, seen.hexdigest(), wide)
        self._file.seek(at)
        self._file.write(_local(row))
        self._file.seek(end)
        return row

    def finish(self, manifest: Dict[str, Any]) -> None:
        self._names.check_folders()
        rows = [
            {"name": archive.show(row.name), "sha256": row.digest, "size": row.size}
            for row in self._rows
        ]
        whole = dict(manifest, format=FORMAT, members=rows)
        text = json.dumps(whole, sort_keys=True, allow_nan=False)
        data = text.encode("ascii")
        if len(data) > LIMITS.manifest or _values(data) > LIMITS.values:
            raise BadPackage(
                MANIFEST, "more than who reads it would take: too many members or tests"
            )
        self._add(Member(MANIFEST, data))
        begin = self._file.tell()
        for row in self._rows:
            self._file.write(_central(row))
        self._file.write(_ends(len(self._rows), begin, self._file.tell() - begin))


class _Contents:
    """Bytes of a member, which can be read twice."""

    def __init__(self, member: Member) -> None:
        if (member.data is None) == (member.path is None):
            raise ValueError("%r: a member is bytes, or a file" % member.name)
        self._member = member
        self._file: Optional[BinaryIO] = None
        self.size = len(member.data or b"")

    def __enter__(self) -> "_Contents":
        if self._member.path is not None:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._file = open(os.open(self._member.path, flags), "rb")
            found = os.fstat(self._file.fileno())
            if not stat.S_ISREG(found.st_mode):
                self._file.close()
                raise BadPackage(self._member.name, "%s is no file" % self._member.path)
            self.size = found.st_size
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def pieces(self) -> Iterator[bytes]:
        """What was there when it was opened, and nothing that was added later."""
        if self._file is None:
            data = memoryview(self._member.data or b"")
            for at in range(0, len(data), PIECE):
                yield bytes(data[at : at + PIECE])
            return
        self._file.seek(0)
        left = self.size
        while left:
            piece = self._file.read(min(PIECE, left))
            if not piece:
                return
            left -= len(piece)
            yield piece

    def is_worth_it(self) -> bool:
        """Whether it shrinks: what is compressed already does not."""
        sample = next(self.pieces(), b"")
        return len(zlib.compress(sample, 1)) < 0.9 * len(sample)


def _flags(name: bytes) -> int:
    return zips.UTF8 if not name.isascii() and zips.is_utf8(name) else 0


def _version(wide: bool) -> int:
    return 45 if wide else 20


def _local(row: _Row) -> bytes:
    sizes = (_MAX32, _MAX32) if row.wide else (row.packed, row.size)
    extra = _ZIP64.pack(1, 16, row.size, row.packed) if row.wide else b""
    fixed = zips.LOCAL.pack(
        zips.LOCAL_MAGIC, _version(row.wide), _flags(row.name), row.method, _TIME, _DATE,
        row.crc, *sizes, len(row.name), len(extra)
    )  # fmt: skip
    return fixed + row.name + extra


def _central(row: _Row) -> bytes:
    wide = row.wide or row.at >= _LARGE
    sizes = (_MAX32, _MAX32) if wide else (row.packed, row.size)
    extra = struct.pack("<2H3Q", 1, 24, row.size, row.packed, row.at) if wide else b""
    fixed = zips.CENTRAL.pack(
        zips.CENTRAL_MAGIC, 45, 3, _version(wide), 0, _flags(row.name), row.method, _TIME, _DATE,
        row.crc, *sizes, len(row.name), len(extra), 0, 0, 0, 0o100644 << 16,
        _MAX32 if wide else row.at
    )  # fmt: skip
    return fixed + row.name + extra


def _ends(count: int, begin: int, size: int) -> bytes:
    wide = count >= _MANY or begin >= _LARGE or size >= _LARGE
    extra = b""
    if wide:
        extra = _ZIP64_END.pack(
            zips.END64_MAGIC, 44, 45, 45, 0, 0, count, count, size, begin,
            zips.FIND64_MAGIC, 0, begin + size, 1
        )  # fmt: skip
        count, begin, size = _MAX16, _MAX32, _MAX32
    return extra + zips.END.pack(zips.END_MAGIC, 0, 0, count, count, size, begin, 0)


# Reading


def open_package(path: str, limits: Limits = LIMITS) -> "Package":
    """The package in the file ``path``, after all of it was verified; raises BadPackage."""
    file = open(path, "rb")
    try:
        return Package(file, limits)
    except BadArchive as error:
        file.close()
        raise BadPackage(error.member, error.why) from None
    except BaseException:
        file.close()
        raise


class Package:
    """A package of which every byte has been compared with its manifest."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self._file = file
        self._limits = limits
        bounds = archive.Limits(limits.members, limits.size, limits.ratio, limits.free)
        self._bounds = bounds
        self._zip = zips.Zip(file, limits.members, bounds.names)
        self._entries = self._directory()
        #: What its ``manifest.json`` says.
        self.manifest = self._read_manifest()
        self._digests = self._compare()
        for name in self._digests:
            for _ in self._pieces(name):
                pass

    def __enter__(self) -> "Package":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """No member can be read any more."""
        self._file.close()

    def names(self) -> List[str]:
        """Members, in their order, without the manifest."""
        return [name for name in self._entries if name != MANIFEST]

    def size(self, name: str) -> int:
        """Bytes of a member."""
        return self._entry(name).size

    def read(self, name: str) -> bytes:
        """All of one member."""
        if self._entry(name).size > self._limits.read:
            words = "%d bytes are too many to read at once; extract the package"
            raise BadPackage(name, words % self._entry(name).size)
        return b"".join(self._pieces(name))

    def pieces(self, name: str) -> Iterator[bytes]:
        """All of one member, however large it is."""
        return self._pieces(name)

    def executions(self, name: str = EXECUTIONS) -> Iterator[Tuple[int, int, Execution]]:
        """Test, try and what happened, in this order; raises BadPackage."""
        last = (-1, 0)
        for number, line in enumerate(self._lines(name), 1):
            try:
                found = _execution(_parse(line, self._limits))
            except ValueError as error:
                raise BadPackage(name, "line %d: %s" % (number, error)) from None
            if found[:2] <= last:
                words = "line %d: try %d of test %d is out of order, or there twice"
                raise BadPackage(name, words % (number, found[1], found[0]))
            last = found[:2]
            yield found

    def install(self, name: str = INSTALL) -> Optional[Execution]:
        """What happened to the install command; None if there was none."""
        if name not in self._entries:
            return None
        try:
            return _restored(_parse(self.read(name), self._limits))
        except ValueError as error:
            raise BadPackage(name, str(error)) from None

    def extract(self, folder: str) -> None:
        """All members as files below ``folder``, which is empty or is made.

        Raises BadPackage, or OSError (a full disk); nothing of the package is left then.
        """
        made = not os.path.isdir(folder)
        os.makedirs(folder, exist_ok=True)
        if os.listdir(folder):
            raise FileExistsError("%s is not empty: nothing is extracted into it" % folder)
        try:
            self._land(folder)
        except BaseException:
            if made:
                os.rmdir(folder)
            raise

    def _land(self, folder: str) -> None:
        landing = Landing(folder, Account(self._bounds, os.fstat(self._file.fileno()).st_size))
        try:
            for name, entry in self._entries.items():
                landing.file(entry.raw, Looks(0o644, 0.0), entry.size, self._pieces(name))
            landing.finish()
        except BadArchive as error:
            landing.sweep()
            raise BadPackage(error.member, error.why) from None
        except BaseException:
            landing.sweep()
            raise

    def _directory(self) -> Dict[str, zips.Entry]:
        """Entries by name, once no number in them can be a lie that costs anything."""
        names, found, total = _Names(), {}, 0
        for entry in self._zip.entries():
            name = archive.show(entry.raw)
            names.add(name)
            total += entry.size
            if total > self._limits.size:
                raise BadPackage(name, "more than %d bytes in all" % self._limits.size)
            if entry.attributes >> 16 and not stat.S_ISREG(entry.attributes >> 16):
                raise BadPackage(name, "it is no regular file")
            found[name] = entry
        names.check_folders()
        self._zip.check()
        return found

    def _read_manifest(self) -> Dict[str, Any]:
        if MANIFEST not in self._entries:
            raise BadPackage("", "it has no %s" % MANIFEST)
        entry = self._entries[MANIFEST]
        if entry.size > self._limits.manifest:
            raise BadPackage(MANIFEST, "more than %d bytes" % self._limits.manifest)
        try:
            found = _parse(b"".join(self._zip.contents(entry)), self._limits)
        except ValueError as error:
            raise BadPackage(MANIFEST, str(error)) from None
        if not isinstance(found, dict) or not isinstance(found.get("members"), list):
            raise BadPackage(MANIFEST, "it does not say which members there are")
        if found.get("format") != FORMAT:
            words = "format %r; this version of nosejobs reads format %d"
            raise BadPackage(MANIFEST, words % (found.get("format"), FORMAT))
        return found

    def _compare(self) -> Dict[str, str]:
        """Digests by name; the members are those of the manifest, with their sizes."""
        digests: Dict[str, str] = {}
        for row in self.manifest["members"]:
            name, size, digest = _member_row(row)
            if name in digests or name == MANIFEST:
                raise BadPackage(name, "the manifest names it twice")
            if name not in self._entries:
                raise BadPackage(name, "the manifest names it, and it is not there")
            if self._entries[name].size != size:
                words = "the manifest says %d bytes, and it has %d"
                raise BadPackage(name, words % (size, self._entries[name].size))
            digests[name] = digest
        for name in self._entries:
            if name not in digests and name != MANIFEST:
                raise BadPackage(name, "the manifest does not name it")
        return digests

    def _entry(self, name: str) -> zips.Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise BadPackage(name, "there is no such member") from None

    def _pieces(self, name: str) -> Iterator[bytes]:
        """Contents; the file may have changed since it was opened, so they are verified anew."""
        seen = hashlib.sha256()
        try:
            for piece in self._zip.contents(self._entry(name)):
                seen.update(piece)
                yield piece
        except BadArchive as error:
            raise BadPackage(error.member, error.why) from None
        if name != MANIFEST and seen.hexdigest() != self._digests[name]:
            raise BadPackage(name, "its SHA-256 is not that of the manifest")

    def _lines(self, name: str) -> Iterator[bytes]:
        rest: List[bytes] = []
        size = 0
        for piece in self._pieces(name):
            *whole, last = piece.split(b"\n")
            for line in whole:
                yield b"".join([*rest, line])
                rest, size = [], 0
            rest.append(last)
            size += len(last)
            if size > self._limits.row:
                raise BadPackage(name, "a line of more than %d bytes" % self._limits.row)
        if size:
            raise BadPackage(name, "its last line has no end")


class _Names:
    """Names of members, each there once, and none of them a folder of another."""

    def __init__(self) -> None:
        self._seen: Dict[str, None] = {}
        self._account = Account(archive.Limits(depth=4096), 0)

    def add(self, name: str) -> bytes:
        """The name as bytes."""
        try:
            raw = name.encode("utf-8", "surrogateescape")
            parts = parts_of(raw, self._account)
        except UnicodeEncodeError:
            raise BadPackage(name, "its name is no text of a file system") from None
        except BadArchive as error:
            raise BadPackage(error.member, error.why) from None
        if b"/".join(parts) != raw:
            raise BadPackage(name, "its name could be written in another way")
        if name in self._seen:
            raise BadPackage(name, "this name is there twice")
        self._seen[name] = None
        return raw

    def check_folders(self) -> None:
        """What lies below a name comes right after it when ``/`` sorts before all else."""
        last = "/"
        for name in sorted(self._seen, key=lambda name: name.replace("/", "\0")):
            if name.startswith(last + "/"):
                raise BadPackage(last, "a file where the folder of %r would be" % name)
            last = name


def _member_row(row: Any) -> Tuple[str, int, str]:
    if not isinstance(row, dict):
        raise BadPackage(MANIFEST, "a member that is no table: %r" % str(row)[:80])
    name, size, digest = row.get("name"), row.get("size"), row.get("sha256")
    texts = isinstance(name, str) and isinstance(digest, str)
    if not texts or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise BadPackage(MANIFEST, "a member without name, size and sha256: %r" % str(row)[:80])
    return str(name), size, str(digest)


def _parse(text: bytes, limits: Limits) -> Any:
    """JSON of strangers; ValueError for what costs too much, and for numbers that are none."""
    if _values(text) > limits.values:
        raise ValueError("more than %d values" % limits.values)
    try:
        return json.loads(
            text.decode("utf-8"), parse_int=_integer, parse_float=_real, parse_constant=_constant
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _values(text: bytes) -> int:
    """As many as there are values in some JSON, or more."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _count(text: str) -> int:
    return text.count(",") + text.count("[") + text.count("{")


def _integer(text: str) -> int:
    if len(text) > 20:
        raise ValueError("a number of %d digits" % len(text))
    return int(text)


def _real(text: str) -> float:
    value = float(text) if len(text) < 400 else float("inf")
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number that is too large: %s" % text[:40])
    return value


def _constant(text: str) -> float:
    raise ValueError("a number that is none: %s" % text)


def _execution(row: Any) -> Tuple[int, int, Execution]:
    if not isinstance(row, list) or len(row) != 3:
        raise ValueError("not [test, try, execution]")
    test, number, values = row
    if type(test) is not int or type(number) is not int or test < 0 or number < 1:
        raise ValueError("no test and try: %r, %r" % (str(test)[:40], str(number)[:40]))
    return test, number, _restored(values)


def _restored(values: Any) -> Execution:
    if not isinstance(values, list):
        raise ValueError("not an execution: %r" % str(values)[:80])
    try:
        return execution_from_row(values)
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError("not an execution: %s" % error) from None
