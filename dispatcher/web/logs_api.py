"""The routes of logs: the bytes so far, or server-sent events while a log grows."""

from __future__ import annotations

from itertools import chain
from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import Connection

from shell_runner.jobs.log_position import LogPosition, parse_log_position
from shell_runner.remote.protocol.job import is_uuid

from .. import model
from ..store import jobs
from .errors import NotFound
from .parameters import (
    Context,
    JobId,
    context_of,
    make_router,
)

routes = make_router()

LogOffset = Annotated[
    str | None,
    Query(max_length=60, description="Position in the log: ATTEMPT:BYTES:CRC-32."),
]


def find_job(connection: Connection, job: str) -> model.Job:
    """Return a job by its UUID; raises NotFound."""
    row = jobs.get(connection, job) if is_uuid(job) else None
    if row is None:
        raise NotFound(f"there is no job {job}")
    return row


@routes.get(
    "/jobs/{job}/log",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/plain": {}}}},
)
def job_log(request: Request, job: JobId) -> Response:
    """Send the output of the install command and the tests so far, as bytes."""
    context = context_of(request)
    chunks = context.log_streams.limit_readers(
        context.logs.read(_existing_job(context, job), LogPosition(), False)
    )
    # An error before the first piece still gets a status of its own.
    all_chunks = chain([next(chunks)], chunks)
    kind = "text/plain; charset=utf-8"
    return StreamingResponse((chunk.data for chunk in all_chunks), media_type=kind)


@routes.get(
    "/jobs/{job}/log/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
def job_log_events(request: Request, job: JobId, offset: LogOffset = None) -> Response:
    """Send the log as it grows, as server-sent events, until the job has ended.

    Event ``log``: {"text"}; its id is the position after it, for ``offset`` or Last-Event-ID.
    Event ``failure``: {"detail"}; the log cannot be read to its end.
    Event ``end``: the log is complete.
    """
    context = context_of(request)
    text = offset or request.headers.get("last-event-id", "")
    position = parse_log_position(text[:60]) if text else LogPosition()
    chunks = context.logs.read(_existing_job(context, job), position, True)
    return StreamingResponse(context.log_streams.events(chunks), media_type="text/event-stream")


def _existing_job(context: Context, job: str) -> str:
    with context.store.read() as connection:
        return find_job(connection, job).id
