"""Rows to values, and the one statement by which a row changes its state.

Owns what all queries share.  Must not know what a state means: the tables of ``model`` say
which changes there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Table, false, insert, or_, update
from sqlalchemy.dialects import postgresql, sqlite

from .. import model

#: Values of one statement: SQLite takes 32 766, PostgreSQL 65 535.
_VALUES = 10_000

State = TypeVar("State", bound=StrEnum)
Event = TypeVar("Event", bound=StrEnum)
T = TypeVar("T")


def change(row: Row[Any]) -> model.Change:
    """A row of ``change``."""
    return model.Change(**row._mapping)


def build(row: Row[Any]) -> model.Build:
    """A row of ``build``."""
    return build_of(row._mapping)


def build_of(row: Any) -> model.Build:
    """The same of its columns."""
    state = model.BuildState(row["state"])
    return model.Build(**{**row, "state": state})


def stage_run(row: Row[Any]) -> model.StageRun:
    """A row of ``stage_run``."""
    changed = {"state": model.StageState(row.state), "only": _tuple(row.only)}
    return model.StageRun(**{**row._mapping, **changed})


def job(row: Row[Any]) -> model.Job:
    """A row of ``job``."""
    changed = {"state": model.JobState(row.state), "tests": _tuple(row.tests)}
    return model.Job(**{**row._mapping, **changed})


def tag(row: Row[Any]) -> model.Tag:
    """A row of ``tag``."""
    return model.Tag(**{**row._mapping, "jobs": tuple(row.jobs)})


def decision(row: Row[Any]) -> model.Decision:
    """A row of ``decision``."""
    kind = model.DecisionKind(row.kind)
    return model.Decision(**{**row._mapping, "kind": kind})


def host(row: Row[Any]) -> model.Host:
    """A row of ``host``."""
    changed: dict[str, Any] = {"state": model.HostState(row.state), "labels": tuple(row.labels)}
    changed["facts"] = row.facts or {}
    return model.Host(**{**row._mapping, **changed})


def _tuple(found: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if found is None else tuple(found)


def values(found: Any) -> dict[str, Any]:
    """The columns of a value of ``model``; a number 0 is the database's to choose."""
    fields = {name: _plain(getattr(found, name)) for name in found.__dataclass_fields__}
    if fields.get("id") == 0:
        del fields["id"]
    return fields


def _plain(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def move(
    connection: Connection,
    table: Table,
    changes: Mapping[tuple[State, Event], State],
    key: int | str,
    event: Event,
    **fields: Any,
) -> bool:
    """Compare and set: whether the row has changed.

    False: it is there already with these words, or somebody else was faster, and it is in a
    state in which the event cannot happen.  Then nothing of ``fields`` is written.
    """
    steps = {before: after for (before, happens), after in changes.items() if happens == event}
    found = False
    for after in dict.fromkeys(steps.values()):
        where = _where(table, [before for before in steps if steps[before] == after], after, fields)
        statement = update(table).where(table.c.id == key, where)
        found = connection.execute(statement.values(state=after.value, **fields)).rowcount == 1
        if found:
            break
    return found


def _where(
    table: Table, befores: Iterable[StrEnum], after: StrEnum, fields: Mapping[str, Any]
) -> ColumnElement[bool]:
    """In one of these states; if it would stay in its own, something else has to be new."""
    states = [before.value for before in befores]
    others = table.c.state.in_([state for state in states if state != after.value])
    if after.value not in states:
        return others
    new = or_(false(), *(table.c[name].is_distinct_from(value) for name, value in fields.items()))
    return others | ((table.c.state == after.value) & new)


def new(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """INSERT ... ON CONFLICT, which every database spells the same and SQLAlchemy does not."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def add(connection: Connection, table: Table, fields: Mapping[str, Any]) -> int:
    """Insert a row; its number."""
    done = connection.execute(insert(table).values(**fields))
    key = done.inserted_primary_key
    assert key is not None
    return int(key[0])


def add_new(connection: Connection, table: Table, fields: Mapping[str, Any]) -> bool:
    """Insert a row unless there is one with its key; whether it is new."""
    statement = new(connection, table).values(**fields).on_conflict_do_nothing()
    return connection.execute(statement).rowcount == 1


def chunks(found: Iterable[T], most: int = _VALUES) -> Iterator[list[T]]:
    """In lists that fit into a statement."""
    each = iter(found)
    while chunk := list(islice(each, most)):
        yield chunk


def add_many(
    connection: Connection,
    table: Table,
    columns: Sequence[str],
    found: Iterable[tuple[Any, ...]],
) -> int:
    """Insert rows by the hundred thousand; how many.  Texts are clean already.

    Where the driver takes tuples it gets them: that is more than twice as fast.
    """
    compiled = insert(table).compile(dialect=connection.dialect, column_keys=list(columns))
    count = 0
    for chunk in chunks(found):
        if compiled.positiontup == list(columns):
            connection.exec_driver_sql(str(compiled), chunk)
        else:
            names = [dict(zip(columns, row, strict=True)) for row in chunk]
            connection.execute(insert(table), names)
        count += len(chunk)
    return count
