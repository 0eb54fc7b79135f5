"""The routes of the REST API, version 1, that show builds, jobs, hosts and sources.

``schemas`` defines the responses; ``request_guard`` decides which requests are accepted.  A
request makes a bounded number of queries.  With ``wait`` and If-None-Match it is answered as soon
as the response differs from the one that the client has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, TypeAdapter
from sqlalchemy import Connection

from shell_runner import __version__

from .. import model
from ..policy import build_status
from ..reconciler import user_actions
from ..store import api_queries, audit, builds, changes, hosts, jobs, results, stage_runs
from . import build_filter, schemas
from .errors import NotFound
from .logs_api import find_job
from .parameters import (
    CONDITIONAL_RESPONSES,
    MAX_LISTED_ROWS,
    Before,
    Context,
    FilterText,
    JobId,
    Limit,
    RowNumber,
    ShortName,
    WaitSeconds,
    context_of,
    make_router,
)

routes = make_router()
#: Maximum number of failed tests of a job in the details of a build.
_MAX_FAILURES_PER_JOB = 100


@routes.get("/status")
def show_status(request: Request) -> schemas.Status:
    """Show the dispatcher: its sources, hosts and active builds."""
    context = context_of(request)
    with context.store.read() as connection:
        states = [host.state.value for host in hosts.list_all(connection)]
        return schemas.Status(
            version=__version__,
            started_at=context.started_at,
            sources=_sources(context, connection),
            hosts={state: states.count(state) for state in sorted(set(states))},
            active_builds=builds.list_active_ids(connection),
        )


def _sources(context: Context, connection: Connection) -> list[schemas.Source]:
    wanted = {each.name: each for each in context.service.settings.sources}
    return [
        schemas.to_source(
            row, changes.revisions_by_branch(connection, row.id), wanted.get(row.name)
        )
        for row in changes.list_sources(connection)
    ]


@routes.get("/sources")
def list_sources(request: Request) -> list[schemas.Source]:
    """List the watched sources."""
    context = context_of(request)
    with context.store.read() as connection:
        return _sources(context, connection)


@routes.get("/builds", response_model=list[schemas.Build], responses=CONDITIONAL_RESPONSES)
async def list_builds(
    request: Request,
    source: FilterText = None,
    branch: FilterText = None,
    level: FilterText = None,
    state: model.BuildState | None = None,
    revision: FilterText = None,
    before: Before = None,
    limit: Limit = 50,
    wait: WaitSeconds = 0.0,
) -> Response:
    """List builds, the newest first."""
    wanted = api_queries.BuildFilter(source, branch, level, state, revision, before)

    def read(connection: Connection) -> list[schemas.Build]:
        views = api_queries.list_builds(connection, wanted, limit)
        if not views:
            build_filter.check_names(connection, wanted)
        return [schemas.to_build(view) for view in views]

    return await _respond(request, read, wait)


@routes.get("/builds/{build}", response_model=schemas.BuildDetail, responses=CONDITIONAL_RESPONSES)
async def show_build(request: Request, build: RowNumber, wait: WaitSeconds = 0.0) -> Response:
    """Show a build: stages, runs, jobs, tags, decisions, failures and measurements."""
    return await _respond(request, lambda connection: _read_build(connection, build), wait)


def _read_build(connection: Connection, number: int) -> schemas.BuildDetail:
    detail = api_queries.get_build_detail(connection, number)
    if detail is None:
        raise NotFound(f"there is no build {number}\n  try: nosejobs builds")
    runs = {run.id: run for run in detail.view.runs}
    newest = {run.id for run in build_status.newest_runs(detail.view.runs).values()}
    failures, flaky, measurements = [], [], []
    for job in detail.jobs:
        if (
            job.stage_run not in newest
            or not job.package_digest
            or job.state is model.JobState.LOST
        ):
            continue
        rows = results.list_by_job(connection, job.id, ("failed", "error"), _MAX_FAILURES_PER_JOB)
        failures += [schemas.to_result(job.id, row) for row in rows]
        passed = results.list_flaky(connection, job.id, _MAX_FAILURES_PER_JOB)
        flaky += [schemas.to_result(job.id, row) for row in passed]
        measurements += _read_measurements(connection, job, runs[job.stage_run].stage)
    return schemas.to_build_detail(detail, failures, flaky, measurements)


def _read_measurements(
    connection: Connection, job: model.Job, stage: str
) -> list[schemas.Measurement]:
    return [
        schemas.Measurement(
            job=job.id, stage=stage, nodeid=nodeid, case=None if row.case < 0 else row.case,
            name=row.name, value=row.value, unit=row.unit,
        )
        for nodeid, row in results.list_measurements(connection, job.id, MAX_LISTED_ROWS)
    ]  # fmt: skip


@routes.get("/builds/{build}/stages/{stage}/jobs")
def list_stage_jobs(
    request: Request,
    build: RowNumber,
    stage: ShortName,
    run_number: Annotated[
        int | None, Query(ge=1, le=(1 << 62), description="Default: the newest run.")
    ] = None,
) -> list[schemas.Job]:
    """List the jobs of a run of a stage, all attempts."""
    with context_of(request).store.read() as connection:
        run = _find_stage_run(connection, build, stage, run_number)
        rows = jobs.list_by_run(connection, run.id)
        counts = results.count_outcomes(connection, [job.id for job in rows])
        return [schemas.to_job(job, run, counts.get(job.id)) for job in rows]


def _find_stage_run(
    connection: Connection, build: int, stage: str, number: int | None
) -> model.StageRun:
    row = user_actions.get_build(connection, build)
    runs = stage_runs.list_by_build(connection, build)
    names = dict.fromkeys(run.stage for run in runs)
    if stage not in names:
        none = f"it is {row.state}: {row.detail}" if row.detail else "it has none yet"
        hint = user_actions.suggest(stage, names, none)
        raise NotFound(f"build {build} has no stage {stage!r}{hint}")
    of_stage = [run for run in runs if run.stage == stage]
    matching = [run for run in of_stage if number in (None, run.number)]
    if not matching:
        numbers = ", ".join(str(run.number) for run in of_stage)
        raise NotFound(f"build {build} has no run {number} of {stage}; its runs: {numbers}")
    return max(matching, key=lambda run: run.number)


@routes.get("/jobs/{job}")
def show_job(request: Request, job: JobId) -> schemas.Job:
    """Show a job."""
    with context_of(request).store.read() as connection:
        row = find_job(connection, job)
        run = stage_runs.get(connection, row.stage_run)
        assert run is not None
        return schemas.to_job(row, run, results.count_outcomes(connection, [job]).get(job))


@routes.get("/jobs/{job}/results")
def list_job_results(
    request: Request,
    job: JobId,
    outcome: Annotated[
        list[Literal["passed", "failed", "skipped", "error"]] | None, Query(max_length=10)
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100_000)] = 1000,
) -> list[schemas.Result]:
    """List the results of a job's tests, in order."""
    with context_of(request).store.read() as connection:
        find_job(connection, job)
        rows = results.list_by_job(connection, job, outcome or (), limit)
    return [schemas.to_result(job, row) for row in rows]


