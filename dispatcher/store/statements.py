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
_MAX_VALUES = 10_000

State = TypeVar("State", bound=StrEnum)
Event = TypeVar("Event", bound=StrEnum)
T = TypeVar("T")


def change_from_row(row: Row[Any]) -> model.Change:
    """A row of ``change``."""
    return model.Change(**row._mapping)


def build_from_row(row: Row[Any]) -> model.Build:
    """A row of ``build``."""
    return build_from_columns(row._mapping)


def build_from_columns(row: Any) -> model.Build:
    """The same of its columns."""
    state = model.BuildState(row["state"])
    return model.Build(**{**row, "state": state})


def stage_run_from_row(row: Row[Any]) -> model.StageRun:
    """A row of ``stage_run``."""
    changed = {
        "state": model.StageState(row.state),
        "selected_tests": _tuple_or_none(row.selected_tests),
    }
    return model.StageRun(**{**row._mapping, **changed})


def job_from_row(row: Row[Any]) -> model.Job:
    """A row of ``job``."""
    changed = {"state": model.JobState(row.state), "tests": _tuple_or_none(row.tests)}
    return model.Job(**{**row._mapping, **changed})


def tag_from_row(row: Row[Any]) -> model.Tag:
    """A row of ``tag``."""
    return model.Tag(**{**row._mapping, "jobs": tuple(row.jobs)})


def decision_from_row(row: Row[Any]) -> model.Decision:
    """A row of ``decision``."""
    kind = model.DecisionKind(row.kind)
    return model.Decision(**{**row._mapping, "kind": kind})


def host_from_row(row: Row[Any]) -> model.Host:
    """A row of ``host``."""
    changed: dict[str, Any] = {"state": model.HostState(row.state), "labels": tuple(row.labels)}
    changed["facts"] = row.facts or {}
    return model.Host(**{**row._mapping, **changed})


