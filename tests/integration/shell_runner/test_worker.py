"""A worker drains a queue: jobs end as they should, whatever dies meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shell_runner.remote.model import Problem
from shell_runner.remote.queue import How, State
from tests.jobs import Host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with Host(tmp_path / "jobs") as made:
        yield made


def test_a_job_is_run_and_packed(host: Host) -> None:
    job = host.submit({"test_a": "echo hello", "test_b": "exit 3", "test_c": "exit 77"})
    host.drain()
    package = host.package(job)
    assert package.exits() == {"test_a": 0, "test_b": 3, "test_c": 77}
    assert package.executions()[0, 1].out.text == "hello\n"
    assert "test_a | hello\n" in package.log
    assert host.find(job).how == How.COMPLETED
    assert host.leftovers(job) == []
    with host.queue() as queue:
        assert queue.worker() is None
        attempt = queue.attempts(job.number)[0]
        assert queue.outcomes(attempt.id) == {"passed": 1, "failed": 1, "skipped": 1}
