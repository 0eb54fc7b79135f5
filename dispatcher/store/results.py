"""Results, cases and measurements of result packages; each package is recorded once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, func, select

from shell_runner.remote.protocol.model import OUTCOMES, PASSED

from .. import model
from ..model import OutcomeCounts
from . import audit, jobs, row_mapping, tables
from .tables import escape_invalid_characters

_JOB, _RUN = tables.job.c, tables.stage_run.c
_RESULT, _CASE, _MEASUREMENT = tables.result.c, tables.case.c, tables.measurement.c
_RESULT_IDS = select(_RESULT.number, _RESULT.id).where(_RESULT.job == bindparam("job"))
_COUNTS = (
    select(_RESULT.job, _RESULT.outcome, _RESULT.infrastructure, func.count())
    .where(_RESULT.job.in_(bindparam("jobs", expanding=True)))
    .group_by(_RESULT.job, _RESULT.outcome, _RESULT.infrastructure)
)
_SUCCESSOR = (
    select(_JOB.id)
    .where(_JOB.stage_run == bindparam("run"), _JOB.part == bindparam("part"))
    .where(_JOB.attempt > bindparam("after"))
    .limit(1)
)
#: States of jobs whose results count for a verdict.
_COUNTED_STATES = (model.JobState.HARVESTED.value, model.JobState.ACKNOWLEDGED.value)


class HarvestOutcome(StrEnum):
    """The outcome of recording a package."""

    #: The package is recorded, and the job is harvested.
    NEW = "new"
    #: The package had been recorded before: nothing has changed.
    REPEATED = "repeated"
    #: The job had been given up before: the rows are kept, but do not count for a verdict.
    LATE = "late"
    #: Another package of this job had been recorded before: nothing is kept of this one.
    DIFFERENT = "different"


class ResultRow(NamedTuple):
    """The outcome of a test of a job."""

    #: Number of the test in its job.
    number: int
    nodeid: str
    outcome: str
    message: str
    duration: float
    attempts: int = 1
    infrastructure: bool = False
    #: The reasons why earlier attempts failed, a line for each; empty: it ran once.
    earlier_failures: str = ""


class CaseRow(NamedTuple):
    """A sub-result that a program named."""

    #: Number of the test.
    test: int
    number: int
    name: str
    outcome: str
    message: str = ""
    duration: float | None = None


class MeasurementRow(NamedTuple):
    """A number that a test reported."""

    #: Number of the test, and of the case; a case of -1 stands for the test itself.
    test: int
    case: int
    name: str
    value: float
    unit: str = ""


class PackageInfo(NamedTuple):
    """A verified and stored package: its digest, and the end of its job."""

    digest: str
    end_reason: str
    harvested_at: float
    detail: str = ""


def record_package(
    connection: Connection,
    job: str,
    package: PackageInfo,
    results: Iterable[ResultRow],
    cases: Iterable[CaseRow] = (),
    measurements: Iterable[MeasurementRow] = (),
) -> HarvestOutcome:
    """Write all rows of a package and the job's state, in the transaction of ``connection``.

    The host may delete the package only after the commit.  Raises ``InvalidTransition`` if there is
    no such job, and ``ValueError`` for a case or measurement of a test that has no result: the
    reader of packages must have checked that.
    """
    outcome = _record_in_job(connection, job, package)
    if outcome in (HarvestOutcome.NEW, HarvestOutcome.LATE):
        numbers = _add_results(connection, job, results)
        _add_cases(connection, numbers, cases)
        _add_measurements(connection, numbers, measurements)
    return outcome


def _record_in_job(connection: Connection, key: str, package: PackageInfo) -> HarvestOutcome:
    """Write the package into its job's row, unless the row has one."""
    job = jobs.get(connection, key)
    if job is None:
        raise model.InvalidTransition(f"there is no such job: {key}")
    if job.package_digest:
        return _repeat_outcome(connection, job, package)
    fields = {
        "end_reason": package.end_reason,
        "detail": package.detail,
        "harvested_at": package.harvested_at,
    }
    fields["package_digest"] = package.digest
    if job.state is model.JobState.PLANNED:  # submitted, but the answer was lost
        jobs.apply_event(connection, key, model.JobEvent.END)
    if not _has_successor(connection, job):
        if jobs.apply_event(connection, key, model.JobEvent.HARVEST, **fields):
            return HarvestOutcome.NEW
    else:
        jobs.apply_event(connection, key, model.JobEvent.LOSE)
    row_mapping.update_row(connection, tables.job, key, **fields)
    detail = f"job {key} of {job.host}: its package came after it was given up"
    audit.write(connection, package.harvested_at, "harvest", detail)
    return HarvestOutcome.LATE


def _repeat_outcome(connection: Connection, job: model.Job, package: PackageInfo) -> HarvestOutcome:
    if job.package_digest == package.digest:
        return HarvestOutcome.REPEATED
    detail = f"job {job.id} of {job.host}: {package.digest} instead of {job.package_digest}"
    audit.write(connection, package.harvested_at, "another package", detail)
    return HarvestOutcome.DIFFERENT


def _has_successor(connection: Connection, job: model.Job) -> bool:
    """Return whether the part has a newer attempt, so that this one no longer counts."""
    parameters = {"run": job.stage_run, "part": job.part, "after": job.attempt}
    return connection.execute(_SUCCESSOR, parameters).first() is not None


def _add_results(connection: Connection, job: str, results: Iterable[ResultRow]) -> _ResultIds:
    columns = ("job", *ResultRow._fields)
    cleaned = (
        (
            job,
            number,
            escape_invalid_characters(nodeid),
            escape_invalid_characters(outcome),
            escape_invalid_characters(message),
            _finite_or_none(duration) or 0.0,
            attempts,
            infrastructure,
            earlier and escape_invalid_characters(earlier),
        )
        for number, nodeid, outcome, message, duration, attempts, infrastructure, earlier in results
    )
    row_mapping.insert_many(connection, tables.result, columns, cleaned)
    return _ResultIds((row[0], row[1]) for row in connection.execute(_RESULT_IDS, {"job": job}))


