"""Which files of a tree go to a host, and sending those that it lacks.

Owns the manifest and the order of the exchange.  Must not know gateways beyond
"send this frame" and "give me the next message".
"""

from __future__ import annotations

import concurrent.futures
import fnmatch
import hashlib
import itertools
import os
import re
import stat
import subprocess
import time
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import scans
from .errors import UsageError
from .remote import contents, wire
from .remote.copying import IGNORED_FOLDERS
from .remote.manifest import FILE, LINK, BadEntry, Entry, check
from .remote.upkeep import LIMIT

#: Never shipped unless a pattern of the user names them.
SECRETS = (
    ".env", ".env.*", ".envrc", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", ".pgpass", ".htpasswd",
    ".npmrc", ".pypirc", "credentials", "credentials.json", ".git-credentials", "*.kdbx",
    "*.gpg", "*.asc",
)  # fmt: skip
#: Bytes of file contents in one frame.
_FRAME = 1 << 20
#: Entries in one part of a manifest, more or less.
_PART = 256
#: Small files in one frame, at most.
_MANY = 2000
#: Bytes of a file from which on a thread of its own hashes it.
_LARGE = 1 << 20
#: Bytes of a file that is read in one piece.
_SMALL = 1 << 16

#: Told of what takes long: bytes that are done, and of how many.
Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Selection:
    """What the user wants shipped beyond the rules."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tree:
    """A tree as it is shipped."""

    root: Path
    entries: tuple[Entry, ...]
    #: What stays here although it is part of the tree, each with the reason.
    left: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries)


def scan(
    root: Path,
    tests: Iterable[str],
    selection: Selection = Selection(),
    progress: Progress = _silent,
    whole: bool = False,
) -> Tree:
    """The manifest of the tree at ``root``; ``tests`` are relative paths that go in any case.

    ``whole``: it is no source tree; git, and which folders are usually ignored, mean nothing.
    """
    listed = None if whole else _git_files(root)
    paths = set(_walk(root, () if whole else IGNORED_FOLDERS) if listed is None else listed)
    named = set(_included(root, selection.include))
    is_secret, is_excluded = _matcher(SECRETS, re.IGNORECASE), _matcher(selection.exclude)
    secrets = {path for path in paths - named if is_secret(path)}
    wanted = (paths | named) - secrets
    wanted = {path for path in wanted if not is_excluded(path)} | set(tests)
    found = _entries(root, sorted(wanted), named, progress)
    entries = tuple(each for each in found if isinstance(each, Entry))
    left = [f"{path}: looks like a secret" for path in sorted(secrets)]
    return Tree(root, entries, (*left, *(each for each in found if isinstance(each, str))))


def archive(path: Path) -> Tree:
    """An archive as a tree of one file; raises UsageError."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise _cannot_ship(os.fspath(path), error) from error
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"cannot ship {path}: neither a folder nor a file")
    digest, size = _digest(os.fspath(path), _Count(found.st_size, _silent)) or ("", 0)
    return Tree(path.parent, (check(Entry(path.name, FILE, 0o644, digest, size)),))


def _git_files(root: Path) -> list[str] | None:
    """What git tracks or would track below ``root``; None where git cannot tell."""
    command = ["git", "-C", os.fspath(root), "ls-files", "-z", "-co", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def _walk(root: Path, ignored: Container[str] = IGNORED_FOLDERS) -> Iterator[str]:
    start = len(os.path.join(root, ""))
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in ignored]
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in [*files, *links]:
            yield os.path.join(folder, name)[start:]


def _included(root: Path, patterns: Sequence[str]) -> Iterator[str]:
    """What is named may be in a folder that is ignored otherwise."""
    if patterns:
        is_included = _matcher(patterns)
        yield from (path for path in _walk(root, (".git",)) if is_included(path))


def _matcher(patterns: Sequence[str], flags: int = 0) -> Callable[[str], bool]:
    """Whether a path matches one of the patterns, which read like those of .gitignore.

    One without a slash, but for a last one, is for any part of the path; another one for
    the path from the root on, or for a folder that it is in.
    """
    plain = [pattern.removesuffix("/") for pattern in patterns if "/" not in pattern[:-1]]
    rooted = [pattern.removeprefix("./").strip("/") for pattern in patterns if "/" in pattern[:-1]]
    is_part, is_path = _compiled(plain, flags), _compiled(rooted, flags)

    def matches(path: str) -> bool:
        parts = path.split("/")
        return any(map(is_part, parts)) or (bool(rooted) and any(map(is_path, _heads(parts))))

    return matches if patterns else lambda path: False


