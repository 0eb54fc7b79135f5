"""Tests of actions of users on a real host: cancel and rerun."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dispatcher.model import BUILD as COMMAND
from dispatcher.model import BuildState, JobState, StageState
from dispatcher.reconciler import user_actions
from dispatcher.reconciler.user_actions import Attribution
from dispatcher.store.api_queries import BuildDetail
from tests.helpers.running_dispatcher import (
    RunningDispatcher,
    SharedRepository,
    newest_states,
    stage_toml,
)

pytestmark = pytest.mark.timeout(120)


def ann() -> Attribution:
    return Attribution("ann", "to see", time.time())


def are_jobs_submitted(build: BuildDetail) -> bool:
    """Return whether all jobs were submitted; only then must a host cancel them."""
    return all(job.state is not JobState.PLANNED for job in build.jobs)


def test_a_stage_that_is_canceled_ends_on_its_host_and_can_run_again(
    tmp_path: Path, repository: SharedRepository, dispatcher: RunningDispatcher
) -> None:
    gate = tmp_path / "gate"
    repository.write_config(stage_toml("unit"))
    repository.write_test("unit", f"until [ -e {gate} ]; do sleep 0.05; done")
    revision = repository.commit()
    run = dispatcher.wait_for_run(revision, "unit", StageState.RUNNING)
    dispatcher.wait_until(revision, are_jobs_submitted)
    with dispatcher.store.write() as connection:
        user_actions.cancel(connection, run.build, ann(), "unit")
    canceled = dispatcher.wait_for_run(revision, "unit", StageState.CANCELED)
    assert canceled.detail == "canceled by ann: to see"
    # The host cancels the job, and its package is harvested all the same.
    dispatcher.wait_until(
        revision, lambda build: all(job.state is JobState.ACKNOWLEDGED for job in build.jobs)
    )
    gate.touch()
    with dispatcher.store.write() as connection:
        user_actions.rerun(connection, run.build, "unit", ann())
    assert dispatcher.wait_for_run(revision, "unit", StageState.PASSED, 2).requested_by == "ann"


def test_a_build_that_failed_is_made_again(
    tmp_path: Path, repository: SharedRepository, dispatcher: RunningDispatcher
) -> None:
    build = f'[build]\ncommand = "test -e {tmp_path}/mended && cp app dist"\noutput = "dist"\n'
    repository.write_config(build + stage_toml("unit"))
    repository.write_test("unit")
    revision = repository.commit()
    failed = dispatcher.wait_for_build(revision, BuildState.FAILED)
    (tmp_path / "mended").touch()
    with dispatcher.store.write() as connection:
        user_actions.rerun(connection, failed.view.build.id, COMMAND, ann())
    dispatcher.wait_for_run(revision, "unit", StageState.PASSED)
    failed_build = dispatcher.find(revision)
    assert failed_build
    assert [(run.stage, run.number, run.state) for run in failed_build.view.runs] == [
        (COMMAND, 1, "failed"), (COMMAND, 2, "passed"), ("unit", 1, "passed"),
    ]  # fmt: skip


def test_a_build_that_is_canceled_while_it_is_made_has_no_stages(
    tmp_path: Path, repository: SharedRepository, dispatcher: RunningDispatcher
) -> None:
    wait = f"until [ -e {tmp_path}/gate ]; do sleep 0.05; done"
    repository.write_config(f'[build]\ncommand = "{wait}"\noutput = "app"\n' + stage_toml("unit"))
    repository.write_test("unit")
    revision = repository.commit()
    run = dispatcher.wait_for_run(revision, COMMAND, StageState.RUNNING)
    dispatcher.wait_until(revision, are_jobs_submitted)
    with dispatcher.store.write() as connection:
        user_actions.cancel(connection, run.build, ann())
    canceled_build = dispatcher.wait_until(
        revision, lambda build: all(job.state is JobState.ACKNOWLEDGED for job in build.jobs)
    )
    assert canceled_build.view.build.state is BuildState.FAILED
    assert canceled_build.view.build.detail == "canceled by ann: to see"
    assert newest_states(canceled_build) == {COMMAND: "canceled"}
