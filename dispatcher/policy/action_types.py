"""Values that ``build_progress`` takes and returns: tasks, their results, and actions.

Pure.  An action describes rows to write, a task to start, or a request to other threads; the
reconciler performs the actions of a pass in their order and in one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from ..configuration.pipeline import BuildConfig, PipelineConfig, Stage
from ..model import Build, BuildEvent, BuildRows, Job, StageEvent, StageRun
from .placement import PlacementRequest, Unplaced

#: Prefix of the detail of a build or stage run that waits.
WAITING_FOR = "waiting: "
#: Characters of the detail of a row; the rest is cut off.
_MAX_DETAIL_CHARS = 8000


def cut_detail(detail: str) -> str:
    """Return a detail that is short enough for a row."""
    if len(detail) <= _MAX_DETAIL_CHARS:
        return detail
    return f"{detail[:_MAX_DETAIL_CHARS]} ..."


# -- tasks ---------------------------------------------------------------------------


@dataclass(frozen=True)
class ExamineTree:
    """Task: read a revision and its config.  Result: ``ExaminedTree``."""

    build: int
    source: str
    revision: str


@dataclass(frozen=True)
class ListTests:
    """Task: collect the tests of a stage.  Result: their node ids, as a tuple."""

    build: int
    source: str
    revision: str
    #: Digest of the tree.
    tree_digest: str
    stage: Stage

    def __hash__(self) -> int:
        # The hash of a stage takes long, and each pass needs that of many tasks.
        return hash((self.build, self.stage.name))


@dataclass(frozen=True)
class ExtractArtifact:
    """Task: take the artifact out of the package of a build job.  Result: ``Artifact``."""

    job: str
    host: str
    #: Digest of the package.
    package_digest: str
    #: End reason of the job (``model.Job.end_reason``).
    end_reason: str
    config: BuildConfig


def make_examine_task(rows: BuildRows) -> ExamineTree:
    """Return the task that reads the tree of a build."""
    return ExamineTree(rows.build.id, rows.source, rows.change.revision)


#: A task is its own key: the same task is never run twice at the same time.
Task: TypeAlias = ExamineTree | ListTests | ExtractArtifact


@dataclass(frozen=True)
class TaskFailure:
    """A task has no result, and why."""

    message: str
    #: Monotonic time at which the task may be repeated; None: never.
    retry_at: float | None = None
    #: The tree is at fault, not the infrastructure.
    is_verdict: bool = False


@dataclass(frozen=True)
class ExaminedTree:
    """The result of ``ExamineTree``."""

    #: Digest of the tree, and the bytes of all its files.
    tree_digest: str
    size: int
    #: None: the config is invalid; ``error`` says why.
    config: PipelineConfig | None = None
    #: Key for reuse; empty: the tree is its own build.
    inputs_digest: str = ""
    error: str = ""


@dataclass(frozen=True)
class Artifact:
    """A stored artifact."""

    #: SHA-256, in hex.
    digest: str
    size: int


#: The result of any task.
TaskResult: TypeAlias = ExaminedTree | tuple[str, ...] | Artifact | TaskFailure


# -- actions -------------------------------------------------------------------------


class RunKey(NamedTuple):
    """The name of a stage run.  A run that an earlier action adds has no id yet."""

    build: int
    stage: str
    number: int


def make_run_key(run: StageRun) -> RunKey:
    """Return the name of a stage run."""
    return RunKey(run.build, run.stage, run.number)


@dataclass(frozen=True)
class StartTask:
    """Start a task, unless it is running or its result is available and final.

    Each pass that needs the result requests it again; otherwise the result is discarded.
    """

    task: Task


@dataclass(frozen=True)
class DiscardResult:
    """Discard the result of a task, which the database contains now."""

    task: Task


@dataclass(frozen=True)
class RecordTree:
    """Write what was read in the tree of a build."""

    build: int
    tree: ExaminedTree


@dataclass(frozen=True)
class MoveBuild:
    """Change the state of a build.  A field that is None stays as it is."""

    build: int
    event: BuildEvent
    detail: str | None = None
    artifact_digest: str | None = None
    artifact_size: int | None = None
    #: The build that made the artifact.
    reused_build: int | None = None
    ended_at: float | None = None

    def fields(self) -> dict[str, Any]:
        """Return the columns to write, with their values."""
        columns = {
            "detail": self.detail,
            "artifact_digest": self.artifact_digest,
            "artifact_size": self.artifact_size,
            "reused_build": self.reused_build,
            "ended_at": self.ended_at,
        }
        return {name: value for name, value in columns.items() if value is not None}


@dataclass(frozen=True)
class SetBuildDetail:
    """Change the detail of a build whose state stays."""

    build: int
    detail: str


@dataclass(frozen=True)
class SetLevel:
    """Change the level of a build."""

    build: int
    level: str


@dataclass(frozen=True)
class AddRun:
    """Add a stage run; its ``id`` is 0."""

    run: StageRun


@dataclass(frozen=True)
class MoveRun:
    """Change the state of a stage run, or repeat its state with another detail."""

    run: RunKey
    event: StageEvent
    detail: str
    #: When the run ended; None: it has not.
    ended_at: float | None = None


@dataclass(frozen=True)
class SetRunDetail:
    """Change the detail of a stage run whose state stays."""

    run: RunKey
    detail: str


@dataclass(frozen=True)
class RevokeTag:
    """Revoke a tag."""

    tag: int
    reason: str


@dataclass(frozen=True)
class GrantTag:
    """Tag a build with a stage that it has passed."""

    build: Build
    stage: str
    #: Digest of the stage's config.
    config_digest: str
    #: Id of the stage run that grants the tag.
    run: int
    #: Ids of the runs whose newest jobs count: this run, and those that it stands on.
    runs: tuple[int, ...]


@dataclass(frozen=True)
class PlannedPart:
    """A part of a stage run that gets a new job."""

    part: int
    attempt: int = 1
    #: Node ids; None: all of the stage.
    tests: tuple[str, ...] | None = None


@dataclass(frozen=True)
class TestsToSplit:
    """Tests that are divided among hosts by duration, once there are hosts."""

    #: Id of the source, and name of the stage, whose durations are known.
    source: int
    stage: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class RequestHosts:
    """A stage run that needs hosts.  All requests of a pass are placed together at its end."""

    run: StageRun
    placement: PlacementRequest
    #: Parts that get a job each; with ``split``: empty, the shards are the parts.
    parts: tuple[PlannedPart, ...] = ()
    split: TestsToSplit | None = None
    #: The reason why parts of a running stage are run again.
    reason: str = ""
    #: Jobs of the run that were lost so far.
    hosts_lost: int = 0


@dataclass(frozen=True)
class PlanJobs:
    """Plan one job for each part, on the host at the same position, and place the stage run."""

    request: RequestHosts
    hosts: tuple[str, ...]
    #: The detail of the stage run from now on.
    detail: str
    #: When the stage run began; None: it is running already, and its state stays.
    started_at: float | None


@dataclass(frozen=True)
class StopJob:
    """Stop a job on its host, because one of its peers is gone."""

    job: str


@dataclass(frozen=True)
class NotifyPoolShortage:
    """Tell the pools that a stage run found no hosts."""

    unplaced: Unplaced


@dataclass(frozen=True)
class RepeatPass:
    """Run another pass at once: this one has made further decisions possible."""


Action: TypeAlias = (
    StartTask
    | DiscardResult
    | RecordTree
    | MoveBuild
    | SetBuildDetail
    | SetLevel
    | AddRun
    | MoveRun
    | SetRunDetail
    | RevokeTag
    | GrantTag
    | RequestHosts
    | PlanJobs
    | StopJob
    | NotifyPoolShortage
    | RepeatPass
)

#: Actions after which the rows of a build have to be read again.
ROW_CHANGES = (
    RecordTree,
    MoveBuild,
    SetBuildDetail,
    SetLevel,
    AddRun,
    MoveRun,
    SetRunDetail,
    RevokeTag,
    GrantTag,
)


def next_attempt(job: Job) -> PlannedPart:
    """Return the next attempt at the part of a job."""
    return PlannedPart(job.part, job.attempt + 1, job.tests)
