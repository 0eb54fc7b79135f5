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
import weakref
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from . import change_signal
from .rows import BadRow

NAME = "queue.db"
_LOCK = "queue.lock"
#: How the name of a file that was set aside begins, and that of what is to be said of it ends.
_ASIDE, _NOTICE = NAME + ".corrupt-", ".notice"
#: Of the schema; ``queue.sql`` says what may be different in the next one.
VERSION = 1
#: Row values, and a connection that closes without removing the log of another file that has
#: its name by then. The oldest of the systems with Python 3.8: Ubuntu 18.04.
_NEEDED = (3, 22, 0)
#: Seconds to wait for others.
_PATIENCE = 30.0
_TABLES = {"setting", "job", "test", "attempt", "execution", "outbox", "worker"}
#: Bytes that the write-ahead log keeps of the disk once it is empty.
_LOG = 32 << 20
#: Bytes of it that the worker moves into the file, so that nobody who waits for an answer has to;
#: pages from which on anybody does: there may be no worker.
_MUCH, _MOST = 2 << 20, 8000
#: Pages that are given back at once.
_PAGES = 4096
#: Why a file cannot be opened, if it is its place that is wrong.
_REFUSALS = (
    errno.EACCES,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)


class Refused(Exception):
    """The queue does not do it; ``kind`` is for programs, ``words`` are for people."""

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(words)
        #: unknown, ambiguous, full, state, newer, read-only, corrupt, differs or bad.
        self.kind = kind
        self.words = words


def untold(folder: str) -> Dict[str, str]:
    """What was set aside and nobody outside has heard of: words, by the file that has them.

    Whoever tells somebody removes the file.
    """
    found: Dict[str, str] = {}
    for name in sorted(os.listdir(folder)):
        if name.startswith(_ASIDE) and name.endswith(_NOTICE):
            path = os.path.join(folder, name)
            with open(path, encoding="utf-8", errors="replace") as file:
                found[path] = file.read() or _said("damaged", path[: -len(_NOTICE)], folder)
    return found


def _said(why: str, place: str, folder: str) -> str:
    words = "%s was %s and has been set aside as %s; contents and packages are kept in %s,"
    words += " jobs that were in it have to be submitted again"
    return words % (os.path.join(folder, NAME), why, place, folder)


class _Damaged(Exception):
    """This is no database, or none of ours."""


class _Removed(Exception):
    """The file of this name is another one than ours, or none."""


