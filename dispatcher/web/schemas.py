"""What the API takes and answers: the shapes, and how rows become them.

Owns names that programs of others rely on: they are only ever added to.  Must not know HTTP.
Dates are seconds since the epoch; texts of hosts and of commits are as they came, so whoever
shows them cleans them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .. import model
from ..configuration import settings
from ..configuration.pipeline import Gate, Stage, Tree, from_data
from ..policy import build_status, promotion
from ..store import audit, changes, results, views


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# -- what is asked for --------------------------------------------------------------


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line without control characters")
    return text.strip()


def _person(text: str) -> str:
    if not text.strip() or text.strip() == model.POLICY:
        raise ValueError("must be the name of whoever asks")
    return _line(text)


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("must say why")
    return _line(text)


Who = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_person)]
Words = Annotated[str, Field(max_length=1000), AfterValidator(_line)]
Reason = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_said)]


class Action(_Asked):
    """Who does it, and why if they want to say."""

    who: Who
    reason: Words = ""


class Rung(_Asked):
    """Who rings, and why; hooks of repositories need not say."""

    who: Who = ""
    reason: Words = ""


class Reasoned(_Asked):
    """Who does it, and why."""

    who: Who
    reason: Reason


class Rerun(Action):
    """Which tests run again."""

    #: Only those that failed.
    failed: bool = False


# -- what is answered ---------------------------------------------------------------


class Problem(_Answer):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    #: What happened, and what to do.
    detail: str


class Done(_Answer):
    """What came of an action."""

    #: False: it was so before.
    changed: bool
    words: str


class Source(_Answer):
    """A watched tree."""

    name: str
    kind: str
    #: Address of the repository, or the folder; empty: it is watched no more.
    where: str
    branches: list[str]
    trouble: str
    looked: float | None
    #: Revision by branch.
    heads: dict[str, str]


class Status(_Answer):
    """The dispatcher itself."""

    version: str
    began: float
    sources: list[Source]
    #: By state.
    hosts: dict[str, int]
    #: Numbers of builds that something can still come of.
    active: list[int]


class Change(_Answer):
    """A revision that was seen."""

    source: str
    branch: str
    revision: str
    before: str
    forced: bool
    author: str
    subject: str
    seen: float


class Run(_Answer):
    """One go at a stage."""

    id: int
    stage: str
    number: int
    state: str
    detail: str
    #: How many tests, of a run of some; null: all.
    only: int | None
    who: str
    began: float | None
    ended: float | None


class StageNow(_Answer):
    """A stage of a build: its tag, and its newest run."""

    name: str
    needs: list[str]
    manual: bool
    #: It has a tag that counts.
    tagged: bool
    run: Run | None


class Build(_Answer):
    """A build as lists show it."""

    number: int
    change: Change
    state: str
    detail: str
    level: str
    #: going, passed, stopped, failed, error, superseded.
    outcome: str
    #: The same for people.
    words: str
    digest: str
    size: int
    reused: int | None
    began: float
    ended: float | None
    removed: float | None
    #: In the order of its config.
    stages: list[StageNow]


class Counts(_Answer):
    """Tests by outcome."""

    passed: int
    failed: int
    skipped: int
    error: int


class Job(_Answer):
    """A durable job on a host."""

    id: str
    build: int
    stage: str
    run: int
    host: str
    part: int
    attempt: int
    state: str
    how: str
    detail: str
    package: str
    planned: float
    submitted: float | None
    harvested: float | None
    #: Null: no results yet.
    counts: Counts | None


class Tag(_Answer):
    """A tag that was given."""

    stage: str
    digest: str
    #: Number of the stage run; null: by hand.
    run: int | None
    jobs: list[str]
    who: str
    given: float
    revoked: float | None
    reason: str
    counts: bool


class Decision(_Answer):
    """What a person said of a stage."""

    stage: str
    kind: str
    who: str
    reason: str
    given: float


class Entry(_Answer):
    """Something that has happened."""

    id: int
    at: float
    who: str
    what: str
    build: int | None
    detail: str


class Result(_Answer):
    """The outcome of a test."""

    job: str
    number: int
    nodeid: str
    outcome: str
    words: str
    duration: float
    tries: int
    infrastructure: bool


class Case(_Answer):
    """A sub-result that a program named."""

    number: int
    name: str
    outcome: str
    message: str
    duration: float | None


class Measurement(_Answer):
    """A number that a test reported."""

    job: str
    stage: str
    nodeid: str
    #: Null: of the test itself.
    case: int | None
    name: str
    value: float
    unit: str


class Detail(Build):
    """All of a build but its results."""

    runs: list[Run]
    jobs: list[Job]
    tags: list[Tag]
    decisions: list[Decision]
    #: Tests that failed in the newest run of each stage; at most 100 of each job.
    failures: list[Result]
    measurements: list[Measurement]
    warnings: list[str]
    #: Newest first.
    audit: list[Entry]


class Host(_Answer):
    """A host."""

    name: str
    spec: str
    labels: list[str]
    slots: int
    pool: str
    state: str
    reason: str
    failures: int
    #: That it has ended.
    jobs: int
    #: Open ones.
    open: int
    seen: float | None


# -- rows to answers ----------------------------------------------------------------


def source_of(row: changes.Source, heads: dict[str, str], wanted: settings.Source | None) -> Source:
    """A source that is, or was, in the dispatcher's file."""
    where = (wanted.git or wanted.directory) if wanted else ""
    branches = list(wanted.branches) if wanted and wanted.git else []
    return Source(
        name=row.name, kind=row.kind, where=where, branches=branches,
        trouble=row.trouble, looked=row.looked, heads=heads,
    )  # fmt: skip


