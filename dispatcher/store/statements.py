"""Rows to values, and the one statement by which a row changes its state.

Owns what all queries share.  Must not know what a state means: the tables of ``model`` say
which changes there are.

A statement that is run again and again is made once: to make one, and to find out that it was
compiled before, takes SQLAlchemy four times as long as SQLite takes to run it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Insert,
    Row,
    Select,
    Table,
    Update,
    bindparam,
    false,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.compiler import SQLCompiler

from .. import model

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

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


# -- statements that are made once ----------------------------------------------------


def by_key(table: Table) -> Select[Any]:
    """The row whose primary key is ``key``."""
    (column,) = table.primary_key
    return select(table).where(column == bindparam("key"))


def among(column: Column[Any], states: Iterable[StrEnum]) -> ColumnElement[bool]:
    """In one of these states, which are part of the statement: values would be filled in anew."""
    return column.in_([literal_column(f"'{state.value}'") for state in states])


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
    steps = tuple((before, to) for (before, happens), to in changes.items() if happens == event)
    told = {"key": key, **{_value(name): value for name, value in fields.items()}}
    return any(
        connection.execute(each, told).rowcount == 1
        for each in _moves(table, steps, tuple(fields))
    )


@lru_cache(1000)
def _moves(
    table: Table, steps: tuple[tuple[StrEnum, StrEnum], ...], names: tuple[str, ...]
) -> list[Update]:
    """One for each state after the event; at most one of them finds the row."""
    made = []
    for after in dict.fromkeys(to for _, to in steps):
        befores = [before for before, to in steps if to == after]
        where = _where(table, befores, after, names)
        made.append(_update(table, names).where(where).values(state=after.value))
    return made


def _where(
    table: Table, befores: Sequence[StrEnum], after: StrEnum, names: Iterable[str]
) -> ColumnElement[bool]:
    """In one of these states; if it would stay in its own, something else has to be new."""
    state = table.c.state
    others = among(state, [before for before in befores if before != after])
    if after not in befores:
        return others
    return others | (among(state, [after]) & _is_new(table, names))


def put(connection: Connection, table: Table, key: int | str, **fields: Any) -> bool:
    """Set what does not change a row's state; whether the row is there."""
    told = {"key": key, **{_value(name): value for name, value in fields.items()}}
    return connection.execute(_update(table, tuple(fields)), told).rowcount == 1


def put_new(connection: Connection, table: Table, key: int | str, **fields: Any) -> bool:
    """The same; whether something was another one before."""
    told = {"key": key, **{_value(name): value for name, value in fields.items()}}
    return connection.execute(_update_new(table, tuple(fields)), told).rowcount == 1


@lru_cache(1000)
def _update(table: Table, names: tuple[str, ...]) -> Update:
    (column,) = table.primary_key
    values = {name: _bound(table, name) for name in names}
    return update(table).where(column == bindparam("key")).values(values)


@lru_cache(1000)
def _update_new(table: Table, names: tuple[str, ...]) -> Update:
    return _update(table, names).where(_is_new(table, names))


def _is_new(table: Table, names: Iterable[str]) -> ColumnElement[bool]:
    new = (table.c[name].is_distinct_from(_bound(table, name)) for name in names)
    return or_(false(), *new)


def _bound(table: Table, name: str) -> BindParameter[Any]:
    return bindparam(_value(name), type_=table.c[name].type)


def _value(name: str) -> str:
    """SQLAlchemy keeps the names of columns for itself."""
    return f"to_{name}"


@lru_cache
def new(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    """INSERT ... ON CONFLICT, which every database spells the same and SQLAlchemy does not."""
    if dialect != "postgresql":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # megabytes that few need

    return postgresql.insert(table)


def add(connection: Connection, table: Table, fields: Mapping[str, Any]) -> int:
    """Insert a row; its number."""
    done = connection.execute(_insert(table), fields)
    key = done.inserted_primary_key
    assert key is not None
    return int(key[0])


def add_new(connection: Connection, table: Table, fields: Mapping[str, Any]) -> bool:
    """Insert a row unless there is one with its key; whether it is new."""
    return connection.execute(_insert_new(connection.dialect.name, table), fields).rowcount == 1


def add_numbered(connection: Connection, table: Table, fields: Mapping[str, Any]) -> int | None:
    """The same of a row whose number the database makes: that number."""
    found: int | None = connection.execute(
        _insert_numbered(connection.dialect.name, table), fields
    ).scalar()
    return found


def set_row(connection: Connection, table: Table, fields: Mapping[str, Any]) -> None:
    """Insert a row, or make the one with its key the same."""
    connection.execute(_upsert(connection.dialect.name, table, tuple(fields)), fields)


@lru_cache
def _upsert(dialect: str, table: Table, names: tuple[str, ...]) -> Any:
    statement, key = new(dialect, table), list(table.primary_key)
    told = {name: statement.excluded[name] for name in names if table.c[name] not in key}
    return statement.on_conflict_do_update(index_elements=key, set_=told)


@lru_cache
def _insert(table: Table) -> Insert:
    return insert(table)


@lru_cache
def _insert_new(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    return new(dialect, table).on_conflict_do_nothing()


@lru_cache
def _insert_numbered(dialect: str, table: Table) -> Any:
    return _insert_new(dialect, table).returning(table.c.id)


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
    compiled = _compiled(connection.dialect, table, tuple(columns))
    count = 0
    for chunk in chunks(found):
        if compiled.positiontup == list(columns):
            connection.exec_driver_sql(str(compiled), chunk)
        else:
            names = [dict(zip(columns, row, strict=True)) for row in chunk]
            connection.execute(insert(table), names)
        count += len(chunk)
    return count


@lru_cache
def _compiled(dialect: Dialect, table: Table, columns: tuple[str, ...]) -> SQLCompiler:
    found = _insert(table).compile(dialect=dialect, column_keys=list(columns))
    assert isinstance(found, SQLCompiler)
    return found
