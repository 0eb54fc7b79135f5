"""The schemas of requests and responses of the API, and their construction from rows.

Other programs rely on the names of fields: fields may be added, never renamed or removed.  Must
not depend on HTTP.  Times are seconds since the epoch.  Texts of hosts and commits are unchanged:
a program that shows them must remove control characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .. import model
from ..configuration import settings
from ..configuration.pipeline import Gate, PipelineConfig, Stage, from_json
from ..policy import build_status, promotion
from ..store import api_queries, audit, changes, results


class _Response(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# -- requests -----------------------------------------------------------------------


def _single_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line without control characters")
    return text.strip()


def _actor(text: str) -> str:
    if not text.strip() or text.strip() == model.POLICY:
        raise ValueError(f"must be the name of a person, and not {model.POLICY!r}")
    return _single_line(text)


def _reason(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return _single_line(text)


ActorName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_actor)]
OptionalReason = Annotated[str, Field(max_length=1000), AfterValidator(_single_line)]
RequiredReason = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_reason)]


class ActionRequest(_Request):
    """An action of a person, with an optional reason."""

    actor: ActorName
    reason: OptionalReason = ""


class PollRequest(_Request):
    """A request to poll a source; a repository hook need not say who pushed, nor why."""

    actor: ActorName = ""
    reason: OptionalReason = ""


class ReasonRequest(_Request):
    """An action of a person that needs a reason."""

    actor: ActorName
    reason: RequiredReason


class RerunRequest(ActionRequest):
    """A request to run a stage again."""

    #: Run only the tests that failed.
    failed_only: bool = False


# -- responses ----------------------------------------------------------------------


class Problem(_Response):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    #: An explanation and what to do, for people.
    detail: str


class ActionResult(_Response):
    """The result of an action."""

    #: False if the action had no effect, because the state was the requested one already.
    changed: bool
    message: str


class Source(_Response):
    """A watched repository or directory."""

    name: str
    kind: str
    #: URL of the repository, or path of the directory; empty if it is not watched any more.
    location: str
    branches: list[str]
    error: str
    polled_at: float | None
    #: Revision by branch.
    heads: dict[str, str]


class Status(_Response):
    """The state of the dispatcher."""

    version: str
    started_at: float
    sources: list[Source]
    #: Number of hosts by state.
    hosts: dict[str, int]
    #: Numbers of builds that can still change.
    active_builds: list[int]


class Change(_Response):
    """A newly seen revision of a source."""

    source: str
    branch: str
    revision: str
    previous_revision: str
    forced: bool
    author: str
    subject: str
    seen_at: float


class StageRun(_Response):
    """One run of a stage."""

    id: int
    stage: str
    number: int
    state: str
    detail: str
    #: Number of tests if only some of the stage were selected; null: all tests.
    selected_test_count: int | None
    requested_by: str
    started_at: float | None
    ended_at: float | None


class StageStatus(_Response):
    """A stage of a build: its tag and its newest run."""

    name: str
    needs: list[str]
    manual: bool
    #: Whether the stage has a tag that counts.
    tagged: bool
    run: StageRun | None


class Build(_Response):
    """A build as in lists."""

    number: int
    change: Change
    state: str
    detail: str
    level: str
    #: One of running, passed, stopped, failed, error, superseded.
    outcome: str
    #: The outcome in words.
    message: str
    artifact_digest: str
    #: Bytes.
    artifact_size: int
    #: Number of the build whose artifact is reused.
    reused_build: int | None
    created_at: float
    ended_at: float | None
    #: When its results and its artifact were removed.
    removed_at: float | None
    #: In the order of the configuration.
    stages: list[StageStatus]


class Counts(_Response):
    """Number of tests by outcome."""

    passed: int
    failed: int
    skipped: int
    error: int


class Job(_Response):
    """A durable job on a host."""

    id: str
    build: int
    stage: str
    #: Number of the run of the stage.
    run_number: int
    host: str
    part: int
    attempt: int
    state: str
    end_reason: str
    detail: str
    package_digest: str
    planned_at: float
    submitted_at: float | None
    harvested_at: float | None
    #: Null: there are no results yet.
    counts: Counts | None


class Tag(_Response):
    """A tag of a build."""

    stage: str
    artifact_digest: str
    #: Number of the run of the stage; null: the tag was given by hand.
    run_number: int | None
    jobs: list[str]
    actor: str
    granted_at: float
    revoked_at: float | None
    revocation_reason: str
    #: False if it was revoked, or if a stage that it needs has no tag that counts.
    counts: bool


class Decision(_Response):
    """An approval or a hold of a stage."""

    stage: str
    kind: str
    actor: str
    reason: str
    decided_at: float


class AuditEntry(_Response):
    """An entry of the audit log."""

    id: int
    recorded_at: float
    actor: str
    action: str
    build: int | None
    detail: str


class Result(_Response):
    """The result of a test."""

    job: str
    number: int
    nodeid: str
    outcome: str
    message: str
    #: Seconds.
    duration: float
    attempts: int
    infrastructure: bool
    #: The reasons why earlier attempts failed, a line for each; empty: it ran once.
    earlier_failures: str


class Case(_Response):
    """A sub-result that a program named."""

    number: int
    name: str
    outcome: str
    message: str
    #: Seconds.
    duration: float | None


class Measurement(_Response):
    """A number that a test reported."""

    job: str
    stage: str
    nodeid: str
    #: Number of the case; null: the test itself reported it.
    case: int | None
    name: str
    value: float
    unit: str


class BuildDetail(Build):
    """A build with everything but its test results."""

    runs: list[StageRun]
    jobs: list[Job]
    tags: list[Tag]
    decisions: list[Decision]
    #: Tests that failed in the newest run of each stage; at most 100 of each job.
    failures: list[Result]
    #: Tests that passed after a failed attempt, of the same runs; at most 100 of each job.
    flaky: list[Result]
    measurements: list[Measurement]
    warnings: list[str]
    #: Newest entry first.
    audit: list[AuditEntry]


class Host(_Response):
    """A host."""

    name: str
    spec: str
    labels: list[str]
    slots: int
    pool: str
    state: str
    reason: str
    consecutive_failures: int
    #: Number of jobs that have ended on it.
    jobs_ended: int
    #: Number of jobs that have not ended.
    open_jobs: int
    last_seen_at: float | None


# -- rows to responses ---------------------------------------------------------------


def to_source(row: changes.Source, heads: dict[str, str], wanted: settings.Source | None) -> Source:
    """Return a source; ``wanted`` is None if it is not in the dispatcher's file any more."""
    location = (wanted.git or wanted.directory) if wanted else ""
    branches = list(wanted.branches) if wanted and wanted.git else []
    return Source(
        name=row.name, kind=row.kind, location=location, branches=branches,
        error=row.error, polled_at=row.polled_at, heads=heads,
    )  # fmt: skip


