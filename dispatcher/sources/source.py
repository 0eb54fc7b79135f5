"""The interface of a watched tree, and the commits between two of its revisions."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from ..policy.change_detection import Commit


class CommitRange(NamedTuple):
    """The commits from one revision to another."""

    #: Oldest first; the last one is where the branch stands.
    commits: tuple[Commit, ...]
    #: The newer revision does not descend from the older one.
    forced: bool = False


class Source(Protocol):
    """A watched tree.  Each method may raise SourceError; the source is polled again later."""

    def heads(self) -> dict[str, str]:
        """Return the present revision of each branch; all of them can be checked out then."""

    def between(self, before: str, revision: str) -> CommitRange:
        """Return the commits from ``before`` to ``revision``.

        If ``before`` is empty the branch is new, and only its last commit is returned.
        """

    def checkout(self, revision: str, folder: Path) -> None:
        """Make a folder with the files of a revision, all or none; one that is there stays."""

    def tidy(self) -> None:
        """Free the disk space of what is no longer needed; may take minutes."""
