"""What is known of hosts beyond their configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, delete, or_, select, update

from .. import model
from ..policy.retry import quarantine_reason
from . import audit, statements, tables

_HOST = tables.host.c
_GET = statements.by_key(tables.host)
_EVERY = select(tables.host).order_by(_HOST.name)
_SUCCEEDED = (
    update(tables.host)
    .where(_HOST.name == bindparam("key"))
    .values(failures=0, jobs=_HOST.jobs + 1)
)
#: What silence does not change: what somebody decided, and a host that was never there; its
#: pool says when that takes too long.
_KEPT = (
    model.HostState.DRAINING.value,
    model.HostState.QUARANTINED.value,
    model.HostState.STARTING.value,
)


def configure(connection: Connection, host: model.Host) -> None:
    """A host of the dispatcher's file, or one that a pool makes; what is known of it stays."""
    fields = statements.values(host)
    statement = statements.new(connection.dialect.name, tables.host).values(**fields)
    told = {name: fields[name] for name in ("spec", "labels", "slots", "pool")}
    connection.execute(statement.on_conflict_do_update(index_elements=[_HOST.name], set_=told))


def forget(connection: Connection, name: str) -> bool:
    """It is gone for good; whether it was there."""
    return connection.execute(delete(tables.host).where(_HOST.name == name)).rowcount == 1


def forget_others(connection: Connection, names: Collection[str]) -> list[str]:
    """Forget the static hosts that the dispatcher's file names no more; which ones."""
    where = (_HOST.pool == "", _HOST.name.not_in(sorted(names)))
    found = connection.execute(delete(tables.host).where(*where).returning(_HOST.name))
    return sorted(found.scalars())


def get(connection: Connection, name: str) -> model.Host | None:
    """One host."""
    found = connection.execute(_GET, {"key": name}).first()
    return statements.host(found) if found else None


def every(connection: Connection) -> list[model.Host]:
    """All hosts, by name."""
    return [statements.host(row) for row in connection.execute(_EVERY)]


def beat(
    connection: Connection, name: str, at: float, facts: Mapping[str, Any] | None = None
) -> bool:
    """It has answered.  Whether that is news: it was down, or starting (write others quietly)."""
    fields: dict[str, Any] = {"seen": at}
    if facts is not None:
        fields["facts"] = dict(facts)
    connection.execute(update(tables.host).where(_HOST.name == name).values(**fields))
    states = (model.HostState.DOWN.value, model.HostState.STARTING.value)
    where = (_HOST.name == name, _HOST.state.in_(states))
    up = {"state": model.HostState.UP.value, "reason": ""}
    return connection.execute(update(tables.host).where(*where).values(**up)).rowcount == 1


def down(connection: Connection, name: str, reason: str) -> bool:
    """It does not answer; whether that is news.  Only one that was up goes down."""
    fields = {"state": model.HostState.DOWN.value, "reason": reason}
    is_news = or_(_HOST.state != model.HostState.DOWN.value, _HOST.reason != reason)
    where = (_HOST.name == name, _HOST.state.not_in(_KEPT), is_news)
    return connection.execute(update(tables.host).where(*where).values(**fields)).rowcount == 1


def explain(connection: Connection, name: str, reason: str) -> None:
    """Why it is in its state, in other words."""
    connection.execute(update(tables.host).where(_HOST.name == name).values(reason=reason))


def set_state(
    connection: Connection,
    name: str,
    state: model.HostState,
    *,
    who: str,
    reason: str = "",
    at: float,
) -> bool:
    """What a person says (drain, back to work): audited; failures are forgotten by UP."""
    fields: dict[str, Any] = {"state": state.value, "reason": reason}
    if state is model.HostState.UP:
        fields["failures"] = 0
    where = (_HOST.name == name, _HOST.state != state.value)
    if connection.execute(update(tables.host).where(*where).values(**fields)).rowcount != 1:
        return False
    audit.write(connection, at, f"host {name} {state}", reason, who=who)
    return True


def failed(connection: Connection, name: str, reason: str, *, most: int, at: float) -> bool:
    """One more infrastructure failure in a row; whether ``most`` of them quarantine it now."""
    statement = update(tables.host).where(_HOST.name == name)
    count = connection.execute(
        statement.values(failures=_HOST.failures + 1).returning(_HOST.failures)
    ).scalar()
    words = quarantine_reason(count or 0, reason, most)
    if not words:
        return False
    quarantined = model.HostState.QUARANTINED
    return set_state(connection, name, quarantined, who=model.POLICY, reason=words, at=at)


def succeeded(connection: Connection, name: str) -> None:
    """It has ended a job by itself."""
    connection.execute(_SUCCEEDED, {"key": name})


def set_handle(connection: Connection, name: str, handle: Mapping[str, Any] | None) -> bool:
    """The pool's own words for it, by which it can take it down after a crash of ours."""
    statement = update(tables.host).where(_HOST.name == name)
    return connection.execute(statement.values(handle=handle and dict(handle))).rowcount == 1
