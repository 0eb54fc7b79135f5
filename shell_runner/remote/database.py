"""The file of a host's queue: open it, change it in transactions, set a damaged one aside.

Owns the SQLite file, its schema's version and the lock beside it.  Must not know jobs.

Whoever uses the file holds ``queue.lock`` shared; who makes it, or sets it aside, holds it
alone.  So nobody writes into a file that is being set aside, and whoever still has it open
afterwards sees that the file of this name is another one.
"""

import contextlib
import errno
import fcntl
import os
import pkgutil
import sqlite3
import time
from typing import Any, Iterator, List, Optional, Sequence, Tuple

from .rows import BadRow

NAME = "queue.db"
_LOCK = "queue.lock"
#: Of the schema; ``queue.sql`` says what may be different in the next one.
VERSION = 1
#: WITHOUT ROWID and row values: what the statements need (CentOS 7 has 3.7.17).
_NEEDED = (3, 15, 0)
#: Seconds to wait for others.
_PATIENCE = 30.0
_TABLES = {"setting", "job", "test", "attempt", "execution", "outbox", "worker"}
#: Bytes that the write-ahead log keeps of the disk once it is empty.
_LOG = 32 << 20


class Refused(Exception):
    """The queue does not do it; ``kind`` is for programs, ``words`` are for people."""

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(words)
        #: unknown, ambiguous, full, state, newer, read-only, corrupt, differs or bad.
        self.kind = kind
        self.words = words


class _Damaged(Exception):
    """This is no database, or none of ours."""


class _Removed(Exception):
    """The file of this name is another one than ours, or none."""


