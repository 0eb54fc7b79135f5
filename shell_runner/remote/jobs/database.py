"""The SQLite file of a host's queue: opens it, runs transactions, and sets a damaged file aside.

Responsible for the file, the version of its schema and the lock beside it. Must not know jobs.

Every use of the file holds ``queue.lock`` shared; creating the file or setting it aside holds the
lock exclusively. So no process writes into a file that is being set aside, and a process that still
has it open notices afterwards that the path names another file.
"""

import contextlib
import errno
import fcntl
import os
import pkgutil
import sqlite3
import time
import weakref
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from . import change_signal
from .rows import BadRow

DATABASE_NAME = "queue.db"
_LOCK_NAME = "queue.lock"
#: The prefix of a damaged file's new name, and the suffix of the notice about it.
_SET_ASIDE_PREFIX, _NOTICE_SUFFIX = DATABASE_NAME + ".corrupt-", ".notice"
#: Version of the schema; ``queue.sql`` says what a new version may change.
SCHEMA_VERSION = 1
#: Needed for row values, and for connections that, when closed, do not remove the log of another
#: file that has taken their name.  It is the version of Ubuntu 18.04, the oldest system with
#: Python 3.8.
_MIN_SQLITE_VERSION = (3, 22, 0)
#: Seconds to wait for the locks of other processes.
_BUSY_TIMEOUT = 30.0
_TABLES = {"setting", "job", "test", "attempt", "execution", "outbox", "worker"}
#: Bytes that the write-ahead log keeps on the disk once it is empty.
_MAX_EMPTY_LOG_BYTES = 32 << 20
#: Bytes of the log beyond which the worker copies it into the file, so that no client has to
#: wait for that; and pages beyond which any process does, as there may be no worker.
_CHECKPOINT_LOG_BYTES, _AUTO_CHECKPOINT_PAGES = 2 << 20, 8000
#: Pages that are returned to the disk at once.
_MAX_RELEASED_PAGES = 4096
#: Errors of a path that cannot hold the file.
_UNUSABLE_PATH_ERRORS = (
    errno.EACCES,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)


