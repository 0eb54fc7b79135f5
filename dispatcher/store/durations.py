"""How long tests took: a moving mean by source, stage and node id."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, select

from . import rows, tables
from .tables import clean

_DURATION = tables.duration.c
#: What the newest duration counts for.
_WEIGHT = 0.3
_ROWS = 1000


def learn(connection: Connection, source: int, stage: str, seconds: Mapping[str, float]) -> None:
    """Durations of tests that ran to their end: once for each harvest that is new."""
    for chunk in rows.chunks(seconds.items(), _ROWS):
        # Two names may be one for the database.
        found = {clean(nodeid): took for nodeid, took in chunk}
        told = [
            {"source": source, "stage": stage, "nodeid": nodeid, "seconds": took}
            for nodeid, took in found.items()
        ]
        statement = rows.new(connection, tables.duration).values(told)
        fresh = statement.excluded.seconds
        mean = _DURATION.seconds * (1 - _WEIGHT) + fresh * _WEIGHT
        key = [_DURATION.source, _DURATION.stage, _DURATION.nodeid]
        connection.execute(
            statement.on_conflict_do_update(index_elements=key, set_={"seconds": mean})
        )


def known(connection: Connection, source: int, stage: str) -> dict[str, float]:
    """Seconds by node id."""
    where = (_DURATION.source == source, _DURATION.stage == stage)
    statement = select(_DURATION.nodeid, _DURATION.seconds).where(*where)
    return {row[0]: row[1] for row in connection.execute(statement)}
