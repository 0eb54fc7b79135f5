"""Queries and updates of sources, of the heads of their branches, and of their changes."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, delete, select, update

from .. import model
from . import row_mapping, tables

_SOURCE, _HEAD = tables.source.c, tables.head.c
_GET = row_mapping.select_by_key(tables.change)
_SOURCES = select(tables.source).order_by(_SOURCE.name)


class Source(NamedTuple):
    """A row of ``source``."""

    id: int
    name: str
    kind: str
    error: str = ""
    polled_at: float | None = None


def ensure_source(connection: Connection, name: str, kind: str) -> int:
    """Return the id of a configured source; add the source if it is new."""
    row_mapping.insert_if_absent(connection, tables.source, {"name": name, "kind": kind})
    where = _SOURCE.name == name
    connection.execute(update(tables.source).where(where, _SOURCE.kind != kind).values(kind=kind))
    return int(connection.execute(select(_SOURCE.id).where(where)).scalar_one())


def list_sources(connection: Connection) -> list[Source]:
    """Return all sources that were ever configured, by name."""
    return [Source(*row) for row in connection.execute(_SOURCES)]


def record_poll(connection: Connection, source: int, at: float, error: str = "") -> None:
    """Record that a source was polled at ``at``; ``error`` is empty if that succeeded."""
    statement = update(tables.source).where(_SOURCE.id == source)
    connection.execute(statement.values(polled_at=at, error=error))


def revisions_by_branch(connection: Connection, source: int) -> dict[str, str]:
    """Return the revisions of the branches at the last poll."""
    statement = select(_HEAD.branch, _HEAD.revision).where(_HEAD.source == source)
    return {row[0]: row[1] for row in connection.execute(statement)}


def move_head(
    connection: Connection, source: int, branch: str, expected: str, revision: str
) -> bool:
    """Move the head of a branch from ``expected`` to ``revision``.  Return whether it was moved.

    An empty revision means that the branch does not exist.  False: the head is not at
    ``expected``, so the caller must poll again.  The changes and builds of a move must be added in
    the same transaction, so that each move is seen exactly once.
    """
    if not expected:
        row = {"source": source, "branch": branch, "revision": revision}
        return row_mapping.insert_if_absent(connection, tables.head, row)
    where = (_HEAD.source == source, _HEAD.branch == branch, _HEAD.revision == expected)
    if not revision:
        return connection.execute(delete(tables.head).where(*where)).rowcount == 1
    statement = update(tables.head).where(*where).values(revision=revision)
    return connection.execute(statement).rowcount == 1


def add(connection: Connection, change: model.Change) -> int:
    """Add a change, and return its id."""
    return row_mapping.insert_row(connection, tables.change, row_mapping.column_values(change))


def get(connection: Connection, change: int) -> model.Change | None:
    """Return a change by id; None if there is none."""
    row = connection.execute(_GET, {"key": change}).first()
    return row_mapping.change_from_row(row) if row else None
