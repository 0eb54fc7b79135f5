"""The trees of ended sessions, of which the next session uses again what has not changed.

Responsible for the folder of kept trees in a host's cache, and for the tree of one session.  A
session takes a kept tree by renaming it, so that no two sessions have the same one.  Must not
depend on messages.
"""

import json
import os
import sys
import tempfile
import time
from typing import Any, Container, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Union

from . import tree_state
from .blob_store import BlobStore
from .manifest import HARD_LINK, ManifestEntry
from .remove_tree import remove_tree
from .tree_state import ClockStepped, CreatedFolder, FileClock, FolderEntries, FolderState

_FOLDER = "trees"
_TREE, _RECORD = "tree", "record"
#: Bytes of files up to which a tree is kept; less where all contents are read to check it.
_MAX_KEPT_BYTES, _MAX_READ_BYTES = 1 << 30, 64 << 20
#: Part of the cache's limit that one tree may take.
_LIMIT_DIVISOR = 8
#: Maximum number of kept trees.
_MAX_KEPT_TREES = 4
#: Seconds after which a tree is created anew: a disk can corrupt files that are old.
_MAX_AGE = 7 * 86_400.0
#: Seconds after which what a dead session has left is removed.
_MAX_TEMPORARY_AGE = 3600.0
#: Changes when the machine starts: after a crash, files may have lost contents.
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class _Record(NamedTuple):
    """A tree that a session has created."""

    #: Digest of its manifest.
    manifest: str
    boot: str
    #: Time of its creation, in seconds since the epoch.
    created: float
    #: Bytes of its files.
    size: int
    #: Whether the contents of its files must be read to see whether they have changed.
    reads_contents: bool
    folders: Dict[str, FolderState]


class _TakenTree(NamedTuple):
    """A kept tree that was moved to the session."""

    record: _Record
    #: Folders in which nothing has changed.
    intact: Dict[str, FolderState]
    #: Folders that are those that were created, whatever is in them now.
    same: Set[str]


class _CreatedTree(NamedTuple):
    """The tree of the session before any test has run."""

    created: float
    size: int
    folders: "Dict[str, Union[FolderState, CreatedFolder]]"
    clock: FileClock


