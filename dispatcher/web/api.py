"""The routes of the REST API, version 1, that show builds, jobs, hosts and sources.

The shape of an answer is in ``answers``; ``door`` decides which requests are accepted.  A request
costs a bounded number of queries.  With ``wait`` and If-None-Match it is answered as soon as the
answer differs from the one that the client has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, TypeAdapter
from sqlalchemy import Connection

from shell_runner import __version__

from .. import model
from ..policy import build_status
from ..reconciler import actions
from ..store import audit, builds, changes, hosts, jobs, results, stage_runs, views
from . import schemas
from .errors import NotFound
from .logs_api import find_job
from .parameters import (
    CONDITIONAL,
    MAX_ROWS,
    PROBLEMS,
    ROOT,
    Before,
    Context,
    FilterText,
    JobId,
    Limit,
    RowNumber,
    ShortName,
    WaitSeconds,
    context_of,
)

routes = APIRouter(prefix=ROOT, responses=PROBLEMS)
#: Failed tests of a job that are shown.
_MAX_FAILURES = 100


@routes.get("/status")
def status(request: Request) -> schemas.Status:
    """Show the dispatcher: its sources, hosts and active builds."""
    context = context_of(request)
    with context.store.read() as connection:
        states = [host.state.value for host in hosts.every(connection)]
        return schemas.Status(
            version=__version__,
            began=context.began,
            sources=_sources(context, connection),
            hosts={state: states.count(state) for state in sorted(set(states))},
            active=builds.active(connection),
        )


def _sources(context: Context, connection: Connection) -> list[schemas.Source]:
    wanted = {each.name: each for each in context.service.settings.sources}
    return [
        schemas.source_of(row, changes.heads(connection, row.id), wanted.get(row.name))
        for row in changes.sources(connection)
    ]


@routes.get("/sources")
def sources(request: Request) -> list[schemas.Source]:
    """List the watched sources."""
    context = context_of(request)
    with context.store.read() as connection:
        return _sources(context, connection)


@routes.get("/builds", response_model=list[schemas.Build], responses=CONDITIONAL)
async def list_builds(
    request: Request,
    source: FilterText = None,
    branch: FilterText = None,
    level: FilterText = None,
    state: model.BuildState | None = None,
    revision: FilterText = None,
    before: Before = None,
    most: Limit = 50,
    wait: WaitSeconds = 0.0,
) -> Response:
    """List builds, the newest first."""
    wanted = views.Filter(source, branch, level, state, revision, before)

    def look(connection: Connection) -> list[schemas.Build]:
        return [schemas.build_of(view) for view in views.builds(connection, wanted, most)]

    return await _answer(request, look, wait)


@routes.get("/builds/{build}", response_model=schemas.Detail, responses=CONDITIONAL)
async def show_build(request: Request, build: RowNumber, wait: WaitSeconds = 0.0) -> Response:
    """Show a build: stages, runs, jobs, tags, decisions, failures and measurements."""
    return await _answer(request, lambda connection: _detail(connection, build), wait)


def _detail(connection: Connection, number: int) -> schemas.Detail:
    found = views.build(connection, number)
    if found is None:
        raise NotFound(f"there is no build {number}\n  try: nosejobs builds")
    runs = {run.id: run for run in found.view.runs}
    newest = {run.id for run in build_status.newest_runs(found.view.runs).values()}
    failures, measurements = [], []
    for job in found.jobs:
        if job.stage_run not in newest or not job.package or job.state is model.JobState.LOST:
            continue
        rows = results.of_job(connection, job.id, ("failed", "error"), _MAX_FAILURES)
        failures += [schemas.result_of(job.id, row) for row in rows]
        measurements += _measured(connection, job, runs[job.stage_run].stage)
    return schemas.detail_of(found, failures, measurements)


def _measured(connection: Connection, job: model.Job, stage: str) -> list[schemas.Measurement]:
    return [
        schemas.Measurement(
            job=job.id, stage=stage, nodeid=nodeid, case=None if row.case < 0 else row.case,
            name=row.name, value=row.value, unit=row.unit,
        )
        for nodeid, row in results.measured(connection, job.id, MAX_ROWS)
    ]  # fmt: skip


@routes.get("/builds/{build}/stages/{stage}/jobs")
def stage_jobs(
    request: Request,
    build: RowNumber,
    stage: ShortName,
    run: Annotated[int | None, Query(ge=1, le=(1 << 62), description="Default: the last.")] = None,
) -> list[schemas.Job]:
    """List the jobs of a run of a stage, all attempts."""
    with context_of(request).store.read() as connection:
        found = _run(connection, build, stage, run)
        its = jobs.of_run(connection, found.id)
        counts = results.counts(connection, [job.id for job in its])
        return [schemas.job_of(job, found, counts.get(job.id)) for job in its]


def _run(connection: Connection, build: int, stage: str, number: int | None) -> model.StageRun:
    row = actions.build_of(connection, build)
    runs = stage_runs.of_build(connection, build)
    names = dict.fromkeys(run.stage for run in runs)
    if stage not in names:
        none = f"it is {row.state}: {row.detail}" if row.detail else "it has none yet"
        hint = actions.suggested(stage, names, none)
        raise NotFound(f"build {build} has no stage {stage!r}{hint}")
    found = [run for run in runs if run.stage == stage and number in (None, run.number)]
    if not found:
        raise NotFound(f"build {build}: there is no run {number} of {stage}")
    return max(found, key=lambda run: run.number)


@routes.get("/jobs/{job}")
def show_job(request: Request, job: JobId) -> schemas.Job:
    """Show a job."""
    with context_of(request).store.read() as connection:
        found = find_job(connection, job)
        run = stage_runs.get(connection, found.stage_run)
        assert run is not None
        return schemas.job_of(found, run, results.counts(connection, [job]).get(job))


@routes.get("/jobs/{job}/results")
def job_results(
    request: Request,
    job: JobId,
    outcome: Annotated[list[str] | None, Query(max_length=10)] = None,
    most: Annotated[int, Query(ge=1, le=100_000)] = 1000,
) -> list[schemas.Result]:
    """List the results of a job's tests, in order."""
    with context_of(request).store.read() as connection:
        find_job(connection, job)
        rows = results.of_job(connection, job, outcome or (), most)
    return [schemas.result_of(job, row) for row in rows]


