"""Parsers of a host's responses about its jobs.

Pure: JSON values in, frozen dataclasses out.  A host is not trusted: strings lose their control
characters, numbers and digests are checked, and an impossible value raises
:exc:`~shell_runner.remote.protocol.fields.InvalidField`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..remote.protocol.fields import MAX_ITEMS, Fields, InvalidField, abbreviate
from ..remote.protocol.job import ARCHIVE, TREE, Content, JobConfig, is_uuid
from ..remote.protocol.job_summary import JOB_STATES, JobSummary, parse_summary
from ..remote.protocol.model import OUTCOMES, Test, execution_from_row, is_digest
from ..remote.protocol.verdict import judge
from ..text import to_single_line


@dataclass(frozen=True)
class AttemptReport:
    """One attempt at a job."""

    id: str
    #: Counted from 1.
    number: int
    phase: str
    detail: str
    #: Seconds since the epoch, by the host's clock.
    started_at: float
    #: None while the attempt goes on.
    ended_at: float | None


@dataclass(frozen=True)
class FailedTest:
    """A test that failed, and why."""

    nodeid: str
    outcome: str
    #: One line.
    message: str


@dataclass(frozen=True)
class PendingNotification:
    """A notification that has not been delivered yet."""

    #: The number of delivery attempts so far.
    attempts: int
    #: Seconds until the next attempt.
    seconds: float
    #: The reason why the last attempt failed; empty before the first one.
    error: str


@dataclass(frozen=True)
class JobReport:
    """All details of one job."""

    job: JobSummary
    #: The number of jobs before it in the queue.
    jobs_ahead: int
    attempts: tuple[AttemptReport, ...]
    #: The first failed tests; ``failed_count`` counts all of them.
    failed: tuple[FailedTest, ...]
    failed_count: int
    config: Mapping[str, Any]
    build: Content | None
    tests: Content | None
    #: The reason why no worker could be started; empty if one runs or none is needed.
    worker_error: str = ""
    #: The folder of its workspace on the host; empty if the workspace is not kept.
    workspace: str = ""
    #: The notification, if it has not been delivered yet.
    pending_notification: PendingNotification | None = None


@dataclass(frozen=True)
class JobListing:
    """The jobs of a host, newest first, and their number by state."""

    jobs: tuple[JobSummary, ...]
    counts: Mapping[str, int]
    worker_error: str = ""
    #: Whether the host has left out jobs that were requested, since the list was too long.
    has_more: bool = False


def _make_fields(values: Any) -> Fields:
    return Fields(values, to_single_line)


def _parse_text(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidField(f"expected a string, got {abbreviate(value)}")
    return to_single_line(value)


def parse_job(values: Any) -> JobSummary:
    """Return the summary of a job; raises :exc:`InvalidField`."""
    return parse_summary(values, to_single_line)


def _parse_attempt(values: Any) -> AttemptReport:
    fields = _make_fields(values)
    if not is_uuid(fields["id"]):
        raise InvalidField(f"attempt {abbreviate(fields['id'])}")
    return AttemptReport(
        id=fields["id"],
        number=fields.integer("number"),
        phase=fields.text("phase"),
        detail=fields.text("detail"),
        started_at=fields.number("started_at"),
        ended_at=fields.timestamp("ended_at"),
    )


def _is_outcome(value: Any) -> bool:
    """Return whether ``value`` is an outcome; it may be a list, which no set can look up."""
    return isinstance(value, str) and value in OUTCOMES


def _parse_failed_test(row: Any) -> FailedTest:
    if not isinstance(row, list) or len(row) != 4 or not _is_outcome(row[1]):
        raise InvalidField(f"a failed test {abbreviate(row)}")
    message = ""
    if row[3] is not None:
        try:
            message = judge(Test(*row[2]), execution_from_row(row[3])).message
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise InvalidField(str(error)) from error
    return FailedTest(_parse_text(row[0]), row[1], to_single_line(message))


def _parse_content(row: Any) -> Content | None:
    if row is None:
        return None
    if not isinstance(row, list) or len(row) != 4 or not is_digest(row[1]):
        raise InvalidField(f"contents {abbreviate(row)}")
    if row[0] not in (TREE, ARCHIVE) or type(row[2]) is not int:
        raise InvalidField(f"contents {abbreviate(row)}")
    return Content(row[0], row[1], row[2], _parse_text(row[3]))


def _parse_config(values: Any) -> dict[str, Any]:
    """Return a configuration that is safe to show: no control characters and no secret."""
    fields = _make_fields(values)
    names = [name for name in JobConfig._fields if name != "secret"]
    return {name: _sanitize(fields[name]) for name in names}


def _sanitize(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return to_single_line(value, 4000)
    if isinstance(value, list) and len(value) <= MAX_ITEMS and depth < 3:
        return [_sanitize(each, depth + 1) for each in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise InvalidField(f"config {abbreviate(value)}")


def parse_report(values: Any) -> JobReport:
    """Return all details of one job; raises :exc:`InvalidField`."""
    fields, failed = _make_fields(values), _make_fields(values).table("failed")
    return JobReport(
        job=parse_job(values),
        jobs_ahead=fields.integer("jobs_ahead"),
        attempts=tuple(map(_parse_attempt, fields.items("attempt_reports"))),
        failed=tuple(map(_parse_failed_test, failed.items("first"))),
        failed_count=failed.integer("count"),
        config=_parse_config(fields["config"]),
        build=_parse_content(fields["build"]),
        tests=_parse_content(fields["contents"]),
        worker_error=fields.text("worker_error"),
        workspace=fields.text("workspace", 4096) if fields["workspace"] is not None else "",
        pending_notification=_parse_notification(fields["pending_notification"]),
    )


def _parse_notification(values: Any) -> PendingNotification | None:
    if values is None:
        return None
    fields = _make_fields(values)
    return PendingNotification(
        fields.integer("attempts"), fields.number("seconds"), fields.text("error")
    )


def parse_listing(values: Any) -> JobListing:
    """Return a list of jobs; raises :exc:`InvalidField`."""
    fields = _make_fields(values)
    jobs = tuple(map(parse_job, fields.items("jobs")))
    counts = fields.counts("counts", frozenset(JOB_STATES))
    has_more = fields["has_more"] is True
    return JobListing(jobs, counts, fields.text("worker_error"), has_more)


@dataclass(frozen=True)
class JobChanges:
    """Jobs whose state differs from the one the client knew."""

    jobs: tuple[JobSummary, ...] = ()
    #: UUIDs of jobs that the host does not have.
    gone: tuple[str, ...] = ()
    worker_error: str = ""


def parse_changes(values: Any) -> JobChanges:
    """Return the answer to a wait for changes; raises :exc:`InvalidField`."""
    fields = _make_fields(values)
    jobs = tuple(map(parse_job, fields.items("jobs")))
    return JobChanges(jobs, fields.strings("gone"), fields.text("worker_error"))


def parse_facts(values: Any) -> dict[str, Any]:
    """Return a host's description of itself (its answer to ``hello``), safe to show."""
    facts = _make_fields(values)["host"]
    if not isinstance(facts, dict) or len(facts) > 100:
        return {}
    return {to_single_line(str(name), 100): _sanitize(value) for name, value in facts.items()}


