"""The state of a tree's folders: what was created in them, and whether it is still as it was.

Responsible for reading and comparing states.  Must not change files.  A tree has the state of one
folder after the other, so that a change of a file concerns its folder alone.
"""

import hashlib
import os
import stat
import time
from typing import (
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

from .manifest import FILE, ManifestEntry

#: File systems on which each change of a file, also one through mmap(2), changes its ctime.
_RELIABLE_FILE_SYSTEMS = frozenset(["ext2", "ext3", "ext4", "xfs", "btrfs", "overlay"])
#: The clock of the times of files, which advances in steps (Linux).
_COARSE_CLOCK = 5
#: Seconds to wait for a step of that clock at most.
_MAX_STEP_WAIT = 0.1
#: Seconds by which two readings of the clocks differ although none was set.
_MAX_OFFSET_CHANGE = 0.01

#: The entries of a folder by name; None: a folder.
FolderEntries = Dict[str, Optional[ManifestEntry]]


class FolderState(NamedTuple):
    """One folder of a tree as it was when it was read."""

    #: Device, inode, mode and owner.
    identity: List[int]
    #: Digest of the entries of the manifest, and of the names of folders.
    entries: str
    #: Digest of the names and of the times, inodes, sizes and modes of files.
    files: str
    #: Digest of the contents of files.
    contents: str


class CreatedFolder(NamedTuple):
    """One folder of a tree that this process has created."""

    #: Device, inode, mode and owner.
    identity: List[int]
    entries: FolderEntries
    #: Nanoseconds since the epoch at which all files had been created; what changes later has
    #: later times.
    finished: int


class ClockStepped(Exception):
    """The clock of the machine was set, so that times of files prove nothing."""


def group_by_folder(entries: Iterable[ManifestEntry]) -> Dict[str, FolderEntries]:
    """Return the entries of each folder, which is "" for the root, in order of their paths."""
    folders: Dict[str, FolderEntries] = {"": {}}
    for entry in entries:
        folder, _, name = entry.path.rpartition("/")
        if folder not in folders:
            _add_folder(folders, folder)
        folders[folder][name] = entry
    return dict(sorted(folders.items()))


def _add_folder(folders: Dict[str, FolderEntries], folder: str) -> None:
    while folder not in folders:
        folders[folder] = {}
        parent, _, name = folder.rpartition("/")
        folders.setdefault(parent, {})[name] = None
        folder = parent


def digest_entries(entries: FolderEntries) -> str:
    """Return a digest of the entries of one folder, which does not depend on their order."""
    rows = [
        (name, entry[1:] if entry is not None else None) for name, entry in sorted(entries.items())
    ]
    return _digest(rows)


def _digest(rows: Sequence[Tuple[object, ...]]) -> str:
    return hashlib.sha256(repr(rows).encode("utf-8", "surrogatepass")).hexdigest()


def find_intact(
    root: str, folders: "Mapping[str, Union[FolderState, CreatedFolder]]", reads_contents: bool
) -> "Tuple[Dict[str, FolderState], Set[str]]":
    """Return the states of the folders that are as they were, and those of the same identity.

    The latter include the former; what is in them may have changed.  ``reads_contents``: times are
    not enough.
    """
    intact, same = {}, set()
    for folder, expected in sorted(folders.items()):
        path = root + "/" + folder if folder else root
        try:
            if folder and folder.rpartition("/")[0] not in same:
                continue
            if read_identity(path) != expected.identity:
                continue
            same.add(folder)
            state = _read_intact(path, expected)
            if state is None:
                continue
            if not reads_contents or _digest_contents(path) == state.contents:
                intact[folder] = state
        except OSError:
            pass
    return intact, same


def _read_intact(path: str, expected: "Union[FolderState, CreatedFolder]") -> Optional[FolderState]:
    """Return the state of a folder if its files have not changed, as far as times tell."""
    names, folders, digest, newest = _read_files(path)
    if isinstance(expected, FolderState):
        return expected if expected.files == digest else None
    if newest > expected.finished or names != expected.entries.keys():
        return None
    if folders != {name for name, entry in expected.entries.items() if entry is None}:
        return None
    contents = [
        (name, entry.digest)
        for name, entry in sorted(expected.entries.items())
        if entry is not None and entry.kind == FILE
    ]
    return FolderState(
        expected.identity, digest_entries(expected.entries), digest, _digest(contents)
    )


def read_identity(path: str) -> List[int]:
    """Return device, inode, mode and owner; raises OSError."""
    status = os.lstat(path)
    return [status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid]


def _read_files(path: str) -> Tuple[Set[str], Set[str], str, int]:
    """Return what a folder contains.

    These are all names, those of folders, a digest of the files by their times, and the newest
    ctime of a file in ns.
    """
    rows: List[Tuple[object, ...]] = []
    names, folders = set(), set()
    newest = 0
    with os.scandir(path) as found:
        for each in found:
            name, status = each.name, each.stat(follow_symlinks=False)
            names.add(name)
            if stat.S_ISDIR(status.st_mode):
                folders.add(name)
                rows.append((name,))
                continue
            newest = max(newest, status.st_ctime_ns)
            rows.append((
                name, status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid,
                status.st_nlink, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
            ))  # fmt: skip
    rows.sort()
    return names, folders, _digest(rows), newest


def _digest_contents(path: str) -> str:
    with os.scandir(path) as found:
        names = sorted(each.name for each in found if each.is_file(follow_symlinks=False))
    return _digest([(name, _hash_file(path + "/" + name)) for name in names])


def _hash_file(path: str) -> str:
    hasher = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        data = os.read(descriptor, 1 << 20)
        while data:
            hasher.update(data)
            data = os.read(descriptor, 1 << 20)
    finally:
        os.close(descriptor)
    return hasher.hexdigest()


def has_reliable_times(path: str) -> bool:
    """Return whether each change of a file on the file system of ``path`` changes its times.

    On a tmpfs, for example, a change through mmap(2) does not.
    """
    try:
        device = os.stat(path).st_dev
        name = b"%d:%d" % (os.major(device), os.minor(device))
        for fields in _read_mounts():
            if fields[2] == name:
                kind = fields[fields.index(b"-") + 1].decode("ascii", "replace")
                return kind in _RELIABLE_FILE_SYSTEMS
    except (OSError, ValueError, IndexError):
        pass
    return False


def has_mounts(root: str) -> bool:
    """Return whether something may be mounted below ``root``."""
    prefix = os.fsencode(os.path.realpath(root)) + b"/"
    try:
        return any(fields[4].startswith(prefix) for fields in _read_mounts())
    except (OSError, IndexError):
        return True


def _read_mounts() -> Iterator[List[bytes]]:
    """Yield the fields of each line of proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            yield line.split()


class FileClock:
    """The clock of the times of files."""

    def __init__(self) -> None:
        self._offset = _read_offset()

    def finish(self) -> int:
        """Return a time in ns: files have it or an earlier one, and get a later one if they change.

        Raises ClockStepped.
        """
        finished = time.time_ns()
        deadline = time.monotonic() + _MAX_STEP_WAIT
        # A file gets at least the time of this clock, which is behind by up to one step.
        while time.clock_gettime_ns(_COARSE_CLOCK) <= finished:
            if time.monotonic() > deadline:
                raise ClockStepped
            time.sleep(0.001)
        return finished

    def check(self) -> None:
        """Raise ClockStepped if the clock was set since this object was created."""
        if abs(_read_offset() - self._offset) > _MAX_OFFSET_CHANGE:
            raise ClockStepped


def _read_offset() -> float:
    return time.time() - time.monotonic()
