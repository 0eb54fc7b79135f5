"""From where branches stood, and stand, to what is built.

Pure: whoever watches a source asks ``moves`` what is new, finds out what lies between (a question
for git), and asks ``changes`` what of it is built, and ``superseded`` what need not be any more.

The first look at a source, and at a branch, builds where it stands, never its history.  A
force-push is one change, to where the branch stands now, with that word: what was rewritten is no
sequence of commits.  A branch that is gone is forgotten; if it comes back, it is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..globs import matcher
from ..model import Build, BuildState, Change
from ..settings import Source


@dataclass(frozen=True)
class Move:
    """A branch stands somewhere else."""

    branch: str
    #: Empty: it is new to us.
    before: str
    revision: str


@dataclass(frozen=True)
class Moves:
    """What is new in a source."""

    moved: tuple[Move, ...] = ()
    #: Branches that are gone: their heads are to be forgotten.
    gone: tuple[str, ...] = ()
    #: Why nothing can ever come of this, with what to do; empty: all is well.
    trouble: str = ""


@dataclass(frozen=True)
class Commit:
    """One commit between two heads."""

    revision: str
    author: str = ""
    subject: str = ""
    #: Paths that it changes; None: not known, so it may be any.
    paths: tuple[str, ...] | None = None


def moves(source: Source, before: Mapping[str, str], now: Mapping[str, str]) -> Moves:
    """Compare the heads of a source with those of the last look (empty: the first one)."""
    wanted = matcher(source.branches) if source.git else _all
    heads = {branch: revision for branch, revision in sorted(now.items()) if wanted(branch)}
    moved = tuple(
        Move(branch, before.get(branch, ""), revision)
        for branch, revision in heads.items()
        if before.get(branch) != revision
    )
    gone = tuple(sorted(branch for branch in before if branch not in heads))
    return Moves(moved, gone, "" if heads else _unmatched(source, now))


def _all(branch: str) -> bool:
    return True


def _unmatched(source: Source, now: Mapping[str, str]) -> str:
    if not now:
        return "it is empty: there is no branch yet"
    there = ", ".join(sorted(now)[:5]) + (", ..." if len(now) > 5 else "")
    wanted = ", ".join(source.branches)
    return f"no branch matches {wanted}; there are: {there} (see branches in [sources])"


def changes(
    source: Source,
    source_id: int,
    move: Move,
    commits: Sequence[Commit],
    forced: bool = False,
    seen: float = 0.0,
) -> tuple[Change, ...]:
    """What is built of a move, oldest first; empty: nothing that the source's paths name changed.

    ``commits``: those that were not there before, oldest first; the last one is where the branch
    stands.  For a branch that is new or was forced, only this last one matters.
    """
    if not commits or commits[-1].revision != move.revision:
        commits = [*commits, Commit(move.revision)]
    jump = forced or not move.before
    chosen = _chosen(source, commits[-1:] if jump else commits, jump)
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
            seen=seen,
        )
        for commit, before in zip(chosen, befores, strict=False)
    )


def _chosen(source: Source, commits: Sequence[Commit], jump: bool) -> Sequence[Commit]:
    """By the paths and the rule for bursts.  After a jump nobody knows which paths changed."""
    matches = matcher(source.paths)

    def touches(commit: Commit) -> bool:
        return jump or not source.paths or commit.paths is None or any(map(matches, commit.paths))

    touching = [commit for commit in commits if touches(commit)]
    if source.bursts == "every":
        return touching
    # Whichever of them touched the paths: where the branch stands has it.
    return commits[-1:] if touching else []


def superseded(
    source: Source, branch: str, builds: Iterable[tuple[Build, Change]], gone: bool = False
) -> tuple[tuple[int, str], ...]:
    """Builds of a branch that need not be made any more, with the reason.

    Only those with which nothing was done; and only where the newest commit is all that is wanted.
    ``gone``: the branch was deleted.
    """
    if source.bursts == "every":
        return ()
    ours = sorted((c.id, b.id, b.state) for b, c in builds if c.branch == branch)
    newest = ours[-1][0] if ours and not gone else 0
    why = "its branch was deleted" if gone else "a newer change came first"
    return tuple(
        (build, why)
        for change, build, state in ours
        if change != newest and state is BuildState.NEW
    )
