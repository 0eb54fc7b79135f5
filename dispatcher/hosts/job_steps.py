"""The steps of jobs on one host: submit, cancel, harvest, acknowledge.

Each step is done with the host and then written to the job's row.  Each can be repeated: a job has
its UUID before the host hears of it, and the host can be asked again for everything that is
remembered here.  Must not know policy, nor when a failed step is tried again.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shell_runner.errors import HostError, JobRefused, NosejobsError, UsageError
from shell_runner.jobs.client import JobClient
from shell_runner.jobs.session import HOST_TIMEOUT
from shell_runner.remote.protocol.job import NewJob
from shell_runner.remote.protocol.job_summary import JobSummary
from shell_runner.shipping.tree_scan import SourceTree

from ..model import Job, JobEvent, JobState, OutcomeCounts
from ..policy import retry
from ..store import Store, audit, hosts, jobs, results

#: State of a job that is not on the host.
_GONE = "gone"
#: Bytes of a package that is downloaded before a row could say that its job has ended.
_SMALL_PACKAGE_BYTES = 1 << 20
#: Bytes that stay free on the disk beside a package.
_DISK_MARGIN_BYTES = 1 << 20
#: Characters of an error that is written to a row.
_MAX_DETAIL_CHARS = 2000

#: One step of one job; returns whether a row has changed.
Step = Callable[[JobClient, Job], bool]


class Builder(Protocol):
    """A builder of the jobs of rows."""

    def prepare(self, job: Job) -> tuple[NewJob, Sequence[SourceTree]]:
        """Return the job to submit, under the UUID of the row, and the trees that it needs.

        Raises UsageError if the job cannot be run at all.
        """

    def invalidate(self, job: Job) -> None:
        """Read all files of a job again before it is prepared the next time."""


class Recorder(Protocol):
    """A store of the packages of jobs."""

    def record(self, job: Job, package: Path) -> None:
        """Verify and store a package, with all its rows, in one transaction.

        The file may be moved.  Raises HostError if the package is invalid.
        """


@dataclass(frozen=True)
class HostTimeouts:
    """Times and limits for a host and the connection to it."""

    #: Seconds without an answer after which its jobs are lost.
    lease: float = 120.0
    #: Infrastructure failures in a row that put the host into quarantine.
    quarantine: int = 3
    #: Seconds of silence after which a connection is given up.
    silence: float = HOST_TIMEOUT
    #: Seconds between two attempts at a step that failed on the host.
    attempt_delay: float = 1.0
    #: Seconds until a step is tried again that failed here, or because the host's queue is full.
    retry_delay: float = 5.0


@dataclass(frozen=True)
class PendingWork:
    """The rows of one host for which something is to be done."""

    planned: Sequence[Job] = ()
    #: Jobs that the host has, as far as the rows say.
    running: Sequence[Job] = ()
    harvested: Sequence[Job] = ()
    #: Jobs that were given up; the host may still have them.
    lost: Sequence[Job] = ()
    #: Ids of those open jobs of the above that are to be stopped.
    stopped: frozenset[str] = frozenset()

    @property
    def wakeup_keys(self) -> frozenset[str]:
        """The keys of the work that the host's thread must start at once."""
        return frozenset(job.id for job in self.planned) | stop_requests(self.stopped)


def stop_requests(job_ids: frozenset[str]) -> frozenset[str]:
    """Return the wake-up keys of jobs to stop.

    The key of a job to start is its bare id; the prefix makes the request to stop the same job a
    different key, so that it wakes the host's thread again.
    """
    return frozenset(f"stop {job_id}" for job_id in job_ids)


def shorten(text: str) -> str:
    """Return an error as it is written to a row, with at most ``_MAX_DETAIL_CHARS``."""
    return text if len(text) <= _MAX_DETAIL_CHARS else f"{text[:_MAX_DETAIL_CHARS]}..."


