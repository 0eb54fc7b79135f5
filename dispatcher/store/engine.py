"""The database engine, short transactions, and a signal after each write.

This module opens connections and begins and ends transactions.  It must not know tables.  Only
this module and ``schema`` treat SQLite in a special way; all other SQL is valid on PostgreSQL, too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, ExecutionContext, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from shell_runner.errors import NosejobsError

#: Key of ``Connection.info``: whether a statement of this transaction has changed a row.  Not used
#: for SQLite, which counts changed rows itself.
_ROWS_CHANGED = "nosejobs_touched"
#: Seconds for which a connection waits for another process's transaction, or for a free connection.
_WAIT_TIMEOUT = 30
#: Connections that stay open, and further ones that are opened while many threads read.
_IDLE_CONNECTIONS, _EXTRA_CONNECTIONS = 3, 61
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    # A host deletes a job once it is acknowledged: a commit must survive a power failure.
    "PRAGMA synchronous = FULL",
    f"PRAGMA busy_timeout = {_WAIT_TIMEOUT * 1000}",
    "PRAGMA foreign_keys = ON",
    # Limit: 1 MiB for each connection; the kernel caches the pages anyway.
    "PRAGMA cache_size = -1024",
    "PRAGMA journal_size_limit = 67108864",
)


class StoreError(NosejobsError):
    """The database cannot be read or written."""


class ChangeSignal:
    """A counter of changes, on which threads can wait.

    To miss no change, read ``count()``, then read the database, then ``wait()`` for a higher count.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0

    def count(self) -> int:
        """Return the number of signals so far."""
        with self._condition:
            return self._count

    def signal(self) -> None:
        """Wake the waiting threads after a change, of the database or of anything else."""
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    def wait(self, count: int, timeout: float | None = None) -> int:
        """Wait until the count exceeds ``count``, or ``timeout`` seconds; return the count."""
        with self._condition:
            self._condition.wait_for(lambda: self._count > count, timeout)
            return self._count


class Store:
    """The engine with its rules: threads write one at a time, and each commit wakes waiters."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        #: Signaled by every commit that changed a row, for readers that display rows.
        self.changed = ChangeSignal()
        #: Signaled by commits that can make decisions possible, for the reconciler and the pools.
        self.due = ChangeSignal()
        #: Writing threads queue here: SQLite itself waits by polling, and is unfair.
        self._turn = threading.Lock()
        self._writer_thread: int | None = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a read transaction: a consistent snapshot, whatever is written meanwhile."""
        with translate_errors(self.engine), self.engine.begin() as connection:
            begin_transaction(connection)
            yield connection

    @contextmanager
    def write(self, *, quiet: bool = False, decidable: bool = True) -> Iterator[Connection]:
        """Open a write transaction.  Keep it short: no other thread can write meanwhile.

        ``quiet``: signal nothing (a heartbeat).  ``decidable``: False if the commit matters for
        display only and makes no decision possible.  A transaction that changed no row signals
        nothing; otherwise a loop that reads and writes would wake itself for ever.

        Raises ``StoreError`` if the database is locked, full or damaged, and ``RuntimeError`` if
        this thread has a write transaction already.
        """
        with (
            translate_errors(self.engine),
            self._exclusive_turn(),
            self.engine.begin() as connection,
        ):
            begin_transaction(connection, writes=True)
            connection.info.pop(_ROWS_CHANGED, None)
            before = count_changes(connection)
            yield connection
            touched = (
                connection.info.pop(_ROWS_CHANGED, False) or count_changes(connection) != before
            )
        if touched and not quiet:
            self.wake(decidable=decidable)

    def wake(self, *, decidable: bool = True) -> None:
        """Signal a change, as a commit does."""
        self.changed.signal()
        if decidable:
            self.due.signal()

    @contextmanager
    def _exclusive_turn(self) -> Iterator[None]:
        """Wait for this thread's turn; a nested transaction would wait for itself."""
        if self._writer_thread == threading.get_ident():
            raise RuntimeError("this thread is in a write already")
        with self._turn:
            self._writer_thread = threading.get_ident()
            try:
                yield
            finally:
                self._writer_thread = None

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def begin_transaction(
    connection: Connection, *, writes: bool = False, rebuilds: bool = False
) -> None:
    """Begin a transaction in SQLite; other databases need nothing.

    ``writes``: lock the database at once.  ``rebuilds``: the transaction replaces tables.  This is
    not an event listener of SQLAlchemy, because with one each statement takes a tenth longer.
    """
    if connection.dialect.name != "sqlite":
        return
    if rebuilds:
        # While a table is replaced by a copy, rows that refer to it must not be deleted.
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
    # A transaction that reads before it writes fails if another process writes in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def count_changes(connection: Connection) -> int:
    """Return how many rows this connection has changed; 0 if the database does not count.

    A cursor's ``rowcount`` does not include the rows of INSERT ... RETURNING.
    """
    return getattr(connection.connection.driver_connection, "total_changes", 0)