def _tuple_or_none(found: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if found is None else tuple(found)


def column_values(found: Any) -> dict[str, Any]:
    """The columns of a value of ``model``; a number 0 is the database's to choose."""
    fields = {name: _to_plain(getattr(found, name)) for name in found.__dataclass_fields__}
    if fields.get("id") == 0:
        del fields["id"]
    return fields


def _to_plain(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


# -- statements that are made once ----------------------------------------------------


def select_by_key(table: Table) -> Select[Any]:
    """The row whose primary key is ``key``."""
    (column,) = table.primary_key
    return select(table).where(column == bindparam("key"))


def is_in_states(column: Column[Any], states: Iterable[StrEnum]) -> ColumnElement[bool]:
    """In one of these states, which are part of the statement: values would be filled in anew."""
    return column.in_([literal_column(f"'{state.value}'") for state in states])


def apply_event(
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
    told = {"key": key, **{_parameter_name(name): value for name, value in fields.items()}}
    return any(
        connection.execute(each, told).rowcount == 1
        for each in _event_updates(table, steps, tuple(fields))
    )


@lru_cache(1000)
def _event_updates(
    table: Table, steps: tuple[tuple[StrEnum, StrEnum], ...], names: tuple[str, ...]
) -> list[Update]:
    """One for each state after the event; at most one of them finds the row."""
    made = []
    for after in dict.fromkeys(to for _, to in steps):
        befores = [before for before, to in steps if to == after]
        where = _is_applicable(table, befores, after, names)
        made.append(_update(table, names).where(where).values(state=after.value))
    return made


def _is_applicable(
    table: Table, befores: Sequence[StrEnum], after: StrEnum, names: Iterable[str]
) -> ColumnElement[bool]:
    """In one of these states; if it would stay in its own, something else has to be new."""
    state = table.c.state
    others = is_in_states(state, [before for before in befores if before != after])
    if after not in befores:
        return others
    return others | (is_in_states(state, [after]) & _is_different(table, names))


def update_row(connection: Connection, table: Table, key: int | str, **fields: Any) -> bool:
    """Set what does not change a row's state; whether the row is there."""
    told = {"key": key, **{_parameter_name(name): value for name, value in fields.items()}}
    return connection.execute(_update(table, tuple(fields)), told).rowcount == 1


def update_row_if_different(
    connection: Connection, table: Table, key: int | str, **fields: Any
) -> bool:
    """The same; whether something was another one before."""
    told = {"key": key, **{_parameter_name(name): value for name, value in fields.items()}}
    return connection.execute(_update_new(table, tuple(fields)), told).rowcount == 1


@lru_cache(1000)
def _update(table: Table, names: tuple[str, ...]) -> Update:
    (column,) = table.primary_key
    values = {name: _value_parameter(table, name) for name in names}
    return update(table).where(column == bindparam("key")).values(values)


@lru_cache(1000)
def _update_new(table: Table, names: tuple[str, ...]) -> Update:
    return _update(table, names).where(_is_different(table, names))


def _is_different(table: Table, names: Iterable[str]) -> ColumnElement[bool]:
    new = (table.c[name].is_distinct_from(_value_parameter(table, name)) for name in names)
    return or_(false(), *new)


def _value_parameter(table: Table, name: str) -> BindParameter[Any]:
    return bindparam(_parameter_name(name), type_=table.c[name].type)


def _parameter_name(name: str) -> str:
    """SQLAlchemy keeps the names of columns for itself."""
    return f"to_{name}"


@lru_cache
def insert_with_conflict_clause(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    """INSERT ... ON CONFLICT, which every database spells the same and SQLAlchemy does not."""
    if dialect != "postgresql":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # megabytes that few need

    return postgresql.insert(table)


def insert_row(connection: Connection, table: Table, fields: Mapping[str, Any]) -> int:
    """Insert a row; its number."""
    done = connection.execute(_insert(table), fields)
    key = done.inserted_primary_key
    assert key is not None
    return int(key[0])


def insert_if_absent(connection: Connection, table: Table, fields: Mapping[str, Any]) -> bool:
    """Insert a row unless there is one with its key; whether it is new."""
    return connection.execute(_insert_new(connection.dialect.name, table), fields).rowcount == 1


def insert_numbered_if_absent(
    connection: Connection, table: Table, fields: Mapping[str, Any]
) -> int | None:
    """The same of a row whose number the database makes: that number."""
    found: int | None = connection.execute(
        _insert_numbered(connection.dialect.name, table), fields
    ).scalar()
    return found


def upsert_row(connection: Connection, table: Table, fields: Mapping[str, Any]) -> None:
    """Insert a row, or make the one with its key the same."""
    connection.execute(_upsert(connection.dialect.name, table, tuple(fields)), fields)


@lru_cache
def _upsert(dialect: str, table: Table, names: tuple[str, ...]) -> Any:
    statement, key = insert_with_conflict_clause(dialect, table), list(table.primary_key)
    told = {name: statement.excluded[name] for name in names if table.c[name] not in key}
    return statement.on_conflict_do_update(index_elements=key, set_=told)


@lru_cache
def _insert(table: Table) -> Insert:
    return insert(table)


@lru_cache
def _insert_new(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    return insert_with_conflict_clause(dialect, table).on_conflict_do_nothing()


@lru_cache
def _insert_numbered(dialect: str, table: Table) -> Any:
    return _insert_new(dialect, table).returning(table.c.id)


def split_into_chunks(found: Iterable[T], size: int = _MAX_VALUES) -> Iterator[list[T]]:
    """In lists that fit into a statement."""
    each = iter(found)
    while chunk := list(islice(each, size)):
        yield chunk


def insert_many(
    connection: Connection,
    table: Table,
    columns: Sequence[str],
    found: Iterable[tuple[Any, ...]],
) -> int:
    """Insert rows by the hundred thousand; how many.  Texts are clean already.

    Where the driver takes tuples it gets them: that is more than twice as fast.
    """
    compiled = _compile_insert(connection.dialect, table, tuple(columns))
    count = 0
    for chunk in split_into_chunks(found):
        if compiled.positiontup == list(columns):
            connection.exec_driver_sql(str(compiled), chunk)
        else:
            names = [dict(zip(columns, row, strict=True)) for row in chunk]
            connection.execute(insert(table), names)
        count += len(chunk)
    return count


@lru_cache
def _compile_insert(dialect: Dialect, table: Table, columns: tuple[str, ...]) -> SQLCompiler:
    found = _insert(table).compile(dialect=dialect, column_keys=list(columns))
    assert isinstance(found, SQLCompiler)
    return found
