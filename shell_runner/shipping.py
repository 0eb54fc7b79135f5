"""Which files of a tree go to a host, and sending those that it lacks.

Owns the manifest and the order of the exchange.  Must not know gateways beyond
"send this frame" and "give me the next message".
"""

from __future__ import annotations

import concurrent.futures
import fnmatch
import hashlib
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UsageError
from .remote import wire
from .remote.copying import IGNORED_FOLDERS
from .remote.store import FILE, LINK, BadEntry, Entry, check

#: Never shipped unless a pattern of the user names them.
SECRETS = (
    ".env", ".env.*", ".envrc", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", ".pgpass", ".htpasswd",
    ".npmrc", ".pypirc", "credentials", "credentials.json", "*.kdbx", "*.gpg", "*.asc",
)  # fmt: skip
#: Bytes of file contents in one frame.
_FRAME = 1 << 20
#: Bytes of a file from which on a thread of its own hashes it.
_LARGE = 1 << 20
#: Bytes of a file that is read in one piece.
_SMALL = 1 << 16


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


def scan(root: Path, tests: Iterable[str], selection: Selection = Selection()) -> Tree:
    """The manifest of the tree at ``root``; ``tests`` are relative paths that go in any case."""
    listed = _git_files(root)
    paths = set(_walk(root) if listed is None else listed)
    named = set(_included(root, selection.include))
    is_secret, is_excluded = _matcher(SECRETS), _matcher(selection.exclude)
    secrets = {path for path in paths - named if is_secret(path)}
    wanted = (paths | named) - secrets
    wanted = {path for path in wanted if not is_excluded(path)} | set(tests)
    found = list(_entries(root, sorted(wanted), named))
    entries = tuple(each for each in found if isinstance(each, Entry))
    left = [f"{path}: looks like a secret" for path in sorted(secrets)]
    return Tree(root, entries, (*left, *(each for each in found if isinstance(each, str))))


def _git_files(root: Path) -> list[str] | None:
    """What git tracks or would track below ``root``; None where git cannot tell."""
    command = ["git", "-C", os.fspath(root), "ls-files", "-z", "-co", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def _walk(root: Path) -> Iterator[str]:
    start = len(os.path.join(root, ""))
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in IGNORED_FOLDERS]
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in [*files, *links]:
            yield os.path.join(folder, name)[start:]


def _included(root: Path, patterns: Sequence[str]) -> Iterator[str]:
    if patterns:
        is_included = _matcher(patterns)
        yield from (path for path in _walk(root) if is_included(path))


def _matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path matches: a pattern with a slash the path, one without any part of it."""
    whole = _compiled([pattern.strip("/") for pattern in patterns])
    parts = _compiled([pattern for pattern in patterns if "/" not in pattern])

    def matches(path: str) -> bool:
        return bool(whole(path)) or any(map(parts, path.split("/")))

    return matches if patterns else lambda path: False


def _compiled(patterns: Sequence[str]) -> Callable[[str], re.Match[str] | None]:
    return re.compile("|".join(map(fnmatch.translate, patterns)) or r"(?!)").match


def _entries(root: Path, paths: list[str], named: set[str]) -> Iterator[Entry | str | None]:
    """Large files at once, for to hash them needs no interpreter; small ones one by one."""
    prefix = os.path.join(root, "")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        large = {
            path: pool.submit(_entry, root, prefix, path, path in named)
            for path in paths
            if _is_large(prefix + path)
        }
        for path in paths:
            if path in large:
                yield large[path].result()
            else:
                yield _entry(root, prefix, path, path in named)


def _is_large(full: str) -> bool:
    try:
        return os.stat(full).st_size >= _LARGE
    except OSError:
        return False


def _entry(root: Path, prefix: str, path: str, named: bool) -> Entry | str | None:
    """None for what is no file: a submodule, a socket, or gone; a text for what stays here."""
    full = prefix + path
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
            if not named and _matcher(SECRETS)(os.path.realpath(full)):
                return f"{path}: a link to what looks like a secret"
        if not stat.S_ISREG(found.st_mode):
            return None
        digest, size = _digest(full)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"cannot ship {full}: {error.strerror}") from error
    return check(Entry(path, FILE, stat.S_IMODE(found.st_mode), digest, size))


def _digest(full: str) -> tuple[str, int]:
    """SHA-256 in hex, and how many bytes it is of."""
    with open(full, "rb", buffering=0) as file:
        data = file.read(_SMALL) or b""
        if len(data) < _SMALL:
            return hashlib.sha256(data).hexdigest(), len(data)
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


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
    files: int
    bytes: int


def ship(tree: Tree, send: Send, await_message: Await) -> Shipped:
    """Bring a tree to a host: manifest, what is missing, contents, unpack."""
    rows = list(tree.entries)
    for start in range(0, len(rows), 2000):
        send(wire.pack([["entries", rows[start : start + 2000]]]))
    send(wire.pack([["tree"]]))
    (missing,) = await_message("missing")
    sent = _send_contents(tree, set(missing), send)
    send(wire.pack([["unpack"]]))
    (root,) = await_message("unpacked")
    return Shipped(root, len(missing), sent)


def _send_contents(tree: Tree, missing: set[str], send: Send) -> int:
    """Small files share a frame, large ones go in pieces."""
    sent, header, body = 0, [], bytearray()
    for entry in tree.entries:
        if entry.kind != FILE or entry.digest not in missing:
            continue
        missing.discard(entry.digest)
        sent += entry.size
        if entry.size >= _FRAME:
            _send_large(tree.root, entry, send)
            continue
        data = _read_small(tree.root, entry)
        header.append([entry.digest, len(data)])
        body += data
        if len(body) >= _FRAME:
            send(wire.pack_blob(header, bytes(body)))
            header, body = [], bytearray()
    if header:
        send(wire.pack_blob(header, bytes(body)))
    return sent


def _read_small(root: Path, entry: Entry) -> bytes:
    """As it was scanned: a log that has grown since (our own output, perhaps) does no harm."""
    with open(os.path.join(root, entry.path), "rb", buffering=0) as file:
        data = file.read(entry.size) or b""
    if hashlib.sha256(data).hexdigest() != entry.digest:
        raise UsageError(f"{entry.path} was changed while it was being shipped")
    return data


def _send_large(root: Path, entry: Entry, send: Send) -> None:
    with open(root / entry.path, "rb") as file:
        left = entry.size - _FRAME
        data = file.read(_FRAME)
        while data:
            following = file.read(min(_FRAME, left))
            left -= len(following)
            send(wire.pack_blob([entry.digest, not following], data))
            data = following
