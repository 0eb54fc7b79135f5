"""Jobs to put into queues, and the ways that they take there."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from shell_runner.remote.jobs.queue import AttemptRow, How, JobRow, Queue, Refused, State
from shell_runner.remote.protocol.job import TREE, Content, Identity, JobConfig, JobTest, NewJob
from shell_runner.remote.protocol.model import Test

CODE = "c0de"
WORKER = Identity(100, "5000", "b007")
#: The same process id, after a restart of the machine.
NEXT_WORKER = Identity(100, "5000", "b008")


def name() -> str:
    return str(uuid.uuid4())


def content(letter: str = "a") -> Content:
    return Content(TREE, letter * 64, 100, "tests")


def new_job(count: int = 2, config: JobConfig | None = None, **values: Any) -> NewJob:
    cases = tuple(JobTest(f"t{n}.sh", Test(n, f"t{n}.sh")) for n in range(count))
    values = {"id": name(), "tests": content(), "cases": cases, **values}
    return NewJob(config=config or JobConfig(), **values)


def submitted(queue: Queue, **values: Any) -> JobRow:
    return queue.submit(new_job(**values), CODE, 1.0)


def claimed(queue: Queue, worker: Identity = WORKER) -> tuple[JobRow, AttemptRow]:
    found = queue.claim(worker, CODE, name(), 2.0)
    assert found is not None
    return found


def brought(queue: Queue, state: State, package: str = "d16e57", **values: Any) -> JobRow:
    """A job that has come to this state; nothing else may be queued."""
    job = submitted(queue, **values)
    if state == State.QUEUED:
        return job
    _, attempt = claimed(queue)
    if state != State.RUNNING:
        queue.finish(attempt.id, How.COMPLETED, "", 3.0)
    if state in (State.READY, State.HARVESTED):
        queue.packaged(job.number, package, 10, 4.0)
    if state == State.HARVESTED:
        queue.acknowledge(job, package, 5.0)
    return queue.find(job.id)


def refused(kind: str) -> "pytest.RaisesExc[Refused]":
    """The queue says no, for this kind of reason."""
    return pytest.RaisesExc(Refused, check=lambda error: error.kind == kind)


def opened(folder: Path) -> Queue:
    return Queue(str(folder))
