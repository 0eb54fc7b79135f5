"""Where a build stands, in one word for programs and a few for people.

Pure: rows in, words out.  For whoever shows builds; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from ..model import BUILD, Build, BuildState, StageRun, StageState
from . import promotion


class Outcome(StrEnum):
    """What a build has come to."""

    #: Something comes by itself.
    GOING = "going"
    #: Nothing more to do: every stage has passed.
    PASSED = "passed"
    #: Somebody has to approve, to release, or to tag.
    STOPPED = "stopped"
    #: The build or a test is at fault.
    FAILED = "failed"
    #: Infrastructure is.
    ERROR = "error"
    #: A newer change came first.
    SUPERSEDED = "superseded"


class Standing(NamedTuple):
    """An outcome in words."""

    outcome: Outcome
    words: str

    @property
    def over(self) -> bool:
        """Nothing more comes by itself."""
        return self.outcome is not Outcome.GOING


_BEFORE = {
    BuildState.NEW: (Outcome.GOING, "waits for its turn"),
    BuildState.BUILDING: (Outcome.GOING, "is being built"),
    BuildState.FAILED: (Outcome.FAILED, "could not be built"),
    BuildState.INVALID: (Outcome.FAILED, "has a nosejobs.toml that cannot be understood"),
    BuildState.SUPERSEDED: (Outcome.SUPERSEDED, "a newer change came first"),
}

#: What counts most comes first: a state of the newest run of a stage (None: it has passed, and has
#: no tag that counts), what it makes of the build, and the words for the stages in it.
_STAGES: tuple[tuple[StageState | None, Outcome, str], ...] = (
    (StageState.RUNNING, Outcome.GOING, "runs {}"),
    (StageState.PLACING, Outcome.GOING, "{} wait{s} for a host"),
    (StageState.FAILED, Outcome.FAILED, "stopped at {}"),
    (StageState.ERROR, Outcome.ERROR, "{} could not be run"),
    (StageState.CANCELLED, Outcome.STOPPED, "{} {was} cancelled"),
    (StageState.GATED, Outcome.STOPPED, "{} need{s} an approval"),
    (StageState.HELD, Outcome.STOPPED, "{} {is} held"),
    (None, Outcome.STOPPED, "{} {has} no tag that counts"),
    (StageState.WAITING, Outcome.STOPPED, "{} wait{s}"),
    (StageState.BLOCKED, Outcome.STOPPED, "{} {is} blocked"),
)
#: Stages that are all named; of more, two are.
_MANY = 3


def newest(runs: Iterable[StageRun]) -> dict[str, StageRun]:
    """The last run of each stage."""
    found: dict[str, StageRun] = {}
    for run in runs:
        if run.stage not in found or found[run.stage].number < run.number:
            found[run.stage] = run
    return found


def of(
    build: Build, runs: Sequence[StageRun], counting: Collection[str] | None = None
) -> Standing:
    """By its rows alone; policy may have more to write.

    ``counting``: stages whose tags count.  A tag is the last word on what has ended: one by hand
    stands for a run that failed, and a run that passed is nothing once its tag was revoked.
    """
    last = newest(runs)
    if build.state is not BuildState.BUILT:
        return _unbuilt(build, last.get(BUILD))
    stages = [run for name, run in last.items() if name != BUILD]
    for state, outcome, words in _STAGES:
        names = [run.stage for run in stages if _seen(run, counting) is state]
        if names:
            return Standing(outcome, _said(words, names))
    return Standing(Outcome.PASSED, "passed" if stages else "built; it has no stages")


def _seen(run: StageRun, counting: Collection[str] | None) -> StageState | None:
    if counting is None or not run.state.over:
        return run.state
    if run.stage in counting:
        return StageState.PASSED
    return None if run.state is StageState.PASSED else run.state


def _said(words: str, names: Sequence[str]) -> str:
    """Of one stage, or of several; not of all that wait behind the first ones."""
    named = names if len(names) <= _MANY else [*names[:2], f"{len(names) - 2} more"]
    who = " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))
    verbs = {"s": "s", "was": "was", "is": "is", "has": "has"}
    if len(names) > 1:
        verbs = {"s": "", "was": "were", "is": "are", "has": "have"}
    return words.format(who, **verbs)


def settled(build: Build, facts: promotion.Facts) -> Standing:
    """The same, and whether policy has nothing more to write either."""
    found = of(build, facts.runs, promotion.counting(facts.tree, facts.tags))
    plan = promotion.plan(facts)
    if found.over and (plan.give or plan.revoke or plan.begin or plan.move):
        return Standing(Outcome.GOING, found.words)
    return found if plan.level == build.level else Standing(Outcome.GOING, found.words)


def _unbuilt(build: Build, run: StageRun | None) -> Standing:
    outcome, words = _BEFORE[build.state]
    if build.state is BuildState.BUILDING and run is not None and run.state is StageState.PLACING:
        words = "waits for a host to be built on"
    if build.state is BuildState.FAILED and run is not None and run.state is StageState.ERROR:
        outcome = Outcome.ERROR
    return Standing(outcome, words)
