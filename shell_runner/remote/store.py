"""The files of a host: contents by digest, and the trees made of them.

Owns the cache folder and what is unpacked from it.  Must not know where files come
from.  Nothing that a manifest names can lead out of the tree that is made of it.
"""

import fcntl
import hashlib
import os
import tempfile
import time
from typing import Any, Iterable, List, NamedTuple, Set

from . import place

FILE = "f"
LINK = "l"


class Entry(NamedTuple):
    """One file or symbolic link of a tree."""

    path: str
    kind: str
    #: Permission bits; 0 for a link.
    mode: int
    #: SHA-256 of the contents in hex; for a link, what it points to.
    digest: str
    size: int = 0


class BadEntry(ValueError):
    """A manifest names a path that leads out of its tree."""


def check(entry: Entry) -> Entry:
    """The entry, if it stays inside its tree; else BadEntry."""
    parts = entry.path.split("/")
    if not entry.path or entry.path.startswith("/") or {"", ".", ".."} & set(parts):
        raise BadEntry("path leads out of the tree: %r" % entry.path)
    if "\0" in entry.path:
        raise BadEntry("path holds a NUL: %r" % entry.path)
    if entry.kind == LINK and not _stays_inside(parts[:-1], entry.digest):
        raise BadEntry("link leads out of the tree: %r -> %r" % (entry.path, entry.digest))
    if entry.kind not in (FILE, LINK):
        raise BadEntry("neither file nor link: %r" % entry.path)
    if entry.kind == FILE and (len(entry.digest) != 64 or not entry.digest.isalnum()):
        raise BadEntry("not a digest: %r" % entry.digest)
    return entry


def _stays_inside(folder: List[str], target: str) -> bool:
    if target.startswith("/") or "\0" in target:
        return False
    here = list(folder)
    for part in target.split("/"):
        if part == "..":
            if not here:
                return False
            here.pop()
        elif part not in ("", "."):
            here.append(part)
    return True


def cache_folder() -> str:
    """Where a host keeps what lasts between sessions: XDG_CACHE_HOME, else ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(base):
        base = os.path.join(tempfile.gettempdir(), "nosejobs-%d" % os.getuid())
    return os.path.join(base, "nosejobs")


class Store:
    """File contents by digest, below ``folder``."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.join(folder, "blobs")
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        self._partial: "dict[str, Any]" = {}

    def _path(self, digest: str) -> str:
        return os.path.join(self.folder, digest[:2], digest[2:])

    def missing(self, entries: Iterable[Entry]) -> List[str]:
        """The digests that are not here, each once."""
        wanted: Set[str] = {entry.digest for entry in entries if entry.kind == FILE}
        return sorted(digest for digest in wanted if not os.path.exists(self._path(digest)))

    def add(self, digest: str, data: bytes) -> None:
        """Keep a whole file; ValueError if the bytes are not those of the digest."""
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError("contents do not have the digest %s" % digest)
        path = self._path(digest)
        temporary = "%s.%d" % (path, os.getpid())
        try:
            file = open(temporary, "wb", buffering=0)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            file = open(temporary, "wb", buffering=0)
        with file:
            _write(file.fileno(), data)
        os.replace(temporary, path)

    def append(self, digest: str, data: bytes, last: bool) -> None:
        """The next piece of a large file; ValueError if the whole has another digest."""
        temporary = os.path.join(self.folder, "%s.%d" % (digest, os.getpid()))
        if digest not in self._partial:
            self._partial[digest] = (open(temporary, "wb"), hashlib.sha256())
        file, seen = self._partial[digest]
        file.write(data)
        seen.update(data)
        if last:
            file.close()
            del self._partial[digest]
            if seen.hexdigest() != digest:
                os.unlink(temporary)
                raise ValueError("contents do not have the digest %s" % digest)
            os.makedirs(os.path.dirname(self._path(digest)), exist_ok=True)
            os.replace(temporary, self._path(digest))

    def unpack(self, entries: Iterable[Entry], root: str) -> None:
        """Make the tree of ``entries`` below ``root``, which exists and is empty."""
        made: Set[str] = set()
        for entry in entries:
            path = root + "/" + entry.path
            folder = path.rpartition("/")[0]
            if folder not in made:
                os.makedirs(folder, exist_ok=True)
                made.add(folder)
            if entry.kind == LINK:
                os.symlink(entry.digest, path)
            else:
                _copy(self._path(entry.digest), path, entry.mode)


def _copy(source: str, path: str, mode: int) -> None:
    """A copy, never a hard link: a test that writes to its tree must not reach the cache."""
    read = os.open(source, os.O_RDONLY)
    try:
        write = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            while True:
                data = os.read(read, 1 << 20)
                _write(write, data)
                if len(data) < 1 << 20:
                    break
            os.fchmod(write, mode & 0o777)
        finally:
            os.close(write)
    finally:
        os.close(read)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def work_folder() -> "tuple[str, int]":
    """A fresh private folder for one session, and the descriptor that keeps it ours.

    Folders whose owner has died (nobody holds their lock) are removed first.
    """
    parent = tempfile.gettempdir()
    for name in os.listdir(parent):
        if name.startswith(_WORK):
            _sweep(os.path.join(parent, name))
    # It gets its name only when it is locked: another session may be sweeping.
    nameless = tempfile.mkdtemp(prefix="." + _WORK, dir=parent)
    descriptor = os.open(os.path.join(nameless, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    folder = os.path.join(parent, os.path.basename(nameless)[1:])
    os.rename(nameless, folder)
    return folder, descriptor


def forsake(folder: str) -> None:
    """For a slot whose owner is dead and whose own part is gone: the last one removes all."""
    try:
        parts = os.listdir(folder)
    except OSError:
        return
    if not any(name.isdigit() for name in parts):
        _sweep(folder, _DYING)


_WORK = "nosejobs-"
#: Seconds: the kernel closes what a killed process had open one by one, and so a slot
#: hears of its owner's death before the lock is free.
_DYING = 2.0


def _sweep(folder: str, patience: float = 0.0) -> None:
    try:
        if os.lstat(folder).st_uid != os.getuid():
            return
        descriptor = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        _remove_empty(folder)
        return
    try:
        _lock(descriptor, patience)
        place.remove(folder)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _lock(descriptor: int, patience: float) -> None:
    """BlockingIOError if somebody has it for longer than ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)


def _remove_empty(folder: str) -> None:
    """A slot that came up just when another one swept has made the folder anew."""
    try:
        os.rmdir(folder)
    except OSError:
        pass