@routes.get("/jobs/{job}/results/{number}/cases")
def result_cases(
    request: Request,
    job: JobId,
    number: Annotated[int, Path(ge=0, le=(1 << 62))],
    after: Annotated[int, Query(ge=-1, le=(1 << 62))] = -1,
    most: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> list[schemas.Case]:
    """List the cases of a test, from the one after ``after`` on."""
    with context_of(request).store.read() as connection:
        find_job(connection, job)
        rows = results.cases_of(connection, job, number, after, most)
    return [
        schemas.Case(
            number=r.number, name=r.name, outcome=r.outcome, message=r.message, duration=r.duration
        )
        for r in rows
    ]


@routes.get("/hosts", response_model=list[schemas.Host], responses=CONDITIONAL)
async def list_hosts(request: Request, wait: WaitSeconds = 0.0) -> Response:
    """List hosts by name."""

    def look(connection: Connection) -> list[schemas.Host]:
        load = jobs.load(connection)
        return [schemas.host_of(h, load.get(h.name, 0)) for h in hosts.every(connection)]

    return await _answer(request, look, wait)


@routes.get("/audit")
def list_audit(
    request: Request,
    build: Annotated[int | None, Query(ge=1, le=(1 << 62))] = None,
    before: Before = None,
    most: Limit = 100,
) -> list[schemas.Entry]:
    """List the audit log, the newest entries first."""
    with context_of(request).store.read() as connection:
        found = audit.entries(connection, build=build, before=before, most=most)
    return [schemas.entry_of(entry) for entry in found]


async def _answer(request: Request, look: Callable[[Connection], Any], wait: float) -> Response:
    """Answer with what ``look`` returns, and its ETag.

    If the client has that already, wait up to ``wait`` seconds for another answer, else send 304.
    """
    context = context_of(request)
    known = {each.strip() for each in request.headers.get("if-none-match", "").split(",")}

    def found() -> bytes:
        with context.store.read() as connection:
            return _json(look(connection))

    def is_new(body: bytes) -> bool:
        return _etag(body) not in known

    body = await context.news.until(found, is_new, wait)
    headers = {"ETag": _etag(body)}
    if not is_new(body):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


_ANY: TypeAdapter[Any] = TypeAdapter(Any)


def _json(value: Any) -> bytes:
    return (
        value.model_dump_json().encode() if isinstance(value, BaseModel) else _ANY.dump_json(value)
    )


def _etag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:24]}"'
