"""The connection to one host: a thread that brings its jobs from their rows to the host and back.

Owns all requests to one host, and when a failed step is tried again.  Must not know policy, nor
what a job is about.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from shell_runner.config import HostEntry
from shell_runner.errors import (
    HostError,
    HostLost,
    HostOpenError,
    JobRefused,
    NosejobsError,
    UsageError,
)
from shell_runner.hosts import spec as specs
from shell_runner.hosts.gateway import OPEN_TIMEOUT
from shell_runner.hosts.heartbeat import backoff
from shell_runner.hosts.spec import HostSpec
from shell_runner.jobs.client import JobClient
from shell_runner.jobs.session import HostSession

from ..model import HostState, Job, JobState
from ..store import Store, StoreError, hosts, jobs
from .job_steps import HostTimeouts, JobSteps, PendingWork, Step, shorten

_LOG = logging.getLogger(__name__)
#: Seconds between two reads of the rows if nothing wakes the thread.
_POLL_INTERVAL = 20.0
#: Seconds between two updates of the time of the last answer in the host's row.
_CONTACT_INTERVAL = 10.0
#: Attempts at a step of a job that fails on the host before the job is lost.
_MAX_ATTEMPTS = 3
#: Seconds by which a busy machine may wake the thread too late.
_MAX_OVERSLEEP = 2.0
#: Seconds after which a connection counts as stable.
_STABLE_AFTER = 5.0
#: Age, in seconds, up to which the host is asked about jobs that were given up.
_LOST_JOBS_AGE = 7 * 86_400.0
#: Maximum number of such jobs, the newest ones.
_MAX_LOST_JOBS = 1000
#: Seconds to wait for the thread at the end: packing a tree cannot be interrupted.
_CLOSE_TIMEOUT = 30.0
#: Kinds of refused requests that may succeed if they are repeated.
_TEMPORARY_KINDS = ("bad", "corrupt", "disk", "state")
#: Errors of a step that are a bug here or come of a host's data.  Unlike a full disk they do not
#: pass by themselves, so they are not repeated for ever.
_DATA_ERRORS = (
    TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip


class HostConnection:
    """A thread that keeps a connection to one host and does the steps of its jobs."""

    def __init__(
        self,
        store: Store,
        steps: JobSteps,
        spec: str,
        timeouts: HostTimeouts,
        stops: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        """Start the thread.  ``stops`` returns the ids of jobs to stop though no row says so."""
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
        """Close the connection at once; the rows say what is to be done after the next start."""
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
                self._serve()
                continue
            except (HostError, JobRefused, UsageError) as error:
                reason, is_theirs = str(error), True
            except StoreError as error:
                _LOG.warning("host %s waits: %s", self.name, error)
                reason, is_theirs = str(error), False
            except Exception as error:
                _LOG.exception("host %s: internal error", self.name)
                reason, is_theirs = f"{type(error).__name__}: {error}", False
            if self._closed.is_set():
                return
            self._discount_pause(began, was_open=self._contact > contact)
            was_stable = self._contact > contact and time.monotonic() - began > _STABLE_AFTER
            failures = 1 if was_stable else failures + 1
            if is_theirs and (self._contact == contact or failures > 1):
                with self._log_errors():
                    self._record_unreachable(reason)
            self._sleep(self._reopen_delay(failures))

    def _sleep(self, seconds: float) -> None:
        before = time.monotonic()
        self._closed.wait(seconds)
        self._contact += max(time.monotonic() - before - seconds - _MAX_OVERSLEEP, 0.0)

    def _discount_pause(self, began: float, was_open: bool) -> None:
        """Do not count time in which this process was stopped (Ctrl-Z, suspend) as silence.

        A running process notices in time that an open connection is silent, and no attempt to
        open one takes longer than its timeout.  More time than that was a pause of this process.
        """
        now = time.monotonic()
        if was_open:
            self._contact = max(self._contact, now - self._timeouts.silence)
        else:
            self._contact += max(now - began - OPEN_TIMEOUT - _MAX_OVERSLEEP, 0.0)

    def _reopen_delay(self, failures: int) -> float:
        """Return the seconds until a broken connection is opened again: 0 after one failure."""
        if failures < 2:
            return 0.0
        left = self._contact + self._timeouts.lease - time.monotonic()
        return min(backoff(failures - 2), left if left > 0 else _POLL_INTERVAL)

    def _serve(self) -> None:
        """Open a connection, and serve the host until ``close``.

        Raises HostError or another exception if the connection or the store fails.
        """
        self._steps.reset()
        client = JobClient(
            self._parse_spec(), self._timeouts.silence, open_session=self._open, max_attempts=1
        )
        with client:
            self._client = client
            try:
                facts = client.open()
                client.await_changes({}, 0.0)  # a host is up only if its queue can be read
                self._record_contact(dict(facts))
                while not self._closed.is_set():
                    self._exchange(client)
            finally:
                self._client = None

    def _parse_spec(self) -> HostSpec:
        (spec,) = specs.parse_specs([self.name], {self.name: HostEntry(self.name, self.spec)})
        return spec

    def _open(self, spec: HostSpec, silence: float) -> HostSession:
        return HostSession(spec, silence, cancel=self._closed)

    def _exchange(self, client: JobClient) -> None:
        """Do all steps that can be done now, then wait for changes of the rows or on the host."""
        work = self._read_work()
        while self._do_steps(client, work) and not self._closed.is_set():
            work = self._read_work()
        states = self._steps.watched_states(work)
        changes = client.await_changes(states, self._max_wait(), self._worker_error)
        self._record_contact()
        for report in changes.jobs:
            self._steps.add_report(report)
        for job_id in changes.gone:
            self._steps.mark_gone(job_id)
        previous = self._worker_error
        if changes.worker_error != previous:
            self._show_worker_error(changes.worker_error)
        self._explain_running(work, previous)

    def _explain_running(self, work: PendingWork, previous: str) -> None:
        """Show in the rows of jobs on the host why no worker runs them; remove ``previous``."""
        detail = shorten(self._worker_error)
        for job in work.running:
            is_shown = bool(previous) and job.detail == shorten(previous)
            if job.state is JobState.SUBMITTED and job.detail != detail and (detail or is_shown):
                self._explain(job, detail)

    def _show_worker_error(self, error: str) -> None:
        """Show in the host's row why no worker runs the jobs there; empty: one runs."""
        self._worker_error = error
        _LOG.warning("host %s: %s", self.name, error or "its worker runs again")
        with self._store.write() as connection:
            host = hosts.get(connection, self.name)
            if host is not None and host.state is HostState.UP:
                hosts.set_reason(connection, self.name, error)

    def _max_wait(self) -> float:
        """Return the seconds until the rows are read again if no other thread wakes this one."""
        now = time.monotonic()
        delays = [at - now for at in self._postponed.values() if at > now]
        return max(min([_POLL_INTERVAL, *delays]), 0.0)

    # -- rows ---------------------------------------------------------------------

    def _read_work(self) -> PendingWork:
        states = JobState.PLANNED, JobState.SUBMITTED, JobState.ENDED, JobState.HARVESTED
        since = time.time() - _LOST_JOBS_AGE
        with self._store.read() as connection:
            rows = jobs.list_in_state(connection, *states, host=self.name)
            stopped = jobs.hosts_of_stopped_jobs(connection).keys() | self._stops()
            lost = jobs.list_lost_on_host(connection, self.name, since, _MAX_LOST_JOBS)
        work = PendingWork(
            [job for job in rows if job.state is JobState.PLANNED],
            [job for job in rows if job.state in (JobState.SUBMITTED, JobState.ENDED)],
            [job for job in rows if job.state is JobState.HARVESTED],
            lost,
            frozenset(job.id for job in rows if job.id in stopped and job.state.is_open),
        )
        self._known = work.wakeup_keys
        self._steps.mark_uncertain(work.planned)
        self._forget_old_failures({job.id for job, _ in self._steps.pending_actions(work)})
        return work

    def _forget_old_failures(self, pending: set[str]) -> None:
        """Forget failures of jobs that had no step when it could be tried again: they are over.

        ``pending``: ids of the jobs that have a step now.  Steps of other jobs may have delayed
        theirs for any time.
        """
        since = time.monotonic() - self._timeouts.retry_delay
        self._postponed = {
            id: at for id, at in self._postponed.items() if at > since or id in pending
        }
        self._failures = {id: self._failures[id] for id in self._failures.keys() & self._postponed}

    def _record_contact(self, facts: dict[str, object] | None = None) -> None:
        """Note that the host has answered; wake waiting threads if that changed its row."""
        self._contact = time.monotonic()
        if facts is None and self._contact - self._written < _CONTACT_INTERVAL:
            return
        self._written = self._contact
        with self._store.write(quiet=True) as connection:
            has_changed = hosts.record_contact(connection, self.name, time.time(), facts)
        if has_changed:
            self._store.wake()

    def _record_unreachable(self, reason: str) -> None:
        """Write that the host does not answer; after the lease its jobs are lost."""
        silence = time.monotonic() - self._contact
        with self._store.write() as connection:
            hosts.mark_down(connection, self.name, shorten(reason))
        if silence < self._timeouts.lease:
            return
        work = self._read_work()
        detail = f"it has not answered for {silence:.0f} s: {reason}"
        for number, job in enumerate((*work.planned, *work.running)):
            # The host has failed once, however many jobs it had.
            self._steps.lose(job, detail, blame=number == 0)

    # -- steps -------------------------------------------------------

    def _do_steps(self, client: JobClient, work: PendingWork) -> bool:
        """Try each pending step once; return whether a row has changed."""
        has_changed = False
        for job, step in self._steps.pending_actions(work):
            if self._closed.is_set():
                return False
            if self._postponed.get(job.id, 0.0) <= time.monotonic():
                has_changed |= self._try_step(client, job, step)
        return has_changed

    def _try_step(self, client: JobClient, job: Job, step: Step) -> bool:
        """Do one step of one job; its failure does not affect other jobs."""
        try:
            done = step(client, job)
        except (HostLost, HostOpenError):
            raise
        except (HostError, JobRefused) as error:
            return self._record_failure(job, error)
        except Exception as error:
            if self._closed.is_set():
                raise
            self._postpone(job, error)
            if isinstance(error, _DATA_ERRORS) and self._count_failure(job) >= _MAX_ATTEMPTS:
                reason = f"internal error: {type(error).__name__}: {error}"
                return self._give_up(job, reason, blame=False)
            return False
        self._failures.pop(job.id, None)
        self._postponed.pop(job.id, None)
        if job.detail and job.state.is_open:
            self._explain(job, "")
        return done

    def _postpone(self, job: Job, error: Exception) -> None:
        """Postpone a step that failed here; the job's row shows the reason until it succeeds."""
        trace = not isinstance(error, NosejobsError)
        _LOG.warning("host %s: job %s waits: %s", self.name, job.id, error, exc_info=trace)
        self._postponed[job.id] = time.monotonic() + self._timeouts.retry_delay
        if isinstance(error, UsageError):
            with self._log_errors():
                self._steps.invalidate(job)
        if job.state.is_open:
            self._explain(job, shorten(f"{type(error).__name__}: {error}" if trace else str(error)))

    def _explain(self, job: Job, detail: str) -> None:
        """Write why a job waits, unless the database fails."""
        with suppress(StoreError), self._store.write() as connection:
            jobs.set_detail(connection, job.id, detail)

    def _record_failure(self, job: Job, error: HostError | JobRefused) -> bool:
        """Count a failure of a step on the host; the step is tried again, or the job is lost."""
        if isinstance(error, JobRefused) and error.kind == "full":
            self._postponed[job.id] = time.monotonic() + self._timeouts.retry_delay
            return False
        self._postponed[job.id] = time.monotonic() + self._timeouts.attempt_delay
        is_temporary = not isinstance(error, JobRefused) or error.kind in _TEMPORARY_KINDS
        if self._count_failure(job) < _MAX_ATTEMPTS and is_temporary:
            return False
        return self._give_up(job, str(error))

    def _count_failure(self, job: Job) -> int:
        """Return how often the present step of a job has failed, this time included."""
        self._failures[job.id] = self._failures.get(job.id, 0) + 1
        return self._failures[job.id]

    def _give_up(self, job: Job, reason: str, *, blame: bool = True) -> bool:
        """Lose a job whose step fails again and again; return whether a row has changed."""
        if job.state is JobState.LOST:
            self._steps.mark_gone(job.id)  # nothing of it can be fetched
            return False
        return self._steps.lose(job, reason, blame=blame)

    @contextmanager
    def _log_errors(self) -> Iterator[None]:
        """Log any exception instead of ending the thread."""
        try:
            yield
        except Exception:
            _LOG.exception("host %s: internal error", self.name)
