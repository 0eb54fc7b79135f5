"""Tell how far a build has come: one word for programs, a few for people.

Pure: rows in, text out.  It serves what shows builds, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from ..configuration.host_supply import NEVER_PLACED
from ..model import BUILD, Build, BuildState, StageRun, StageState
from . import promotion
from .action_types import WAITING_FOR


class Outcome(StrEnum):
    """The outcome of a build so far."""

    #: Something comes by itself.
    RUNNING = "running"
    #: Nothing more to do: every stage has passed.
    PASSED = "passed"
    #: A person has to approve, to release, to tag, or to configure stages.
    STOPPED = "stopped"
    #: The build or a test is at fault.
    FAILED = "failed"
    #: Infrastructure is at fault.
    ERROR = "error"
    #: A newer change came first.
    SUPERSEDED = "superseded"


class BuildStatus(NamedTuple):
    """An outcome, and a sentence about it without its subject: "runs smoke"."""

    outcome: Outcome
    message: str

    @property
    def is_final(self) -> bool:
        """Return whether nothing more comes by itself."""
        return self.outcome is not Outcome.RUNNING


_WITHOUT_ARTIFACT = {
    BuildState.NEW: (Outcome.RUNNING, "waits for its turn"),
    BuildState.BUILDING: (Outcome.RUNNING, "is being built"),
    BuildState.FAILED: (Outcome.FAILED, "could not be built"),
    BuildState.INVALID: (Outcome.FAILED, "has an invalid nosejobs.toml"),
    BuildState.SUPERSEDED: (Outcome.SUPERSEDED, "a newer change came first"),
}

#: Most important first: a state of the newest run of a stage (None: it has passed, and has
#: no valid tag), the outcome of the build, and the message about the stages in that state.
_STAGES: tuple[tuple[StageState | None, Outcome, str], ...] = (
    (StageState.RUNNING, Outcome.RUNNING, "runs {}"),
    (StageState.PLACING, Outcome.RUNNING, "{} wait{s} for a host"),
    (StageState.FAILED, Outcome.FAILED, "stopped at {}"),
    (StageState.ERROR, Outcome.ERROR, "{} could not be run"),
    (StageState.CANCELED, Outcome.STOPPED, "{} {was} canceled"),
    (StageState.GATED, Outcome.STOPPED, "{} need{s} an approval"),
    (StageState.HELD, Outcome.STOPPED, "{} {is} held"),
    (None, Outcome.STOPPED, "{} {has} no valid tag"),
    (StageState.WAITING, Outcome.STOPPED, "{} wait{s}"),
    (StageState.BLOCKED, Outcome.STOPPED, "{} {is} blocked"),
)
#: States that say more about a build than a stage that can never be placed.
_MORE_IMPORTANT_THAN_NEVER_PLACED = (
    StageState.RUNNING,
    StageState.PLACING,
    StageState.FAILED,
    StageState.ERROR,
)
#: States of stages that go on once a person has acted.
_FOR_PEOPLE = (StageState.CANCELED, StageState.GATED, StageState.HELD, None)
#: Stages that are all named; of more, only two are.
_MAX_NAMED_STAGES = 3


def newest_runs(runs: Iterable[StageRun]) -> dict[str, StageRun]:
    """Return the last run of each stage, by stage."""
    newest: dict[str, StageRun] = {}
    for run in runs:
        if run.stage not in newest or newest[run.stage].number < run.number:
            newest[run.stage] = run
    return newest


def compute_status(
    build: Build, runs: Sequence[StageRun], counting: Collection[str] | None = None
) -> BuildStatus:
    """Return the status that the rows of a build show; the policy may have more to write.

    ``counting``: stages whose tags count.  A tag is the last word on a run that has ended: a tag by
    hand stands for a run that failed, and a run that passed is nothing once its tag was revoked.
    """
    newest = newest_runs(runs)
    if build.state is not BuildState.BUILT:
        return _status_without_artifact(build, newest.get(BUILD))
    stages = [run for name, run in newest.items() if name != BUILD]
    by_state: dict[StageState | None, list[str]] = {}
    hopeless = [run for run in stages if _never_placed_detail(run)]
    for run in stages:
        if run not in hopeless:
            by_state.setdefault(_effective_state(run, counting), []).append(run.stage)
    if hopeless and by_state.keys().isdisjoint(_MORE_IMPORTANT_THAN_NEVER_PLACED):
        messages = (_format_never_placed(hopeless), _format_for_people(by_state))
        return BuildStatus(Outcome.STOPPED, ", ".join(filter(None, messages)))
    for state, outcome, template in _STAGES:
        if state in by_state and state in _FOR_PEOPLE:
            return BuildStatus(outcome, _format_for_people(by_state))
        if state in by_state:
            return BuildStatus(outcome, _format(template, by_state[state]))
    if not stages:
        return BuildStatus(Outcome.STOPPED, "built; it has no stages, so that nothing was tested")
    return BuildStatus(Outcome.PASSED, "passed")


def _never_placed_detail(run: StageRun) -> str:
    """Return why a run, or a lost part of it, can never have a host; empty: it can."""
    if run.state is StageState.PLACING and run.detail.startswith(NEVER_PLACED):
        return run.detail
    _, separator, reason = run.detail.partition(f"{WAITING_FOR}{NEVER_PLACED}")
    return NEVER_PLACED + reason if separator and run.state is StageState.RUNNING else ""


def _format_never_placed(runs: Sequence[StageRun]) -> str:
    """Return which stages can never be placed; of one, also what it needs."""
    if len(runs) == 1:
        return f"{runs[0].stage} {_never_placed_detail(runs[0]).partition(';')[0]}"
    return _format("{} can never be placed", [run.stage for run in runs])


def _format_for_people(by_state: Mapping[StageState | None, Sequence[str]]) -> str:
    """Return all that a person has to do: unlike a failure, no state of these explains another."""
    return ", ".join(
        _format(template, by_state[state])
        for state, _, template in _STAGES
        if state in by_state and state in _FOR_PEOPLE
    )


def _effective_state(run: StageRun, counting: Collection[str] | None) -> StageState | None:
    if counting is None or not run.state.is_final:
        return run.state
    if run.stage in counting:
        return StageState.PASSED
    return None if run.state is StageState.PASSED else run.state


def _format(template: str, names: Sequence[str]) -> str:
    """Fill in stages, at most a few of them, and the verb in singular or plural."""
    many = len(names) > _MAX_NAMED_STAGES
    named = [*names[:2], f"{len(names) - 2} more"] if many else names
    subject = " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))
    verbs = {"s": "s", "was": "was", "is": "is", "has": "has"}
    if len(names) > 1:
        verbs = {"s": "", "was": "were", "is": "are", "has": "have"}
    return template.format(subject, **verbs)


def settled_status(build: Build, facts: promotion.Facts) -> BuildStatus:
    """Return the status of a build; it is going on while the policy has more to write."""
    status = compute_status(build, facts.runs, promotion.counting_stages(facts.tree, facts.tags))
    plan = promotion.make_plan(facts)
    if status.is_final and (plan.grants or plan.revocations or plan.new_runs or plan.run_changes):
        return BuildStatus(Outcome.RUNNING, status.message)
    return status if plan.level == build.level else BuildStatus(Outcome.RUNNING, status.message)


def _status_without_artifact(build: Build, run: StageRun | None) -> BuildStatus:
    outcome, message = _WITHOUT_ARTIFACT[build.state]
    if build.state is BuildState.BUILDING and run is not None:
        if _never_placed_detail(run):
            return BuildStatus(Outcome.STOPPED, _format_never_placed([run]))
        if run.state is StageState.PLACING:
            message = "waits for a host to be built on"
    if build.state is BuildState.FAILED and run is not None and run.state is StageState.ERROR:
        outcome = Outcome.ERROR
    return BuildStatus(outcome, message)
