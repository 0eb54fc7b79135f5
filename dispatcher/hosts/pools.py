"""Pools: hosts that come when they are wanted and go when nobody needs them.

Owns the rows of such hosts from the first to the last, and asks providers for the machines behind
them.  Must not know what a provider does.  A row comes before its host and goes after it has got
nothing to do any more, so that a kill at any moment leaves no host without a row for longer than
until the next start.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from sqlalchemy import Connection

from shell_runner.errors import NosejobsError, UsageError
from shell_runner.hosts.heartbeat import backoff

from ..configuration.settings import Pool, Settings
from ..model import POLICY, Host, HostState, JobState
from ..policy import pool_scaling
from ..policy.placement import Unplaced
from ..store import Store, audit, hosts, jobs
from .hookspecs import Maker, Provider
from .pool_plugins import pool_kinds

_LOG = logging.getLogger(__name__)
#: Seconds between two looks though nobody has written anything, and until one that failed.
_LOOK, _AGAIN = 30.0, 1.0
#: Seconds that a host may take from its being there to its first answer.
_COMING = 120.0
#: Where providers keep their files, below the data: a folder for each kind.
FOLDER = "pools"


def check(settings: Settings, known: Mapping[str, Maker] | None = None) -> None:
    """UsageError for a pool whose kind is unknown or whose options cannot be."""
    makers = pool_kinds() if known is None else known
    for pool in settings.pools:
        _maker(pool, makers)(settings.data / FOLDER / pool.kind).check(pool)


def _maker(pool: Pool, makers: Mapping[str, Maker]) -> Maker:
    try:
        return makers[pool.kind]
    except KeyError:
        words = f"[pools.{pool.name}]: there is no kind of pools {pool.kind!r}"
        raise UsageError(f"{words}\n  try: one of {', '.join(sorted(makers))}") from None


def _load(connection: Connection) -> dict[str, int]:
    """Jobs by host that it is still asked about: those to be acknowledged, too."""
    found = jobs.load(connection)
    for job in jobs.in_state(connection, JobState.HARVESTED):
        found[job.host] = found.get(job.host, 0) + 1
    return found


class Pools:
    """All pools; one thread watches the rows, and one for each host that comes or goes."""

    def __init__(
        self, store: Store, settings: Settings, known: Mapping[str, Maker] | None = None
    ) -> None:
        """UsageError for a pool that cannot be; nothing is started before ``start``."""
        self._store, self._settings = store, settings
        self._makers = pool_kinds() if known is None else known
        self._pools = {pool.name: pool for pool in settings.pools}
        self._providers: dict[str, Provider] = {}
        for pool in settings.pools:
            _maker(pool, self._makers)
            self._provider(pool.kind).check(pool)
        #: Hosts that come or go now; when they had a job last; not before then.
        self._busy: dict[str, threading.Thread] = {}
        self._idle: dict[str, float] = {}
        #: When it was there, of one that has not answered yet.
        self._there: dict[str, float] = {}
        self._later: dict[str, tuple[int, float]] = {}
        #: Hosts of which this process knows that they live or have lived.
        self._met: set[str] = set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pools", daemon=True)

    def start(self) -> None:
        """Find what an earlier process has left, and follow the rows, if there can be any."""
        self._sweep()
        if self._pools or self._rows():
            self._thread.start()

    def grow(self, waits: Iterable[Unplaced]) -> list[str]:
        """Rows for the hosts that policy wants; the names of these hosts, which come soon."""
        with self._store.read() as connection:
            found = hosts.every(connection)
        wanted = pool_scaling.grow(waits, self._settings.pools, found)
        new = [self._row(self._pools[name]) for name in wanted]
        if new:
            with self._store.write() as connection:
                for host in new:
                    hosts.configure(connection, host)
        return [host.name for host in new]

    @staticmethod
    def _row(pool: Pool) -> Host:
        name = f"{pool.name}-{uuid.uuid4().hex[:8]}"
        reason = "it is brought up"
        return Host(name, "", pool.labels, pool=pool.name, state=HostState.STARTING, reason=reason)

    def close(self) -> None:
        """Idle hosts go; those with jobs stop if they cannot be left, and are back next time."""
        self._closed.set()
        self._store.changed.signal()
        if self._thread.is_alive():
            self._thread.join()
        for thread in list(self._busy.values()):
            thread.join()
        for host in self._rows():
            if not self._forget(host) and host.pool in self._pools:
                with self._store.write() as connection:
                    hosts.down(connection, host.name, "the dispatcher was stopped")
        for provider in self._providers.values():
            self._calmly("pools", provider.close)

    # -- watching -----------------------------------------------------------------

    def _watch(self) -> None:
        while not self._closed.is_set():
            seen = self._store.changed.now()
            try:
                patience = self.look()
            except Exception:
                _LOG.exception("the pools cannot be looked after")
                self._closed.wait(_AGAIN)
                continue
            if not self._closed.is_set():
                self._store.changed.wait(seen, patience)

    def look(self) -> float:
        """One look at all hosts of pools; seconds until the next one is worth it."""
        with self._store.read() as connection:
            found = [host for host in hosts.every(connection) if host.pool]
            load = _load(connection) if found else {}
        patience = [_LOOK]
        if any(host.state is HostState.STARTING for host in found):
            # Whoever wants several at once waits for the last one: the others are not idle.
            self._idle.clear()
        for host in found:
            if not self._is_busy(host.name):
                patience.append(self._look_at(host, load.get(host.name, 0)))
        return max(min(patience), 0.0)

    def _rows(self) -> list[Host]:
        with self._store.read() as connection:
            return [host for host in hosts.every(connection) if host.pool]

    def _is_busy(self, name: str) -> bool:
        thread = self._busy.get(name)
        if thread is not None and thread.is_alive():
            return True
        self._busy.pop(name, None)
        return False

    def _look_at(self, host: Host, open_jobs: int) -> float:
        """What is to be done with one host now; seconds until there may be more."""
        now, pool = time.monotonic(), self._pools.get(host.pool)
        since = self._idle.setdefault(host.name, now)
        if open_jobs or host.state is HostState.STARTING:
            since = self._idle[host.name] = now
        if pool is None:
            self._retire(host, f"there is no pool {host.pool} any more", open_jobs)
            return _LOOK
        if host.state is HostState.QUARANTINED:
            return _LOOK
        why = pool_scaling.retirement_reason(host, pool, open_jobs, now - since)
        is_leaving = host.state is HostState.DRAINING
        if (why and not is_leaving) or (is_leaving and not open_jobs):
            self._retire(host, why or host.reason, open_jobs)
        elif self._is_missing(host):
            return self._revive(host, pool)
        elif host.state is HostState.STARTING:
            return self._await(host, now)
        return since + pool.idle - now if not open_jobs else _LOOK

    def _is_missing(self, host: Host) -> bool:
        """It has to be brought up.  Of one that is up nobody has to ask: its link does."""
        if not host.spec or host.handle is None:
            return True
        if host.state is HostState.UP and host.name in self._met:
            return False
        self._met.add(host.name)
        provider = self._provider_of(host)
        return provider is not None and not provider.is_alive(host.name, host.handle)

    # -- coming -------------------------------------------------------------------

    def _await(self, host: Host, now: float) -> float:
        """It is there, and has not answered its link; that cannot last."""
        left = self._there.setdefault(host.name, now) + _COMING - now
        if left <= 0:
            del self._there[host.name]
            with self._store.write() as connection:
                hosts.set_handle(connection, host.name, None)
            self._fail(host, f"it has not answered for {_COMING:.0f} s: {host.spec}")
        return max(left, 0.0)

    def _revive(self, host: Host, pool: Pool) -> float:
        _, after = self._later.get(host.name, (0, 0.0))
        left = after - time.monotonic()
        if left <= 0:
            self._spawn(host, lambda: self._bring_up(host, pool))
        return max(left, 0.0) or _LOOK

    def _spawn(self, host: Host, work: Callable[[], object]) -> None:
        def run() -> None:
            self._calmly(host.name, work)
            # Whoever looks now must not find us at it.
            self._busy.pop(host.name, None)
            self._store.changed.signal()

        thread = threading.Thread(target=run, name=f"pool {host.name}", daemon=True)
        self._busy[host.name] = thread
        thread.start()

    def _bring_up(self, host: Host, pool: Pool) -> None:
        provider = self._provider(pool.kind)
        try:
            raised = provider.bring_up(host.name, pool, host.handle)
        except (NosejobsError, OSError) as error:
            self._fail(host, str(error))
            return
        except Exception as error:
            _LOG.exception("pool %s: host %s", pool.name, host.name)
            self._fail(host, f"{type(error).__name__}: {error}")
            return
        self._later.pop(host.name, None)
        self._there[host.name] = time.monotonic()
        self._met.add(host.name)
        with self._store.write() as connection:
            is_wanted = hosts.get(connection, host.name) is not None
            if is_wanted:
                new = Host(host.name, raised.spec, pool.labels, raised.slots, pool.name)
                hosts.configure(connection, new)
                hosts.set_handle(connection, host.name, raised.handle)
        if not is_wanted:
            provider.take_down(host.name, raised.handle)

    def _fail(self, host: Host, words: str) -> None:
        """Once more later; after some failures in a row somebody has to look."""
        count, _ = self._later.get(host.name, (0, 0.0))
        self._later[host.name] = (count + 1, time.monotonic() + backoff(count))
        words = f"it cannot be brought up: {words}"
        with self._store.write() as connection:
            hosts.explain(connection, host.name, words)
            most = self._settings.quarantine
            hosts.failed(connection, host.name, words, most=most, at=time.time())

    # -- going --------------------------------------------------------------------

    def _retire(self, host: Host, why: str, open_jobs: int) -> None:
        """It gets nothing new; without jobs it goes."""
        if host.state is not HostState.DRAINING:
            with self._store.write() as connection:
                state, now = HostState.DRAINING, time.time()
                hosts.set_state(connection, host.name, state, who=POLICY, reason=why, at=now)
        elif not open_jobs:
            self._spawn(host, lambda: self._forget(host))

    def _forget(self, host: Host) -> bool:
        """Row first, so that it gets no job meanwhile; whether it had none."""
        with self._store.write() as connection:
            if _load(connection).get(host.name):
                return False
            if hosts.forget(connection, host.name):
                words = f"host {host.name} is taken down"
                audit.write(connection, time.time(), words, host.reason)
        self._idle.pop(host.name, None)
        self._there.pop(host.name, None)
        self._met.discard(host.name)
        self._later.pop(host.name, None)
        provider = self._provider_of(host)
        if provider is not None:
            self._calmly(host.name, partial(provider.take_down, host.name, host.handle))
        return True

    def _sweep(self) -> None:
        """Hosts without a row: we died before they were gone, or before the row was theirs."""
        for kind in sorted(self._makers):
            if (self._settings.data / FOLDER / kind).is_dir():
                self._provider(kind)
        known = {host.name for host in self._rows()}
        for provider in self._providers.values():
            for name in sorted(set(provider.existing()) - known):
                self._calmly(name, partial(provider.take_down, name, None))

    # -- providers ----------------------------------------------------------------

    def _provider(self, kind: str) -> Provider:
        if kind not in self._providers:
            self._providers[kind] = self._makers[kind](self._settings.data / FOLDER / kind)
        return self._providers[kind]

    def _provider_of(self, host: Host) -> Provider | None:
        """None: it has left nothing behind, and its pool is no more."""
        pool = self._pools.get(host.pool)
        if pool is not None:
            return self._provider(pool.kind)
        found = self._providers.values()
        return next((each for each in found if host.name in each.existing()), None)

    @staticmethod
    def _calmly(name: str, work: Callable[[], object]) -> None:
        """Trouble of one host must not end the care for others; what is left is swept later."""
        try:
            work()
        except Exception as error:
            trace = not isinstance(error, (NosejobsError, OSError))
            _LOG.warning("%s: %s", name, error, exc_info=trace)
