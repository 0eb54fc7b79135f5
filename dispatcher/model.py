"""The dispatcher's frozen values: its rows, their states, and the transitions of these states.

This module must not depend on database tables, clocks or connections to hosts.  A class has the
fields of its table in ``store/tables.py``; timestamps are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from shell_runner.errors import NosejobsError

#: Level of a build whose tags reach no configured level.
GOOP = "goop"
#: Name of the stage that is the build command; no configured stage can have it.
BUILD = "build"
#: Actor of tags and audit entries that no person caused.
POLICY = "policy"


class InvalidTransition(NosejobsError):
    """The state of a row does not permit the event."""


class BuildState(StrEnum):
    """The state of a build."""

    NEW = "new"
    BUILDING = "building"
    BUILT = "built"
    FAILED = "failed"
    INVALID = "invalid"
    SUPERSEDED = "superseded"


class BuildEvent(StrEnum):
    """An event that changes the state of a build."""

    #: The build command gets a stage run: the first, or another one that a person requested.
    BEGIN = "begin"
    #: Nothing has to be built: the same inputs were built before, or the tree is the build.
    REUSE = "reuse"
    #: The artifact is stored.
    FINISH = "finish"
    #: There will be no artifact: the command failed, was canceled, or could not be run.
    FAIL = "fail"
    #: Its config is invalid.
    REJECT = "reject"
    #: A newer change is built instead.
    SUPERSEDE = "supersede"


#: All transitions of a build: the new state, by old state and event.
BUILD_TRANSITIONS: Mapping[tuple[BuildState, BuildEvent], BuildState] = {
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
    """The state of a stage run."""

    WAITING = "waiting"
    GATED = "gated"
    HELD = "held"
    PLACING = "placing"
    BLOCKED = "blocked"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    CANCELED = "canceled"

    @property
    def is_final(self) -> bool:
        """Return whether no event can change the state."""
        return self in _OVER

    @property
    def is_idle(self) -> bool:
        """Return whether the run has not begun; then policy decides its state at each change."""
        return self in _IDLE


_OVER = frozenset(
    [StageState.PASSED, StageState.FAILED, StageState.ERROR, StageState.CANCELED],
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
    """An event that changes the state of a stage run.  The first five are for an idle run."""

    #: A stage that it needs has not passed yet.
    WAIT = "wait"
    #: The stage needs an approval.
    GATE = "gate"
    #: A person holds it.
    HOLD = "hold"
    #: The stage may run as soon as there are matching hosts.
    READY = "ready"
    #: A stage that it needs has failed.
    BLOCK = "block"
    #: Its jobs are planned, all in one transaction.
    PLACE = "place"
    #: Its jobs were lost (a lost host) and it may run again: it needs hosts again.
    PLACE_AGAIN = "again"
    PASS = "pass"
    FAIL = "fail"
    #: The infrastructure failed, and no further attempt is allowed.
    GIVE_UP = "give-up"
    CANCEL = "cancel"


#: The event by which an idle stage run comes to a state.
IDLE_EVENTS: Mapping[StageState, StageEvent] = {
    StageState.WAITING: StageEvent.WAIT,
    StageState.GATED: StageEvent.GATE,
    StageState.HELD: StageEvent.HOLD,
    StageState.PLACING: StageEvent.READY,
    StageState.BLOCKED: StageEvent.BLOCK,
}

#: All transitions of a stage run: the new state, by old state and event.
STAGE_TRANSITIONS: Mapping[tuple[StageState, StageEvent], StageState] = {
    # An idle run can come to any idle state, and to its own again with another detail.
    **{(state, event): to for state in _IDLE for to, event in IDLE_EVENTS.items()},
    **{(state, StageEvent.CANCEL): StageState.CANCELED for state in _IDLE},
    (StageState.PLACING, StageEvent.PLACE): StageState.RUNNING,
    # Its tests cannot be run on any host.
    (StageState.PLACING, StageEvent.FAIL): StageState.FAILED,
    (StageState.PLACING, StageEvent.GIVE_UP): StageState.ERROR,
    (StageState.RUNNING, StageEvent.PLACE_AGAIN): StageState.PLACING,
    (StageState.RUNNING, StageEvent.PASS): StageState.PASSED,
    (StageState.RUNNING, StageEvent.FAIL): StageState.FAILED,
    (StageState.RUNNING, StageEvent.GIVE_UP): StageState.ERROR,
    (StageState.RUNNING, StageEvent.CANCEL): StageState.CANCELED,
}


class JobState(StrEnum):
    """The state of a job, as far as the dispatcher knows."""

    PLANNED = "planned"
    SUBMITTED = "submitted"
    ENDED = "ended"
    HARVESTED = "harvested"
    ACKNOWLEDGED = "acknowledged"
    LOST = "lost"

    @property
    def is_open(self) -> bool:
        """Return whether the job takes a place on its host, and its stage run waits for it."""
        return self in (JobState.PLANNED, JobState.SUBMITTED, JobState.ENDED)


class JobEvent(StrEnum):
    """An event that changes the state of a job."""

    #: The host has accepted the job.
    ACCEPT = "accept"
    #: The host, or a notification, reports that the job has ended.
    END = "end"
    #: Its result package is stored and its results are rows.
    HARVEST = "harvest"
    #: The host has been told that it may delete the job.
    ACKNOWLEDGE = "acknowledge"
    #: The host was unreachable for too long, has refused the job, or has lost it.
    LOSE = "lose"


#: All transitions of a job: the new state, by old state and event.
JOB_TRANSITIONS: Mapping[tuple[JobState, JobEvent], JobState] = {
    (JobState.PLANNED, JobEvent.ACCEPT): JobState.SUBMITTED,
    # The notification can arrive before the answer to the submission.
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
    """The state of a host."""

    #: A pool is bringing it up.
    STARTING = "starting"
    UP = "up"
    #: The host does not answer.
    DOWN = "down"
    #: The host finishes its jobs and gets no new ones.
    DRAINING = "draining"
    #: Too many infrastructure failures in a row: it gets no new jobs until a person resumes it.
    QUARANTINED = "quarantined"


class DecisionKind(StrEnum):
    """A person's decision on a stage of a build; the last decision counts."""

    #: The stage may run: this opens its gate and ends a hold.
    APPROVED = "approved"
    HELD = "held"


