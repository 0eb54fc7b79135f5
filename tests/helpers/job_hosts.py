"""Real job sessions with a queue on this machine, in state folders of a test."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shell_runner.hosts.spec import HostSpec
from shell_runner.jobs.client import JobClient
from shell_runner.jobs.jobfile import JobDescription
from shell_runner.jobs.submission import Submission, prepare_submission
from shell_runner.remote.jobs import paths, queue, queue_location, worker_launcher
from shell_runner.remote.processes import process_identity
from shell_runner.remote.protocol.job import JobConfig
from shell_runner.remote.protocol.job_summary import JobSummary
from tests.helpers import preloaded_host_code

#: Seconds after which any wait fails, on a busy machine.
TIMEOUT = 60.0
POPEN = HostSpec("popen", "popen", 1)


def write_script(folder: Path, name: str, text: str = "exit 0") -> Path:
    """Write an executable shell script; return its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def list_interpreter_pids() -> list[int]:
    """Return the process ids of the interpreters that serve sessions of this process."""
    threads = Path("/proc/self/task")
    children = [
        pid for task in threads.iterdir() for pid in (task / "children").read_text().split()
    ]
    return [int(pid) for pid in children if b"stdin.readline" in _command(pid)]


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # it has ended


@contextmanager
def isolate_state(folder: Path) -> Iterator[Path]:
    """Keep state, cache and temporary files below ``folder``; leave no worker behind.

    The host has our code already, as if it had been used before.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("state", "cache", "tmp"):
            (folder / name).mkdir(mode=0o700)
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("TMPDIR", str(folder / "tmp"))
        patch.delenv("NOSEJOBS_HOST", raising=False)
        preloaded_host_code.install_in_cache(folder / "cache")
        preloaded_host_code.install_in_queue(Path(queue_location.find_queue_folder()))
        try:
            yield folder
        finally:
            await_worker()


def await_worker(folder: str = "") -> None:
    """Wait for an idle worker to exit; kill one that has work."""
    with queue.Queue(folder or queue_location.find_queue_folder()) as jobs_queue:
        jobs_queue.set_setting("linger", 0)
        worker = jobs_queue.get_worker()
        counts = jobs_queue.count_jobs()
        is_busy = any(counts[state] for state in list(queue.State)[:3])
        is_busy = is_busy or jobs_queue.get_next_due() is not None
    if worker is None or not process_identity.is_alive(worker.identity):
        return
    worker_launcher.wake_worker(folder or queue_location.find_queue_folder())
    descriptor = os.pidfd_open(worker.identity.pid)
    try:
        if is_busy:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        assert select.select([descriptor], [], [], TIMEOUT)[0], "the worker does not exit"
    finally:
        os.close(descriptor)


def prepare_job(tests: Path, id: str, **changes: object) -> Submission:
    """Return a submission of the tests in a folder."""
    config = JobConfig()._replace(**changes)
    return prepare_submission(JobDescription(tests, config=config), POPEN, id)


def submit_job(client: JobClient, tests: Path, id: str, **changes: object) -> JobSummary:
    """Submit the tests in a folder."""
    ready = prepare_job(tests, id, **changes)
    return client.submit(ready.job, ready.trees)[0]


def find_log_file(number: int = 1) -> Path:
    """Return the path of the log of an attempt of the first job."""
    folder = queue_location.find_queue_folder()
    with queue.Queue(folder) as there:
        (attempt,) = [a for a in there.get_attempts(1) if a.number == number]
    return Path(paths.log_path(folder, attempt.id))
