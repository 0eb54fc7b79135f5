"""How long tests took: a moving mean by source, stage and node id."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, bindparam, select

from . import statements, tables
from .tables import clean

_DURATION = tables.duration.c
#: What the newest duration counts for.
_WEIGHT = 0.3
_ROWS = 1000
_KNOWN = select(_DURATION.nodeid, _DURATION.seconds).where(
    _DURATION.source == bindparam("source"), _DURATION.stage == bindparam("stage")
)


def learn(connection: Connection, source: int, stage: str, seconds: Mapping[str, float]) -> None:
    """Durations of tests that ran to their end: once for each harvest that is new."""
    for chunk in statements.chunks(seconds.items(), _ROWS):
        # Two names may be one for the database.
        found = {clean(nodeid): took for nodeid, took in chunk}
        told = [
            {"source": source, "stage": stage, "nodeid": nodeid, "seconds": took}
            for nodeid, took in found.items()
        ]
        connection.execute(_learn(connection.dialect.name), told)


@lru_cache
def _learn(dialect: str) -> Any:
    statement = statements.new(dialect, tables.duration)
    mean = _DURATION.seconds * (1 - _WEIGHT) + statement.excluded.seconds * _WEIGHT
    key = list(tables.duration.primary_key)
    return statement.on_conflict_do_update(index_elements=key, set_={"seconds": mean})


def known(connection: Connection, source: int, stage: str) -> dict[str, float]:
    """Seconds by node id."""
    found = connection.execute(_KNOWN, {"source": source, "stage": stage})
    return {row[0]: row[1] for row in found}
