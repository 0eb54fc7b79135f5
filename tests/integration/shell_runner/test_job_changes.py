"""News of jobs: a real desk, a real queue and a real worker; who waits is woken at once."""

from __future__ import annotations

import os
import threading
import time
import uuid
from pathlib import Path

import pytest

from shell_runner.errors import HostLost
from shell_runner.jobs.client import JobClient
from shell_runner.jobs.responses import News
from shell_runner.remote.jobs import change_signal, queue
from tests.helpers.job_hosts import POPEN, script, submit

pytestmark = pytest.mark.timeout(120)
#: Far more than anything of these takes, far less than a look that nobody asked for.
SOON = 10.0


class Waiting(threading.Thread):
    """Somebody who waits for news."""

    def __init__(self, client: JobClient, seen: dict[str, str]) -> None:
        super().__init__()
        self.news: News | None = None
        self.error: Exception | None = None
        self._client, self._seen = client, seen
        self.start()

    def run(self) -> None:
        try:
            self.news = self._client.news(self._seen, 25.0)
        except Exception as error:
            self.error = error

    def done(self) -> None:
        self.join(SOON)
        assert not self.is_alive(), "nobody woke it"


def until_done(client: JobClient, id: str) -> list[str]:
    """States as they were told."""
    states, seen = [], {id: "queued"}
    while True:
        for job in client.news(seen).jobs:
            states.append(job.state)
            seen[id] = job.state
            if job.is_done:
                assert job.package
                return states


def listeners() -> list[str]:
    return os.listdir(Path(queue.folder()) / "bells")


def test_each_state_of_a_job_is_told_until_its_package_is_there(
    client: JobClient, folder: Path, id: str
) -> None:
    script(folder / "tests", "test_a.sh")
    submit(client, folder / "tests", id)
    states = until_done(client, id)
    assert states[-1] == "ready"
    assert set(states) <= {"running", "packaging", "ready"}


def test_a_job_that_is_not_there_is_gone(client: JobClient, id: str) -> None:
    assert client.news({id: "queued"}, 25.0) == News(gone=(id,))
    began = time.monotonic()
    assert client.news({id: "gone"}, 0.05) == News()
    assert time.monotonic() - began < SOON


def test_the_end_is_known_soon_after_it_is_written(folder: Path, id: str) -> None:
    """Half of what a look twenty times a second would come to: it is the bell that tells."""
    took = []
    os.mkfifo(folder / "go")
    script(folder / "tests", "test_a.sh", f"read line < {folder}/go")
    with JobClient(POPEN) as client, queue.Queue(queue.folder()) as there:
        for _ in range(5):
            job = submit(client, folder / "tests", str(uuid.uuid4()))
            seen = {job.id: job.state}
            while seen[job.id] != "running":
                seen |= {each.id: each.state for each in client.news(seen).jobs}
            waiting = Waiting(client, seen)
            (folder / "go").write_text("\n")
            waiting.done()
            told = time.time()
            ended = there.find(job.id).ended
            assert ended is not None
            took.append(told - ended)
            until_done(client, job.id)
    assert min(took) < 0.02, took


def test_an_interrupt_ends_the_wait_at_once(client: JobClient) -> None:
    client.open()
    waiting = Waiting(client, {})
    client.interrupt()
    waiting.done()
    assert waiting.news == News()


def test_an_interrupt_between_two_waits_ends_the_next_one(client: JobClient) -> None:
    client.interrupt()
    Waiting(client, {}).done()
    # ... and that one alone.
    began = time.monotonic()
    client.news({}, 0.3)
    assert time.monotonic() - began >= 0.3


def test_no_interrupt_is_missed_however_it_falls(client: JobClient) -> None:
    stop = threading.Event()
    seen: list[int] = []

    def wait() -> None:
        while not stop.is_set():
            client.news({}, 25.0)
            seen.append(told[0])

    told = [0]
    thread = threading.Thread(target=wait)
    thread.start()
    for number in range(1, 200):
        told[0] = number
        client.interrupt()
        if number % 3:
            time.sleep(0.0003 * (number % 7))
        deadline = time.monotonic() + SOON
        while number % 10 == 0 and seen[-1:] != [number]:
            assert time.monotonic() < deadline, "it was missed"
            time.sleep(0.001)
    stop.set()
    client.interrupt()
    thread.join(SOON)
    assert not thread.is_alive()


def test_an_abort_ends_what_is_asked(folder: Path) -> None:
    with JobClient(POPEN, tries=1) as client:
        assert client.open()["cores"]
        waiting = Waiting(client, {})
        client.abort()
        waiting.done()
        assert isinstance(waiting.error, HostLost)


def test_who_listens_leaves_nothing_and_a_dead_ones_bell_is_removed(
    client: JobClient, folder: Path, id: str
) -> None:
    client.news({}, 0.0)
    assert len(listeners()) == 1
    client.close()
    deadline = time.monotonic() + SOON
    while listeners():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    dead = change_signal.Bell(queue.folder())
    path = dead._path
    dead.close()
    os.mkfifo(path)
    change_signal.ring(queue.folder())
    assert not listeners()


def test_another_sessions_cancelling_is_news(client: JobClient, folder: Path, id: str) -> None:
    os.mkfifo(folder / "go")
    script(folder / "tests", "test_a.sh", f"read line < {folder}/go")
    job = submit(client, folder / "tests", id)
    seen = {id: job.state}
    while seen[id] != "running":
        seen |= {each.id: each.state for each in client.news(seen).jobs}
    waiting = Waiting(client, seen)
    with JobClient(POPEN) as other:
        other.cancel(id)
    waiting.done()
    assert waiting.news is not None
    assert [each.how for each in waiting.news.jobs] == ["cancelled"]
    until_done(client, id)
