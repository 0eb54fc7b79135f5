"""The process that drains a host's queue: detached, the only one, and gone when the queue is empty.

Responsible for the order of work: which job is next, which process runs it, and what happens when
that process dies.  Must not know tests.  The worker itself does nothing that can take long or
fail: each job and each POST has a process of its own (``worker_tasks``), and everything that
must not be lost is a row of the queue.
"""

import errno
import os
import select
import signal
import sys
import tempfile
import time
import traceback
import uuid
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple

from ..files import filesystem_errors, session_dirs
from ..processes import descendant_reaper, fifo, orphans, process_identity, process_tree
from ..protocol.job import Identity
from ..protocol.verdict import format_exit_status
from . import file_cleanup, paths, webhook, worker_launcher, worker_lock, worker_tasks
from .queue import (
    AttemptPhase,
    AttemptRow,
    EndReason,
    JobRow,
    OutboxRow,
    Queue,
    RequestRefused,
    State,
)
from .worker_tasks import describe_status, find_state, log

#: Seconds between two polls of the queue if no signal arrives.
_FALLBACK_POLL_INTERVAL = 30.0
_NEVER = float("inf")
#: Seconds until a package that could not be built is tried again.
_PACKAGE_RETRY_DELAY = 30.0
#: Seconds between two checks of all contents of the host, which may be many.
_CONTENTS_EVICTION_INTERVAL = 60.0
#: Maximum number of concurrent POSTs.
_MAX_WEBHOOKS = 4
#: Seconds that a job's process may take to end after its time limit or a cancel, in addition to
#: the grace period of its tests.
_RUNNER_END_TIMEOUT = 60.0
#: Seconds between two attempts to write to a full disk.
_FULL_DISK_RETRY_DELAY = 1.0
#: Errors that pass: the disk is full, or another process holds the queue.
_TEMPORARY_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EBUSY)


class _JobProcess(NamedTuple):
    """The child process that runs or packages a job."""

    pid: int
    job: JobRow
    #: None: it only builds the package.
    attempt: Optional[AttemptRow]


