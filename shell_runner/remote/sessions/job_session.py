"""A job session: answers the requests that a client sends about the queue of this host.

Owns the requests, one at a time.  Must not know how jobs are run.
"""

import contextlib
import os
import select
import time
from typing import Any, Callable, Dict, List, Optional, Sequence

from ..files import disk_space
from ..files.blob_store import Store
from ..files.upload_receiver import Intake
from ..jobs import change_signal, database, paths, queue, retention
from ..protocol.frames import pack, pack_blob
from ..protocol.host_facts import facts
from ..protocol.job import BadJob, NewJob, without_secrets
from ..protocol.job_summary import summarize
from . import job_acceptance, job_validation, job_views
from .channel_session import Conversation, leave_terminal, report
from .job_log_reader import JobLogReader, Reply
from .worker_starter import WorkerStarter

#: What both ends understand; a client says which one it speaks.
PROTOCOL = 1
#: The state of a job that is not here.
GONE = "gone"
#: Seconds between polls while a request waits for a package.
_PACKAGE_POLL_INTERVAL = 0.2
#: Seconds between polls for job changes when no change signal arrives; workers with older code
#: send none.
_CHANGE_POLL_INTERVAL = 1.0
#: Minimum seconds between two replies to a client that waits for changes.
_MIN_REPLY_INTERVAL = 0.005
#: Maximum seconds a request may block before it is answered that nothing has happened.
_MAX_WAIT = 30.0
#: Jobs whose changes one request may wait for.
_MAX_WATCHED_JOBS = 10_000
#: Jobs of one list.
_MAX_LISTED_JOBS = 1000
#: Bytes of one piece of a log or a package.
_MAX_PIECE_BYTES = 1 << 20


