"""Queries and updates of the table ``host``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, delete, or_, select, update

from .. import model
from ..policy.retry import quarantine_reason
from . import audit, row_mapping, tables

_HOST = tables.host.c
_GET = row_mapping.select_by_key(tables.host)
_ALL = select(tables.host).order_by(_HOST.name)
_RECORD_SUCCESS = (
    update(tables.host)
    .where(_HOST.name == bindparam("key"))
    .values(consecutive_failures=0, jobs_ended=_HOST.jobs_ended + 1)
)
#: States that a host keeps although it does not answer: those that a person set, and that of a
#: host that was never up; its pool decides when that takes too long.
_STATES_KEPT_IN_SILENCE = (
    model.HostState.DRAINING.value,
    model.HostState.QUARANTINED.value,
    model.HostState.STARTING.value,
)


def configure(connection: Connection, host: model.Host) -> None:
    """Add a host of the settings or of a pool; of a known host update the configuration only."""
    fields = row_mapping.column_values(host)
    statement = row_mapping.insert_with_conflict_clause(
        connection.dialect.name, tables.host
    ).values(**fields)
    configuration = {name: fields[name] for name in ("spec", "labels", "slots", "pool")}
    connection.execute(
        statement.on_conflict_do_update(index_elements=[_HOST.name], set_=configuration)
    )


def delete_host(connection: Connection, name: str) -> bool:
    """Delete a host that no longer exists.  Return whether it was there."""
    return connection.execute(delete(tables.host).where(_HOST.name == name)).rowcount == 1


def delete_unconfigured(connection: Connection, names: Collection[str]) -> list[str]:
    """Delete the static hosts that are not among ``names``.  Return their names."""
    where = (_HOST.pool == "", _HOST.name.not_in(sorted(names)))
    names_deleted = connection.execute(delete(tables.host).where(*where).returning(_HOST.name))
    return sorted(names_deleted.scalars())


def get(connection: Connection, name: str) -> model.Host | None:
    """Return a host by name; None if there is none."""
    row = connection.execute(_GET, {"key": name}).first()
    return row_mapping.host_from_row(row) if row else None


def list_all(connection: Connection) -> list[model.Host]:
    """Return all hosts, by name."""
    return [row_mapping.host_from_row(row) for row in connection.execute(_ALL)]


def record_contact(
    connection: Connection, name: str, at: float, facts: Mapping[str, Any] | None = None
) -> bool:
    """Record that a host answered at ``at``; one that was down or starting is up again.

    Return whether the state changed.  Otherwise nobody needs to be notified of the write.
    """
    fields: dict[str, Any] = {"last_seen_at": at}
    if facts is not None:
        fields["facts"] = dict(facts)
    connection.execute(update(tables.host).where(_HOST.name == name).values(**fields))
    states = (model.HostState.DOWN.value, model.HostState.STARTING.value)
    where = (_HOST.name == name, _HOST.state.in_(states))
    up = {"state": model.HostState.UP.value, "reason": ""}
    return connection.execute(update(tables.host).where(*where).values(**up)).rowcount == 1


def mark_down(connection: Connection, name: str, reason: str) -> bool:
    """Record that a host does not answer; only one that was up goes down.

    Return whether the state or the reason changed.
    """
    fields = {"state": model.HostState.DOWN.value, "reason": reason}
    is_news = or_(_HOST.state != model.HostState.DOWN.value, _HOST.reason != reason)
    where = (_HOST.name == name, _HOST.state.not_in(_STATES_KEPT_IN_SILENCE), is_news)
    return connection.execute(update(tables.host).where(*where).values(**fields)).rowcount == 1


def set_reason(connection: Connection, name: str, reason: str) -> None:
    """Set the reason for the state of a host."""
    connection.execute(update(tables.host).where(_HOST.name == name).values(reason=reason))


def set_state(
    connection: Connection,
    name: str,
    state: model.HostState,
    *,
    actor: str,
    reason: str = "",
    at: float,
) -> bool:
    """Set the state of a host and add an audit entry.  Return whether the state changed.

    ``HostState.UP`` resets the count of failures.
    """
    fields: dict[str, Any] = {"state": state.value, "reason": reason}
    if state is model.HostState.UP:
        fields["consecutive_failures"] = 0
    where = (_HOST.name == name, _HOST.state != state.value)
    if connection.execute(update(tables.host).where(*where).values(**fields)).rowcount != 1:
        return False
    audit.write(connection, at, f"host {name} {state}", reason, actor=actor)
    return True


def record_failure(
    connection: Connection, name: str, reason: str, *, limit: int, at: float
) -> bool:
    """Count an infrastructure failure of a host; quarantine it after ``limit`` in a row.

    Return whether it was quarantined now.
    """
    statement = update(tables.host).where(_HOST.name == name)
    count = connection.execute(
        statement.values(consecutive_failures=_HOST.consecutive_failures + 1).returning(
            _HOST.consecutive_failures
        )
    ).scalar()
    quarantine_for = quarantine_reason(count or 0, reason, limit)
    if not quarantine_for:
        return False
    quarantined = model.HostState.QUARANTINED
    return set_state(
        connection, name, quarantined, actor=model.POLICY, reason=quarantine_for, at=at
    )


def record_success(connection: Connection, name: str) -> None:
    """Record that a host completed a job: this resets its count of failures."""
    connection.execute(_RECORD_SUCCESS, {"key": name})


def set_handle(connection: Connection, name: str, handle: Mapping[str, Any] | None) -> bool:
    """Set the pool's data about a host, by which it can take the host down after our crash.

    Return whether the host exists.
    """
    statement = update(tables.host).where(_HOST.name == name)
    return connection.execute(statement.values(handle=handle and dict(handle))).rowcount == 1
