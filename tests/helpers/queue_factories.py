"""Factories of jobs, and of jobs in a given state of a queue."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from shell_runner.remote.jobs.queue import (
    AttemptRow,
    EndReason,
    JobRow,
    Queue,
    RequestRefused,
    State,
)
from shell_runner.remote.protocol.job import TREE, Content, Identity, JobConfig, JobTest, NewJob
from shell_runner.remote.protocol.model import Test

CODE = "c0de"
WORKER = Identity(100, "5000", "b007")
#: The same process id, after a restart of the machine.
NEXT_WORKER = Identity(100, "5000", "b008")


def make_uuid() -> str:
    """Return a new UUID."""
    return str(uuid.uuid4())


def make_content(letter: str = "a") -> Content:
    """Return the content of a tree whose digest repeats ``letter``."""
    return Content(TREE, letter * 64, 100, "tests")


def make_job(count: int = 2, config: JobConfig | None = None, **values: Any) -> NewJob:
    """Return a job of ``count`` tests."""
    cases = tuple(JobTest(f"t{n}.sh", Test(n, f"t{n}.sh")) for n in range(count))
    values = {"id": make_uuid(), "tests": make_content(), "cases": cases, **values}
    return NewJob(config=config or JobConfig(), **values)


def submit_job(queue: Queue, **values: Any) -> JobRow:
    """Submit a new job."""
    return queue.submit(make_job(**values), CODE, 1.0)


def claim_job(queue: Queue, worker: Identity = WORKER) -> tuple[JobRow, AttemptRow]:
    """Claim the next job for ``worker``; one must be queued."""
    claimed = queue.claim(worker, CODE, make_uuid(), 2.0)
    assert claimed is not None
    return claimed


def bring_to_state(queue: Queue, state: State, package: str = "d16e57", **values: Any) -> JobRow:
    """Submit a job and bring it to ``state``; no other job may be queued."""
    job = submit_job(queue, **values)
    if state == State.QUEUED:
        return job
    _, attempt = claim_job(queue)
    if state != State.RUNNING:
        queue.finish(attempt.id, EndReason.COMPLETED, "", 3.0)
    if state in (State.READY, State.HARVESTED):
        queue.record_package(job.number, package, 10, 4.0)
    if state == State.HARVESTED:
        queue.acknowledge(job, package, 5.0)
    return queue.find(job.id)


def expect_refusal(kind: str) -> "pytest.RaisesExc[RequestRefused]":
    """Return a context that expects RequestRefused of this kind."""
    return pytest.RaisesExc(RequestRefused, check=lambda error: error.kind == kind)


def open_queue(folder: Path) -> Queue:
    """Open the queue in ``folder``."""
    return Queue(str(folder))
