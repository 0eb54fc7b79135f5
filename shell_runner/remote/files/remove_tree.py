"""The removal of a tree that a test has created, whatever its modes, depth, mounts and flags.

No component of a path below the starting directory is resolved: each step is relative to the
descriptor of a directory and follows no link, so that nothing outside of the tree is removed or
unmounted.  Must not depend on the purpose of the tree.
"""

import ctypes
import errno
import fcntl
import os
import stat
import struct
from typing import Callable, List, NamedTuple, Optional, Tuple

#: Flags of mount(2) and umount2(2): make a tree of mounts private; detach now.
_MS_REC_PRIVATE, _MNT_DETACH = 1 << 14 | 1 << 18, 2
#: Requests of ioctl_iflags(2), and the flags that forbid removal (append-only, immutable).
_GETFLAGS, _SETFLAGS, _REMOVAL_FORBIDDEN = 0x80086601, 0x40086602, 0x30
#: Flags for opening a directory; and for a reference to any file, without opening it.
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_REFERENCE_FLAGS = getattr(os, "O_PATH", 0) | os.O_NOFOLLOW
_DESCRIPTORS = "/proc/self/fd/%d"
#: Number of attempts to empty a tree: a directory cannot be removed while a bind of its parent,
#: elsewhere in the tree, has a mount in its place.
_PASSES = 2


def remove_tree(path: str) -> bool:
    """Remove a file, a link or a tree as far as possible; return whether nothing is left.

    The last component of ``path`` is not resolved: of a link, the link itself is removed.
    """
    folder, name = os.path.split(path.rstrip("/"))
    try:
        parent = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return not os.path.lexists(path)
    try:
        return remove_entry(parent, name)
    finally:
        os.close(parent)


def remove_entry(parent: int, name: str) -> bool:
    """Remove the entry ``name`` of the directory with the descriptor ``parent``.

    Mounts on the entry and below it are detached.  Return whether nothing is left.
    """
    return _Removal(parent).remove(parent, name)


def unmount_entry(parent: int, name: str, mount: Optional[str] = None) -> bool:
    """Detach all mounts on one entry of the directory with the descriptor ``parent``.

    Return whether none is left; files below a mount do not belong to the directory.  ``mount`` is
    the id of the mount of ``parent`` if it is known.
    """
    if mount is None:
        mount = read_mount_id(parent)
    while True:
        try:
            if not hasattr(os, "O_PATH"):
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
                return "device %d" % status.st_dev == mount
            entry = os.open(name, _REFERENCE_FLAGS, dir_fd=parent)
        except OSError:
            return True  # it has vanished, or its removal fails with the same error
        try:
            if read_mount_id(entry) == mount:
                return True
            if not _unmount(entry):
                return False
        finally:
            os.close(entry)


def read_mount_id(descriptor: int) -> str:
    """Return what identifies the mount that a file was opened on; without /proc, its device."""
    try:
        with open("/proc/self/fdinfo/%d" % descriptor) as lines:
            for line in lines:
                if line.startswith("mnt_id:"):
                    return line
    except OSError:
        pass
    return "device %d" % os.fstat(descriptor).st_dev


def _unmount(descriptor: int) -> bool:
    """Detach the mount whose root is open.

    The path is that of the descriptor, so no other mount can be meant.  The tree of mounts is made
    private before: if it is a recursive bind of a shared tree, such as ``/``, unmounting what is
    mounted in it would unmount the same in the original.
    """
    library = ctypes.CDLL(None)
    path = os.fsencode(_DESCRIPTORS % descriptor)
    library.mount(None, path, None, ctypes.c_ulong(_MS_REC_PRIVATE), None)
    return bool(library.umount2(path, _MNT_DETACH) == 0)


def has_removal_flags(descriptor: int) -> bool:
    """Return whether an inode flag forbids to remove the file or entries of the directory."""
    return bool(_read_inode_flags(descriptor) & _REMOVAL_FORBIDDEN)


def _read_inode_flags(descriptor: int) -> int:
    try:
        return int(struct.unpack_from("i", fcntl.ioctl(descriptor, _GETFLAGS, b"\0" * 8))[0])
    except OSError:
        return 0  # the file system has no such flags