class JobSession(Conversation):
    """One session; ``code`` is the folder of the code that runs here, named by its digest.

    Methods that answer a request raise :exc:`queue.Refused` if it is not possible.
    """

    def __init__(self, channel: Any, folder: str, code: str) -> None:
        super().__init__(channel)
        self.folder = folder
        self._worker = WorkerStarter(folder, code)
        self._queue: Optional[queue.Queue] = None
        self._logs: Optional[JobLogReader] = None
        self._intake: Optional[Intake] = None
        #: Signals that the queue has changed; None: the client has not waited for that yet.
        self._changes: Optional[change_signal.Bell] = None
        #: How often the client has put an end to its waiting.
        self._nudges = 0
        self._poller = select.poll()
        self._poller.register(self._wake_read, select.POLLIN)
        self._calls: Dict[str, Callable[..., Any]] = {
            "hello": self._hello,
            "submit": self._submit,
            "rerun": self._rerun,
            "jobs": self._list_jobs,
            "job": self._show_job,
            "log": self._read_log,
            "news": self._await_changes,
            "package": self._await_package,
            "fetch": self._read_package,
            "acknowledge": self._acknowledge,
            "cancel": self._cancel,
            "forget": self._forget,
            "limits": self._list_limits,
            "limit": self._set_limit,
        }

    # -- the loop ---------------------------------------------------------------

    def serve(self) -> None:
        """Answer until the client says to stop, or is gone."""
        self.listen()
        try:
            while self.running:
                self._wait(None)
                self.take_all()
        finally:
            self.end()
            if self._intake is not None:
                self._intake.store.end()
            if self._changes is not None:
                self._changes.close()
        if self.connected:
            self.say("bye")

    def _wait(self, seconds: Optional[float]) -> bool:
        """Wait for a message of the client; return whether there is one.

        A change of the queue ends the waiting, too.
        """
        if not self.inbox:
            self._poller.poll(None if seconds is None else seconds * 1000)
        self.hush()
        if self._changes is not None:
            self._changes.hush()
        return bool(self.inbox)

    def command(self, name: str, *arguments: Any) -> None:
        """Do what the client says; ValueError, which ends the session, for an unknown message."""
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
        """Answer one request; if it fails, say why, so that the next one can be answered."""
        try:
            if name not in self._calls:
                raise queue.Refused("bad", "this host does not know the request %r" % name)
            if database.untold(self.folder):
                raise queue.Refused("corrupt", "")
            answer = self._calls[name](**arguments)
        except queue.Refused as error:
            self._refuse(error)
        except job_validation.NoSuchTest as error:
            self.say("refused", "unknown", str(error))
        except (ArithmeticError, AttributeError, BadJob, KeyError, TypeError, ValueError) as error:
            self.say("refused", "bad", "%s: %s" % (name, error))
        except OSError as error:
            self.say("refused", "disk", disk_space.words(error, self.folder))
        else:
            if isinstance(answer, Reply):
                self.send(pack_blob(["answer", answer.value], answer.body))
            else:
                self.say("answer", answer)

    def _refuse(self, error: queue.Refused) -> None:
        """Refuse a request.  One client is told that a queue was set aside, the next ones not."""
        untold = database.untold(self.folder) if error.kind == "corrupt" else {}
        self.say("refused", error.kind, " ".join(untold.values()) or error.words)
        for path in untold:
            with contextlib.suppress(OSError):
                os.unlink(path)

    # -- what a session needs ---------------------------------------------------

    def _open_queue(self) -> "queue.Queue":
        if self._queue is None:
            self._queue = queue.Queue(self.folder)
        return self._queue

    def contents(self) -> Intake:
        """Return the receiver of this queue's contents, opened when the first of them come."""
        if self._intake is None:
            path = paths.contents(self.folder)
            os.makedirs(path, mode=0o700, exist_ok=True)
            self._intake = Intake(Store(path))
        return self._intake

    # -- submitting -------------------------------------------------------------

    def _hello(self, protocol: int) -> Dict[str, Any]:
        if protocol != PROTOCOL:
            message = "this host speaks version %d of the job protocol, not %r"
            raise queue.Refused("newer", message % (PROTOCOL, protocol))
        return {"protocol": PROTOCOL, "host": facts()._asdict()}

    def _submit(self, job: Dict[str, Any]) -> Dict[str, Any]:
        return self._accept(job_validation.new_job(job))

    def _accept(self, job: NewJob) -> Dict[str, Any]:
        store, there = self.contents().store, self._open_queue()
        row = job_acceptance.accept(job, self.folder, there, store, self._worker)
        self._worker.wake(there)
        return self._summary(row)

    def _rerun(
        self, job: str, id: str, tests: Sequence[str] = (), failed: bool = False, secret: str = ""
    ) -> Dict[str, Any]:
        there = self._open_queue()
        row = there.find(job)
        numbers = {number for number, _, _ in _failed_tests(there, row)} if failed else None
        cases = there.tests(row.number)
        return self._accept(job_acceptance.select_again(row, cases, id, tests, numbers, secret))

    # -- showing ----------------------------------------------------------------

    def _list_jobs(
        self, states: Sequence[str] = (), label: str = "", limit: int = 100, before: int = 0
    ) -> Dict[str, Any]:
        self._worker.ensure_runs(self._open_queue())
        rows = self._open_queue().jobs(
            [queue.State(state) for state in states], label, min(limit, _MAX_LISTED_JOBS), before
        )
        return {
            "jobs": [self._summary(row) for row in rows],
            "counts": {str(state): n for state, n in self._open_queue().counts().items()},
            "no_worker": self._worker.error,
        }

    def _summary(self, row: Any) -> Dict[str, Any]:
        there = self._open_queue()
        attempts, outcomes = there.attempts(row.number), there.results(row)
        return summarize(row, _error(row, self.folder), attempts, outcomes)._asdict()

    def _show_job(self, job: str) -> Dict[str, Any]:
        self._worker.ensure_runs(self._open_queue())
        there = self._open_queue()
        row = there.find(job)
        attempts, failed = there.attempts(row.number), _failed_tests(there, row)
        cases = there.tests(row.number) if failed else []
        return {
            **self._summary(row),
            "ahead": there.ahead(row),
            "tried": [job_views.attempt(attempt) for attempt in attempts],
            "failed": job_views.failures(failed, cases),
            "untold": job_views.notification(there.untold(row), time.time()),
            "config": without_secrets(row.config)._asdict(),
            "build": row.build,
            "contents": row.tests,
            "no_worker": self._worker.error,
            "workspace": _workspace(attempts, self.folder),
        }

    # -- changes ----------------------------------------------------------------

    def _await_changes(
        self, seen: Dict[str, str], seconds: float, nudged: int = 0, no_worker: Optional[str] = None
    ) -> Dict[str, Any]:
        """Return the jobs whose state is not the one that was ``seen`` ("gone": there is none).

        Wait for one such, or for another reason than ``no_worker`` why no worker runs them, until
        the client has nudged more than ``nudged`` times.
        """
        if len(seen) > _MAX_WATCHED_JOBS:
            raise queue.Refused("bad", "news of %d jobs at most" % _MAX_WATCHED_JOBS)
        deadline = time.monotonic() + min(seconds, _MAX_WAIT)
        self._listen_to_changes()
        self._worker.ensure_runs(self._open_queue())
        while True:
            changes = _find_changes(self._open_queue(), seen)
            left = deadline - time.monotonic()
            is_other = no_worker not in (None, self._worker.error)
            if changes or is_other or left <= 0 or self._nudges > nudged or self.inbox:
                return self._change_reply(changes)
            # If no job is at work here, every change is signaled.
            has_waiting = any(state in job_views.WAITING for state in seen.values())
            wait_started = time.monotonic()
            if self._wait(min(left, _CHANGE_POLL_INTERVAL) if has_waiting else left):
                return self._change_reply({})
            _limit_reply_rate(wait_started)
            if has_waiting and time.monotonic() - wait_started >= _CHANGE_POLL_INTERVAL:
                self._worker.ensure_runs(self._open_queue())

    def _listen_to_changes(self) -> None:
        if self._changes is None:
            self._changes = change_signal.Bell(self.folder)
            self._poller.register(self._changes.fileno(), select.POLLIN)

    def _change_reply(self, changes: Dict[str, str]) -> Dict[str, Any]:
        jobs, gone = [], [job for job, state in changes.items() if state == GONE]
        for job in changes.keys() - set(gone):
            try:
                jobs.append(self._summary(self._open_queue().find(job)))
            except queue.Refused:
                gone.append(job)  # forgotten meanwhile
        return {"jobs": jobs, "gone": gone, "no_worker": self._worker.error}

    # -- logs and packages ------------------------------------------------------

    def _read_log(
        self,
        job: str,
        attempt: int = 0,
        offset: int = 0,
        seconds: float = 0.0,
        seen: Optional[List[Any]] = None,
        size: int = _MAX_PIECE_BYTES,
    ) -> Reply:
        if self._logs is None:
            self._logs = JobLogReader(self.folder, self._open_queue(), self._wait)
        self._worker.ensure_runs(self._open_queue())
        return self._logs.read(job, attempt, offset, size, min(seconds, _MAX_WAIT), seen)

    def _await_package(self, job: str, seconds: float = 0.0) -> Dict[str, Any]:
        """Return size and digest of a job's package; wait for it for up to ``seconds``."""
        deadline = time.monotonic() + min(seconds, _MAX_WAIT)
        self._worker.ensure_runs(self._open_queue())
        while True:
            row = self._open_queue().find(job)
            is_over = row.package or time.monotonic() >= deadline
            if is_over or self._wait(_PACKAGE_POLL_INTERVAL):
                return {**self._summary(row), "digest": row.package, "size": row.size}

    def _read_package(self, job: str, offset: int, size: int = _MAX_PIECE_BYTES) -> Reply:
        row = self._open_queue().find(job)
        if not row.package:
            raise queue.Refused("state", "job %s is %s: it has no package" % (row.id, row.state))
        with open(paths.package(self.folder, row.id), "rb") as file:
            file.seek(max(offset, 0))
            return Reply({"offset": offset}, file.read(min(size, _MAX_PIECE_BYTES)))

    def _acknowledge(self, job: str, digest: str) -> Dict[str, Any]:
        there = self._open_queue()
        row = there.acknowledge(there.find(job), digest, time.time())
        summary = self._summary(row)
        retention.forget_overdue(there, self.folder)
        return summary

    # -- changing ---------------------------------------------------------------

    def _cancel(self, job: str) -> Dict[str, Any]:
        there = self._open_queue()
        row = there.cancel(there.find(job), time.time())
        self._worker.wake(there)
        return self._summary(row)

    def _forget(self, job: str, force: bool = False) -> Dict[str, Any]:
        row = self._open_queue().find(job)
        summary = self._summary(row)
        retention.forget(self._open_queue(), self.folder, row, force)
        return summary

    def _list_limits(self) -> Dict[str, int]:
        return {name: self._open_queue().setting(name) for name in queue.SETTINGS}

    def _set_limit(self, name: str, value: int) -> Dict[str, int]:
        if name not in queue.SETTINGS:
            message = "no limit is called %r; there are %s" % (name, ", ".join(queue.SETTINGS))
            raise queue.Refused("bad", message)
        self._open_queue().set_setting(name, value)
        return self._list_limits()


