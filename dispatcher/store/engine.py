"""The database: one engine, short transactions, and the condition that every write signals.

Owns how connections are opened, begun and ended.  Must not know tables.  What is special of
SQLite stands here and in ``schema`` only; the rest is SQL that PostgreSQL understands too.
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

#: In ``Connection.info``: a statement of this transaction has changed a row.  SQLite counts itself.
_TOUCHED = "nosejobs_touched"
#: Seconds for which a process waits for another one's transaction.
_PATIENCE = 30
#: Connections that stay open, and those that are opened beyond them while many threads look.
_POOL, _MORE = 4, 60
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    # A host forgets what we have acknowledged: a commit must outlive a power cut.
    "PRAGMA synchronous = FULL",
    f"PRAGMA busy_timeout = {_PATIENCE * 1000}",
    "PRAGMA foreign_keys = ON",
    # Of each of the connections that stay open; the kernel has the pages anyway.
    "PRAGMA cache_size = -1024",
    "PRAGMA journal_size_limit = 67108864",
)


class StoreError(NosejobsError):
    """The database cannot be read or written."""


class Changed:
    """Wakes whoever waits for something new in the database.

    A counter, so that nothing is missed between a look and a wait: remember ``now()``, look,
    then ``wait`` for more than what was remembered.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0

    def now(self) -> int:
        """The number of signals so far."""
        with self._condition:
            return self._count

    def signal(self) -> None:
        """Something has changed; also outside of the database (a doorbell, an end)."""
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    def wait(self, seen: int, timeout: float | None = None) -> int:
        """The number of signals, as soon as it is more than ``seen`` or the time is over."""
        with self._condition:
            self._condition.wait_for(lambda: self._count > seen, timeout)
            return self._count


class Store:
    """The engine with its rules: who writes takes turns, and wakes those who wait."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        #: Signalled by every commit of a row: for who shows rows.
        self.changed = Changed()
        #: By those of which something may follow: for who decides.
        self.due = Changed()
        #: Within a process, threads queue here: SQLite's own waiting polls and is unfair.
        self._turn = threading.Lock()
        self._who: int | None = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent look, whatever others write meanwhile."""
        with named(self.engine), self.engine.begin() as connection:
            begin(connection)
            yield connection

    @contextmanager
    def write(self, *, quiet: bool = False, follows: bool = True) -> Iterator[Connection]:
        """One transaction: all of it or nothing.

        ``quiet``: nobody waits for this (a heartbeat).  ``follows``: False if people may look at
        it, and nobody has to decide anything.  Short ones only: nobody else writes meanwhile.
        One that changed no row wakes nobody, or a loop that looks and writes would wake itself
        for ever.
        """
        with named(self.engine), self._mine(), self.engine.begin() as connection:
            begin(connection, writes=True)
            connection.info.pop(_TOUCHED, None)
            before = changes_of(connection)
            yield connection
            touched = connection.info.pop(_TOUCHED, False) or changes_of(connection) != before
        if touched and not quiet:
            self.wake(follows=follows)

    def wake(self, *, follows: bool = True) -> None:
        """As a commit does."""
        self.changed.signal()
        if follows:
            self.due.signal()

    @contextmanager
    def _mine(self) -> Iterator[None]:
        """This thread's turn; a transaction in a transaction would wait for itself."""
        if self._who == threading.get_ident():
            raise RuntimeError("this thread is in a write already")
        with self._turn:
            self._who = threading.get_ident()
            try:
                yield
            finally:
                self._who = None

    def close(self) -> None:
        """No connection stays open."""
        self.engine.dispose()


def begin(connection: Connection, *, writes: bool = False, rebuilds: bool = False) -> None:
    """The first words to SQLite in a transaction of SQLAlchemy's.

    Not as a listener: while there is one, each statement asks for others, a tenth of its time.
    """
    if connection.dialect.name != "sqlite":
        return
    if rebuilds:
        # While a table is replaced by a copy, what refers to it must not be deleted.
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
    # A transaction that reads first and writes then could find the file changed in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def changes_of(connection: Connection) -> int:
    """Rows that SQLite has changed: of INSERT ... RETURNING a cursor does not count them."""
    return getattr(connection.connection.driver_connection, "total_changes", 0)


@contextmanager
def named(engine: Engine) -> Iterator[None]:
    """Trouble of the database itself says which one it is: it is full, locked or broken."""
    try:
        yield
    except DBAPIError as error:
        if error.orig is None or type(error.orig).__name__ == "IntegrityError":
            raise
        raise StoreError(f"database {name_of(engine)}: {error.orig}") from error
    except PoolTimeout as error:
        raise StoreError(f"database {name_of(engine)}: too many look at it at once") from error


def name_of(engine: Engine) -> str:
    """The file, or the address without its password."""
    return engine.url.database or engine.url.render_as_string()


def open_engine(where: str | os.PathLike[str]) -> Engine:
    """The engine of a file, or of an address such as ``postgresql+psycopg://...``."""
    url = _url(where)
    if url.get_backend_name() != "sqlite":
        engine = create_engine(url, pool_pre_ping=True)
        event.listen(engine, "after_cursor_execute", _on_execute)
    else:
        if url.database:
            _prepare(Path(url.database))
        engine = create_engine(
            url,
            pool_size=_POOL,
            max_overflow=_MORE,
            pool_timeout=_PATIENCE,
            connect_args={"check_same_thread": False, "timeout": _PATIENCE},
        )
        event.listen(engine, "connect", _on_connect)
    return engine


def check(engine: Engine) -> None:
    """Read all of a SQLite file; StoreError says what is damaged and what can be done."""
    if engine.dialect.name != "sqlite":
        return
    hint = f"\n  try: your last copy of it; or what can be read: sqlite3 {name_of(engine)} .recover"
    try:
        with engine.connect() as connection:
            (told,) = connection.exec_driver_sql("PRAGMA quick_check(1)").one()
            found = str(told).splitlines()[-1]
    except DBAPIError as error:
        found = str(error.orig)
    if found != "ok":
        raise StoreError(f"database {name_of(engine)} is damaged: {found}{hint}")


def _url(where: str | os.PathLike[str]) -> URL:
    text = os.fspath(where)
    return make_url(text) if "://" in text else URL.create("sqlite", database=text)


def _prepare(path: Path) -> None:
    """The file and what SQLite puts beside it are nobody else's: it follows the file's mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"database {path}: {error.strerror}") from error


def _on_connect(connection: Any, record: object) -> None:
    # The driver shall begin nothing by itself: see begin.
    connection.isolation_level = None
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _on_execute(
    connection: Connection,
    cursor: Any,
    statement: str,
    parameters: object,
    context: ExecutionContext | None,
    executemany: bool,
) -> None:
    verb = statement.lstrip()[:6].upper()
    if verb in ("INSERT", "UPDATE", "DELETE") and cursor.rowcount != 0:
        connection.info[_TOUCHED] = True
