"""The size limit of a host's cache: the least recently used files are removed first.

Responsible for the lock of the cache: sessions that need files hold it shared, and files are
removed only under the exclusive lock.  Must not depend on sessions or trees.
"""

import fcntl
import os
import shutil
import threading
import time
from typing import Callable, Iterator, List, Optional, Set, Tuple

#: Folder of the files in the cache, by digest.
BLOBS_FOLDER = "blobs"
_LOCK_FILE = "blobs.lock"
_CODE_FOLDER = "code"
#: Default size limit of the cache in bytes.
DEFAULT_LIMIT_BYTES = 4 << 30
#: Seconds after its last use at which shipped code is removed.
_MAX_CODE_AGE = 30 * 86_400.0
#: Seconds between two checks of a cache to which nothing was added.
_CHECK_INTERVAL = 86_400.0


def lock_shared(cache: str) -> int:
    """Lock the cache; return a descriptor.  No file is removed while it is open."""
    descriptor = os.open(os.path.join(cache, _LOCK_FILE), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError:
        pass  # without locks on this file system nothing can hold it exclusively, either
    return descriptor


def start_eviction(cache: str, limit: int, added: int) -> None:
    """Evict files in a thread of its own if files were added or a check is due."""
    if added or is_eviction_due(cache):
        threading.Thread(target=evict_to_limit, args=(cache, limit), daemon=True).start()


def is_eviction_due(cache: str) -> bool:
    """Return whether the cache has not been checked for a day."""
    try:
        return time.time() - os.stat(os.path.join(cache, _LOCK_FILE)).st_mtime > _CHECK_INTERVAL
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
        lock = os.open(os.path.join(cache, _LOCK_FILE), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return 0
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.utime(lock)
        _remove_old_code(os.path.join(cache, _CODE_FOLDER))
        blobs = os.path.join(cache, BLOBS_FOLDER)
        files = sorted(_list_files(blobs))
        if referenced is not None:
            if sum(size for _, size, _ in files) <= limit:
                return 0
            kept = {os.path.join(blobs, digest[:2], digest[2:]) for digest in referenced()}
            files = [file for file in files if file[2] not in kept]
        return _remove_oldest(files, limit)
    except OSError:
        return 0  # in use; the next session checks again
    finally:
        os.close(lock)


def _remove_oldest(files: List[Tuple[float, int, str]], limit: int) -> int:
    total = sum(size for _, size, _ in files)
    removed = 0
    for used, size, path in files:
        if total <= limit and used > 0:
            break
        os.unlink(path)
        total -= size
        removed += 1
    return removed


def _list_files(folder: str) -> Iterator[Tuple[float, int, str]]:
    """Yield for each file the time of last use, its bytes on the disk, and its path.

    The time is 0 for temporary files, which a dead session has left.
    """
    for entry in _scan_folder(folder):
        if entry.is_dir(follow_symlinks=False):
            for file in _scan_folder(entry.path):
                status = file.stat(follow_symlinks=False)
                used = 0.0 if "." in file.name else status.st_mtime
                yield used, status.st_blocks * 512, file.path
        else:
            status = entry.stat(follow_symlinks=False)
            is_temporary = entry.name.count(".") != 1
            yield 0.0 if is_temporary else status.st_mtime, status.st_blocks * 512, entry.path


def _scan_folder(folder: str) -> "List[os.DirEntry[str]]":
    with os.scandir(folder) as entries:
        return list(entries)


def _remove_old_code(folder: str) -> None:
    oldest_kept = time.time() - _MAX_CODE_AGE
    try:
        entries = _scan_folder(folder)
    except OSError:
        return
    for entry in entries:
        if entry.stat(follow_symlinks=False).st_mtime < oldest_kept:
            shutil.rmtree(entry.path, ignore_errors=True)
