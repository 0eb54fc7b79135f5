"""A watched directory that is not a repository.

Must not know builds or the database.  Its files may change at any moment, so a copy is compared
with the revision that it is made for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from shell_runner.errors import UsageError
from shell_runner.remote.files.manifest import (
    FILE,
    HARD_LINK,
    LINK,
    BadManifestEntry,
    ManifestEntry,
)
from shell_runner.shipping import tree_scan
from shell_runner.text import escape_unprintable

from ..policy.revision_selection import Commit
from .checkout import CHUNK_SIZE, check_links, write_atomically, write_file, write_link
from .git_command import SourceError
from .source import CommitRange


class DirectorySource:
    """A plain directory; its revision is the digest of the files that are shipped."""

    #: The name of its only branch.
    BRANCH = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Entries by path of the last trees, by revision, to find what changed between them.
        self._known_trees: dict[str, dict[str, ManifestEntry]] = {}

    def heads(self) -> dict[str, str]:
        """Return the present revision of the only branch."""
        revision, _ = self._scan()
        return {self.BRANCH: revision}

    def commits_between(self, before: str, revision: str) -> CommitRange:
        """Return one commit; its paths are known only if this process has seen both trees."""
        old, new = self._known_trees.get(before), self._known_trees.get(revision)
        if old is None or new is None:
            return CommitRange((Commit(revision),))
        changed = (path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
        return CommitRange((Commit(revision, paths=tuple(sorted(changed))),))

    def checkout(self, revision: str, folder: Path) -> None:
        """Copy the directory.  Raises SourceError if it has another revision now."""
        if folder.is_dir():
            return
        current, entries = self._scan()
        if current != revision:
            raise SourceError(f"{self.path} has changed; the revision does not exist any more")
        with write_atomically(folder, f"a copy of {self.path}") as part:
            root = os.fsencode(part)
            for entry in entries:
                if entry.kind == FILE:
                    write_file(root, os.fsencode(entry.path), entry.mode, self._read(entry))
                elif entry.kind == HARD_LINK:
                    _write_hard_link(part, entry.path, entry.digest)
            link_entries = (entry for entry in entries if entry.kind == LINK)
            links = {os.fsencode(link.path): os.fsencode(link.digest) for link in link_entries}
            check_links(links, str(self.path))
            for path, target in links.items():
                write_link(root, path, target)

    def clean_up(self) -> None:
        """Do nothing: a directory has no mirror."""

    def _read(self, entry: ManifestEntry) -> Iterator[bytes]:
        """Yield the contents of a file; raise SourceError at the end if the digest is wrong."""
        digest = hashlib.sha256()
        with open(self.path / entry.path, "rb", buffering=0) as file:
            while chunk := file.read(CHUNK_SIZE):
                digest.update(chunk)
                yield chunk
        if digest.hexdigest() != entry.digest:
            raise SourceError(f"{escape_unprintable(entry.path)} has changed while it was copied")

    def _scan(self) -> tuple[str, tuple[ManifestEntry, ...]]:
        try:
            with os.scandir(self.path):
                pass
            entries = tree_scan.scan(self.path, ()).entries
        except (OSError, BadManifestEntry) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise SourceError(f"{self.path} cannot be read: {reason}") from error
        except UsageError as error:
            raise SourceError(str(error)) from error
        if not entries:
            raise SourceError(f"{self.path} is empty")
        # A change of a file is a change of all of its names.
        files = tuple(tree_scan.replace_hard_links(entries))
        revision = tree_digest(files)
        recent = {key: self._known_trees[key] for key in list(self._known_trees)[-3:]}
        self._known_trees = {**recent, revision: {entry.path: entry for entry in files}}
        return revision, entries


def _write_hard_link(root: Path, path: str, original: str) -> None:
    """Create ``path`` below ``root`` as a further name of the file ``original``."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    os.link(root / original, root / path, follow_symlinks=False)


def tree_digest(entries: Iterable[ManifestEntry]) -> str:
    """Return a digest of paths, kinds, modes and contents; the order of entries does not matter."""
    digest = hashlib.sha256()
    for entry in sorted(entries):
        fields = (entry.path, entry.kind, "%o" % entry.mode, entry.digest)
        digest.update("\0".join(fields).encode("utf-8", "surrogateescape") + b"\0\n")
    return digest.hexdigest()
