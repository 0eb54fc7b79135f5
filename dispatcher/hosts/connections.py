"""The connections to all hosts; jobs of hosts that were removed are lost.

Owns which connections there are, and wakes each when its rows change.  Must not know what is sent
to a host.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable

from shell_runner.jobs.session import HOST_TIMEOUT

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
#: Folder, below the data, into which packages are downloaded.
INCOMING_FOLDER = "incoming"
_OPEN_STATES = tuple(state for state in JobState if state.is_open)


def configure(store: Store, settings: Settings) -> None:
    """Write rows for the hosts of the dispatcher's file, and delete those of other hosts.

    A new host is down until it has answered, so that nothing is placed on it before.
    """
    with store.write() as connection:
        for entry in settings.hosts.values():
            reason = "not connected yet"
            hosts.configure(
                connection,
                Host(
                    entry.name, entry.spec, entry.labels, entry.slots or 0,
                    state=HostState.DOWN, reason=reason,
                ),
            )  # fmt: skip
        hosts.delete_unconfigured(connection, settings.hosts.keys())


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
        """Prepare; nothing is opened before ``start``.

        ``timeouts``: by default, those of ``settings``.
        """
        self._store, self._builder, self._recorder = store, builder, recorder
        # Silence has to be noticed early enough to connect again within the lease.
        silence = min(HOST_TIMEOUT, settings.lease / 2)
        self._timeouts = timeouts or HostTimeouts(settings.lease, settings.quarantine, silence)
        self._incoming = settings.data / INCOMING_FOLDER
        self._connections: dict[str, HostConnection] = {}
        #: Ids of jobs to stop though no row says so.
        self._stopped_jobs: frozenset[str] = frozenset()
        self._lock, self._stopped_jobs_lock = threading.Lock(), threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="connections", daemon=True)

    def start(self) -> None:
        """Start to watch the rows, and to connect to all hosts."""
        self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()
        self._thread.start()

    def _update_connections(self, rows: Iterable[Host]) -> None:
        """Open a connection for each host that has a row and an address, and close all others."""
        specs = {host.name: host.spec for host in rows if host.spec}
        with self._lock:
            if self._closed.is_set():
                return
            connections = self._connections.values()
            old = [each for each in connections if specs.get(each.name) != each.spec]
            for connection in old:
                del self._connections[connection.name]
            _close(old)
            for name, spec in specs.items():
                if name not in self._connections:
                    self._connections[name] = self._open(name, spec)

    def _open(self, name: str, spec: str) -> HostConnection:
        steps = JobSteps(
            self._store, self._builder, self._recorder, name, self._incoming, self._timeouts
        )
        return HostConnection(self._store, steps, spec, self._timeouts, lambda: self._stopped_jobs)

    def stop(self, job_ids: Iterable[str]) -> None:
        """Stop jobs although their stage run is not over, because their peers are gone.

        This is only in memory: the reconciler decides it again from the rows after a restart.
        """
        with self._stopped_jobs_lock:
            before = self._stopped_jobs
            self._stopped_jobs = before | frozenset(job_ids)
        if self._stopped_jobs != before:
            self._store.due.signal()

    def close(self) -> None:
        """End all threads, connections and child processes; the rows keep the pending work."""
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
            seen = self._store.due.count()
            try:
                self.update()
            except Exception:
                _LOG.exception("the connections to hosts cannot be updated")
                self._closed.wait(_RETRY_DELAY)
                continue
            if not self._closed.is_set():
                self._store.due.wait(seen, _POLL_INTERVAL)

    def update(self) -> None:
        """Read the rows once: open and close connections, lose jobs without host, wake threads."""
        with self._store.read() as connection:
            open_jobs = jobs.list_in_state(connection, *_OPEN_STATES)
            stopped = jobs.hosts_of_stopped_jobs(connection).keys() | self._stopped_jobs
            rows = hosts.list_all(connection)
        self._update_connections(rows)
        with self._stopped_jobs_lock:
            self._stopped_jobs &= frozenset(job.id for job in open_jobs)
        names = {host.name for host in rows}
        self._lose_jobs([job.id for job in open_jobs if job.host not in names])
        keys = _wakeup_keys(open_jobs, stopped)
        with self._lock:
            for host_connection in self._connections.values():
                host_connection.wake(keys.get(host_connection.name, frozenset()))

    def _lose_jobs(self, orphans: list[str]) -> None:
        """Mark jobs as lost whose host has no row any more."""
        if not orphans:
            return
        detail = "its host is not configured any more"
        with self._store.write() as connection:
            for job in orphans:
                if jobs.apply_event(connection, job, JobEvent.LOSE, detail=detail):
                    audit.write(connection, time.time(), f"job {job} lost", detail)

    def _sweep(self) -> None:
        """Remove downloaded files of packages that were stored, or are not needed any more."""
        states = JobState.SUBMITTED, JobState.ENDED, JobState.LOST
        with self._store.read() as connection:
            rows = jobs.list_in_state(connection, *states)
        wanted = {job.id for job in rows if not job.package_digest}
        for path in self._incoming.iterdir():
            if path.name.split(".")[0] not in wanted:
                path.unlink(missing_ok=True)


def _wakeup_keys(open_jobs: Iterable[Job], stopped: Collection[str]) -> dict[str, frozenset[str]]:
    """Return by host the keys of the work that its thread must start at once."""
    keys: dict[str, set[str]] = {}
    for job in open_jobs:
        host_keys = keys.setdefault(job.host, set())
        if job.state is JobState.PLANNED:
            host_keys.add(job.id)
        if job.id in stopped:
            host_keys |= stop_requests(frozenset([job.id]))
    return {host: frozenset(host_keys) for host, host_keys in keys.items()}


def _close(connections: Iterable[HostConnection]) -> None:
    """Close all connections at the same time, since each may take a moment."""
    closing = list(connections)
    for connection in closing:
        connection.close(wait=False)
    for connection in closing:
        connection.close()