def _add_cases(connection: Connection, keys: _ResultIds, cases: Iterable[CaseRow]) -> None:
    """Insert cases, possibly hundreds of thousands; known outcomes need no escaping."""
    columns = ("result", *CaseRow._fields[1:])
    cleaned = (
        (
            keys[test],
            number,
            escape_invalid_characters(name),
            outcome if outcome in OUTCOMES else escape_invalid_characters(outcome),
            message and escape_invalid_characters(message),
            duration if duration is None else _finite_or_none(duration),
        )
        for test, number, name, outcome, message, duration in cases
    )
    row_mapping.insert_many(connection, tables.case, columns, cleaned)


def _add_measurements(
    connection: Connection, keys: _ResultIds, measurements: Iterable[MeasurementRow]
) -> None:
    """Insert the finite measurements; of two with the same name the last one counts."""
    last = {
        (keys[test], case, escape_invalid_characters(name)): (
            float(value),
            escape_invalid_characters(unit),
        )
        for test, case, name, value, unit in measurements
        if _finite_or_none(value) is not None
    }
    columns = ("result", "case_number", "name", "value", "unit")
    row_mapping.insert_many(
        connection, tables.measurement, columns, ((*k, *v) for k, v in last.items())
    )


class _ResultIds(dict[int, int]):
    """Ids of results by the number of the test in its job."""

    def __missing__(self, test: int) -> int:
        raise ValueError(f"a row of test {test}, which has no result")


def _finite_or_none(number: float | None) -> float | None:
    """Return the number; None for infinity and NaN, which databases do not store faithfully."""
    return number if number is not None and math.isfinite(number) else None


# -- reading ------------------------------------------------------------------------


def count_outcomes(connection: Connection, job_ids: Sequence[str]) -> dict[str, OutcomeCounts]:
    """Return the outcome counts of the jobs that have results, by job id."""
    counts_by_job: dict[str, dict[str, int]] = {}
    for chunk in row_mapping.split_into_parameters(job_ids):
        for job, outcome, infrastructure, count in connection.execute(_COUNTS, {"jobs": chunk}):
            counts = counts_by_job.setdefault(job, dict.fromkeys(OutcomeCounts._fields, 0))
            counts[outcome if outcome in counts else "error"] += count
            counts["infrastructure"] += count if infrastructure else 0
    return {job: OutcomeCounts(**counts) for job, counts in counts_by_job.items()}


def list_by_job(
    connection: Connection, job: str, outcomes: Sequence[str] = (), limit: int = -1
) -> list[ResultRow]:
    """Return the results of a job by test number, at most ``limit`` (-1: all).

    ``outcomes``: only results with one of these outcomes; empty: all.
    """
    columns = (_RESULT[name] for name in ResultRow._fields)
    statement = select(*columns).where(_RESULT.job == job).order_by(_RESULT.number)
    if outcomes:
        statement = statement.where(_RESULT.outcome.in_(outcomes))
    if limit >= 0:
        statement = statement.limit(limit)
    return [ResultRow(*row) for row in connection.execute(statement)]


def list_flaky(connection: Connection, job: str, limit: int) -> list[ResultRow]:
    """Return the tests of a job that passed after a failed attempt, at most ``limit``."""
    columns = (_RESULT[name] for name in ResultRow._fields)
    statement = (
        select(*columns)
        .where(_RESULT.job == job, _RESULT.outcome == PASSED, _RESULT.attempts > 1)
        .order_by(_RESULT.number)
        .limit(limit)
    )
    return [ResultRow(*row) for row in connection.execute(statement)]


def list_cases(
    connection: Connection, job: str, test: int, after: int = -1, limit: int = 1000
) -> list[CaseRow]:
    """Return the cases of a test with a higher number than ``after``, at most ``limit``."""
    statement = (
        select(_RESULT.number, *(_CASE[name] for name in CaseRow._fields[1:]))
        .join(tables.result, _RESULT.id == _CASE.result)
        .where(_RESULT.job == job, _RESULT.number == test, _CASE.number > after)
        .order_by(_CASE.number)
        .limit(limit)
    )
    return [CaseRow(*row) for row in connection.execute(statement)]


def list_measurements(
    connection: Connection, job: str, limit: int = 1000
) -> list[tuple[str, MeasurementRow]]:
    """Return the first measurements of a job, each with the node id of its test."""
    columns = (
        _RESULT.number,
        _MEASUREMENT.case_number,
        _MEASUREMENT.name,
        _MEASUREMENT.value,
        _MEASUREMENT.unit,
    )
    statement = (
        select(_RESULT.nodeid, *columns)
        .join(tables.result, _RESULT.id == _MEASUREMENT.result)
        .where(_RESULT.job == job)
        .order_by(_RESULT.number, _MEASUREMENT.case_number, _MEASUREMENT.name)
        .limit(limit)
    )
    return [(row[0], MeasurementRow(*row[1:])) for row in connection.execute(statement)]


def list_failed_tests(connection: Connection, run: int) -> list[str]:
    """Return the node ids of the failed tests of a stage run, from harvested jobs only."""
    statement = (
        select(_RESULT.nodeid)
        .join(tables.job, _JOB.id == _RESULT.job)
        .where(_JOB.stage_run == run, _JOB.state.in_(_COUNTED_STATES))
        .where(_RESULT.outcome.in_(("failed", "error")))
        .distinct()
    )
    return sorted(connection.execute(statement).scalars())
