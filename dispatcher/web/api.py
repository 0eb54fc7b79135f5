"""The REST API, version 1: what there is, what becomes of it, and what people do to it.

Owns paths, parameters and statuses.  What an answer looks like is in ``answers``; what an action
does is in ``actions``; who may ask at all says ``door``.  Looking costs a bounded number of
queries.  Who waits, waits for a commit: with ``wait`` and If-None-Match a look is answered as soon
as it would show something else.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable
from itertools import chain
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, TypeAdapter
from sqlalchemy import Connection
from starlette.exceptions import HTTPException

from shell_runner import __version__
from shell_runner.errors import HostError, JobRefused, NosejobsError, UsageError
from shell_runner.guard import clean_line
from shell_runner.jobs import Place, place_of
from shell_runner.remote.job import is_uuid
from shell_runner.remote.notify import SIGNATURE, signature

from .. import actions, model
from ..logs import Logs, NoLog
from ..policy import standing
from ..settings import Settings
from ..store import (
    Store,
    StoreError,
    audit,
    builds,
    changes,
    hosts,
    jobs,
    listing,
    results,
    stage_runs,
)
from . import answers
from .door import PROBLEM, problem
from .news import News
from .streams import Streams, TooMany

ROOT = "/api/v1"
#: Seconds that a look waits for something else to show, at most.
LONGEST = 60.0
#: Rows of a list; tests of a job that are shown to have failed.
_MOST, _FAILURES = 500, 100


class Service(Protocol):
    """What runs behind the API."""

    store: Store
    settings: Settings

    def poke(self, source: str) -> None:
        """Look at a source now."""


class Context:
    """What routes share."""

    def __init__(self, service: Service, logs: Logs, secret: str) -> None:
        """``secret``: with which notifications of hosts are signed."""
        self.service = service
        self.store = service.store
        self.logs = logs
        self.secret = secret
        self.news = News(service.store.changed)
        self.streams = Streams()
        self.began = time.time()


def _context(request: Request) -> Context:
    found: Context = request.app.state.context
    return found


class NotFound(NosejobsError):
    """There is no such thing."""


# -- parameters ---------------------------------------------------------------------

#: What a database takes for a number.
_Number = Annotated[int, Path(ge=1, le=(1 << 62))]
_Name = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
_HostName = Annotated[str, Path(min_length=1, max_length=200)]
_JobId = Annotated[str, Path(min_length=36, max_length=36, pattern=r"^[0-9a-f-]{36}$")]
_Before = Annotated[int | None, Query(ge=1, le=(1 << 62), description="For the next page.")]
_Most = Annotated[int, Query(ge=1, le=_MOST)]
_Wait = Annotated[
    float, Query(ge=0, le=LONGEST, description="Seconds to wait for another answer than ETag.")
]
_Word = Annotated[str | None, Query(min_length=1, max_length=300)]
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": answers.Problem, "description": words}
    for status, words in (
        (403, "A page of a stranger could have sent this."),
        (404, "There is no such thing."),
        (409, "That makes no sense now."),
        (422, "A parameter cannot be understood."),
    )
}
_NEWS = {**_PROBLEMS, 304: {"description": "Nothing else within the time to wait."}}

looks = APIRouter(prefix=ROOT, responses=_PROBLEMS)
acts = APIRouter(prefix=ROOT, responses=_PROBLEMS)


# -- looking ------------------------------------------------------------------------


@looks.get("/status")
def status(request: Request) -> answers.Status:
    """The dispatcher itself: sources, hosts, what it is at."""
    context = _context(request)
    with context.store.read() as connection:
        states = [host.state.value for host in hosts.every(connection)]
        return answers.Status(
            version=__version__,
            began=context.began,
            sources=_sources(context, connection),
            hosts={state: states.count(state) for state in sorted(set(states))},
            active=builds.active(connection),
        )


def _sources(context: Context, connection: Connection) -> list[answers.Source]:
    wanted = {each.name: each for each in context.service.settings.sources}
    return [
        answers.source_of(row, changes.heads(connection, row.id), wanted.get(row.name))
        for row in changes.sources(connection)
    ]


@looks.get("/sources")
def sources(request: Request) -> list[answers.Source]:
    """Watched trees."""
    context = _context(request)
    with context.store.read() as connection:
        return _sources(context, connection)


@looks.get("/builds", response_model=list[answers.Build], responses=_NEWS)
async def list_builds(
    request: Request,
    source: _Word = None,
    branch: _Word = None,
    level: _Word = None,
    state: model.BuildState | None = None,
    revision: _Word = None,
    before: _Before = None,
    most: _Most = 50,
    wait: _Wait = 0.0,
) -> Response:
    """Builds, the newest first."""
    wanted = listing.Filter(source, branch, level, state, revision, before)

    def look(connection: Connection) -> list[answers.Build]:
        return [answers.build_of(view) for view in listing.builds(connection, wanted, most)]

    return await _answer(request, look, wait)


@looks.get("/builds/{build}", response_model=answers.Detail, responses=_NEWS)
async def show_build(request: Request, build: _Number, wait: _Wait = 0.0) -> Response:
    """All of a build: stages, runs, jobs, tags, decisions, what failed, what was measured."""
    return await _answer(request, lambda connection: _detail(connection, build), wait)


def _detail(connection: Connection, number: int) -> answers.Detail:
    found = listing.build(connection, number)
    if found is None:
        raise NotFound(f"there is no build {number}\n  try: nosejobs builds")
    runs = {run.id: run for run in found.view.runs}
    newest = {run.id for run in standing.newest_runs(found.view.runs).values()}
    failures, measurements = [], []
    for job in found.jobs:
        if job.stage_run not in newest or not job.package or job.state is model.JobState.LOST:
            continue
        rows = results.of_job(connection, job.id, ("failed", "error"), _FAILURES)
        failures += [answers.result_of(job.id, row) for row in rows]
        measurements += _measured(connection, job, runs[job.stage_run].stage)
    return answers.detail_of(found, failures, measurements)


def _measured(connection: Connection, job: model.Job, stage: str) -> list[answers.Measurement]:
    return [
        answers.Measurement(
            job=job.id, stage=stage, nodeid=nodeid, case=None if row.case < 0 else row.case,
            name=row.name, value=row.value, unit=row.unit,
        )
        for nodeid, row in results.measured(connection, job.id, _MOST)
    ]  # fmt: skip


@looks.get("/builds/{build}/stages/{stage}/jobs")
def stage_jobs(
    request: Request,
    build: _Number,
    stage: _Name,
    run: Annotated[int | None, Query(ge=1, le=(1 << 62), description="Default: the last.")] = None,
) -> list[answers.Job]:
    """The jobs of a run of a stage, all attempts."""
    with _context(request).store.read() as connection:
        found = _run(connection, build, stage, run)
        its = jobs.of_run(connection, found.id)
        counts = results.counts(connection, [job.id for job in its])
        return [answers.job_of(job, found, counts.get(job.id)) for job in its]


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


@looks.get("/jobs/{job}")
def show_job(request: Request, job: _JobId) -> answers.Job:
    """A job."""
    with _context(request).store.read() as connection:
        found = _job(connection, job)
        run = stage_runs.get(connection, found.stage_run)
        assert run is not None
        return answers.job_of(found, run, results.counts(connection, [job]).get(job))


def _job(connection: Connection, job: str) -> model.Job:
    found = jobs.get(connection, job) if is_uuid(job) else None
    if found is None:
        raise NotFound(f"there is no job {job}")
    return found


@looks.get("/jobs/{job}/results")
def job_results(
    request: Request,
    job: _JobId,
    outcome: Annotated[list[str] | None, Query(max_length=10)] = None,
    most: Annotated[int, Query(ge=1, le=100_000)] = 1000,
) -> list[answers.Result]:
    """Outcomes of its tests, in order."""
    with _context(request).store.read() as connection:
        _job(connection, job)
        rows = results.of_job(connection, job, outcome or (), most)
    return [answers.result_of(job, row) for row in rows]


@looks.get("/jobs/{job}/results/{number}/cases")
def result_cases(
    request: Request,
    job: _JobId,
    number: Annotated[int, Path(ge=0, le=(1 << 62))],
    after: Annotated[int, Query(ge=-1, le=(1 << 62))] = -1,
    most: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> list[answers.Case]:
    """Sub-results that a test named, from the one behind ``after`` on."""
    with _context(request).store.read() as connection:
        _job(connection, job)
        rows = results.cases_of(connection, job, number, after, most)
    return [
        answers.Case(
            number=r.number, name=r.name, outcome=r.outcome, message=r.message, duration=r.duration
        )
        for r in rows
    ]


@looks.get("/hosts", response_model=list[answers.Host], responses=_NEWS)
async def list_hosts(request: Request, wait: _Wait = 0.0) -> Response:
    """Hosts, by name."""

    def look(connection: Connection) -> list[answers.Host]:
        load = jobs.load(connection)
        return [answers.host_of(h, load.get(h.name, 0)) for h in hosts.every(connection)]

    return await _answer(request, look, wait)


@looks.get("/audit")
def list_audit(
    request: Request,
    build: Annotated[int | None, Query(ge=1, le=(1 << 62))] = None,
    before: _Before = None,
    most: _Most = 100,
) -> list[answers.Entry]:
    """What has happened, the newest first."""
    with _context(request).store.read() as connection:
        found = audit.entries(connection, build=build, before=before, most=most)
    return [answers.entry_of(entry) for entry in found]


async def _answer(request: Request, look: Callable[[Connection], Any], wait: float) -> Response:
    """What a look finds, with its ETag; if that is the one that is asked for, wait for another."""
    context = _context(request)
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


# -- logs ---------------------------------------------------------------------------

_From = Annotated[
    str | None,
    Query(alias="from", max_length=60, description="A place: ATTEMPT:BYTES:CRC-32."),
]


@looks.get(
    "/jobs/{job}/log",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/plain": {}}}},
)
def job_log(request: Request, job: _JobId) -> Response:
    """All that install command and tests have printed so far, as bytes."""
    context = _context(request)
    pieces = context.streams.counted(context.logs.read(_known(context, job), Place(), False))
    # What goes wrong before there is anything is an error like any other.
    whole = chain([next(pieces)], pieces)
    kind = "text/plain; charset=utf-8"
    return StreamingResponse((piece.data for piece in whole), media_type=kind)


@looks.get(
    "/jobs/{job}/log/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
def job_log_events(request: Request, job: _JobId, start: _From = None) -> Response:
    """The log as it grows, as server-sent events, until the job has ended.

    ``log``: {"text"}, its id is the place behind it: for ``from``, or Last-Event-ID.
    ``trouble``: {"detail"}, it ends too early.  ``end``: nothing more comes.
    """
    context = _context(request)
    text = start or request.headers.get("last-event-id", "")
    place = place_of(text[:60]) if text else Place()
    pieces = context.logs.read(_known(context, job), place, True)
    return StreamingResponse(context.streams.events(pieces), media_type="text/event-stream")


def _known(context: Context, job: str) -> str:
    with context.store.read() as connection:
        return _job(connection, job).id


# -- acting -------------------------------------------------------------------------


def _act(
    request: Request,
    asked: answers.Action | answers.Reasoned,
    do: Callable[[Connection, actions.By], Any],
) -> Any:
    """In one transaction; whoever waits for its commit goes on with it."""
    by = actions.By(asked.who, asked.reason, time.time())
    with _context(request).store.write() as connection:
        return do(connection, by)


def _done(changed: bool, words: str, before: str) -> answers.Done:
    return answers.Done(changed=changed, words=words if changed else before)


@acts.post("/builds/{build}/stages/{stage}/approve")
def approve(request: Request, build: _Number, stage: _Name, asked: answers.Action) -> answers.Done:
    """Let a stage run: opens its gate, ends a hold."""
    new = _act(request, asked, lambda c, by: actions.approve(c, build, stage, by))
    what = f"{stage} of build {build}"
    return _done(new, f"{what} is approved", f"{what} was approved before")


@acts.post("/builds/{build}/stages/{stage}/hold")
def hold(request: Request, build: _Number, stage: _Name, asked: answers.Action) -> answers.Done:
    """Keep a stage from running until it is approved."""
    new = _act(request, asked, lambda c, by: actions.hold(c, build, stage, by))
    what = f"{stage} of build {build}"
    return _done(new, f"{what} is held", f"{what} was held before")


@acts.post("/builds/{build}/stages/{stage}/tag")
def tag(request: Request, build: _Number, stage: _Name, asked: answers.Reasoned) -> answers.Done:
    """Tag a build by hand."""
    new = _act(request, asked, lambda c, by: actions.tag(c, build, stage, by))
    what = f"build {build} is tagged {stage}"
    return _done(new, f"{what} by hand", f"{what} by hand already")


@acts.post("/builds/{build}/stages/{stage}/revoke")
def revoke(request: Request, build: _Number, stage: _Name, asked: answers.Reasoned) -> answers.Done:
    """Revoke the tags of a stage; they stay, with the reason."""
    count = _act(request, asked, lambda c, by: actions.revoke(c, build, stage, by))
    many = f"{count} tags" if count > 1 else "the tag"
    return _done(count > 0, f"{many} {stage} of build {build} revoked", "")


@acts.post("/builds/{build}/stages/{stage}/rerun", status_code=201)
def rerun(request: Request, build: _Number, stage: _Name, asked: answers.Rerun) -> answers.Run:
    """Run a stage again, or those of its tests that failed."""
    run = _act(request, asked, lambda c, by: actions.rerun(c, build, stage, by, asked.failed))
    return answers.run_of(run)


@acts.post("/builds/{build}/stages/{stage}/cancel")
def cancel_stage(
    request: Request, build: _Number, stage: _Name, asked: answers.Action
) -> answers.Done:
    """End the run of a stage."""
    _act(request, asked, lambda c, by: actions.cancel(c, build, by, stage))
    return answers.Done(changed=True, words=f"{stage} of build {build} is cancelled")


@acts.post("/builds/{build}/cancel")
def cancel_build(request: Request, build: _Number, asked: answers.Action) -> answers.Done:
    """End all that is to come of a build."""
    found = _act(request, asked, lambda c, by: actions.cancel(c, build, by))
    names = ", ".join(run.stage for run in found)
    return answers.Done(changed=True, words=f"build {build} is cancelled{names and f': {names}'}")


_HOSTS = {
    "drain": (actions.drain, "ends what it has, and gets nothing new"),
    "quarantine": (actions.quarantine, "gets nothing new until it is resumed"),
    "resume": (actions.resume, "gets jobs again"),
}


def _host_action(name: str) -> Callable[..., answers.Done]:
    function, words = _HOSTS[name]

    def act(request: Request, host: _HostName, asked: answers.Action) -> answers.Done:
        new = _act(request, asked, lambda c, by: function(c, host, by))
        return _done(new, f"host {host} {words}", f"host {host} is in that state already")

    act.__name__, act.__doc__ = f"{name}_host", f"A host {words}."
    return act


for _name in _HOSTS:
    acts.post(f"/hosts/{{host}}/{_name}")(_host_action(_name))


@acts.post("/poke/{source}", status_code=202)
def poke(
    request: Request, source: _Name, asked: answers.Rung | None = None
) -> answers.Done:
    """Look at a source now: the doorbell for hooks of repositories; who rings may be left out."""
    context = _context(request)
    service = context.service
    names = [each.name for each in service.settings.sources]
    if source not in names:
        hint = actions.suggested(source, names, "there is none in the dispatcher's file")
        raise NotFound(f"there is no source {source!r}{hint}")
    service.poke(source)  # first: whoever waits for a commit does not wait for the record of it
    who, why = (asked.who, asked.reason) if asked else ("", "")
    told = ": ".join(filter(None, [f"from {_caller(request)}", why]))
    words = f"{source} is looked at"
    try:
        with context.store.write(quiet=True) as connection:
            audit.write(connection, time.time(), f"poke {source}", told, who=who)
    except StoreError as error:
        words = f"{words}; the audit does not have it: {error}"
    return answers.Done(changed=True, words=words)


def _caller(request: Request) -> str:
    """From where somebody asks, and with which program, as that says itself."""
    program = clean_line(request.headers.get("user-agent", ""), 100)
    address = request.client.host if request.client else "an address that is not known"
    return f"{address}, {program}" if program else address


@acts.post("/notify", status_code=202)
async def notify(request: Request) -> answers.Done:
    """A host says that a job has ended: a hint, by which it is asked sooner.

    Signed as ``nosejobs job submit --notify`` has it; the job's row stays as it is.
    """
    context = _context(request)
    body = await request.body()
    given = request.headers.get(SIGNATURE, "")
    wanted = signature(context.secret, body)
    if not hmac.compare_digest(given.encode("latin-1"), wanted.encode()):
        raise HTTPException(
            403, "the notification is not signed with the secret of this dispatcher"
        )
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or not is_uuid(told.get("job")):
        raise HTTPException(422, "the notification names no job")
    context.store.wake()
    return answers.Done(changed=False, words=f"job {told['job']} is looked at")


# -- errors -------------------------------------------------------------------------


def add_errors(app: FastAPI) -> None:
    """Every error is a problem in words."""
    statuses: list[tuple[type[Exception], int]] = [
        (NotFound, 404), (NoLog, 404), (actions.Unknown, 404), (actions.Refused, 409),
        (model.BadChange, 409), (UsageError, 422), (JobRefused, 409), (HostError, 502),
        (TooMany, 503), (StoreError, 503),
    ]  # fmt: skip
    for kind, status in statuses:
        app.add_exception_handler(kind, _handler(status))
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _broken)


def _problem(status: int, words: str) -> Response:
    return JSONResponse(problem(status, words), status, media_type=PROBLEM)


def _handler(status: int) -> Callable[[Request, Exception], Response]:
    return lambda request, error: _problem(status, str(error))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = str(error.detail)
    if error.status_code == 404:
        words = f"there is no {clean_line(request.url.path, 200)} here\n  see: /openapi.json"
    elif error.status_code == 405:
        words = f"{request.method} is not for {clean_line(request.url.path, 200)}"
    found = _problem(error.status_code, words)
    found.headers.update(error.headers or {})
    return found


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [_place(each) for each in error.errors()[:5]]
    return _problem(422, "; ".join(found))


def _place(error: Any) -> str:
    """Where, and what is wrong there; never the value, which may be of any size."""
    where = ".".join(str(part) for part in error["loc"][1:]) or str(error["loc"][0])
    words = re.sub(r"^Value error, ", "", error["msg"])
    return f"{clean_line(where, 100)}: {clean_line(words, 300)}"


def _broken(request: Request, error: Exception) -> Response:
    return _problem(500, "the dispatcher has made a mistake; its own output says which")