State = TypeVar("State", bound=StrEnum)
Event = TypeVar("Event", bound=StrEnum)


def state_after(table: Mapping[tuple[State, Event], State], state: State, event: Event) -> State:
    """Return the state after an event, by one of the transition tables.

    Raises ``InvalidTransition`` if the table has no such transition.
    """
    try:
        return table[state, event]
    except KeyError:
        kind = type(state).__name__.removesuffix("State").lower()
        states = sorted({str(old) for old, cause in table if cause == event})
        raise InvalidTransition(
            f"a {kind} in state {state} does not accept '{event}'; "
            f"expected state: {' or '.join(states)}"
        ) from None


@dataclass(frozen=True)
class Change:
    """One revision seen in a source."""

    source: int
    branch: str
    revision: str
    #: Head of the branch before; empty: the branch is new.
    previous_revision: str = ""
    #: Whether it is not a descendant of ``previous_revision``: history was rewritten.
    forced: bool = False
    author: str = ""
    subject: str = ""
    seen_at: float = 0.0
    #: 0: not stored yet.
    id: int = 0


@dataclass(frozen=True)
class Build:
    """The build of a change."""

    id: int
    change: int
    state: BuildState = BuildState.NEW
    detail: str = ""
    tree_digest: str = ""
    #: The validated config (``PipelineConfig.as_json``); None: not read yet, or invalid.
    config: Mapping[str, Any] | None = None
    #: Digest of the build's inputs; builds with equal inputs share an artifact.
    inputs_digest: str = ""
    artifact_digest: str = ""
    artifact_size: int = 0
    #: Id of the build that made the artifact; None: this one.
    reused_build: int | None = None
    level: str = GOOP
    created_at: float = 0.0
    ended_at: float | None = None
    #: When retention removed its results and its artifact.
    removed_at: float | None = None


