"""The hosts of pools: brought up when they are wanted, and taken down when they are not needed.

Owns the rows of such hosts from the first to the last, and asks providers for the machines behind
them.  Must not know what a provider does.  A row is written before its host is started, and
deleted once the host has no job left.  So a kill at any moment leaves no host without a row for
longer than until the next start.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial

from sqlalchemy import Connection

from shell_runner.errors import NosejobsError, UsageError
from shell_runner.hosts.heartbeat import backoff
from shell_runner.pools.provider import Provider, ProviderFactory

from ..configuration.settings import Pool, Settings
from ..model import POLICY, Host, HostState, JobState
from ..policy import pool_scaling
from ..policy.placement import Unplaced
from ..store import Store, audit, hosts, jobs

_LOG = logging.getLogger(__name__)
#: Seconds between two reads of the rows if nothing was written.
_POLL_INTERVAL = 30.0
#: Seconds until a read that failed is repeated.
_RETRY_DELAY = 1.0
#: Seconds that a host may take from its start to its first answer.
_ANSWER_TIMEOUT = 120.0
#: Folder of the providers' files, below the data; it has a folder for each kind.
FOLDER = "pools"


def check(settings: Settings, factories: Mapping[str, ProviderFactory] | None = None) -> None:
    """Raise UsageError for a pool whose kind is unknown or whose options are invalid.

    ``factories``: providers by kind; by default the built-in ones and those of plugins.
    """
    factories = _load_factories() if factories is None else factories
    for pool in settings.pools:
        provider = _factory(pool, factories)(settings.data / FOLDER / pool.kind)
        provider.check(pool.provider_options)


def _load_factories() -> Mapping[str, ProviderFactory]:
    from shell_runner.pools.plugins import load_providers  # 1 MB that few dispatchers need

    return load_providers()


def _factory(pool: Pool, factories: Mapping[str, ProviderFactory]) -> ProviderFactory:
    try:
        return factories[pool.kind]
    except KeyError:
        message = f"[pools.{pool.name}]: unknown kind of pool {pool.kind!r}"
        raise UsageError(f"{message}\n  try: one of {', '.join(sorted(factories))}") from None


def _count_jobs(connection: Connection) -> dict[str, int]:
    """Return by host the number of its open jobs, and of those that are to be acknowledged."""
    counts = jobs.count_open_by_host(connection)
    for job in jobs.list_in_state(connection, JobState.HARVESTED):
        counts[job.host] = counts.get(job.host, 0) + 1
    return counts


class PoolManager:
    """All pools: one thread watches the rows, and one works for each host that starts or ends."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        factories: Mapping[str, ProviderFactory] | None = None,
        *,
        answer_timeout: float = _ANSWER_TIMEOUT,
        retry_delay: Callable[[int], float] = backoff,
    ) -> None:
        """Check all pools; start nothing before ``start``.  Raises UsageError for an invalid one.

        ``factories``: providers by kind; by default the built-in ones and those of plugins.
        ``answer_timeout``: seconds that a host may take from its start to its first answer.
        ``retry_delay`` returns the seconds until a host is started again, from the number of
        failures before.
        """
        self._store, self._settings = store, settings
        self._answer_timeout, self._retry_delay = answer_timeout, retry_delay
        self._given_factories = factories
        self._pools = {pool.name: pool for pool in settings.pools}
        self._providers: dict[str, Provider] = {}
        for pool in settings.pools:
            _factory(pool, self._factories)
            self._provider(pool.kind).check(pool.provider_options)
        #: Threads by the host that they start or end now.
        self._workers: dict[str, threading.Thread] = {}
        #: Monotonic time since which a host has had no job, as far as this process knows.
        self._idle_since: dict[str, float] = {}
        #: Monotonic time of the start of each host that has not answered yet.
        self._started_at: dict[str, float] = {}
        #: Failures in a row to start a host, and the monotonic time of the next attempt.
        self._retries: dict[str, tuple[int, float]] = {}
        #: Hosts that this process has started, or of which it has asked whether they are alive.
        self._verified: set[str] = set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pools", daemon=True)

    def start(self) -> None:
        """Remove hosts without a row, and watch the rows if there are pools or their hosts."""
        self._sweep()
        if self._pools or self._rows():
            self._thread.start()

    def request_hosts(self, unplaced: Iterable[Unplaced]) -> list[str]:
        """Write rows for the hosts that policy wants for ``unplaced``, and return their names."""
        with self._store.read() as connection:
            rows = hosts.list_all(connection)
        wanted = pool_scaling.choose_pools_to_grow(unplaced, self._settings.pools, rows)
        new = [self._new_row(self._pools[name]) for name in wanted]
        if new:
            with self._store.write() as connection:
                for host in new:
                    hosts.configure(connection, host)
        return [host.name for host in new]

    @staticmethod
    def _new_row(pool: Pool) -> Host:
        name = f"{pool.name}-{uuid.uuid4().hex[:8]}"
        reason = "its pool is bringing it up"
        return Host(name, "", pool.labels, pool=pool.name, state=HostState.STARTING, reason=reason)

    def close(self) -> None:
        """Take down hosts without jobs, and close the providers.

        Hosts with jobs keep their rows; the next start brings them up again if need be.
        """
        self._closed.set()
        self._store.changed.signal()
        if self._thread.is_alive():
            self._thread.join()
        for thread in list(self._workers.values()):
            thread.join()
        for host in self._rows():
            if not self._remove(host) and host.pool in self._pools:
                with self._store.write() as connection:
                    hosts.mark_down(connection, host.name, "the dispatcher was stopped")
        for provider in self._providers.values():
            self._log_errors("pools", provider.close)

    # -- watching -----------------------------------------------------------------

    def _watch(self) -> None:
        while not self._closed.is_set():
            seen = self._store.changed.count()
            try:
                delay = self.update()
            except Exception:
                _LOG.exception("the hosts of pools cannot be updated")
                self._closed.wait(_RETRY_DELAY)
                continue
            if not self._closed.is_set():
                self._store.changed.wait(seen, delay)

    def update(self) -> float:
        """Do once what each host of a pool needs; return the seconds until the next update."""
        with self._store.read() as connection:
            rows = [host for host in hosts.list_all(connection) if host.pool]
            job_counts = _count_jobs(connection) if rows else {}
        delays = [_POLL_INTERVAL]
        if any(host.state is HostState.STARTING for host in rows):
            # A stage on several hosts waits for the last one: the others are not idle.
            self._idle_since.clear()
        for host in rows:
            if not self._is_busy(host.name):
                delays.append(self._update_host(host, job_counts.get(host.name, 0)))
        return max(min(delays), 0.0)

    def _rows(self) -> list[Host]:
        with self._store.read() as connection:
            return [host for host in hosts.list_all(connection) if host.pool]

    def _is_busy(self, name: str) -> bool:
        thread = self._workers.get(name)
        if thread is not None and thread.is_alive():
            return True
        self._workers.pop(name, None)
        return False

    def _update_host(self, host: Host, open_jobs: int) -> float:
        """Do what one host needs now; return the seconds until it may need something else."""
        now, pool = time.monotonic(), self._pools.get(host.pool)
        idle_since = self._idle_since.setdefault(host.name, now)
        if open_jobs or host.state is HostState.STARTING:
            idle_since = self._idle_since[host.name] = now
        if pool is None:
            self._retire(host, f"the pool {host.pool} is not configured any more", open_jobs)
            return _POLL_INTERVAL
        if host.state is HostState.QUARANTINED:
            return _POLL_INTERVAL
        reason = pool_scaling.retirement_reason(host, pool, open_jobs, now - idle_since)
        is_draining = host.state is HostState.DRAINING
        if (reason and not is_draining) or (is_draining and not open_jobs):
            self._retire(host, reason or host.reason, open_jobs)
        elif self._is_missing(host):
            return self._retry_start(host, pool)
        elif host.state is HostState.STARTING:
            return self._await_answer(host, now)
        return idle_since + pool.idle_timeout - now if not open_jobs else _POLL_INTERVAL

    def _is_missing(self, host: Host) -> bool:
        """Return whether a host has to be started.

        A host that is up is asked for once in this process: its connection notices its end.
        """
        if not host.spec or host.handle is None:
            return True
        if host.state is HostState.UP and host.name in self._verified:
            return False
        self._verified.add(host.name)
        provider = self._provider_of(host)
        return provider is not None and not provider.is_alive(host.name, host.handle)

    # -- starting -----------------------------------------------------------------

    def _await_answer(self, host: Host, now: float) -> float:
        """Record a failure if a host was started and has not answered its connection in time."""
        left = self._started_at.setdefault(host.name, now) + self._answer_timeout - now
        if left <= 0:
            del self._started_at[host.name]
            with self._store.write() as connection:
                hosts.set_handle(connection, host.name, None)
            self._record_failure(
                host, f"it has not answered for {self._answer_timeout:.0f} s: {host.spec}"
            )
        return max(left, 0.0)

    def _retry_start(self, host: Host, pool: Pool) -> float:
        _, next_attempt = self._retries.get(host.name, (0, 0.0))
        left = next_attempt - time.monotonic()
        if left <= 0:
            self._start_worker(host, lambda: self._bring_up(host, pool))
        return max(left, 0.0) or _POLL_INTERVAL

    def _start_worker(self, host: Host, work: Callable[[], object]) -> None:
        def run() -> None:
            self._log_errors(host.name, work)
            # The update that the signal starts must not take this host for a busy one.
            self._workers.pop(host.name, None)
            self._store.changed.signal()

        thread = threading.Thread(target=run, name=f"pool {host.name}", daemon=True)
        self._workers[host.name] = thread
        thread.start()

    def _bring_up(self, host: Host, pool: Pool) -> None:
        provider = self._provider(pool.kind)
        try:
            running = provider.bring_up(host.name, pool.provider_options, host.handle)
        except (NosejobsError, OSError) as error:
            self._record_failure(host, str(error))
            return
        except Exception as error:
            _LOG.exception("pool %s: host %s", pool.name, host.name)
            self._record_failure(host, f"{type(error).__name__}: {error}")
            return
        self._retries.pop(host.name, None)
        self._started_at[host.name] = time.monotonic()
        self._verified.add(host.name)
        with self._store.write() as connection:
            is_wanted = hosts.get(connection, host.name) is not None
            if is_wanted:
                new = Host(host.name, running.spec, pool.labels, running.slots, pool.name)
                hosts.configure(connection, new)
                hosts.set_handle(connection, host.name, running.handle)
        if not is_wanted:
            provider.take_down(host.name, running.handle)

    def _record_failure(self, host: Host, reason: str) -> None:
        """Count a failed start; it is repeated later, or the host goes into quarantine."""
        failures, _ = self._retries.get(host.name, (0, 0.0))
        next_attempt = time.monotonic() + self._retry_delay(failures)
        self._retries[host.name] = failures + 1, next_attempt
        reason = f"it cannot be brought up: {reason}"
        with self._store.write() as connection:
            hosts.set_reason(connection, host.name, reason)
            limit = self._settings.quarantine
            hosts.record_failure(connection, host.name, reason, limit=limit, at=time.time())

    # -- ending -------------------------------------------------------------------

    def _retire(self, host: Host, reason: str, open_jobs: int) -> None:
        """Drain a host; take it down if it is drained and has no jobs."""
        if host.state is not HostState.DRAINING:
            with self._store.write() as connection:
                state, now = HostState.DRAINING, time.time()
                hosts.set_state(connection, host.name, state, actor=POLICY, reason=reason, at=now)
        elif not open_jobs:
            self._start_worker(host, lambda: self._remove(host))

    def _remove(self, host: Host) -> bool:
        """Delete the row of a host without jobs, and take the host down; return whether it was.

        The row is deleted first, so that the host gets no job meanwhile.
        """
        with self._store.write() as connection:
            if _count_jobs(connection).get(host.name):
                return False
            if hosts.delete_host(connection, host.name):
                audit.write(connection, time.time(), f"host {host.name} taken down", host.reason)
        self._idle_since.pop(host.name, None)
        self._started_at.pop(host.name, None)
        self._verified.discard(host.name)
        self._retries.pop(host.name, None)
        provider = self._provider_of(host)
        if provider is not None:
            self._log_errors(host.name, partial(provider.take_down, host.name, host.handle))
        return True

    def _sweep(self) -> None:
        """Take down hosts that have no row, because an earlier process was killed."""
        folder = self._settings.data / FOLDER
        for kind in sorted(self._factories) if folder.is_dir() else ():
            if (folder / kind).is_dir():
                self._provider(kind)
        known = {host.name for host in self._rows()}
        for provider in self._providers.values():
            for name in sorted(set(provider.existing()) - known):
                self._log_errors(name, partial(provider.take_down, name, None))

    # -- providers ----------------------------------------------------------------

    @cached_property
    def _factories(self) -> Mapping[str, ProviderFactory]:
        given = self._given_factories
        return _load_factories() if given is None else given

    def _provider(self, kind: str) -> Provider:
        if kind not in self._providers:
            self._providers[kind] = self._factories[kind](self._settings.data / FOLDER / kind)
        return self._providers[kind]

    def _provider_of(self, host: Host) -> Provider | None:
        """Return the provider of a host; None if its pool is gone and nothing of it is left."""
        pool = self._pools.get(host.pool)
        if pool is not None:
            return self._provider(pool.kind)
        providers = self._providers.values()
        return next((each for each in providers if host.name in each.existing()), None)

    @staticmethod
    def _log_errors(name: str, work: Callable[[], object]) -> None:
        """Log any exception, so that the other hosts are still served; a sweep removes the rest."""
        try:
            work()
        except Exception as error:
            trace = not isinstance(error, (NosejobsError, OSError))
            _LOG.warning("%s: %s", name, error, exc_info=trace)
