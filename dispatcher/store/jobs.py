"""Durable jobs on hosts, as far as the dispatcher knows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select, update

from .. import model
from . import statements, tables

_JOB = tables.job.c
_OPEN = statements.among(_JOB.state, [state for state in model.JobState if state.open])
_OVER = [state for state in model.StageState if state.over]
_GET = statements.by_key(tables.job)
_LOAD = select(_JOB.host, func.count()).where(_OPEN).group_by(_JOB.host)
_STOPPED = (
    select(_JOB.id, _JOB.host)
    .join(tables.stage_run, tables.stage_run.c.id == _JOB.stage_run)
    .where(_OPEN, statements.among(tables.stage_run.c.state, _OVER))
)
_OF_RUNS = (
    select(tables.job)
    .where(_JOB.stage_run.in_(bindparam("runs", expanding=True)))
    .order_by(_JOB.stage_run, _JOB.part, _JOB.attempt)
)
_LOST_ON = (
    select(tables.job)
    .where(_JOB.state == model.JobState.LOST.value)
    .where(_JOB.host == bindparam("host"), _JOB.planned >= bindparam("since"))
    .order_by(_JOB.planned.desc(), _JOB.id)
    .limit(bindparam("most"))
)


def plan(connection: Connection, jobs: Sequence[model.Job]) -> list[str]:
    """Their rows, in the transaction that places their stage run; the UUIDs of the new ones.

    One that is there for this part and attempt stays, whatever UUID it has.
    """
    return [job.id for job in jobs if statements.add_new(connection, tables.job, statements.values(job))]


def get(connection: Connection, job: str) -> model.Job | None:
    """One job."""
    found = connection.execute(_GET, {"key": job}).first()
    return statements.job(found) if found else None


def of_run(connection: Connection, run: int) -> list[model.Job]:
    """All attempts at all parts, in order."""
    return of_runs(connection, [run])


def of_runs(connection: Connection, runs: Sequence[int]) -> list[model.Job]:
    """Those of several stage runs, in order."""
    found: list[model.Job] = []
    for chunk in statements.chunks(sorted(runs)):
        found += map(statements.job, connection.execute(_OF_RUNS, {"runs": chunk}))
    return found


def in_state(
    connection: Connection, *states: model.JobState, host: str | None = None
) -> list[model.Job]:
    """Those in one of these states, of one host or of all, oldest first."""
    statement = _in_state(states)
    if host is None:
        found = connection.execute(statement)
    else:
        found = connection.execute(_in_state_on(states), {"host": host})
    return [statements.job(row) for row in found]


@lru_cache
def _in_state(states: tuple[model.JobState, ...]) -> Select[Any]:
    chosen = select(tables.job).where(statements.among(_JOB.state, states))
    return chosen.order_by(_JOB.planned, _JOB.id)


@lru_cache
def _in_state_on(states: tuple[model.JobState, ...]) -> Select[Any]:
    return _in_state(states).where(_JOB.host == bindparam("host"))


def load(connection: Connection) -> dict[str, int]:
    """Open jobs by host."""
    return {row[0]: row[1] for row in connection.execute(_LOAD)}


def move(connection: Connection, job: str, event: model.JobEvent, **fields: Any) -> bool:
    """An event of a job, and what else it sets; False: it does nothing (see ``rows.move``)."""
    return statements.move(connection, tables.job, model.JOBS, job, event, **fields)


def describe(connection: Connection, job: str, detail: str) -> bool:
    """Say why an open job does not go on; whether that is new.  How it ends says its end."""
    new = update(tables.job).where(_JOB.id == job, _OPEN, _JOB.detail != detail)
    return connection.execute(new.values(detail=detail)).rowcount == 1


def stopped(connection: Connection) -> dict[str, str]:
    """Hosts by job: open ones whose stage run is over (cancelled, or by a person's word)."""
    return {row[0]: row[1] for row in connection.execute(_STOPPED)}


def lost_on(connection: Connection, host: str, since: float, most: int) -> list[model.Job]:
    """Those given up that the host may have still, newest first."""
    found = connection.execute(_LOST_ON, {"host": host, "since": since, "most": most})
    return [statements.job(row) for row in found]
