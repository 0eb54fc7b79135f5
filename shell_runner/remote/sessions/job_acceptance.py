"""Acceptance of a job into the queue: its contents and code reach the disk before its row.

Must not know the channel, nor how jobs are run.
"""

import ctypes
import os
import time
from typing import Optional, Sequence, Set

from ..files.blob_store import BlobStore
from ..jobs.queue import Queue, RequestRefused
from ..jobs.rows import JobRow
from ..protocol.job import TREE, Content, JobTest, NewJob, parse_config
from . import job_validation
from .worker_starter import WorkerStarter


def accept(
    job: NewJob, folder: str, queue: Queue, store: BlobStore, worker: WorkerStarter
) -> JobRow:
    """Write contents and code to the disk first, then the row of the job; return the row.

    Raises RequestRefused if contents are missing, OSError for a full disk.
    """
    store.acquire()
    for content in filter(None, (job.tests, job.build)):
        _check_content(store, content)
    is_new = worker.keep_code()
    # Otherwise an earlier job has the same contents, and all of them were synced before its row.
    if is_new or store.added_count or not queue.has_recent_reference(job, worker.digest):
        _sync(folder)
        store.added_count = 0
    row = queue.submit(job, worker.digest, time.time())
    store.release()
    return row


def select_again(
    row: JobRow,
    cases: Sequence[JobTest],
    id: str,
    tests: Sequence[str],
    failed: Optional[Set[int]],
    secret: str,
) -> NewJob:
    """Return a new job of the same contents and config as ``row``, with some of its tests.

    ``cases``: all tests of the old job.  ``tests``: names of those to run again.  ``failed``: the
    numbers of the failed tests if these are to run again, else None.  With neither, all do.
    ``secret``: for its notification; that of the old job is gone once that was packaged.

    Raises RequestRefused if no test is left, or if the old job cannot be read.
    """
    if row.unreadable or not all(case.test.path for case in cases):
        raise RequestRefused("state", "job %s cannot be read: submit it again" % row.id)
    wanted = set(job_validation.find_tests(cases, tests))
    if failed is not None:
        wanted |= failed
    elif not tests:
        wanted = set(range(len(cases)))
    if not wanted:
        raise RequestRefused("state", "no test of job %s has failed so far" % row.id)
    chosen = [cases[number] for number in sorted(wanted)]
    numbered = tuple(
        case._replace(test=case.test._replace(id=number)) for number, case in enumerate(chosen)
    )
    config = parse_config({"secret": secret})  # checks it
    config = row.config._replace(secret=config.secret if row.config.notify else "")
    new = NewJob(id, row.tests, row.build, config, numbered, row.name, row.labels, row.priority)
    return job_validation.check_job(new)


def _check_content(store: BlobStore, content: Content) -> None:
    """Raise RequestRefused unless all data of ``content`` is in the store."""
    if content.kind == TREE:
        entries, parts = store.read_manifest(content.digest, content.size)
        is_complete = not parts and not store.find_missing(entries)[0]
    else:
        is_complete = store.has_blob(content.digest, content.size)
    if not is_complete:
        message = "the contents of %s are not on this host: send them again"
        raise RequestRefused("bad", message % (content.name or content.digest[:12]))


def _sync(folder: str) -> None:
    """Flush the file system of ``folder`` to its disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), folder)
    except AttributeError:
        os.sync()
    finally:
        os.close(descriptor)
