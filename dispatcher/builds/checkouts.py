"""The files of revisions on this disk, one folder for each revision.

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

from ..configuration.settings import PART
from ..sources.git_command import SourceError
from ..sources.source import Source

#: Checkouts whose list of files is kept in memory.
_MAX_REMEMBERED = 64


@dataclass(frozen=True)
class Checkout:
    """The files of a revision on this disk."""

    root: Path
    tree: tree_scan.SourceTree
    content: Content

    @cached_property
    def files(self) -> dict[str, str]:
        """Return mode and digest of each file by path: ``100644 ab12...``."""
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
        self._known: OrderedDict[tuple[str, str], Checkout] = OrderedDict()
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._lock = threading.Lock()

    def path(self, source: str, revision: str) -> Path:
        """Return the folder of a revision, which may not exist yet."""
        if not revision.isalnum():
            raise SourceError(f"{revision!r} is no revision")
        return self.folder / source / revision

    def get(self, source: str, revision: str, digest: str = "") -> Checkout:
        """Return the files of a revision, written first if need be; raises SourceError.

        ``digest`` is the digest of its files when it was first examined.  A power cut may have
        left other contents; they are written anew.
        """
        key = source, revision
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            found = self._known.get(key) or self._make(source, revision)
            if digest and found.content.digest != digest:
                shutil.rmtree(found.root, ignore_errors=True)
                found = self._make(source, revision)
        with self._lock:
            self._known[key] = found
            self._known.move_to_end(key)
            while len(self._known) > _MAX_REMEMBERED:
                self._known.popitem(last=False)
            if len(self._locks) > 4 * _MAX_REMEMBERED:
                self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
        return found

    def _make(self, source: str, revision: str) -> Checkout:
        if source not in self._sources:
            raise SourceError(f"the source {source} is not in the dispatcher's file any more")
        path = self.path(source, revision)
        self._sources[source].checkout(revision, path)
        try:
            return scan_folder(path, source)
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error

    def forget(self, source: str, revision: str) -> None:
        """Forget the list of files of a revision, so that the next ``get`` reads them again."""
        with self._lock:
            self._known.pop((source, revision), None)

    def recover(self) -> None:
        """Remove what a killed process left half written; call it only before the first ``get``."""
        for path in self.folder.glob(f"*/{PART}*"):
            shutil.rmtree(path, ignore_errors=True)

    def sweep(self, keep: Iterable[tuple[str, str]]) -> None:
        """Remove the folders of all revisions but ``keep``, except those being written now."""
        wanted = {self.path(*each) for each in keep}
        found = (each for each in self.folder.glob("*/*") if not each.name.startswith(PART))
        for path in [each for each in found if each not in wanted]:
            key = path.parent.name, path.name
            with self._lock:
                lock = self._locks.setdefault(key, threading.Lock())
            with lock:
                self._known.pop(key, None)
                shutil.rmtree(path, ignore_errors=True)


def scan_folder(root: Path, name: str) -> Checkout:
    """Return a folder as it is shipped: every file, since the source chose them already."""
    tree = tree_scan.scan_all(root)
    digest, size = upload.named(tree)
    return Checkout(root, tree, Content(TREE, digest, size, name))
