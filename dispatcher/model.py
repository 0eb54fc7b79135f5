"""The frozen values of the dispatcher: its rows, their states, and how these may change.

Owns names and transition tables.  Must not know tables, clocks or hosts' connections.  A
value has the fields of its row in ``store/tables.py``; dates are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from shell_runner.errors import NosejobsError

#: The level of a build that nothing is known of.
GOOP = "goop"
#: The build command is a stage run with this name; no stage of a tree can have it.
BUILD = "build"
#: Who gave a tag, or asked for a stage run, if it was nobody.
POLICY = "policy"


class BadChange(NosejobsError):
    """A state cannot be changed in this way."""


class BuildState(StrEnum):
    """Where a build stands."""

    NEW = "new"
    BUILDING = "building"
    BUILT = "built"
    FAILED = "failed"
    INVALID = "invalid"
    SUPERSEDED = "superseded"


class BuildEvent(StrEnum):
    """What happens to a build."""

    #: Its build command gets a stage run: the first, or another one that somebody asked for.
    BEGIN = "begin"
    #: Nothing has to be made: the same inputs were built before, or the tree is the build.
    REUSE = "reuse"
    #: The artefact is stored.
    FINISH = "finish"
    #: There will be no artefact: the command failed, was cancelled, or could not be run.
    FAIL = "fail"
    #: Its config cannot be understood.
    REJECT = "reject"
    #: A newer change came first.
    SUPERSEDE = "supersede"


#: Every change of a build that there is.
BUILDS: Mapping[tuple[BuildState, BuildEvent], BuildState] = {
    (BuildState.NEW, BuildEvent.BEGIN): BuildState.BUILDING,
    (BuildState.NEW, BuildEvent.REUSE): BuildState.BUILT,
    (BuildState.NEW, BuildEvent.FAIL): BuildState.FAILED,
    (BuildState.NEW, BuildEvent.REJECT): BuildState.INVALID,
    (BuildState.NEW, BuildEvent.SUPERSEDE): BuildState.SUPERSEDED,
    (BuildState.BUILDING, BuildEvent.FINISH): BuildState.BUILT,
    (BuildState.BUILDING, BuildEvent.FAIL): BuildState.FAILED,
    (BuildState.FAILED, BuildEvent.BEGIN): BuildState.BUILDING,
}


class StageState(StrEnum):
    """Where a stage run stands."""

    WAITING = "waiting"
    GATED = "gated"
    HELD = "held"
    PLACING = "placing"
    BLOCKED = "blocked"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Nothing changes it any more."""
        return self in _OVER

    @property
    def idle(self) -> bool:
        """It has not begun; policy says anew, whenever something changes, what it waits for."""
        return self in _IDLE


_OVER = frozenset(
    [StageState.PASSED, StageState.FAILED, StageState.ERROR, StageState.CANCELLED],
)
_IDLE = frozenset(
    [
        StageState.WAITING,
        StageState.GATED,
        StageState.HELD,
        StageState.PLACING,
        StageState.BLOCKED,
    ]
)


class StageEvent(StrEnum):
    """What happens to a stage run.  The first five are what policy says of an idle one."""

    #: What it needs has not passed.
    WAIT = "wait"
    #: It needs an approval.
    GATE = "gate"
    #: Somebody holds it.
    HOLD = "hold"
    #: It may run as soon as hosts fit.
    READY = "ready"
    #: What it needs has failed.
    BLOCK = "block"
    #: Its jobs are planned, all in one transaction.
    PLACE = "place"
    #: None of its jobs can end, and it may have another go (a lost host): it needs hosts again.
    AGAIN = "again"
    PASS = "pass"
    FAIL = "fail"
    #: Infrastructure, and no further go.
    GIVE_UP = "give-up"
    CANCEL = "cancel"


#: What policy says of an idle stage run, by the state that it comes to.
IDLE_EVENTS: Mapping[StageState, StageEvent] = {
    StageState.WAITING: StageEvent.WAIT,
    StageState.GATED: StageEvent.GATE,
    StageState.HELD: StageEvent.HOLD,
    StageState.PLACING: StageEvent.READY,
    StageState.BLOCKED: StageEvent.BLOCK,
}

