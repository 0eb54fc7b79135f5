"""A private copy of a tree, for a test that must not share it.

Owns copying: contents by reflink where the file system can, modes and times, links as
they are.  Must not know tests.
"""

import errno
import fcntl
import os
import stat
from typing import FrozenSet, Tuple

#: Folders that are never part of a tree, where git cannot tell.
IGNORED_FOLDERS: FrozenSet[str] = frozenset(
    [
        ".git", ".hg", ".svn", ".tox", ".nox", ".venv", "venv", "node_modules", "__pycache__",
        ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".eggs", ".idea", ".vscode",
    ]
)  # fmt: skip
_FICLONE = 0x40049409
#: Bytes from which on a reflink or a hole is worth asking for.
LARGE = 1 << 20


def copy_tree(source: str, target: str) -> None:
    """Make ``target``, a copy of the folder ``source`` without the ignored folders.

    What vanishes meanwhile is left out: other tests share the source.
    """
    os.mkdir(target, 0o700)
    with os.scandir(source) as entries:
        for entry in entries:
            try:
                _copy_entry(entry, os.path.join(target, entry.name))
            except FileNotFoundError:
                pass
    _take_over(os.stat(source), target)


def _copy_entry(entry: "os.DirEntry[str]", target: str) -> None:
    found = entry.stat(follow_symlinks=False)
    if stat.S_ISDIR(found.st_mode):
        if entry.name not in IGNORED_FOLDERS:
            copy_tree(entry.path, target)
    elif stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(entry.path), target)
    elif stat.S_ISREG(found.st_mode):
        _copy_file(entry.path, target)
        _take_over(found, target)
    elif stat.S_ISFIFO(found.st_mode):
        os.mkfifo(target)


def _copy_file(source: str, target: str) -> None:
    with open(source, "rb", buffering=0) as read, open(target, "xb", buffering=0) as write:
        copy_contents(read.fileno(), write.fileno())


def copy_contents(read: int, write: int) -> None:
    """All of one file to another, which is empty: by reflink if it can be, holes kept."""
    size = os.fstat(read).st_size
    if size >= LARGE and _clone(read, write):
        return
    at = 0
    while at < size:
        begin, end = _next_data(read, at, size)
        os.lseek(read, begin, os.SEEK_SET)
        os.lseek(write, begin, os.SEEK_SET)
        _copy_bytes(read, write, end - begin)
        at = end
    if os.fstat(write).st_size < size:
        os.ftruncate(write, size)


def _clone(read: int, write: int) -> bool:
    try:
        fcntl.ioctl(write, _FICLONE, read)
        return True
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        return False


def _next_data(descriptor: int, at: int, size: int) -> Tuple[int, int]:
    """Where the next bytes are that are no hole; all of the rest where that cannot be told."""
    try:
        begin = os.lseek(descriptor, at, os.SEEK_DATA)
        return begin, min(os.lseek(descriptor, begin, os.SEEK_HOLE), size)
    except OSError as error:
        return (size, size) if error.errno == errno.ENXIO else (at, size)


def _copy_bytes(read: int, write: int, count: int) -> None:
    while count > 0:
        data = os.read(read, min(count, LARGE))
        if not data:
            return  # it has become shorter meanwhile
        write_all(write, data)
        count -= len(data)


def write_all(descriptor: int, data: bytes) -> None:
    """All of ``data``, for write(2) may take less."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _take_over(found: os.stat_result, target: str) -> None:
    """Mode and times: what builds by time stamps must not build anew in a copy."""
    os.chmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
