"""The audit log: who did what to what, written in the transaction that does it."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, select

from . import row_mapping, tables

_AUDIT = tables.audit.c


class AuditEntry(NamedTuple):
    """A row of ``audit``."""

    id: int
    recorded_at: float
    actor: str
    action: str
    build: int | None
    detail: str


def write(
    connection: Connection,
    at: float,
    action: str,
    detail: str = "",
    *,
    actor: str = "",
    build: int | None = None,
) -> None:
    """Add an entry; ``actor`` is empty for the dispatcher itself, ``at`` is the time of it."""
    fields = {"recorded_at": at, "actor": actor, "action": action, "build": build, "detail": detail}
    row_mapping.insert_row(connection, tables.audit, fields)


def list_entries(
    connection: Connection, *, build: int | None = None, before: int | None = None, limit: int = 100
) -> list[AuditEntry]:
    """Return the newest entries, newest first: of one build or of all.

    ``before``: only entries with a lower id, for the next page.
    """
    statement = select(tables.audit).order_by(_AUDIT.id.desc()).limit(limit)
    if build is not None:
        statement = statement.where(_AUDIT.build == build)
    if before is not None:
        statement = statement.where(_AUDIT.id < before)
    return [AuditEntry(*row) for row in connection.execute(statement)]
