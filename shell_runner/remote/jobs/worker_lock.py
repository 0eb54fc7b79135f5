"""The locks of a queue's folder: one worker and one runner at a time.

Must not know jobs.
"""

import fcntl
import os
import time
from typing import Iterable, Optional

from ..processes import process_identity
from .queue import Queue

_WORKER_LOCK = "worker.lock"
_RUNNER_LOCK = "runner.lock"
#: In front of the lock's descriptor, among the arguments of code that replaces the worker's.
_LOCK_ARGUMENT = "lock="
#: Seconds that a worker which is leaving, or coming, may take to do so.
_LOCK_TIMEOUT = 10.0
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def acquire(folder: str) -> Optional[int]:
    """Take the worker's lock; return its descriptor, or None if another worker lives.

    One that has said that it leaves holds the lock for a moment more, and one that has just come
    has not said so yet.
    """
    deadline = time.monotonic() + _LOCK_TIMEOUT
    while True:
        lock = _try_lock(os.path.join(folder, _WORKER_LOCK))
        if lock is not None:
            return lock
        if _has_live_worker(folder) or time.monotonic() > deadline:
            return None
        time.sleep(0.01)


def _has_live_worker(folder: str) -> bool:
    queue = Queue(folder)
    try:
        row = queue.worker()
    finally:
        queue.close()
    return row is not None and process_identity.is_alive(row.identity)


def lock_argument(descriptor: int) -> str:
    """Return the argument that hands the worker's lock over to code that replaces the worker's."""
    os.set_inheritable(descriptor, True)
    return "%s%d" % (_LOCK_ARGUMENT, descriptor)


def inherited(arguments: Iterable[str]) -> Optional[int]:
    """Return the lock that the code before this one handed over, if there is one."""
    for argument in arguments:
        if argument.startswith(_LOCK_ARGUMENT):
            descriptor = int(argument[len(_LOCK_ARGUMENT) :])
            os.set_inheritable(descriptor, False)
            return descriptor
    return None


def lock_runner(folder: str) -> None:
    """Take the runner's lock until this process ends.

    The runner of a dead worker may be in the kernel still, which kills it.
    """
    descriptor = os.open(os.path.join(folder, _RUNNER_LOCK), _LOCK_FLAGS, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def await_runner(folder: str) -> None:
    """Wait until the runner of a dead worker is dead too: the kernel kills it a moment later."""
    deadline = time.monotonic() + _LOCK_TIMEOUT
    while time.monotonic() < deadline:
        lock = _try_lock(os.path.join(folder, _RUNNER_LOCK))
        if lock is not None:
            os.close(lock)
            return
        time.sleep(0.01)


def _try_lock(path: str) -> Optional[int]:
    descriptor = os.open(path, _LOCK_FLAGS, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
