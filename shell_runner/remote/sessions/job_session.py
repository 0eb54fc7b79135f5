"""A job session: answers the requests that a client sends about the queue of this host.

Owns the requests, one at a time.  Must not know how jobs are run.
"""

import contextlib
import os
import select
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence

from ..files import filesystem_errors
from ..files.blob_store import BlobStore
from ..files.upload_receiver import UploadReceiver
from ..jobs import change_signal, database, file_cleanup, paths, queue, queue_location
from ..jobs.rows import JobRow
from ..protocol.frames import encode_json, pack_blob, pack_messages
from ..protocol.host_facts import collect_host_facts
from ..protocol.job import BadJob, NewJob
from . import job_acceptance, job_details, job_serialization, job_validation
from .channel_session import ChannelSession, detach_from_terminal, send_error
from .job_log_reader import JobLogReader, Reply
from .worker_starter import WorkerStarter

#: Version of the job protocol; a client sends the one that it speaks.
PROTOCOL_VERSION = 1
#: State that is reported for a job that this host does not have.
GONE_STATE = "gone"
#: Seconds between polls while a request waits for a package.
_PACKAGE_POLL_INTERVAL = 0.2
#: Seconds between polls for job changes when no change signal arrives; workers with older code
#: send none.
_CHANGE_POLL_INTERVAL = 1.0
#: Minimum seconds between two replies to a client that waits for changes.
_MIN_REPLY_INTERVAL = 0.005
#: Maximum seconds that a request may wait before it is answered without any change.
_MAX_WAIT = 30.0
#: Maximum jobs whose changes one request may wait for.
_MAX_WATCHED_JOBS = 10_000
#: Maximum jobs in one list.
_MAX_LISTED_JOBS = 1000
#: Bytes of summaries after which a list ends; the client requests the rest.
_MAX_LIST_BYTES = 8 << 20
#: Maximum characters of the reason of a refusal, which can repeat parts of the request.
_MAX_REASON_CHARS = 4000
#: Maximum bytes of one piece of a log or a package.
_MAX_PIECE_BYTES = 1 << 20


