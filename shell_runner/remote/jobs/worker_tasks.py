"""The child processes of a worker: one runs and packages a job, others deliver notifications.

Responsible for what happens inside these processes, and for the worker's log, to which they write
as well.  Must not know which job is next.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
import traceback
from typing import Callable, Optional, Tuple

from ..files import filesystem_errors
from ..processes import process_tree
from ..protocol.verdict import format_exit_status, format_signal
from . import file_cleanup, job_runner, result_package_content, webhook, worker_lock
from .queue import AttemptRow, JobRow, OutboxRow, Queue, RequestRefused, State

#: Bytes of the worker's log after which it is truncated.
_MAX_LOG_BYTES = 4 << 20
#: Seconds that a POST may take in all.
_WEBHOOK_TIMEOUT = 60
_PR_SET_PDEATHSIG = 1
#: Exit statuses of the process of a job: its package is recorded; try to build it again later.
DONE_STATUS, RETRY_STATUS = 0, 3


def run_child(parent: int, inherited: Tuple[int, ...], work: Callable[[], int]) -> None:
    """Run ``work`` in a process that was just forked, and exit with the status that it returns.

    The process dies with ``parent``, leads a session, and closes the ``inherited`` descriptors.
    """
    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # the parent died before the request to be killed with it
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in inherited:
            os.close(descriptor)
        os.setsid()
        process_tree.become_subreaper()
        status = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def run_job(folder: str, job: JobRow, attempt: Optional[AttemptRow], evicts_contents: bool) -> int:
    """Run a job, unless ``attempt`` is None, and build its package; return the exit status.

    ``evicts_contents``: also reduce the contents of the host to their limit.
    """
    worker_lock.acquire_runner_lock(folder)
    queue = Queue(folder)
    if attempt is not None:
        try:
            job_runner.JobRunner(folder, queue, job, attempt).run()
        except job_runner.AttemptFailed as error:
            log("job %s: %s" % (job.id, error))
            queue.lose(attempt.id, str(error), time.time())
    if find_state(queue, job) != State.PACKAGING:
        return DONE_STATUS
    status = _package_job(queue, folder, queue.find(job.id))
    if evicts_contents and status == DONE_STATUS:
        file_cleanup.evict_contents(queue, folder)
    return status


def _package_job(queue: Queue, folder: str, job: JobRow) -> int:
    attempts = queue.get_attempts(job.number)
    keep_last = file_cleanup.is_workspace_kept(queue, job, attempts)
    try:
        digest, size = _build_package(queue, folder, job)
        queue.record_package(job.number, digest, size, time.time())
    except Exception as error:
        if not isinstance(error, (OSError, result_package_content.BadPackage)):
            traceback.print_exc()
        reason = (
            filesystem_errors.describe_error(error, folder) if isinstance(error, OSError) else error
        )
        message = "its package cannot be made: %s" % reason
        log("job %s: %s" % (job.id, message))
        # A full disk takes no row either; clients see then that it is full.
        with contextlib.suppress(OSError):
            queue.set_waiting_reason(job.number, message)
        return RETRY_STATUS
    # From here on a client may have harvested and forgotten the job.
    file_cleanup.remove_workspaces(folder, job, attempts, keep_last)
    file_cleanup.forget_overdue_jobs(queue, folder)
    return DONE_STATUS


def _build_package(queue: Queue, folder: str, job: JobRow) -> Tuple[str, int]:
    """Build the package, or one that only says why its results cannot be packed.

    Otherwise a job whose rows make no package would stay in the queue for ever.
    """
    try:
        return result_package_content.build_package(queue, folder, job)
    except (result_package_content.BadPackage, TypeError, ValueError) as error:
        log("job %s: %s" % (job.id, error))
        return result_package_content.build_error_package(queue, folder, job, str(error))


def deliver_notification(folder: str, row: OutboxRow) -> int:
    """Send one POST and record the result; return the exit status."""
    signal.alarm(_WEBHOOK_TIMEOUT)
    error = webhook.post(row.url, row.secret, row.body)
    signal.alarm(0)
    with Queue(folder) as queue:
        if error:
            record_delivery_failure(queue, row, error)
        else:
            queue.remove_notification(row.number)
    return 0


def record_delivery_failure(queue: Queue, row: OutboxRow, error: str) -> None:
    """Record a failed delivery and its next due time; give up after the last attempt."""
    attempts = row.attempts + 1
    due_at = time.time() + webhook.compute_retry_delay(attempts)
    queue.record_delivery_failure(row.number, error, due_at)
    if attempts >= webhook.MAX_ATTEMPTS:
        log("job %s: cannot notify %s: %s" % (row.job, row.url, error))
        queue.abandon_notification(row.number)


def describe_status(status: int) -> str:
    """Return how a process ended, from its wait status, such as "was killed by SIGKILL"."""
    if os.WIFSIGNALED(status):
        return "was killed by %s" % format_signal(os.WTERMSIG(status))
    return format_exit_status(os.WEXITSTATUS(status))


def log(message: str) -> None:
    """Append a line to the worker's log (standard error); truncate it first if it is long."""
    if os.fstat(2).st_size > _MAX_LOG_BYTES:
        os.ftruncate(2, 0)
    sys.stderr.write("%s %s\n" % (time.strftime("%Y-%m-%d %H:%M:%S"), message))
    sys.stderr.flush()


def find_state(queue: Queue, job: JobRow) -> Optional[State]:
    """Return the current state of a job; None if it was forgotten."""
    try:
        return queue.find(job.id).state
    except RequestRefused as refused:
        if refused.kind != "unknown":
            raise
        return None
