"""Tests of connections to a real host: whatever is killed, each job ends once."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from dispatcher.configuration.settings import Settings
from dispatcher.hosts import connections as host_connections
from dispatcher.model import HostState, Job, JobEvent, JobState
from dispatcher.store import hosts, jobs, results
from shell_runner.config import HostEntry
from shell_runner.errors import HostError, UsageError
from shell_runner.jobs.client import JobClient
from shell_runner.pools.local import LocalProvider
from shell_runner.pools.provider import PoolOptions, RunningHost
from shell_runner.remote.jobs import paths, queue, queue_location
from tests.helpers import job_hosts
from tests.helpers.agent_processes import pause_process
from tests.helpers.connection_fixtures import ConnectionHarness, connection_threads
from tests.helpers.job_hosts import POPEN, write_script

pytestmark = pytest.mark.timeout(120)
POOL = PoolOptions("pool")
DONE, LOST = JobState.ACKNOWLEDGED, JobState.LOST


@pytest.fixture
def tests(folder: Path) -> Path:
    write_script(folder / "tests", "test_a.sh", "exit 0")
    return folder / "tests"


@pytest.fixture
def harness(folder: Path, tests: Path) -> Iterator[ConnectionHarness]:
    """Yield a harness with one host, to which it is not connected yet."""
    with ConnectionHarness(folder / "data", tests) as harness:
        harness.add_host("h1")
        yield harness


@pytest.fixture
def gate(folder: Path, tests: Path) -> Path:
    """Return a FIFO; the test waits until something is written to it."""
    os.mkfifo(folder / "go")
    write_script(tests, "test_a.sh", f"read line < {folder}/go")
    return folder / "go"


def state_on_host(job: str) -> str:
    with queue.Queue(queue_location.find_queue_folder()) as host_queue:
        return str(host_queue.get_states([job])[job])


def open_gate(harness: ConnectionHarness, gate: Path) -> int:
    """Wait until the test reads its FIFO, and return a descriptor to write to it."""
    descriptors: list[int] = []

    def is_read() -> bool:
        with suppress(OSError):
            descriptors.append(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        return bool(descriptors)

    harness.wait_until(is_read)
    return descriptors[0]


def incoming_files(harness: ConnectionHarness) -> list[str]:
    return os.listdir(harness.settings.data / host_connections.INCOMING_FOLDER)


# -- from planned to acknowledged ------------------------------------------------------


def test_a_planned_job_is_submitted_harvested_and_acknowledged(harness: ConnectionHarness) -> None:
    harness.start()
    harness.wait_for_host("h1", HostState.UP)
    (job,) = harness.plan("h1")
    row = harness.wait_for_state(job, DONE)
    assert (row.end_reason, len(row.package_digest)) == ("completed", 64)
    assert row.submitted_at
    assert row.harvested_at
    assert (harness.work.prepared, harness.work.recorded) == ([job], [job])
    assert harness.work.outcomes == [results.HarvestOutcome.NEW]
    assert state_on_host(job) == "harvested"
    assert incoming_files(harness) == []
    host = harness.host("h1")
    assert (host.jobs_ended, host.consecutive_failures) == (1, 0)
    assert host.last_seen_at
    assert host.facts["cores"]


def test_a_host_is_down_until_it_has_answered(harness: ConnectionHarness) -> None:
    entry = HostEntry("h2", "ssh=nobody@127.0.0.1//ssh_config=/nowhere", labels=("x",))
    settings = Settings(harness.settings.data, hosts={"h1": HostEntry("h1", "popen"), "h2": entry})
    host_connections.configure(harness.store, settings)
    assert harness.host("h2").labels == ("x",)
    assert {harness.host(name).state for name in ("h1", "h2")} == {HostState.DOWN}
    harness.start()
    harness.wait_for_host("h1", HostState.UP)
    harness.wait_until(lambda: "not been open_gate" not in harness.host("h2").reason)
    assert harness.host("h2").state is HostState.DOWN


def test_the_jobs_of_a_host_that_is_removed_from_the_configuration_are_lost(
    harness: ConnectionHarness,
) -> None:
    (job,) = harness.plan("h1")
    host_connections.configure(harness.store, Settings(harness.settings.data))
    harness.start()
    row = harness.wait_for_state(job, LOST)
    assert row.detail == "its host is not configured any more"


def test_a_host_that_is_added_later_is_opened(harness: ConnectionHarness, tests: Path) -> None:
    harness.start()
    harness.wait_for_host("h1", HostState.UP)
    harness.add_host("h2")
    harness.wait_for_host("h2", HostState.UP)


# -- what hosts refuse and forget ------------------------------------------------------


def test_a_job_that_cannot_be_prepared_is_lost_and_no_fault_of_the_host(
    harness: ConnectionHarness,
) -> None:
    def refuse(job: object) -> None:
        raise UsageError("no tests were found")

    harness.work.before_prepare = refuse
    harness.start()
    (job,) = harness.plan("h1")
    assert harness.wait_for_state(job, LOST).detail == "no tests were found"
    assert harness.host("h1").consecutive_failures == 0


def test_a_job_that_the_host_refuses_is_lost_with_its_words(
    harness: ConnectionHarness, tests: Path
) -> None:
    """The host has a different job with the same UUID."""
    (job,) = harness.plan("h1")

    def hand_in_another(_: object) -> None:
        with JobClient(POPEN) as client:
            job_hosts.submit_job(client, tests, job, retries=3)

    harness.work.before_prepare = hand_in_another
    harness.start()
    row = harness.wait_for_state(job, LOST)
    assert "was submitted before" in row.detail
    assert harness.host("h1").consecutive_failures == 1


def test_a_full_queue_is_waited_for(harness: ConnectionHarness) -> None:
    harness.set_timeouts(retry_delay=0.1)
    with JobClient(POPEN) as client:
        client.set_limit("waiting", 0)
        harness.start()
        (job,) = harness.plan("h1")
        harness.wait_until(lambda: len(harness.work.prepared) > 2)
        assert harness.job(job).state is JobState.PLANNED
        client.set_limit("waiting", 10)
    harness.wait_for_state(job, DONE)


def test_a_host_that_has_forgotten_a_job_loses_it(harness: ConnectionHarness, gate: Path) -> None:
    harness.start()
    (job,) = harness.plan("h1")
    harness.wait_for_state(job, JobState.SUBMITTED)
    harness.connections.close()
    gate.write_text("\n")
    with JobClient(POPEN) as client:
        client.wait(job)
        client.forget(job, force=True)
    harness.connections = harness.new_connections()
    harness.connections.start()
    assert harness.wait_for_state(job, LOST).detail == "the host does not have this job any more"


def test_failures_in_a_row_are_a_quarantine(harness: ConnectionHarness) -> None:
    harness.set_timeouts(attempt_delay=0.01)

    def refuse(_: object) -> None:
        raise HostError("h1", "its package is refused")

    harness.work.before_record = refuse
    harness.start()
    for _ in range(harness.timeouts.quarantine):
        (job,) = harness.plan("h1")
        assert "its package is refused" in harness.wait_for_state(job, LOST).detail
    host = harness.host("h1")
    assert host.state is HostState.QUARANTINED
    assert "3 infrastructure failures in a row" in host.reason
    # The package is downloaded once more, as evidence.
    harness.wait_until(lambda: incoming_files(harness) == [])


# -- canceling ------------------------------------------------------------------------


def test_a_job_ends_when_its_stage_run_is_canceled_or_its_peers_are_gone(
    harness: ConnectionHarness, gate: Path
) -> None:
    harness.start()
    (job,) = harness.plan("h1")
    harness.wait_until(lambda: state_on_host(job) == "running")
    harness.cancel(job)
    assert harness.wait_for_state(job, DONE).end_reason == "canceled"
    assert harness.host("h1").consecutive_failures == 0
    (peer,) = harness.plan("h1")
    harness.wait_for_state(peer, JobState.SUBMITTED)
    harness.connections.stop([peer])
    assert harness.wait_for_state(peer, DONE).end_reason == "canceled"
    harness.connections.update()
    assert not harness.connections._stopped_jobs


def test_a_job_that_was_canceled_before_it_was_submitted_is_never_submitted(
    harness: ConnectionHarness,
) -> None:
    (job,) = harness.plan("h1")
    harness.cancel(job)
    harness.start()
    row = harness.wait_for_state(job, LOST)
    assert (row.end_reason, harness.work.prepared) == ("canceled", [])
    assert state_on_host(job) == "None"
    assert harness.host("h1").consecutive_failures == 0


# -- processes that are killed ---------------------------------------------------------


def test_what_the_host_had_already_is_not_prepared_again_and_ends_if_it_was_given_up(
    harness: ConnectionHarness, tests: Path, gate: Path
) -> None:
    """The first job was given up meanwhile; the response to the second submission was lost."""
    (lost,), (job,) = harness.plan("h1"), harness.plan("h1")
    with JobClient(POPEN) as client:
        for id in (lost, job):
            job_hosts.submit_job(client, tests, id)
    harness.wait_until(lambda: state_on_host(lost) == "running")
    harness.give_up(lost)
    harness.start()
    harness.wait_for_state(job, JobState.SUBMITTED)
    harness.wait_until(lambda: state_on_host(lost) == "harvested")
    assert harness.work.outcomes == [results.HarvestOutcome.LATE]
    assert harness.job(lost).end_reason == "canceled"
    gate.write_text("\n")
    harness.wait_for_state(job, DONE)
    assert harness.work.prepared == []


def test_a_session_that_is_killed_is_opened_again_and_a_restart_continues_its_jobs(
    harness: ConnectionHarness, gate: Path
) -> None:
    harness.start()
    (job,) = harness.plan("h1")
    harness.wait_for_state(job, JobState.SUBMITTED)
    for pid in job_hosts.list_interpreter_pids():
        os.kill(pid, signal.SIGKILL)
    (second,) = harness.plan("h1")
    harness.wait_for_state(second, JobState.SUBMITTED)
    harness.restart()
    with open(gate, "w") as go:
        for each in (job, second):
            go.write("\n")
            go.flush()
            harness.wait_for_state(each, DONE)
    assert harness.work.prepared == [job, second]


#: Events of a job's row, by the state in which a dispatcher was killed.
PARTIAL = "partly downloaded"
EVENTS_BY_STATE: dict[str, tuple[JobEvent, ...]] = {
    "planned": (),
    "submitted": (JobEvent.ACCEPT,),
    "ended": (JobEvent.ACCEPT, JobEvent.END),
    "harvested": (JobEvent.ACCEPT,),
    "lost": (JobEvent.LOSE,),
    PARTIAL: (JobEvent.ACCEPT,),
}


def test_jobs_go_on_from_whatever_their_rows_say(harness: ConnectionHarness, tests: Path) -> None:
    """The host has ended all jobs; the dispatcher was killed before it recorded that."""
    planned = {what: harness.plan("h1")[0] for what in EVENTS_BY_STATE}
    path = harness.settings.data / "x.zip"
    with JobClient(POPEN) as client:
        for job in planned.values():
            job_hosts.submit_job(client, tests, job)
        done = {what: client.wait(job) for what, job in planned.items()}
        client.download(planned["harvested"], path, lambda _: None)
    for what, events in EVENTS_BY_STATE.items():
        for event in events:
            with harness.store.write() as connection:
                assert jobs.apply_event(connection, planned[what], event)
    harness.work.record(harness.job(planned["harvested"]), path)
    assert all(harness.job(job).state in (what, "submitted") for what, job in planned.items())
    write_partial_download(harness, planned[PARTIAL])
    harness.start()
    late = planned.pop("lost")
    for what, job in planned.items():
        assert harness.wait_for_state(job, DONE).package_digest == done[what].package_digest
    harness.wait_until(lambda: state_on_host(late) == "harvested")
    assert {state_on_host(job) for job in planned.values()} == {"harvested"}
    assert harness.work.prepared == []
    assert sorted(harness.work.recorded) == sorted([*planned.values(), late])
    assert harness.host("h1").jobs_ended == 5
    # The package of the job that was given up is evidence only.
    assert (harness.job(late).state, harness.job(late).package_digest) == (
        LOST,
        done["lost"].package_digest,
    )
    assert harness.work.outcomes.count(results.HarvestOutcome.LATE) == 1
    harness.wait_until(lambda: incoming_files(harness) == [])


def write_partial_download(harness: ConnectionHarness, job: str) -> None:
    """Write what a dispatcher leaves that is killed in a download, and an unknown file."""
    package = Path(paths.package_path(queue_location.find_queue_folder(), job)).read_bytes()
    incoming = harness.settings.data / host_connections.INCOMING_FOLDER
    incoming.mkdir()
    (incoming / f"{job}.zip.part").write_bytes(package[:100])
    (incoming / f"{uuid.uuid4()}.zip").write_bytes(b"unknown")


def test_an_error_of_the_dispatcher_loses_no_job(harness: ConnectionHarness) -> None:
    """After a full disk or a bug the step is repeated; the host has no failure."""
    harness.set_timeouts(retry_delay=0.1)
    errors = [OSError(28, "No space left on device"), ValueError("a bug")]

    def fail(_: object) -> None:
        if errors:
            raise errors.pop()

    harness.work.before_record = fail
    harness.start()
    (job,) = harness.plan("h1")
    harness.wait_for_state(job, DONE)
    assert len(harness.work.recorded) == 3
    assert harness.host("h1").consecutive_failures == 0


def test_an_error_that_repeats_loses_its_job_and_not_those_beside_it(
    harness: ConnectionHarness,
) -> None:
    """Two jobs delay each other, and each is downloaded a bounded number of times."""
    harness.set_timeouts(attempt_delay=0.01, retry_delay=0.05)
    (good,) = harness.plan("h1")

    def fail(job: Job) -> None:
        if job.id != good:
            time.sleep(0.2)
            raise TypeError("an odd value")

    harness.work.before_record = fail
    bad = [*harness.plan("h1"), *harness.plan("h1")]
    harness.start()
    for job in bad:
        assert harness.wait_for_state(job, LOST).detail == "internal error: TypeError: an odd value"
    harness.wait_for_state(good, DONE)
    # Each package is tried three times, and as often again as evidence.
    assert max(harness.work.recorded.count(job) for job in bad) <= 6
    assert harness.host("h1").consecutive_failures == 0


# -- draining --------------------------------------------------------------------------


def test_jobs_planned_before_the_host_is_connected_are_submitted_and_a_drained_host_ends_them(
    harness: ConnectionHarness,
) -> None:
    first, second = *harness.plan("h1"), *harness.plan("h1")
    harness.start()
    harness.wait_for_host("h1", HostState.UP)
    (third,) = harness.plan("h1")
    with harness.store.write() as connection:
        hosts.set_state(connection, "h1", HostState.DRAINING, actor="ann", at=1.0)
    for job in (first, second, third):
        harness.wait_for_state(job, DONE)
    host = harness.host("h1")
    assert (host.state, host.jobs_ended) == (HostState.DRAINING, 3)


# -- hosts behind a real agent that are lost and come back -----------------------------


@pytest.fixture
def agents(folder: Path) -> Iterator[LocalProvider]:
    provider = LocalProvider(folder / "agents")
    yield provider
    for name in provider.existing():
        provider.take_down(name, None)


@pytest.fixture
def far(
    agents: LocalProvider, folder: Path, tests: Path
) -> Iterator[tuple[ConnectionHarness, RunningHost]]:
    """Yield a harness with a short lease, and its host, which has an agent."""
    with ConnectionHarness(folder / "data", tests, lease=0.5) as harness:
        running = agents.bring_up("h1", POOL, None)
        harness.add_host("h1", running.spec)
        yield harness, running


def test_jobs_of_a_host_that_is_gone_for_longer_than_the_lease_are_lost_and_come_late(
    far: tuple[ConnectionHarness, RunningHost], agents: LocalProvider, gate: Path
) -> None:
    harness, running = far
    harness.start()
    harness.wait_for_host("h1", HostState.UP)
    first, second = *harness.plan("h1"), *harness.plan("h1")
    for job in (first, second):
        harness.wait_for_state(job, JobState.SUBMITTED)
    gate_descriptor = open_gate(harness, gate)
    os.kill(running.handle["pid"], signal.SIGKILL)
    for job in (first, second):
        assert "has not answered for" in harness.wait_for_state(job, LOST).detail
    host = harness.wait_for_host("h1", HostState.DOWN)
    # The loss of the host is one failure, however many jobs were on it.
    assert (host.consecutive_failures, "Connection refused" in host.reason) == (1, True)
    # Its worker continues without an agent.
    os.write(gate_descriptor, b"\n")
    again = agents.bring_up("h1", POOL, running.handle)
    harness.add_host("h1", again.spec)
    harness.wait_for_host("h1", HostState.UP)
    os.write(gate_descriptor, b"\n")
    harness.wait_until(lambda: all(harness.job(job).package_digest for job in (first, second)))
    os.close(gate_descriptor)
    assert {harness.job(job).state for job in (first, second)} == {LOST}
    assert set(harness.work.outcomes) == {results.HarvestOutcome.LATE}


def test_time_in_which_the_dispatcher_was_stopped_does_not_count_as_silence(
    agents: LocalProvider, folder: Path, tests: Path, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent is away for a moment, right after the dispatcher was stopped for an hour."""
    slept = 0.0
    clock = SimpleNamespace(time=time.time, monotonic=lambda: time.monotonic() + slept)
    monkeypatch.setattr("dispatcher.hosts.connection.time", clock)
    with ConnectionHarness(folder / "data", tests, lease=60.0) as harness:
        running = agents.bring_up("h1", POOL, None)
        harness.add_host("h1", running.spec)
        harness.start()
        (job,) = harness.plan("h1")
        harness.wait_for_state(job, JobState.SUBMITTED)
        slept = 3600.0
        os.kill(running.handle["pid"], signal.SIGKILL)
        harness.wait_for_host("h1", HostState.DOWN)
        gate.write_text("\n")
        harness.add_host("h1", agents.bring_up("h1", POOL, running.handle).spec)
        assert harness.wait_for_state(job, DONE, LOST).state is not LOST