class JobSteps:
    """The jobs of one host: their reported states, and the steps that they need."""

    def __init__(
        self,
        store: Store,
        builder: Builder,
        recorder: Recorder,
        host: str,
        incoming: Path,
        timeouts: HostTimeouts,
    ) -> None:
        """``incoming``: folder into which packages are downloaded."""
        self.host = host
        self._store, self._builder, self._recorder = store, builder, recorder
        self._incoming, self._timeouts = incoming, timeouts
        self.reset()

    def reset(self) -> None:
        """Forget all reports of the host, because a new connection begins."""
        #: State on the host by job, and its last report.
        self._states: dict[str, str] = {}
        self._reports: dict[str, JobSummary] = {}
        #: Planned jobs that an earlier connection may have submitted; None: not known yet.
        self._uncertain: frozenset[str] | None = None
        self._canceled: set[str] = set()

    def invalidate(self, job: Job) -> None:
        """Read all files of a job again before it is submitted the next time."""
        self._builder.invalidate(job)

    # -- reports of the host ---------------------------------------------------

    def add_report(self, report: JobSummary) -> None:
        """Remember the host's report of a job."""
        self._states[report.id] = report.state
        self._reports[report.id] = report

    def mark_gone(self, job_id: str) -> None:
        """Remember that a job is not on the host."""
        self._states[job_id] = _GONE

    def mark_uncertain(self, planned: Sequence[Job]) -> None:
        """Remember which jobs an earlier connection may have submitted.

        Only the first call after ``reset`` counts.
        """
        if self._uncertain is None:
            self._uncertain = frozenset(job.id for job in planned)

    def watched_states(self, work: PendingWork) -> dict[str, str]:
        """Return the last known state of each job of interest, and forget all other jobs."""
        uncertain = [job for job in work.planned if self._is_uncertain(job)]
        wanted = (*uncertain, *work.running, *work.lost)
        states = {job.id: self._states.get(job.id, "") for job in wanted}
        for job_id in self._states.keys() - states.keys():
            self._reports.pop(job_id, None)
            del self._states[job_id]
        return {job_id: state for job_id, state in states.items() if state != _GONE}

    def _is_uncertain(self, job: Job) -> bool:
        return self._uncertain is not None and job.id in self._uncertain

    def _may_be_on_host(self, job: Job) -> bool:
        """Return whether a job is on the host, or may be."""
        if self._is_uncertain(job) and job.id not in self._states:
            return True
        return self._states.get(job.id, _GONE) != _GONE

    # -- steps -------------------------------------------------------

    def pending_actions(self, work: PendingWork) -> Iterator[tuple[Job, Step]]:
        """Yield the steps that can be done now; those that give the host work come first."""
        for job in work.planned:
            if job.id in work.stopped and not self._may_be_on_host(job):
                yield job, self.withdraw
            elif not self._is_uncertain(job) or job.id in self._states:
                yield job, self.submit
        for job in work.running:
            if self._states.get(job.id) == _GONE:
                yield job, self.lose_missing
            elif job.id in self._reports and self._reports[job.id].is_done:
                yield job, self.harvest
            elif job.id in work.stopped:
                yield job, self.cancel
        for job in work.harvested:
            yield job, self.acknowledge
        for job in work.lost:
            if self._may_be_on_host(job):
                yield job, self.clean_up_lost

    def submit(self, client: JobClient, job: Job) -> bool:
        """Submit a job, unless it is on the host already."""
        report = self._reports.get(job.id)
        if report is None:
            try:
                new, trees = self._builder.prepare(job)
            except UsageError as error:
                return self.lose(job, str(error), blame=False)
            report, _ = client.submit(new, trees)
        self.add_report(report)
        return self._record_progress(job, JobEvent.ACCEPT, submitted_at=time.time())

    def withdraw(self, client: JobClient, job: Job) -> bool:
        """End a job that was never submitted."""
        return self.lose(job, "stopped before it was submitted", blame=False, end_reason="canceled")

    def lose_missing(self, client: JobClient, job: Job) -> bool:
        """End a job that was submitted and is not on the host any more."""
        return self.lose(job, "the host does not have this job any more")

    def cancel(self, client: JobClient, job: Job) -> bool:
        """Ask the host to end a job, once per connection; its end is reported later."""
        if job.id not in self._canceled:
            self._canceled.add(job.id)
            _request(lambda: client.cancel(job.id))
        return False

    def harvest(self, client: JobClient, job: Job) -> bool:
        """Download and record the package of a job that has ended, and acknowledge it."""
        report = self._reports[job.id]
        if report.package_size > _SMALL_PACKAGE_BYTES:
            self._record_progress(job, JobEvent.END)
        self._download(client, job, report)
        with self._store.read() as connection:
            row = jobs.get(connection, job.id)
        if row is not None and row.state is JobState.HARVESTED:
            self.acknowledge(client, row)
        return True

    def _download(self, client: JobClient, job: Job, report: JobSummary) -> None:
        """Download and record a package; remove what is left of the file."""
        path = self._incoming / f"{job.id}.zip"
        self._check_disk_space(path, report.package_size)
        client.download(job.id, path, lambda part: None, known=report)
        try:
            self._recorder.record(job, path)
        except HostError:
            path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)

    def _check_disk_space(self, path: Path, size: int) -> None:
        """Raise NosejobsError if a download would fill the disk, which the database needs too."""
        free = shutil.disk_usage(self._incoming).free
        files = (path, path.with_name(f"{path.name}.part"))
        downloaded = sum(file.stat().st_size for file in files if file.exists())
        if size - downloaded + _DISK_MARGIN_BYTES > free:
            reason = f"a package has {size} bytes, {free} bytes are free"
            raise NosejobsError(f"{self._incoming}: {os.strerror(errno.ENOSPC)}: {reason}")

    def acknowledge(self, client: JobClient, job: Job) -> bool:
        """Let the host forget a job; count its success or failure in the same transaction."""
        _request(lambda: client.acknowledge(job.id, job.package_digest))
        is_blamed = False
        with self._store.write(decidable=False) as connection:
            done = jobs.apply_event(connection, job.id, JobEvent.ACKNOWLEDGE)
            if done:
                counts = results.count_outcomes(connection, [job.id]).get(job.id, OutcomeCounts())
                part = retry.Part(job, infrastructure=counts.infrastructure)
                is_blamed = bool(retry.failing_hosts([part]))
                if is_blamed:
                    reason, limit = retry.infrastructure_reason(part), self._timeouts.quarantine
                    hosts.record_failure(connection, self.host, reason, limit=limit, at=time.time())
                else:
                    hosts.record_success(connection, self.host)
        if is_blamed:
            self._store.wake()
        return done

    def clean_up_lost(self, client: JobClient, job: Job) -> bool:
        """Remove a job that was given up from a host that answers again.

        If the job has ended, its package is stored as evidence; otherwise it is canceled.
        """
        report = self._reports.get(job.id)
        if report is None:
            return False
        if not report.is_done:
            return self.cancel(client, job)
        if report.state == "ready":
            if not job.package_digest:
                self._download(client, job, report)
            _request(lambda: client.acknowledge(job.id, report.package_digest))
        self.mark_gone(job.id)
        return True

    # -- rows ---------------------------------------------------------------------

    def lose(self, job: Job, reason: str, *, blame: bool = True, end_reason: str = "") -> bool:
        """Mark a job as lost, since it will not end on this host.  Return whether it was open.

        ``blame``: count the loss as an infrastructure failure of the host.
        """
        now, detail = time.time(), shorten(reason)
        fields = {"detail": detail, **({"end_reason": end_reason} if end_reason else {})}
        with self._store.write() as connection:
            done = jobs.apply_event(connection, job.id, JobEvent.LOSE, **fields)
            if done:
                audit.write(connection, now, f"job {job.id} of {job.host} lost", detail)
            if done and blame:
                limit = self._timeouts.quarantine
                hosts.record_failure(connection, self.host, detail, limit=limit, at=now)
        return done

    def _record_progress(self, job: Job, event: JobEvent, **fields: object) -> bool:
        """Write the progress of a job, for people only: no decision depends on it."""
        with self._store.write(decidable=False) as connection:
            return jobs.apply_event(connection, job.id, event, **fields)


def _request(call: Callable[[], object]) -> None:
    """Make a request; do not fail if the host has done it already, or does not know the job."""
    try:
        call()
    except JobRefused as error:
        if error.kind not in ("unknown", "state", "differs"):
            raise
