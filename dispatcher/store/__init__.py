"""The dispatcher's database: one engine, its tables, and typed functions on a connection.

There is a module for each table; ``api_queries`` serves the API, ``result_retention`` removes old
results.  Functions take a connection of ``Store.read()`` or ``Store.write()``, and the time as an
argument: no module here reads a clock.
"""

from __future__ import annotations

import os

from .engine import ChangeSignal, Store, StoreError, check_integrity, open_engine
from .schema import migrate

__all__ = [
    "ChangeSignal",
    "Store",
    "StoreError",
    "check_integrity",
    "migrate",
    "open_engine",
    "open_store",
]


def open_store(location: str | os.PathLike[str]) -> Store:
    """Open the database at a path or URL, and migrate it to the schema of this version.

    Raises ``StoreError`` if the database cannot be opened or has a newer schema.
    """
    engine = open_engine(location)
    migrate(engine)
    return Store(engine)
