"""Links: rows on one side, a real host on the other; whatever dies, each job ends once."""

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

from dispatcher.configuration.settings import Pool, Settings
from dispatcher.hosts import connections as own
from dispatcher.hosts.hookspecs import Raised
from dispatcher.hosts.local_pool import Local
from dispatcher.model import HostState, JobEvent, JobState
from dispatcher.store import hosts, jobs, results
from shell_runner.config import HostEntry
from shell_runner.errors import HostError, UsageError
from shell_runner.jobs.client import JobClient
from shell_runner.remote.jobs import paths, queue
from tests.helpers import job_hosts
from tests.helpers.agent_processes import stopped
from tests.helpers.connection_fixtures import Dispatcher, threads
from tests.helpers.job_hosts import POPEN, script

pytestmark = pytest.mark.timeout(120)
POOL = Pool("pool")
DONE, LOST = JobState.ACKNOWLEDGED, JobState.LOST


@pytest.fixture
def tests(folder: Path) -> Path:
    script(folder / "tests", "test_a.sh", "exit 0")
    return folder / "tests"


@pytest.fixture
def there(folder: Path, tests: Path) -> Iterator[Dispatcher]:
    """One host, not yet opened."""
    with Dispatcher(folder / "data", tests) as found:
        found.add_host("h1")
        yield found


@pytest.fixture
def gate(folder: Path, tests: Path) -> Path:
    """A test that waits until somebody writes there."""
    os.mkfifo(folder / "go")
    script(tests, "test_a.sh", f"read line < {folder}/go")
    return folder / "go"


def state_on_host(job: str) -> str:
    with queue.Queue(queue.folder()) as there:
        return str(there.states([job])[job])


