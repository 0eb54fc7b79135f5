"""What has happened, for people: who did what to what.  Written in the transaction that does it."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, select

from . import statements, tables

_AUDIT = tables.audit.c


class Entry(NamedTuple):
    """A row of ``audit``."""

    id: int
    at: float
    who: str
    what: str
    build: int | None
    detail: str


def write(
    connection: Connection,
    at: float,
    what: str,
    detail: str = "",
    *,
    who: str = "",
    build: int | None = None,
) -> None:
    """One entry; ``who`` is empty for the dispatcher itself."""
    fields = {"at": at, "who": who, "what": what, "build": build, "detail": detail}
    statements.add(connection, tables.audit, fields)


def entries(
    connection: Connection, *, build: int | None = None, before: int | None = None, most: int = 100
) -> list[Entry]:
    """Newest first: all, or those of a build; those older than entry ``before``."""
    statement = select(tables.audit).order_by(_AUDIT.id.desc()).limit(most)
    if build is not None:
        statement = statement.where(_AUDIT.build == build)
    if before is not None:
        statement = statement.where(_AUDIT.id < before)
    return [Entry(*row) for row in connection.execute(statement)]
