"""Small things by name: what has to survive and fits nowhere else."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from . import rows, tables

_NOTE = tables.note.c


def get(connection: Connection, name: str) -> bytes | None:
    """What is noted under a name."""
    found: bytes | None = connection.execute(select(_NOTE.value).where(_NOTE.name == name)).scalar()
    return found


def put(connection: Connection, name: str, value: bytes) -> None:
    """Note it, instead of what was noted before."""
    statement = rows.new(connection, tables.note).values(name=name, value=value)
    connection.execute(
        statement.on_conflict_do_update(index_elements=[_NOTE.name], set_={"value": value})
    )


def forget(connection: Connection, name: str) -> bool:
    """Whether there was something."""
    return connection.execute(delete(tables.note).where(_NOTE.name == name)).rowcount == 1
