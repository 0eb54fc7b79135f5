"""A private copy of a tree, for a test that must not share it.

Owns copying: contents by reflink where the file system can, modes and times, links as
they are.  Must not know tests.
"""

import errno
import fcntl
import os
import shutil
import stat
from typing import FrozenSet

#: Folders that are never part of a tree, where git cannot tell.
IGNORED_FOLDERS: FrozenSet[str] = frozenset(
    [
        ".git", ".hg", ".svn", ".tox", ".nox", ".venv", "venv", "node_modules", "__pycache__",
        ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".eggs", ".idea", ".vscode",
    ]
)  # fmt: skip
_FICLONE = 0x40049409


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
    with open(source, "rb") as read, open(target, "xb") as write:
        try:
            fcntl.ioctl(write, _FICLONE, read.fileno())
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            shutil.copyfileobj(read, write, 1 << 20)


def _take_over(found: os.stat_result, target: str) -> None:
    """Mode and times: what builds by time stamps must not build anew in a copy."""
    os.chmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
