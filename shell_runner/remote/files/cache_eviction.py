"""The bound of a host's cache: what was used least goes first.

Owns the lock of the cache: sessions that need files hold it shared, and nothing is removed
but by who has it alone.  Must not know sessions or trees.
"""

import fcntl
import os
import shutil
import threading
import time
from typing import Callable, Iterator, List, Optional, Set, Tuple

BLOBS = "blobs"
_LOCK = "blobs.lock"
_CODE = "code"
#: Bytes that a host keeps, unless it is told otherwise.
LIMIT = 4 << 30
#: Seconds after which code that nobody ran is removed.
_OLD_CODE = 30 * 86_400.0
#: Seconds between two looks at a cache to which nothing was added.
_OFTEN = 86_400.0


def hold(cache: str) -> int:
    """A descriptor: while it is open, nothing is removed from this cache."""
    descriptor = os.open(os.path.join(cache, _LOCK), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError:
        pass  # a file system without locks: nobody can have it alone, either
    return descriptor


def start(cache: str, limit: int, added: int) -> None:
    """Keep the bound, beside whatever else this process does, if it is time to look."""
    if added or is_due(cache):
        threading.Thread(target=evict_to_limit, args=(cache, limit), daemon=True).start()


def is_due(cache: str) -> bool:
    """Nobody has looked after this cache for a day."""
    try:
        return time.time() - os.stat(os.path.join(cache, _LOCK)).st_mtime > _OFTEN
    except OSError:
        return True


def evict_to_limit(
    cache: str, limit: int, referenced: Optional[Callable[[], Set[str]]] = None
) -> int:
    """Remove the least recently used files until the others take ``limit`` bytes of the disk.

    ``referenced`` returns the digests of files that stay whatever they take; ``limit`` is then for
    the others.  It is called once no session can add or need a file, and only if all files
    together take more than ``limit`` bytes: it may be slow.

    Returns the number of removed files; none is removed while a session needs some.
    """
    try:
        lock = os.open(os.path.join(cache, _LOCK), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return 0
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.utime(lock)
        _remove_old_code(os.path.join(cache, _CODE))
        blobs = os.path.join(cache, BLOBS)
        files = sorted(_files(blobs))
        if referenced is not None:
            if sum(size for _, size, _ in files) <= limit:
                return 0
            kept = {os.path.join(blobs, digest[:2], digest[2:]) for digest in referenced()}
            files = [file for file in files if file[2] not in kept]
        return _remove(files, limit)
    except OSError:
        return 0  # in use; the next session looks again
    finally:
        os.close(lock)


def _remove(files: List[Tuple[float, int, str]], limit: int) -> int:
    left = sum(size for _, size, _ in files)
    removed = 0
    for used, size, path in files:
        if left <= limit and used > 0:
            break
        os.unlink(path)
        left -= size
        removed += 1
    return removed


def _files(folder: str) -> Iterator[Tuple[float, int, str]]:
    """When each was used, the bytes that it takes, its path; 0 for what a dead session left."""
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False):
            for file in _entries(entry.path):
                found = file.stat(follow_symlinks=False)
                used = 0.0 if "." in file.name else found.st_mtime
                yield used, found.st_blocks * 512, file.path
        else:
            found = entry.stat(follow_symlinks=False)
            private = entry.name.count(".") != 1
            yield 0.0 if private else found.st_mtime, found.st_blocks * 512, entry.path


def _entries(folder: str) -> "List[os.DirEntry[str]]":
    with os.scandir(folder) as entries:
        return list(entries)


def _remove_old_code(folder: str) -> None:
    before = time.time() - _OLD_CODE
    try:
        entries = _entries(folder)
    except OSError:
        return
    for entry in entries:
        if entry.stat(follow_symlinks=False).st_mtime < before:
            shutil.rmtree(entry.path, ignore_errors=True)