def _heads(parts: Sequence[str]) -> Iterator[str]:
    """``a``, ``a/b``, ``a/b/c``."""
    return itertools.accumulate(parts, "{}/{}".format)


def _compiled(patterns: Sequence[str], flags: int) -> Callable[[str], re.Match[str] | None]:
    return re.compile("|".join(map(fnmatch.translate, patterns)) or r"(?!)", flags).match


#: A link, why something stays here, None for what is no file, or what ``stat`` says of a file.
_Found = Entry | str | os.stat_result | None


def _entries(
    root: Path, paths: list[str], named: set[str], progress: Progress
) -> list[Entry | str | None]:
    """Entries, why something stays here, None for what is no file."""
    began, prefix = time.time_ns(), os.path.join(root, "")
    found = {path: _find(root, prefix + path, path, path in named) for path in paths}
    files = {path: each for path, each in found.items() if isinstance(each, os.stat_result)}
    read = _read(root, files, progress, began)
    return [_entry(path, each, read) for path, each in found.items()]


def _read(
    root: Path, files: Mapping[str, os.stat_result], progress: Progress, began: int
) -> dict[str, tuple[str, int]]:
    """Digest and size of each file; only those that have changed since the last scan are read."""
    known, looks = scans.load(root), {path: scans.look(found) for path, found in files.items()}
    seen = {path: known[path] for path, now in looks.items() if known.get(path, [0])[0] == now}
    read = {path: (digest, now[0]) for path, (now, digest) in seen.items()}
    fresh = {path: found for path, found in files.items() if path not in seen}
    for path, digest, size in _digests(os.path.join(root, ""), fresh, progress):
        seen[path], read[path] = (looks[path], digest), (digest, size)
    if fresh or len(seen) < len(known):
        scans.save(root, seen, began)
    else:
        scans.touch(root)
    return read


def _entry(path: str, found: _Found, read: Mapping[str, tuple[str, int]]) -> Entry | str | None:
    if not isinstance(found, os.stat_result):
        return found
    if path not in read:
        return None  # it is gone again
    digest, size = read[path]
    return check(Entry(path, FILE, stat.S_IMODE(found.st_mode), digest, size))


def _find(root: Path, full: str, path: str, named: bool) -> _Found:
    """None for what is no file: a submodule, a socket, or gone; a text for what stays here."""
    try:
        found = os.lstat(full)
        if stat.S_ISLNK(found.st_mode):
            link = Entry(path, LINK, 0, os.readlink(full))
            if _is_inside(root, full, link):
                return link
            # A link out of the tree would dangle there: its target goes instead.
            found = os.stat(full)
            if stat.S_ISDIR(found.st_mode):
                return f"{path}: a link to a folder outside of the tree"
            if not named and _matcher(SECRETS, re.IGNORECASE)(os.path.realpath(full)):
                return f"{path}: a link to what looks like a secret"
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot_ship(full, error) from error
    return found if stat.S_ISREG(found.st_mode) else None


def _cannot_ship(full: str, error: OSError) -> UsageError:
    return UsageError(f"cannot ship {full}: {error.strerror}")


