"""What hosts' packages said: results, cases, measurements; each package goes in once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, func, select

from shell_runner.remote.protocol.model import OUTCOMES

from .. import model
from ..model import OutcomeCounts
from . import audit, jobs, statements, tables
from .tables import clean

_JOB, _RUN = tables.job.c, tables.stage_run.c
_RESULT, _CASE, _NUMBER = tables.result.c, tables.case.c, tables.measurement.c
_KEYS = select(_RESULT.number, _RESULT.id).where(_RESULT.job == bindparam("job"))
_COUNTS = (
    select(_RESULT.job, _RESULT.outcome, _RESULT.infrastructure, func.count())
    .where(_RESULT.job.in_(bindparam("jobs", expanding=True)))
    .group_by(_RESULT.job, _RESULT.outcome, _RESULT.infrastructure)
)
_SUCCESSOR = (
    select(_JOB.id)
    .where(_JOB.stage_run == bindparam("run"), _JOB.part == bindparam("of"))
    .where(_JOB.attempt > bindparam("after"))
    .limit(1)
)
#: Jobs whose results make a verdict.
_COUNT = (model.JobState.HARVESTED.value, model.JobState.ACKNOWLEDGED.value)


class Harvest(StrEnum):
    """What became of a package."""

    #: It is in the database now, and the job is harvested.
    NEW = "new"
    #: It was there already: nothing has happened.
    REPEATED = "repeated"
    #: The job was given up before: its rows are kept, and no verdict is made of them.
    EVIDENCE = "evidence"
    #: Another package of this job was there before: nothing is kept of this one.
    OTHER = "other"


class ResultRow(NamedTuple):
    """The outcome of a test of a job."""

    #: Of the test in its job.
    number: int
    nodeid: str
    outcome: str
    words: str
    duration: float
    tries: int = 1
    infrastructure: bool = False


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

    #: Number of the test, and of the case or -1.
    test: int
    case: int
    name: str
    value: float
    unit: str = ""


class Package(NamedTuple):
    """A package that was verified and stored: its digest, and how the job ended."""

    digest: str
    how: str
    at: float
    detail: str = ""


def harvested(
    connection: Connection,
    job: str,
    package: Package,
    results: Iterable[ResultRow],
    cases: Iterable[CaseRow] = (),
    measurements: Iterable[MeasurementRow] = (),
) -> Harvest:
    """All rows of a package, and the job's state, in the transaction of ``connection``.

    Only after its commit may the host forget the package.  Rows of a test that ``results``
    does not name are a ValueError: whoever reads packages has checked them.
    """
    outcome = _claim(connection, job, package)
    if outcome in (Harvest.NEW, Harvest.EVIDENCE):
        numbers = _add_results(connection, job, results)
        _add_cases(connection, numbers, cases)
        _add_measurements(connection, numbers, measurements)
    return outcome


def _claim(connection: Connection, key: str, package: Package) -> Harvest:
    """Write the package into its job's row, if there is none yet."""
    job = jobs.get(connection, key)
    if job is None:
        raise model.BadChange(f"job {key}: there is no such job here")
    if job.package:
        return _again(connection, job, package)
    fields = {"how": package.how, "detail": package.detail, "harvested": package.at}
    fields["package"] = package.digest
    if job.state is model.JobState.PLANNED:  # submitted, although no answer has come
        jobs.move(connection, key, model.JobEvent.END)
    if not _has_successor(connection, job):
        if jobs.move(connection, key, model.JobEvent.HARVEST, **fields):
            return Harvest.NEW
    else:
        jobs.move(connection, key, model.JobEvent.LOSE)
    statements.put(connection, tables.job, key, **fields)
    words = f"job {key} of {job.host}: its package came after it was given up"
    audit.write(connection, package.at, "harvest", words)
    return Harvest.EVIDENCE


def _again(connection: Connection, job: model.Job, package: Package) -> Harvest:
    if job.package == package.digest:
        return Harvest.REPEATED
    words = f"job {job.id} of {job.host}: {package.digest} instead of {job.package}"
    audit.write(connection, package.at, "another package", words)
    return Harvest.OTHER


def _has_successor(connection: Connection, job: model.Job) -> bool:
    """There is a newer attempt at the same part: this one counts no more."""
    told = {"run": job.stage_run, "of": job.part, "after": job.attempt}
    return connection.execute(_SUCCESSOR, told).first() is not None