def allow_removal(descriptor: int) -> None:
    """Clear the inode flags that forbid changes, and let the owner change a directory.

    Only root can have set such flags.
    """
    flags = _read_inode_flags(descriptor)
    try:
        if flags & _REMOVAL_FORBIDDEN:
            fcntl.ioctl(descriptor, _SETFLAGS, struct.pack("q", flags & ~_REMOVAL_FORBIDDEN))
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
            os.fchmod(descriptor, 0o700)
    except OSError:
        pass


class _Level(NamedTuple):
    """A directory that is being emptied, and its subdirectories that remain to be removed."""

    name: str
    identity: Tuple[int, int]
    folders: List[str]


class _Removal:
    """The removal of entries on one mount.

    It holds one descriptor at a time, whatever the depth of the tree: the way back is ``..``,
    which must lead to the directory that it has come from.
    """

    def __init__(self, parent: int) -> None:
        self._mount = read_mount_id(parent)

    def remove(self, parent: int, name: str) -> bool:
        """Remove one entry of ``parent``; return whether nothing is left."""
        if not unmount_entry(parent, name, self._mount):
            return False
        if self._try(os.rmdir, parent, name) or self._try(os.unlink, parent, name):
            return True
        for _ in range(_PASSES):
            try:
                folder = self._open_folder(parent, name)
                if folder is not None:
                    self._empty(folder, name)
            except OSError:
                pass
            if self._try(os.rmdir, parent, name):
                return True
        return False

    def _empty(self, folder: int, name: str) -> None:
        """Remove the entries of a directory as far as possible, and close its descriptor."""
        try:
            levels = [self._start_level(folder, name)]
            while True:
                if levels[-1].folders:
                    name = levels[-1].folders.pop()
                    if not self._try(os.rmdir, folder, name):
                        below = self._open_folder(folder, name)
                        if below is not None:
                            os.close(folder)
                            folder = below
                            levels.append(self._start_level(folder, name))
                    continue
                name = levels.pop().name
                if not levels:
                    return
                above = os.open("..", DIRECTORY_FLAGS, dir_fd=folder)
                os.close(folder)
                folder = above
                if _identify(folder) != levels[-1].identity:
                    return  # it has been moved meanwhile
                self._try(os.rmdir, folder, name)
        finally:
            os.close(folder)

    def _start_level(self, folder: int, name: str) -> _Level:
        """Remove the files of a directory; return its subdirectories."""
        with os.scandir(folder) as entries:
            rows = [(entry.name, _is_folder(entry)) for entry in entries]
        folders = []
        for entry_name, is_folder in rows:
            if is_folder or not self._try(os.unlink, folder, entry_name):
                folders.append(entry_name)
        return _Level(name, _identify(folder), folders)

    def _open_folder(self, parent: int, name: str) -> Optional[int]:
        """Return a descriptor of a directory that can be changed; None if that is impossible."""
        if not unmount_entry(parent, name, self._mount):
            return None
        try:
            folder = os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
        except PermissionError:
            folder = _open_forbidden_folder(parent, name)
        except OSError:
            return None
        allow_removal(folder)
        return folder

    def _try(self, function: Callable[..., None], parent: int, name: str) -> bool:
        """Remove one entry by unlink(2) or rmdir(2); return whether it is gone."""
        for _ in range(2):
            try:
                function(name, dir_fd=parent)
                return True
            except FileNotFoundError:
                return True
            except OSError as error:
                if error.errno == errno.EBUSY and not unmount_entry(parent, name, self._mount):
                    return False
                if error.errno == errno.EPERM:
                    _clear_flags_of_entry(parent, name)
                elif error.errno != errno.EBUSY:
                    return False
        return False


def _identify(descriptor: int) -> Tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _open_forbidden_folder(parent: int, name: str) -> int:
    """Open a directory after its permissions have been added; raises OSError."""
    if not hasattr(os, "O_PATH"):
        os.chmod(name, 0o700, dir_fd=parent, follow_symlinks=False)
        return os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
    reference = os.open(name, _REFERENCE_FLAGS | os.O_DIRECTORY, dir_fd=parent)
    try:
        os.chmod(_DESCRIPTORS % reference, 0o700)
        return os.open(".", DIRECTORY_FLAGS, dir_fd=reference)
    finally:
        os.close(reference)


def _clear_flags_of_entry(parent: int, name: str) -> None:
    """Clear the inode flags of a regular file or directory; opening a device could do harm."""
    try:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return
        entry = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=parent)
    except OSError:
        return
    try:
        allow_removal(entry)
    finally:
        os.close(entry)
