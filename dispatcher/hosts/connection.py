"""The connection to one host: it does there what rows ask for, and writes what the host says.

Owns the conversation with one host, in one thread, and when a failed step is tried again.  Must
not know policy, nor what a job is about.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from shell_runner.config import HostEntry
from shell_runner.errors import (
    CannotOpen,
    HostError,
    HostLost,
    JobRefused,
    NosejobsError,
    UsageError,
)
from shell_runner.hosts import spec as specs
from shell_runner.hosts.gateway import OPEN_TIMEOUT
from shell_runner.hosts.heartbeat import backoff
from shell_runner.hosts.spec import HostSpec
from shell_runner.jobs.client import JobClient
from shell_runner.jobs.session import Session

from ..model import HostState, Job, JobState
from ..store import Store, StoreError, hosts, jobs
from .job_steps import HostTimeouts, JobSteps, PendingWork, Step, shorten

_LOG = logging.getLogger(__name__)
#: Seconds between two reads of the rows if nothing wakes the thread.
_POLL_INTERVAL = 20.0
#: Seconds between two updates of the time of the last answer in the host's row.
_CONTACT_INTERVAL = 10.0
#: Attempts at a step of a job that fails on the host.
_MAX_ATTEMPTS = 3
#: Seconds between two of them.
_ATTEMPT_DELAY = 1.0
#: Seconds by which a busy machine may wake the thread too late.
_MAX_OVERSLEEP = 2.0
#: Seconds of conversation after which a connection counts as stable.
_STABLE_AFTER = 5.0
#: Seconds until a full queue of the host, or an error of the dispatcher, is tried again.
_RETRY_DELAY = 5.0
#: Seconds for which a host that is back is asked about jobs that were given up.
_LOST_JOBS_AGE = 7 * 86_400.0
#: Newest jobs that it is asked about.
_MAX_LOST_JOBS = 1000
#: Seconds to wait at the end for what cannot be interrupted: the packing of a tree.
_CLOSE_TIMEOUT = 30.0
#: Kinds of a refusal that may pass.
_TEMPORARY_KINDS = ("bad", "corrupt", "disk", "state")


class HostConnection:
    """The thread of one host."""

    def __init__(
        self,
        store: Store,
        steps: JobSteps,
        spec: str,
        timeouts: HostTimeouts,
        stops: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        """``stops`` returns the ids of jobs that end though no row says so."""
        self.name, self.spec = steps.host, spec
        self._store, self._steps = store, steps
        self._timeouts, self._stops = timeouts, stops
        self._closed = threading.Event()
        self._client: JobClient | None = None
        #: Wake-up keys of the work that was last read from the rows; other threads read it.
        self._known: frozenset[str] = frozenset()
        #: Monotonic time of the host's last answer, and of writing that to its row.
        self._contact = self._written = time.monotonic()
        #: Failures of the present step by job, and the monotonic time of its next attempt.
        self._failures: dict[str, int] = {}
        self._postponed: dict[str, float] = {}
        self._worker_error = ""
        name = f"connection {self.name}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wake(self, keys: frozenset[str]) -> None:
        """Wake the thread if there is work that its last read of the rows has not shown."""
        client = self._client
        if client is not None and not keys <= self._known:
            client.interrupt()

    def close(self, wait: bool = True) -> None:
        """End the conversation at once; its work is continued from the rows."""
        self._closed.set()
        client = self._client
        if client is not None:
            client.abort()
        if wait:
            self._thread.join(_CLOSE_TIMEOUT)

    # -- the thread ---------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._closed.is_set():
            began, contact = time.monotonic(), self._contact
            try:
                self._converse()
                continue
            except (HostError, JobRefused, UsageError) as error:
                reason, is_theirs = str(error), True
            except Exception as error:
                _LOG.exception("host %s: internal error", self.name)
                reason, is_theirs = f"{type(error).__name__}: {error}", False
            if self._closed.is_set():
                return
            self._excuse_pause(began, was_open=self._contact > contact)
            has_lasted = self._contact > contact and time.monotonic() - began > _STABLE_AFTER
            failures = 1 if has_lasted else failures + 1
            if is_theirs and (self._contact == contact or failures > 1):
                with self._log_errors():
                    self._record_unreachable(reason)
            self._sleep(self._reopen_delay(failures))

    def _sleep(self, seconds: float) -> None:
        before = time.monotonic()
        self._closed.wait(seconds)
        self._contact += max(time.monotonic() - before - seconds - _MAX_OVERSLEEP, 0.0)

    def _excuse_pause(self, began: float, was_open: bool) -> None:
        """Do not count time in which this process was stopped (Ctrl-Z, suspend) as silence.

        While a connection is open, silence is noticed in time by a process that runs; and no
        attempt to open one takes longer than its timeout.
        """
        now = time.monotonic()
        if was_open:
            self._contact = max(self._contact, now - self._timeouts.silence)
        else:
            self._contact += max(now - began - OPEN_TIMEOUT - _MAX_OVERSLEEP, 0.0)

    def _reopen_delay(self, failures: int) -> float:
        """Return the seconds until a broken connection is opened again: none the first time."""
        if failures < 2:
            return 0.0
        left = self._contact + self._timeouts.lease - time.monotonic()
        return min(backoff(failures - 2), left if left > 0 else _POLL_INTERVAL)

    def _converse(self) -> None:
        """Hold one conversation; it ends with an error, or by ``close``."""
        self._steps.reset()
        client = JobClient(self._parsed(), self._timeouts.silence, open_session=self._open, tries=1)
        with client:
            self._client = client
            try:
                facts = client.open()
                client.news({}, 0.0)  # a host is up only if its queue can be read
                self._record_contact(dict(facts))
                while not self._closed.is_set():
                    self._turn(client)
            finally:
                self._client = None

    def _parsed(self) -> HostSpec:
        (spec,) = specs.parse([self.name], {self.name: HostEntry(self.name, self.spec)})
        return spec

    def _open(self, spec: HostSpec, silence: float) -> Session:
        return Session(spec, silence, cancel=self._closed)

    def _turn(self, client: JobClient) -> None:
        """Do all that can be done now; then wait for news of either side."""
        work = self._read_work()
        while self._do(client, work) and not self._closed.is_set():
            work = self._read_work()
        states = self._steps.watched_states(work)
        changes = client.news(states, self._max_wait(), self._worker_error)
        self._record_contact()
        for report in changes.jobs:
            self._steps.add_report(report)
        for job_id in changes.gone:
            self._steps.set_gone(job_id)
        if changes.no_worker != self._worker_error:
            self._show_worker_error(changes.no_worker)

    def _show_worker_error(self, error: str) -> None:
        """Show in the host's row why nothing runs the jobs that wait there; empty: it runs."""
        self._worker_error = error
        _LOG.warning("host %s: %s", self.name, error or "its worker is back")
        with self._store.write() as connection:
            host = hosts.get(connection, self.name)
            if host is not None and host.state is HostState.UP:
                hosts.explain(connection, self.name, error)

    def _max_wait(self) -> float:
        """Return the seconds until the rows are read again although no other thread wakes us."""
        now = time.monotonic()
        delays = [at - now for at in self._postponed.values() if at > now]
        return max(min([_POLL_INTERVAL, *delays]), 0.0)

    # -- rows ---------------------------------------------------------------------

    def _read_work(self) -> PendingWork:
        states = JobState.PLANNED, JobState.SUBMITTED, JobState.ENDED, JobState.HARVESTED
        since = time.time() - _LOST_JOBS_AGE
        with self._store.read() as connection:
            rows = jobs.in_state(connection, *states, host=self.name)
            stopped = jobs.stopped(connection).keys() | self._stops()
            lost = jobs.lost_on(connection, self.name, since, _MAX_LOST_JOBS)
        work = PendingWork(
            [job for job in rows if job.state is JobState.PLANNED],
            [job for job in rows if job.state in (JobState.SUBMITTED, JobState.ENDED)],
            [job for job in rows if job.state is JobState.HARVESTED],
            lost,
            frozenset(job.id for job in rows if job.id in stopped and job.state.open),
        )
        self._known = work.wakeup_keys
        self._forget_old_failures()
        self._steps.set_uncertain(work.planned)
        return work

    def _forget_old_failures(self) -> None:
        """Forget failures of jobs that were not tried again when they could be: they are over."""
        since = time.monotonic() - _RETRY_DELAY
        self._postponed = {id: at for id, at in self._postponed.items() if at > since}
        self._failures = {id: self._failures[id] for id in self._failures.keys() & self._postponed}

    def _record_contact(self, facts: dict[str, object] | None = None) -> None:
        """Note that the host has answered; wake waiting threads if that changed its row."""
        self._contact = time.monotonic()
        if facts is None and self._contact - self._written < _CONTACT_INTERVAL:
            return
        self._written = self._contact
        with self._store.write(quiet=True) as connection:
            has_changed = hosts.beat(connection, self.name, time.time(), facts)
        if has_changed:
            self._store.wake()

    def _record_unreachable(self, reason: str) -> None:
        """Write that the host does not answer; after the lease its jobs are lost."""
        silence = time.monotonic() - self._contact
        with self._store.write() as connection:
            hosts.down(connection, self.name, shorten(reason))
        if silence < self._timeouts.lease:
            return
        work = self._read_work()
        detail = f"it has not answered for {silence:.0f} s: {reason}"
        for number, job in enumerate((*work.planned, *work.running)):
            # It is one failure, however many jobs it had.
            self._steps.lose(job, detail, blame=number == 0)

    # -- what is to be done -------------------------------------------------------

    def _do(self, client: JobClient, work: PendingWork) -> bool:
        """Try each step once; return whether a row has changed by it."""
        done = False
        for job, step in self._steps.pending_actions(work):
            if self._closed.is_set():
                return False
            if self._postponed.get(job.id, 0.0) <= time.monotonic():
                done |= self._try(client, job, step)
        return done

    def _try(self, client: JobClient, job: Job, step: Step) -> bool:
        """Do one step of one job, whose failure does not concern other jobs."""
        try:
            done = step(client, job)
        except (HostLost, CannotOpen):
            raise
        except (HostError, JobRefused) as error:
            return self._record_failure(job, error)
        except Exception as error:
            if self._closed.is_set():
                raise
            self._postpone(job, error)
            return False
        self._failures.pop(job.id, None)
        self._postponed.pop(job.id, None)
        if job.detail and job.state.open:
            self._explain(job, "")
        return done

    def _postpone(self, job: Job, error: Exception) -> None:
        """Postpone a step that failed on our side, and say why in the row, until it succeeds."""
        trace = not isinstance(error, NosejobsError)
        _LOG.warning("host %s: job %s waits: %s", self.name, job.id, error, exc_info=trace)
        self._postponed[job.id] = time.monotonic() + _RETRY_DELAY
        if isinstance(error, UsageError):
            with self._log_errors():
                self._steps.invalidate(job)
        if job.state.open:
            self._explain(job, shorten(f"{type(error).__name__}: {error}" if trace else str(error)))

    def _explain(self, job: Job, detail: str) -> None:
        """Write why a job waits, unless it is the database that fails."""
        with suppress(StoreError), self._store.write() as connection:
            jobs.describe(connection, job.id, detail)

    def _record_failure(self, job: Job, error: HostError | JobRefused) -> bool:
        """Count a failure on the host: the step is tried again, or the job is lost."""
        if isinstance(error, JobRefused) and error.kind == "full":
            self._postponed[job.id] = time.monotonic() + _RETRY_DELAY
            return False
        self._failures[job.id] = self._failures.get(job.id, 0) + 1
        self._postponed[job.id] = time.monotonic() + _ATTEMPT_DELAY
        is_temporary = not isinstance(error, JobRefused) or error.kind in _TEMPORARY_KINDS
        if is_temporary and self._failures[job.id] < _MAX_ATTEMPTS:
            return False
        if job.state is JobState.LOST:
            self._steps.set_gone(job.id)  # there is nothing to be had of it
            return False
        return self._steps.lose(job, str(error))

    @contextmanager
    def _log_errors(self) -> Iterator[None]:
        """Log any exception instead of ending the thread."""
        try:
            yield
        except Exception:
            _LOG.exception("host %s: internal error", self.name)
