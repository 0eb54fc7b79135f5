"""Tests of what a worker does for speed, and of what that must not break."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shell_runner.remote.jobs import paths, worker_launcher
from shell_runner.remote.jobs.queue import JobRow, State
from shell_runner.remote.processes import process_tree
from shell_runner.remote.protocol import model
from shell_runner.remote.protocol.job import JobTest, NewJob
from shell_runner.remote.sessions import job_acceptance, job_session
from tests.helpers.queue_host import TIMEOUT, QueueHost


@pytest.fixture
def host(tmp_path: Path) -> Iterator[QueueHost]:
    with QueueHost(tmp_path / "jobs") as made:
        yield made


def linger(host: QueueHost, seconds: int) -> None:
    with host.queue() as queue:
        queue.set_setting("linger", seconds)
    worker_launcher.wake_worker(host.folder)


def await_ready(host: QueueHost, job: JobRow) -> None:
    deadline = time.monotonic() + TIMEOUT
    while host.find(job).state != State.READY:
        assert time.monotonic() < deadline, host.log()
        time.sleep(0.005)


# -- the worker stays for a while


def test_a_worker_that_has_worked_takes_the_next_job_too(host: QueueHost) -> None:
    linger(host, 1000)
    first = host.submit({"test_a": "true"})
    worker = host.worker()
    await_ready(host, first)
    second = host.submit({"test_a": "true"})
    worker_launcher.wake_worker(host.folder)
    await_ready(host, second)
    assert {host.attempts(job)[0].worker.pid for job in (first, second)} == {worker.pid}
    assert worker.poll() is None
    linger(host, 0)
    assert worker.wait(TIMEOUT) == 0
    with host.queue() as queue:
        assert queue.get_worker() is None


def test_a_worker_leaves_by_itself_once_it_has_lingered(host: QueueHost) -> None:
    linger(host, 1)
    job = host.submit({"test_a": "true"})
    worker = host.worker()
    await_ready(host, job)
    assert worker.wait(TIMEOUT) == 0


def test_a_worker_that_is_not_needed_does_not_stay(host: QueueHost) -> None:
    linger(host, 1000)
    host.drain()


# -- slots are forks


def test_a_job_has_no_more_slots_than_tests(host: QueueHost) -> None:
    script = f"echo here >{host.fifo.path}; read x <$NOSEJOBS_BUILD/../go"
    job = host.submit({"test_a": script}, slots=8, install="mkfifo ../go")
    worker = host.worker()
    assert host.fifo.read_line() == "here"
    assert len(process_tree.list_children(host.runner(worker))) == 1
    (attempt,) = host.attempts(job)
    Path(paths.workspace_path(host.folder, attempt.id), "go").write_text("\n")
    assert worker.wait(TIMEOUT) == 0
    assert host.package(job).exits() == {"test_a": 0}


def test_a_slot_is_known_as_its_attempts(host: QueueHost) -> None:
    """The environment of a slot in /proc is that of the worker, which does not name an attempt."""
    job = host.submit({"test_a": f"echo $PPID >{host.fifo.path}; sleep 1000"}, slots=1)
    worker = host.worker()
    slot = int(host.fifo.read_line())
    assert process_tree.list_children(host.runner(worker)) == [slot]
    assert slot in {each.pid for each in host.leftovers(job)}
    host.cancel(job)
    assert worker.wait(TIMEOUT) == 0


def test_a_slot_has_no_file_of_its_parent(host: QueueHost) -> None:
    """An inherited file would keep locks, and hide the end of its owner, while a test runs."""
    job = host.submit({f"test_{n}": f"echo $PPID >{host.fifo.path}; sleep 1000" for n in "ab"})
    worker = host.worker()
    slots = [int(host.fifo.read_line()) for _ in "ab"]
    for slot in slots:
        files = [str(path.readlink()) for path in Path(f"/proc/{slot}/fd").iterdir()]
        assert not [name for name in files if host.folder in name and not name.endswith(".log")]
        assert sum(name.startswith("socket:") for name in files) == 1
    host.cancel(job)
    assert worker.wait(TIMEOUT) == 0


# -- what is on the disk already


def test_contents_are_written_to_the_disk_once(
    host: QueueHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(job_acceptance, "_sync", synced.append)
    monkeypatch.setattr(worker_launcher, "start_worker", lambda *_: None)
    there = job_session.JobSession(None, host.folder, paths.code_path(host.folder, host.code))
    tests, other = host.tree({"test_a": "true"}), host.tree({"test_a": "false"})

    def submit(number: int, **changes: object) -> int:
        id = f"{number:08x}-0000-4000-8000-000000000000"
        job = NewJob(id, tests, cases=(JobTest("test_a", model.Test(0, "test_a")),))
        before = len(synced)
        there._accept(job._replace(**changes))  # type: ignore[arg-type]
        return len(synced) - before

    assert submit(1) == 1
    assert submit(2) == submit(3) == 0
    assert submit(4, build=other) == 1
    assert submit(5, build=other) == submit(6) == 0
    # Contents that this session has sent count as new, even if other jobs have the same.
    there.open_receiver().store.add(tests.digest, Path(host.store.path(tests.digest)).read_bytes())
    assert submit(7) == 1
    assert submit(8) == 0
