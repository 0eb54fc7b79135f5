"""The average durations of tests: a moving mean by source, stage and node id."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, bindparam, select

from . import row_mapping, tables
from .tables import escape_invalid_characters

_DURATION = tables.duration.c
#: Weight of the newest duration in the mean, between 0 and 1.
_WEIGHT = 0.3
#: Rows of one statement.
_ROWS_PER_STATEMENT = 1000
_MEANS = select(_DURATION.nodeid, _DURATION.seconds).where(
    _DURATION.source == bindparam("source"), _DURATION.stage == bindparam("stage")
)


def record(connection: Connection, source: int, stage: str, seconds: Mapping[str, float]) -> None:
    """Add the durations of completed tests, in ``seconds`` by node id, to their means.

    Must be called once for each harvested package.
    """
    for chunk in row_mapping.split_into_chunks(seconds.items(), _ROWS_PER_STATEMENT):
        # Two names can become equal when they are escaped.
        escaped = {escape_invalid_characters(nodeid): duration for nodeid, duration in chunk}
        rows = [
            {"source": source, "stage": stage, "nodeid": nodeid, "seconds": duration}
            for nodeid, duration in escaped.items()
        ]
        connection.execute(_update_means(connection.dialect.name), rows)


@lru_cache
def _update_means(dialect: str) -> Any:
    statement = row_mapping.insert_with_conflict_clause(dialect, tables.duration)
    mean = _DURATION.seconds * (1 - _WEIGHT) + statement.excluded.seconds * _WEIGHT
    key = list(tables.duration.primary_key)
    return statement.on_conflict_do_update(index_elements=key, set_={"seconds": mean})


def mean_seconds(connection: Connection, source: int, stage: str) -> dict[str, float]:
    """Return the mean duration in seconds of each known test of a stage, by node id."""
    rows = connection.execute(_MEANS, {"source": source, "stage": stage})
    return {row[0]: row[1] for row in rows}
