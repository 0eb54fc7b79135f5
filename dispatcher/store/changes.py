"""Sources, where their branches stand, and the changes that were seen in them."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, delete, select, update

from .. import model
from . import statements, tables

_SOURCE, _HEAD = tables.source.c, tables.head.c
_GET = statements.by_key(tables.change)
_SOURCES = select(tables.source).order_by(_SOURCE.name)


class Source(NamedTuple):
    """A row of ``source``."""

    id: int
    name: str
    kind: str
    trouble: str = ""
    looked: float | None = None


def source(connection: Connection, name: str, kind: str) -> int:
    """The number of a source of the dispatcher's file; it keeps it for ever."""
    statements.add_new(connection, tables.source, {"name": name, "kind": kind})
    where = _SOURCE.name == name
    connection.execute(update(tables.source).where(where, _SOURCE.kind != kind).values(kind=kind))
    return int(connection.execute(select(_SOURCE.id).where(where)).scalar_one())


def sources(connection: Connection) -> list[Source]:
    """All that there have been, by name."""
    found = connection.execute(_SOURCES)
    return [Source(*row) for row in found]


def looked(connection: Connection, source: int, at: float, trouble: str = "") -> None:
    """It was looked at, and why it could not be read, if it could not."""
    statement = update(tables.source).where(_SOURCE.id == source)
    connection.execute(statement.values(looked=at, trouble=trouble))


def heads(connection: Connection, source: int) -> dict[str, str]:
    """Revision by branch, as of the last look."""
    statement = select(_HEAD.branch, _HEAD.revision).where(_HEAD.source == source)
    return {row[0]: row[1] for row in connection.execute(statement)}


def move_head(connection: Connection, source: int, branch: str, before: str, revision: str) -> bool:
    """From one revision to another; empty: the branch is not there.  Whether it was moved.

    False: it does not stand at ``before``, so that whoever looked looks again.  The changes
    and builds that come of it belong into the same transaction: each move is seen once.
    """
    if not before:
        row = {"source": source, "branch": branch, "revision": revision}
        return statements.add_new(connection, tables.head, row)
    where = (_HEAD.source == source, _HEAD.branch == branch, _HEAD.revision == before)
    if not revision:
        return connection.execute(delete(tables.head).where(*where)).rowcount == 1
    statement = update(tables.head).where(*where).values(revision=revision)
    return connection.execute(statement).rowcount == 1


def add(connection: Connection, change: model.Change) -> int:
    """A new change; its number."""
    return statements.add(connection, tables.change, statements.values(change))


def get(connection: Connection, change: int) -> model.Change | None:
    """One change."""
    found = connection.execute(_GET, {"key": change}).first()
    return statements.change(found) if found else None
