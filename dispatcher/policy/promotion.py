"""From tags to the level of a build, and what each of its stages does next.

Pure: the rows of one build in, a Plan out.  Whoever performs the plan and asks again gets an empty
one; in what order rows were written does not matter.

The rules, where they are not plain:

- A tag *counts* while it is not revoked and the tags of all that its stage needs count.  So the
  revocation of a tag takes the level, and what depended on it, with it; nothing runs again unasked,
  and a new tag brings it all back.  A tag that was given by hand counts by itself.
- The last run that passed or failed is the verdict on a stage.  It takes the place of the tag of
  an earlier run; while it is on its way, or if it ends without a verdict (cancelled, error), that
  tag stays.  Each run gives one tag at most, so what a person revokes stays revoked until another
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

from ..config import Gate, Level, Stage, Tree, stage_digest
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
_REASONS = 5
_VERDICTS = (StageState.PASSED, StageState.FAILED)


@dataclass(frozen=True)
class Facts:
    """All rows of a build that matter here."""

    state: BuildState
    tree: Tree
    runs: tuple[StageRun, ...] = ()
    tags: tuple[Tag, ...] = ()
    #: One for each stage at most.
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class Give:
    """Tag the build with this stage."""

    stage: str
    run: int
    #: Digest of the stage's config.
    config: str
    #: Runs whose jobs count: this one, and those that it stands on.
    runs: tuple[int, ...]


@dataclass(frozen=True)
class Revoke:
    """Revoke this tag."""

    tag: int
    reason: str


@dataclass(frozen=True)
class Begin:
    """Make the first run of a stage."""

    stage: str
    config: str
    state: StageState
    detail: str


@dataclass(frozen=True)
class Move:
    """Change the state of a run, or only the words for it."""

    run: int
    event: StageEvent
    state: StageState
    detail: str


@dataclass(frozen=True)
class Plan:
    """What has to be written, all in one transaction."""

    level: str = GOOP
    #: Before new tags are given: they may need the room.
    revoke: tuple[Revoke, ...] = ()
    give: tuple[Give, ...] = ()
    begin: tuple[Begin, ...] = ()
    move: tuple[Move, ...] = ()


def plan(facts: Facts) -> Plan:
    """What becomes of the build."""
    board = _Board(facts)
    give, revoke = tuple(board.due_tags()), tuple(board.stale_tags())
    board.apply(give, revoke)
    built = facts.state is BuildState.BUILT
    return Plan(
        board.level(),
        revoke,
        give,
        tuple(board.begin()) if built else (),
        tuple(board.move()),
    )


def level(tree: Tree, tags: Iterable[Tag]) -> str:
    """The highest level whose tags, and those of all levels below it, count."""
    return _reached(tree.levels, counting(tree, tags))


def counting(tree: Tree, tags: Iterable[Tag]) -> frozenset[str]:
    """Stages whose tags count."""
    valid = [tag for tag in tags if tag.valid]
    by_hand = {tag.stage for tag in valid if tag.stage_run is None}
    digests = {stage.name: stage_digest(stage) for stage in tree.stages}
    earned = {tag.stage for tag in valid if tag.config == digests.get(tag.stage)}
    return _counting(tree.stages, by_hand, earned)


def _counting(stages: Iterable[Stage], by_hand: set[str], earned: set[str]) -> frozenset[str]:
    """Those by hand, and the earned ones whose needs count."""
    found = set(by_hand)
    for stage in _in_order(stages):
        if stage.name in earned and found.issuperset(stage.needs):
            found.add(stage.name)
    return frozenset(found)


def _reached(levels: Iterable[Level], stages: frozenset[str]) -> str:
    found = GOOP
    for each in levels:
        if not stages.issuperset(each.stages):
            break
        found = each.name
    return found


def _in_order(stages: Iterable[Stage]) -> list[Stage]:
    """Each behind all that it needs."""
    known = {stage.name: stage for stage in stages}
    order = TopologicalSorter({name: stage.needs for name, stage in known.items()})
    return [known[name] for name in order.static_order() if name in known]


def standing(runs: Iterable[StageRun]) -> tuple[StageRun, ...]:
    """The runs that make the verdict on a stage, the newest first.

    Empty: there is none yet.  A run of some tests stands on those before it, down to a full one.
    """
    newest_first = sorted(runs, key=lambda run: -run.number)
    found: list[StageRun] = []
    for run in newest_first:
        if run.state in _VERDICTS:
            found.append(run)
            if run.only is None:
                return tuple(found)
    return ()


def may_rerun(facts: Facts, stage: str, failed_only: bool = False) -> str:
    """Why a stage cannot be run again now, and what to do; empty: it can."""
    runs = [run for run in facts.runs if run.stage == stage]
    if facts.tree.stage(stage) is None:
        return f"the build has no stage {stage}"
    if facts.state is not BuildState.BUILT:
        return f"the build is {facts.state}: there is nothing that {stage} could test"
    going = [run for run in runs if not run.state.over]
    if going:
        run = going[0]
        state = f"run {run.number} of {stage} is {run.state}"
        return f"{state}: it has not run yet" if run.state.idle else f"{state}: cancel it first"
    if failed_only and not standing(runs):
        return f"no run of {stage} has got to its end: run all of it again"
    return ""


class _Board:
    """The rows, by stage; tags as they will be once the plan is performed."""

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
        #: By stage, those that it needs first: why it is blocked (empty: it is not), and what a run
        #: of it is that has not begun.
        self._blocked: dict[str, str] = {}
        self._idle: dict[str, tuple[StageState, str]] = {}

    # -- tags --

    def due_tags(self) -> Iterator[Give]:
        """Of each verdict that passed, unless that run has given a tag before."""
        tagged = {tag.stage_run for tag in self._all_tags if self._is_current(tag)}
        for stage in self._tree.stages:
            runs = standing(self._runs.get(stage.name, ()))
            if runs and runs[0].state is StageState.PASSED and runs[0].id not in tagged:
                ids = tuple(run.id for run in reversed(runs))
                yield Give(stage.name, runs[0].id, self._digests[stage.name], ids)

    def _is_current(self, tag: Tag) -> bool:
        """It is of the stage as the build's config has it."""
        return tag.config == self._digests.get(tag.stage)

    def stale_tags(self) -> Iterator[Revoke]:
        """Of runs that were overruled by a later one."""
        for tag in self._all_tags:
            runs = self._runs.get(tag.stage, [])
            number = next((run.number for run in runs if run.id == tag.stage_run), None)
            for verdict in standing(runs)[:1]:
                if tag.valid and number is not None and number < verdict.number:
                    words = f"run {verdict.number} of {tag.stage} {verdict.state}"
                    yield Revoke(tag.id, f"overruled: {words}")

    def apply(self, give: Iterable[Give], revoke: Iterable[Revoke]) -> None:
        """Look at the tags as they will be."""
        gone = {each.tag for each in revoke}
        valid = [tag for tag in self._all_tags if tag.valid and tag.id not in gone]
        self._by_hand = {tag.stage for tag in valid if tag.stage_run is None}
        self._earned = {each.stage for each in give}
        self._earned |= {tag.stage for tag in valid if self._is_current(tag)}
        self._counting = _counting(self._tree.stages, self._by_hand, self._earned)
        for stage in _in_order(self._tree.stages):
            reasons = filter(None, map(self._failure, stage.needs))
            self._blocked[stage.name] = _listed(reasons)
            self._idle[stage.name] = self._idle_state(stage)

    def level(self) -> str:
        return _reached(self._tree.levels, self._counting)

    # -- runs --

    def begin(self) -> Iterator[Begin]:
        """A first run for each stage that has none."""
        for stage in self._tree.stages:
            if stage.name not in self._runs:
                yield Begin(stage.name, self._digests[stage.name], *self._idle[stage.name])

    def move(self) -> Iterator[Move]:
        """What idle runs come to."""
        for name, runs in self._runs.items():
            stage = self._tree.stage(name)
            for run in runs:
                if run.state.idle:
                    yield from self._moved(run, stage, run is runs[-1])

    def _moved(self, run: StageRun, stage: Stage | None, newest: bool) -> Iterator[Move]:
        if stage is None or not newest:
            why = "a later run took its place" if stage else "the build has no such stage"
            yield Move(run.id, StageEvent.CANCEL, StageState.CANCELLED, why)
            return
        state, detail = self._idle[stage.name]
        # While it is being placed, the words are those of who places it.
        same_words = run.detail == detail or state is StageState.PLACING
        if run.state is not state or not same_words:
            yield Move(run.id, IDLE_EVENTS[state], state, detail)

    def _idle_state(self, stage: Stage) -> tuple[StageState, str]:
        """What a run that has not begun is, and what it waits for."""
        decision = self._decisions.get(stage.name)
        if decision is not None and decision.kind is DecisionKind.HELD:
            return StageState.HELD, _by(f"held by {decision.who}", decision.reason)
        if self._blocked[stage.name]:
            return StageState.BLOCKED, self._blocked[stage.name]
        missing = [need for need in stage.needs if need not in self._counting]
        if missing:
            return StageState.WAITING, _listed(self._waits(need) for need in missing)
        if stage.gate is Gate.MANUAL and decision is None:
            return StageState.GATED, "an approval is needed"
        return StageState.PLACING, ""

    def _failure(self, need: str) -> str:
        """Why a stage is not run for the sake of one that it needs; empty: it may be."""
        if need in self._counting:
            return ""
        run = self._latest(need)
        if run is not None and run.state.over and run.state is not StageState.PASSED:
            return f"needs {need}, which {_ENDS[run.state]} (run {run.number})"
        if self._blocked.get(need) and (run is None or run.state.idle):
            return f"needs {need}, which is blocked"
        return ""

    def _waits(self, need: str) -> str:
        """Why a stage has no tag that counts although nothing has failed."""
        run = self._latest(need)
        if run is None or run.state is not StageState.PASSED:
            return f"needs {need}, which is {self._now(need)}"
        if need in self._earned:
            return f"needs {need}, whose tag does not count before those of what it needs"
        tag = self._last_revoked(need)
        if tag is not None:
            return _by(f"needs {need}, whose tag was revoked", tag.reason)
        return f"needs {need}, which has passed in parts only: run all of it again"

    def _now(self, name: str) -> StageState:
        """The state of a stage as it will be once the plan is performed."""
        run = self._latest(name)
        if run is not None and not run.state.idle:
            return run.state
        return self._idle[name][0]

    def _latest(self, stage: str) -> StageRun | None:
        runs = self._runs.get(stage)
        return runs[-1] if runs else None

    def _last_revoked(self, stage: str) -> Tag | None:
        found = [tag for tag in self._all_tags if tag.stage == stage and not tag.valid]
        return max(found, key=lambda tag: (tag.revoked or 0, tag.id), default=None)


_ENDS = {
    StageState.FAILED: "failed",
    StageState.ERROR: "could not be run",
    StageState.CANCELLED: "was cancelled",
}


def _listed(reasons: Iterable[str]) -> str:
    """The first of them: a row keeps words of some length only, and would never be what is said."""
    return "; ".join(shorten_list(list(reasons), _REASONS))


def _by(words: str, reason: str) -> str:
    return f"{words}: {reason}" if reason else words