def test_a_host_that_does_not_answer_does_not_delay_close(
    far: tuple[ConnectionHarness, RunningHost],
) -> None:
    harness, running = far
    with pause_process(running.handle["pid"]):
        harness.start()
        harness.wait_until(lambda: "open h1" in connection_threads())
        began = time.monotonic()
        harness.connections.close()
        assert time.monotonic() - began < 10


def test_a_host_that_never_answered_loses_its_jobs_after_the_lease(
    folder: Path, tests: Path
) -> None:
    with ConnectionHarness(folder / "data", tests, lease=0.3) as harness:
        harness.add_host("h1", "agent=127.0.0.1:1//credentials=/nowhere.pem", state=HostState.UP)
        (job,) = harness.plan("h1")
        harness.start()
        assert "/nowhere.pem" in harness.wait_for_state(job, LOST).detail
        assert harness.host("h1").state is HostState.DOWN


def test_a_host_with_an_invalid_spec_is_down(folder: Path, tests: Path) -> None:
    with ConnectionHarness(folder / "data", tests) as harness:
        harness.add_host("h1", "popen//no=such")
        harness.start()
        harness.wait_until(lambda: "unknown option 'no'" in harness.host("h1").reason)


def test_a_host_without_a_worker_says_so_in_its_row(
    far: tuple[ConnectionHarness, RunningHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the agent's FIFO no worker can be started."""
    harness, _ = far
    harness.start()
    harness.wait_for_host("h1", HostState.UP)
    (fifo,) = (harness.settings.data.parent / "agents").glob(
        "hosts/h1/state/nosejobs/**/agent.fifo"
    )
    fifo.rename(fifo.with_name("shut"))
    (job,) = harness.plan("h1")
    harness.wait_until(lambda: "agent does not answer" in harness.host("h1").reason)
    fifo.with_name("shut").rename(fifo)
    harness.wait_for_state(job, DONE)
    harness.wait_until(lambda: not harness.host("h1").reason)