class Database:
    """One process's connection to the file.

    SQLite cannot bear a fork: a child that opens the same file believes that it has the locks
    of its parent.  So a fork closes the connection, and both open one when they need it.
    """

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, NAME)
        self._folder = folder
        self._db: Optional[sqlite3.Connection] = None
        self._lock = -1
        self._inode = 0
        if sqlite3.sqlite_version_info < _NEEDED:
            words = "SQLite >= %d.%d.%d is needed for jobs" % _NEEDED
            raise Refused("bad", "%s, this Python has %s" % (words, sqlite3.sqlite_version))
        self._open()
        _OPEN.add(self)

    def close(self) -> None:
        """Nothing is lost without it; whoever asks again opens it again."""
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def size(self) -> int:
        """Bytes of the file."""
        return os.stat(self.path).st_size

    # -- use ------------------------------------------------------------------------

    def rows(self, statement: str, values: Sequence[Any] = ()) -> List[Tuple[Any, ...]]:
        """All rows of a question."""
        with self.reading() as db:
            return db.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Ask; Refused or OSError in words for what goes wrong with the file."""
        if self._db is None:
            self._open()
        with self._in_words(), self._held(fcntl.LOCK_SH):
            self._require_place()
            assert self._db is not None
            yield self._db

    @contextlib.contextmanager
    def writing(self, rings: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction: on the disk when this ends, or never happened.

        ``rings``: whoever waits for news is woken then.
        """
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
        if rings:
            change_signal.ring(self._folder)

    def shrink(self) -> None:
        """Give back to the disk what is free in the file, up to a bound."""
        # It can wait: for others, or for room on the disk.
        with contextlib.suppress(OSError), self.reading() as db:
            # A script runs to its end; a statement without rows ends after one page.
            db.executescript("PRAGMA incremental_vacuum(%d)" % _PAGES)

    def tidy(self) -> None:
        """Move the log into the file, if it is long; whoever writes meanwhile does not wait."""
        with contextlib.suppress(OSError):
            if os.path.getsize(self.path + "-wal") > _MUCH:
                with self.reading() as db:
                    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def wipe(self) -> None:
        """Nothing that was overwritten stays in the log, unless somebody reads just now.

        Then it goes with the log: whoever closes the file last removes it.
        """
        with contextlib.suppress(OSError), self.reading() as db:
            db.execute("PRAGMA busy_timeout = 0")
            try:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                db.execute("PRAGMA busy_timeout = %d" % (_PATIENCE * 1000))

    def check(self) -> None:
        """Read all of it; a damaged file is set aside, and Refused says so."""
        with self.reading() as db:
            found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise _Damaged(found)

    # -- opening --------------------------------------------------------------------

    def _open(self) -> None:
        self.close()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._lock = os.open(os.path.join(self._folder, _LOCK), flags, 0o600)
            with self._in_words():
                with self._held(fcntl.LOCK_SH):
                    ready = self._has_bytes() and self._connect()
                if not ready:
                    with self._held(fcntl.LOCK_EX):
                        self._make()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and error.errno in _REFUSALS:
                raise self._read_only(error.strerror or str(error)) from error
            raise

    def _has_bytes(self) -> bool:
        return os.path.exists(self.path) and self.size() > 0

    def _connect(self) -> bool:
        """Whether a file with a schema is there; it is open now."""
        if self._db is not None:
            self._db.close()
        self._inode = os.stat(self.path).st_ino
        db = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
        self._db = db
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        # What was deleted, a secret say, does not stay in pages that are free.
        db.execute("PRAGMA secure_delete = ON")
        db.execute("PRAGMA journal_size_limit = %d" % _LOG)
        db.execute("PRAGMA wal_autocheckpoint = %d" % _MOST)
        if not self._require_version(db):
            return False
        found = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if not found >= _TABLES:
            raise _Damaged("it has no table %s" % ", ".join(sorted(_TABLES - found)))
        return True

    def _make(self) -> None:
        """Make the file, or give an empty one the schema, unless somebody was faster."""
        # SQLite gives the files beside it the mode of this one.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        is_new = not os.path.lexists(self.path)
        os.close(os.open(self.path, flags, 0o600))
        self._inode = os.stat(self.path).st_ino
        if not is_new and not self._has_bytes() and self._has_past():
            raise _Damaged("it is empty, but there have been jobs")
        if self._connect():
            return
        assert self._db is not None
        if self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise _Damaged("it is the database of something else")
        self._write_schema(self._db)

    def _has_past(self) -> bool:
        """What an empty file would not have beside it."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.getsize(self.path + "-wal"):
                return True
        with contextlib.suppress(FileNotFoundError):
            return bool(os.listdir(os.path.join(self._folder, "packages")))
        return False

    def _write_schema(self, db: sqlite3.Connection) -> None:
        # So that what jobs leave in the file can be given back to the disk.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        source = pkgutil.get_data(__package__, "queue.sql")
        assert source is not None
        script = "BEGIN IMMEDIATE;\n%s\nPRAGMA user_version = %d;\nCOMMIT;"
        # If it fails, the connection is closed, which rolls back.
        db.executescript(script % (source.decode("ascii"), VERSION))

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

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        """Errors of SQLite's become what they mean for a person."""
        try:
            yield
        except _Removed:
            self.close()
            words = "%s was set aside or removed meanwhile" % self.path
            raise Refused("corrupt", words) from None
        except (sqlite3.Error, BadRow, _Damaged) as error:
            raise self._trouble(error) from error

    def _trouble(self, error: Exception) -> Exception:
        """A damaged file is set aside."""
        words = str(error)
        if isinstance(error, BadRow):
            return self._odd(words)
        # Only SQLITE_CORRUPT and SQLITE_NOTADB are of this very class (Modules/_sqlite/util.c);
        # Python 3.8 knows no error codes.
        if type(error) is sqlite3.DatabaseError or isinstance(error, _Damaged):
            return self._set_aside(words)
        if not isinstance(error, sqlite3.OperationalError):
            return error
        if "no such " in words or "has no column" in words:
            return self._odd(words)
        if "readonly" in words or "unable to open" in words:
            return self._read_only(words)
        number = errno.ENOSPC if "full" in words else errno.EIO
        if "locked" in words:
            number = errno.EBUSY
        return OSError(number, "the queue of jobs cannot be used (%s)" % words, self.path)

    def _odd(self, words: str) -> Exception:
        """What is written there is not what we write: damage, or the fault of a program."""
        try:
            self.check()
        except Refused as refused:
            return refused
        said = "%s cannot be understood (%s); it is sound as a file, and was left as it is"
        return Refused("corrupt", said % (self.path, words))

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
                said = _said("damaged (%s)" % words, place, self._folder)
                _leave_notice(place, said)
            except _Removed:
                said = "%s was damaged (%s), and set aside by another process" % (self.path, words)
            except OSError as error:
                said = "%s is damaged (%s) and cannot be set aside (%s)"
                said %= (self.path, words, error.strerror)
        return Refused("corrupt", said)

    def _rename(self) -> str:
        name = _ASIDE + time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        stem = os.path.join(self._folder, name)
        place, number = stem, 1
        while os.path.lexists(place):
            place, number = "%s.%d" % (stem, number), number + 1
        # The database last: one that is found without its log is still damaged, and a new
        # one that finds an old log would take it for its own.
        for suffix in ("-shm", "-wal", ""):
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.path + suffix, place + suffix)
        return place

def _leave_notice(place: str, words: str) -> None:
    """A worker may be the one who finds it; people have to hear of it all the same."""
    # On a full disk an empty file says so, too.
    with contextlib.suppress(OSError), open(place + _NOTICE, "w", encoding="utf-8") as file:
        file.write(words)


def _close_all() -> None:
    for database in list(_OPEN):
        # Another thread's is not touched; its child will not know of it.
        with contextlib.suppress(sqlite3.ProgrammingError):
            database.close()


#: What a fork closes.
_OPEN: "weakref.WeakSet[Database]" = weakref.WeakSet()
os.register_at_fork(before=_close_all)
