"""Hosts: a link to each, and what becomes of the jobs of those that are gone.

Owns which links there are, and that each hears of rows that are its own.  Must not know what is
said to a host: ``link`` does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable

from shell_runner.session import TIMEOUT

from .link import Link, Terms, Work, asks_of
from .model import Host, HostState, Job, JobEvent, JobState
from .settings import Settings
from .store import Store, audit, hosts, jobs

__all__ = ["Links", "Terms", "Work", "configure"]

_LOG = logging.getLogger(__name__)
#: Seconds between two looks though nobody has written anything.
_LOOK = 30.0
#: Seconds until a look that failed is repeated.
_AGAIN = 1.0
#: Where packages grow, below the data.
INCOMING = "incoming"
_OPEN = tuple(state for state in JobState if state.open)


def configure(store: Store, settings: Settings) -> None:
    """Rows for the hosts of the dispatcher's file; those of others go.

    A new one is down until it has answered: nothing is placed on a host that nobody has seen.
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


class Links:
    """A link for each host with a row; a thread that watches the rows for all of them."""

    def __init__(self, store: Store, settings: Settings, work: Work, terms: Terms | None = None):
        """Open nothing; ``start`` does."""
        self._store, self._work = store, work
        # Within a lease a host is missed, and opened again.
        silence = min(TIMEOUT, settings.lease / 2)
        self._terms = terms or Terms(settings.lease, settings.quarantine, silence)
        self._incoming = settings.data / INCOMING
        self._links: dict[str, Link] = {}
        self._stops: frozenset[str] = frozenset()
        self._lock, self._stopping = threading.Lock(), threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="links", daemon=True)

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
            old = [link for link in self._links.values() if found.get(link.name) != link.spec]
            for link in old:
                del self._links[link.name]
            _close(old)
            for name, spec in found.items():
                if name not in self._links:
                    self._links[name] = self._link(name, spec)

    def _link(self, name: str, spec: str) -> Link:
        return Link(
            self._store, self._work, name, spec, self._incoming, self._terms, lambda: self._stops
        )

    def stop(self, found: Iterable[str]) -> None:
        """These jobs are to end, though their stage run is not over: their peers are gone.

        Only in memory: who decides that decides it again from the rows.
        """
        with self._stopping:
            before = self._stops
            self._stops = before | frozenset(found)
        if self._stops != before:
            self._store.due.signal()

    def close(self) -> None:
        """No thread stays, no connection, no child; what was to be done is in the rows."""
        self._closed.set()
        self._store.due.signal()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            _close(self._links.values())
            self._links.clear()

    # -- watching -----------------------------------------------------------------

    def _watch(self) -> None:
        while not self._closed.is_set():
            seen = self._store.due.now()
            try:
                self.look()
            except Exception:
                _LOG.exception("the hosts cannot be looked after")
                self._closed.wait(_AGAIN)
                continue
            if not self._closed.is_set():
                self._store.due.wait(seen, _LOOK)

    def look(self) -> None:
        """One look at the rows: links that are missing, jobs without a host, who has to know."""
        with self._store.read() as connection:
            found = jobs.in_state(connection, *_OPEN)
            stopped = jobs.stopped(connection).keys() | self._stops
            rows = hosts.every(connection)
        self._open_all(rows)
        with self._stopping:
            self._stops &= frozenset(job.id for job in found)
        names = {host.name for host in rows}
        self._lose([job.id for job in found if job.host not in names])
        asks = _asks(found, stopped)
        with self._lock:
            for link in self._links.values():
                link.tell(asks.get(link.name, frozenset()))

    def _lose(self, orphans: list[str]) -> None:
        """Whose host nobody knows any more."""
        if not orphans:
            return
        words = "the dispatcher has no such host any more"
        with self._store.write() as connection:
            for job in orphans:
                if jobs.move(connection, job, JobEvent.LOSE, detail=words):
                    audit.write(connection, time.time(), f"job {job} lost", words)

    def _sweep(self) -> None:
        """Packages that were kept, or that nobody will ask for again, leave no file here."""
        states = JobState.SUBMITTED, JobState.ENDED, JobState.LOST
        with self._store.read() as connection:
            wanted = {job.id for job in jobs.in_state(connection, *states) if not job.package}
        for path in self._incoming.iterdir():
            if path.name.split(".")[0] not in wanted:
                path.unlink(missing_ok=True)


def _asks(found: Iterable[Job], stopped: Collection[str]) -> dict[str, frozenset[str]]:
    """By host, what its link has to know of at once."""
    asks: dict[str, set[str]] = {}
    for job in found:
        own = asks.setdefault(job.host, set())
        if job.state is JobState.PLANNED:
            own.add(job.id)
        if job.id in stopped:
            own |= asks_of(frozenset([job.id]))
    return {host: frozenset(own) for host, own in asks.items()}


def _close(links: Iterable[Link]) -> None:
    """All at once: each may take a moment."""
    found = list(links)
    for link in found:
        link.close(wait=False)
    for link in found:
        link.close()