#: Every change of a stage run that there is.
STAGES: Mapping[tuple[StageState, StageEvent], StageState] = {
    # An idle one goes wherever policy says, and stays where it is if it says the same again.
    **{(state, event): to for state in _IDLE for to, event in IDLE_EVENTS.items()},
    **{(state, StageEvent.CANCEL): StageState.CANCELLED for state in _IDLE},
    (StageState.PLACING, StageEvent.PLACE): StageState.RUNNING,
    # What it is to run cannot be run, whatever host there is.
    (StageState.PLACING, StageEvent.FAIL): StageState.FAILED,
    (StageState.PLACING, StageEvent.GIVE_UP): StageState.ERROR,
    (StageState.RUNNING, StageEvent.AGAIN): StageState.PLACING,
    (StageState.RUNNING, StageEvent.PASS): StageState.PASSED,
    (StageState.RUNNING, StageEvent.FAIL): StageState.FAILED,
    (StageState.RUNNING, StageEvent.GIVE_UP): StageState.ERROR,
    (StageState.RUNNING, StageEvent.CANCEL): StageState.CANCELLED,
}


class JobState(StrEnum):
    """Where a job stands, as far as the dispatcher knows."""

    PLANNED = "planned"
    SUBMITTED = "submitted"
    ENDED = "ended"
    HARVESTED = "harvested"
    ACKNOWLEDGED = "acknowledged"
    LOST = "lost"

    @property
    def open(self) -> bool:
        """It takes a place on its host, and its stage run waits for it."""
        return self in (JobState.PLANNED, JobState.SUBMITTED, JobState.ENDED)


class JobEvent(StrEnum):
    """What happens to a job."""

    #: The host has answered the submit.
    ACCEPT = "accept"
    #: The host says, or a notification, that it has ended.
    END = "end"
    #: Its package is stored and its results are rows.
    HARVEST = "harvest"
    #: The host knows that it may forget it.
    ACKNOWLEDGE = "acknowledge"
    #: The host is gone for too long, has refused it, or has forgotten it.
    LOSE = "lose"


#: Every change of a job that there is.
JOBS: Mapping[tuple[JobState, JobEvent], JobState] = {
    (JobState.PLANNED, JobEvent.ACCEPT): JobState.SUBMITTED,
    # The notification can be faster than the answer to the submit.
    (JobState.PLANNED, JobEvent.END): JobState.ENDED,
    (JobState.PLANNED, JobEvent.LOSE): JobState.LOST,
    (JobState.SUBMITTED, JobEvent.END): JobState.ENDED,
    (JobState.SUBMITTED, JobEvent.HARVEST): JobState.HARVESTED,
    (JobState.SUBMITTED, JobEvent.LOSE): JobState.LOST,
    (JobState.ENDED, JobEvent.HARVEST): JobState.HARVESTED,
    (JobState.ENDED, JobEvent.LOSE): JobState.LOST,
    (JobState.HARVESTED, JobEvent.ACKNOWLEDGE): JobState.ACKNOWLEDGED,
}


class HostState(StrEnum):
    """What a host is good for."""

    #: A pool brings it up.
    STARTING = "starting"
    UP = "up"
    #: It does not answer.
    DOWN = "down"
    #: It ends what it has and gets nothing new.
    DRAINING = "draining"
    #: Too much infrastructure trouble in a row: nothing new until somebody has looked.
    QUARANTINED = "quarantined"


class DecisionKind(StrEnum):
    """What a person can decide for a stage of a build; the last decision counts."""

    #: It may run: opens its gate, ends a hold.
    APPROVED = "approved"
    HELD = "held"


State = TypeVar("State", bound=StrEnum)
Event = TypeVar("Event", bound=StrEnum)


def after(table: Mapping[tuple[State, Event], State], state: State, event: Event) -> State:
    """The state behind an event by one of the tables here; BadChange if there is none."""
    try:
        return table[state, event]
    except KeyError:
        kind = type(state).__name__.removesuffix("State").lower()
        words = f"a {kind} that is {state} cannot {event}"
        known = sorted({str(each) for each, happens in table if happens == event})
        raise BadChange(f"{words}: it has to be {' or '.join(known)}") from None


@dataclass(frozen=True)
class Change:
    """One revision seen in a source."""

    source: int
    branch: str
    revision: str
    #: The revision before it; empty: the branch is new to us.
    before: str = ""
    #: It is not a descendant of ``before``: history was rewritten.
    forced: bool = False
    author: str = ""
    subject: str = ""
    seen: float = 0.0
    #: 0: not stored yet.
    id: int = 0


