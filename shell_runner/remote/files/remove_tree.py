"""Removal of a tree that a test has made: whatever its modes, depth, mounts and inode flags.

Must not know what the tree was for.
"""

import ctypes
import fcntl
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
from typing import Any, Callable, Dict, List

#: umount2(2): detach now, follow no link.
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
#: ioctl(2) of inode flags, and those that forbid removal ("append only", "immutable").
_GETFLAGS, _SETFLAGS, _FROZEN = 0x80086601, 0x40086602, 0x30


#: The argument has another name since Python 3.12; the function takes both forms.
_ON_ERROR: Dict[str, Any] = {}


def remove_tree(path: str) -> None:
    """Remove a tree, whatever its modes and depth; what cannot be removed stays."""
    try:
        os.rmdir(path)
        return
    except FileNotFoundError:
        return
    except OSError:
        pass
    if not _unmount_below(path):
        return  # what is mounted there is not ours
    try:
        _rmtree(path)
    except (OSError, RecursionError):
        pass
    if os.path.lexists(path):
        _rm(path)
    if os.path.lexists(path):
        _thaw(path)
        _rm(path)


def _unmount_below(path: str) -> bool:
    """Detach what a test has mounted below ``path``; whether nothing is mounted there.

    To remove through a bind mount would remove what is bound.
    """
    mounts = _mounts_below(os.path.realpath(path))
    for mount in reversed(mounts):
        ctypes.CDLL(None).umount2(os.fsencode(mount), _MNT_DETACH | _UMOUNT_NOFOLLOW)
    return not mounts or not _mounts_below(os.path.realpath(path))


def _mounts_below(path: str) -> List[str]:
    try:
        with open("/proc/self/mountinfo", "rb") as lines:
            points = [line.split(b" ", 5)[4] for line in lines]
    except OSError:
        return []
    names = [os.fsdecode(re.sub(rb"\\([0-7]{3})", _unescape, point)) for point in points]
    return [name for name in names if name == path or name.startswith(path + "/")]


def _unescape(found: "re.Match[bytes]") -> bytes:
    return bytes([int(found[1], 8)])


def _thaw(path: str) -> None:
    """Take away the flags that forbid removal; only root can have set them."""
    for folder, _, files in os.walk(path):
        for name in (folder, *(os.path.join(folder, file) for file in files)):
            try:
                found = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            except OSError:
                continue
            try:
                (flags,) = struct.unpack_from("i", fcntl.ioctl(found, _GETFLAGS, b"\0" * 8))
                if flags & _FROZEN:
                    fcntl.ioctl(found, _SETFLAGS, struct.pack("q", flags & ~_FROZEN))
            except OSError:
                pass
            finally:
                os.close(found)


def _rmtree(path: str) -> None:
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
    else:
        shutil.rmtree(path, **_ON_ERROR)


def _open_and_retry(function: Callable[..., Any], path: str, _: Any) -> None:
    """A directory without permissions was in the way: give them, and try again."""
    for each in (os.path.dirname(path), path):
        try:
            if stat.S_ISDIR(os.lstat(each).st_mode):
                os.chmod(each, 0o700)
        except OSError:
            pass
    try:
        if function in (os.unlink, os.rmdir, os.remove):
            function(path)
        elif os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass


def _rm(path: str) -> None:
    """Trees too deep for recursion; rm(1) walks them with file descriptors."""
    for argv in (["chmod", "-R", "u+rwx", path], ["rm", "-rf", path]):
        try:
            subprocess.call(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError:
            pass


_ON_ERROR["onexc" if sys.version_info >= (3, 12) else "onerror"] = _open_and_retry
