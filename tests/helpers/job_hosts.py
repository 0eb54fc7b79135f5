"""A host's queue behind a real desk on this machine, in state folders of a test's own."""

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
from shell_runner.jobs.jobfile import Description
from shell_runner.jobs.submission import Submission, prepare
from shell_runner.remote.jobs import paths, queue, worker_launcher
from shell_runner.remote.processes import process_identity
from shell_runner.remote.protocol.job import JobConfig
from shell_runner.remote.protocol.job_summary import JobSummary
from tests.helpers import preloaded_host_code

#: Seconds that anything may take on a machine with much to do.
PATIENCE = 60.0
POPEN = HostSpec("popen", "popen", 1)


def script(folder: Path, name: str, text: str = "exit 0") -> Path:
    """A test."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def pids() -> list[int]:
    """Of the interpreters that answer for this process: its sshd and others are none of them."""
    found = Path("/proc/self/task")
    below = [pid for task in found.iterdir() for pid in (task / "children").read_text().split()]
    return [int(pid) for pid in below if b"stdin.readline" in _command(pid)]


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # it has ended


@contextmanager
def state(folder: Path) -> Iterator[Path]:
    """State, cache and temporary files below ``folder``; no worker is left behind.

    The host was used before: it has the code.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("state", "cache", "tmp"):
            (folder / name).mkdir(mode=0o700)
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("TMPDIR", str(folder / "tmp"))
        patch.delenv("NOSEJOBS_HOST", raising=False)
        preloaded_host_code.cache(folder / "cache")
        preloaded_host_code.queue(Path(queue.folder()))
        try:
            yield folder
        finally:
            await_worker()


def await_worker(folder: str = "") -> None:
    """The worker leaves when it has nothing to do; one that has is ended."""
    with queue.Queue(folder or queue.folder()) as there:
        there.set_setting("linger", 0)
        found = there.worker()
        counts = there.counts()
        busy = any(counts[each] for each in list(queue.State)[:3]) or there.next_due() is not None
    if found is None or not process_identity.is_alive(found.identity):
        return
    worker_launcher.ring(folder or queue.folder())
    descriptor = os.pidfd_open(found.identity.pid)
    try:
        if busy:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        assert select.select([descriptor], [], [], PATIENCE)[0], "the worker does not leave"
    finally:
        os.close(descriptor)


def prepared(tests: Path, id: str, **changes: object) -> Submission:
    """A job of the tests in a folder."""
    config = JobConfig()._replace(**changes)
    return prepare(Description(tests, config=config), POPEN, id)


def submit(client: JobClient, tests: Path, id: str, **changes: object) -> JobSummary:
    """The same, handed in."""
    ready = prepared(tests, id, **changes)
    return client.submit(ready.job, ready.trees)[0]


def log_file(number: int = 1) -> Path:
    """The log of the first job's attempt with this number."""
    folder = queue.folder()
    with queue.Queue(folder) as there:
        (attempt,) = [a for a in there.attempts(1) if a.number == number]
    return Path(paths.log(folder, attempt.id))