def pipeline_of(build: model.Build) -> PipelineConfig:
    """Return the pipeline of a build; an empty one until its nosejobs.toml was read."""
    return PipelineConfig(levels=()) if build.config is None else from_json(build.config)


def to_build(view: api_queries.BuildView, status: build_status.BuildStatus | None = None) -> Build:
    """Return a build as in lists.

    ``status`` is its status if the caller knows more rows than the view has.
    """
    build, tree = view.build, pipeline_of(view.build)
    counting = promotion.counting_stages(tree, view.tags)
    current = status or build_status.compute_status(build, view.runs, counting)
    return Build(
        number=build.id, change=_to_change(view), state=build.state, detail=build.detail,
        level=build.level, outcome=current.outcome, message=current.message,
        artifact_digest=build.artifact_digest, artifact_size=build.artifact_size,
        reused_build=build.reused_build, created_at=build.created_at, ended_at=build.ended_at,
        removed_at=build.removed_at, stages=_to_stages(view, tree),
    )  # fmt: skip


def _to_change(view: api_queries.BuildView) -> Change:
    change = view.change
    return Change(
        source=view.source, branch=change.branch, revision=change.revision,
        previous_revision=change.previous_revision, forced=change.forced, author=change.author,
        subject=change.subject, seen_at=change.seen_at,
    )  # fmt: skip


