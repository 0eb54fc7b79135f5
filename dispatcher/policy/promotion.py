"""Decide the level of a build by its tags, and what each of its stages does next.

Pure: the rows of one build in, a ``Plan`` out.  Once a plan has been performed, the next one is
empty; in what order rows were written does not matter.

The rules, where they are not plain:

- A tag *counts* while it is not revoked and the tags of all that its stage needs count.  So the
  revocation of a tag takes the level, and what depended on it, with it; nothing runs again unasked,
  and a new tag restores it all.  A tag that was granted by hand counts by itself.
- The last run that passed or failed is the verdict on a stage.  It takes the place of the tag of
  an earlier run; while it is on its way, or if it ends without a verdict (canceled, error), that
  tag stays.  Each run grants one tag at most, so what a person revokes stays revoked until another
  run has passed.  Tags by hand are revoked by hand.
- A run of some tests only stands on the last full run below it, which must have got to its end.
- A hold comes first, then what is blocked, what waits, and the gate, which asks only when all
  else is met.  An approval lasts for the build, opens the gate and ends a hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter

from shell_runner.text import shorten_list

from ..configuration.pipeline import Gate, Level, PipelineConfig, Stage, stage_digest
from ..model import (
    BUILD,
    GOOP,
    IDLE_EVENTS,
    BuildState,
    Decision,
    DecisionKind,
    StageEvent,
    StageRun,
    StageState,
    Tag,
)

#: Reasons that are named; a stage can need hundreds of others.
_MAX_NAMED_REASONS = 5
#: Text about a stage that is held and has a gate.
_HELD_AND_GATED = "its gate needs an approval, too, which also ends the hold"
_VERDICTS = (StageState.PASSED, StageState.FAILED)


@dataclass(frozen=True)
class Facts:
    """The rows of a build that decide its promotion."""

    state: BuildState
    tree: PipelineConfig
    runs: tuple[StageRun, ...] = ()
    tags: tuple[Tag, ...] = ()
    #: At most one for each stage.
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class TagGrant:
    """A tag that the build gets."""

    stage: str
    run: int
    #: Digest of the stage's config.
    config_digest: str
    #: Ids of the runs whose jobs count: this one, and those that it stands on.
    runs: tuple[int, ...]


@dataclass(frozen=True)
class TagRevocation:
    """A tag that is revoked."""

    tag: int
    reason: str


@dataclass(frozen=True)
class NewRun:
    """The first run of a stage."""

    stage: str
    config_digest: str
    state: StageState
    detail: str


@dataclass(frozen=True)
class RunChange:
    """Another state of a run, or another detail of the same state."""

    run: int
    event: StageEvent
    state: StageState
    detail: str


@dataclass(frozen=True)
class Plan:
    """All that has to be written, in one transaction."""

    level: str = GOOP
    #: Performed before tags are granted: a stage has one valid tag for a config.
    revocations: tuple[TagRevocation, ...] = ()
    grants: tuple[TagGrant, ...] = ()
    new_runs: tuple[NewRun, ...] = ()
    run_changes: tuple[RunChange, ...] = ()


def make_plan(facts: Facts) -> Plan:
    """Return what has to be written for a build."""
    stages = _StageStates(facts)
    grants, revocations = tuple(stages.due_tags()), tuple(stages.stale_tags())
    stages.apply(grants, revocations)
    built = facts.state is BuildState.BUILT
    return Plan(
        stages.level(),
        revocations,
        grants,
        tuple(stages.new_runs()) if built else (),
        tuple(stages.run_changes()),
    )


def highest_level(tree: PipelineConfig, tags: Iterable[Tag]) -> str:
    """Return the highest level whose tags, and those of all levels below it, count."""
    return _highest_level(tree.levels, counting_stages(tree, tags))


def counting_stages(tree: PipelineConfig, tags: Iterable[Tag]) -> frozenset[str]:
    """Return the stages whose tags count."""
    valid = [tag for tag in tags if tag.is_valid]
    by_hand = {tag.stage for tag in valid if tag.stage_run is None}
    digests = {stage.name: stage_digest(stage) for stage in tree.stages}
    earned = {tag.stage for tag in valid if tag.config_digest == digests.get(tag.stage)}
    return _counting_stages(tree.stages, by_hand, earned)


def _counting_stages(
    stages: Iterable[Stage], by_hand: set[str], earned: set[str]
) -> frozenset[str]:
    """Return the stages tagged by hand, and the earned ones whose needs count."""
    names = set(by_hand)
    for stage in _sorted_by_needs(stages):
        if stage.name in earned and names.issuperset(stage.needs):
            names.add(stage.name)
    return frozenset(names)


def _highest_level(levels: Iterable[Level], stages: frozenset[str]) -> str:
    highest = GOOP
    for level in levels:
        if not stages.issuperset(level.stages):
            break
        highest = level.name
    return highest


def _sorted_by_needs(stages: Iterable[Stage]) -> list[Stage]:
    """Return the stages so that each follows all that it needs."""
    known = {stage.name: stage for stage in stages}
    order = TopologicalSorter({name: stage.needs for name, stage in known.items()})
    return [known[name] for name in order.static_order() if name in known]


def verdict_runs(runs: Iterable[StageRun]) -> tuple[StageRun, ...]:
    """Return the runs that make the verdict on a stage, the newest first; empty: none yet.

    A run of some tests stands on those before it, down to a full one.
    """
    newest_first = sorted(runs, key=lambda run: -run.number)
    verdicts: list[StageRun] = []
    for run in newest_first:
        if run.state in _VERDICTS:
            verdicts.append(run)
            if run.selected_tests is None:
                return tuple(verdicts)
    return ()


def rerun_error(facts: Facts, stage: str, failed_only: bool = False) -> str:
    """Return why a stage cannot be run again now, and what to do; empty: it can."""
    runs = [run for run in facts.runs if run.stage == stage]
    if facts.tree.stage(stage) is None:
        return f"the build has no stage {stage}"
    if facts.state is not BuildState.BUILT:
        return f"the build is {facts.state}: there is nothing that {stage} could test"
    unfinished = [run for run in runs if not run.state.is_final]
    if unfinished:
        run = unfinished[0]
        state = f"run {run.number} of {stage} is {run.state}"
        return f"{state}: it has not run yet" if run.state.is_idle else f"{state}: cancel it first"
    if failed_only and not verdict_runs(runs):
        return f"no run of {stage} has finished: run all of it again"
    return ""


class _StageStates:
    """The rows of a build by stage, with tags as they will be once the plan is performed."""

    def __init__(self, facts: Facts) -> None:
        self._tree = facts.tree
        self._digests = {stage.name: stage_digest(stage) for stage in facts.tree.stages}
        self._runs: dict[str, list[StageRun]] = {}
        for run in sorted(facts.runs, key=lambda run: run.number):
            if run.stage != BUILD:
                self._runs.setdefault(run.stage, []).append(run)
        self._all_tags = sorted(facts.tags, key=lambda tag: tag.id)
        self._decisions = {each.stage: each for each in facts.decisions}
        self._earned: set[str] = set()
        self._by_hand: set[str] = set()
        self._counting: frozenset[str] = frozenset()
        # By stage, in the order of their needs: why it is blocked (empty: it is not), and the state
        # and detail of a run that has not begun.
        self._blocked: dict[str, str] = {}
        self._idle: dict[str, tuple[StageState, str]] = {}

    # -- tags --

    def due_tags(self) -> Iterator[TagGrant]:
        """Yield a tag for each verdict that passed, unless its run has granted a tag before."""
        tagged = {tag.stage_run for tag in self._all_tags if self._is_current(tag)}
        for stage in self._tree.stages:
            runs = verdict_runs(self._runs.get(stage.name, ()))
            if runs and runs[0].state is StageState.PASSED and runs[0].id not in tagged:
                ids = tuple(run.id for run in reversed(runs))
                yield TagGrant(stage.name, runs[0].id, self._digests[stage.name], ids)

    def _is_current(self, tag: Tag) -> bool:
        """Return whether the tag is of the stage as the build's config has it."""
        return tag.config_digest == self._digests.get(tag.stage)

    def stale_tags(self) -> Iterator[TagRevocation]:
        """Yield the tags of runs that were overruled by a later run."""
        for tag in self._all_tags:
            runs = self._runs.get(tag.stage, [])
            number = next((run.number for run in runs if run.id == tag.stage_run), None)
            for verdict in verdict_runs(runs)[:1]:
                if tag.is_valid and number is not None and number < verdict.number:
                    reason = f"overruled: run {verdict.number} of {tag.stage} {verdict.state}"
                    yield TagRevocation(tag.id, reason)

    def apply(self, grants: Iterable[TagGrant], revocations: Iterable[TagRevocation]) -> None:
        """Compute which tags will count, and the states of runs that have not begun."""
        gone = {each.tag for each in revocations}
        valid = [tag for tag in self._all_tags if tag.is_valid and tag.id not in gone]
        self._by_hand = {tag.stage for tag in valid if tag.stage_run is None}
        self._earned = {each.stage for each in grants}
        self._earned |= {tag.stage for tag in valid if self._is_current(tag)}
        self._counting = _counting_stages(self._tree.stages, self._by_hand, self._earned)
        for stage in _sorted_by_needs(self._tree.stages):
            reasons = filter(None, map(self._failure, stage.needs))
            self._blocked[stage.name] = _join(reasons)
            self._idle[stage.name] = self._idle_state(stage)

    def level(self) -> str:
        """Return the highest level that the tags reach."""
        return _highest_level(self._tree.levels, self._counting)

    # -- runs --

    def new_runs(self) -> Iterator[NewRun]:
        """Yield a first run for each stage that has none."""
        for stage in self._tree.stages:
            if stage.name not in self._runs:
                yield NewRun(stage.name, self._digests[stage.name], *self._idle[stage.name])

    def run_changes(self) -> Iterator[RunChange]:
        """Yield the changes of runs that have not begun."""
        for name, runs in self._runs.items():
            stage = self._tree.stage(name)
            for run in runs:
                if run.state.is_idle:
                    yield from self._changes_of(run, stage, run is runs[-1])

    def _changes_of(
        self, run: StageRun, stage: Stage | None, is_newest: bool
    ) -> Iterator[RunChange]:
        if stage is None or not is_newest:
            reason = "a later run took its place" if stage else "the build has no such stage"
            yield RunChange(run.id, StageEvent.CANCEL, StageState.CANCELED, reason)
            return
        state, detail = self._idle[stage.name]
        # The detail of a run that is being placed belongs to the placement.
        same_detail = run.detail == detail or state is StageState.PLACING
        if run.state is not state or not same_detail:
            yield RunChange(run.id, IDLE_EVENTS[state], state, detail)

    def _idle_state(self, stage: Stage) -> tuple[StageState, str]:
        """Return the state of a run that has not begun, and what it waits for."""
        decision = self._decisions.get(stage.name)
        if decision is not None and decision.kind is DecisionKind.HELD:
            reason = _with_reason(f"held by {decision.actor}", decision.reason)
            has_gate = stage.gate is Gate.MANUAL
            return StageState.HELD, f"{reason}; {_HELD_AND_GATED}" if has_gate else reason
        if self._blocked[stage.name]:
            return StageState.BLOCKED, self._blocked[stage.name]
        missing = [need for need in stage.needs if need not in self._counting]
        if missing:
            reasons = (self._waiting_reason(need) for need in missing)
            return StageState.WAITING, _join(reasons)
        if stage.gate is Gate.MANUAL and decision is None:
            return StageState.GATED, "an approval is needed"
        return StageState.PLACING, ""

    def _failure(self, need: str) -> str:
        """Return why a stage that needs ``need`` is not run; empty: it may be."""
        if need in self._counting:
            return ""
        run = self._latest(need)
        if run is not None and run.state.is_final and run.state is not StageState.PASSED:
            return f"needs {need}, which {_ENDS[run.state]} (run {run.number})"
        if self._blocked.get(need) and (run is None or run.state.is_idle):
            return f"needs {need}, which is blocked"
        return ""

    def _waiting_reason(self, need: str) -> str:
        """Return why ``need`` has no tag that counts although nothing has failed."""
        run = self._latest(need)
        if run is None or run.state is not StageState.PASSED:
            return f"needs {need}, which {_PRESENT.get(self._future_state(need), _NOT_PASSED)}"
        if need in self._earned:
            reason = "whose tag counts only when the stages that it needs have their tags"
            return f"waits for {need}, {reason}"
        tag = self._last_revoked(need)
        if tag is not None:
            return _with_reason(f"needs {need}, whose tag was revoked", tag.revocation_reason)
        return f"needs {need}, which has passed in parts only: run all of it again"

    def _future_state(self, name: str) -> StageState:
        """Return the state of a stage as it will be once the plan is performed."""
        run = self._latest(name)
        if run is not None and not run.state.is_idle:
            return run.state
        return self._idle[name][0]

    def _latest(self, stage: str) -> StageRun | None:
        runs = self._runs.get(stage)
        return runs[-1] if runs else None

    def _last_revoked(self, stage: str) -> Tag | None:
        revoked = [tag for tag in self._all_tags if tag.stage == stage and not tag.is_valid]
        return max(revoked, key=lambda tag: (tag.revoked_at or 0, tag.id), default=None)


_ENDS = {
    StageState.FAILED: "failed",
    StageState.ERROR: "could not be run",
    StageState.CANCELED: "was canceled",
}


#: Text about a stage that waits for a host or runs.  It does not say which: that changes without a
#: decision about promotion, so that the text would be out of date.
_NOT_PASSED = "has not passed yet"
_PRESENT = {
    StageState.WAITING: "is waiting",
    StageState.BLOCKED: "is blocked",
    StageState.GATED: "needs an approval",
    StageState.HELD: "is held",
}


def _join(reasons: Iterable[str]) -> str:
    """Return the first reasons as one text.

    A longer one would be cut for its row, and so differ from the row and be written in each pass.
    """
    texts = list(reasons)
    return "; ".join(shorten_list(texts, _MAX_NAMED_REASONS))


def _with_reason(message: str, reason: str) -> str:
    return f"{message}: {reason}" if reason else message
