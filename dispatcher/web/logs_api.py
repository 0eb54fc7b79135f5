"""The routes of logs: as bytes so far, or as server-sent events while they grow."""

from __future__ import annotations

from itertools import chain
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import Connection

from shell_runner.jobs.log_position import LogPosition, parse_log_position
from shell_runner.remote.protocol.job import is_uuid

from .. import model
from ..store import jobs
from .errors import NotFound
from .parameters import PROBLEMS, ROOT, Context, JobId, context_of

routes = APIRouter(prefix=ROOT, responses=PROBLEMS)

LogStart = Annotated[
    str | None,
    Query(alias="from", max_length=60, description="A place: ATTEMPT:BYTES:CRC-32."),
]


def find_job(connection: Connection, job: str) -> model.Job:
    """Return a job by its UUID; raises NotFound."""
    found = jobs.get(connection, job) if is_uuid(job) else None
    if found is None:
        raise NotFound(f"there is no job {job}")
    return found


@routes.get(
    "/jobs/{job}/log",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/plain": {}}}},
)
def job_log(request: Request, job: JobId) -> Response:
    """Send everything that the install command and the tests have printed so far, as bytes."""
    context = context_of(request)
    pieces = context.streams.counted(context.logs.read(_known(context, job), LogPosition(), False))
    # An error before the first piece still gets a status of its own.
    whole = chain([next(pieces)], pieces)
    kind = "text/plain; charset=utf-8"
    return StreamingResponse((piece.data for piece in whole), media_type=kind)


@routes.get(
    "/jobs/{job}/log/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
def job_log_events(request: Request, job: JobId, start: LogStart = None) -> Response:
    """Send the log as it grows, as server-sent events, until the job has ended.

    Event ``log``: {"text"}; its id is the position after it, for ``from`` or Last-Event-ID.
    Event ``trouble``: {"detail"}; the log ends too early.  Event ``end``: the log is complete.
    """
    context = context_of(request)
    text = start or request.headers.get("last-event-id", "")
    place = parse_log_position(text[:60]) if text else LogPosition()
    pieces = context.logs.read(_known(context, job), place, True)
    return StreamingResponse(context.streams.events(pieces), media_type="text/event-stream")


def _known(context: Context, job: str) -> str:
    with context.store.read() as connection:
        return find_job(connection, job).id