class _Count:
    """Bytes that have been read, by several threads: close enough for a person."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.done = 0
        self._total, self._progress = total, progress

    def tell(self) -> None:
        self._progress(self.done, self._total)


def _digests(
    prefix: str, files: Mapping[str, os.stat_result], progress: Progress
) -> Iterator[tuple[str, str, int]]:
    """Large files at once, for to hash them needs no interpreter; small ones one by one."""
    count = _Count(sum(found.st_size for found in files.values()), progress)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        large = {
            path: pool.submit(_digest, prefix + path, count)
            for path, found in files.items()
            if found.st_size >= _LARGE
        }
        for number, path in enumerate(path for path in files if path not in large):
            digest = _digest(prefix + path, count)
            if digest is not None:
                yield path, *digest
            if number % 256 == 255:
                count.tell()
        for path, future in large.items():
            while future not in concurrent.futures.wait([future], 0.5).done:
                count.tell()
            digest = future.result()
            if digest is not None:
                yield path, *digest


def _digest(full: str, count: _Count) -> tuple[str, int] | None:
    """SHA-256 in hex, and how many bytes it is of; None if the file is gone."""
    try:
        with open(full, "rb", buffering=0) as file:
            data = file.read(_SMALL) or b""
            seen, size = hashlib.sha256(data), len(data)
            count.done += size
            while size >= _SMALL and data:
                data = file.read(_FRAME) or b""
                seen.update(data)
                size += len(data)
                count.done += len(data)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot_ship(full, error) from error
    return seen.hexdigest(), size


def _is_inside(root: Path, full: str, link: Entry) -> bool:
    try:
        check(link)
    except BadEntry:
        return False
    return Path(os.path.realpath(full)).is_relative_to(os.path.realpath(root))


# -- sending ----------------------------------------------------------------------

Send = Callable[[bytes], None]
#: Waits for the message with this name; its arguments.
Await = Callable[[str], list[Any]]


@dataclass(frozen=True)
class Shipped:
    """What an exchange came to."""

    root: str
    #: Files that were sent, in whole or in part.
    files: int
    #: Bytes of them, as they are on the disk.
    bytes: int
    #: Bytes of all frames that were sent.
    wire: int = 0


@dataclass
class _Need:
    """What a host lacks of a tree: entries by their number in the manifest."""

    entries: dict[int, Entry]
    #: How much of a file is there already.
    offsets: dict[int, int]

    @property
    def size(self) -> int:
        """Bytes that are to be sent."""
        return sum(entry.size for entry in self.entries.values()) - sum(self.offsets.values())

    @property
    def large(self) -> bool:
        """Something comes in pieces."""
        return any(entry.size >= _FRAME for entry in self.entries.values())


def _manifest(entries: Sequence[Entry]) -> list[bytes]:
    """In parts, the first of which lists the others: a changed file leaves most as they were."""
    parts: list[bytes] = []
    rows: list[Entry] = []
    for entry in entries:
        rows.append(entry)
        # A name ends a part, not a number: one more file moves no border.
        if not zlib.crc32(os.fsencode(entry.path)) % _PART:
            parts.append(wire.encode(rows))
            rows = []
    parts.append(wire.encode(rows))
    return [wire.encode([[_sha256(part), len(part)] for part in parts]), *parts]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Exchange:
    """What has been sent to one host, and of how much."""

    def __init__(
        self, tree: Tree, send: Send, await_message: Await, progress: Progress = _silent
    ) -> None:
        self.tree = tree
        self.wire = self.done = self.total = 0
        self._send, self._await, self._progress = send, await_message, progress
        self._manifest = _manifest(tree.entries)

    @property
    def manifest(self) -> tuple[str, int]:
        """Digest and size of its first part: the name of the whole tree."""
        return _sha256(self._manifest[0]), len(self._manifest[0])

    def ask(self) -> _Need:
        """What the host lacks; parts of the manifest that it has not seen go there first."""
        answer = self._ask()
        for _ in range(2):  # the list of its parts, then those
            if answer[:1] == [None]:
                self._send_manifest(answer)
                answer = self._ask()
        return _need(self.tree.entries, answer)

    def _ask(self) -> list[Any]:
        part = self._manifest[0]
        self._say("tree", _sha256(part), len(part))
        return self._await("missing")

    def _send_manifest(self, answer: list[Any]) -> None:
        """To the host its parts are files like any other."""
        try:
            parts = [self._manifest[number] for number in set(answer[1])]
        except (TypeError, IndexError) as error:
            raise ValueError(f"the host asks for no part of the manifest: {error}") from error
        for data in parts:
            digest = _sha256(data)
            for at in range(0, len(data), _FRAME):
                last = at + _FRAME >= len(data)
                self._blob("piece", data[at : at + _FRAME], digest, at, last)

    def unpack(self, limit: int) -> str:
        """Let the host make the tree; its root there."""
        self._tell(0)
        self._say("unpack", limit)
        (root,) = self._await("unpacked")
        return str(root)

    def _say(self, *message: Any) -> None:
        self._send_frame(wire.pack([list(message)]))

    def _send_frame(self, frame: bytes) -> None:
        """Waits while the connection is full: nothing piles up here."""
        self._send(frame)
        self.wire += len(frame)

    def _blob(self, kind: str, data: bytes, *more: Any) -> None:
        encoding, body = contents.encode(data)
        self._send_frame(wire.pack_blob([kind, encoding, len(data), *more], body))

    def files(self, need: _Need) -> None:
        """Small files share a frame, large ones go in pieces."""
        self.total += need.size
        self._tell(0)
        numbers: list[int] = []
        body = bytearray()
        for number, entry in need.entries.items():
            if entry.size >= _FRAME:
                self._large(entry, need.offsets.get(number, 0))
                continue
            if len(body) + entry.size > _FRAME or len(numbers) >= _MANY:
                self._small(numbers, bytes(body))
                numbers, body = [], bytearray()
            body += _read_small(self.tree.root, entry)
            numbers.append(number)
        if numbers:
            self._small(numbers, bytes(body))

    def _small(self, numbers: list[int], body: bytes) -> None:
        self._blob("files", body, numbers)
        self._tell(len(body))

    def _large(self, entry: Entry, offset: int) -> None:
        """As it was scanned, even if it has grown; the host goes by its digest."""
        with open(self.tree.root / entry.path, "rb", buffering=0) as file:
            file.seek(offset)
            while True:
                data = file.read(min(_FRAME, entry.size - offset)) or b""
                last = offset + len(data) >= entry.size or not data
                self._blob("piece", data, entry.digest, offset, last)
                offset += len(data)
                self._tell(len(data))
                if last:
                    return

    def _tell(self, size: int) -> None:
        self.done += size
        self._progress(self.done, self.total)


def ship(
    tree: Tree,
    send: Send,
    await_message: Await,
    limit: int = LIMIT,
    progress: Progress = _silent,
) -> Shipped:
    """Bring a tree to a host: manifest, what is missing, contents, unpack.

    ``limit``: bytes that the host may keep for later runs.
    """
    exchange = _Exchange(tree, send, await_message, progress)
    files = _bring(exchange)
    root = exchange.unpack(limit)
    return Shipped(root, files, exchange.done, exchange.wire)


@dataclass(frozen=True)
class Brought:
    """A tree whose contents are all on a host."""

    #: Of the first part of its manifest.
    digest: str
    size: int
    #: Files that were sent, in whole or in part.
    files: int
    #: Bytes of all frames that were sent.
    wire: int


def named(tree: Tree) -> tuple[str, int]:
    """What a whole tree is called: digest and size of the first part of its manifest."""
    first = _manifest(tree.entries)[0]
    return _sha256(first), len(first)


def bring(
    tree: Tree, send: Send, await_message: Await, progress: Progress = _silent
) -> Brought:
    """The same without unpacking: for who unpacks it later, by the digest of its manifest."""
    exchange = _Exchange(tree, send, await_message, progress)
    files = _bring(exchange)
    digest, size = exchange.manifest
    return Brought(digest, size, files, exchange.wire)


def _bring(exchange: _Exchange) -> int:
    """Manifest, what is missing, contents; how many files were sent."""
    need = exchange.ask()
    exchange.files(need)
    if need.large:
        _make_sure(exchange)
    return len(need.entries)


def _make_sure(exchange: _Exchange) -> None:
    """What came over two connections is another file if it, or the host's disk, has changed."""
    again = exchange.ask()
    exchange.files(again)
    changed = exchange.ask().entries if again.entries else {}
    for entry in changed.values():
        raise _changed(exchange.tree.root, entry)


