"""Builds: their states, their artefacts, their levels."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, select

from .. import model
from . import statements, tables

_BUILD, _RUN, _CHANGE = tables.build.c, tables.stage_run.c, tables.change.c
#: States of stage runs that something can still come of by itself.
_ALIVE = tuple(
    state
    for state in model.StageState
    if not state.over and state is not model.StageState.BLOCKED
)
_OPEN = (model.BuildState.NEW, model.BuildState.BUILDING)

_GET = statements.by_key(tables.build)
#: Numbers of those that something can still come of by itself.
ACTIVE = (
    select(_BUILD.id)
    .where(statements.among(_BUILD.state, _OPEN))
    .union(select(_RUN.build).where(statements.among(_RUN.state, _ALIVE)))
)
_REUSABLE = (
    select(tables.build)
    .join(tables.change, _CHANGE.id == _BUILD.change)
    .where(_CHANGE.source == bindparam("source"))
    .where(_BUILD.inputs == bindparam("inputs"), _BUILD.inputs != "")
    .where(_BUILD.state == model.BuildState.BUILT.value, _BUILD.digest != "")
    .where(_BUILD.removed.is_(None))
    .order_by(_BUILD.id.desc())
    .limit(1)
)


def add(connection: Connection, change: int, at: float) -> int:
    """The build of a change; its number."""
    new = model.BuildState.NEW.value
    return statements.add(connection, tables.build, {"change": change, "state": new, "began": at})


def get(connection: Connection, build: int) -> model.Build | None:
    """One build."""
    found = connection.execute(_GET, {"key": build}).first()
    return statements.build(found) if found else None


def move(connection: Connection, build: int, event: model.BuildEvent, **fields: Any) -> bool:
    """An event of a build, and what else it sets; False: it does nothing (see ``rows.move``)."""
    return statements.move(connection, tables.build, model.BUILDS, build, event, **fields)


def describe(connection: Connection, build: int, **fields: Any) -> bool:
    """Set what is found out about it: tree, config, inputs, detail; whether it was there."""
    unknown = fields.keys() - {"tree", "config", "inputs", "detail"}
    assert not unknown, unknown
    return statements.put(connection, tables.build, build, **fields)


def set_level(connection: Connection, build: int, level: str) -> bool:
    """Whether the level is another one now."""
    return statements.put_new(connection, tables.build, build, level=level)


def reusable(connection: Connection, source: int, inputs: str) -> model.Build | None:
    """The newest build of a source with the same inputs whose artefact is still there.

    Its ``reused``, if it has one, is the build that made the artefact.
    """
    found = connection.execute(_REUSABLE, {"source": source, "inputs": inputs}).first()
    return statements.build(found) if found else None


def active(connection: Connection) -> list[int]:
    """Numbers of the builds that something can still come of by itself, oldest first.

    New and building ones, and those with a stage run that waits, is gated or held, or runs.
    One that is blocked comes back with the new run of what blocks it.  So the stage runs of a
    build have to be added in the transaction that makes it built.
    """
    return sorted(connection.execute(ACTIVE).scalars())


def untouched(connection: Connection, source: int, branch: str) -> list[model.Build]:
    """Builds of a branch of which nothing has been done, oldest first: they can be superseded."""
    statement = (
        select(tables.build)
        .join(tables.change, _CHANGE.id == _BUILD.change)
        .where(_BUILD.state == model.BuildState.NEW.value)
        .where(_CHANGE.source == source, _CHANGE.branch == branch)
        .order_by(_BUILD.id)
    )
    return [statements.build(row) for row in connection.execute(statement)]