def _limit_reply_rate(wait_started: float) -> None:
    """Sleep so that two replies are at least ``_MIN_REPLY_INTERVAL`` seconds apart."""
    waited = time.monotonic() - wait_started
    if waited < _MIN_REPLY_INTERVAL:
        time.sleep(_MIN_REPLY_INTERVAL - waited)


def _failed_tests(there: queue.Queue, row: Any) -> List[job_views.FailedTest]:
    last = there.attempts(row.number)[-1:]
    return job_views.failed_tests(row, there.executions(last[0].id) if last else ())


def _find_changes(there: queue.Queue, seen: Dict[str, str]) -> Dict[str, str]:
    """Return the state now of the jobs that have another one than was ``seen``."""
    states = there.states(seen)
    now = {job: GONE if state is None else str(state) for job, state in states.items()}
    return {job: state for job, state in now.items() if state != seen[job]}


def _error(row: Any, folder: str) -> str:
    """Return why a job does not get on; on a full disk no row can say so."""
    if row.trouble or row.state not in job_views.WAITING:
        return str(row.trouble)
    if row.unreadable:
        return "its row cannot be read: %s" % row.unreadable
    return disk_space.shortage(folder)


def _workspace(attempts: Sequence[Any], folder: str) -> str:
    """Return where the workspace of the last attempt is; empty if it is not kept."""
    for attempt in attempts[-1:]:
        if os.path.exists(paths.kept(folder, attempt.id)):
            return paths.work(folder, attempt.id)
    return ""


def main(channel: Any) -> None:
    """Serve one client in the gateway's main thread."""
    leave_terminal()
    code = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    folder = ""
    try:
        folder = queue.folder()
        JobSession(channel, folder, code).serve()
    except queue.Refused as error:
        channel.send(pack([["trouble", error.words]]))
    except OSError as error:
        channel.send(pack([["trouble", disk_space.words(error, folder)]]))
    except Exception as error:
        report(channel, error)