class SessionTree:
    """The tree of one session at ``root``, which does not exist before ``create``."""

    def __init__(self, root: str, cache: str) -> None:
        self._root = root
        self._cache = os.path.join(cache, _FOLDER)
        self._taken: Optional[_TakenTree] = None
        self._manifest = ""
        #: The created tree, if it can be kept.
        self._created: Optional[_CreatedTree] = None

    def take_unchanged(self, manifest: str) -> bool:
        """Take the kept tree with this manifest; return whether there is one and it is unchanged.

        If it has changed, ``create`` completes it.
        """
        self._manifest = manifest
        if self._taken is None:
            for name in self._list_kept():
                if name.startswith(_name_start(manifest)) and self._take(name):
                    break
        return self._is_unchanged()

    def _is_unchanged(self) -> bool:
        taken = self._taken
        return (
            taken is not None
            and taken.record.manifest == self._manifest
            and len(taken.intact) == len(taken.record.folders)
        )

    def create(self, entries: Sequence[ManifestEntry], store: BlobStore) -> None:
        """Create the tree, or complete a kept one; raises what ``BlobStore.create_tree`` raises.

        ``entries`` are not used after ``take_unchanged`` has returned True.
        """
        taken, clock = self._taken, FileClock()
        if taken is not None and self._is_unchanged():
            record = taken.record
            self._created = _CreatedTree(record.created, record.size, {**record.folders}, clock)
            return
        folders = tree_state.group_by_folder(entries)
        if taken is None:
            self._take_similar(folders)
        states = self._remove_changed_files(folders)
        missing = folders.keys() - states
        store.create_tree(
            [each for each in entries if each.path.rpartition("/")[0] in missing], self._root
        )
        size = sum(entry.size for entry in entries)
        if sys.platform != "linux" or any(entry.kind == HARD_LINK for entry in entries):
            return
        try:
            finished = clock.finish()
            created = time.time()
            if self._taken is not None and states:
                created = self._taken.record.created
            every: Dict[str, Union[FolderState, CreatedFolder]] = {}
            for folder, each in folders.items():
                every[folder] = states.get(folder) or CreatedFolder(
                    tree_state.read_identity(os.path.join(self._root, folder)), each, finished
                )
            self._created = _CreatedTree(created, size, every, clock)
        except (OSError, ClockStepped):
            pass  # this tree is not kept

    def keep(self, limit: int) -> None:
        """Move the tree without what has changed to the cache, if it may be kept.

        ``limit``: bytes that the host may keep.  The caller removes what is left at ``root``.
        """
        tree = self._created
        if tree is None or not 0 < tree.size <= limit // _LIMIT_DIVISOR:
            return
        try:
            reads_contents = not tree_state.has_reliable_times(self._root)
            if tree.size > (_MAX_READ_BYTES if reads_contents else _MAX_KEPT_BYTES):
                return
            if tree_state.has_mounts(self._root):
                return
            intact, same = tree_state.find_intact(self._root, tree.folders, False)
            tree.clock.check()
            _remove_all_but(self._root, tree.folders, intact, same)
            if not intact:
                return
            folders = {
                folder: _get_state(tree.folders[folder], intact.get(folder)) for folder in same
            }
            self._store(
                _Record(
                    self._manifest,
                    _read_boot_id(),
                    tree.created,
                    tree.size,
                    reads_contents,
                    folders,
                )
            )
        except (OSError, ClockStepped):
            pass  # another file system, or files that cannot be removed

    # -- the tree of this session -------------------------------------------------

    def _remove_changed_files(self, folders: Dict[str, FolderEntries]) -> Dict[str, FolderState]:
        """Remove all that does not belong to the tree; return the folders that are complete."""
        taken = self._taken
        if taken is not None:
            states = {
                folder: state
                for folder, state in taken.intact.items()
                if folder in folders and state.entries == tree_state.digest_entries(folders[folder])
            }
            try:
                _remove_all_but(
                    self._root, taken.record.folders, states, taken.same & folders.keys()
                )
                return states
            except OSError:
                os.rename(self._root, self._root + ".discarded")
        os.mkdir(self._root, 0o755)
        return {}

    # -- the cache ------------------------------------------------------------------

    def _list_kept(self) -> List[str]:
        try:
            return sorted(name for name in os.listdir(self._cache) if name[0] != ".")
        except OSError:
            return []

    def _take_similar(self, folders: Dict[str, FolderEntries]) -> None:
        """Take the kept tree with most folders in common, if it has half of them."""
        names = self._list_kept()
        if not names:
            return
        digests = {folder: tree_state.digest_entries(each) for folder, each in folders.items()}
        counts = {}
        for name in names:
            record = self._read_record(name)
            if record is not None:
                states = record.folders.items()
                counts[name] = sum(digests.get(each) == state.entries for each, state in states)
        best = max(counts, key=counts.__getitem__, default="")
        if best and counts[best] * 2 >= len(digests):
            self._take(best)

    def _take(self, name: str) -> bool:
        """Move a kept tree to ``root``; return whether that was possible."""
        record = self._read_record(name)
        taken = self._root + ".taken"
        try:
            os.rename(os.path.join(self._cache, name), taken)
        except OSError:
            return False  # another session has it
        try:
            if record is None or not _is_usable(record):
                return False
            os.rename(os.path.join(taken, _TREE), self._root)
        except OSError:
            return False
        finally:
            remove_tree(taken)
        intact, same = tree_state.find_intact(self._root, record.folders, record.reads_contents)
        self._taken = _TakenTree(record, intact, same)
        return True

    def _read_record(self, name: str) -> Optional[_Record]:
        try:
            with open(os.path.join(self._cache, name, _RECORD), "rb") as file:
                row = json.loads(file.read().decode("ascii"))
            folders = {folder: FolderState(*state) for folder, state in row.pop().items()}
            manifest, boot, created, size, reads_contents = row
            return _Record(manifest, boot, created, size, reads_contents, folders)
        except (OSError, ValueError, TypeError, AttributeError, IndexError):
            return None

    def _store(self, record: _Record) -> None:
        os.makedirs(self._cache, mode=0o700, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=".", dir=self._cache)
        name = _name_start(record.manifest) + os.path.basename(temporary)[1:]
        row: List[Any] = [*record]
        try:
            with open(os.path.join(temporary, _RECORD), "wb") as file:
                file.write(json.dumps(row, separators=(",", ":")).encode("ascii"))
            os.rename(self._root, os.path.join(temporary, _TREE))
            os.rename(temporary, os.path.join(self._cache, name))
        except OSError:
            remove_tree(temporary)
            raise
        self._remove_old()

    def _remove_old(self) -> None:
        """Remove the trees beyond the maximum number, the oldest first, and those of the dead."""
        ages = {}
        for name in os.listdir(self._cache):
            try:
                path = os.path.join(self._cache, name)
                ages[path] = time.time() - os.lstat(path).st_mtime
            except OSError:
                pass  # another session has taken it
        kept = sorted((path for path in ages if not _is_temporary(path)), key=ages.__getitem__)
        for path, age in ages.items():
            if path in kept[:_MAX_KEPT_TREES]:
                is_old = age > _MAX_AGE
            else:
                is_old = not _is_temporary(path) or age > _MAX_TEMPORARY_AGE
            if is_old:
                remove_tree(path)


def _get_state(
    created: "Union[FolderState, CreatedFolder]", intact: Optional[FolderState]
) -> FolderState:
    """Return the state of a folder; one that was emptied is completed by the next session."""
    return intact or FolderState(created.identity, "", "", "")


def _is_temporary(path: str) -> bool:
    return os.path.basename(path).startswith(".")


def _name_start(manifest: str) -> str:
    return manifest[:32] + "-"


def _is_usable(record: _Record) -> bool:
    return record.boot == _read_boot_id() and 0 <= time.time() - record.created <= _MAX_AGE


def _read_boot_id() -> str:
    with open(_BOOT_ID, encoding="ascii") as file:
        return file.read().strip()


def _remove_all_but(
    root: str, folders: Iterable[str], complete: Container[str], same: Set[str]
) -> None:
    """Remove all of a tree but the folders in ``same``, and the files of those in ``complete``.

    ``folders``: all that were created.  Raises OSError if something cannot be removed.
    """
    if "" not in same:
        raise OSError("the root of the tree was replaced")
    subfolders: Dict[str, Set[str]] = {}
    for folder in folders:
        parent, _, name = folder.rpartition("/")
        if folder in same:
            subfolders.setdefault(parent, set()).add(name)
        elif parent in same:
            _remove(os.path.join(root, folder))
    for folder in same:
        if folder not in complete:
            path = os.path.join(root, folder)
            kept = subfolders.get(folder, set())
            for name in os.listdir(path):
                if name not in kept:
                    _remove(os.path.join(path, name))


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        if not remove_tree(path):
            raise OSError("cannot remove %s" % path) from None