class Worker:
    """The only worker of a queue; holds its lock."""

    def __init__(self, folder: str, code: str, lock: int) -> None:
        """``code`` is the digest of the running code, ``lock`` the descriptor of the lock."""
        self._folder = folder
        self._code = code
        self._lock = lock
        self._identity: Identity = process_identity.identify_self()
        for path in (
            paths.workspace_path(folder),
            paths.logs_path(folder),
            paths.packages_path(folder),
        ):
            os.makedirs(path, mode=0o700, exist_ok=True)
        self._queue = Queue(folder)
        self._job_process: Optional[_JobProcess] = None
        #: An ended process that the queue does not know of yet, and how it ended.
        self._ended_process: Optional[Tuple[_JobProcess, str]] = None
        #: When an overdue job process is killed (monotonic), and whether it was.
        self._deadline, self._was_killed = _NEVER, False
        #: The notifications that are being delivered, by process id.
        self._webhooks: Dict[int, OutboxRow] = {}
        #: When to build packages again that could not be built (monotonic), by number of the job.
        self._postponed: Dict[int, float] = {}
        #: Number of times that the package of a job could not be built, by number of the job.
        self._package_failures: Dict[int, int] = {}
        #: When all contents are checked next (monotonic).
        self._next_eviction = 0.0
        #: Whether the disk was full when a job was to be started.
        self._is_disk_full = False
        #: When the last job process ended (monotonic); 0: there was none yet.
        self._idle_since = 0.0
        #: Until when an idle worker waits for more jobs (monotonic).
        self._linger_until = 0.0
        self._fifo = fifo.open_fifo(os.path.join(folder, worker_launcher.WORKER_FIFO))
        self._wake_read, self._wake_write = os.pipe()
        self._poller = select.poll()
        for descriptor in (self._fifo, self._wake_read):
            self._poller.register(descriptor, select.POLLIN)
        _install_child_signal(self._wake_read, self._wake_write)

    def run(self) -> None:
        """Work until the queue and the outbox are empty."""
        self._queue.register_worker(self._identity, self._code, time.time())
        self._recover()
        while self._run_turn():
            pass
        self._queue.close()

    def _run_turn(self) -> bool:
        """Do one turn, and wait if the disk is full: exiting would end the running job."""
        try:
            return self._do_turn()
        except OSError as error:
            if error.errno not in _TEMPORARY_ERRORS:
                raise
            log("waits: %s" % error)
            time.sleep(_FULL_DISK_RETRY_DELAY)
            return True

    def _do_turn(self) -> bool:
        """Do everything that can be done now; return False when nothing is left to do."""
        self._reap()
        self._record_end()
        self._queue.checkpoint()
        self._start_webhooks()
        self._kill_overdue_process()
        if self._job_process is None:
            if self._start_next():
                return True
            if self._may_leave() and self._queue.deregister_if_idle(self._identity):
                return False
        self._wait()
        return True

    def _may_leave(self) -> bool:
        """Return whether it need not linger: the next job of a burst shall find a worker."""
        linger = self._queue.get_setting("linger") if self._idle_since else 0
        self._linger_until = self._idle_since + linger
        return not self._webhooks and time.monotonic() >= self._linger_until

    # -- recovery from dead workers -------------------------------------------------

    def _recover(self) -> None:
        worker_lock.wait_for_runner(self._folder)
        for attempt in self._queue.list_stale_attempts(self._identity):
            workspace = paths.workspace_path(self._folder, attempt.id)
            survivors = orphans.kill_orphans(attempt.id, workspace)
            if survivors:
                log("attempt %s: cannot kill %s" % (attempt.id, survivors))
            if attempt.phase != AttemptPhase.PACKAGING:
                self._lose(attempt, "its worker died")
        file_cleanup.remove_unused_workspaces(self._queue, self._folder)
        file_cleanup.remove_unused_code(self._queue, self._folder, self._code)
        session_dirs.remove_dead_sessions()

    def _lose(self, attempt: AttemptRow, reason: str) -> None:
        log("attempt %s is lost: %s" % (attempt.id, reason))
        self._queue.lose(attempt.id, reason, time.time())

    # -- jobs -----------------------------------------------------------------------

    def _start_next(self) -> bool:
        """Start or refuse the next job, or build a package; return False if nothing is to do."""
        now = time.monotonic()
        for job in self._queue.list_packaging():
            if self._postponed.get(job.number, 0.0) <= now:
                self._start(job, None)
                return True
        code = self._queue.get_next_code()
        if not code or self._check_disk_full():
            return False
        if code != self._code and not self._get_code_error(code):
            self._replace_code(code)
        return self._claim(code)

    def _check_disk_full(self) -> bool:
        """Return whether a disk is full: all waiting jobs would fail, one by one."""
        shortage = filesystem_errors.describe_shortage(self._folder, tempfile.gettempdir())
        if shortage and not self._is_disk_full:
            log("waits: %s" % shortage)
        self._is_disk_full = bool(shortage)
        return self._is_disk_full

    def _claim(self, code: str) -> bool:
        """Claim the next job and start it; one that cannot run ends as refused, with the reason."""
        claimed = self._queue.claim(self._identity, code, str(uuid.uuid4()), time.time())
        if claimed is None:
            return False
        job, attempt = claimed
        reason = job.unreadable and "its row cannot be read: %s" % job.unreadable
        if code != self._code:
            reason = "the code that runs it is not on this host: %s" % self._get_code_error(code)
        if reason:
            self._queue.finish(attempt.id, EndReason.REFUSED, reason, time.time())
        else:
            self._start(job, attempt)
        return True

    def _get_code_error(self, code: str) -> str:
        """Return why the code of this digest cannot run; empty if it can."""
        try:
            worker_launcher.build_command("worker", self._folder, code)
        except worker_launcher.WorkerStartError as error:
            return str(error.strerror)
        return ""

    def _replace_code(self, code: str) -> None:
        """Continue as a worker with other code, in this process and with its lock."""
        self._queue.close()
        lock = worker_lock.make_lock_argument(self._lock)
        command = worker_launcher.build_command("worker", self._folder, code, lock)
        signal.set_wakeup_fd(-1)
        os.execv(command[0], command)

    def _start(self, job: JobRow, attempt: Optional[AttemptRow]) -> None:
        folder, now = self._folder, time.monotonic()
        evicts_contents = now >= self._next_eviction
        if evicts_contents:
            self._next_eviction = now + _CONTENTS_EVICTION_INTERVAL
        pid = self._fork(lambda: worker_tasks.run_job(folder, job, attempt, evicts_contents))
        self._job_process = _JobProcess(pid, job, attempt)
        self._deadline, self._was_killed = _NEVER, False
        if attempt is not None and job.config.timeout:
            self._set_deadline(job, job.config.timeout)

    def _set_deadline(self, job: JobRow, seconds: float) -> None:
        """Kill the job's process if it has not ended by itself some time after ``seconds``."""
        deadline = time.monotonic() + seconds + job.config.grace + _RUNNER_END_TIMEOUT
        self._deadline = min(self._deadline, deadline)

    def _kill_overdue_process(self) -> None:
        """Kill a job process that neither its time limit nor a cancel has ended."""
        if self._job_process is None or time.monotonic() < self._deadline:
            return
        self._deadline = _NEVER
        if find_state(self._queue, self._job_process.job) == State.RUNNING:
            self._was_killed = True
            os.kill(self._job_process.pid, signal.SIGKILL)

    def _on_job_process_ended(self, process: _JobProcess, status: int) -> None:
        """Remember how the job's process ended, and kill all that it left."""
        self._job_process, self._ended_process = None, (process, describe_status(status))
        self._idle_since = time.monotonic()
        descendant_reaper.kill_all(
            process_tree.DescendantLister(os.getpid(), unrelated_pids=self._webhooks)
        )

    def _record_end(self) -> None:
        """Record what the ended job process did not record itself."""
        if self._ended_process is None:
            return
        (_, job, attempt), ending = self._ended_process
        state = find_state(self._queue, job)
        if state == State.RUNNING and attempt is not None:
            if self._was_killed and not self._queue.is_cancel_requested(job.number):
                detail = "its runner did not end by itself"
                self._queue.finish(attempt.id, EndReason.TIMED_OUT, detail, time.time())
            else:
                self._lose(attempt, "its runner %s" % ending)
        elif state == State.PACKAGING:
            self._postpone_package(job, ending)
        self._ended_process = None

    def _postpone_package(self, job: JobRow, ending: str) -> None:
        """Retry a package at once after the first death of its process, otherwise later.

        The death may have come from outside.  A full disk needs time.
        """
        log("job %s: its package is not made: %s" % (job.id, ending))
        failures = self._package_failures.get(job.number, 0) + 1
        self._package_failures[job.number] = failures
        if failures > 1 or ending == format_exit_status(worker_tasks.RETRY_STATUS):
            self._postponed[job.number] = time.monotonic() + _PACKAGE_RETRY_DELAY

    # -- notifications --------------------------------------------------------------

    def _start_webhooks(self) -> None:
        for row in self._queue.list_due_notifications(time.time(), webhook.MAX_RETRY_DELAY):
            if len(self._webhooks) >= _MAX_WEBHOOKS:
                return
            if row.number not in {each.number for each in self._webhooks.values()}:
                self._webhooks[self._fork_webhook(row)] = row

    def _fork_webhook(self, row: OutboxRow) -> int:
        folder = self._folder
        return self._fork(lambda: worker_tasks.deliver_notification(folder, row))

    def _on_webhook_ended(self, row: OutboxRow, status: int) -> None:
        if status != 0:  # otherwise the process has recorded the result itself
            error = "the webhook process %s" % describe_status(status)
            worker_tasks.record_delivery_failure(self._queue, row, error)

    # -- processes and signals ------------------------------------------------------

    def _fork(self, work: Callable[[], int]) -> int:
        """Run ``work`` in a child that dies with this process; return its process id."""
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            descriptors = (self._lock, self._fifo, self._wake_read, self._wake_write)
            worker_tasks.run_child(parent, descriptors, work)
        return pid

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._job_process is not None and pid == self._job_process.pid:
                self._on_job_process_ended(self._job_process, status)
            elif pid in self._webhooks:
                self._on_webhook_ended(self._webhooks.pop(pid), status)

    def _wait(self) -> None:
        """Wait for the end of a child, a signal through the FIFO, or the next due time."""
        events = self._poller.poll(self._compute_poll_timeout() * 1000)
        ready = {descriptor for descriptor, _ in events}
        if self._wake_read in ready:
            _drain_pipe(self._wake_read)
        if self._fifo in ready:
            fifo.drain(self._fifo)
            self._postponed.clear()
            self._forward_cancel()

    def _forward_cancel(self) -> None:
        """Signal a cancel to the job's process, which is not reaped: its id is still its own."""
        process = self._job_process
        if process is not None and self._queue.is_cancel_requested(process.job.number):
            self._set_deadline(process.job, 0.0)
            # A test may have stopped the process, which could not handle the signal.
            for number in (signal.SIGCONT, signal.SIGUSR1):
                os.kill(process.pid, number)

    def _compute_poll_timeout(self) -> float:
        now = time.monotonic()
        interval = _FULL_DISK_RETRY_DELAY if self._is_disk_full else _FALLBACK_POLL_INTERVAL
        timeouts = [interval, self._deadline - now]
        if self._job_process is None:  # otherwise its end wakes the worker
            timeouts += [retry_at - now for retry_at in self._postponed.values()]
            linger = self._linger_until - now
            timeouts += [linger] if linger > 0 else []
        due_at = self._queue.get_next_due()
        if due_at is not None:
            # Notifications that are being delivered are due, too: the end of a process wakes.
            timeouts.append(max(due_at - time.time(), 1.0 if self._webhooks else 0.0))
        return max(min(timeouts), 0.0)