@routes.get("/jobs/{job}/results/{number}/cases")
def list_result_cases(
    request: Request,
    job: JobId,
    number: Annotated[int, Path(ge=0, le=(1 << 62))],
    after: Annotated[int, Query(ge=-1, le=(1 << 62))] = -1,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> list[schemas.Case]:
    """List the cases of a test, from the one after ``after`` on."""
    with context_of(request).store.read() as connection:
        find_job(connection, job)
        rows = results.list_cases(connection, job, number, after, limit)
    return [
        schemas.Case(
            number=r.number, name=r.name, outcome=r.outcome, message=r.message, duration=r.duration
        )
        for r in rows
    ]


@routes.get("/hosts", response_model=list[schemas.Host], responses=CONDITIONAL_RESPONSES)
async def list_hosts(request: Request, wait: WaitSeconds = 0.0) -> Response:
    """List hosts by name."""

    def read(connection: Connection) -> list[schemas.Host]:
        load = jobs.count_open_by_host(connection)
        return [schemas.to_host(h, load.get(h.name, 0)) for h in hosts.list_all(connection)]

    return await _respond(request, read, wait)


@routes.get("/audit")
def list_audit(
    request: Request,
    build: Annotated[int | None, Query(ge=1, le=(1 << 62))] = None,
    before: Before = None,
    limit: Limit = 100,
) -> list[schemas.AuditEntry]:
    """List the audit log, the newest entries first."""
    with context_of(request).store.read() as connection:
        entries = audit.list_entries(connection, build=build, before=before, limit=limit)
    return [schemas.to_audit_entry(entry) for entry in entries]


async def _respond(request: Request, read: Callable[[Connection], Any], wait: float) -> Response:
    """Respond with what ``read`` returns, and its ETag.

    If the client has that already, wait up to ``wait`` seconds for a change, else send 304.
    """
    context = context_of(request)
    known = {each.strip() for each in request.headers.get("if-none-match", "").split(",")}

    def read_body() -> bytes:
        with context.store.read() as connection:
            return _to_json(read(connection))

    def is_new(body: bytes) -> bool:
        return _etag(body) not in known

    body = await context.change_notifier.wait_until(read_body, is_new, wait)
    headers = {"ETag": _etag(body)}
    if not is_new(body):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


_ANY: TypeAdapter[Any] = TypeAdapter(Any)


def _to_json(value: Any) -> bytes:
    return (
        value.model_dump_json().encode() if isinstance(value, BaseModel) else _ANY.dump_json(value)
    )


def _etag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:24]}"'
