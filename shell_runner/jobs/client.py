"""The client of durable jobs: requests to the queue of one host.

Responsible for what is requested and how the responses are read.  Must not know command lines.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..errors import JobRefused
from ..remote.protocol.fields import InvalidField
from ..remote.protocol.job import Content, JobConfig, JobTest, NewJob, is_uuid
from ..remote.protocol.job_summary import JobSummary
from ..shipping.tree_scan import SourceTree
from ..shipping.upload import Uploaded
from .log_position import LOG_START, LogChunk, LogMismatch, LogPosition
from .package_download import download_package
from .reconnecting_client import ReconnectingClient
from .responses import (
    JobChanges,
    JobListing,
    JobReport,
    LogFacts,
    parse_changes,
    parse_job,
    parse_limits,
    parse_listing,
    parse_log_facts,
    parse_report,
)
from .session import HostSession

#: Seconds that a request waits on the host before it is repeated.
_WAIT_SECONDS = 20.0
#: Bytes of a log that are requested at once.
_CHUNK_SIZE = 1 << 20

T = TypeVar("T")


class JobClient(ReconnectingClient):
    """The job queue of one host.

    Unless stated otherwise, every request raises :exc:`JobRefused` if the queue refuses it,
    :exc:`HostOpenError` or :exc:`HostLost` if the host cannot be reached, and :exc:`HostError` if
    the response makes no sense.
    """

    def _call_for_job(self, job: str, request: str, /, **arguments: Any) -> JobSummary:
        """Perform a request about ``job`` whose response is the summary of that job."""
        return self._call(_parse_for_job(job, parse_job), request, job=job, **arguments)

    # -- submitting ---------------------------------------------------------------

    def submit(
        self,
        job: NewJob,
        trees: Sequence[SourceTree] = (),
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[JobSummary, list[Uploaded]]:
        """Upload what the host lacks of ``trees``, then submit ``job``; safe to repeat.

        Returns the job as the host has it, and what was uploaded of each tree.
        """

        def request(session: HostSession) -> tuple[JobSummary, list[Uploaded]]:
            uploaded = [session.upload(tree, progress) for tree in trees]
            self.may_have_submitted = True
            answer = session.call("submit", job=_encode_job(job))
            return session.parse_response(_parse_for_job(job.id, parse_job), answer), uploaded

        return self._with_session(request)

    def rerun(
        self, job: str, id: str, tests: Sequence[str], failed: bool, secret: str = ""
    ) -> JobSummary:
        """Submit a new job ``id`` that runs tests of ``job`` again; nothing is uploaded.

        ``tests``: names, folders or patterns; empty: all.  ``failed``: only those that failed or
        did not end.  ``secret`` signs its notification; the host does not keep that of ``job``.
        """

        def request(session: HostSession) -> JobSummary:
            self.may_have_submitted = True
            answer = session.call(
                "rerun", job=job, id=id, tests=tests, failed=failed, secret=secret
            )
            return session.parse_response(_parse_for_job(id, parse_job), answer)

        return self._with_session(request)

    # -- reading ------------------------------------------------------------------

    def list_jobs(
        self, states: Sequence[str] = (), label: str = "", limit: int = 100
    ) -> JobListing:
        """Return the newest jobs, at most ``limit``, in one of ``states`` and with ``label``.

        No states or an empty label match every job.
        """
        filters = {"states": states, "label": label}
        listing = self._call(parse_listing, "jobs", limit=limit, **filters)
        page, jobs = listing, list(listing.jobs)
        while page.has_more and page.jobs and len(jobs) < limit:
            left, before = limit - len(jobs), jobs[-1].number
            page = self._call(parse_listing, "jobs", limit=left, before=before, **filters)
            older = tuple(job for job in page.jobs if job.number < before)
            page = replace(page, jobs=older)  # without any, an endless list ends
            jobs += older
        return replace(listing, jobs=tuple(jobs[:limit]), has_more=False)

    def get_job(self, job: str) -> JobReport:
        """Return the details of the job whose UUID is ``job`` or begins with it."""

        def parse(value: Any) -> JobReport:
            report = parse_report(value)
            if not report.job.id.startswith(job):
                raise InvalidField(f"job {report.job.id} where {job} was requested")
            return report

        return self._call(parse, "job", job=job)

    def find_id(self, job: str) -> str:
        """Return the UUID that begins with ``job``."""
        return job if is_uuid(job) else self.get_job(job).job.id

    def wait(self, job: str) -> JobSummary:
        """Wait until the job has ended and can be harvested; return it."""
        shown_reason = ""
        while True:
            summary = self._with_session(
                lambda s: s.parse_response(
                    _parse_for_job(job, parse_job),
                    s.call("package", job=job, seconds=_WAIT_SECONDS),
                ),
                waits=True,
            )
            if summary.is_done:
                return summary
            if summary.waiting_reason not in ("", shown_reason):
                self._show_message(f"{self.spec.id}: job {job}: {summary.waiting_reason}")
            shown_reason = summary.waiting_reason

    def open(self) -> Mapping[str, Any]:
        """Open the host unless it is open; return its description of itself."""
        return self._with_session(lambda session: session.facts)

    def await_changes(
        self,
        seen: Mapping[str, str],
        seconds: float = _WAIT_SECONDS,
        worker_error: str | None = None,
    ) -> JobChanges:
        """Wait for jobs whose state differs from the state in ``seen``, and return them.

        ``seen``: state by UUID; ``"gone"`` if the host did not have the job; any other text for a
        job whose state is not known.  ``worker_error``: the last error of the host's worker;
        another one ends the wait, too; None: errors do not.

        Returns no jobs after ``seconds``, and at once after :meth:`interrupt`, also if that was
        called since the last wait ended.
        """
        seen_interrupts = self._interrupts_seen

        def parse(value: Any) -> JobChanges:
            changes = parse_changes(value)
            if not seen.keys() >= {*changes.gone, *(job.id for job in changes.jobs)}:
                raise InvalidField("a change of a job that was not requested")
            return changes

        def request(session: HostSession) -> JobChanges:
            # A later interrupt finds the session; the host compares the numbers.
            if self._interrupts > seen_interrupts:
                return JobChanges(worker_error=worker_error or "")
            wait = {"seconds": seconds, "wakes": seen_interrupts, "worker_error": worker_error}
            return session.parse_response(parse, session.call("changes", seen=dict(seen), **wait))

        changes = self._with_session(request)
        self._interrupts_seen = self._interrupts
        return changes

    def read_log(
        self, job: str, start: LogPosition = LOG_START, follow: bool = False, attempt: int = 0
    ) -> Iterator[LogChunk]:
        """Yield the log of an attempt (0: the last one) from ``start`` on.

        With ``follow``, continue as the log grows, and with the logs of later attempts, until the
        job has ended.  Raises :exc:`LogMismatch` if the log is not the one that was read before.
        """
        position = start if start.attempt else LogPosition(attempt)
        seen: list[Any] | None = None
        while True:
            facts, data = self._fetch_log(job, position, seen, follow)
            seen = facts.mark
            position = LogPosition(
                facts.attempt, position.offset + len(data), zlib.crc32(data, position.crc)
            )
            more = bool(data) or (follow and not facts.is_end)
            yield LogChunk(position, data, not more)
            if not more:
                return
            if follow and facts.is_attempt_over and not data and facts.attempt < facts.attempts:
                position = LogPosition(facts.attempt + 1)

    def _fetch_log(
        self, job: str, position: LogPosition, seen: Any, follow: bool
    ) -> tuple[LogFacts, bytes]:
        def request(session: HostSession) -> tuple[LogFacts, bytes]:
            value, data = session.fetch(
                "log", job=job, attempt=position.attempt, offset=position.offset,
                seconds=_WAIT_SECONDS if follow else 0.0, seen=seen, size=_CHUNK_SIZE,
            )  # fmt: skip
            facts = session.parse_response(parse_log_facts, value)
            if len(data) > _CHUNK_SIZE or (position.attempt and facts.attempt != position.attempt):
                raise session.reject_response("another piece of a log than was requested")
            return facts, data

        try:
            facts, data = self._with_session(request, waits=follow)
        except JobRefused as error:
            if error.kind == "differs":
                raise self._log_mismatch(job, position, str(error)) from error
            raise
        if position.offset and facts.crc != position.crc:
            raise self._log_mismatch(job, position, "the bytes before differ")
        return facts, data

    def _log_mismatch(self, job: str, position: LogPosition, reason: str) -> LogMismatch:
        message = f"the log of job {job}, attempt {position.attempt}, is not the one of which "
        message += f"{position.offset} bytes were read before ({reason})"
        hint = f"nosejobs job logs {job}, to read it from the beginning"
        return LogMismatch(self.spec.id, message, hint)

    # -- the package --------------------------------------------------------------

    def download(
        self,
        job: str,
        path: Path,
        verify: Callable[[Path], None],
        progress: Callable[[int, int], None] = lambda done, total: None,
        known: JobSummary | None = None,
    ) -> JobSummary:
        """Download the package of a job that has ended; return the job.

        The package goes to ``path`` (see :func:`~.package_download.download_package`, also for
        ``verify`` and what is raised).  ``known`` is a summary that the host has sent since the
        job ended.  Raises :exc:`JobRefused` if there is no package yet.
        """
        summary = known or self._call_for_job(job, "package", seconds=0.0)
        if not summary.is_done or not summary.package_digest:
            message = f"job {summary.id} is {summary.state}: there is no package yet"
            hint = f"nosejobs job harvest --wait {summary.id}"
            raise JobRefused(self.spec.id, "state", message, hint)
        read_piece = partial(self._read_package, summary.id)
        download_package(self.spec.id, summary, path, read_piece, verify, progress)
        return summary

    def _read_package(self, job: str, offset: int, size: int) -> bytes:
        def request(session: HostSession) -> bytes:
            _, data = session.fetch("fetch", job=job, offset=offset, size=size)
            if not 0 < len(data) <= size:
                message = f"{len(data)} bytes of a package where {size} were requested"
                raise session.reject_response(message)
            return data

        return self._with_session(request)

    def acknowledge(self, job: str, digest: str) -> JobSummary:
        """Tell the host that the package with this digest is safe here, which may remove it."""
        return self._call_for_job(job, "acknowledge", digest=digest)

    # -- changing -----------------------------------------------------------------

    def cancel(self, job: str) -> JobSummary:
        """Cancel a job; its results so far can be harvested."""
        return self._call_for_job(job, "cancel")

    def forget(self, job: str, force: bool = False) -> JobSummary:
        """Remove a job from the host; ``force``: also if it has not been harvested."""
        return self._call_for_job(job, "forget", force=force)

    def get_limits(self) -> Mapping[str, int]:
        """Return the limits of the host's queue by name."""
        return self._call(parse_limits, "limits")

    def set_limit(self, name: str, value: int) -> Mapping[str, int]:
        """Change a limit; return all of them."""
        return self._call(parse_limits, "limit", name=name, value=value)


def _parse_for_job(job: str, parse: Callable[[Any], JobSummary]) -> Callable[[Any], JobSummary]:
    def check(value: Any) -> JobSummary:
        summary = parse(value)
        if summary.id != job:
            raise InvalidField(f"job {summary.id} where {job} was requested")
        return summary

    return check


def _encode_job(job: NewJob) -> dict[str, Any]:
    """Return a job as JSON values."""
    return {**job._asdict(), "config": job.config._asdict()}


def make_job(
    id: str,
    tests: Content,
    build: Content | None,
    config: JobConfig,
    cases: Sequence[JobTest],
    name: str = "",
    labels: Sequence[str] = (),
    priority: int = 0,
) -> NewJob:
    """Return a job; its tests (``cases``) are numbered in their order."""
    numbered = (
        case._replace(test=case.test._replace(id=number)) for number, case in enumerate(cases)
    )
    return NewJob(id, tests, build, config, tuple(numbered), name, tuple(labels), priority)