@dataclass(frozen=True)
class StageRun:
    """One run of a stage of a build."""

    id: int
    build: int
    stage: str
    number: int = 1
    state: StageState = StageState.WAITING
    detail: str = ""
    #: Digest of the stage's config (``pipeline.stage_digest``).
    config_digest: str = ""
    #: Node ids, for a re-run of failed tests; None: all.
    selected_tests: tuple[str, ...] | None = None
    #: Hosts lost so far.
    hosts_lost: int = 0
    #: Person who requested it; empty: policy.
    requested_by: str = ""
    started_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True)
class Job:
    """A durable job on a host."""

    #: UUID, chosen before the job is submitted.
    id: str
    stage_run: int
    host: str
    #: Number of the host, shard or peer, from 0.
    part: int = 0
    #: From 1; one more after a lost host.
    attempt: int = 1
    state: JobState = JobState.PLANNED
    #: End reason that the host reported: ``completed``, ``install-failed``, ``timed-out``, ...
    end_reason: str = ""
    detail: str = ""
    #: Node ids of a shard; None: all.
    tests: tuple[str, ...] | None = None
    #: Digest of its result package; empty: not harvested.
    package_digest: str = ""
    planned_at: float = 0.0
    submitted_at: float | None = None
    harvested_at: float | None = None
    #: When retention removed its results and its package.
    removed_at: float | None = None


@dataclass(frozen=True)
class Tag:
    """This build passed this stage.  A tag is granted once and can be revoked, but not deleted."""

    id: int
    build: int
    #: Digest of the build's artifact.
    artifact_digest: str
    stage: str
    #: Digest of the stage's config: a tag is valid for this config only.  Empty if granted by hand,
    #: so that it can exist beside the tag of a run.
    config_digest: str
    #: None: granted by hand.
    stage_run: int | None = None
    #: UUIDs of the jobs whose results count.
    jobs: tuple[str, ...] = ()
    actor: str = POLICY
    granted_at: float = 0.0
    revoked_at: float | None = None
    revocation_reason: str = ""
    #: 0; the tag's id once it is revoked, so that another one can be granted.
    serial: int = 0

    @property
    def is_valid(self) -> bool:
        """Return whether the tag has not been revoked."""
        return self.revoked_at is None


@dataclass(frozen=True)
class Decision:
    """A person's decision on a stage of a build."""

    build: int
    stage: str
    kind: DecisionKind
    actor: str
    reason: str = ""
    decided_at: float = 0.0


@dataclass(frozen=True)
class Host:
    """A host: its configuration and its state."""

    name: str
    spec: str
    labels: tuple[str, ...] = ()
    #: Concurrent tests; 0: its number of cores.
    slots: int = 0
    #: Pool that created it; empty: a static host.
    pool: str = ""
    state: HostState = HostState.UP
    reason: str = ""
    #: Infrastructure failures in a row.
    consecutive_failures: int = 0
    #: Number of jobs that it has ended.
    jobs_ended: int = 0
    #: When the host answered last.
    last_seen_at: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    #: The pool's own data about the host.
    handle: Mapping[str, Any] | None = None


class OutcomeCounts(NamedTuple):
    """The number of tests of a job by outcome."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    error: int = 0
    #: Errors that the infrastructure caused, not the test; ``error`` includes them.
    infrastructure: int = 0


@dataclass(frozen=True)
class BuildRows:
    """All rows of a build on which its next steps depend."""

    #: Name of the source.
    source: str
    change: Change
    build: Build
    #: In the order of their creation.
    runs: tuple[StageRun, ...] = ()
    tags: tuple[Tag, ...] = ()
    decisions: tuple[Decision, ...] = ()
    #: All jobs of the runs that are running, or are about to be run again.
    jobs: tuple[Job, ...] = ()
    #: By job id, for harvested jobs.
    counts: tuple[tuple[str, OutcomeCounts], ...] = ()
