"""Queries and updates of the table ``build``."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, select

from .. import model
from . import row_mapping, tables

_BUILD, _RUN, _CHANGE = tables.build.c, tables.stage_run.c, tables.change.c
#: States of stage runs that can still change without a person.
_ACTIVE_RUN_STATES = tuple(
    state
    for state in model.StageState
    if not state.is_final and state is not model.StageState.BLOCKED
)
_OPEN_STATES = (model.BuildState.NEW, model.BuildState.BUILDING)

_GET = row_mapping.select_by_key(tables.build)
#: Selects the ids of builds that can still change without a person.
ACTIVE = (
    select(_BUILD.id)
    .where(row_mapping.is_in_states(_BUILD.state, _OPEN_STATES))
    .union(select(_RUN.build).where(row_mapping.is_in_states(_RUN.state, _ACTIVE_RUN_STATES)))
)
_REUSABLE = (
    select(tables.build)
    .join(tables.change, _CHANGE.id == _BUILD.change)
    .where(_CHANGE.source == bindparam("source"))
    .where(_BUILD.inputs_digest == bindparam("inputs"), _BUILD.inputs_digest != "")
    .where(_BUILD.state == model.BuildState.BUILT.value, _BUILD.artifact_digest != "")
    .where(_BUILD.removed_at.is_(None))
    .order_by(_BUILD.id.desc())
    .limit(1)
)


def add(connection: Connection, change: int, at: float) -> int:
    """Add the build of a change, created at ``at``, and return its id."""
    new = model.BuildState.NEW.value
    return row_mapping.insert_row(
        connection, tables.build, {"change": change, "state": new, "created_at": at}
    )


def get(connection: Connection, build: int) -> model.Build | None:
    """Return a build by id; None if there is none."""
    row = connection.execute(_GET, {"key": build}).first()
    return row_mapping.build_from_row(row) if row else None


def apply_event(connection: Connection, build: int, event: model.BuildEvent, **fields: Any) -> bool:
    """Apply an event to a build and set columns; see ``statements.apply_event``."""
    return row_mapping.apply_event(
        connection, tables.build, model.BUILD_TRANSITIONS, build, event, **fields
    )


def update_fields(connection: Connection, build: int, **fields: Any) -> bool:
    """Set the tree digest, config, inputs digest or detail.  Return whether the build exists."""
    unknown = fields.keys() - {"tree_digest", "config", "inputs_digest", "detail"}
    assert not unknown, unknown
    return row_mapping.update_row(connection, tables.build, build, **fields)


def set_level(connection: Connection, build: int, level: str) -> bool:
    """Set the level of a build.  Return whether it changed."""
    return row_mapping.update_row_if_different(connection, tables.build, build, level=level)


def find_reusable(connection: Connection, source: int, inputs: str) -> model.Build | None:
    """Return the newest build of a source with these inputs whose artifact is still stored.

    Its ``reused_build``, if set, is the build that made the artifact.
    """
    row = connection.execute(_REUSABLE, {"source": source, "inputs": inputs}).first()
    return row_mapping.build_from_row(row) if row else None


def list_active_ids(connection: Connection) -> list[int]:
    """Return the ids of builds that can still change without a person, oldest first.

    These are new builds, builds being built, and builds with a stage run that is waiting, gated,
    held, being placed or running.  A build with blocked runs only becomes active again with a new
    run of the stage that blocks them.  Therefore the stage runs of a build must be added in the
    transaction that makes it built.
    """
    return sorted(connection.execute(ACTIVE).scalars())


def list_new_on_branch(connection: Connection, source: int, branch: str) -> list[model.Build]:
    """Return the new builds of a branch, oldest first; a newer change can supersede them."""
    statement = (
        select(tables.build)
        .join(tables.change, _CHANGE.id == _BUILD.change)
        .where(_BUILD.state == model.BuildState.NEW.value)
        .where(_CHANGE.source == source, _CHANGE.branch == branch)
        .order_by(_BUILD.id)
    )
    return [row_mapping.build_from_row(row) for row in connection.execute(statement)]
