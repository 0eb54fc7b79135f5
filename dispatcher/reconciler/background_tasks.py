"""Tasks that take longer than a transaction may, and their results.

Responsible for the results, by key, until the database has them; after a crash the tasks run
again.  Must not depend on the database.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from typing import Any

from shell_runner.errors import NosejobsError

from ..policy.action_types import TaskFailure

_LOG = logging.getLogger(__name__)
#: Results that are kept.
_MAX_RESULTS = 500
#: Seconds until a task runs again that failed for a reason that may pass, as a full disk.
_TASK_RETRY_DELAY = 10.0
#: Errors that pass by themselves, or once an administrator has acted.
_TEMPORARY_ERRORS = frozenset(
    [
        errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO,
        errno.EAGAIN, errno.EROFS, errno.EACCES, errno.EPERM,
    ]
)  # fmt: skip


class BackgroundTasks:
    """Tasks that were requested, that run, and their results."""

    def __init__(self, on_result: Callable[[], None]) -> None:
        """``on_result`` is called whenever a task has ended."""
        self._on_result = on_result
        self._lock = threading.Lock()
        self._requested: dict[Hashable, Callable[[], Any]] = {}
        self._running: set[Hashable] = set()
        #: The result that was not needed for the longest time comes first.
        self._results: dict[Hashable, Any] = {}

    def results(self) -> dict[Any, Any]:
        """Return all results that are there now, by the key of their task."""
        with self._lock:
            return self._results.copy()

    def request(self, key: Hashable, act: Callable[[], Any]) -> Any:
        """Return the result of a task; None: there is none yet, and ``act`` will return it.

        A ``TaskFailure`` is returned, too; once its ``retry_at`` has passed, the task is run again.
        """
        with self._lock:
            result = self._results.get(key)
            if isinstance(result, TaskFailure) and _is_due(result):
                del self._results[key]
                self._requested[key] = act
            elif result is not None:
                self._results[key] = self._results.pop(key)
            elif key not in self._running:
                self._requested[key] = act
        return result

    def has_room(self) -> bool:
        """Return whether tasks may be requested whose results are not needed yet."""
        return len(self._results) + len(self._running) < _MAX_RESULTS // 2

    def discard(self, key: Hashable) -> None:
        """Forget a result: the database has it."""
        with self._lock:
            self._results.pop(key, None)

    def run_requested(self, executor: Executor | None = None) -> int:
        """Run all requested tasks, here or in threads of ``executor``; return their number."""
        with self._lock:
            requested, self._requested = self._requested, {}
            self._running.update(requested)
        for key, act in requested.items():
            if executor is None:
                self._run(key, act)
            else:
                executor.submit(self._run, key, act)
        return len(requested)

    def _run(self, key: Hashable, act: Callable[[], Any]) -> None:
        try:
            result = act()
        except Exception as error:
            result = _failure(error)
        with self._lock:
            self._running.discard(key)
            self._results[key] = result
            while len(self._results) > _MAX_RESULTS:
                del self._results[next(iter(self._results))]
        self._on_result()


def _is_due(failure: TaskFailure) -> bool:
    return failure.retry_at is not None and failure.retry_at <= time.monotonic()


def _failure(error: Exception) -> TaskFailure:
    """Return an error as a value; one that may pass has a time at which to try again."""
    if not isinstance(error, (NosejobsError, OSError)):
        _LOG.error("internal error in a task", exc_info=error)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    is_temporary = cause is not None and cause.errno in _TEMPORARY_ERRORS
    message = str(error) if isinstance(error, NosejobsError) else f"{type(error).__name__}: {error}"
    return TaskFailure(message, time.monotonic() + _TASK_RETRY_DELAY if is_temporary else None)
