"""Tests of the rows of packages: each is recorded once, and only current attempts count."""

import math

import pytest
from sqlalchemy import Connection

from dispatcher.model import InvalidTransition, JobEvent, JobState, OutcomeCounts
from dispatcher.store import Store, audit, jobs, result_retention, results
from dispatcher.store.results import (
    CaseRow,
    HarvestOutcome,
    MeasurementRow,
    PackageInfo,
    ResultRow,
    record_package,
)

from ..row_factories import add_all, add_built, add_jobs, add_run, give_up, uuid

PACKAGE = PackageInfo("p1", "completed", 9.0)
RESULTS = [
    ResultRow(0, "tests/a", "passed", "exit 0", 0.5),
    ResultRow(1, "tests/b\udcff", "failed", "exit 3", 1.5, 2),
    ResultRow(7, "tests/c", "error", "host lost", 0.0, 1, True),
]
CASES = [
    CaseRow(1, 0, "one", "passed", duration=0.25),
    CaseRow(1, 1, "two\0", "failed", "boom"),
    CaseRow(7, 0, "three", "xfailed", duration=math.nan),
]
NUMBERS = [
    MeasurementRow(0, -1, "speed", 1.0, "MB/s"),
    MeasurementRow(0, -1, "speed", 2.0, "MB/s"),
    MeasurementRow(1, 0, "size", math.inf),
]


def harvest(connection: Connection, job: str, package: PackageInfo = PACKAGE) -> HarvestOutcome:
    return record_package(connection, job, package, RESULTS, CASES, NUMBERS)


def test_a_package_becomes_rows(store: Store) -> None:
    with store.write() as connection:
        _, run, job = add_all(connection)
        assert harvest(connection, job) is HarvestOutcome.NEW
        row = jobs.get(connection, job)
        assert row is not None
        assert (row.state, row.package_digest, row.end_reason) == (
            JobState.HARVESTED,
            "p1",
            "completed",
        )
        rows = results.list_by_job(connection, job)
        assert [each.number for each in rows] == [0, 1, 7]
        assert rows[1] == RESULTS[1]._replace(nodeid=r"tests/b\xff")
        assert results.list_by_job(connection, job, ["passed"]) == RESULTS[:1]
        assert results.list_by_job(connection, job, limit=1) == RESULTS[:1]
        one, two = results.list_cases(connection, job, 1)
        assert (one, two.name, two.message) == (CASES[0], r"two\x00", "boom")
        assert results.list_cases(connection, job, 1, after=0) == [two]
        assert results.list_cases(connection, job, 7)[0].duration is None
        assert results.list_measurements(connection, job) == [("tests/a", NUMBERS[1])]
        assert results.count_outcomes(connection, [job]) == {job: OutcomeCounts(1, 1, 0, 1, 1)}
        assert results.list_failed_tests(connection, run) == [r"tests/b\xff", "tests/c"]


def test_the_same_package_again_does_nothing(store: Store) -> None:
    with store.write() as connection:
        _, _, job = add_all(connection)
        harvest(connection, job)
        before = results.list_by_job(connection, job)
        assert harvest(connection, job) is HarvestOutcome.REPEATED
        jobs.apply_event(connection, job, JobEvent.ACKNOWLEDGE)
        assert harvest(connection, job) is HarvestOutcome.REPEATED
        assert results.list_by_job(connection, job) == before
        assert len(results.list_cases(connection, job, 1)) == 2


def test_another_package_of_the_same_job_is_only_audited(store: Store) -> None:
    with store.write() as connection:
        _, _, job = add_all(connection)
        harvest(connection, job)
        other = PACKAGE._replace(digest="p2")
        assert record_package(connection, job, other, [RESULTS[0]]) is HarvestOutcome.DIFFERENT
        assert len(results.list_by_job(connection, job)) == 3
        assert "p2 instead of p1" in audit.list_entries(connection)[0].detail


def test_a_late_package_is_kept_but_does_not_count(store: Store) -> None:
    with store.write() as connection:
        _, run, job = add_all(connection)
        give_up(connection, run, job)
        assert harvest(connection, job) is HarvestOutcome.LATE
        assert harvest(connection, job) is HarvestOutcome.REPEATED
        row = jobs.get(connection, job)
        assert row is not None
        assert (row.state, row.package_digest) == (JobState.LOST, "p1")
        assert len(results.list_by_job(connection, job)) == 3
        assert results.list_failed_tests(connection, run) == []


def test_an_older_attempt_never_counts_beside_a_newer_one(store: Store) -> None:
    with store.write() as connection:
        _, run, job = add_all(connection)
        give_up(connection, run, job)
        (second,) = add_jobs(connection, run, "h2", attempt=2)
        assert harvest(connection, second, PACKAGE._replace(digest="p2")) is HarvestOutcome.NEW
        assert harvest(connection, job) is HarvestOutcome.LATE
        assert results.list_failed_tests(connection, run) == [r"tests/b\xff", "tests/c"]


def test_a_job_whose_submit_was_never_answered_is_harvested_too(store: Store) -> None:
    with store.write() as connection:
        run = add_run(connection, add_built(connection))
        (job,) = add_jobs(connection, run, "h1")
        connection.exec_driver_sql("UPDATE job SET state = 'planned'")
        assert harvest(connection, job) is HarvestOutcome.NEW


def test_an_unknown_job_is_refused(store: Store) -> None:
    with pytest.raises(InvalidTransition, match="no such job"), store.write() as connection:
        harvest(connection, uuid(5))


def test_a_case_without_a_result_rolls_all_back(store: Store) -> None:
    with store.write() as connection:
        _, _, job = add_all(connection)
    with pytest.raises(ValueError, match="test 3"), store.write() as connection:
        record_package(connection, job, PACKAGE, RESULTS, [CaseRow(3, 0, "x", "passed")])
    with store.read() as connection:
        row = jobs.get(connection, job)
        assert row is not None
        assert (row.state, row.package_digest) == (JobState.SUBMITTED, "")
        assert results.list_by_job(connection, job) == []


def test_retention_removes_results_and_keeps_the_package_digest(store: Store) -> None:
    with store.write() as connection:
        build, _, job = add_all(connection)
        harvest(connection, job)
        assert "p1" in result_retention.list_referenced_digests(connection)
        result_retention.remove_results(connection, build, 10.0)
        assert "p1" not in result_retention.list_referenced_digests(connection)
        left = "SELECT (SELECT count(*) FROM result), (SELECT count(*) FROM case_result)"
        assert connection.exec_driver_sql(left).one() == (0, 0)
        assert harvest(connection, job) is HarvestOutcome.REPEATED
