"""A cache of checkouts, one folder for each revision.

Owns the folder of checkouts.  Must not know builds or the database.
"""

from __future__ import annotations

import shutil
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from shell_runner.remote.files.manifest import LINK
from shell_runner.remote.protocol.job import TREE, Content
from shell_runner.shipping import tree_scan, upload

from ..configuration.settings import TEMPORARY_PREFIX
from ..sources.git_command import SourceError
from ..sources.source import Source

#: Maximum number of checkouts whose list of files is kept in memory.
_MAX_REMEMBERED = 64


@dataclass(frozen=True)
class Checkout:
    """The files of a revision on this disk."""

    root: Path
    tree: tree_scan.SourceTree
    content: Content

    @cached_property
    def files(self) -> dict[str, str]:
        """Mode and digest of each file by path, as ``100644 ab12...``."""
        return {
            each.path: f"120000 {each.digest}"
            if each.kind == LINK
            else f"{stat.S_IFREG | each.mode:o} {each.digest}"
            for each in self.tree.entries
        }


class CheckoutCache:
    """A folder for each revision in use; each is written once."""

    def __init__(self, folder: Path, sources: Mapping[str, Source]) -> None:
        self.folder = folder
        self._sources = sources
        self._checkouts: OrderedDict[tuple[str, str], Checkout] = OrderedDict()
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._lock = threading.Lock()

    def path(self, source: str, revision: str) -> Path:
        """Return the folder of a revision, which may not exist yet."""
        if not revision.isalnum():
            raise SourceError(f"{revision!r} is not a revision")
        return self.folder / source / revision

    def get(self, source: str, revision: str, digest: str = "") -> Checkout:
        """Return the files of a revision; write them first if they are not there.

        ``digest`` is the digest of its files when it was first examined, or empty.  If the files
        have another one, for example after a power failure, they are written again.

        Raises SourceError if the revision cannot be read or written.
        """
        key = source, revision
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            checkout = self._checkouts.get(key) or self._write(source, revision)
            if digest and checkout.content.digest != digest:
                shutil.rmtree(checkout.root, ignore_errors=True)
                checkout = self._write(source, revision)
        with self._lock:
            self._checkouts[key] = checkout
            self._checkouts.move_to_end(key)
            while len(self._checkouts) > _MAX_REMEMBERED:
                self._checkouts.popitem(last=False)
            if len(self._locks) > 4 * _MAX_REMEMBERED:
                self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
        return checkout

    def _write(self, source: str, revision: str) -> Checkout:
        if source not in self._sources:
            raise SourceError(f"the source {source} is not configured any more")
        path = self.path(source, revision)
        self._sources[source].checkout(revision, path)
        try:
            return scan_folder(path, source)
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error

    def forget(self, source: str, revision: str) -> None:
        """Forget the list of files of a revision, so that the next ``get`` reads them again."""
        with self._lock:
            self._checkouts.pop((source, revision), None)

    def recover(self) -> None:
        """Remove the unfinished folders of a killed process; call it only before any ``get``."""
        for path in self.folder.glob(f"*/{TEMPORARY_PREFIX}*"):
            shutil.rmtree(path, ignore_errors=True)

    def sweep(self, keep: Iterable[tuple[str, str]]) -> None:
        """Remove the folders of all revisions but ``keep`` and those that are being written.

        ``keep``: pairs of source and revision.
        """
        wanted = {self.path(*each) for each in keep}
        paths = [each for each in self.folder.glob("*/*") if each not in wanted]
        for path in paths:
            if path.name.startswith(TEMPORARY_PREFIX):
                continue
            key = path.parent.name, path.name
            with self._lock:
                lock = self._locks.setdefault(key, threading.Lock())
            with lock:
                self._checkouts.pop(key, None)
                shutil.rmtree(path, ignore_errors=True)


def scan_folder(root: Path, name: str) -> Checkout:
    """Return all files of a folder as a checkout called ``name``.

    The source has chosen the files already, so none is left out.  Raises OSError.
    """
    tree = tree_scan.scan_all(root)
    digest, size = upload.identify_tree(tree)
    return Checkout(root, tree, Content(TREE, digest, size, name))
