"""Tests of how a runner judges an install command, and when an attempt has failed."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shell_runner.remote.execution import resource_locks
from shell_runner.remote.execution.slot_pool import SlotStartError
from shell_runner.remote.files.path_limits import MAX_PATH_COMPONENTS
from shell_runner.remote.jobs import job_runner, pool_run
from shell_runner.remote.jobs.job_runner import AttemptFailed, JobRunner, explain_install_failure
from shell_runner.remote.protocol import model
from shell_runner.remote.protocol.model import Execution, Problem, Setup


@pytest.fixture
def job() -> Any:
    """Make a runner with a log and nothing else."""
    made: Any = object.__new__(JobRunner)
    made._end_reason = made._pool_run = None
    made._log = SimpleNamespace(note=lambda _: None)
    return made


def run_pool(job: Any) -> None:
    job._run_pool(Setup("/"), [model.Test(0, "x")], lambda _: [], lambda *_: None)


def test_slots_that_cannot_start_fail_the_attempt(
    job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise SlotStartError("a slot cannot be started: exit 1")

    monkeypatch.setattr(resource_locks, "open_shared_resources", resource_locks.HostResources)
    monkeypatch.setattr(pool_run.PoolRun, "run", fail)
    with pytest.raises(AttemptFailed, match=r"^a slot cannot be started: exit 1$"):
        run_pool(job)
    assert job._pool_run is None


def test_a_host_without_locks_fails_the_attempt(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("no folder can hold the locks of this host")

    monkeypatch.setattr(resource_locks, "open_shared_resources", fail)
    with pytest.raises(AttemptFailed, match="no folder can hold the locks"):
        run_pool(job)


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        (Execution(0, exit_status=0), ""),
        (Execution(0, exit_status=77), "exit 77"),
        (Execution(0, signal=9), "killed by SIGKILL"),
        (Execution(0, exit_status=0, timed_out=True), "timed out after 5 s"),
        (Execution(0, problem=Problem.SLOT_DIED, detail="x"), "its slot died: x"),
    ],
)
def test_only_zero_is_a_success_of_an_install_command(execution: Execution, message: str) -> None:
    assert explain_install_failure(model.Test(0, "x", timeout=5.0), execution) == message


def test_all_artifacts_are_synced_and_deeper_files_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = tmp_path / "outputs" / "7.attempt-2"
    deepest = outputs / "/".join("d" * (MAX_PATH_COMPONENTS - 1))
    (deepest / "e" / "f").mkdir(parents=True)
    files = [outputs / "top", deepest / "last"]
    for path in (*files, deepest / "e" / "f" / "deeper"):
        path.touch()
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    job_runner._sync_outputs(str(tmp_path))
    assert synced == [path.stat().st_ino for path in files]
