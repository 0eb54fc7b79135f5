"""The file cache of a host: contents by digest, and the trees that are created from them.

Responsible for the cache folder.  Must not depend on where files come from.  No entry of a
manifest can lead out of the tree that is created from it.
"""

import hashlib
import json
import os
import tempfile
import time
from typing import Any, Dict, Iterable, List, Optional, Sequence, Set, Tuple

from . import cache_eviction
from .copy_tree import LARGE_FILE_BYTES, copy_contents, write_all
from .manifest import (
    FILE,
    HARD_LINK,
    LINK,
    ManifestEntry,
    check_hard_links,
    is_digest,
    validate_entry,
)
from .partial_file import PARTIAL_SUFFIX, PartialFile

#: Seconds after which the time of last use (the mtime) of a file is updated again.
_USE_UPDATE_INTERVAL = 600.0


class CorruptCache(ValueError):
    """A file of the cache does not have the digest that its name says."""


def cache_folder() -> str:
    """Return the folder of files that outlast a session, below XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(base):
        base = os.path.join(tempfile.gettempdir(), "nosejobs-%d" % os.getuid())
    return os.path.join(base, "nosejobs")


class BlobStore:
    """File contents by SHA-256 digest, in the cache ``folder``.

    Between ``acquire`` and ``release`` a session holds a lock, so that no file is removed.
    """

    def __init__(self, folder: str) -> None:
        self.cache_folder = folder
        self.folder = os.path.join(folder, cache_eviction.BLOBS_FOLDER)
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        #: Number of files that this session has added.
        self.added_count = 0
        self._partial_files: Dict[str, PartialFile] = {}
        self._lock: Optional[int] = None
        # Machines can share a home directory: a process id alone is not unique.
        self._suffix = ".%d-%s" % (os.getpid(), os.urandom(4).hex())

    def acquire(self) -> None:
        """Lock the cache: no file is removed until ``release``."""
        if self._lock is None:
            self._lock = cache_eviction.lock_shared(self.cache_folder)

    def release(self) -> None:
        """Unlock the cache.  Files that have arrived in part stay for another session."""
        for partial in self._partial_files.values():
            partial.close()
        self._partial_files = {}
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path(self, digest: str) -> str:
        """Return the path of the file with this digest, whether it exists or not.

        Raises ValueError for a text that is not a digest.
        """
        if not is_digest(digest):
            raise ValueError("not a digest: %r" % digest)
        return os.path.join(self.folder, digest[:2], digest[2:])

    def has_blob(self, digest: str, size: int) -> bool:
        """Return whether a file is complete in the cache, and mark it as used."""
        path = self.path(digest)
        try:
            status = os.stat(path)
        except OSError:
            return False
        if status.st_size != size:
            return False  # the machine crashed before the whole file was on the disk
        if abs(time.time() - status.st_mtime) > _USE_UPDATE_INTERVAL:
            os.utime(path)
        return True

    def find_missing(
        self, entries: Sequence[ManifestEntry]
    ) -> "Tuple[List[int], List[Tuple[int, int]]]":
        """Return the numbers of the entries to send, and pairs of a number and an offset.

        An offset tells where to continue a file of which a part has arrived.  Entries with the
        same contents are named once.
        """
        seen: Set[str] = set()
        numbers = []
        names = set(os.listdir(self.folder))
        for number, entry in enumerate(entries):
            if entry.kind == FILE and entry.digest not in seen:
                seen.add(entry.digest)
                # In a new cache, no content must be looked for.
                if entry.digest[:2] not in names or not self.has_blob(entry.digest, entry.size):
                    numbers.append(number)
        offsets = [
            (number, self._resume_offset(entries[number]))
            for number in numbers
            if entries[number].digest + PARTIAL_SUFFIX in names
        ]
        return numbers, [(number, offset) for number, offset in offsets if offset]

    def _resume_offset(self, entry: ManifestEntry) -> int:
        partial = self._open_partial_file(entry.digest)
        partial.truncate(max(entry.size - 1, 0))  # a last piece of at least one byte must come
        # Hash it now: later, while pieces arrive, this would delay the answer to a ping.
        partial.hash_existing()
        return partial.offset

    def _open_partial_file(self, digest: str) -> PartialFile:
        if digest not in self._partial_files:
            self.path(digest)
            self._partial_files[digest] = PartialFile(self.folder, digest)
        return self._partial_files[digest]

    def add(self, digest: str, data: bytes) -> None:
        """Add a complete file; raises ValueError if ``data`` does not have the digest."""
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError("contents do not have the digest %s" % digest)
        path = self.path(digest)
        try:
            # Until all is written, the file has another size: ``has_blob`` denies it.
            _write_new(path, data)
        except FileExistsError:
            temporary = path + self._suffix
            _write_new(temporary, data)
            os.replace(temporary, path)
        self.added_count += 1

    def append_piece(self, digest: str, offset: int, data: bytes, is_last: bool) -> bool:
        """Add a piece of a large file.

        Return False if the file is complete (``is_last``) and does not have the digest; it is
        removed then.
        """
        partial = self._open_partial_file(digest)
        partial.append(offset, data)
        if not is_last:
            return True
        del self._partial_files[digest]
        path = self.path(digest)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.added_count += 1
        return partial.finish(path)

    def read_manifest(self, digest: str, size: int) -> "Tuple[List[ManifestEntry], List[int]]":
        """Return the validated entries of a manifest, or the numbers of its missing parts.

        Part 0 is the list of the other parts.  Raises BadManifestEntry.
        """
        if not self.has_blob(digest, size):
            return [], [0]
        parts = [(part, length) for part, length in self._read_json(digest)]
        missing = [n for n, part in enumerate(parts, 1) if not self.has_blob(*part)]
        if missing:
            return [], missing
        entries = [
            validate_entry(ManifestEntry(*row))
            for part, _ in parts
            for row in self._read_json(part)
        ]
        check_hard_links(entries)
        return entries, []

    def _read_json(self, digest: str) -> List[Any]:
        with open(self.path(digest), "rb") as file:
            rows: List[Any] = json.loads(file.read().decode("ascii"))
        return rows

    def create_tree(self, entries: Iterable[ManifestEntry], root: str) -> None:
        """Create the tree of ``entries`` below ``root``, which exists and is empty.

        Hard links share contents with each other, but not with the cache: a test may write to them.
        Raises CorruptCache, and removes the file, if a small file does not have its digest.
        """
        created: Set[str] = set()
        files: Dict[str, ManifestEntry] = {}
        for entry in entries:
            path = root + "/" + entry.path
            folder = path.rpartition("/")[0]
            if folder not in created:
                os.makedirs(folder, exist_ok=True)
                created.add(folder)
            if entry.kind == LINK:
                os.symlink(entry.digest, path)
            elif entry.kind == HARD_LINK:
                self._create_hard_link(files[entry.digest], path, root)
            else:
                files[entry.path] = entry
                _copy_blob(self.path(entry.digest), path, entry)

    def _create_hard_link(self, file: ManifestEntry, path: str, root: str) -> None:
        """Create a hard link to a file of the tree, or a copy if the file system refuses it."""
        try:
            os.link(root + "/" + file.path, path)
        except OSError:
            _copy_blob(self.path(file.digest), path, file)


def _write_new(path: str, data: bytes) -> None:
    """Create a file; raises FileExistsError if there is one.  Nothing is left if that fails."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_all(descriptor, data)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def _verify_contents(source: str, data: bytes, entry: ManifestEntry) -> bytes:
    """Return ``data`` if it has its digest; a disk can corrupt files that are old.

    Raises CorruptCache.  Only files that are read whole are verified, since that is cheap.
    """
    if hashlib.sha256(data).hexdigest() != entry.digest:
        os.unlink(source)
        raise CorruptCache(
            "the cache held corrupt contents for %r; they have been removed, try again" % entry.path
        )
    return data


def _copy_blob(source: str, path: str, entry: ManifestEntry) -> None:
    """Copy a file.  A hard link would let a test that writes to its tree change the cache."""
    read = os.open(source, os.O_RDONLY)
    try:
        write = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if entry.size < LARGE_FILE_BYTES:
                write_all(write, _verify_contents(source, os.read(read, entry.size), entry))
            else:
                copy_contents(read, write)
            os.fchmod(write, entry.mode & 0o777)
        finally:
            os.close(write)
    finally:
        os.close(read)
