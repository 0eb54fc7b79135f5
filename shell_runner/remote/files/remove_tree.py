"""The removal of a tree that a test has created, whatever its modes, depth, mounts and flags.

Must not depend on the purpose of the tree.
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

#: Flags of umount2(2): detach now, follow no link.
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
#: Requests of ioctl_iflags(2), and the flags that forbid removal (append-only, immutable).
_GETFLAGS, _SETFLAGS, _REMOVAL_FORBIDDEN = 0x80086601, 0x40086602, 0x30

#: The error handler for ``shutil.rmtree``, whose parameter has another name since Python 3.12.
_RMTREE_OPTIONS: Dict[str, Any] = {}


def remove_tree(path: str) -> None:
    """Remove a file or a tree, as far as possible; nothing is raised if something remains."""
    try:
        os.rmdir(path)
        return
    except FileNotFoundError:
        return
    except OSError:
        pass
    if not _unmount_all_below(path):
        return  # files below a mount do not belong to the test
    try:
        _remove_with_shutil(path)
    except (OSError, RecursionError):
        pass
    if os.path.lexists(path):
        _remove_with_rm(path)
    if os.path.lexists(path):
        _clear_inode_flags(path)
        _remove_with_rm(path)


def _unmount_all_below(path: str) -> bool:
    """Detach all mounts below ``path``; return whether none is left.

    Removing files through a bind mount would remove the files of its source.
    """
    mounts = _list_mounts_below(os.path.realpath(path))
    for mount in reversed(mounts):
        ctypes.CDLL(None).umount2(os.fsencode(mount), _MNT_DETACH | _UMOUNT_NOFOLLOW)
    return not mounts or not _list_mounts_below(os.path.realpath(path))


def _list_mounts_below(path: str) -> List[str]:
    try:
        with open("/proc/self/mountinfo", "rb") as lines:
            points = [line.split(b" ", 5)[4] for line in lines]
    except OSError:
        return []
    names = [os.fsdecode(re.sub(rb"\\([0-7]{3})", _decode_octal, point)) for point in points]
    return [name for name in names if name == path or name.startswith(path + "/")]


def _decode_octal(match: "re.Match[bytes]") -> bytes:
    return bytes([int(match[1], 8)])


def _clear_inode_flags(path: str) -> None:
    """Clear the inode flags that forbid removal; only root can have set them."""
    for folder, _, files in os.walk(path):
        for name in (folder, *(os.path.join(folder, file) for file in files)):
            try:
                descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            except OSError:
                continue
            try:
                (flags,) = struct.unpack_from("i", fcntl.ioctl(descriptor, _GETFLAGS, b"\0" * 8))
                if flags & _REMOVAL_FORBIDDEN:
                    fcntl.ioctl(
                        descriptor, _SETFLAGS, struct.pack("q", flags & ~_REMOVAL_FORBIDDEN)
                    )
            except OSError:
                pass
            finally:
                os.close(descriptor)


def _remove_with_shutil(path: str) -> None:
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
    else:
        shutil.rmtree(path, **_RMTREE_OPTIONS)


def _add_permissions_and_retry(function: Callable[..., Any], path: str, _: Any) -> None:
    """Add permissions to the directories that caused an error, and try again."""
    for folder in (os.path.dirname(path), path):
        try:
            if stat.S_ISDIR(os.lstat(folder).st_mode):
                os.chmod(folder, 0o700)
        except OSError:
            pass
    try:
        if function in (os.unlink, os.rmdir, os.remove):
            function(path)
        elif os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass


def _remove_with_rm(path: str) -> None:
    """Remove a tree that is too deep for recursion; rm(1) walks it with file descriptors."""
    for argv in (["chmod", "-R", "u+rwx", path], ["rm", "-rf", path]):
        try:
            subprocess.call(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError:
            pass


_RMTREE_OPTIONS["onexc" if sys.version_info >= (3, 12) else "onerror"] = _add_permissions_and_retry