def _need(entries: Sequence[Entry], answer: list[Any]) -> _Need:
    """A host's answer, of which nothing is believed; ValueError."""
    try:
        (numbers, rows) = answer if len(answer) == 2 else (None, [])
        found = {number: entries[number] for number in numbers if number >= 0}
        offsets = {number: offset for number, offset in rows if number in found}
        if any(entry.kind != FILE for entry in found.values()):
            raise ValueError("the host asks for a link")
        if not all(0 <= offset <= found[number].size for number, offset in offsets.items()):
            raise ValueError("the host asks for the rest of a file from beyond its end")
    except (TypeError, IndexError) as error:
        raise ValueError(f"the host does not say which files it lacks: {error}") from error
    return _Need(found, offsets)


def _read_small(root: Path, entry: Entry) -> bytes:
    """As it was scanned: a log that has grown since (our own output, perhaps) does no harm."""
    with open(os.path.join(root, entry.path), "rb", buffering=0) as file:
        data = file.read(entry.size) or b""
    if _sha256(data) != entry.digest:
        raise _changed(root, entry)
    return data


def _changed(root: Path, entry: Entry) -> UsageError:
    """Or ``stat`` has told us wrong: the next scan reads all."""
    scans.forget(root)
    return UsageError(f"{entry.path} was changed while it was being shipped")