def _add_results(connection: Connection, job: str, results: Iterable[ResultRow]) -> _Keys:
    columns = ("job", *ResultRow._fields)
    cleaned = (
        (job, number, clean(nodeid), clean(outcome), clean(words), _finite(took) or 0.0, *rest)
        for number, nodeid, outcome, words, took, *rest in results
    )
    statements.add_many(connection, tables.result, columns, cleaned)
    return _Keys((row[0], row[1]) for row in connection.execute(_KEYS, {"job": job}))


def _add_cases(connection: Connection, keys: _Keys, found: Iterable[CaseRow]) -> None:
    """By the hundred thousand: what is clean for sure is not looked at."""
    columns = ("result", *CaseRow._fields[1:])
    cleaned = (
        (
            keys[test],
            number,
            clean(name),
            outcome if outcome in OUTCOMES else clean(outcome),
            message and clean(message),
            took if took is None else _finite(took),
        )
        for test, number, name, outcome, message, took in found
    )
    statements.add_many(connection, tables.case, columns, cleaned)


def _add_measurements(connection: Connection, keys: _Keys, found: Iterable[MeasurementRow]) -> None:
    """Those that are numbers; of two with the same name the last one counts."""
    last = {
        (keys[test], case, clean(name)): (float(value), clean(unit))
        for test, case, name, value, unit in found
        if _finite(value) is not None
    }
    columns = ("result", "case_number", "name", "value", "unit")
    statements.add_many(connection, tables.measurement, columns, ((*k, *v) for k, v in last.items()))


class _Keys(dict[int, int]):
    """Numbers of results in the database by their numbers in the job."""

    def __missing__(self, test: int) -> int:
        raise ValueError(f"a row of test {test}, which has no result")


def _finite(number: float | None) -> float | None:
    """No database takes infinity and NaN for what they are."""
    return number if number is not None and math.isfinite(number) else None


# -- reading ------------------------------------------------------------------------


def counts(connection: Connection, found: Sequence[str]) -> dict[str, OutcomeCounts]:
    """By job, for those that have results."""
    seen: dict[str, dict[str, int]] = {}
    for chunk in statements.chunks(found):
        for job, outcome, infrastructure, count in connection.execute(_COUNTS, {"jobs": chunk}):
            each = seen.setdefault(job, dict.fromkeys(OutcomeCounts._fields, 0))
            each[outcome if outcome in each else "error"] += count
            each["infrastructure"] += count if infrastructure else 0
    return {job: OutcomeCounts(**each) for job, each in seen.items()}


def of_job(
    connection: Connection, job: str, outcomes: Sequence[str] = (), most: int = -1
) -> list[ResultRow]:
    """Results in order; of some outcomes only, and not more than so many (-1: all)."""
    columns = (_RESULT[name] for name in ResultRow._fields)
    statement = select(*columns).where(_RESULT.job == job).order_by(_RESULT.number)
    if outcomes:
        statement = statement.where(_RESULT.outcome.in_(outcomes))
    if most >= 0:
        statement = statement.limit(most)
    return [ResultRow(*row) for row in connection.execute(statement)]


def cases_of(
    connection: Connection, job: str, test: int, after: int = -1, most: int = 1000
) -> list[CaseRow]:
    """Cases of a test, from the one after number ``after`` on."""
    statement = (
        select(_RESULT.number, *(_CASE[name] for name in CaseRow._fields[1:]))
        .join(tables.result, _RESULT.id == _CASE.result)
        .where(_RESULT.job == job, _RESULT.number == test, _CASE.number > after)
        .order_by(_CASE.number)
        .limit(most)
    )
    return [CaseRow(*row) for row in connection.execute(statement)]


def measured(
    connection: Connection, job: str, most: int = 1000
) -> list[tuple[str, MeasurementRow]]:
    """The first numbers of a job, each with the name of its test."""
    columns = (_RESULT.number, _NUMBER.case_number, _NUMBER.name, _NUMBER.value, _NUMBER.unit)
    statement = (
        select(_RESULT.nodeid, *columns)
        .join(tables.result, _RESULT.id == _NUMBER.result)
        .where(_RESULT.job == job)
        .order_by(_RESULT.number, _NUMBER.case_number, _NUMBER.name)
        .limit(most)
    )
    return [(row[0], MeasurementRow(*row[1:])) for row in connection.execute(statement)]


def failed(connection: Connection, run: int) -> list[str]:
    """Node ids of the tests of a stage run that did not pass, by the jobs that count."""
    statement = (
        select(_RESULT.nodeid)
        .join(tables.job, _JOB.id == _RESULT.job)
        .where(_JOB.stage_run == run, _JOB.state.in_(_COUNT))
        .where(_RESULT.outcome.in_(("failed", "error")))
        .distinct()
    )
    return sorted(connection.execute(statement).scalars())
