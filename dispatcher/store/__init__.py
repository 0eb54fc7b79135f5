"""The dispatcher's database: one engine, its tables, and typed functions on a connection.

The modules are nouns: changes, builds, stage_runs, jobs, results, tags, hosts, audit,
durations, notes; ``listing`` is for faces, ``retention`` for what is old.  They take a
connection of ``Store.read()`` or ``Store.write()`` and a date: there is no clock in here.
"""

from __future__ import annotations

import os

from .engine import Changed, Store, StoreError, check, open_engine
from .schema import migrate

__all__ = ["Changed", "Store", "StoreError", "check", "migrate", "open_engine", "open_store"]


def open_store(where: str | os.PathLike[str]) -> Store:
    """The database in a file, or at an address, with the schema of this program."""
    engine = open_engine(where)
    migrate(engine)
    return Store(engine)
