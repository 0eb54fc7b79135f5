"""Conversion of rows to values of ``model``, and the statements that all queries share.

This module must not know what a state means: the transition tables of ``model`` are arguments.

Statements that run often are built once and cached: building one, and finding its compiled form,
takes SQLAlchemy four times as long as SQLite takes to run it.
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

#: Parameters or rows of one statement; SQLite allows 32 766 parameters, PostgreSQL 65 535.
_MAX_VALUES = 10_000

State = TypeVar("State", bound=StrEnum)
Event = TypeVar("Event", bound=StrEnum)
T = TypeVar("T")


def change_from_row(row: Row[Any]) -> model.Change:
    """Return the change of a row of the table ``change``."""
    return model.Change(**row._mapping)


def build_from_row(row: Row[Any]) -> model.Build:
    """Return the build of a row of the table ``build``."""
    return build_from_columns(row._mapping)


def build_from_columns(row: Any) -> model.Build:
    """Return the build of a mapping from column names of ``build`` to values."""
    state = model.BuildState(row["state"])
    return model.Build(**{**row, "state": state})


def stage_run_from_row(row: Row[Any]) -> model.StageRun:
    """Return the stage run of a row of the table ``stage_run``."""
    changed = {
        "state": model.StageState(row.state),
        "selected_tests": _tuple_or_none(row.selected_tests),
    }
    return model.StageRun(**{**row._mapping, **changed})


def job_from_row(row: Row[Any]) -> model.Job:
    """Return the job of a row of the table ``job``."""
    changed = {"state": model.JobState(row.state), "tests": _tuple_or_none(row.tests)}
    return model.Job(**{**row._mapping, **changed})


def tag_from_row(row: Row[Any]) -> model.Tag:
    """Return the tag of a row of the table ``tag``."""
    return model.Tag(**{**row._mapping, "jobs": tuple(row.jobs)})


def decision_from_row(row: Row[Any]) -> model.Decision:
    """Return the decision of a row of the table ``decision``."""
    kind = model.DecisionKind(row.kind)
    return model.Decision(**{**row._mapping, "kind": kind})


def host_from_row(row: Row[Any]) -> model.Host:
    """Return the host of a row of the table ``host``."""
    changed: dict[str, Any] = {"state": model.HostState(row.state), "labels": tuple(row.labels)}
    changed["facts"] = row.facts or {}
    return model.Host(**{**row._mapping, **changed})


def _tuple_or_none(values: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def column_values(value: Any) -> dict[str, Any]:
    """Return the columns of a value of ``model``; without ``id`` if the database must choose it."""
    fields = {name: _to_plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if fields.get("id") == 0:
        del fields["id"]
    return fields


def _to_plain(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


# -- statements -------------------------------------------------------------------------


def select_by_key(table: Table) -> Select[Any]:
    """Return a query of the row whose primary key is the parameter ``key``."""
    (column,) = table.primary_key
    return select(table).where(column == bindparam("key"))


def is_in_states(column: Column[Any], states: Iterable[StrEnum]) -> ColumnElement[bool]:
    """Return the condition that a column has one of these states.

    The states are literals in the statement, because SQLAlchemy expands a list of parameters anew
    at each execution.
    """
    return column.in_([literal_column(f"'{state.value}'") for state in states])


def apply_event(
    connection: Connection,
    table: Table,
    transitions: Mapping[tuple[State, Event], State],
    key: int | str,
    event: Event,
    **fields: Any,
) -> bool:
    """Change the state of a row by an event, and set the columns ``fields``: a compare-and-set.

    Return whether the row changed.  Nothing is written if the row is in a state in which
    ``transitions`` do not permit the event, or has the new state and the values already.
    """
    steps = tuple((old, new) for (old, cause), new in transitions.items() if cause == event)
    parameters = _update_parameters(key, fields)
    return any(
        connection.execute(statement, parameters).rowcount == 1
        for statement in _event_updates(table, steps, tuple(fields))
    )


@lru_cache(1000)
def _event_updates(
    table: Table, steps: tuple[tuple[StrEnum, StrEnum], ...], names: tuple[str, ...]
) -> list[Update]:
    """Return an update for each new state; at most one of them matches the row.

    ``steps``: old and new states; ``names``: further columns to set.
    """
    updates = []
    for new in dict.fromkeys(new for _, new in steps):
        old_states = [old for old, to in steps if to == new]
        condition = _is_applicable(table, old_states, new, names)
        updates.append(_update(table, names).where(condition).values(state=new.value))
    return updates


def _is_applicable(
    table: Table, old_states: Sequence[StrEnum], new: StrEnum, names: Iterable[str]
) -> ColumnElement[bool]:
    """Return the condition that a row has an old state; if that is ``new``, values must differ."""
    state = table.c.state
    is_other = is_in_states(state, [old for old in old_states if old != new])
    if new not in old_states:
        return is_other
    return is_other | (is_in_states(state, [new]) & _is_different(table, names))


def update_row(connection: Connection, table: Table, key: int | str, **fields: Any) -> bool:
    """Set columns of a row.  Return whether the row exists."""
    statement = _update(table, tuple(fields))
    return connection.execute(statement, _update_parameters(key, fields)).rowcount == 1


def update_row_if_different(
    connection: Connection, table: Table, key: int | str, **fields: Any
) -> bool:
    """Set columns of a row.  Return whether the row exists and any value differed."""
    statement = _update_if_different(table, tuple(fields))
    return connection.execute(statement, _update_parameters(key, fields)).rowcount == 1


def _update_parameters(key: int | str, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"key": key, **{_parameter_name(name): value for name, value in fields.items()}}


@lru_cache(1000)
def _update(table: Table, names: tuple[str, ...]) -> Update:
    (column,) = table.primary_key
    values = {name: _value_parameter(table, name) for name in names}
    return update(table).where(column == bindparam("key")).values(values)


@lru_cache(1000)
def _update_if_different(table: Table, names: tuple[str, ...]) -> Update:
    return _update(table, names).where(_is_different(table, names))


def _is_different(table: Table, names: Iterable[str]) -> ColumnElement[bool]:
    return or_(
        false(),
        *(table.c[name].is_distinct_from(_value_parameter(table, name)) for name in names),
    )


def _value_parameter(table: Table, name: str) -> BindParameter[Any]:
    return bindparam(_parameter_name(name), type_=table.c[name].type)


def _parameter_name(name: str) -> str:
    """Return the name of a column's parameter; SQLAlchemy reserves the names of columns."""
    return f"to_{name}"