def opened(there: Dispatcher, gate: Path) -> int:
    """To write to a test that reads it: its host is at work, whatever becomes of us."""
    found: list[int] = []

    def is_read() -> bool:
        with suppress(OSError):
            found.append(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        return bool(found)

    there.until(is_read)
    return found[0]


def files(there: Dispatcher) -> list[str]:
    return os.listdir(there.settings.data / own.INCOMING)


# -- the whole way -------------------------------------------------------------------


def test_a_planned_job_goes_all_the_way(there: Dispatcher) -> None:
    there.start()
    there.until_host("h1", HostState.UP)
    (job,) = there.plan("h1")
    found = there.until_state(job, DONE)
    assert (found.how, len(found.package)) == ("completed", 64)
    assert found.submitted
    assert found.harvested
    assert (there.work.prepared, there.work.came) == ([job], [job])
    assert there.work.outcomes == [results.Harvest.NEW]
    assert state_on_host(job) == "harvested"
    assert files(there) == []
    host = there.host("h1")
    assert (host.jobs, host.failures) == (1, 0)
    assert host.seen
    assert host.facts["cores"]


def test_a_host_is_down_until_it_has_answered(there: Dispatcher) -> None:
    entry = HostEntry("h2", "ssh=nobody@127.0.0.1//ssh_config=/nowhere", labels=("x",))
    settings = Settings(there.settings.data, hosts={"h1": HostEntry("h1", "popen"), "h2": entry})
    own.configure(there.store, settings)
    assert there.host("h2").labels == ("x",)
    assert {there.host(name).state for name in ("h1", "h2")} == {HostState.DOWN}
    there.start()
    there.until_host("h1", HostState.UP)
    there.until(lambda: "not been opened" not in there.host("h2").reason)
    assert there.host("h2").state is HostState.DOWN


def test_a_host_of_the_file_that_goes_takes_its_jobs_along(there: Dispatcher) -> None:
    (job,) = there.plan("h1")
    own.configure(there.store, Settings(there.settings.data))
    there.start()
    found = there.until_state(job, LOST)
    assert found.detail == "the dispatcher has no such host any more"


def test_a_host_that_is_added_later_is_opened(there: Dispatcher, tests: Path) -> None:
    there.start()
    there.until_host("h1", HostState.UP)
    there.add_host("h2")
    there.until_host("h2", HostState.UP)


# -- what hosts refuse and forget -------------------------------------------------------


def test_a_job_that_cannot_be_prepared_is_lost_and_no_fault_of_the_host(there: Dispatcher) -> None:
    def refuse(job: object) -> None:
        raise UsageError("no tests were found")

    there.work.before_prepare = refuse
    there.start()
    (job,) = there.plan("h1")
    assert there.until_state(job, LOST).detail == "no tests were found"
    assert there.host("h1").failures == 0


def test_a_job_that_the_host_refuses_is_lost_with_its_words(there: Dispatcher, tests: Path) -> None:
    """It has a job of this UUID, and another one."""
    (job,) = there.plan("h1")

    def hand_in_another(_: object) -> None:
        with JobClient(POPEN) as client:
            job_hosts.submit(client, tests, job, retries=3)

    there.work.before_prepare = hand_in_another
    there.start()
    found = there.until_state(job, LOST)
    assert "is here already, and is another one" in found.detail
    assert there.host("h1").failures == 1


def test_a_full_queue_is_waited_for(there: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.hosts.connection._RETRY_DELAY", 0.1)
    with JobClient(POPEN) as client:
        client.set_limit("waiting", 0)
        there.start()
        (job,) = there.plan("h1")
        there.until(lambda: len(there.work.prepared) > 2)
        assert there.job(job).state is JobState.PLANNED
        client.set_limit("waiting", 10)
    there.until_state(job, DONE)


def test_a_host_that_has_forgotten_a_job_loses_it(there: Dispatcher, gate: Path) -> None:
    there.start()
    (job,) = there.plan("h1")
    there.until_state(job, JobState.SUBMITTED)
    there.links.close()
    gate.write_text("\n")
    with JobClient(POPEN) as client:
        client.wait(job)
        client.forget(job, force=True)
    there.links = there._links()
    there.links.start()
    assert there.until_state(job, LOST).detail == "the host has no such job any more"


def test_failures_in_a_row_are_a_quarantine(
    there: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.hosts.connection._ATTEMPT_DELAY", 0.01)

    def refuse(_: object) -> None:
        raise HostError("h1", "its package is refused")

    there.work.before_harvest = refuse
    there.start()
    for _ in range(there.terms.quarantine):
        (job,) = there.plan("h1")
        assert "its package is refused" in there.until_state(job, LOST).detail
    host = there.host("h1")
    assert host.state is HostState.QUARANTINED
    assert "3 infrastructure failures in a row" in host.reason
    # As evidence it is tried once more.
    there.until(lambda: files(there) == [])


# -- cancelling ------------------------------------------------------------------------


def test_a_job_ends_when_its_stage_run_is_cancelled_or_its_peers_are_gone(
    there: Dispatcher, gate: Path
) -> None:
    there.start()
    (job,) = there.plan("h1")
    there.until(lambda: state_on_host(job) == "running")
    there.cancel(job)
    assert there.until_state(job, DONE).how == "cancelled"
    assert there.host("h1").failures == 0
    (peer,) = there.plan("h1")
    there.until_state(peer, JobState.SUBMITTED)
    there.links.stop([peer])
    assert there.until_state(peer, DONE).how == "cancelled"
    there.links.look()
    assert not there.links._stops


def test_what_was_cancelled_before_it_was_handed_in_never_is(there: Dispatcher) -> None:
    (job,) = there.plan("h1")
    there.cancel(job)
    there.start()
    found = there.until_state(job, LOST)
    assert (found.how, there.work.prepared) == ("cancelled", [])
    assert state_on_host(job) == "None"
    assert there.host("h1").failures == 0


# -- whatever dies -----------------------------------------------------------------------


def test_what_the_host_had_already_is_not_prepared_again_and_ends_if_it_was_given_up(
    there: Dispatcher, tests: Path, gate: Path
) -> None:
    """The first was given up meanwhile; the answer to the submit of the second was lost."""
    (lost,), (job,) = there.plan("h1"), there.plan("h1")
    with JobClient(POPEN) as client:
        for each in (lost, job):
            job_hosts.submit(client, tests, each)
    there.until(lambda: state_on_host(lost) == "running")
    there.give_up(lost)
    there.start()
    there.until_state(job, JobState.SUBMITTED)
    there.until(lambda: state_on_host(lost) == "harvested")
    assert there.work.outcomes == [results.Harvest.EVIDENCE]
    assert there.job(lost).how == "cancelled"
    gate.write_text("\n")
    there.until_state(job, DONE)
    assert there.work.prepared == []


def test_a_desk_that_is_killed_is_opened_again_and_a_restart_finds_what_it_left(
    there: Dispatcher, gate: Path
) -> None:
    there.start()
    (job,) = there.plan("h1")
    there.until_state(job, JobState.SUBMITTED)
    for pid in job_hosts.pids():
        os.kill(pid, signal.SIGKILL)
    (second,) = there.plan("h1")
    there.until_state(second, JobState.SUBMITTED)
    there.restart()
    with open(gate, "w") as go:
        for each in (job, second):
            go.write("\n")
            go.flush()
            there.until_state(each, DONE)
    assert there.work.prepared == [job, second]


#: What became of a job that the host has ended: states of its row, or who has it here.
PART = "a part of its package is here"
SO_FAR: dict[str, tuple[JobEvent, ...]] = {
    "planned": (),
    "submitted": (JobEvent.ACCEPT,),
    "ended": (JobEvent.ACCEPT, JobEvent.END),
    "harvested": (JobEvent.ACCEPT,),
    "lost": (JobEvent.LOSE,),
    PART: (JobEvent.ACCEPT,),
}


def test_jobs_go_on_from_whatever_their_rows_say(there: Dispatcher, tests: Path) -> None:
    """The host has done all of them; the dispatcher died before it wrote so."""
    planned = {what: there.plan("h1")[0] for what in SO_FAR}
    path = there.settings.data / "x.zip"
    with JobClient(POPEN) as client:
        for job in planned.values():
            job_hosts.submit(client, tests, job)
        done = {what: client.wait(job) for what, job in planned.items()}
        client.download(planned["harvested"], path, lambda _: None)
    for what, events in SO_FAR.items():
        for event in events:
            with there.store.write() as connection:
                assert jobs.move(connection, planned[what], event)
    there.work.record(there.job(planned["harvested"]), path)
    assert all(there.job(job).state in (what, "submitted") for what, job in planned.items())
    leave_half(there, planned[PART])
    there.start()
    late = planned.pop("lost")
    for what, job in planned.items():
        assert there.until_state(job, DONE).package == done[what].package
    there.until(lambda: state_on_host(late) == "harvested")
    assert {state_on_host(job) for job in planned.values()} == {"harvested"}
    assert there.work.prepared == []
    assert sorted(there.work.came) == sorted([*planned.values(), late])
    assert there.host("h1").jobs == 5
    # Of the one that was given up, the package is evidence only.
    assert (there.job(late).state, there.job(late).package) == (LOST, done["lost"].package)
    assert there.work.outcomes.count(results.Harvest.EVIDENCE) == 1
    there.until(lambda: files(there) == [])


def leave_half(there: Dispatcher, job: str) -> None:
    """As a dispatcher that was killed while it downloaded; beside it what nobody wants."""
    package = Path(paths.package(queue.folder(), job)).read_bytes()
    incoming = there.settings.data / own.INCOMING
    incoming.mkdir()
    (incoming / f"{job}.zip.part").write_bytes(package[:100])
    (incoming / f"{uuid.uuid4()}.zip").write_bytes(b"nobody's")


def test_trouble_of_ours_costs_no_job(there: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, a bug: the step is tried again, and the host is not blamed."""
    monkeypatch.setattr("dispatcher.hosts.connection._RETRY_DELAY", 0.1)
    troubles = [OSError(28, "No space left on device"), ValueError("a bug")]

    def fail(_: object) -> None:
        if troubles:
            raise troubles.pop()

    there.work.before_harvest = fail
    there.start()
    (job,) = there.plan("h1")
    there.until_state(job, DONE)
    assert len(there.work.came) == 3
    assert there.host("h1").failures == 0


# -- draining -------------------------------------------------------------------------------


def test_jobs_planned_before_the_host_is_open_are_handed_in_and_a_drained_one_ends_them(
    there: Dispatcher,
) -> None:
    first, second = *there.plan("h1"), *there.plan("h1")
    there.start()
    there.until_host("h1", HostState.UP)
    (third,) = there.plan("h1")
    with there.store.write() as connection:
        hosts.set_state(connection, "h1", HostState.DRAINING, who="ann", at=1.0)
    for job in (first, second, third):
        there.until_state(job, DONE)
    host = there.host("h1")
    assert (host.state, host.jobs) == (HostState.DRAINING, 3)


# -- hosts that go and come back, behind a real agent -------------------------------------


@pytest.fixture
def agents(folder: Path) -> Iterator[Local]:
    found = Local(folder / "agents")
    yield found
    for name in found.existing():
        found.take_down(name, None)


@pytest.fixture
def far(agents: Local, folder: Path, tests: Path) -> Iterator[tuple[Dispatcher, Raised]]:
    """A host with an agent, and a dispatcher of little patience."""
    with Dispatcher(folder / "data", tests, lease=0.5) as found:
        raised = agents.bring_up("h1", POOL, None)
        found.add_host("h1", raised.spec)
        yield found, raised


def test_jobs_of_a_host_that_is_gone_for_longer_than_the_lease_are_lost_and_come_late(
    far: tuple[Dispatcher, Raised], agents: Local, gate: Path
) -> None:
    there, raised = far
    there.start()
    there.until_host("h1", HostState.UP)
    first, second = *there.plan("h1"), *there.plan("h1")
    for job in (first, second):
        there.until_state(job, JobState.SUBMITTED)
    pen = opened(there, gate)
    os.kill(raised.handle["pid"], signal.SIGKILL)
    for job in (first, second):
        assert "has not answered for" in there.until_state(job, LOST).detail
    host = there.until_host("h1", HostState.DOWN)
    # It is one failure, however many jobs it had.
    assert (host.failures, "Connection refused" in host.reason) == (1, True)
    # Its worker goes on without an agent; both ends meet when there is one.
    os.write(pen, b"\n")
    again = agents.bring_up("h1", POOL, raised.handle)
    there.add_host("h1", again.spec)
    there.until_host("h1", HostState.UP)
    os.write(pen, b"\n")
    there.until(lambda: all(there.job(job).package for job in (first, second)))
    os.close(pen)
    assert {there.job(job).state for job in (first, second)} == {LOST}
    assert set(there.work.outcomes) == {results.Harvest.EVIDENCE}


def test_time_in_which_we_were_stopped_is_no_silence_of_a_host(
    agents: Local, folder: Path, tests: Path, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its agent is away for a moment only, but after an hour of ours (Ctrl-Z)."""
    slept = 0.0
    clock = SimpleNamespace(time=time.time, monotonic=lambda: time.monotonic() + slept)
    monkeypatch.setattr("dispatcher.hosts.connection.time", clock)
    with Dispatcher(folder / "data", tests, lease=60.0) as there:
        raised = agents.bring_up("h1", POOL, None)
        there.add_host("h1", raised.spec)
        there.start()
        (job,) = there.plan("h1")
        there.until_state(job, JobState.SUBMITTED)
        slept = 3600.0
        os.kill(raised.handle["pid"], signal.SIGKILL)
        there.until_host("h1", HostState.DOWN)
        gate.write_text("\n")
        there.add_host("h1", agents.bring_up("h1", POOL, raised.handle).spec)
        assert there.until_state(job, DONE, LOST).state is not LOST


def test_a_host_that_does_not_answer_does_not_hold_up_the_end(
    far: tuple[Dispatcher, Raised],
) -> None:
    there, raised = far
    with stopped(raised.handle["pid"]):
        there.start()
        there.until(lambda: "open h1" in threads())
        began = time.monotonic()
        there.links.close()
        assert time.monotonic() - began < 10


def test_a_host_that_was_never_there_loses_its_jobs_after_the_lease(
    folder: Path, tests: Path
) -> None:
    with Dispatcher(folder / "data", tests, lease=0.3) as there:
        there.add_host("h1", "agent=127.0.0.1:1//credentials=/nowhere.pem", state=HostState.UP)
        (job,) = there.plan("h1")
        there.start()
        assert "/nowhere.pem" in there.until_state(job, LOST).detail
        assert there.host("h1").state is HostState.DOWN


def test_a_spec_that_cannot_be_is_a_host_that_is_down(folder: Path, tests: Path) -> None:
    with Dispatcher(folder / "data", tests) as there:
        there.add_host("h1", "popen//no=such")
        there.start()
        there.until(lambda: "unknown option 'no'" in there.host("h1").reason)


def test_jobs_that_nobody_runs_say_so_at_their_host(
    far: tuple[Dispatcher, Raised], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's FIFO is away: a worker cannot be started behind it."""
    there, _ = far
    there.start()
    there.until_host("h1", HostState.UP)
    (door,) = (there.settings.data.parent / "agents").glob("hosts/h1/state/nosejobs/**/agent.fifo")
    door.rename(door.with_name("shut"))
    (job,) = there.plan("h1")
    there.until(lambda: "agent does not answer" in there.host("h1").reason)
    door.with_name("shut").rename(door)
    there.until_state(job, DONE)
    there.until(lambda: not there.host("h1").reason)
