"""The connections to all hosts, and what becomes of the jobs of hosts that are gone.

Owns which connections there are, and wakes each when its rows change.  Must not know what is said
to a host: ``link`` does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable

from shell_runner.jobs.session import TIMEOUT

from ..configuration.settings import Settings
from ..model import Host, HostState, Job, JobEvent, JobState
from ..store import Store, audit, hosts, jobs
from .connection import HostConnection
from .job_steps import Builder, HostTimeouts, JobSteps, Recorder, stop_requests

_LOG = logging.getLogger(__name__)
#: Seconds between two reads of the rows if nothing was written.
_POLL_INTERVAL = 30.0
#: Seconds until a read that failed is repeated.
_RETRY_DELAY = 1.0
#: Folder of packages that are being downloaded, below the data.
INCOMING = "incoming"
_OPEN = tuple(state for state in JobState if state.open)


def configure(store: Store, settings: Settings) -> None:
    """Write rows for the hosts of the dispatcher's file, and delete those of other hosts.

    A new host is down until it has answered, so that nothing is placed on it before.
    """
    with store.write() as connection:
        for entry in settings.hosts.values():
            reason = "it has not been opened yet"
            hosts.configure(
                connection,
                Host(
                    entry.name, entry.spec, entry.labels, entry.slots or 0,
                    state=HostState.DOWN, reason=reason,
                ),
            )  # fmt: skip
        hosts.forget_others(connection, settings.hosts.keys())


class HostConnections:
    """A connection for each host with a row; a thread that watches the rows for all of them."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        builder: Builder,
        recorder: Recorder,
        timeouts: HostTimeouts | None = None,
    ) -> None:
        """Open nothing; ``start`` does."""
        self._store, self._builder, self._recorder = store, builder, recorder
        # Within a lease a silent host is noticed, and opened again.
        silence = min(TIMEOUT, settings.lease / 2)
        limits = HostTimeouts(settings.lease, settings.quarantine, silence)
        self._timeouts = timeouts or limits
        self._incoming = settings.data / INCOMING
        self._connections: dict[str, HostConnection] = {}
        self._stops: frozenset[str] = frozenset()
        self._lock, self._stopping = threading.Lock(), threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="connections", daemon=True)

    def start(self) -> None:
        """Open all hosts, and follow the rows."""
        self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()
        self._thread.start()

    def _open_all(self, rows: Iterable[Host]) -> None:
        """Open a connection for each host that has a row and an address, and close all others."""
        found = {host.name: host.spec for host in rows if host.spec}
        with self._lock:
            if self._closed.is_set():
                return
            old = [each for each in self._connections.values() if found.get(each.name) != each.spec]
            for connection in old:
                del self._connections[connection.name]
            _close(old)
            for name, spec in found.items():
                if name not in self._connections:
                    self._connections[name] = self._open(name, spec)

    def _open(self, name: str, spec: str) -> HostConnection:
        steps = JobSteps(
            self._store, self._builder, self._recorder, name, self._incoming, self._timeouts
        )
        return HostConnection(self._store, steps, spec, self._timeouts, lambda: self._stops)

    def stop(self, found: Iterable[str]) -> None:
        """Stop these jobs although their stage run is not over, because their peers are gone.

        This is only in memory: the reconciler decides it again from the rows after a restart.
        """
        with self._stopping:
            before = self._stops
            self._stops = before | frozenset(found)
        if self._stops != before:
            self._store.due.signal()

    def close(self) -> None:
        """End all threads, connections and child processes; the rows say what is to be done."""
        self._closed.set()
        self._store.due.signal()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            _close(self._connections.values())
            self._connections.clear()

    # -- watching -----------------------------------------------------------------

    def _watch(self) -> None:
        while not self._closed.is_set():
            seen = self._store.due.now()
            try:
                self.look()
            except Exception:
                _LOG.exception("the connections to hosts cannot be updated")
                self._closed.wait(_RETRY_DELAY)
                continue
            if not self._closed.is_set():
                self._store.due.wait(seen, _POLL_INTERVAL)

    def look(self) -> None:
        """Read the rows once; open and close connections, lose jobs without host, wake threads."""
        with self._store.read() as connection:
            found = jobs.in_state(connection, *_OPEN)
            stopped = jobs.stopped(connection).keys() | self._stops
            rows = hosts.every(connection)
        self._open_all(rows)
        with self._stopping:
            self._stops &= frozenset(job.id for job in found)
        names = {host.name for host in rows}
        self._lose([job.id for job in found if job.host not in names])
        keys = _wakeup_keys(found, stopped)
        with self._lock:
            for each in self._connections.values():
                each.wake(keys.get(each.name, frozenset()))

    def _lose(self, orphans: list[str]) -> None:
        """Mark jobs as lost whose host has no row any more."""
        if not orphans:
            return
        words = "the dispatcher has no such host any more"
        with self._store.write() as connection:
            for job in orphans:
                if jobs.move(connection, job, JobEvent.LOSE, detail=words):
                    audit.write(connection, time.time(), f"job {job} lost", words)

    def _sweep(self) -> None:
        """Remove files of packages that were stored, or that will not be asked for again."""
        states = JobState.SUBMITTED, JobState.ENDED, JobState.LOST
        with self._store.read() as connection:
            wanted = {job.id for job in jobs.in_state(connection, *states) if not job.package_digest}
        for path in self._incoming.iterdir():
            if path.name.split(".")[0] not in wanted:
                path.unlink(missing_ok=True)


def _wakeup_keys(found: Iterable[Job], stopped: Collection[str]) -> dict[str, frozenset[str]]:
    """Return by host what its thread must learn at once."""
    keys: dict[str, set[str]] = {}
    for job in found:
        own = keys.setdefault(job.host, set())
        if job.state is JobState.PLANNED:
            own.add(job.id)
        if job.id in stopped:
            own |= stop_requests(frozenset([job.id]))
    return {host: frozenset(own) for host, own in keys.items()}


def _close(connections: Iterable[HostConnection]) -> None:
    """Close all at the same time, since each may take a moment."""
    found = list(connections)
    for connection in found:
        connection.close(wait=False)
    for connection in found:
        connection.close()
