"""Summaries and details of a job, read from the queue and the disk.

Must not know the channel.
"""

import os
import tempfile
from typing import Any, Dict, List, Sequence

from ..files import filesystem_errors
from ..jobs import paths
from ..jobs.queue import Queue
from ..jobs.rows import AttemptRow, JobRow
from ..protocol.job import remove_secrets
from ..protocol.job_summary import summarize
from . import job_serialization


def summarize_job(jobs_queue: Queue, row: JobRow, folder: str) -> Dict[str, Any]:
    """Return the summary of a job in the queue in ``folder``, as it is sent to a client."""
    attempts, outcomes = jobs_queue.get_attempts(row.number), jobs_queue.count_results(row)
    return summarize(row, _find_waiting_reason(row, folder), attempts, outcomes)._asdict()


def describe_job(jobs_queue: Queue, row: JobRow, folder: str, now: float) -> Dict[str, Any]:
    """Return all details of a job, as they are sent to a client.  ``now``: a Unix timestamp."""
    attempts, failed = jobs_queue.get_attempts(row.number), find_failed_tests(jobs_queue, row)
    cases = jobs_queue.get_tests(row.number) if failed else []
    pending = jobs_queue.get_pending_notification(row)
    return {
        **summarize_job(jobs_queue, row, folder),
        "jobs_ahead": jobs_queue.count_ahead(row),
        "attempt_reports": [job_serialization.make_attempt_view(attempt) for attempt in attempts],
        "failed": job_serialization.make_failures_view(failed, cases),
        "pending_notification": job_serialization.make_notification_view(pending, now),
        "config": job_serialization.make_config_view(remove_secrets(row.config)),
        "build": row.build and job_serialization.shorten(row.build),
        "contents": row.tests and job_serialization.shorten(row.tests),
        "workspace": _find_workspace(attempts, folder),
    }


def find_failed_tests(jobs_queue: Queue, row: JobRow) -> List[job_serialization.FailedTest]:
    """Return the failed tests of the last attempt of a job."""
    last = jobs_queue.get_attempts(row.number)[-1:]
    return job_serialization.list_failed_tests(
        row, jobs_queue.read_executions(last[0].id) if last else ()
    )


def _find_waiting_reason(row: JobRow, folder: str) -> str:
    """Return why a job makes no progress, also on a full disk, when its row cannot name it."""
    if row.waiting_reason or row.state not in job_serialization.UNFINISHED_STATES:
        return str(row.waiting_reason)
    if row.unreadable:
        return "its row cannot be read: %s" % row.unreadable
    return describe_disk_shortage(folder)


def describe_disk_shortage(folder: str) -> str:
    """Return why no job can start: the disk of the queue or of the tests is full; else empty."""
    return filesystem_errors.describe_shortage(folder, tempfile.gettempdir())


def _find_workspace(attempts: Sequence[AttemptRow], folder: str) -> str:
    """Return the path of the workspace of the last attempt; empty if it is not kept."""
    for attempt in attempts[-1:]:
        if os.path.exists(paths.kept_marker_path(folder, attempt.id)):
            return paths.workspace_path(folder, attempt.id)
    return ""
