"""Acceptance of a job into the queue: what its row refers to is on the disk before the row is.

Must not know the channel, nor how jobs are run.
"""

import ctypes
import os
import time
from typing import Any, Optional, Sequence, Set

from ..files.blob_store import Store
from ..jobs.queue import Queue, Refused
from ..protocol.job import TREE, Content, NewJob, config_from
from . import job_validation
from .worker_starter import WorkerStarter


def accept(job: NewJob, folder: str, queue: Queue, store: Store, worker: WorkerStarter) -> Any:
    """Write contents and code to the disk first, then the row of the job; return the row.

    Raises Refused if contents are missing, OSError for a full disk.
    """
    store.begin()
    for content in filter(None, (job.tests, job.build)):
        _check_content(store, content)
    is_new = worker.keep_code()
    # Else all was on the disk before the row of the other job was.
    if is_new or store.added or not queue.refers(job, worker.digest):
        _sync(folder)
        store.added = 0
    row = queue.submit(job, worker.digest, time.time())
    store.end()
    return row


def select_again(
    row: Any,
    cases: Sequence[Any],
    id: str,
    tests: Sequence[str],
    failed: Optional[Set[int]],
    secret: str,
) -> NewJob:
    """Return a new job of the same contents and config as ``row``, with some of its tests.

    ``cases``: all tests of the old job.  ``tests``: names of those to run again.  ``failed``: the
    numbers of the failed tests if these are to run again, else None.  With neither, all do.
    ``secret``: for its notification; that of the old job is gone once that was packaged.

    Raises Refused if no test is left, or if the old job cannot be read.
    """
    if row.unreadable or not all(case.test.path for case in cases):
        raise Refused("state", "job %s cannot be read: submit it anew" % row.id)
    wanted = set(job_validation.chosen(cases, tests))
    if failed is not None:
        wanted |= failed
    elif not tests:
        wanted = set(range(len(cases)))
    if not wanted:
        raise Refused("state", "no test of job %s has failed so far" % row.id)
    chosen = [cases[number] for number in sorted(wanted)]
    numbered = tuple(
        case._replace(test=case.test._replace(id=number)) for number, case in enumerate(chosen)
    )
    config = config_from({"secret": secret})  # checks it
    config = row.config._replace(secret=config.secret if row.config.notify else "")
    new = NewJob(id, row.tests, row.build, config, numbered, row.name, row.labels, row.priority)
    return job_validation.checked(new)


def _check_content(store: Store, content: Content) -> None:
    """Raise Refused unless all of what the row is about to refer to is here."""
    if content.kind == TREE:
        entries, parts = store.manifest(content.digest, content.size)
        is_complete = not parts and not store.missing(entries)[0]
    else:
        is_complete = store.holds(content.digest, content.size)
    if not is_complete:
        message = "the contents of %s are not on this host: send them again"
        raise Refused("bad", message % (content.name or content.digest[:12]))


def _sync(folder: str) -> None:
    """Make sure that all written to the file system of ``folder`` is on its disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), folder)
    except AttributeError:
        os.sync()
    finally:
        os.close(descriptor)
