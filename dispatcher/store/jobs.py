"""Queries and updates of the table ``job``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select, update

from .. import model
from . import row_mapping, tables

_JOB = tables.job.c
_OPEN = row_mapping.is_in_states(_JOB.state, [state for state in model.JobState if state.is_open])
_FINAL_RUN_STATES = [state for state in model.StageState if state.is_final]
_GET = row_mapping.select_by_key(tables.job)
_OPEN_COUNTS = select(_JOB.host, func.count()).where(_OPEN).group_by(_JOB.host)
_STOPPED_JOBS = (
    select(_JOB.id, _JOB.host)
    .join(tables.stage_run, tables.stage_run.c.id == _JOB.stage_run)
    .where(_OPEN, row_mapping.is_in_states(tables.stage_run.c.state, _FINAL_RUN_STATES))
)
_BY_RUNS = (
    select(tables.job)
    .where(_JOB.stage_run.in_(bindparam("runs", expanding=True)))
    .order_by(_JOB.stage_run, _JOB.part, _JOB.attempt)
)
_LOST_ON_HOST = (
    select(tables.job)
    .where(_JOB.state == model.JobState.LOST.value)
    .where(_JOB.host == bindparam("host"), _JOB.planned_at >= bindparam("since"))
    .order_by(_JOB.planned_at.desc(), _JOB.id)
    .limit(bindparam("limit"))
)


def plan(connection: Connection, jobs: Sequence[model.Job]) -> list[str]:
    """Add jobs, in the transaction that places their stage run.  Return the UUIDs of the new ones.

    An existing job of the same part and attempt is kept, whatever its UUID is.
    """
    return [
        job.id
        for job in jobs
        if row_mapping.insert_if_absent(connection, tables.job, row_mapping.column_values(job))
    ]


def get(connection: Connection, job: str) -> model.Job | None:
    """Return a job by UUID; None if there is none."""
    row = connection.execute(_GET, {"key": job}).first()
    return row_mapping.job_from_row(row) if row else None


def list_by_run(connection: Connection, run: int) -> list[model.Job]:
    """Return all jobs of a stage run, by part and attempt."""
    return list_by_runs(connection, [run])


def list_by_runs(connection: Connection, runs: Sequence[int]) -> list[model.Job]:
    """Return all jobs of several stage runs, by run, part and attempt."""
    jobs: list[model.Job] = []
    for chunk in row_mapping.split_into_parameters(sorted(runs)):
        jobs += map(row_mapping.job_from_row, connection.execute(_BY_RUNS, {"runs": chunk}))
    return jobs


def list_in_state(
    connection: Connection, *states: model.JobState, host: str | None = None
) -> list[model.Job]:
    """Return the jobs in any of these states, of one host or of all, oldest first."""
    statement = _select_in_state(states)
    if host is None:
        rows = connection.execute(statement)
    else:
        rows = connection.execute(_select_in_state_on_host(states), {"host": host})
    return [row_mapping.job_from_row(row) for row in rows]


@lru_cache
def _select_in_state(states: tuple[model.JobState, ...]) -> Select[Any]:
    chosen = select(tables.job).where(row_mapping.is_in_states(_JOB.state, states))
    return chosen.order_by(_JOB.planned_at, _JOB.id)


@lru_cache
def _select_in_state_on_host(states: tuple[model.JobState, ...]) -> Select[Any]:
    return _select_in_state(states).where(_JOB.host == bindparam("host"))


def count_open_by_host(connection: Connection) -> dict[str, int]:
    """Return the number of open jobs by host."""
    return {row[0]: row[1] for row in connection.execute(_OPEN_COUNTS)}


def apply_event(connection: Connection, job: str, event: model.JobEvent, **fields: Any) -> bool:
    """Apply an event to a job and set columns; see ``statements.apply_event``."""
    return row_mapping.apply_event(
        connection, tables.job, model.JOB_TRANSITIONS, job, event, **fields
    )


def set_detail(connection: Connection, job: str, detail: str) -> bool:
    """Set why an open job is waiting.  Return whether that changed."""
    new = update(tables.job).where(_JOB.id == job, _OPEN, _JOB.detail != detail)
    return connection.execute(new.values(detail=detail)).rowcount == 1


def hosts_of_stopped_jobs(connection: Connection) -> dict[str, str]:
    """Return the host of each open job, by UUID, whose stage run has reached a final state.

    These jobs must be stopped: their stage run was canceled, or a person decided its outcome.
    """
    return {row[0]: row[1] for row in connection.execute(_STOPPED_JOBS)}


def list_lost_on_host(
    connection: Connection, host: str, since: float, limit: int
) -> list[model.Job]:
    """Return the lost jobs that a host may still have, newest first, at most ``limit``.

    ``since``: time after which they were planned.
    """
    rows = connection.execute(_LOST_ON_HOST, {"host": host, "since": since, "limit": limit})
    return [row_mapping.job_from_row(row) for row in rows]
