"""A watched directory that is no repository.

Must not know builds or the database.  Its files may change at any moment, so a copy is checked
against the revision that it is made for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from shell_runner.errors import UsageError
from shell_runner.remote.files.manifest import FILE, LINK, BadEntry, Entry
from shell_runner.shipping import tree_scan
from shell_runner.text import printable

from ..policy.change_detection import Commit
from .checkout import CHUNK_SIZE, check_links, write_atomically, write_file, write_link
from .git_command import SourceError
from .source import CommitRange


class DirectorySource:
    """A plain directory; its revision is the digest of the files that would be shipped."""

    #: The name of its only branch.
    BRANCH = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Entries by path of the last trees, by revision, to tell what changed between them.
        self._seen: dict[str, dict[str, Entry]] = {}

    def heads(self) -> dict[str, str]:
        """Return the present revision of the only branch."""
        revision, _ = self._look()
        return {self.BRANCH: revision}

    def between(self, before: str, revision: str) -> CommitRange:
        """Return one commit; its paths are known only if this process has seen both trees."""
        old, now = self._seen.get(before), self._seen.get(revision)
        if old is None or now is None:
            return CommitRange((Commit(revision),))
        changed = (path for path in old.keys() | now.keys() if old.get(path) != now.get(path))
        return CommitRange((Commit(revision, paths=tuple(sorted(changed))),))

    def checkout(self, revision: str, folder: Path) -> None:
        """Copy the directory.  Raises SourceError if it has another revision now."""
        if folder.is_dir():
            return
        now, entries = self._look()
        if now != revision:
            raise SourceError(f"{self.path} has changed meanwhile: that revision is gone")
        with write_atomically(folder, f"a copy of {self.path}") as part:
            root = os.fsencode(part)
            for entry in entries:
                if entry.kind == FILE:
                    write_file(root, os.fsencode(entry.path), entry.mode, self._read(entry))
            found = (each for each in entries if each.kind == LINK)
            links = {os.fsencode(each.path): os.fsencode(each.digest) for each in found}
            for path, target in links.items():
                write_link(root, path, target)
            check_links(links, str(self.path))

    def tidy(self) -> None:
        """Do nothing: a directory has no mirror."""

    def _read(self, entry: Entry) -> Iterator[bytes]:
        found = hashlib.sha256()
        with open(self.path / entry.path, "rb", buffering=0) as file:
            while piece := file.read(CHUNK_SIZE):
                found.update(piece)
                yield piece
        if found.hexdigest() != entry.digest:
            raise SourceError(f"{printable(entry.path)} has changed while it was copied")

    def _look(self) -> tuple[str, tuple[Entry, ...]]:
        try:
            with os.scandir(self.path):
                pass
            entries = tree_scan.scan(self.path, ()).entries
        except (OSError, BadEntry) as error:
            words = error.strerror if isinstance(error, OSError) else error
            raise SourceError(f"{self.path} cannot be read: {words}") from error
        except UsageError as error:
            raise SourceError(str(error)) from error
        if not entries:
            raise SourceError(f"{self.path}: there is nothing in it")
        revision = tree_digest(entries)
        kept = {key: self._seen[key] for key in list(self._seen)[-3:]}
        self._seen = {**kept, revision: {entry.path: entry for entry in entries}}
        return revision, entries


def tree_digest(entries: Iterable[Entry]) -> str:
    """Return the digest of paths, kinds, modes and contents, independent of the order."""
    found = hashlib.sha256()
    for entry in sorted(entries):
        fields = (entry.path, entry.kind, "%o" % entry.mode, entry.digest)
        found.update("\0".join(fields).encode("utf-8", "surrogateescape") + b"\0\n")
    return found.hexdigest()