@lru_cache
def insert_with_conflict_clause(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Return an insert that can get an ON CONFLICT clause; SQLAlchemy has one for each dialect."""
    if dialect != "postgresql":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # needs megabytes, and few databases are PostgreSQL

    return postgresql.insert(table)


def insert_row(connection: Connection, table: Table, fields: Mapping[str, Any]) -> int:
    """Insert a row, and return its id."""
    key = connection.execute(_insert(table), fields).inserted_primary_key
    assert key is not None
    return int(key[0])


def insert_if_absent(connection: Connection, table: Table, fields: Mapping[str, Any]) -> bool:
    """Insert a row, unless it violates a unique constraint.  Return whether it was inserted."""
    statement = _insert_if_absent(connection.dialect.name, table)
    return connection.execute(statement, fields).rowcount == 1


def insert_numbered_if_absent(
    connection: Connection, table: Table, fields: Mapping[str, Any]
) -> int | None:
    """Insert a row, unless it violates a unique constraint.  Return its new id, or None."""
    statement = _insert_numbered_if_absent(connection.dialect.name, table)
    number: int | None = connection.execute(statement, fields).scalar()
    return number


def upsert_row(connection: Connection, table: Table, fields: Mapping[str, Any]) -> None:
    """Insert a row, or update the row with the same primary key."""
    connection.execute(_upsert(connection.dialect.name, table, tuple(fields)), fields)


@lru_cache
def _upsert(dialect: str, table: Table, names: tuple[str, ...]) -> Any:
    statement, key = insert_with_conflict_clause(dialect, table), list(table.primary_key)
    values = {name: statement.excluded[name] for name in names if table.c[name] not in key}
    return statement.on_conflict_do_update(index_elements=key, set_=values)


@lru_cache
def _insert(table: Table) -> Insert:
    return insert(table)


@lru_cache
def _insert_if_absent(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    return insert_with_conflict_clause(dialect, table).on_conflict_do_nothing()


@lru_cache
def _insert_numbered_if_absent(dialect: str, table: Table) -> Any:
    return _insert_if_absent(dialect, table).returning(table.c.id)


def split_into_chunks(items: Iterable[T], size: int = _MAX_VALUES) -> Iterator[list[T]]:
    """Yield lists of at most ``size`` items, each short enough for one statement."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def split_into_parameters(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield lists of values for ``column IN (...)``, each short enough for one statement.

    The last value is repeated until there are 1, 2, 4, 8, ... of them.  So there are few different
    statements, and each connection keeps few prepared ones.
    """
    for chunk in split_into_chunks(items):
        size = min(1 << (len(chunk) - 1).bit_length(), _MAX_VALUES)
        yield chunk + chunk[-1:] * (size - len(chunk))


def insert_many(
    connection: Connection,
    table: Table,
    columns: Sequence[str],
    rows: Iterable[tuple[Any, ...]],
) -> int:
    """Insert rows, possibly hundreds of thousands, and return their number.

    Texts must be escaped already (``tables.escape_invalid_characters``).  A driver with positional
    parameters gets the tuples themselves, which is more than twice as fast.
    """
    compiled = _compile_insert(connection.dialect, table, tuple(columns))
    count = 0
    for chunk in split_into_chunks(rows):
        if compiled.positiontup == list(columns):
            connection.exec_driver_sql(str(compiled), chunk)
        else:
            mappings = [dict(zip(columns, row, strict=True)) for row in chunk]
            connection.execute(insert(table), mappings)
        count += len(chunk)
    return count


@lru_cache
def _compile_insert(dialect: Dialect, table: Table, columns: tuple[str, ...]) -> SQLCompiler:
    compiled = _insert(table).compile(dialect=dialect, column_keys=list(columns))
    assert isinstance(compiled, SQLCompiler)
    return compiled
