"""Tests that changes of jobs wake a waiting client at once, with a real queue and worker."""

from __future__ import annotations

import os
import threading
import time
import uuid
from pathlib import Path

import pytest

from shell_runner.errors import HostLost
from shell_runner.jobs.client import JobClient
from shell_runner.jobs.responses import JobChanges
from shell_runner.remote.jobs import change_signal, queue, queue_location
from tests.helpers.job_hosts import POPEN, submit_job, write_script

pytestmark = pytest.mark.timeout(120)
#: Seconds that are far more than a wake-up takes, and less than the wait that it ends.
WAKE_TIMEOUT = 10.0


class WaitingClient(threading.Thread):
    """A thread that waits for changes of jobs."""

    def __init__(self, client: JobClient, seen: dict[str, str]) -> None:
        super().__init__()
        self.changes: JobChanges | None = None
        self.error: Exception | None = None
        self._client, self._seen = client, seen
        self.start()

    def run(self) -> None:
        try:
            self.changes = self._client.await_changes(self._seen, 25.0)
        except Exception as error:
            self.error = error

    def wait_for_end(self) -> None:
        self.join(WAKE_TIMEOUT)
        assert not self.is_alive(), "it was not woken"


def wait_until_done(client: JobClient, id: str) -> list[str]:
    """Wait until a job is done; return its states in the order of their arrival."""
    states, states_by_id = [], {id: "queued"}
    while True:
        for job in client.await_changes(states_by_id).jobs:
            states.append(job.state)
            states_by_id[id] = job.state
            if job.is_done:
                assert job.package_digest
                return states


def list_listeners() -> list[str]:
    return os.listdir(Path(queue_location.find_queue_folder()) / "listeners")


def test_each_state_of_a_job_is_reported_until_its_package_is_ready(
    client: JobClient, folder: Path, id: str
) -> None:
    write_script(folder / "tests", "test_a.sh")
    submit_job(client, folder / "tests", id)
    states = wait_until_done(client, id)
    assert states[-1] == "ready"
    assert set(states) <= {"running", "packaging", "ready"}


def test_an_unknown_job_is_gone(client: JobClient, id: str) -> None:
    assert client.await_changes({id: "queued"}, 25.0) == JobChanges(gone=(id,))
    started_at = time.monotonic()
    assert client.await_changes({id: "gone"}, 0.05) == JobChanges()
    assert time.monotonic() - started_at < WAKE_TIMEOUT


def test_the_end_is_reported_soon_after_it_is_written(folder: Path, id: str) -> None:
    """The limit is half the interval of polling twenty times a second: a signal must wake it."""
    took = []
    os.mkfifo(folder / "go")
    write_script(folder / "tests", "test_a.sh", f"read line < {folder}/go")
    with JobClient(POPEN) as client, queue.Queue(queue_location.find_queue_folder()) as there:
        for _ in range(5):
            job = submit_job(client, folder / "tests", str(uuid.uuid4()))
            states_by_id = {job.id: job.state}
            while states_by_id[job.id] != "running":
                states_by_id |= {
                    each.id: each.state for each in client.await_changes(states_by_id).jobs
                }
            waiting = WaitingClient(client, states_by_id)
            (folder / "go").write_text("\n")
            waiting.wait_for_end()
            reported = time.time()
            ended = there.find(job.id).ended_at
            assert ended is not None
            took.append(reported - ended)
            wait_until_done(client, job.id)
    assert min(took) < 0.02, took


def test_an_interrupt_ends_the_wait_at_once(client: JobClient) -> None:
    client.open()
    waiting = WaitingClient(client, {})
    client.interrupt()
    waiting.wait_for_end()
    assert waiting.changes == JobChanges()


def test_an_interrupt_between_two_waits_ends_the_next_one(client: JobClient) -> None:
    client.interrupt()
    WaitingClient(client, {}).wait_for_end()
    # ... and that one alone.
    started_at = time.monotonic()
    client.await_changes({}, 0.3)
    assert time.monotonic() - started_at >= 0.3


def test_no_interrupt_is_missed_however_it_falls(client: JobClient) -> None:
    stop = threading.Event()
    received: list[int] = []

    def wait() -> None:
        while not stop.is_set():
            client.await_changes({}, 25.0)
            received.append(reported[0])

    reported = [0]
    thread = threading.Thread(target=wait)
    thread.start()
    for number in range(1, 200):
        reported[0] = number
        client.interrupt()
        if number % 3:
            time.sleep(0.0003 * (number % 7))
        deadline = time.monotonic() + WAKE_TIMEOUT
        while number % 10 == 0 and received[-1:] != [number]:
            assert time.monotonic() < deadline, "the interrupt was missed"
            time.sleep(0.001)
    stop.set()
    client.interrupt()
    thread.join(WAKE_TIMEOUT)
    assert not thread.is_alive()


def test_an_abort_ends_the_request(folder: Path) -> None:
    with JobClient(POPEN, max_attempts=1) as client:
        assert client.open()["cores"]
        waiting = WaitingClient(client, {})
        client.abort()
        waiting.wait_for_end()
        assert isinstance(waiting.error, HostLost)


def test_a_closed_listener_leaves_no_fifo_and_that_of_a_dead_one_is_removed(
    client: JobClient, folder: Path, id: str
) -> None:
    client.await_changes({}, 0.0)
    assert len(list_listeners()) == 1
    client.close()
    deadline = time.monotonic() + WAKE_TIMEOUT
    while list_listeners():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    dead = change_signal.ChangeListener(queue_location.find_queue_folder())
    path = dead._path
    dead.close()
    os.mkfifo(path)
    change_signal.notify_listeners(queue_location.find_queue_folder())
    assert not list_listeners()


def test_a_cancel_by_another_session_is_reported(client: JobClient, folder: Path, id: str) -> None:
    os.mkfifo(folder / "go")
    write_script(folder / "tests", "test_a.sh", f"read line < {folder}/go")
    job = submit_job(client, folder / "tests", id)
    states_by_id = {id: job.state}
    while states_by_id[id] != "running":
        states_by_id |= {each.id: each.state for each in client.await_changes(states_by_id).jobs}
    waiting = WaitingClient(client, states_by_id)
    with JobClient(POPEN) as other:
        other.cancel(id)
    waiting.wait_for_end()
    assert waiting.changes is not None
    assert [each.end_reason for each in waiting.changes.jobs] == ["canceled"]
    wait_until_done(client, id)