class Database:
    """One process's connection to the file; a forked child opens its own."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, NAME)
        self._folder = folder
        self._process = os.getpid()
        self._db: Optional[sqlite3.Connection] = None
        self._inode = 0
        if sqlite3.sqlite_version_info < _NEEDED:
            words = "SQLite >= %d.%d.%d is needed for jobs" % _NEEDED
            raise Refused("bad", "%s, this Python has %s" % (words, sqlite3.sqlite_version))
        self._lock = self._open_lock()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Nothing is lost without it."""
        if os.getpid() != self._process:
            # SQLite forbids a child to touch what it has inherited, even to close it.
            _INHERITED.append(self._db)
            return
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # -- use ------------------------------------------------------------------------

    def rows(self, statement: str, values: Sequence[Any] = ()) -> List[Tuple[Any, ...]]:
        """All rows of a question."""
        with self.reading() as db:
            return db.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Ask; Refused or OSError in words for what goes wrong with the file."""
        if os.getpid() != self._process:
            raise RuntimeError("a forked process opens the queue itself")
        try:
            with self._held(fcntl.LOCK_SH):
                self._require_place()
                yield self._connection()
        except _Removed:
            raise Refused("corrupt", "%s was set aside or removed meanwhile" % self.path) from None
        except (sqlite3.Error, BadRow, _Damaged) as error:
            raise self._trouble(error) from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: on the disk when this ends, or never happened."""
        with self.reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                self._require_version(db)
                yield db
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                raise

    def check(self) -> None:
        """Read all of it; a damaged file is set aside, and Refused says so."""
        with self.reading() as db:
            found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise _Damaged(found)

    # -- opening --------------------------------------------------------------------

    def _open_lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(os.path.join(self._folder, _LOCK), flags, 0o600)
        except OSError as error:
            raise self._read_only(error.strerror or str(error)) from error

    def _open(self) -> None:
        try:
            with self._held(fcntl.LOCK_SH):
                ready = self._connect()
            if not ready:
                with self._held(fcntl.LOCK_EX):
                    self._make()
        except (sqlite3.Error, _Damaged) as error:
            raise self._trouble(error) from error

    def _connect(self) -> bool:
        """Whether a file with a schema is there, and open now."""
        self._touch()
        self._inode = os.stat(self.path).st_ino
        db = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
        self._db = db
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA journal_size_limit = %d" % _LOG)
        if not self._require_version(db):
            return False
        found = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if not found >= _TABLES:
            raise _Damaged("it has no table %s" % ", ".join(sorted(_TABLES - found)))
        return True

    def _touch(self) -> None:
        """SQLite gives the files beside it the mode of this one."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            os.close(os.open(self.path, flags, 0o600))
        except OSError as error:
            raise self._read_only(error.strerror or str(error)) from error

    def _make(self) -> None:
        """Give an empty file the schema, unless somebody was faster."""
        if self._db is not None:
            self._db.close()
        if self._connect():
            return
        db = self._connection()
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise _Damaged("it is the database of something else")
        # So that what jobs leave in the file can be given back to the disk.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        source = pkgutil.get_data(__package__, "queue.sql")
        assert source is not None
        try:
            script = "BEGIN IMMEDIATE;\n%s\nPRAGMA user_version = %d;\nCOMMIT;"
            db.executescript(script % (source.decode("ascii"), VERSION))
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise Refused("corrupt", "%s is closed" % self.path)
        return self._db

    def _require_version(self, db: sqlite3.Connection) -> bool:
        """Whether it has a schema; Refused if that is newer than what we know."""
        found: int = db.execute("PRAGMA user_version").fetchone()[0]
        if found > VERSION:
            words = "%s has version %d of the schema, this nosejobs knows %d: use a newer one"
            raise Refused("newer", words % (self.path, found, VERSION))
        return found == VERSION

    def _require_place(self) -> None:
        try:
            found = os.stat(self.path).st_ino
        except FileNotFoundError:
            found = 0
        if found != self._inode:
            raise _Removed

    @contextlib.contextmanager
    def _held(self, how: int) -> Iterator[None]:
        fcntl.flock(self._lock, how)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    # -- trouble --------------------------------------------------------------------

    def _trouble(self, error: Exception) -> Exception:
        """What an error of SQLite's means for a person; the file is set aside if it is damaged."""
        words = str(error)
        # Only SQLITE_CORRUPT and SQLITE_NOTADB are of this very class (Modules/_sqlite/util.c);
        # Python 3.8 knows no error codes.
        if type(error) is sqlite3.DatabaseError or isinstance(error, (BadRow, _Damaged)):
            return self._set_aside(words)
        if not isinstance(error, sqlite3.OperationalError):
            return error
        if words.startswith("no such ") or "has no column" in words:
            return self._set_aside(words)
        if "readonly" in words or "unable to open" in words:
            return self._read_only(words)
        number = errno.ENOSPC if "full" in words else errno.EIO
        if "locked" in words:
            number = errno.EBUSY
        return OSError(number, "the queue of jobs cannot be used (%s)" % words, self.path)

    def _read_only(self, words: str) -> Refused:
        return Refused("read-only", "%s cannot be written to (%s)" % (self.path, words))

    def _set_aside(self, words: str) -> Refused:
        """Rename the file and what SQLite has beside it; contents and packages stay."""
        with self._held(fcntl.LOCK_EX):
            if self._db is not None:
                self._db.close()
                self._db = None
            try:
                self._require_place()
                place = self._rename()
            except _Removed:
                place = "another name by another process"
            except OSError as error:
                return self._read_only("%s; it is damaged: %s" % (error.strerror, words))
        said = "%s is damaged (%s) and was renamed to %s; contents and packages are kept"
        return Refused(
            "corrupt", (said + ", jobs have to be submitted again") % (self.path, words, place)
        )

    def _rename(self) -> str:
        stem = self.path + time.strftime(".corrupt-%Y%m%dT%H%M%SZ", time.gmtime())
        place, number = stem, 1
        while os.path.lexists(place):
            place, number = "%s.%d" % (stem, number), number + 1
        # The database last: one that is found without its log is still damaged, and a new
        # one that finds an old log would take it for its own.
        for suffix in ("-shm", "-wal", ""):
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.path + suffix, place + suffix)
        return place


#: Connections that a forked child must not even close.
_INHERITED: List[Optional[sqlite3.Connection]] = []
