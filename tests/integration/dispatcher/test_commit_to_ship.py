"""Tests of builds from a commit to ship, on real hosts: their states and details.

Crashes of hosts and of the dispatcher are tested in ``test_dispatcher_failure``.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from dispatcher.configuration.pipeline import SHIP_STAGES
from dispatcher.model import BUILD as COMMAND
from dispatcher.model import BuildState, Decision, DecisionKind, JobState, StageState
from dispatcher.store import durations, results, tags
from tests.helpers.running_dispatcher import (
    BUILD,
    RunningDispatcher,
    SampleRepository,
    SharedRepository,
    make_settings,
    newest_states,
    six_stage_repository,
    stage_toml,
)

pytestmark = pytest.mark.timeout(180)


# -- success ---------------------------------------------------------------------


def test_a_commit_goes_through_all_six_stages_to_ship(folder: Path) -> None:
    tree = six_stage_repository(folder / "six")
    tree.write_test("unit", 'test "$($NOSEJOBS_BUILD/app)" = "the app"')
    revision = tree.commit("first")
    with RunningDispatcher(make_settings(folder, tree.path)) as dispatcher:
        detail = dispatcher.wait_for_level(revision, "ship")
    build = detail.view.build
    assert newest_states(detail) == dict.fromkeys([COMMAND, *SHIP_STAGES], "passed")
    assert (build.state, build.detail, detail.view.change.subject) == ("built", "", "first")
    assert [tag.stage for tag in detail.tags] == list(SHIP_STAGES)
    assert {tag.artifact_digest for tag in detail.tags} == {build.artifact_digest}
    by_run = {run.id: run.stage for run in detail.view.runs}
    assert [tag.jobs for tag in detail.tags] == [
        (job.id,) for job in detail.jobs if by_run[job.stage_run] != COMMAND
    ]
    assert {job.state for job in detail.jobs} <= {JobState.HARVESTED, JobState.ACKNOWLEDGED}
    with tarfile.open(dispatcher.service.blobs.path(build.artifact_digest)) as archive:
        assert archive.getnames() == ["app"]
        assert archive.getmember("app").mode == 0o755


def test_a_tree_without_a_build_command_is_its_own_build(
    repository: SharedRepository, dispatcher: RunningDispatcher
) -> None:
    repository.write_config(stage_toml("unit"))
    repository.write_test("unit", 'cmp "$NOSEJOBS_BUILD/app" ../../app')
    revision = repository.commit()
    run = dispatcher.wait_for_run(revision, "unit", StageState.PASSED)
    assert run.detail == "1 test"


def test_numbers_of_a_performance_test_are_rows(
    repository: SharedRepository, dispatcher: RunningDispatcher
) -> None:
    repository.write_config(stage_toml("performance"))
    repository.write_test(
        "performance",
        "printf 'TAP version 14\\n1..1\\nok 1 - speed\\n  ---\\n  rate: 512.5 req/s\\n"
        "  latency:\\n    p99: 3e-3 s\\n  host: here\\n  ...\\n'",
    )
    revision = repository.commit()
    run = dispatcher.wait_for_run(revision, "performance", StageState.PASSED)
    (job,) = dispatcher.jobs(run)
    with dispatcher.store.read() as connection:
        numbers = [number for _, number in results.list_measurements(connection, job.id)]
        cases = results.list_cases(connection, job.id, 0)
        known = durations.mean_seconds(connection, 1, "performance")
    assert [(each.name, each.value, each.unit) for each in numbers] == [
        ("latency.p99", 0.003, "s"),
        ("rate", 512.5, "req/s"),
    ]
    assert [(each.name, each.outcome) for each in cases] == [("speed", "passed")]
    assert list(known) == ["tests/performance/test_it.sh"]


def test_the_same_inputs_are_not_built_again(
    repository: SharedRepository, dispatcher: RunningDispatcher
) -> None:
    repository.write_config(
        BUILD.replace("output", 'inputs = ["app"]\noutput') + stage_toml("unit")
    )
    repository.write_test("unit")
    first = repository.commit()
    dispatcher.wait_for_run(first, "unit", StageState.PASSED)
    second = repository.commit(README="of no importance")
    dispatcher.wait_for_run(second, "unit", StageState.PASSED)
    first_detail, detail = dispatcher.find(first), dispatcher.find(second)
    assert first_detail
    assert detail
    assert detail.view.build.artifact_digest == first_detail.view.build.artifact_digest
    assert detail.view.build.reused_build == first_detail.view.build.id
    assert newest_states(detail) == {"unit": "passed"}


# -- failures ------------------------------------------------------------------


def test_a_failing_stage_blocks_what_needs_it_and_says_why(
    repository: SharedRepository, dispatcher: RunningDispatcher
) -> None:
    repository.write_config(stage_toml("unit") + stage_toml("smoke") + stage_toml("regression"))
    for name in ("unit", "smoke", "regression"):
        repository.write_test(name, "exit 3" if name == "smoke" else "exit 0")
    revision = repository.commit()
    blocked = dispatcher.wait_for_run(revision, "regression", StageState.BLOCKED)
    detail = dispatcher.find(revision)
    assert detail
    assert newest_states(detail) == {"unit": "passed", "smoke": "failed", "regression": "blocked"}
    details = {run.stage: run.detail for run in detail.view.runs}
    assert details["smoke"] == "h1: 1 test failed"
    assert blocked.detail == "needs smoke, which failed (run 1)"
    assert [tag.stage for tag in detail.tags] == ["unit"]


def test_a_build_that_fails_says_why(
    repository: SharedRepository, dispatcher: RunningDispatcher
) -> None:
    repository.write_config(
        '[build]\ncommand = "echo no compiler; exit 3"\noutput = "dist"\n' + stage_toml("unit")
    )
    repository.write_test("unit")
    detail = dispatcher.wait_for_build(repository.commit(), BuildState.FAILED)
    head, *log = detail.view.build.detail.splitlines()
    assert head == "the build command failed: exit 3"
    assert "build | no compiler" in log
    assert newest_states(detail) == {COMMAND: "failed"}


def test_an_invalid_config_is_an_invalid_build(
    repository: SharedRepository, dispatcher: RunningDispatcher
) -> None:
    repository.write_config("[stages.unit]\nlabel = ['x']\n")
    detail = dispatcher.wait_for_build(repository.commit(), BuildState.INVALID)
    message = "nosejobs.toml:2: unknown key 'stages.unit.label'"
    assert detail.view.build.detail.startswith(message), detail.view.build.detail
    assert detail.view.runs == ()


def test_a_stage_whose_tests_are_not_there_fails_without_a_job(
    repository: SharedRepository, dispatcher: RunningDispatcher
) -> None:
    repository.write_config('[stages.unit]\ntests = ["tests/uni"]\n')
    repository.write_test("unit")
    run = dispatcher.wait_for_run(repository.commit(), "unit", StageState.FAILED)
    assert run.detail == "tests/uni: no such file or folder; did you mean 'tests/unit'?"
    assert dispatcher.jobs(run) == []


# -- re-runs, and actions of people ---------------------------------------------------------------


def test_only_what_failed_runs_again_and_the_tag_stands_on_both_runs(
    tmp_path: Path, repository: SharedRepository, dispatcher: RunningDispatcher
) -> None:
    repository.write_config(stage_toml("unit"))
    repository.write_test("unit")
    repository.write_test("unit", f"test -e {tmp_path}/mended", "test_other.sh")
    revision = repository.commit()
    failed = dispatcher.wait_for_run(revision, "unit", StageState.FAILED)
    with dispatcher.store.read() as connection:
        only = tuple(results.list_failed_tests(connection, failed.id))
    assert only == ("tests/unit/test_other.sh",)
    (tmp_path / "mended").touch()
    dispatcher.add_rerun(failed.build, "unit", only)
    passed = dispatcher.wait_for_run(revision, "unit", StageState.PASSED, 2)
    detail = dispatcher.wait_until(revision, lambda detail: bool(detail.tags))
    assert detail.tags[0].jobs == tuple(
        job.id for r in (failed, passed) for job in dispatcher.jobs(r)
    )
    (job,) = dispatcher.jobs(passed)
    with dispatcher.store.read() as connection:
        assert [row.nodeid for row in results.list_by_job(connection, job.id)] == list(only)


def test_a_gate_opens_by_an_approval(
    repository: SharedRepository, dispatcher: RunningDispatcher
) -> None:
    repository.write_config(stage_toml("unit", 'gate = "manual"'))
    repository.write_test("unit")
    revision = repository.commit()
    run = dispatcher.wait_for_run(revision, "unit", StageState.GATED)
    assert (run.detail, dispatcher.jobs(run)) == ("an approval is needed", [])
    with dispatcher.store.write() as connection:
        decision = Decision(run.build, "unit", DecisionKind.APPROVED, "ann", "fine")
        assert tags.record_decision(connection, decision)
    dispatcher.wait_for_run(revision, "unit", StageState.PASSED)


def test_the_level_follows_a_revoked_tag(
    repository: SharedRepository, dispatcher: RunningDispatcher
) -> None:
    repository.write_config(stage_toml("unit") + '[levels]\ngood = ["unit"]\n')
    repository.write_test("unit")
    revision = repository.commit()
    (tag,) = dispatcher.wait_for_level(revision, "good").tags
    with dispatcher.store.write() as connection:
        assert tags.revoke_tag(connection, tag.id, actor="ann", reason="it was luck", at=1.0)
    detail = dispatcher.wait_for_level(revision, "goop")
    assert newest_states(detail) == {"unit": "passed"}


# -- several hosts --------------------------------------------------------------------

TWO = '[hosts.h1]\nspec = "popen"\n[hosts.h2]\nspec = "popen"\n'


def test_each_host_runs_all_and_shards_share(folder: Path) -> None:
    tree = SampleRepository(folder / "tree")
    tree.write_config(
        stage_toml("each", "hosts = 2")
        + stage_toml("shard", "hosts = 3", 'mode = "shard"')
        + stage_toml("both", "hosts = 2", 'mode = "together"').replace("tests/both", "tests/each")
    )
    for name in ("test_a.sh", "test_b.sh", "test_c.sh"):
        tree.write_test("shard", "exit 0", name)
    tree.write_test("each", 'echo "peers $NOSEJOBS_PEERS me $NOSEJOBS_PEER"')
    revision = tree.commit()
    hosts = TWO + '[hosts.h3]\nspec = "popen"\n'
    with RunningDispatcher(make_settings(folder, tree.path, hosts)) as dispatcher:
        each = dispatcher.jobs(dispatcher.wait_for_run(revision, "each", StageState.PASSED))
        assert len({job.host for job in each}) == 2
        assert [job.tests for job in each] == [None, None]
        shard = dispatcher.jobs(dispatcher.wait_for_run(revision, "shard", StageState.PASSED))
        assert sorted(name for job in shard for name in job.tests or ()) == [
            f"tests/shard/test_{letter}.sh" for letter in "abc"
        ]
        assert [len(job.tests or ()) for job in shard] == [1, 1, 1]
        both = dispatcher.jobs(dispatcher.wait_for_run(revision, "both", StageState.PASSED))
        for job in both:
            with open(dispatcher.service.blobs.path(job.package_digest), "rb") as package:
                assert package.read(4) == b"PK\3\4"
        assert [job.part for job in both] == [0, 1]
