"""Stage runs: goes at the stages of builds."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, select

from .. import model
from . import statements, tables

_RUN = tables.stage_run.c
_GET = statements.by_key(tables.stage_run)


def add(connection: Connection, run: model.StageRun) -> int | None:
    """A new one; its number in the database.  None: this go of this stage is there already."""
    return statements.add_numbered(connection, tables.stage_run, statements.values(run))


def next_number(connection: Connection, build: int, stage: str) -> int:
    """The number of another go."""
    where = (_RUN.build == build, _RUN.stage == stage)
    found = connection.execute(select(func.max(_RUN.number)).where(*where)).scalar()
    return int(found or 0) + 1


def get(connection: Connection, run: int) -> model.StageRun | None:
    """One stage run."""
    found = connection.execute(_GET, {"key": run}).first()
    return statements.stage_run(found) if found else None


def of_build(connection: Connection, build: int) -> list[model.StageRun]:
    """All goes at all stages, in the order in which they were added."""
    statement = select(tables.stage_run).where(_RUN.build == build).order_by(_RUN.id)
    return [statements.stage_run(row) for row in connection.execute(statement)]


def move(connection: Connection, run: int, event: model.StageEvent, **fields: Any) -> bool:
    """An event of a stage run, and what else it sets; False: nothing (see ``rows.move``)."""
    return statements.move(connection, tables.stage_run, model.STAGES, run, event, **fields)


def describe(connection: Connection, run: int, **fields: Any) -> bool:
    """Set words and counts of one whose state stays; whether they are new."""
    unknown = fields.keys() - {"detail", "lost"}
    assert not unknown, unknown
    return statements.put_new(connection, tables.stage_run, run, **fields)
