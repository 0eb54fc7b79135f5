"""One host that is up: what rows want of it is done there, what it says becomes rows.

Owns the conversation with one host, in one thread.  Must not know policy, nor what a job is about:
``Work`` does.  Every step can be repeated: a job has its UUID before the host hears of it, and what
this thread remembers beside the rows is what it can ask the host again.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shell_runner import hosts as specs
from shell_runner import told
from shell_runner.config import HostEntry
from shell_runner.errors import (
    CannotOpen,
    HostError,
    HostLost,
    JobRefused,
    NosejobsError,
    UsageError,
)
from shell_runner.gateways import OPEN_TIMEOUT
from shell_runner.heartbeat import backoff
from shell_runner.hosts import HostSpec
from shell_runner.jobs import Client
from shell_runner.remote.job import NewJob
from shell_runner.session import TIMEOUT, Session
from shell_runner.shipping import Tree

from .model import HostState, Job, JobEvent, JobState, OutcomeCounts
from .policy import retry
from .store import Store, StoreError, audit, hosts, jobs, results

_LOG = logging.getLogger(__name__)
#: What the host says of a job that it does not have.
_GONE = "gone"
#: Seconds that a host is listened to before rows are looked at though nobody wakes us.
_LOOK = 20.0
#: Seconds between two dates of its last answer in its row.
_BEAT = 10.0
#: A package of up to so many bytes is here before a row could say that its job has ended.
_AT_ONCE = 1 << 20
#: Bytes that stay free beside it.
_MARGIN = 1 << 20
#: How often what goes wrong with a job is tried, and the seconds in between.
_STRIKES, _PAUSE = 3, 1.0
#: Seconds that a busy machine may wake us too late.
_OVERSLEPT = 2.0
#: Seconds of conversation after which a connection counts as sound.
_SOUND = 5.0
#: Seconds until a host with a full queue, or a disk of ours without room, is tried again.
_LATER = 5.0
#: Given-up jobs that a host is asked about when it is back: of the last days, and at most.
_LATE, _MANY = 7 * 86_400.0, 1000
#: Seconds for what cannot be broken off when a link is closed: the packing of a tree.
_END = 30.0
#: Characters of what a row says of trouble.
_WORDS = 2000
#: What refuses a job now and may take it in a moment.
_PASSES = ("bad", "corrupt", "disk", "state")


class Work(Protocol):
    """What jobs are about."""

    def prepare(self, job: Job) -> tuple[NewJob, Sequence[Tree]]:
        """What is handed in, under the UUID of the row; UsageError: it cannot be run at all."""

    def mistrust(self, job: Job) -> None:
        """What was prepared for it is not what it was: look at all of it before the next time."""

    def harvested(self, job: Job, package: Path) -> None:
        """Verify and keep a package, with all rows of it, in one transaction.

        The file may be moved away.  HostError: it cannot be believed.
        """


@dataclass(frozen=True)
class Terms:
    """How patient we are with a host."""

    #: Seconds without an answer after which its jobs are lost.
    lease: float = 120.0
    #: Infrastructure failures in a row that put it into quarantine.
    quarantine: int = 3
    #: Seconds of silence after which a connection is given up.
    silence: float = TIMEOUT


@dataclass(frozen=True)
class _Todo:
    """Rows of one host."""

    planned: Sequence[Job] = ()
    #: The host has them, as far as we know.
    running: Sequence[Job] = ()
    harvested: Sequence[Job] = ()
    #: Given up by us; perhaps the host has them.
    lost: Sequence[Job] = ()
    #: Those of all these that nobody wants any more.
    stopped: frozenset[str] = frozenset()

    @property
    def asks(self) -> frozenset[str]:
        """What a link has to know of at once."""
        return frozenset(job.id for job in self.planned) | asks_of(self.stopped)


def asks_of(stopped: frozenset[str]) -> frozenset[str]:
    """What tells a job that is to be stopped from the same one that is to be started."""
    return frozenset(f"stop {job}" for job in stopped)


class Link:
    """The thread of one host."""

    def __init__(
        self,
        store: Store,
        work: Work,
        name: str,
        spec: str,
        incoming: Path,
        terms: Terms,
        stops: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        """``incoming``: where packages grow; ``stops``: jobs that end though no row says so."""
        self.name, self.spec = name, spec
        self._store, self._work, self._terms = store, work, terms
        self._incoming, self._stops = incoming, stops
        self._closed = threading.Event()
        self._client: Client | None = None
        #: What the last look at rows has shown; somebody else reads it.
        self._known: frozenset[str] = frozenset()
        #: When the host answered last, and when that was written, by the monotonic clock.
        self._contact = self._written = time.monotonic()
        #: By job: state on the host ("gone": not there), and all that it said of it.
        self._seen: dict[str, str] = {}
        self._told: dict[str, told.Job] = {}
        #: Planned ones that an earlier conversation may have handed in.
        self._doubtful: frozenset[str] | None = None
        self._strikes: dict[str, int] = {}
        self._postponed: dict[str, float] = {}
        self._cancelled: set[str] = set()
        self._no_worker = ""
        self._thread = threading.Thread(target=self._run, name=f"link {name}", daemon=True)
        self._thread.start()

    def tell(self, asks: frozenset[str]) -> None:
        """There may be something that the last look has not shown."""
        client = self._client
        if client is not None and not asks <= self._known:
            client.interrupt()

    def close(self, wait: bool = True) -> None:
        """End the conversation, wherever it is; rows say how it goes on."""
        self._closed.set()
        client = self._client
        if client is not None:
            client.abort()
        if wait:
            self._thread.join(_END)

    # -- the thread ---------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._closed.is_set():
            began, contact = time.monotonic(), self._contact
            try:
                self._converse()
                continue
            except (HostError, JobRefused, UsageError) as error:
                words, is_theirs = str(error), True
            except Exception as error:
                _LOG.exception("host %s: trouble of our own", self.name)
                words, is_theirs = f"{type(error).__name__}: {error}", False
            if self._closed.is_set():
                return
            self._forgive(began, was_open=self._contact > contact)
            has_lasted = self._contact > contact and time.monotonic() - began > _SOUND
            failures = 1 if has_lasted else failures + 1
            if is_theirs and (self._contact == contact or failures > 1):
                with self._calmly():
                    self._out_of_reach(words)
            self._rest(self._pause(failures))

    def _rest(self, seconds: float) -> None:
        before = time.monotonic()
        self._closed.wait(seconds)
        self._contact += max(time.monotonic() - before - seconds - _OVERSLEPT, 0.0)

    def _forgive(self, began: float, was_open: bool) -> None:
        """If we were stopped (Ctrl-Z, a suspended machine), that is no silence of the host's.

        While a connection is open, silence is noticed in time by whoever is awake; and no attempt
        to open one takes longer than it may.
        """
        now = time.monotonic()
        if was_open:
            self._contact = max(self._contact, now - self._terms.silence)
        else:
            self._contact += max(now - began - OPEN_TIMEOUT - _OVERSLEPT, 0.0)

    def _pause(self, failures: int) -> float:
        """A connection that broke is opened again at once, but not for ever."""
        if failures < 2:
            return 0.0
        left = self._contact + self._terms.lease - time.monotonic()
        return min(backoff(failures - 2), left if left > 0 else _LOOK)

    def _converse(self) -> None:
        """One connection; ends with an error, or when the link is closed."""
        self._seen, self._told, self._doubtful = {}, {}, None
        self._cancelled = set()
        client = Client(self._parsed(), self._terms.silence, open_session=self._open, tries=1)
        with client:
            self._client = client
            try:
                facts = client.open()
                client.news({}, 0.0)  # only who can read its queue is up
                self._beat(dict(facts))
                while not self._closed.is_set():
                    self._turn(client)
            finally:
                self._client = None

    def _parsed(self) -> HostSpec:
        (spec,) = specs.parse([self.name], {self.name: HostEntry(self.name, self.spec)})
        return spec

    def _open(self, spec: HostSpec, silence: float) -> Session:
        return Session(spec, silence, cancel=self._closed)

    def _turn(self, client: Client) -> None:
        """All that can be done now; then wait for news of either side."""
        todo = self._look()
        while self._do(client, todo) and not self._closed.is_set():
            todo = self._look()
        asked = self._asked(todo)
        found = client.news(asked, self._patience(), self._no_worker)
        self._beat()
        for job in found.jobs:
            self._hear(job)
        for id in found.gone:
            self._seen[id] = _GONE
        if found.no_worker != self._no_worker:
            self._show(found.no_worker)

    def _show(self, no_worker: str) -> None:
        """Jobs wait there, and nobody runs them: whoever looks at the host sees why."""
        self._no_worker = no_worker
        _LOG.warning("host %s: %s", self.name, no_worker or "its worker is back")
        with self._store.write() as connection:
            host = hosts.get(connection, self.name)
            if host is not None and host.state is HostState.UP:
                hosts.explain(connection, self.name, no_worker)

    def _asked(self, todo: _Todo) -> dict[str, str]:
        """Jobs whose state on the host is of interest."""
        unsure = [job for job in todo.planned if self._is_doubtful(job)]
        found = {job.id: self._seen.get(job.id, "") for job in (*unsure, *todo.running, *todo.lost)}
        for id in self._seen.keys() - found.keys():
            self._told.pop(id, None)
            del self._seen[id]
        return {id: state for id, state in found.items() if state != _GONE}

    def _hear(self, job: told.Job) -> None:
        self._seen[job.id] = job.state
        self._told[job.id] = job

    def _is_doubtful(self, job: Job) -> bool:
        return self._doubtful is not None and job.id in self._doubtful

    def _patience(self) -> float:
        now = time.monotonic()
        return max(min([_LOOK, *(at - now for at in self._postponed.values() if at > now)]), 0.0)

    # -- rows ---------------------------------------------------------------------

    def _look(self) -> _Todo:
        states = JobState.PLANNED, JobState.SUBMITTED, JobState.ENDED, JobState.HARVESTED
        with self._store.read() as connection:
            found = jobs.in_state(connection, *states, host=self.name)
            stopped = jobs.stopped(connection).keys() | self._stops()
            lost = jobs.lost_on(connection, self.name, time.time() - _LATE, _MANY)
        todo = _Todo(
            [job for job in found if job.state is JobState.PLANNED],
            [job for job in found if job.state in (JobState.SUBMITTED, JobState.ENDED)],
            [job for job in found if job.state is JobState.HARVESTED],
            lost,
            frozenset(job.id for job in found if job.id in stopped and job.state.open),
        )
        self._known = todo.asks
        self._forget_trouble()
        if self._doubtful is None:
            self._doubtful = frozenset(job.id for job in todo.planned)
        return todo

    def _forget_trouble(self) -> None:
        """Of jobs that were not tried again when they could be: they are over."""
        since = time.monotonic() - _LATER
        self._postponed = {id: at for id, at in self._postponed.items() if at > since}
        self._strikes = {id: self._strikes[id] for id in self._strikes.keys() & self._postponed}

    def _beat(self, facts: dict[str, object] | None = None) -> None:
        """It has answered; who waits is told if that is news."""
        self._contact = time.monotonic()
        if facts is None and self._contact - self._written < _BEAT:
            return
        self._written = self._contact
        with self._store.write(quiet=True) as connection:
            is_news = hosts.beat(connection, self.name, time.time(), facts)
        if is_news:
            self._store.wake()

    def _out_of_reach(self, words: str) -> None:
        """It does not answer; after the lease its jobs are lost."""
        silence = time.monotonic() - self._contact
        with self._store.write() as connection:
            hosts.down(connection, self.name, _short(words))
        if silence < self._terms.lease:
            return
        todo = self._look()
        for number, job in enumerate((*todo.planned, *todo.running)):
            # It is one failure, however many jobs it had.
            why = f"it has not answered for {silence:.0f} s: {words}"
            self._lose(job, why, blame=number == 0)

    def _lose(self, job: Job, words: str, *, blame: bool = True, how: str = "") -> bool:
        """The job will not end there, as far as we care."""
        now, fields = time.time(), {"detail": _short(words), **({"how": how} if how else {})}
        with self._store.write() as connection:
            done = jobs.move(connection, job.id, JobEvent.LOSE, **fields)
            if done:
                audit.write(connection, now, f"job {job.id} of {job.host} lost", _short(words))
            if done and blame:
                most = self._terms.quarantine
                hosts.failed(connection, self.name, _short(words), most=most, at=now)
        return done

    def _tell(self, job: Job, event: JobEvent, **fields: object) -> bool:
        """How far it is on its host, for people: nothing follows of that."""
        with self._store.write(follows=False) as connection:
            return jobs.move(connection, job.id, event, **fields)

    # -- what is to be done -------------------------------------------------------

    def _do(self, client: Client, todo: _Todo) -> bool:
        """Each thing once; whether a row has changed by it."""
        done = False
        for job, step in self._steps(todo):
            if self._closed.is_set():
                return False
            if self._postponed.get(job.id, 0.0) <= time.monotonic():
                done |= self._try(client, job, step)
        return done

    def _steps(self, todo: _Todo) -> Iterator[tuple[Job, Callable[[Client, Job], bool]]]:
        """What gets others on comes first: who is told last is told early enough."""
        for job in todo.planned:
            if job.id in todo.stopped and not self._is_there(job):
                yield job, self._withdraw
            elif not self._is_doubtful(job) or job.id in self._seen:
                yield job, self._submit
        for job in todo.running:
            if self._seen.get(job.id) == _GONE:
                yield job, self._miss
            elif job.id in self._told and self._told[job.id].is_done:
                yield job, self._harvest
            elif job.id in todo.stopped:
                yield job, self._cancel
        for job in todo.harvested:
            yield job, self._acknowledge
        for job in todo.lost:
            if self._is_there(job):
                yield job, self._clear_away

    def _is_there(self, job: Job) -> bool:
        """The host has it, or may have it."""
        if self._is_doubtful(job) and job.id not in self._seen:
            return True
        return self._seen.get(job.id, _GONE) != _GONE

    def _try(self, client: Client, job: Job, step: Callable[[Client, Job], bool]) -> bool:
        """One step of one job, whose trouble is not that of others."""
        try:
            done = step(client, job)
        except (HostLost, CannotOpen):
            raise
        except (HostError, JobRefused) as error:
            return self._strike(job, error)
        except Exception as error:
            if self._closed.is_set():
                raise
            self._wait(job, error)
            return False
        self._strikes.pop(job.id, None)
        self._postponed.pop(job.id, None)
        if job.detail and job.state.open:
            self._explain(job, "")
        return done

    def _wait(self, job: Job, error: Exception) -> None:
        """Trouble of ours: it is tried until somebody has mended it, and says so."""
        trace = not isinstance(error, NosejobsError)
        _LOG.warning("host %s: job %s waits: %s", self.name, job.id, error, exc_info=trace)
        self._postponed[job.id] = time.monotonic() + _LATER
        if isinstance(error, UsageError):
            with self._calmly():
                self._work.mistrust(job)
        if job.state.open:
            self._explain(job, _short(f"{type(error).__name__}: {error}" if trace else str(error)))

    def _explain(self, job: Job, words: str) -> None:
        """In its row, unless it is the database that is in trouble."""
        with suppress(StoreError), self._store.write() as connection:
            jobs.describe(connection, job.id, words)

    def _strike(self, job: Job, error: HostError | JobRefused) -> bool:
        """The host does not do its part: once more, or somewhere else."""
        if isinstance(error, JobRefused) and error.kind == "full":
            self._postponed[job.id] = time.monotonic() + _LATER
            return False
        self._strikes[job.id] = self._strikes.get(job.id, 0) + 1
        self._postponed[job.id] = time.monotonic() + _PAUSE
        can_pass = not isinstance(error, JobRefused) or error.kind in _PASSES
        if can_pass and self._strikes[job.id] < _STRIKES:
            return False
        if job.state is JobState.LOST:
            self._seen[job.id] = _GONE  # there is nothing to be had of it
            return False
        return self._lose(job, str(error))

    # -- steps --------------------------------------------------------------------

    def _submit(self, client: Client, job: Job) -> bool:
        """Hand it in, unless an earlier conversation has."""
        found = self._told.get(job.id)
        if found is None:
            try:
                new, trees = self._work.prepare(job)
            except UsageError as error:
                return self._lose(job, str(error), blame=False)
            found, _ = client.submit(new, trees)
        self._hear(found)
        return self._tell(job, JobEvent.ACCEPT, submitted=time.time())

    def _withdraw(self, client: Client, job: Job) -> bool:
        return self._lose(job, "it was stopped before it began", blame=False, how="cancelled")

    def _miss(self, client: Client, job: Job) -> bool:
        return self._lose(job, "the host has no such job any more")

    def _cancel(self, client: Client, job: Job) -> bool:
        """Ask for its end, once in a conversation: it comes as news."""
        if job.id not in self._cancelled:
            self._cancelled.add(job.id)
            self._soften(lambda: client.cancel(job.id))
        return False

    def _harvest(self, client: Client, job: Job) -> bool:
        found = self._told[job.id]
        if found.size > _AT_ONCE:
            self._tell(job, JobEvent.END)
        self._bring(client, job, found)
        with self._store.read() as connection:
            now = jobs.get(connection, job.id)
        if now is not None and now.state is JobState.HARVESTED:
            self._acknowledge(client, now)
        return True

    def _bring(self, client: Client, job: Job, found: told.Job) -> None:
        """The package is here, and kept; what is left of the file is removed."""
        path = self._incoming / f"{job.id}.zip"
        self._check_room(path, found.size)
        client.download(job.id, path, lambda part: None, known=found)
        try:
            self._work.harvested(job, path)
        except HostError:
            path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)

    def _check_room(self, path: Path, size: int) -> None:
        """A package that does not fit must not fill the disk: the database has to say so on it."""
        free = shutil.disk_usage(self._incoming).free
        parts = (path, path.with_name(f"{path.name}.part"))
        there = sum(each.stat().st_size for each in parts if each.exists())
        if size - there + _MARGIN > free:
            words = f"a package has {size} bytes, and {free} are free"
            raise NosejobsError(f"{self._incoming}: {os.strerror(errno.ENOSPC)}: {words}")

    def _acknowledge(self, client: Client, job: Job) -> bool:
        """The host may forget it; whoever counts its work does so in the same transaction."""
        self._soften(lambda: client.acknowledge(job.id, job.package))
        blamed = False
        with self._store.write(follows=False) as connection:
            done = jobs.move(connection, job.id, JobEvent.ACKNOWLEDGE)
            if done:
                counts = results.counts(connection, [job.id]).get(job.id, OutcomeCounts())
                part = retry.Part(job, infrastructure=counts.infrastructure)
                blamed = bool(retry.failing_hosts([part]))
                if blamed:
                    words, most = retry.infrastructure_reason(part), self._terms.quarantine
                    hosts.failed(connection, self.name, words, most=most, at=time.time())
                else:
                    hosts.succeeded(connection, self.name)
        if blamed:
            self._store.wake()
        return done

    def _clear_away(self, client: Client, job: Job) -> bool:
        """The host is back with a job that was given up: evidence if it has ended, else its end."""
        found = self._told.get(job.id)
        if found is None:
            return False
        if not found.is_done:
            return self._cancel(client, job)
        if found.state == "ready":
            if not job.package:
                self._bring(client, job, found)
            self._soften(lambda: client.acknowledge(job.id, found.package))
        self._seen[job.id] = _GONE
        return True

    @staticmethod
    def _soften(request: Callable[[], object]) -> None:
        """A host that does not know the job, or has done so, is as good as one that does it."""
        try:
            request()
        except JobRefused as error:
            if error.kind not in ("unknown", "state", "differs"):
                raise

    @contextmanager
    def _calmly(self) -> Iterator[None]:
        """Trouble of ours must not end the thread: it comes by again."""
        try:
            yield
        except Exception:
            _LOG.exception("host %s: trouble of our own", self.name)


def _short(words: str) -> str:
    return words if len(words) <= _WORDS else f"{words[:_WORDS]}..."