class RequestRefused(Exception):
    """The queue refuses a request; ``kind`` is for programs, ``message`` for people."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        #: unknown, ambiguous, full, state, newer, read-only, corrupt, differs or bad.
        self.kind = kind
        self.message = message


def read_notices(folder: str) -> Dict[str, str]:
    """Return the messages about damaged files in ``folder``, by the path of the notice.

    A notice stays until the caller has delivered its message and removes the file.
    """
    notices: Dict[str, str] = {}
    for name in sorted(os.listdir(folder)):
        if name.startswith(_SET_ASIDE_PREFIX) and name.endswith(_NOTICE_SUFFIX):
            path = os.path.join(folder, name)
            with open(path, encoding="utf-8", errors="replace") as file:
                target = path[: -len(_NOTICE_SUFFIX)]
                notices[path] = file.read() or _set_aside_message("damaged", target, folder)
    return notices


def _set_aside_message(problem: str, target: str, folder: str) -> str:
    message = "%s was %s and has been renamed to %s; contents and packages stay in %s, the jobs"
    message += " that were in it must be submitted again"
    return message % (os.path.join(folder, DATABASE_NAME), problem, target, folder)


class _FileDamaged(Exception):
    """The file is not an SQLite database, or not a queue."""


class _FileReplaced(Exception):
    """The path names another file than the one that is open, or none."""


class Database:
    """The connection of one process to the file.

    SQLite does not support a fork with an open connection: a child that opens the same file
    believes that it holds the locks of its parent. So a fork closes the connection, and both
    processes open one of their own when they need it.
    """

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, DATABASE_NAME)
        self._folder = folder
        self._db: Optional[sqlite3.Connection] = None
        self._lock = -1
        self._inode = 0
        if sqlite3.sqlite_version_info < _MIN_SQLITE_VERSION:
            message = "jobs need SQLite >= %d.%d.%d" % _MIN_SQLITE_VERSION
            message += ", this Python has %s" % sqlite3.sqlite_version
            raise RequestRefused("bad", message)
        self._open()
        _OPEN_DATABASES.add(self)

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def get_size(self) -> int:
        """Return the size of the file in bytes."""
        return os.stat(self.path).st_size

    # -- use ------------------------------------------------------------------------

    def query(self, statement: str, values: Sequence[Any] = ()) -> List[Tuple[Any, ...]]:
        """Return all rows that ``statement`` selects."""
        with self.read_transaction() as db:
            return db.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def read_transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection for reading.

        Raises :exc:`RequestRefused` if the file is damaged, replaced, of a newer version or not
        writable, and :exc:`OSError` if the disk is full or broken, or the file is locked for too
        long.
        """
        if self._db is None:
            self._open()
        with self._translated_errors(), self._hold_lock(fcntl.LOCK_SH):
            self._check_file_unchanged()
            assert self._db is not None
            yield self._db

    @contextlib.contextmanager
    def write_transaction(self, notify: bool = False) -> Iterator[sqlite3.Connection]:
        """Yield the connection in one transaction, which is on the disk when the block ends.

        An exception rolls it back. With ``notify``, sessions that wait for changes are woken after
        the commit. Raises what ``read_transaction`` raises.
        """
        with self.read_transaction() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                self._check_version(db)
                yield db
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                raise
        if notify:
            change_signal.notify_listeners(self._folder)

    def release_free_pages(self) -> None:
        """Return up to ``_MAX_RELEASED_PAGES`` unused pages of the file to the disk."""
        # It is not urgent: others may hold the lock, or the disk may be full.
        with contextlib.suppress(OSError), self.read_transaction() as db:
            # A script runs to its end; a statement without rows ends after one page.
            db.executescript("PRAGMA incremental_vacuum(%d)" % _MAX_RELEASED_PAGES)

    def checkpoint(self) -> None:
        """Copy a long write-ahead log into the file; concurrent writers do not have to wait."""
        with contextlib.suppress(OSError):
            if os.path.getsize(self.path + "-wal") > _CHECKPOINT_LOG_BYTES:
                with self.read_transaction() as db:
                    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def truncate_log(self) -> None:
        """Remove overwritten data from the write-ahead log, unless another process reads it now.

        In that case the data goes with the log, which the last process that closes the file
        removes.
        """
        with contextlib.suppress(OSError), self.read_transaction() as db:
            db.execute("PRAGMA busy_timeout = 0")
            try:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                db.execute("PRAGMA busy_timeout = %d" % (_BUSY_TIMEOUT * 1000))

    def check(self) -> None:
        """Read the whole file.

        Raises :exc:`RequestRefused` if it is damaged; it has been set aside then.
        """
        with self.read_transaction() as db:
            result = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if result != "ok":
                raise _FileDamaged(result)

    # -- opening --------------------------------------------------------------------

    def _open(self) -> None:
        self.close()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._lock = os.open(os.path.join(self._folder, _LOCK_NAME), flags, 0o600)
            with self._translated_errors():
                with self._hold_lock(fcntl.LOCK_SH):
                    is_ready = self._has_bytes() and self._connect()
                if not is_ready:
                    with self._hold_lock(fcntl.LOCK_EX):
                        self._create()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and error.errno in _UNUSABLE_PATH_ERRORS:
                raise self._refuse_read_only(error.strerror or str(error)) from error
            raise

    def _has_bytes(self) -> bool:
        return os.path.exists(self.path) and self.get_size() > 0

    def _connect(self) -> bool:
        """Open the file; return whether it has a schema."""
        if self._db is not None:
            self._db.close()
        self._inode = os.stat(self.path).st_ino
        db = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT, isolation_level=None)
        self._db = db
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        # Deleted data, such as a secret, must not stay in free pages.
        db.execute("PRAGMA secure_delete = ON")
        db.execute("PRAGMA journal_size_limit = %d" % _MAX_EMPTY_LOG_BYTES)
        db.execute("PRAGMA wal_autocheckpoint = %d" % _AUTO_CHECKPOINT_PAGES)
        if not self._check_version(db):
            return False
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if not tables >= _TABLES:
            raise _FileDamaged("it has no table %s" % ", ".join(sorted(_TABLES - tables)))
        return True

    def _create(self) -> None:
        """Create the file, or write the schema into an empty one, unless another process was
        faster.
        """
        # SQLite gives its other files the mode of this one.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        is_new = not os.path.lexists(self.path)
        os.close(os.open(self.path, flags, 0o600))
        self._inode = os.stat(self.path).st_ino
        if not is_new and not self._has_bytes() and self._had_jobs():
            raise _FileDamaged("it is empty, but there have been jobs")
        if self._connect():
            return
        assert self._db is not None
        if self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise _FileDamaged("it is the database of another program")
        self._write_schema(self._db)

    def _had_jobs(self) -> bool:
        """Return whether files beside an empty database show that it contained jobs."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.getsize(self.path + "-wal"):
                return True
        with contextlib.suppress(FileNotFoundError):
            return bool(os.listdir(os.path.join(self._folder, "packages")))
        return False

    def _write_schema(self, db: sqlite3.Connection) -> None:
        # Lets free pages be returned to the disk.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        source = pkgutil.get_data(__package__, "queue.sql")
        assert source is not None
        script = "BEGIN IMMEDIATE;\n%s\nPRAGMA user_version = %d;\nCOMMIT;"
        # If it fails, the connection is closed, which rolls back.
        db.executescript(script % (source.decode("ascii"), SCHEMA_VERSION))

    def _check_version(self, db: sqlite3.Connection) -> bool:
        """Return whether the file has a schema; raise RequestRefused if its version is newer than
        ours.
        """
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            message = (
                "%s has schema version %d, this nosejobs supports up to %d; use a newer nosejobs"
            )
            raise RequestRefused("newer", message % (self.path, version, SCHEMA_VERSION))
        return version == SCHEMA_VERSION

    def _check_file_unchanged(self) -> None:
        try:
            inode = os.stat(self.path).st_ino
        except FileNotFoundError:
            inode = 0
        if inode != self._inode:
            raise _FileReplaced

    @contextlib.contextmanager
    def _hold_lock(self, operation: int) -> Iterator[None]:
        fcntl.flock(self._lock, operation)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    # -- errors ---------------------------------------------------------------------

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Translate SQLite's errors into RequestRefused and OSError."""
        try:
            yield
        except _FileReplaced:
            self.close()
            message = "%s was set aside or removed meanwhile" % self.path
            raise RequestRefused("corrupt", message) from None
        except (sqlite3.Error, BadRow, _FileDamaged) as error:
            raise self._translate_error(error) from error

    def _translate_error(self, error: Exception) -> Exception:
        """Return the exception that reports ``error``; a damaged file is set aside."""
        message = str(error)
        if isinstance(error, BadRow):
            return self._refuse_content(message)
        # Only SQLITE_CORRUPT and SQLITE_NOTADB are of this very class (Modules/_sqlite/util.c);
        # Python 3.8 knows no error codes.
        if type(error) is sqlite3.DatabaseError or isinstance(error, _FileDamaged):
            return self._set_aside(message)
        if not isinstance(error, sqlite3.OperationalError):
            return error
        if "no such " in message or "has no column" in message:
            return self._refuse_content(message)
        if "readonly" in message or "unable to open" in message:
            return self._refuse_read_only(message)
        number = errno.ENOSPC if "full" in message else errno.EIO
        if "locked" in message:
            number = errno.EBUSY
        return OSError(number, "the queue of jobs cannot be used (%s)" % message, self.path)

    def _refuse_content(self, reason: str) -> Exception:
        """Return the refusal of a row that this version cannot parse: damage, or the error of a
        program.
        """
        try:
            self.check()
        except RequestRefused as refused:
            return refused
        message = "%s has invalid content (%s); the file is intact and was not changed"
        return RequestRefused("corrupt", message % (self.path, reason))

    def _refuse_read_only(self, reason: str) -> RequestRefused:
        return RequestRefused("read-only", "%s cannot be written to (%s)" % (self.path, reason))

    def _set_aside(self, reason: str) -> RequestRefused:
        """Rename the file and its log; contents and packages stay."""
        with self._hold_lock(fcntl.LOCK_EX):
            if self._db is not None:
                self._db.close()
                self._db = None
            try:
                self._check_file_unchanged()
                target = self._rename_files()
                message = _set_aside_message("damaged (%s)" % reason, target, self._folder)
                _write_notice(target, message)
            except _FileReplaced:
                message = "%s was damaged (%s) and has been set aside by another process"
                message %= (self.path, reason)
            except OSError as error:
                message = "%s is damaged (%s) and cannot be set aside (%s)"
                message %= (self.path, reason, error.strerror)
        return RequestRefused("corrupt", message)

    def _rename_files(self) -> str:
        name = _SET_ASIDE_PREFIX + time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        stem = os.path.join(self._folder, name)
        target, number = stem, 1
        while os.path.lexists(target):
            target, number = "%s.%d" % (stem, number), number + 1
        # The database comes last: without its log it is still damaged, but a new database would
        # take an old log for its own.
        for suffix in ("-shm", "-wal", ""):
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.path + suffix, target + suffix)
        return target


def _write_notice(target: str, message: str) -> None:
    """Write a message for the next client, since a worker, which has no reader, may detect the
    damage.
    """
    # On a full disk the empty file remains, which is a notice, too.
    with contextlib.suppress(OSError), open(target + _NOTICE_SUFFIX, "w", encoding="utf-8") as file:
        file.write(message)


def _close_all() -> None:
    for database in list(_OPEN_DATABASES):
        # The connection of another thread cannot be closed; the child does not use it.
        with contextlib.suppress(sqlite3.ProgrammingError):
            database.close()


#: The databases that a fork closes.
_OPEN_DATABASES: "weakref.WeakSet[Database]" = weakref.WeakSet()
os.register_at_fork(before=_close_all)
