"""The loop that brings builds forward: read rows, ask the policy, write, until nothing changes.

Responsible for when a pass runs, and that each pass is one transaction with all that comes of it.
Whatever takes longer is a background task, and is decided about in the pass after its result is
there.  So a pass can be killed at any line and be made again: rows are as if it had never begun,
or as if it had been made.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import Connection

from shell_runner.errors import NosejobsError

from ..builds.blob_store import BlobStore
from ..builds.checkout_cache import CheckoutCache
from ..configuration.settings import Settings
from ..model import BuildRows
from ..store import Store, build_snapshots, key_values
from ..store.engine import count_changes
from .background_tasks import BackgroundTasks
from .build_tasks import BuildTasks
from .reconcile_pass import PassContext, PassMemory, PassResult, ReconcilePass

_LOG = logging.getLogger(__name__)
#: Name of the note that holds the id of the newest audit entry that a pass has seen.
_AUDIT_KEY = "reconciled"
#: Seconds between two passes although no row has been written.
_FALLBACK_PASS_INTERVAL = 30.0
#: Seconds until a pass that failed is repeated.
_PASS_RETRY_DELAY = 1.0
#: Background tasks that run at the same time.
_TASK_THREADS = 4


class Reconciler:
    """Runs passes over all builds, one after the other."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        trees: CheckoutCache,
        blobs: BlobStore,
        on_pass: Callable[[PassResult], None] = lambda result: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``on_pass`` is called after each pass, with what is for others to do."""
        self._store, self._on_pass, self._clock = store, on_pass, clock
        self._tasks = BackgroundTasks(store.due.signal)
        run_task = BuildTasks(trees, blobs).run
        self._context = PassContext(settings, blobs, self._tasks, run_task)
        #: Id of the newest audit entry that was seen; below 0: not read yet.
        self._audited = -1
        self._memory = PassMemory()
        self._closed = threading.Event()

    def step(self) -> PassResult:
        """Do all that can be done now, tasks included, and return the result of the last pass."""
        while True:
            count = self._store.due.count()
            result = self._run_pass()
            if not self._tasks.run_requested() and self._is_done(count, result):
                return result

    def run(self) -> None:
        """Run a pass whenever something has changed, until ``close`` is called."""
        with ThreadPoolExecutor(_TASK_THREADS, thread_name_prefix="task") as executor:
            while not self._closed.is_set():
                count = self._store.due.count()
                try:
                    result = self._run_pass()
                except Exception as error:
                    trace = not isinstance(error, NosejobsError)
                    _LOG.error("builds cannot be processed: %s", error, exc_info=trace)
                    self._closed.wait(_PASS_RETRY_DELAY)
                    continue
                self._tasks.run_requested(executor)
                # ``close`` may have signaled before ``count`` was read.
                if not result.repeat and not self._closed.is_set():
                    self._store.due.wait(count + result.wrote, _FALLBACK_PASS_INTERVAL)

    def _is_done(self, count: int, result: PassResult) -> bool:
        """Return whether only the pass has written since ``count``, and none has to follow."""
        return not result.repeat and self._store.due.count() <= count + result.wrote

    def close(self) -> None:
        """End the loop after the pass that is running."""
        self._closed.set()
        self._store.due.signal()

    def _run_pass(self) -> PassResult:
        """Read all rows that matter, decide, and write, in one transaction."""
        with self._store.write() as connection:
            before = count_changes(connection)
            if self._audited < 0:
                self._audited = int(key_values.get(connection, _AUDIT_KEY) or 0)
            audited, touched = build_snapshots.audited_builds(connection, self._audited)
            marks = build_snapshots.change_marks(connection)
            current = ReconcilePass(connection, self._context, self._memory, self._clock())
            current.run(self._read_rows(connection, marks, touched))
            last = build_snapshots.audited_builds(connection, audited)[0]
            if last != self._audited:
                key_values.put(connection, _AUDIT_KEY, b"%d" % last)
            current.result.wrote = count_changes(connection) != before
        self._audited, self._memory = last, current.memory
        self._memory.marks = marks
        for task in current.result.unneeded_tasks:
            self._tasks.discard(task)
        self._on_pass(current.result)
        return current.result

    def _read_rows(
        self, connection: Connection, marks: Mapping[int, set[Any]], touched: Set[int]
    ) -> list[BuildRows]:
        """Return rows of active and of ``touched`` builds, oldest first.

        Most of them are as they were in the last pass, and are not read again.
        """
        settled = self._memory.settled
        same = {
            build: settled[build]
            for build, mark in marks.items()
            if build in settled and build not in touched and self._memory.marks.get(build) == mark
        }
        changed = build_snapshots.read_rows(connection, (marks.keys() | touched) - same.keys())
        return sorted([*same.values(), *changed], key=lambda rows: rows.build.id)
