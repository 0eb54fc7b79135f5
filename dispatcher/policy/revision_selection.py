"""Decide which revisions of a source are built.

Pure.  The watcher of a source compares the heads of its branches (``compare_heads``), asks git for
the commits between them, and then asks which of these are built (``changes_to_build``) and which
builds are no longer needed (``superseded_builds``).

Of a source or a branch that is seen for the first time only the head is built, never its history.
A force-push is one change, to the new head, and is marked as forced: the commits between do not
follow on each other.  A branch that is gone is forgotten; if it comes back, it is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..configuration.glob_patterns import compile_patterns
from ..configuration.settings import Source
from ..model import Build, BuildState, Change

#: Branches that are named in an error.
_MAX_NAMED_BRANCHES = 5


@dataclass(frozen=True)
class Move:
    """A branch whose head has changed."""

    branch: str
    #: The head before; empty: the branch is new.
    before: str
    revision: str


@dataclass(frozen=True)
class Moves:
    """The differences between the heads of a source at two times."""

    moved: tuple[Move, ...] = ()
    #: Branches that are gone; their heads are to be forgotten.
    gone: tuple[str, ...] = ()
    #: The reason why nothing can ever be built, and what to do; empty: all is well.
    error: str = ""


@dataclass(frozen=True)
class Commit:
    """A commit between two heads."""

    revision: str
    author: str = ""
    subject: str = ""
    #: Paths that it changes; None: not known, so any path may be changed.
    paths: tuple[str, ...] | None = None


def compare_heads(source: Source, before: Mapping[str, str], now: Mapping[str, str]) -> Moves:
    """Compare two states of a source; both map branches to revisions.

    ``before`` is empty at first.  Branches that the source's patterns exclude are ignored.
    """
    is_wanted = compile_patterns(source.branches) if source.git else _any
    heads = {branch: revision for branch, revision in sorted(now.items()) if is_wanted(branch)}
    moved = tuple(
        Move(branch, before.get(branch, ""), revision)
        for branch, revision in heads.items()
        if before.get(branch) != revision
    )
    gone = tuple(sorted(branch for branch in before if branch not in heads))
    return Moves(moved, gone, "" if heads else _no_branch_error(source, now))


def _any(branch: str) -> bool:
    return True


def _no_branch_error(source: Source, now: Mapping[str, str]) -> str:
    if not now:
        return "the repository is empty: there is no branch yet"
    names = sorted(now)
    more = ", ..." if len(names) > _MAX_NAMED_BRANCHES else ""
    existing = ", ".join(names[:_MAX_NAMED_BRANCHES]) + more
    patterns = ", ".join(source.branches)
    return f"no branch matches {patterns}; there are: {existing} (see branches in [sources])"


def changes_to_build(
    source: Source,
    source_id: int,
    move: Move,
    commits: Sequence[Commit],
    forced: bool = False,
    seen: float = 0.0,
) -> tuple[Change, ...]:
    """Return the changes of a move that are built, oldest first.

    ``source_id``: the source's id in the database.  ``commits``: the commits that are new, oldest
    first, the head last; of a branch that is new or was ``forced`` only the head matters.
    ``seen``: when the move was seen, in seconds since the epoch.  Nothing is returned if no path
    that the source names has changed.
    """
    if not commits or commits[-1].revision != move.revision:
        commits = [*commits, Commit(move.revision)]
    is_jump = forced or not move.before
    chosen = _choose(source, commits[-1:] if is_jump else commits, is_jump)
    befores = [move.before, *(commit.revision for commit in chosen)]
    return tuple(
        Change(
            source_id,
            move.branch,
            commit.revision,
            before,
            forced=forced,
            author=commit.author,
            subject=commit.subject,
            seen_at=seen,
        )
        for commit, before in zip(chosen, befores, strict=False)
    )


def _choose(source: Source, commits: Sequence[Commit], is_jump: bool) -> Sequence[Commit]:
    """Choose commits by their paths and by the rule for bursts.

    After a jump (a new branch, a force-push) the paths that changed are not known.
    """
    matches = compile_patterns(source.paths)

    def touches(commit: Commit) -> bool:
        if is_jump or not source.paths or commit.paths is None:
            return True
        return any(map(matches, commit.paths))

    touching = [commit for commit in commits if touches(commit)]
    if source.bursts == "every":
        return touching
    # Whichever commit touched the paths: the head includes it.
    return commits[-1:] if touching else []


def superseded_builds(
    source: Source, branch: str, builds: Iterable[tuple[Build, Change]], gone: bool = False
) -> tuple[tuple[int, str], ...]:
    """Return the builds of a branch that are no longer needed, each with the reason.

    Only builds that have not begun are superseded, and only where the newest commit is all that is
    wanted.  ``gone``: the branch was deleted.
    """
    if source.bursts == "every":
        return ()
    candidates = sorted((c.id, b.id, b.state) for b, c in builds if c.branch == branch)
    newest = candidates[-1][0] if candidates and not gone else 0
    reason = "its branch was deleted" if gone else "a newer change came first"
    return tuple(
        (build, reason)
        for change, build, state in candidates
        if change != newest and state is BuildState.NEW
    )