def _to_stages(view: api_queries.BuildView, tree: PipelineConfig) -> list[StageStatus]:
    """Return the stages: the build command first; stages that only have a tag by hand last."""
    last = build_status.newest_runs(view.runs)
    counting = promotion.counting_stages(tree, view.tags)
    known = [Stage(model.BUILD)] if model.BUILD in last else []
    known += tree.stages
    names = {stage.name for stage in known}
    known += [Stage(name) for name in sorted(counting - names)]
    return [
        StageStatus(
            name=stage.name,
            needs=list(stage.needs),
            manual=stage.gate is Gate.MANUAL,
            tagged=stage.name in counting,
            run=to_stage_run(last[stage.name]) if stage.name in last else None,
        )
        for stage in known
    ]


def to_stage_run(run: model.StageRun) -> StageRun:
    """Return a run of a stage."""
    count = None if run.selected_tests is None else len(run.selected_tests)
    return StageRun(
        id=run.id, stage=run.stage, number=run.number, state=run.state, detail=run.detail,
        selected_test_count=count, requested_by=run.requested_by, started_at=run.started_at,
        ended_at=run.ended_at,
    )  # fmt: skip


def to_job(job: model.Job, run: model.StageRun, counts: model.OutcomeCounts | None) -> Job:
    """Return a job of a run of a stage, with the counts of its results if there are some."""
    outcomes = None
    if counts is not None:
        outcomes = Counts(**{name: getattr(counts, name) for name in Counts.model_fields})
    return Job(
        id=job.id, build=run.build, stage=run.stage, run_number=run.number, host=job.host,
        part=job.part, attempt=job.attempt, state=job.state, end_reason=job.end_reason,
        detail=job.detail, package_digest=job.package_digest, planned_at=job.planned_at,
        submitted_at=job.submitted_at, harvested_at=job.harvested_at, counts=outcomes,
    )  # fmt: skip


def to_result(job: str, row: results.ResultRow) -> Result:
    """Return the result of a test of ``job``."""
    return Result(job=job, **row._asdict())


def to_host(host: model.Host, load: int) -> Host:
    """Return a host without the handle of its pool; ``load`` is its number of open jobs."""
    return Host(
        name=host.name, spec=host.spec, labels=list(host.labels), slots=host.slots, pool=host.pool,
        state=host.state, reason=host.reason, consecutive_failures=host.consecutive_failures,
        jobs_ended=host.jobs_ended, open_jobs=load, last_seen_at=host.last_seen_at,
    )  # fmt: skip


def to_build_detail(
    rows: api_queries.BuildDetail,
    failures: Sequence[Result],
    flaky: Sequence[Result],
    measurements: Sequence[Measurement],
) -> BuildDetail:
    """Return a build with its runs, jobs, tags, decisions and audit entries."""
    build, runs = rows.view.build, {run.id: run for run in rows.view.runs}
    tree = pipeline_of(build)
    facts = promotion.Facts(build.state, tree, rows.view.runs, rows.tags, rows.decisions)
    counting = promotion.counting_stages(tree, rows.tags)
    summary = to_build(rows.view, build_status.settled_status(build, facts))
    return BuildDetail(
        **dict(summary),
        runs=[to_stage_run(run) for run in rows.view.runs],
        jobs=[to_job(job, runs[job.stage_run], rows.counts.get(job.id)) for job in rows.jobs],
        tags=[_to_tag(tag, runs, tag.is_valid and tag.stage in counting) for tag in rows.tags],
        decisions=[
            Decision(
                stage=d.stage, kind=d.kind, actor=d.actor, reason=d.reason, decided_at=d.decided_at
            )
            for d in rows.decisions
        ],
        failures=list(failures),
        flaky=list(flaky),
        measurements=list(measurements),
        warnings=list(tree.warnings),
        audit=[to_audit_entry(entry) for entry in rows.audit],
    )


def _to_tag(tag: model.Tag, runs: dict[int, model.StageRun], counts: bool) -> Tag:
    run = runs.get(tag.stage_run or 0)
    return Tag(
        stage=tag.stage, artifact_digest=tag.artifact_digest,
        run_number=run.number if run else None, jobs=list(tag.jobs), actor=tag.actor,
        granted_at=tag.granted_at, revoked_at=tag.revoked_at,
        revocation_reason=tag.revocation_reason, counts=counts,
    )  # fmt: skip


def to_audit_entry(entry: audit.AuditEntry) -> AuditEntry:
    """Return an entry of the audit log."""
    return AuditEntry(**entry._asdict())