def tree_of(build: model.Build) -> Tree:
    """The config of a build; an empty one while it is not known."""
    return Tree(levels=()) if build.config is None else from_data(build.config)


def build_of(view: views.BuildView, where: build_status.BuildStatus | None = None) -> Build:
    """As a list has it; ``where`` if that is known better than by its rows."""
    build, tree = view.build, tree_of(view.build)
    counting = promotion.counting_stages(tree, view.tags)
    found = where or build_status.status_of(build, view.runs, counting)
    return Build(
        number=build.id, change=_change(view), state=build.state, detail=build.detail,
        level=build.level, outcome=found.outcome, words=found.message, digest=build.digest,
        size=build.size, reused=build.reused, began=build.began, ended=build.ended,
        removed=build.removed, stages=_stages(view, tree),
    )  # fmt: skip


def _change(view: views.BuildView) -> Change:
    change = view.change
    return Change(
        source=view.source, branch=change.branch, revision=change.revision, before=change.before,
        forced=change.forced, author=change.author, subject=change.subject, seen=change.seen,
    )  # fmt: skip


def _stages(view: views.BuildView, tree: Tree) -> list[StageNow]:
    """The build command first, if there was one; stages that only have a tag by hand last."""
    last = build_status.newest_runs(view.runs)
    counting = promotion.counting_stages(tree, view.tags)
    known = [Stage(model.BUILD)] if model.BUILD in last else []
    known += tree.stages
    names = {stage.name for stage in known}
    known += [Stage(name) for name in sorted(counting - names)]
    return [
        StageNow(
            name=stage.name,
            needs=list(stage.needs),
            manual=stage.gate is Gate.MANUAL,
            tagged=stage.name in counting,
            run=run_of(last[stage.name]) if stage.name in last else None,
        )
        for stage in known
    ]


def run_of(run: model.StageRun) -> Run:
    """One go at a stage."""
    only = None if run.only is None else len(run.only)
    return Run(
        id=run.id, stage=run.stage, number=run.number, state=run.state, detail=run.detail,
        only=only, who=run.who, began=run.began, ended=run.ended,
    )  # fmt: skip


def job_of(job: model.Job, run: model.StageRun, counts: model.OutcomeCounts | None) -> Job:
    """A job and what it is a part of."""
    told = None
    if counts is not None:
        told = Counts(**{name: getattr(counts, name) for name in Counts.model_fields})
    return Job(
        id=job.id, build=run.build, stage=run.stage, run=run.number, host=job.host, part=job.part,
        attempt=job.attempt, state=job.state, how=job.how, detail=job.detail, package=job.package,
        planned=job.planned, submitted=job.submitted, harvested=job.harvested, counts=told,
    )  # fmt: skip


def result_of(job: str, row: results.ResultRow) -> Result:
    """A row of a package."""
    return Result(job=job, **row._asdict())


def host_of(host: model.Host, load: int) -> Host:
    """A host, without the pool's own words for it."""
    return Host(
        name=host.name, spec=host.spec, labels=list(host.labels), slots=host.slots, pool=host.pool,
        state=host.state, reason=host.reason, failures=host.failures, jobs=host.jobs, open=load,
        seen=host.seen,
    )  # fmt: skip


def detail_of(
    found: views.BuildDetail,
    failures: Sequence[Result],
    measurements: Sequence[Measurement],
) -> Detail:
    """All of a build."""
    build, runs = found.view.build, {run.id: run for run in found.view.runs}
    tree = tree_of(build)
    facts = promotion.Facts(build.state, tree, found.view.runs, found.tags, found.decisions)
    counting = promotion.counting_stages(tree, found.tags)
    short = build_of(found.view, build_status.settled_status(build, facts))
    return Detail(
        **dict(short),
        runs=[run_of(run) for run in found.view.runs],
        jobs=[job_of(job, runs[job.stage_run], found.counts.get(job.id)) for job in found.jobs],
        tags=[_tag(tag, runs, tag.valid and tag.stage in counting) for tag in found.tags],
        decisions=[
            Decision(stage=d.stage, kind=d.kind, who=d.who, reason=d.reason, given=d.given)
            for d in found.decisions
        ],
        failures=list(failures),
        measurements=list(measurements),
        warnings=list(tree.warnings),
        audit=[entry_of(entry) for entry in found.audit],
    )


def _tag(tag: model.Tag, runs: dict[int, model.StageRun], counts: bool) -> Tag:
    run = runs.get(tag.stage_run or 0)
    return Tag(
        stage=tag.stage, digest=tag.digest, run=run.number if run else None, jobs=list(tag.jobs),
        who=tag.who, given=tag.given, revoked=tag.revoked, reason=tag.reason, counts=counts,
    )  # fmt: skip


def entry_of(entry: audit.Entry) -> Entry:
    """A row of the audit."""
    return Entry(**entry._asdict())