def _install_child_signal(read: int, write: int) -> None:
    """Make the end of a child write a byte to the pipe."""
    for descriptor in (read, write):
        os.set_blocking(descriptor, False)
    # Only a handler, even an empty one, makes the signal reach the pipe.
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)


def _drain_pipe(descriptor: int) -> None:
    try:
        os.read(descriptor, 4096)
    except BlockingIOError:
        pass


def _detach() -> None:
    """Detach from the session and the signals of the starting process, where still necessary."""
    try:
        os.setsid()
    except PermissionError:
        pass  # leads a session already
    os.chdir("/")
    os.umask(0o077)
    for name in (orphans.ATTEMPT_VARIABLE, worker_launcher.UNDER_AGENT_VARIABLE):
        os.environ.pop(name, None)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    process_tree.become_subreaper()


def launch(argv: Sequence[str]) -> None:
    """Run a worker in a process that does not end with the caller's.

    ``argv`` contains the queue's folder and the digest of the code.  All code is imported by now:
    code that cannot run here has failed before, while the caller was waiting for this process.
    """
    folder, code = argv[0], argv[1]
    worker_launcher.redirect_output_to_log(folder)
    if os.fork():
        os._exit(0)
    try:
        os.setsid()
        scope = worker_launcher.find_scope_command()
        if scope:
            os.execvp(scope[0], scope + worker_launcher.build_command("worker", folder, code))
        main((folder, code))
    finally:
        os._exit(1)


def main(argv: Sequence[str]) -> None:
    """Run the worker process.

    ``argv`` contains the queue's folder, the digest of the code, and perhaps the argument with
    the lock of the code before (see ``worker_lock.make_lock_argument``).
    """
    folder, code, *rest = argv
    worker_launcher.redirect_output_to_log(folder)
    _detach()
    status = 1
    try:
        lock = worker_lock.parse_lock_argument(rest)
        if lock is None:
            lock = worker_lock.acquire_worker_lock(folder)
        if lock is not None:
            Worker(folder, code, lock).run()
        status = 0
    except RequestRefused as refused:
        log(refused.message)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        # No other worker knows which processes belong to jobs of a queue that was set aside.
        descendant_reaper.kill_all(process_tree.DescendantLister(os.getpid()))
        os._exit(status)