def parse_limits(value: Any) -> dict[str, int]:
    """Return the limits of a host's queue by name; raises :exc:`InvalidField`."""
    fields = _make_fields(value)
    return {to_single_line(str(name), 100): fields.integer(name) for name in fields.list_keys(100)}


@dataclass(frozen=True)
class LogFacts:
    """A host's description of a log, beside the bytes of the log."""

    #: Identifies the state of the job that the client has seen; sent back as it came.
    mark: list[Any]
    attempt: int
    #: The number of attempts so far.
    attempts: int
    #: Whether this attempt writes no more.
    is_attempt_over: bool
    #: CRC-32 of the bytes before the requested position.
    crc: int
    #: Whether the job has ended.
    is_end: bool


def parse_log_facts(value: Any) -> LogFacts:
    """Return what a host says of a piece of a log; raises :exc:`InvalidField`."""
    fields = _make_fields(value)
    attempt, attempts = fields.integer("attempt"), fields.integer("attempts")
    is_attempt_over = fields.flag("is_attempt_over")
    return LogFacts(
        mark=[_sanitize(item) for item in fields.items("mark", 10)],
        attempt=attempt,
        attempts=attempts,
        is_attempt_over=is_attempt_over,
        crc=fields.integer("crc"),
        is_end=is_attempt_over and attempt >= attempts and bool(fields.text("end_reason")),
    )
