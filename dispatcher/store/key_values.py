"""Small things by name: what has to survive and fits nowhere else."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select

from . import statements, tables

_NOTE = tables.note.c
_GET = select(_NOTE.value).where(_NOTE.name == bindparam("key"))


def get(connection: Connection, name: str) -> bytes | None:
    """What is noted under a name."""
    found: bytes | None = connection.execute(_GET, {"key": name}).scalar()
    return found


def put(connection: Connection, name: str, value: bytes) -> None:
    """Note it, instead of what was noted before."""
    statements.set_row(connection, tables.note, {"name": name, "value": value})
