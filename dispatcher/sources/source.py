"""The interface of a watched source, and the commits between two of its revisions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from ..policy.revision_selection import Commit


class CommitRange(NamedTuple):
    """The commits from one revision to another."""

    #: Oldest first; the last one is the newer revision.
    commits: tuple[Commit, ...]
    #: Whether the newer revision does not descend from the older one.
    forced: bool = False


class Heads(dict[str, str]):
    """The present revision by branch, and why the heads of some branches are not known."""

    def __init__(self, heads: Mapping[str, str], error: str = "") -> None:
        """``error``: empty if all branches could be read."""
        super().__init__(heads)
        self.error = error


class Source(Protocol):
    """A watched source.  Each method may raise SourceError; the source is polled again later."""

    def heads(self) -> dict[str, str]:
        """Return the present revision by branch; each can then be checked out.

        The result is ``Heads`` with an error if some branches could not be read.
        """

    def commits_between(self, before: str, revision: str) -> CommitRange:
        """Return the commits from ``before`` to ``revision``.

        If ``before`` is empty the branch is new, and only its last commit is returned.
        """

    def checkout(self, revision: str, folder: Path) -> None:
        """Create ``folder`` with all files of a revision; leave it alone if it exists."""

    def clean_up(self) -> None:
        """Free the disk space of data that is no longer needed; may take minutes."""
