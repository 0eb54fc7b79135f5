"""Tests of the queries of host connections, and of how they record failures of a host."""

import pytest

from dispatcher.model import Host, HostState, JobEvent, JobState, StageEvent
from dispatcher.store import Store, hosts, jobs, stage_runs

from ..row_factories import add_build, add_jobs, add_run


def test_jobs_of_a_run_that_is_over_are_stopped(store: Store) -> None:
    with store.write() as connection:
        one, two = (add_run(connection, add_build(connection, name)) for name in "ab")
        (first, ended), (other,) = (
            add_jobs(connection, one, "h1", "h2"),
            add_jobs(connection, two, "h1"),
        )
        assert jobs.hosts_of_stopped_jobs(connection) == {}
        assert jobs.apply_event(connection, ended, JobEvent.LOSE)
        assert stage_runs.apply_event(connection, one, StageEvent.CANCEL)
        assert jobs.hosts_of_stopped_jobs(connection) == {first: "h1"}
        assert jobs.get(connection, other) is not None


def test_lost_jobs_are_those_of_one_host_of_late_newest_first(store: Store) -> None:
    with store.write() as connection:
        run = add_run(connection, add_build(connection))
        job_ids = add_jobs(connection, run, "h1", "h2", "h1")
        for job in job_ids:
            assert jobs.apply_event(connection, job, JobEvent.LOSE)
        lost = jobs.list_lost_on_host(connection, "h1", 0.0, 10)
        assert [job.id for job in lost] == [job_ids[0], job_ids[2]]
        assert {job.state for job in lost} == {JobState.LOST}
        assert len(jobs.list_lost_on_host(connection, "h1", 0.0, 1)) == 1
        assert jobs.list_lost_on_host(connection, "h1", 4.0, 10) == []


def test_a_host_goes_down_once_and_for_each_new_reason(store: Store) -> None:
    with store.write() as connection:
        hosts.configure(connection, Host("h1", "popen"))
        assert hosts.mark_down(connection, "h1", "no route")
        assert not hosts.mark_down(connection, "h1", "no route")
        assert hosts.mark_down(connection, "h1", "refused")
        host = hosts.get(connection, "h1")
        assert host is not None
        assert (host.state, host.reason) == (HostState.DOWN, "refused")


KEPT = [HostState.DRAINING, HostState.QUARANTINED, HostState.STARTING]


@pytest.mark.parametrize("state", KEPT)
def test_silence_changes_nothing_of_what_was_decided(store: Store, state: HostState) -> None:
    with store.write() as connection:
        hosts.configure(connection, Host("h1", "popen", state=state, reason="why"))
        assert not hosts.mark_down(connection, "h1", "no route")
        host = hosts.get(connection, "h1")
        assert host is not None
        assert (host.state, host.reason) == (state, "why")
        hosts.set_reason(connection, "h1", "other words")
        host = hosts.get(connection, "h1")
        assert host is not None
        assert (host.state, host.reason) == (state, "other words")
