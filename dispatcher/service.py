"""The parts of a dispatcher, their threads, and the data folder.

Responsible for the order in which parts start and stop.  Must not know what a part does.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping

from shell_runner.errors import NosejobsError, UsageError

from .builds.blob_store import BlobStore
from .builds.checkout_cache import CheckoutCache
from .builds.source_watcher import SourceWatcher
from .configuration.settings import ADDRESS_FILE, Settings
from .hosts.connections import HostConnections, configure
from .hosts.job_builder import JobBuilder
from .hosts.job_steps import HostTimeouts
from .hosts.pool_manager import PoolManager
from .hosts.result_recorder import ResultRecorder
from .reconciler.reconcile_pass import PassResult
from .reconciler.reconciler import Reconciler
from .sources import source_factory
from .store import (
    Store,
    build_snapshots,
    check_integrity,
    open_engine,
    open_store,
    result_retention,
)

_LOG = logging.getLogger(__name__)
DATABASE_NAME, LOCK_NAME = "dispatcher.db", "dispatcher.lock"
MIRRORS_NAME, BLOBS_NAME = "mirrors", "blobs"
#: Maximum bytes of a database that is checked at each start; a larger one only after a kill.
_MAX_CHECKED_BYTES = 64 << 20
#: Seconds between two removals of old data.
_UPKEEP_INTERVAL = 3600.0
#: Seconds to wait at the stop for a thread that cannot be interrupted, as during `git fetch`.
_THREAD_STOP_TIMEOUT = 30.0
#: Number of newest checkouts that are kept besides those in use.
_KEPT_CHECKOUTS = 20


class DataFolderInUse(NosejobsError):
    """Another dispatcher uses the data folder."""


class Service:
    """A dispatcher without its API."""

    def __init__(
        self,
        settings: Settings,
        timeouts: HostTimeouts | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Lock the data folder, and migrate its database to the schema of this program.

        No thread runs before ``start``; ``stop`` closes everything.  Raises ``DataFolderInUse``,
        ``StoreError``, or ``UsageError`` if the database is missing.
        """
        self.settings = settings
        self._clock = clock
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._lock = _lock_data_folder(settings)
        try:
            self.store = _open_store(settings)
        except BaseException:
            os.close(self._lock)
            raise
        try:
            self._create_parts(settings, timeouts)
        except BaseException:
            self.store.close()
            os.close(self._lock)
            raise

    def _create_parts(self, settings: Settings, timeouts: HostTimeouts | None) -> None:
        clock = self._clock
        self.sources = {
            each.name: source_factory.open_source(each, settings.data / MIRRORS_NAME)
            for each in settings.sources
        }
        self.trees = CheckoutCache(settings.data / "trees", self.sources)
        self.blobs = BlobStore(settings.data / BLOBS_NAME)
        builder = JobBuilder(self.store, self.trees, self.blobs)
        recorder = ResultRecorder(self.store, self.blobs, builder, clock)
        self.connections = HostConnections(self.store, settings, builder, recorder, timeouts)
        self.pools = PoolManager(self.store, settings)
        self.reconciler = Reconciler(
            self.store, settings, self.trees, self.blobs, self._handle_pass_result, clock
        )
        self.watchers: Mapping[str, SourceWatcher] = {
            each.name: SourceWatcher(self.store, each, self.sources[each.name], self.trees, clock)
            for each in settings.sources
        }

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all threads."""
        self._recover()
        configure(self.store, self.settings)
        self.pools.start()
        self.connections.start()
        loops: list[tuple[str, Callable[[], None]]] = [("reconcile", self.reconciler.run)]
        loops += [(f"source {name}", watcher.run) for name, watcher in self.watchers.items()]
        loops.append(("upkeep", self._run_upkeep))
        for name, run in loops:
            thread = threading.Thread(target=run, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _recover(self) -> None:
        """Remove files that a killed dispatcher was writing."""
        for partial_copy in self.settings.data.glob(f"{DATABASE_NAME}.schema-*.part-*"):
            partial_copy.unlink(missing_ok=True)
        source_factory.recover(self.settings.data / MIRRORS_NAME)
        self.trees.recover()
        self.blobs.recover()

    def stop(self) -> None:
        """Stop all threads and child processes; the rows say what is to be done next."""
        self._stopping.set()
        for watcher in self.watchers.values():
            watcher.close()
        self.reconciler.close()
        for thread in self._threads:
            thread.join(_THREAD_STOP_TIMEOUT)
        self.connections.close()
        self.pools.close()
        self.store.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def poke(self, source: str) -> None:
        """Poll a source now.  Raises ``UsageError`` if it does not exist."""
        if source not in self.watchers:
            known = ", ".join(sorted(self.watchers)) or "none"
            raise UsageError(f"there is no source {source!r}; known sources: {known}")
        self.watchers[source].poke()

    def _handle_pass_result(self, result: PassResult) -> None:
        if result.stop:
            self.connections.stop(result.stop)
        if result.unplaced and self.settings.pools:
            self.pools.request_hosts(result.unplaced)

    # -- upkeep -------------------------------------------------------------------

    def _run_upkeep(self) -> None:
        while not self._stopping.is_set():
            try:
                self.remove_old_data()
            except Exception:
                _LOG.exception("old data cannot be removed")
            self._stopping.wait(_UPKEEP_INTERVAL)

    def remove_old_data(self) -> None:
        """Remove old builds, blobs and checkouts by the retention rules of the settings."""
        rules, now = self.settings.retention, self._clock()
        with self.store.write() as connection:
            for build in result_retention.list_expired_builds(
                connection, before=now - rules.age, keep=rules.builds, levels=rules.levels
            ):
                result_retention.remove_results(connection, build, now)
        with self.store.read() as connection:
            referenced_digests = result_retention.list_referenced_digests(connection)
            kept_checkouts = build_snapshots.kept_trees(connection, _KEPT_CHECKOUTS)
        self.blobs.sweep(referenced_digests)
        self.trees.sweep(kept_checkouts)


def _open_store(settings: Settings) -> Store:
    """Open and check the database.

    Raises ``UsageError`` if it is missing or empty although there are blobs of it.
    """
    path, blobs = settings.data / DATABASE_NAME, settings.data / BLOBS_NAME
    size = path.stat().st_size if path.exists() else 0
    if not size and next(blobs.glob("??/*"), None):
        problem = "empty" if path.exists() else "missing"
        hint = f"restore a copy of it; to start from scratch, move {blobs} away"
        raise UsageError(f"{path} is {problem}, but {blobs} has files of it\n  try: {hint}")
    if size:
        engine = open_engine(path)
        try:
            # A dispatcher that was killed has left its address file.
            if size <= _MAX_CHECKED_BYTES or (settings.data / ADDRESS_FILE).exists():
                check_integrity(engine)
        finally:
            engine.dispose()
    return open_store(path)


def _lock_data_folder(settings: Settings) -> int:
    """Return a descriptor that locks the data folder while it is open.

    The kernel releases the lock if the process dies.  Raises ``DataFolderInUse``.
    """
    path = settings.data / LOCK_NAME
    try:
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"cannot use the data folder {settings.data}: {error.strerror}"
        hint = "create a folder that this user can write, or set another in [dispatcher] data"
        raise UsageError(f"{message}\n  try: {hint}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        process_id = os.pread(descriptor, 100, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        process = f" (process {process_id})" if process_id else ""
        message = f"another dispatcher{process} uses {settings.data}"
        hint = "stop it, or set another data folder in [dispatcher] data"
        raise DataFolderInUse(f"{message}\n  try: {hint}") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor
