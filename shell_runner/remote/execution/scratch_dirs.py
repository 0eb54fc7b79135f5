"""The private directories of a slot: TMPDIR, HOME and the outputs directory of its tests.

Responsible for creating them, for detecting whether a test has left anything in them or has
replaced them, and for cleaning them.  A test can put a link, a file or a mount in the place of any
of them, so they are changed by the descriptors of their parents only.  Must not depend on
processes.
"""

import errno
import itertools
import os
import select
from typing import Dict, List, Optional, Tuple

from ..files.remove_tree import (
    DIRECTORY_FLAGS,
    allow_removal,
    has_removal_flags,
    read_mount_id,
    remove_entry,
    unmount_entry,
)

#: A modification time in nanoseconds that no directory gets by itself (1970-01-02): a directory
#: that still has it is unchanged.
_UNCHANGED_MTIME_NS = 86_400 * 10**9
#: The device, inode, mode, link count and ctime of an unchanged directory.
_Fingerprint = Tuple[int, int, int, int, int]


class ScratchDirectories:
    """Directories below ``base`` that are empty before each test.

    Creating and removing directories for each of ten thousand tiny tests would cost as much as
    some of the tests, so an unchanged directory is used again.  Its times show whether it is
    unchanged: creating or removing an entry changes the mtime, and the ctime cannot be set back.
    """

    def __init__(self, base: str, names: Tuple[str, ...]) -> None:
        """Create the directory ``base``; whatever is in its place is removed.

        If that is impossible, ``base`` gets another name.  Raises OSError.
        """
        folder, name = os.path.split(base)
        self._parent = _open_session_folder(folder)
        self._name = _create_directory(self._parent, name)
        self.base = os.path.join(folder, self._name)
        self._descriptor = os.open(self._name, DIRECTORY_FLAGS, dir_fd=self._parent)
        self._identity = _identify(os.fstat(self._descriptor))
        self._mounts = _MountWatch()
        self.paths = {name: os.path.join(self.base, name) for name in names}
        #: The names in ``base`` of the directories.
        self._entries = {name: name for name in names}
        self._fingerprints: Dict[str, _Fingerprint] = {}

    def prepare(self) -> None:
        """Make sure that all directories exist, are empty and have mode 0700.

        Raises OSError if that is impossible.
        """
        for name in self.paths:
            if not self._is_unchanged(name):
                self._recreate(name)

    def is_intact(self) -> bool:
        """Return whether ``base`` is what it was created as and can be used by the next test.

        Called after each test.  If it is not, the slot must end: another one creates another.
        """
        has_mounts = self._mounts.has_changed()
        if has_mounts:  # the directories may have mounts that do not change their fingerprints
            self._fingerprints.clear()
        try:
            status = os.stat(self.base, follow_symlinks=False)
        except OSError:
            return False
        if _identify(status) != self._identity or has_removal_flags(self._descriptor):
            return False
        return not has_mounts or _is_on_mount(self.base, read_mount_id(self._descriptor))

    def list_entries(self, name: str) -> List[str]:
        """Return the names in a directory; cheap while it is unchanged.

        If a test has replaced the directory or ``base``, the result is empty.
        """
        if self._is_unchanged(name):
            return []
        try:
            if _identify(os.stat(self.base, follow_symlinks=False)) != self._identity:
                return []
            descriptor = os.open(self._entries[name], DIRECTORY_FLAGS, dir_fd=self._descriptor)
        except OSError:
            return []
        try:
            if read_mount_id(descriptor) != read_mount_id(self._descriptor):
                return []
            return os.listdir(descriptor)
        except OSError:
            return []
        finally:
            os.close(descriptor)

    def move_aside(self, name: str, suffix: str) -> Optional[str]:
        """Rename a directory to one beside ``base``; return its path, None if that fails."""
        target = self._name + suffix
        try:
            os.rename(
                self._entries[name], target, src_dir_fd=self._descriptor, dst_dir_fd=self._parent
            )
        except OSError:
            return None
        return os.path.join(os.path.dirname(self.base), target)

    def remove_entry(self, name: str) -> None:
        """Remove any entry of ``base``, as far as possible."""
        remove_entry(self._descriptor, name)

    def remove(self) -> None:
        """Remove ``base``, as far as possible."""
        remove_entry(self._parent, self._name)

    def _is_unchanged(self, name: str) -> bool:
        try:
            status = os.stat(self._entries[name], dir_fd=self._descriptor, follow_symlinks=False)
        except OSError:
            return False
        if status.st_mtime_ns != _UNCHANGED_MTIME_NS:
            return False
        return _fingerprint(status) == self._fingerprints.get(name)

    def _recreate(self, name: str) -> None:
        self._fingerprints.pop(name, None)
        entry = _create_directory(self._descriptor, name)
        self._entries[name] = entry
        self.paths[name] = os.path.join(self.base, entry)
        descriptor = os.open(entry, DIRECTORY_FLAGS, dir_fd=self._descriptor)
        try:
            os.utime(descriptor, ns=(_UNCHANGED_MTIME_NS, _UNCHANGED_MTIME_NS))
            self._fingerprints[name] = _fingerprint(os.fstat(descriptor))
        finally:
            os.close(descriptor)


class _MountWatch:
    """Tells whether a file system has been mounted or unmounted; without /proc, never."""

    def __init__(self) -> None:
        self._poller = select.poll()
        try:
            self._descriptor = os.open("/proc/self/mountinfo", os.O_RDONLY)
        except OSError:
            return
        self._poller.register(self._descriptor, select.POLLPRI)
        self.has_changed()

    def has_changed(self) -> bool:
        """Return whether the table of mounts has changed since the last call."""
        return bool(self._poller.poll(0))


def _open_session_folder(path: str) -> int:
    """Return a descriptor of the folder of a slot's session.

    The folder is never a link or a mount: a test may have put that, a file or nothing in its place.
    """
    folder, name = os.path.split(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        unmount_entry(parent, name)
        try:
            descriptor = os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                os.unlink(name, dir_fd=parent)
            elif error.errno != errno.ENOENT:
                raise
            os.mkdir(name, 0o700, dir_fd=parent)
            descriptor = os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
    finally:
        os.close(parent)
    allow_removal(descriptor)
    return descriptor


def _create_directory(parent: int, name: str) -> str:
    """Create an empty directory and return its name.

    What has the name already is removed; if that is impossible (a file of another user, a mount
    that is in use), another name is taken.
    """
    for count in itertools.count():
        entry = "%s.%d" % (name, count) if count else name
        remove_entry(parent, entry)
        try:
            os.mkdir(entry, 0o700, dir_fd=parent)
            return entry
        except FileExistsError:
            pass
    raise AssertionError


def _identify(status: os.stat_result) -> Tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_mode, status.st_uid


def _is_on_mount(path: str, mount: str) -> bool:
    try:
        descriptor = os.open(path, DIRECTORY_FLAGS)
    except OSError:
        return False
    try:
        return read_mount_id(descriptor) == mount
    finally:
        os.close(descriptor)


def _fingerprint(status: os.stat_result) -> _Fingerprint:
    return status.st_dev, status.st_ino, status.st_mode, status.st_nlink, status.st_ctime_ns
