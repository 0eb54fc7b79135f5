"""Small values by name that must survive a restart and have no table of their own."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select

from . import row_mapping, tables

_KEY_VALUE = tables.key_value.c
_GET = select(_KEY_VALUE.value).where(_KEY_VALUE.name == bindparam("key"))


def get(connection: Connection, name: str) -> bytes | None:
    """Return the value of a name; None if there is none."""
    value: bytes | None = connection.execute(_GET, {"key": name}).scalar()
    return value


def put(connection: Connection, name: str, value: bytes) -> None:
    """Set the value of a name."""
    row_mapping.upsert_row(connection, tables.key_value, {"name": name, "value": value})