class JobSession(ChannelSession):
    """A session of one client with the queue in ``folder``.

    ``code``: the folder of the code that runs it, named by its digest.  Methods that answer a
    request raise :exc:`queue.RequestRefused` if it is impossible.
    """

    def __init__(self, channel: Any, folder: str, code: str) -> None:
        super().__init__(channel)
        self.folder = folder
        self._worker = WorkerStarter(folder, code)
        self._queue: Optional[queue.Queue] = None
        self._logs: Optional[JobLogReader] = None
        self._receiver: Optional[UploadReceiver] = None
        #: Receives change signals of the queue; None until the client first waits for changes.
        self._changes: Optional[change_signal.ChangeListener] = None
        #: Number of the client's last wake message; each ends a wait for changes.
        self._wakes = 0
        self._poller = select.poll()
        self._poller.register(self._wake_read, select.POLLIN)
        self._handlers: Dict[str, Callable[..., Any]] = {
            "hello": self._hello,
            "submit": self._submit,
            "rerun": self._rerun,
            "jobs": self._list_jobs,
            "job": self._show_job,
            "log": self._read_log,
            "changes": self._await_changes,
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
        """Answer requests until the client stops the session or disconnects."""
        self.start_receiving()
        try:
            while self.running:
                self._wait(None)
                self.handle_inbox()
        finally:
            self.stop_receiving()
            if self._receiver is not None:
                self._receiver.store.release()
            if self._changes is not None:
                self._changes.close()
        if self.connected:
            self.send_message("bye")

    def _wait(self, seconds: Optional[float]) -> bool:
        """Wait for a message of the client; return whether there is one.

        Also returns when the queue has changed.  ``seconds`` None: no limit.
        """
        if not self.inbox:
            self._poller.poll(None if seconds is None else seconds * 1000)
        self.drain_wakeups()
        if self._changes is not None:
            self._changes.drain()
        return bool(self.inbox)

    def handle_message(self, name: str, *arguments: Any) -> None:
        """Handle a message; raise ValueError, which ends the session, if it is unknown."""
        if name == "stop":
            self.running = False
        elif name == "wake":
            self._wakes = max(self._wakes, int(arguments[0]))
        elif name == "tree":
            self.send_message("missing", *self.open_receiver().find_missing(*arguments))
        elif name == "call":
            self._answer(*arguments)
        else:
            raise ValueError("unknown message of a job session: %r" % name)

    def _answer(self, name: str, arguments: Dict[str, Any]) -> None:
        """Answer one request; if it fails, answer why, so that the session can continue."""
        try:
            if name not in self._handlers:
                raise queue.RequestRefused("bad", "unknown request %r" % name)
            if database.read_notices(self.folder):
                raise queue.RequestRefused("corrupt", "")
            answer = self._handlers[name](**arguments)
        except queue.RequestRefused as error:
            self._refuse(error)
        except job_validation.NoSuchTest as error:
            self._send_refusal("unknown", str(error))
        except (ArithmeticError, AttributeError, BadJob, KeyError, TypeError, ValueError) as error:
            self._send_refusal("bad", "%s: %s" % (name, error))
        except OSError as error:
            self._send_refusal("disk", filesystem_errors.describe_error(error, self.folder))
        else:
            if isinstance(answer, Reply):
                self.send_frame(pack_blob(["answer", answer.value], answer.body))
            else:
                self.send_message("answer", answer)

    def _refuse(self, error: queue.RequestRefused) -> None:
        """Refuse a request.  The notices of a queue that was set aside go to one client only."""
        notices = database.read_notices(self.folder) if error.kind == "corrupt" else {}
        self._send_refusal(error.kind, " ".join(notices.values()) or error.message)
        for path in notices:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _send_refusal(self, kind: str, reason: str) -> None:
        self.send_message("refused", kind, reason[:_MAX_REASON_CHARS])

    # -- opened on first use ----------------------------------------------------

    def _open_queue(self) -> "queue.Queue":
        if self._queue is None:
            self._queue = queue.Queue(self.folder)
        return self._queue

    def open_receiver(self) -> UploadReceiver:
        """Return the receiver of uploaded contents, opened on first use."""
        if self._receiver is None:
            path = paths.contents_path(self.folder)
            os.makedirs(path, mode=0o700, exist_ok=True)
            self._receiver = UploadReceiver(BlobStore(path))
        return self._receiver

    # -- submitting -------------------------------------------------------------

    def _hello(self, protocol: int) -> Dict[str, Any]:
        if protocol != PROTOCOL_VERSION:
            message = "this host speaks version %d of the job protocol, not %r"
            raise queue.RequestRefused("newer", message % (PROTOCOL_VERSION, protocol))
        return {"protocol": PROTOCOL_VERSION, "host": collect_host_facts()._asdict()}

    def _submit(self, job: Dict[str, Any]) -> Dict[str, Any]:
        return self._accept(job_validation.parse_new_job(job))

    def _accept(self, job: NewJob) -> Dict[str, Any]:
        store, jobs_queue = self.open_receiver().store, self._open_queue()
        row = job_acceptance.accept(job, self.folder, jobs_queue, store, self._worker)
        self._worker.wake(jobs_queue)
        return self._make_summary(row)

    def _rerun(
        self, job: str, id: str, tests: Sequence[str] = (), failed: bool = False, secret: str = ""
    ) -> Dict[str, Any]:
        jobs_queue = self._open_queue()
        row = jobs_queue.find(job)
        numbers = (
            {number for number, _, _ in job_details.find_failed_tests(jobs_queue, row)}
            if failed
            else None
        )
        cases = jobs_queue.get_tests(row.number)
        return self._accept(job_acceptance.select_again(row, cases, id, tests, numbers, secret))

    # -- showing ----------------------------------------------------------------

    def _list_jobs(
        self, states: Sequence[str] = (), label: str = "", limit: int = 100, before: int = 0
    ) -> Dict[str, Any]:
        self._worker.ensure_runs(self._open_queue())
        rows = self._open_queue().list_jobs(
            [queue.State(state) for state in states], label, min(limit, _MAX_LISTED_JOBS), before
        )
        jobs = list(self._make_summaries(rows))
        return {
            "jobs": jobs,
            "has_more": len(jobs) < len(rows),
            "counts": {str(state): n for state, n in self._open_queue().count_jobs().items()},
            "worker_error": self._worker.error,
        }

    def _make_summaries(self, rows: Iterable[JobRow]) -> Iterator[Dict[str, Any]]:
        """Yield the summaries of the first of ``rows``, of at least one."""
        size = 0
        for row in rows:
            if size > _MAX_LIST_BYTES:
                return
            summary = self._make_summary(row)
            size += len(encode_json(summary))
            yield summary

    def _make_summary(self, row: JobRow) -> Dict[str, Any]:
        return job_details.summarize_job(self._open_queue(), row, self.folder)

    def _show_job(self, job: str) -> Dict[str, Any]:
        self._worker.ensure_runs(self._open_queue())
        row = self._open_queue().find(job)
        details = job_details.describe_job(self._open_queue(), row, self.folder, time.time())
        return {**details, "worker_error": self._worker.error}

    def _await_changes(
        self,
        seen: Dict[str, str],
        seconds: float,
        wakes: int = 0,
        worker_error: Optional[str] = None,
    ) -> Dict[str, Any]:
        """Return the jobs whose state differs from the ``seen`` one ("gone": no such job).

        Waits for up to ``seconds`` until there is one, until the reason why no worker runs differs
        from ``worker_error``, or until the client's last wake message has a number above ``wakes``.
        """
        if len(seen) > _MAX_WATCHED_JOBS:
            raise queue.RequestRefused(
                "bad", "at most %d jobs can be watched at once" % _MAX_WATCHED_JOBS
            )
        deadline = time.monotonic() + min(seconds, _MAX_WAIT)
        self._listen_to_changes()
        self._worker.ensure_runs(self._open_queue())
        while True:
            changes = _find_changes(self._open_queue(), seen)
            seconds_left = deadline - time.monotonic()
            is_other = worker_error not in (None, self._find_worker_error())
            if changes or is_other or seconds_left <= 0 or self._wakes > wakes or self.inbox:
                return self._make_change_reply(changes)
            # Without unfinished jobs, every change is signaled.
            has_waiting = any(
                state in job_serialization.UNFINISHED_STATES for state in seen.values()
            )
            wait_started = time.monotonic()
            if self._wait(
                min(seconds_left, _CHANGE_POLL_INTERVAL) if has_waiting else seconds_left
            ):
                return self._make_change_reply({})
            _limit_reply_rate(wait_started)
            if has_waiting and time.monotonic() - wait_started >= _CHANGE_POLL_INTERVAL:
                self._worker.ensure_runs(self._open_queue())

    def _listen_to_changes(self) -> None:
        if self._changes is None:
            self._changes = change_signal.ChangeListener(self.folder)
            self._poller.register(self._changes.fileno(), select.POLLIN)

    def _make_change_reply(self, changes: Dict[str, str]) -> Dict[str, Any]:
        """Return the first changes; the client gets the others by its next request."""
        gone = [job for job, state in changes.items() if state == GONE_STATE]

        def find_rows() -> Iterator[JobRow]:
            for job in [each for each in changes if changes[each] != GONE_STATE]:
                try:
                    yield self._open_queue().find(job)
                except queue.RequestRefused:
                    gone.append(job)  # it was deleted meanwhile

        jobs = list(self._make_summaries(find_rows()))
        return {"jobs": jobs, "gone": gone, "worker_error": self._find_worker_error()}

    def _find_worker_error(self) -> str:
        """Return why no worker runs jobs here; empty if one does."""
        return self._worker.error or job_details.describe_disk_shortage(self.folder)

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
        """Return the summary of a job; wait for its package for up to ``seconds``."""
        deadline = time.monotonic() + min(seconds, _MAX_WAIT)
        self._worker.ensure_runs(self._open_queue())
        while True:
            row = self._open_queue().find(job)
            is_over = row.package_digest or time.monotonic() >= deadline
            if is_over or self._wait(_PACKAGE_POLL_INTERVAL):
                return self._make_summary(row)

    def _read_package(self, job: str, offset: int, size: int = _MAX_PIECE_BYTES) -> Reply:
        row = self._open_queue().find(job)
        if not row.package_digest:
            raise queue.RequestRefused(
                "state", "job %s is %s: it has no package" % (row.id, row.state)
            )
        with open(paths.package_path(self.folder, row.id), "rb") as file:
            file.seek(max(offset, 0))
            return Reply({"offset": offset}, file.read(min(size, _MAX_PIECE_BYTES)))

    def _acknowledge(self, job: str, digest: str) -> Dict[str, Any]:
        jobs_queue = self._open_queue()
        row = jobs_queue.acknowledge(jobs_queue.find(job), digest, time.time())
        summary = self._make_summary(row)
        file_cleanup.forget_overdue_jobs(jobs_queue, self.folder)
        return summary

    # -- changing ---------------------------------------------------------------

    def _cancel(self, job: str) -> Dict[str, Any]:
        jobs_queue = self._open_queue()
        row = jobs_queue.cancel(jobs_queue.find(job), time.time())
        self._worker.wake(jobs_queue)
        return self._make_summary(row)

    def _forget(self, job: str, force: bool = False) -> Dict[str, Any]:
        row = self._open_queue().find(job)
        summary = self._make_summary(row)
        file_cleanup.forget_job(self._open_queue(), self.folder, row, force)
        return summary

    def _list_limits(self) -> Dict[str, int]:
        return {name: self._open_queue().get_setting(name) for name in queue.SETTINGS}

    def _set_limit(self, name: str, value: int) -> Dict[str, int]:
        if name not in queue.SETTINGS:
            message = "unknown limit %r; use one of: %s" % (name, ", ".join(queue.SETTINGS))
            raise queue.RequestRefused("bad", message)
        self._open_queue().set_setting(name, value)
        return self._list_limits()


def _limit_reply_rate(wait_started: float) -> None:
    """Sleep so that two replies are at least ``_MIN_REPLY_INTERVAL`` seconds apart."""
    waited = time.monotonic() - wait_started
    if waited < _MIN_REPLY_INTERVAL:
        time.sleep(_MIN_REPLY_INTERVAL - waited)


def _find_changes(jobs_queue: queue.Queue, seen: Dict[str, str]) -> Dict[str, str]:
    """Return the current state of each job whose state differs from the ``seen`` one."""
    states = jobs_queue.get_states(seen)
    now = {job: GONE_STATE if state is None else str(state) for job, state in states.items()}
    return {job: state for job, state in now.items() if state != seen[job]}


def main(channel: Any) -> None:
    """Serve one client; runs in the gateway's main thread."""
    detach_from_terminal()
    code = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    folder = ""
    try:
        folder = queue_location.find_queue_folder()
        JobSession(channel, folder, code).serve()
    except queue.RequestRefused as error:
        channel.send(pack_messages([["error", error.message]]))
    except OSError as error:
        channel.send(pack_messages([["error", filesystem_errors.describe_error(error, folder)]]))
    except Exception as error:
        send_error(channel, error)
