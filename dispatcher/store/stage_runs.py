"""Queries and updates of the table ``stage_run``."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, select

from .. import model
from . import row_mapping, tables

_RUN = tables.stage_run.c
_GET = row_mapping.select_by_key(tables.stage_run)


def add(connection: Connection, run: model.StageRun) -> int | None:
    """Add a stage run and return its id; None if this run of the stage exists already."""
    return row_mapping.insert_numbered_if_absent(
        connection, tables.stage_run, row_mapping.column_values(run)
    )


def next_number(connection: Connection, build: int, stage: str) -> int:
    """Return the number of the next run of a stage."""
    where = (_RUN.build == build, _RUN.stage == stage)
    highest = connection.execute(select(func.max(_RUN.number)).where(*where)).scalar()
    return int(highest or 0) + 1


def get(connection: Connection, run: int) -> model.StageRun | None:
    """Return a stage run by id; None if there is none."""
    row = connection.execute(_GET, {"key": run}).first()
    return row_mapping.stage_run_from_row(row) if row else None


def list_by_build(connection: Connection, build: int) -> list[model.StageRun]:
    """Return all stage runs of a build, in the order of their creation."""
    statement = select(tables.stage_run).where(_RUN.build == build).order_by(_RUN.id)
    return [row_mapping.stage_run_from_row(row) for row in connection.execute(statement)]


def apply_event(connection: Connection, run: int, event: model.StageEvent, **fields: Any) -> bool:
    """Apply an event to a stage run and set columns; see ``statements.apply_event``."""
    return row_mapping.apply_event(
        connection, tables.stage_run, model.STAGE_TRANSITIONS, run, event, **fields
    )


def update_fields(connection: Connection, run: int, **fields: Any) -> bool:
    """Set the detail or the number of lost hosts.  Return whether anything changed."""
    unknown = fields.keys() - {"detail", "hosts_lost"}
    assert not unknown, unknown
    return row_mapping.update_row_if_different(connection, tables.stage_run, run, **fields)
