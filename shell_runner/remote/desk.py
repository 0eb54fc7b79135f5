"""The desk of a host's queue: answers the channel of a job session.

Owns the requests and what their answers look like, and that what a job refers to is on the disk
before its row is.  Must not know how jobs are run.  One request at a time.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import tempfile
import time
import zipfile
import zlib
from typing import IO, Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from . import (
    bells,
    database,
    disk,
    gather,
    handed,
    identity,
    layout,
    queue,
    retention,
    starting,
    tree,
)
from .conversation import Conversation, leave_terminal, report
from .intake import Intake
from .job import TREE, BadJob, Content, NewJob, config_from, without_secrets
from .job_summary import summarize
from .machine import facts
from .model import ERROR, FAILED, Stream, execution_from_row
from .store import Store, is_digest
from .wire import pack, pack_blob

#: What both ends understand; a client says which one it speaks.
PROTOCOL = 1
#: Seconds between two looks at a log and a job that somebody waits for.
_LOOK = 0.2
#: Seconds between two looks for news though nobody has rung, and at least.
_NET, _AT_LEAST = 1.0, 0.005
#: Jobs that one request may ask news of.
_ASKED = 10_000
#: What a job is called that is not here.
GONE = "gone"
#: Seconds that a request may wait at most, before it is answered that nothing has happened.
_PATIENCE = 30.0
#: Bytes of one piece of a log or a package.
_PIECE = 1 << 20
#: Jobs of one list; tests that have failed that are named.
_MANY, _NAMED = 1000, 50
#: Characters of what is said of a job.
_WORDS = 2000
#: Characters of an Execution's row that is shown with a failed test.
_LONG_ROW = 1 << 16


class Reply(NamedTuple):
    """An answer with raw bytes."""

    value: Any
    body: bytes


class Desk(Conversation):
    """One session; ``code`` is the folder of the code that runs here, named by its digest."""

    def __init__(self, channel: Any, folder: str, code: str) -> None:
        super().__init__(channel)
        self.folder = folder
        self._code = code
        self._digest = os.path.basename(code)
        self._queue: Optional[queue.Queue] = None
        self._intake: Optional[Intake] = None
        #: CRC-32 of the beginning of a log, by its file.
        self._sums: Dict[Tuple[str, int], Tuple[int, int]] = {}
        #: Why a worker could not be started when it was last tried.
        self._no_worker = ""
        #: Rung when the queue has changed; None: nobody has waited for that.
        self._bell: Optional[bells.Bell] = None
        #: How often the client has put an end to its waiting.
        self._nudges = 0
        self._poller = select.poll()
        self._poller.register(self._wake_read, select.POLLIN)
        self._calls: Dict[str, Callable[..., Any]] = {
            "hello": self._hello,
            "submit": self._submit,
            "rerun": self._rerun,
            "jobs": self._jobs,
            "job": self._job,
            "log": self._log,
            "news": self._news,
            "package": self._package,
            "fetch": self._fetch,
            "acknowledge": self._acknowledge,
            "cancel": self._cancel,
            "forget": self._forget,
            "limits": self._limits,
            "limit": self._limit,
        }

    # -- the loop ---------------------------------------------------------------

    def serve(self) -> None:
        """Answer until told to stop, or until nobody is there any more."""
        self.listen()
        try:
            while self.running:
                self._pause(None)
                self.take_all()
        finally:
            self.end()
            if self._intake is not None:
                self._intake.store.end()
            if self._bell is not None:
                self._bell.close()
        if self.connected:
            self.say("bye")

    def _pause(self, seconds: Optional[float]) -> bool:
        """Wait for the client to say something; whether it has.  A bell ends the waiting, too."""
        if not self.inbox:
            self._poller.poll(None if seconds is None else seconds * 1000)
        self.hush()
        if self._bell is not None:
            self._bell.hush()
        return bool(self.inbox)

    def command(self, name: str, *arguments: Any) -> None:
        """Do what the client says; what is no message ends the session."""
        if name == "stop":
            self.running = False
        elif name == "nudge":
            self._nudges = max(self._nudges, int(arguments[0]))
        elif name == "tree":
            self.say("missing", *self.contents().missing(*arguments))
        elif name == "call":
            self._answer(*arguments)
        else:
            raise ValueError("no message of a job session: %r" % name)

    def _answer(self, name: str, arguments: Dict[str, Any]) -> None:
        """One request; whatever goes wrong with it is told, and the next one is served."""
        try:
            if name not in self._calls:
                raise queue.Refused("bad", "this host does not know the request %r" % name)
            if database.untold(self.folder):
                raise queue.Refused("corrupt", "")
            found = self._calls[name](**arguments)
        except queue.Refused as error:
            self._refuse(error)
        except handed.NoSuchTest as error:
            self.say("refused", "unknown", str(error))
        except (ArithmeticError, AttributeError, BadJob, KeyError, TypeError, ValueError) as error:
            self.say("refused", "bad", "%s: %s" % (name, error))
        except OSError as error:
            self.say("refused", "disk", disk.words(error, self.folder))
        else:
            if isinstance(found, Reply):
                self.send(pack_blob(["answer", found.value], found.body))
            else:
                self.say("answer", found)

    def _refuse(self, error: queue.Refused) -> None:
        """A queue that was set aside is told once, whoever has found the damage."""
        told = database.untold(self.folder) if error.kind == "corrupt" else {}
        self.say("refused", error.kind, " ".join(told.values()) or error.words)
        for path in told:
            with contextlib.suppress(OSError):
                os.unlink(path)

    # -- what a session needs ---------------------------------------------------

    def _there(self) -> "queue.Queue":
        if self._queue is None:
            self._queue = queue.Queue(self.folder)
        return self._queue

    def contents(self) -> Intake:
        """The store of this queue, opened when the first of them come."""
        if self._intake is None:
            path = layout.contents(self.folder)
            os.makedirs(path, mode=0o700, exist_ok=True)
            self._intake = Intake(Store(path))
        return self._intake

    def _keep_code(self) -> bool:
        """The code that this session runs outlives any cache; whether it was not here yet."""
        digest = self._digest
        if not is_digest(digest):
            raise queue.Refused("bad", "the code that runs here has no digest: %s" % self._code)
        parent = layout.code(self.folder)
        path = layout.code(self.folder, digest)
        is_new = not os.path.isdir(path)
        if is_new:
            os.makedirs(parent, mode=0o700, exist_ok=True)
            temporary = tempfile.mkdtemp(dir=parent)
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(self._code, os.path.join(temporary, "code"), ignore=ignored)
            try:
                os.rename(os.path.join(temporary, "code"), path)
            except OSError:
                if not os.path.isdir(path):  # else another session was faster
                    raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        os.utime(path)
        return is_new

    def _wake_worker(self) -> None:
        """There is work: one who does it must be there, and look."""
        self._no_worker = ""
        if self._has_worker():
            starting.ring(self.folder)
            return
        try:
            starting.start(self.folder, self._code_of_worker())
        except OSError as error:
            self._no_worker = error.strerror or str(error)

    def _code_of_worker(self) -> str:
        """What the next job wants; if that is gone, any worker can say so, and run the others."""
        code = self._there().next_code()
        try:
            if code:
                starting.command("worker", self.folder, code)
                return code
        except starting.CannotStart:
            pass
        self._keep_code()
        return self._digest

    def _has_worker(self) -> bool:
        """Whether one is alive; a test that stops all it can find may have stopped it."""
        worker = self._there().worker()
        if worker is None or not identity.is_alive(worker.identity):
            return False
        if tree.stat(worker.identity.pid)[:1] == ["T"]:
            os.kill(worker.identity.pid, signal.SIGCONT)
        return True

    def _look(self) -> None:
        """Whoever looks makes sure that what waits gets on."""
        counts = self._there().counts()
        waits = any(counts.get(state) for state in _WAITING)
        if (waits or self._there().next_due() is not None) and not self._has_worker():
            self._wake_worker()
            return
        if counts.get(queue.State.PACKAGING):
            starting.ring(self.folder)  # perhaps somebody has made room for it
        self._no_worker = ""

    # -- handing in -------------------------------------------------------------

    def _hello(self, protocol: int) -> Dict[str, Any]:
        if protocol != PROTOCOL:
            words = "this host speaks version %d of the job protocol, not %r"
            raise queue.Refused("newer", words % (PROTOCOL, protocol))
        return {"protocol": PROTOCOL, "host": facts()._asdict()}

    def _submit(self, job: Dict[str, Any]) -> Dict[str, Any]:
        return self._accept(handed.new_job(job))

    def _accept(self, job: NewJob) -> Dict[str, Any]:
        """Contents and code first, on the disk; then the row."""
        store = self.contents().store
        store.begin()
        for content in filter(None, (job.tests, job.build)):
            self._check(store, content)
        is_new = self._keep_code()
        # Else all was on the disk before the row of the other job was.
        if is_new or store.added or not self._there().refers(job, self._digest):
            _sync(self.folder)
            store.added = 0
        row = self._there().submit(job, self._digest, time.time())
        store.end()
        self._wake_worker()
        return self._summary(row)

    def _check(self, store: Store, content: Content) -> None:
        """All of what the row is about to refer to is here."""
        if content.kind == TREE:
            entries, parts = store.manifest(content.digest, content.size)
            whole = not parts and not store.missing(entries)[0]
        else:
            whole = store.holds(content.digest, content.size)
        if not whole:
            words = "the contents of %s are not on this host: send them again"
            raise queue.Refused("bad", words % (content.name or content.digest[:12]))

    def _rerun(
        self,
        job: str,
        id: str,
        tests: Sequence[str] = (),
        failed: bool = False,
        secret: str = "",
    ) -> Dict[str, Any]:
        """A new job of the same contents and config, with some of its tests.

        ``secret``: for its notification; that of the old job is gone once that was packaged.
        """
        row = self._there().find(job)
        cases = self._there().tests(row.number)
        if row.unreadable or not all(case.test.path for case in cases):
            raise queue.Refused("state", "job %s cannot be read: submit it anew" % row.id)
        wanted = set(handed.chosen(cases, tests))
        if failed:
            wanted |= {number for number, _, _ in self._failed(row)}
        elif not tests:
            wanted = set(range(len(cases)))
        if not wanted:
            raise queue.Refused("state", "no test of job %s has failed so far" % row.id)
        found = [cases[number] for number in sorted(wanted)]
        numbered = tuple(
            case._replace(test=case.test._replace(id=number)) for number, case in enumerate(found)
        )
        config = config_from({"secret": secret})  # checks it
        config = row.config._replace(secret=config.secret if row.config.notify else "")
        new = NewJob(id, row.tests, row.build, config, numbered, row.name, row.labels, row.priority)
        return self._accept(handed.checked(new))

    # -- looking ----------------------------------------------------------------

    def _jobs(
        self,
        states: Sequence[str] = (),
        label: str = "",
        limit: int = 100,
        before: int = 0,
    ) -> Dict[str, Any]:
        self._look()
        rows = self._there().jobs(
            [queue.State(state) for state in states], label, min(limit, _MANY), before
        )
        return {
            "jobs": [self._summary(row) for row in rows],
            "counts": {str(state): count for state, count in self._there().counts().items()},
            "no_worker": self._no_worker,
        }

    def _summary(self, row: Any) -> Dict[str, Any]:
        """Return what a list shows of a job."""
        attempts, outcomes = self._there().attempts(row.number), self._there().results(row)
        return summarize(row, self._trouble(row), attempts, outcomes)._asdict()

    def _trouble(self, row: Any) -> str:
        """Why it does not get on; a full disk takes no row that says so."""
        if row.trouble or row.state not in _WAITING:
            return str(row.trouble)
        if row.unreadable:
            return "its row cannot be read: %s" % row.unreadable
        return disk.shortage(self.folder)

    def _job(self, job: str) -> Dict[str, Any]:
        self._look()
        row = self._there().find(job)
        config = without_secrets(row.config)
        return {
            **self._summary(row),
            "ahead": self._there().ahead(row),
            "tried": [_attempt(each) for each in self._there().attempts(row.number)],
            "failed": self._failed_rows(row),
            "untold": self._untold(row),
            "config": config._asdict(),
            "build": row.build,
            "contents": row.tests,
            "no_worker": self._no_worker,
            "workspace": self._workspace(row),
        }

    def _workspace(self, row: Any) -> str:
        """Where the workspace of its last attempt is, if it is kept."""
        for attempt in self._there().attempts(row.number)[-1:]:
            if os.path.exists(layout.kept(self.folder, attempt.id)):
                return layout.work(self.folder, attempt.id)
        return ""

    def _untold(self, row: Any) -> Optional[Dict[str, Any]]:
        """How it is with the news of its end, if they did not arrive yet."""
        found = self._there().untold(row)
        if found is None:
            return None
        tries, due, trouble = found
        # By the clock of this host; the client has its own.
        left = max(due - time.time(), 0.0)
        return {"tries": tries, "seconds": left, "trouble": trouble[:_WORDS]}

    def _failed(self, row: Any) -> List[Tuple[int, str, str]]:
        """Number, outcome and row of the tests that have failed in the last attempt.

        Those that did not run, too, as in the package, once the job has ended.
        """
        attempts = self._there().attempts(row.number)
        last: Dict[int, Tuple[int, str, str]] = {}
        for test, _, outcome, text in self._there().executions(attempts[-1].id) if attempts else ():
            last[test] = (test, outcome, text)
        for test in range(row.count) if row.how else ():
            if test not in last:
                text = json.dumps(gather.why_absent(test, row.how, row.detail))
                last[test] = (test, ERROR, text)
        return [last[test] for test in sorted(last) if last[test][1] in (FAILED, ERROR)]

    def _failed_rows(self, row: Any) -> Dict[str, Any]:
        """The first of them, with what is needed to say why; without their output."""
        found = self._failed(row)
        cases = self._there().tests(row.number) if found else []
        rows = [
            [cases[test].nodeid, outcome, cases[test].test, _without_output(text)]
            for test, outcome, text in found[:_NAMED]
        ]
        return {"count": len(found), "first": rows}

    # -- news -------------------------------------------------------------------

    def _news(
        self,
        seen: Dict[str, str],
        seconds: float,
        nudged: int = 0,
        no_worker: Optional[str] = None,
    ) -> Dict[str, Any]:
        """Jobs whose state is not the one that was ``seen`` ("gone": there is none).

        Waits for one such, or for other words than ``no_worker`` of why nobody runs them, until
        the client has nudged more than ``nudged`` times.
        """
        if len(seen) > _ASKED:
            raise queue.Refused("bad", "news of %d jobs at most" % _ASKED)
        deadline = time.monotonic() + min(seconds, _PATIENCE)
        self._listen()
        self._look()
        while True:
            news = self._differing(seen)
            left = deadline - time.monotonic()
            other = no_worker not in (None, self._no_worker)
            if news or other or left <= 0 or self._nudges > nudged or self.inbox:
                return self._told(news)
            # With nothing at work here, whatever happens rings.
            waits = any(state in _WAITING for state in seen.values())
            began = time.monotonic()
            if self._pause(min(left, _NET) if waits else left):
                return self._told({})
            self._breathe(began, waits)

    def _listen(self) -> None:
        if self._bell is None:
            self._bell = bells.Bell(self.folder)
            self._poller.register(self._bell.fileno(), select.POLLIN)

    def _breathe(self, began: float, waits: bool) -> None:
        """One who rings all the time is not answered all the time."""
        took = time.monotonic() - began
        if took < _AT_LEAST:
            time.sleep(_AT_LEAST - took)
        elif waits and took >= _NET:
            self._look()

    def _differing(self, seen: Dict[str, str]) -> Dict[str, str]:
        states = self._there().states(seen)
        now = {job: GONE if state is None else str(state) for job, state in states.items()}
        return {job: state for job, state in now.items() if state != seen[job]}

    def _told(self, news: Dict[str, str]) -> Dict[str, Any]:
        found, gone = [], [job for job, state in news.items() if state == GONE]
        for job in news.keys() - set(gone):
            try:
                found.append(self._summary(self._there().find(job)))
            except queue.Refused:
                gone.append(job)  # forgotten meanwhile
        return {"jobs": found, "gone": gone, "no_worker": self._no_worker}

    # -- logs -------------------------------------------------------------------

    def _log(
        self,
        job: str,
        attempt: int = 0,
        offset: int = 0,
        seconds: float = 0.0,
        seen: Optional[List[Any]] = None,
        size: int = _PIECE,
    ) -> Reply:
        """Bytes of an attempt's log from ``offset`` on (attempt 0: the last one).

        If there are none yet and all is as the client has ``seen`` it: waits for either.
        """
        deadline = time.monotonic() + min(seconds, _PATIENCE)
        self._look()
        while True:
            found = self._log_now(job, attempt, offset, min(size, _PIECE))
            value = found.value
            news = found.body or value["mark"] != seen
            # Nothing more can come: of this attempt if there is a later one, else of the job.
            end = value["over"] and (value["how"] or value["attempt"] < value["attempts"])
            if news or end or time.monotonic() >= deadline or self._pause(_LOOK):
                return found

    def _log_now(self, job: str, attempt: int, offset: int, size: int) -> Reply:
        row = self._there().find(job)
        attempts = self._there().attempts(row.number)
        which = attempt or len(attempts)
        # Before the log is read: what is over does not grow.
        over = bool(row.how) if not attempts else which < len(attempts) or _is_over(attempts[-1])
        value = {
            "mark": [str(row.state), len(attempts), str(attempts[-1].step) if attempts else ""],
            "how": str(row.how or ""), "attempt": which, "attempts": len(attempts), "over": over,
            "offset": offset, "crc": 0, "size": 0,
        }  # fmt: skip
        if attempt < 0 or which > max(len(attempts), 1):
            count = "1 attempt" if len(attempts) == 1 else "%d attempts" % len(attempts)
            words = "job %s has %s; there is no number %d"
            raise queue.Refused("unknown", words % (row.id, count, which))
        if not attempts:
            return Reply(value, b"")
        log = self._open_log(row, attempts[which - 1], which == len(attempts))
        if log is None:
            return Reply(value, b"")
        with log:
            value["crc"] = self._sum(log, offset)
            body = log.read(size)
            value["size"] = offset + len(body)
        return Reply(value, body)

    def _open_log(self, row: Any, attempt: Any, is_last: bool) -> "Optional[IO[bytes]]":
        """The file that grows; once it is gone, what the package has of it."""
        try:
            return open(layout.log(self.folder, attempt.id), "rb")
        except FileNotFoundError:
            pass
        name = "log.txt" if is_last else "attempts/%d/log.txt" % attempt.number
        try:
            package = zipfile.ZipFile(layout.package(self.folder, row.id))
            return package.open(name)
        except (OSError, KeyError, zipfile.BadZipFile):
            return None

    def _sum(self, log: "IO[bytes]", offset: int) -> int:
        """The CRC-32 of all before ``offset``, to which the file is moved; known parts once."""
        key = ("", 0)
        at, crc = 0, 0
        if hasattr(log, "raw"):
            found = os.fstat(log.fileno())
            key = ("%d" % found.st_dev, found.st_ino)
            at, crc = self._sums.get(key, (0, 0))
            if at > min(offset, found.st_size):
                at, crc = 0, 0
            log.seek(at)
        while at < offset:
            data = log.read(min(_PIECE, offset - at))
            if not data:
                words = "the log has %d bytes, and you have %d: it is another one"
                raise queue.Refused("differs", words % (at, offset))
            crc = zlib.crc32(data, crc)
            at += len(data)
        if key[1]:
            self._sums[key] = (at, crc)
        return crc

    # -- the package ------------------------------------------------------------

    def _package(self, job: str, seconds: float = 0.0) -> Dict[str, Any]:
        """Size and digest of its package; waits for it for so long."""
        deadline = time.monotonic() + min(seconds, _PATIENCE)
        self._look()
        while True:
            row = self._there().find(job)
            if row.package or time.monotonic() >= deadline or self._pause(_LOOK):
                return {**self._summary(row), "digest": row.package, "size": row.size}

    def _fetch(self, job: str, offset: int, size: int = _PIECE) -> Reply:
        row = self._there().find(job)
        if not row.package:
            raise queue.Refused("state", "job %s is %s: it has no package" % (row.id, row.state))
        with open(layout.package(self.folder, row.id), "rb") as file:
            file.seek(max(offset, 0))
            return Reply({"offset": offset}, file.read(min(size, _PIECE)))

    def _acknowledge(self, job: str, digest: str) -> Dict[str, Any]:
        there = self._there()
        found = there.acknowledge(there.find(job), digest, time.time())
        summary = self._summary(found)
        retention.forget_overdue(there, self.folder)
        return summary

    # -- changing ---------------------------------------------------------------

    def _cancel(self, job: str) -> Dict[str, Any]:
        row = self._there().cancel(self._there().find(job), time.time())
        self._wake_worker()
        return self._summary(row)

    def _forget(self, job: str, force: bool = False) -> Dict[str, Any]:
        row = self._there().find(job)
        summary = self._summary(row)
        retention.forget(self._there(), self.folder, row, force)
        return summary

    def _limits(self) -> Dict[str, int]:
        return {name: self._there().setting(name) for name in queue.SETTINGS}

    def _limit(self, name: str, value: int) -> Dict[str, int]:
        if name not in queue.SETTINGS:
            words = "no limit is called %r; there are %s" % (name, ", ".join(queue.SETTINGS))
            raise queue.Refused("bad", words)
        self._there().set_setting(name, value)
        return self._limits()


_WAITING = (queue.State.QUEUED, queue.State.RUNNING, queue.State.PACKAGING)


def _is_over(attempt: Any) -> bool:
    return attempt.ended is not None


def _attempt(row: Any) -> Dict[str, Any]:
    """What a person wants to know of an attempt."""
    shown = ("id", "number", "detail", "began", "ended")
    return {**{name: getattr(row, name) for name in shown}, "step": str(row.step)}


def _without_output(text: str) -> Any:
    """The row of an Execution whose words are wanted, not its output; None if it is long."""
    if len(text) > 8 * _LONG_ROW:
        return None
    try:
        found = execution_from_row(json.loads(text))._replace(out=Stream(), err=Stream())
    except ValueError:
        return None
    return found if len(json.dumps(found)) <= _LONG_ROW else None


def _sync(folder: str) -> None:
    """All that was written to the file system of ``folder`` is on its disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), folder)
    except AttributeError:
        os.sync()
    finally:
        os.close(descriptor)


def main(channel: Any) -> None:
    """Serve one client in the gateway's main thread."""
    leave_terminal()
    code = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folder = ""
    try:
        folder = queue.folder()
        Desk(channel, folder, code).serve()
    except queue.Refused as error:
        channel.send(pack([["trouble", error.words]]))
    except OSError as error:
        channel.send(pack([["trouble", disk.words(error, folder)]]))
    except Exception as error:
        report(channel, error)
