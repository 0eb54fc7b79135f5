"""The locks of a queue's folder, which allow one worker and one job process at a time.

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
#: Prefix of the argument that passes the lock's descriptor to the code that replaces the worker's.
_LOCK_ARGUMENT = "lock="
#: Seconds that a worker may take to exit or to register.
_LOCK_TIMEOUT = 10.0
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def acquire_worker_lock(folder: str) -> Optional[int]:
    """Take the worker's lock; return its descriptor, or None if another worker is alive.

    A worker that has deregistered holds the lock a moment longer, and one that has just started is
    not registered yet.
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
        row = queue.get_worker()
    finally:
        queue.close()
    return row is not None and process_identity.is_alive(row.identity)


def make_lock_argument(descriptor: int) -> str:
    """Return the argument that passes the worker's lock to the code that replaces the worker's."""
    os.set_inheritable(descriptor, True)
    return "%s%d" % (_LOCK_ARGUMENT, descriptor)


def parse_lock_argument(arguments: Iterable[str]) -> Optional[int]:
    """Return the descriptor of the lock that the previous code passed in ``arguments``, or None."""
    for argument in arguments:
        if argument.startswith(_LOCK_ARGUMENT):
            descriptor = int(argument[len(_LOCK_ARGUMENT) :])
            os.set_inheritable(descriptor, False)
            return descriptor
    return None


def acquire_runner_lock(folder: str) -> None:
    """Take the runner's lock until this process ends.

    Waits for the runner of a dead worker, which the kernel may still be killing.
    """
    descriptor = os.open(os.path.join(folder, _RUNNER_LOCK), _LOCK_FLAGS, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def wait_for_runner(folder: str) -> None:
    """Wait until the runner of a dead worker is dead too, for at most ``_LOCK_TIMEOUT`` seconds."""
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