@contextmanager
def translate_errors(engine: Engine) -> Iterator[None]:
    """Raise ``StoreError`` with the database's location if it is full, locked or damaged.

    Violations of constraints are not translated.
    """
    try:
        yield
    except DBAPIError as error:
        if error.orig is None or type(error.orig).__name__ == "IntegrityError":
            raise
        raise StoreError(f"database {describe_location(engine)}: {error.orig}") from error
    except PoolTimeout as error:
        raise StoreError(
            f"database {describe_location(engine)}: too many open connections; none became free "
            f"within {_WAIT_TIMEOUT} s"
        ) from error


def describe_location(engine: Engine) -> str:
    """Return the path of the database, or its URL without the password."""
    return engine.url.database or engine.url.render_as_string()


def open_engine(location: str | os.PathLike[str]) -> Engine:
    """Create the engine of a SQLite file, or of a URL such as ``postgresql+psycopg://...``."""
    url = _url(location)
    if url.get_backend_name() != "sqlite":
        engine = create_engine(url, pool_pre_ping=True)
        event.listen(engine, "after_cursor_execute", _record_row_changes)
    else:
        if url.database:
            _create_private_file(Path(url.database))
        engine = create_engine(
            url,
            pool_size=_IDLE_CONNECTIONS,
            max_overflow=_EXTRA_CONNECTIONS,
            pool_timeout=_WAIT_TIMEOUT,
            # The other connections stay small: each keeps pages and prepared statements.
            pool_use_lifo=True,
            connect_args={"check_same_thread": False, "timeout": _WAIT_TIMEOUT},
        )
        event.listen(engine, "connect", _configure_connection)
    return engine


def check_integrity(engine: Engine) -> None:
    """Read all of a SQLite database.  Raises ``StoreError`` if it is damaged."""
    if engine.dialect.name != "sqlite":
        return
    location = describe_location(engine)
    try:
        with engine.connect() as connection:
            (message,) = connection.exec_driver_sql("PRAGMA quick_check(1)").one()
            result = str(message).splitlines()[-1]
    except DBAPIError as error:
        result = str(error.orig)
    if result != "ok":
        raise StoreError(
            f"database {location} is damaged: {result}\n"
            f"  try: restore a backup, or recover what is readable: sqlite3 {location} .recover"
        )


def _url(location: str | os.PathLike[str]) -> URL:
    text = os.fspath(location)
    return make_url(text) if "://" in text else URL.create("sqlite", database=text)


def _create_private_file(path: Path) -> None:
    """Create the file with mode 0600; SQLite gives the files beside it the same mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"database {path}: {error.strerror}") from error


def _configure_connection(connection: Any, record: object) -> None:
    # The driver must not begin transactions itself: see begin_transaction.
    connection.isolation_level = None
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _record_row_changes(
    connection: Connection,
    cursor: Any,
    statement: str,
    parameters: object,
    context: ExecutionContext | None,
    executemany: bool,
) -> None:
    verb = statement.lstrip()[:6].upper()
    if verb in ("INSERT", "UPDATE", "DELETE") and cursor.rowcount != 0:
        connection.info[_ROWS_CHANGED] = True
