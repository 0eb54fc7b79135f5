"""What people do, and what becomes of it on a host."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dispatcher.model import BUILD as COMMAND
from dispatcher.model import BuildState, JobState, StageState
from dispatcher.reconciler import actions
from dispatcher.reconciler.actions import By
from dispatcher.store.views import BuildDetail
from tests.helpers.running_dispatcher import Pushed, Whole, stage, states

pytestmark = pytest.mark.timeout(120)


def ann() -> By:
    return By("ann", "to see", time.time())


def handed_in(found: BuildDetail) -> bool:
    """Its host has it: of one that is still here the host need not be told."""
    return all(job.state is not JobState.PLANNED for job in found.jobs)


def test_a_stage_that_is_cancelled_ends_on_its_host_and_can_run_again(
    tmp_path: Path, main: Pushed, whole: Whole
) -> None:
    gate = tmp_path / "gate"
    main.config(stage("unit"))
    main.test("unit", f"until [ -e {gate} ]; do sleep 0.05; done")
    revision = main.commit()
    run = whole.until_run(revision, "unit", StageState.RUNNING)
    whole.until(revision, handed_in)
    with whole.store.write() as connection:
        actions.cancel(connection, run.build, ann(), "unit")
    cancelled = whole.until_run(revision, "unit", StageState.CANCELLED)
    assert cancelled.detail == "cancelled by ann: to see"
    # The host is told, and what it has left is fetched all the same.
    whole.until(
        revision, lambda found: all(job.state is JobState.ACKNOWLEDGED for job in found.jobs)
    )
    gate.touch()
    with whole.store.write() as connection:
        actions.rerun(connection, run.build, "unit", ann())
    assert whole.until_run(revision, "unit", StageState.PASSED, 2).who == "ann"


def test_a_build_that_failed_is_made_again(tmp_path: Path, main: Pushed, whole: Whole) -> None:
    build = f'[build]\ncommand = "test -e {tmp_path}/mended && cp app dist"\noutput = "dist"\n'
    main.config(build + stage("unit"))
    main.test("unit")
    revision = main.commit()
    failed = whole.until_build(revision, BuildState.FAILED)
    (tmp_path / "mended").touch()
    with whole.store.write() as connection:
        actions.rerun(connection, failed.view.build.id, COMMAND, ann())
    whole.until_run(revision, "unit", StageState.PASSED)
    found = whole.find(revision)
    assert found
    assert [(run.stage, run.number, run.state) for run in found.view.runs] == [
        (COMMAND, 1, "failed"), (COMMAND, 2, "passed"), ("unit", 1, "passed"),
    ]  # fmt: skip


def test_a_build_that_is_cancelled_while_it_is_made_has_no_stages(
    tmp_path: Path, main: Pushed, whole: Whole
) -> None:
    wait = f"until [ -e {tmp_path}/gate ]; do sleep 0.05; done"
    main.config(f'[build]\ncommand = "{wait}"\noutput = "app"\n' + stage("unit"))
    main.test("unit")
    revision = main.commit()
    run = whole.until_run(revision, COMMAND, StageState.RUNNING)
    whole.until(revision, handed_in)
    with whole.store.write() as connection:
        actions.cancel(connection, run.build, ann())
    found = whole.until(
        revision, lambda found: all(job.state is JobState.ACKNOWLEDGED for job in found.jobs)
    )
    assert found.view.build.state is BuildState.FAILED
    assert found.view.build.detail == "cancelled by ann: to see"
    assert states(found) == {COMMAND: "cancelled"}
