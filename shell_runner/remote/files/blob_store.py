"""The files of a host: contents by digest, and the trees made of them.

Owns the cache folder and what is unpacked from it.  Must not know where files come
from.  Nothing that a manifest names can lead out of the tree that is made of it.
"""

import hashlib
import json
import os
import tempfile
import time
from typing import Any, Dict, Iterable, List, Optional, Sequence, Set, Tuple

from . import cache_eviction
from .copy_tree import LARGE, copy_contents, write_all
from .manifest import FILE, LINK, Entry, check, is_digest
from .partial_file import SUFFIX, Partial

#: Seconds for which a file counts as used without being marked again.
_FRESH = 600.0


class SpoiltCache(ValueError):
    """What the cache holds is not what its name says."""


def cache_folder() -> str:
    """Where a host keeps what lasts between sessions: XDG_CACHE_HOME, else ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(base):
        base = os.path.join(tempfile.gettempdir(), "nosejobs-%d" % os.getuid())
    return os.path.join(base, "nosejobs")


class Store:
    """File contents by digest, below ``folder``.

    Between ``begin`` and ``end`` a session holds a lock that keeps what is here.
    """

    def __init__(self, folder: str) -> None:
        self.cache = folder
        self.folder = os.path.join(folder, cache_eviction.BLOBS)
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        #: Files that this session has brought.
        self.added = 0
        self._partial: Dict[str, Partial] = {}
        self._lock: Optional[int] = None
        # Homes are shared by machines: a process id alone is not unique.
        self._suffix = ".%d-%s" % (os.getpid(), os.urandom(4).hex())

    def begin(self) -> None:
        """Nothing that is here, or comes, is removed until ``end``."""
        if self._lock is None:
            self._lock = cache_eviction.hold(self.cache)

    def end(self) -> None:
        """What is here may be removed; what came in part stays for another session."""
        for partial in self._partial.values():
            partial.close()
        self._partial = {}
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path(self, digest: str) -> str:
        """Where the file of this digest is, or will be."""
        if not is_digest(digest):
            raise ValueError("not a digest: %r" % digest)
        return os.path.join(self.folder, digest[:2], digest[2:])

    def holds(self, digest: str, size: int) -> bool:
        """Whether a file is here, whole; it counts as used now."""
        path = self.path(digest)
        try:
            found = os.stat(path)
        except OSError:
            return False
        if found.st_size != size:
            return False  # the machine died before all of it was on the disk
        if abs(time.time() - found.st_mtime) > _FRESH:
            os.utime(path)
        return True

    def missing(self, entries: Sequence[Entry]) -> "Tuple[List[int], List[Tuple[int, int]]]":
        """Which entries are to be sent, by number, and from where those go on that came in part.

        Entries with the same contents are named once.
        """
        seen: Set[str] = set()
        numbers = []
        for number, entry in enumerate(entries):
            if entry.kind == FILE and entry.digest not in seen:
                seen.add(entry.digest)
                if not self.holds(entry.digest, entry.size):
                    numbers.append(number)
        began = set(os.listdir(self.folder)) if numbers else set()
        offsets = [
            (number, self._resume(entries[number]))
            for number in numbers
            if entries[number].digest + SUFFIX in began
        ]
        return numbers, [(number, offset) for number, offset in offsets if offset]

    def _resume(self, entry: Entry) -> int:
        partial = self._piece_of(entry.digest)
        partial.shorten(max(entry.size - 1, 0))  # one byte at least must come, as the last piece
        partial.read_back()  # now, for while pieces wait nobody hears a ping
        return partial.offset

    def _piece_of(self, digest: str) -> Partial:
        if digest not in self._partial:
            self.path(digest)
            self._partial[digest] = Partial(self.folder, digest)
        return self._partial[digest]

    def add(self, digest: str, data: bytes) -> None:
        """Keep a whole file; ValueError if the bytes are not those of the digest."""
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError("contents do not have the digest %s" % digest)
        path = self.path(digest)
        temporary = path + self._suffix
        try:
            file = open(temporary, "wb", buffering=0)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            file = open(temporary, "wb", buffering=0)
        with file:
            write_all(file.fileno(), data)
        os.replace(temporary, path)
        self.added += 1

    def append(self, digest: str, offset: int, data: bytes, last: bool) -> bool:
        """A piece of a large file; False if the file is whole now and has another digest.

        Then nothing of it is left.
        """
        partial = self._piece_of(digest)
        partial.append(offset, data)
        if not last:
            return True
        del self._partial[digest]
        path = self.path(digest)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.added += 1
        return partial.finish(path)

    def manifest(self, digest: str, size: int) -> "Tuple[List[Entry], List[int]]":
        """The entries of a manifest, checked, or the numbers of its parts that are not here.

        Number 0 is the list of the others.  Raises BadEntry.
        """
        if not self.holds(digest, size):
            return [], [0]
        parts = [(part, length) for part, length in self._read_json(digest)]
        missing = [n for n, part in enumerate(parts, 1) if not self.holds(*part)]
        if missing:
            return [], missing
        return [check(Entry(*row)) for part, _ in parts for row in self._read_json(part)], []

    def _read_json(self, digest: str) -> List[Any]:
        with open(self.path(digest), "rb") as file:
            rows: List[Any] = json.loads(file.read().decode("ascii"))
        return rows

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
                _copy(self.path(entry.digest), path, entry)


def _sound(source: str, data: bytes, entry: Entry) -> bytes:
    """What is read anyway is checked: a disk can spoil what lies in a cache for months."""
    if hashlib.sha256(data).hexdigest() != entry.digest:
        os.unlink(source)
        raise SpoiltCache(
            "the cache held spoilt contents for %r; they are removed, try again" % entry.path
        )
    return data


def _copy(source: str, path: str, entry: Entry) -> None:
    """A copy, never a hard link: a test that writes to its tree must not reach the cache."""
    read = os.open(source, os.O_RDONLY)
    try:
        write = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if entry.size < LARGE:
                write_all(write, _sound(source, os.read(read, entry.size), entry))
            else:
                copy_contents(read, write)
            os.fchmod(write, entry.mode & 0o777)
        finally:
            os.close(write)
    finally:
        os.close(read)
