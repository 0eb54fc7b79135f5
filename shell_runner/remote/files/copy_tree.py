"""The copy of a tree, for a test with ``isolation=copy``.

Copies contents by reflink where the file system supports it, modes, times and symbolic links.
Must not depend on tests.
"""

import errno
import fcntl
import os
import stat
from typing import Dict, FrozenSet, Tuple

#: Folders that are not part of a tree if git cannot say which files are.
IGNORED_FOLDERS: FrozenSet[str] = frozenset(
    [
        ".git", ".hg", ".svn", ".tox", ".nox", ".venv", "venv", "node_modules", "__pycache__",
        ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".eggs", ".idea", ".vscode",
    ]
)  # fmt: skip
_FICLONE = 0x40049409
#: Minimum bytes of a file for which a reflink is tried.
LARGE_FILE_BYTES = 1 << 20

#: The path of the first copy of each file with several links, by device and inode.
_Copies = Dict[Tuple[int, int], str]


def copy_tree(source: str, target: str) -> None:
    """Create ``target`` as a copy of the folder ``source`` without the ignored folders.

    Files that vanish meanwhile are skipped, since other tests share the source.  Hard links between
    files of the tree become hard links between their copies.
    """
    _copy_folder(source, target, {})


def _copy_folder(source: str, target: str, copies: _Copies) -> None:
    os.mkdir(target, 0o700)
    with os.scandir(source) as entries:
        for entry in entries:
            try:
                _copy_entry(entry, os.path.join(target, entry.name), copies)
            except FileNotFoundError:
                pass
    _copy_attributes(os.stat(source), target)


def _copy_entry(entry: "os.DirEntry[str]", target: str, copies: _Copies) -> None:
    status = entry.stat(follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        if entry.name not in IGNORED_FOLDERS:
            _copy_folder(entry.path, target, copies)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(entry.path), target)
    elif stat.S_ISREG(status.st_mode):
        if status.st_nlink == 1 or not _link_copy(status, target, copies):
            _copy_file(entry.path, target)
            _copy_attributes(status, target)
    elif stat.S_ISFIFO(status.st_mode):
        os.mkfifo(target)
        _copy_attributes(status, target)


def _link_copy(status: os.stat_result, target: str, copies: _Copies) -> bool:
    """Create ``target`` as a link to the copy of the same file; return False if there is none."""
    key = (status.st_dev, status.st_ino)
    copy = copies.setdefault(key, target)
    if copy == target:
        return False
    try:
        os.link(copy, target)
        return True
    except OSError:
        return False


def _copy_file(source: str, target: str) -> None:
    with open(source, "rb", buffering=0) as reader, open(target, "xb", buffering=0) as writer:
        copy_contents(reader.fileno(), writer.fileno())


def copy_contents(read: int, write: int) -> None:
    """Copy a file to an empty one, by descriptors: by reflink if possible, keeping holes."""
    size = os.fstat(read).st_size
    if size >= LARGE_FILE_BYTES and _clone_contents(read, write):
        return
    at = 0
    while at < size:
        begin, end = _find_next_data(read, at, size)
        os.lseek(read, begin, os.SEEK_SET)
        os.lseek(write, begin, os.SEEK_SET)
        _copy_bytes(read, write, end - begin)
        at = end
    if os.fstat(write).st_size < size:
        os.ftruncate(write, size)


def _clone_contents(read: int, write: int) -> bool:
    try:
        fcntl.ioctl(write, _FICLONE, read)
        return True
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        return False


def _find_next_data(descriptor: int, at: int, size: int) -> Tuple[int, int]:
    """Return the begin and end of the next data that is not a hole.

    Returns the whole rest if the file system cannot report holes.
    """
    try:
        begin = os.lseek(descriptor, at, os.SEEK_DATA)
        return begin, min(os.lseek(descriptor, begin, os.SEEK_HOLE), size)
    except OSError as error:
        return (size, size) if error.errno == errno.ENXIO else (at, size)


def _copy_bytes(read: int, write: int, count: int) -> None:
    while count > 0:
        data = os.read(read, min(count, LARGE_FILE_BYTES))
        if not data:
            return  # the file has become shorter
        write_all(write, data)
        count -= len(data)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``, since write(2) may write less."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _copy_attributes(status: os.stat_result, target: str) -> None:
    """Copy mode and times; make(1) and similar tools must not rebuild in a copy."""
    os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