@dataclass(frozen=True)
class Build:
    """The build of a change."""

    id: int
    change: int
    state: BuildState = BuildState.NEW
    detail: str = ""
    tree: str = ""
    #: The config as ``config.Tree.data`` has it; None: not read yet, or invalid.
    config: Mapping[str, Any] | None = None
    #: Key for reuse: ``config.inputs_digest``.
    inputs: str = ""
    digest: str = ""
    size: int = 0
    #: The build that made the artefact, if it was another one.
    reused: int | None = None
    level: str = GOOP
    began: float = 0.0
    ended: float | None = None
    #: When its results and its artefact were removed, because they were old.
    removed: float | None = None


@dataclass(frozen=True)
class StageRun:
    """One go at a stage of a build."""

    id: int
    build: int
    stage: str
    number: int = 1
    state: StageState = StageState.WAITING
    detail: str = ""
    #: Digest of the stage's config: ``config.stage_digest``.
    config: str = ""
    #: Node ids, for a re-run of failed tests; None: all.
    only: tuple[str, ...] | None = None
    #: Hosts lost so far.
    lost: int = 0
    #: Who asked for it; empty: policy.
    who: str = ""
    began: float | None = None
    ended: float | None = None


@dataclass(frozen=True)
class Job:
    """A durable job on a host."""

    #: UUID, made before it was submitted.
    id: str
    stage_run: int
    host: str
    #: Number of the host, shard or peer, from 0.
    part: int = 0
    #: From 1; again after a lost host.
    attempt: int = 1
    state: JobState = JobState.PLANNED
    #: How it ended on the host: ``completed``, ``install-failed``, ``timed-out``, ...
    how: str = ""
    detail: str = ""
    #: Node ids of a shard; None: all.
    tests: tuple[str, ...] | None = None
    #: Digest of its package.
    package: str = ""
    planned: float = 0.0
    submitted: float | None = None
    harvested: float | None = None
    #: When its results and its package were removed, because they were old.
    removed: float | None = None


@dataclass(frozen=True)
class Tag:
    """This build passed this stage.  Given once, revoked with a reason, never deleted."""

    id: int
    build: int
    #: Of the build.
    digest: str
    stage: str
    #: Digest of the stage's config: a tag says nothing of a stage that is written otherwise.  Empty
    #: by hand, so that it stands beside the tag of a run.
    config: str
    #: None: given by hand.
    stage_run: int | None = None
    #: UUIDs of the jobs that count.
    jobs: tuple[str, ...] = ()
    who: str = POLICY
    given: float = 0.0
    revoked: float | None = None
    reason: str = ""
    #: Its own id once it is revoked, so that there is room for another.
    serial: int = 0

    @property
    def valid(self) -> bool:
        """It counts."""
        return self.revoked is None


@dataclass(frozen=True)
class Decision:
    """What a person decided for a stage of a build."""

    build: int
    stage: str
    kind: DecisionKind
    who: str
    reason: str = ""
    given: float = 0.0


@dataclass(frozen=True)
class Host:
    """What is known of a host, beyond its configuration too."""

    name: str
    spec: str
    labels: tuple[str, ...] = ()
    #: 0: as many as it has cores.
    slots: int = 0
    #: The pool that made it; empty: a static one.
    pool: str = ""
    state: HostState = HostState.UP
    reason: str = ""
    #: Infrastructure failures in a row.
    failures: int = 0
    #: Jobs that it has ended.
    jobs: int = 0
    #: When it answered last.
    seen: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    #: The pool's own words for it.
    handle: Mapping[str, Any] | None = None


class OutcomeCounts(NamedTuple):
    """Tests of a job by outcome."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    error: int = 0
    #: Of the errors, those that are not the test's fault.
    infrastructure: int = 0


@dataclass(frozen=True)
class BuildRows:
    """All rows of a build that decide what happens to it."""

    #: Name of the source.
    source: str
    change: Change
    build: Build
    #: In the order in which they were added.
    runs: tuple[StageRun, ...] = ()
    tags: tuple[Tag, ...] = ()
    decisions: tuple[Decision, ...] = ()
    #: All jobs of the runs that are running, or are about to be run again.
    jobs: tuple[Job, ...] = ()
    #: By id of a job, for those that have been harvested.
    counts: tuple[tuple[str, OutcomeCounts], ...] = ()
