"""A package goes into the database once, and only the one that counts makes a verdict."""

import math

import pytest
from sqlalchemy import Connection

from dispatcher.model import BadChange, JobEvent, JobState, OutcomeCounts
from dispatcher.store import Store, audit, jobs, results, retention
from dispatcher.store.results import CaseRow, Harvest, MeasurementRow, Package, ResultRow, harvested

from ..row_factories import add_all, add_built, add_jobs, add_run, give_up, uuid

PACKAGE = Package("p1", "completed", 9.0)
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


def harvest(connection: Connection, job: str, package: Package = PACKAGE) -> Harvest:
    return harvested(connection, job, package, RESULTS, CASES, NUMBERS)


def test_a_package_becomes_rows(store: Store) -> None:
    with store.write() as connection:
        _, run, job = add_all(connection)
        assert harvest(connection, job) is Harvest.NEW
        found = jobs.get(connection, job)
        assert found is not None
        assert (found.state, found.package, found.how) == (JobState.HARVESTED, "p1", "completed")
        told = results.of_job(connection, job)
        assert [each.number for each in told] == [0, 1, 7]
        assert told[1] == RESULTS[1]._replace(nodeid=r"tests/b\xff")
        assert results.of_job(connection, job, ["passed"]) == RESULTS[:1]
        assert results.of_job(connection, job, most=1) == RESULTS[:1]
        one, two = results.cases_of(connection, job, 1)
        assert (one, two.name, two.message) == (CASES[0], r"two\x00", "boom")
        assert results.cases_of(connection, job, 1, after=0) == [two]
        assert results.cases_of(connection, job, 7)[0].duration is None
        assert results.measured(connection, job) == [("tests/a", NUMBERS[1])]
        assert results.counts(connection, [job]) == {job: OutcomeCounts(1, 1, 0, 1, 1)}
        assert results.failed(connection, run) == [r"tests/b\xff", "tests/c"]


def test_the_same_package_again_does_nothing(store: Store) -> None:
    with store.write() as connection:
        _, _, job = add_all(connection)
        harvest(connection, job)
        before = results.of_job(connection, job)
        assert harvest(connection, job) is Harvest.REPEATED
        jobs.move(connection, job, JobEvent.ACKNOWLEDGE)
        assert harvest(connection, job) is Harvest.REPEATED
        assert results.of_job(connection, job) == before
        assert len(results.cases_of(connection, job, 1)) == 2


def test_another_package_of_the_same_job_is_put_on_record_only(store: Store) -> None:
    with store.write() as connection:
        _, _, job = add_all(connection)
        harvest(connection, job)
        other = PACKAGE._replace(digest="p2")
        assert harvested(connection, job, other, [RESULTS[0]]) is Harvest.OTHER
        assert len(results.of_job(connection, job)) == 3
        assert "p2 instead of p1" in audit.entries(connection)[0].detail


def test_a_late_package_is_evidence_and_no_verdict(store: Store) -> None:
    with store.write() as connection:
        _, run, job = add_all(connection)
        give_up(connection, run, job)
        assert harvest(connection, job) is Harvest.EVIDENCE
        assert harvest(connection, job) is Harvest.REPEATED
        found = jobs.get(connection, job)
        assert found is not None
        assert (found.state, found.package) == (JobState.LOST, "p1")
        assert len(results.of_job(connection, job)) == 3
        assert results.failed(connection, run) == []


def test_an_older_attempt_never_counts_beside_a_newer_one(store: Store) -> None:
    with store.write() as connection:
        _, run, job = add_all(connection)
        give_up(connection, run, job)
        (second,) = add_jobs(connection, run, "h2", attempt=2)
        assert harvest(connection, second, PACKAGE._replace(digest="p2")) is Harvest.NEW
        assert harvest(connection, job) is Harvest.EVIDENCE
        assert results.failed(connection, run) == [r"tests/b\xff", "tests/c"]


def test_a_job_whose_submit_was_never_answered_is_harvested_too(store: Store) -> None:
    with store.write() as connection:
        run = add_run(connection, add_built(connection))
        (job,) = add_jobs(connection, run, "h1")
        connection.exec_driver_sql("UPDATE job SET state = 'planned'")
        assert harvest(connection, job) is Harvest.NEW


def test_an_unknown_job_is_refused(store: Store) -> None:
    with pytest.raises(BadChange, match="no such job"), store.write() as connection:
        harvest(connection, uuid(5))


def test_rows_that_belong_to_nothing_leave_nothing(store: Store) -> None:
    with store.write() as connection:
        _, _, job = add_all(connection)
    with pytest.raises(ValueError, match="test 3"), store.write() as connection:
        harvested(connection, job, PACKAGE, RESULTS, [CaseRow(3, 0, "x", "passed")])
    with store.read() as connection:
        found = jobs.get(connection, job)
        assert found is not None
        assert (found.state, found.package) == (JobState.SUBMITTED, "")
        assert results.of_job(connection, job) == []


def test_retention_takes_the_results_and_the_word_of_them_stays(store: Store) -> None:
    with store.write() as connection:
        build, _, job = add_all(connection)
        harvest(connection, job)
        assert "p1" in retention.referred(connection)
        retention.forget(connection, build, 10.0)
        assert "p1" not in retention.referred(connection)
        left = "SELECT (SELECT count(*) FROM result), (SELECT count(*) FROM case_result)"
        assert connection.exec_driver_sql(left).one() == (0, 0)
        assert harvest(connection, job) is Harvest.REPEATED
