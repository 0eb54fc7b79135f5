"""From a commit to ship, on real hosts: what each build comes to, and what it says of it.

What becomes of them when somebody dies is in ``test_dispatcher_failure``.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from dispatcher.configuration.pipeline import SHIP
from dispatcher.model import BUILD as COMMAND
from dispatcher.model import BuildState, Decision, DecisionKind, JobState, StageState
from dispatcher.store import durations, results, tags
from tests.helpers.running_dispatcher import (
    BUILD,
    Pushed,
    Tree,
    Whole,
    all_six,
    settings_of,
    stage,
    states,
)

pytestmark = pytest.mark.timeout(180)


# -- all is well ---------------------------------------------------------------------


def test_a_commit_goes_through_all_six_stages_to_ship(folder: Path) -> None:
    tree = all_six(folder / "six")
    tree.test("unit", 'test "$($NOSEJOBS_BUILD/app)" = "the app"')
    revision = tree.commit("first")
    with Whole(settings_of(folder, tree.path)) as whole:
        found = whole.until_level(revision, "ship")
    build = found.view.build
    assert states(found) == dict.fromkeys([COMMAND, *SHIP], "passed")
    assert (build.state, build.detail, found.view.change.subject) == ("built", "", "first")
    assert [tag.stage for tag in found.tags] == list(SHIP)
    assert {tag.digest for tag in found.tags} == {build.digest}
    by_run = {run.id: run.stage for run in found.view.runs}
    assert [tag.jobs for tag in found.tags] == [
        (job.id,) for job in found.jobs if by_run[job.stage_run] != COMMAND
    ]
    assert {job.state for job in found.jobs} <= {JobState.HARVESTED, JobState.ACKNOWLEDGED}
    with tarfile.open(whole.service.blobs.path(build.digest)) as archive:
        assert archive.getnames() == ["app"]
        assert archive.getmember("app").mode == 0o755


def test_a_tree_without_a_build_command_is_its_own_build(main: Pushed, whole: Whole) -> None:
    main.config(stage("unit"))
    main.test("unit", 'cmp "$NOSEJOBS_BUILD/app" ../../app')
    revision = main.commit()
    found = whole.until_run(revision, "unit", StageState.PASSED)
    assert found.detail == "1 test"


def test_numbers_of_a_performance_test_are_rows(main: Pushed, whole: Whole) -> None:
    main.config(stage("performance"))
    main.test(
        "performance",
        "printf 'TAP version 14\\n1..1\\nok 1 - speed\\n  ---\\n  rate: 512.5 req/s\\n"
        "  latency:\\n    p99: 3e-3 s\\n  host: here\\n  ...\\n'",
    )
    revision = main.commit()
    run = whole.until_run(revision, "performance", StageState.PASSED)
    (job,) = whole.jobs(run)
    with whole.store.read() as connection:
        numbers = [number for _, number in results.measured(connection, job.id)]
        cases = results.cases_of(connection, job.id, 0)
        known = durations.known(connection, 1, "performance")
    assert [(each.name, each.value, each.unit) for each in numbers] == [
        ("latency.p99", 0.003, "s"),
        ("rate", 512.5, "req/s"),
    ]
    assert [(each.name, each.outcome) for each in cases] == [("speed", "passed")]
    assert list(known) == ["tests/performance/test_it.sh"]


def test_the_same_inputs_are_not_built_again(main: Pushed, whole: Whole) -> None:
    main.config(BUILD.replace("output", 'inputs = ["app"]\noutput') + stage("unit"))
    main.test("unit")
    first = main.commit()
    whole.until_run(first, "unit", StageState.PASSED)
    second = main.commit(README="of no importance")
    whole.until_run(second, "unit", StageState.PASSED)
    made, found = whole.find(first), whole.find(second)
    assert made
    assert found
    assert found.view.build.digest == made.view.build.digest
    assert found.view.build.reused == made.view.build.id
    assert states(found) == {"unit": "passed"}


# -- what goes wrong ------------------------------------------------------------------


def test_a_failing_stage_blocks_what_needs_it_and_says_why(main: Pushed, whole: Whole) -> None:
    main.config(stage("unit") + stage("smoke") + stage("regression"))
    for name in ("unit", "smoke", "regression"):
        main.test(name, "exit 3" if name == "smoke" else "exit 0")
    revision = main.commit()
    blocked = whole.until_run(revision, "regression", StageState.BLOCKED)
    found = whole.find(revision)
    assert found
    assert states(found) == {"unit": "passed", "smoke": "failed", "regression": "blocked"}
    details = {run.stage: run.detail for run in found.view.runs}
    assert details["smoke"] == "h1: 1 test failed"
    assert blocked.detail == "needs smoke, which failed (run 1)"
    assert [tag.stage for tag in found.tags] == ["unit"]


def test_a_build_that_fails_says_why(main: Pushed, whole: Whole) -> None:
    main.config('[build]\ncommand = "echo no compiler; exit 3"\noutput = "dist"\n' + stage("unit"))
    main.test("unit")
    found = whole.until_build(main.commit(), BuildState.FAILED)
    head, *log = found.view.build.detail.splitlines()
    assert head == "the build command failed: exit 3"
    assert "build | no compiler" in log
    assert states(found) == {COMMAND: "failed"}


def test_an_invalid_config_is_an_invalid_build(main: Pushed, whole: Whole) -> None:
    main.config("[stages.unit]\nlabel = ['x']\n")
    found = whole.until_build(main.commit(), BuildState.INVALID)
    words = "nosejobs.toml:2: unknown key 'stages.unit.label'"
    assert found.view.build.detail.startswith(words), found.view.build.detail
    assert found.view.runs == ()


def test_a_stage_whose_tests_are_not_there_fails_without_a_job(main: Pushed, whole: Whole) -> None:
    main.config('[stages.unit]\ntests = ["tests/uni"]\n')
    main.test("unit")
    run = whole.until_run(main.commit(), "unit", StageState.FAILED)
    assert run.detail == "tests/uni: no such file or folder; did you mean 'tests/unit'?"
    assert whole.jobs(run) == []


# -- again, and by hand ---------------------------------------------------------------


def test_only_what_failed_runs_again_and_the_tag_stands_on_both_runs(
    tmp_path: Path, main: Pushed, whole: Whole
) -> None:
    main.config(stage("unit"))
    main.test("unit")
    main.test("unit", f"test -e {tmp_path}/mended", "test_other.sh")
    revision = main.commit()
    failed = whole.until_run(revision, "unit", StageState.FAILED)
    with whole.store.read() as connection:
        only = tuple(results.failed(connection, failed.id))
    assert only == ("tests/unit/test_other.sh",)
    (tmp_path / "mended").touch()
    whole.again(failed.build, "unit", only)
    passed = whole.until_run(revision, "unit", StageState.PASSED, 2)
    found = whole.until(revision, lambda found: bool(found.tags))
    assert found.tags[0].jobs == tuple(job.id for r in (failed, passed) for job in whole.jobs(r))
    (job,) = whole.jobs(passed)
    with whole.store.read() as connection:
        assert [row.nodeid for row in results.of_job(connection, job.id)] == list(only)


def test_a_gate_opens_by_an_approval(main: Pushed, whole: Whole) -> None:
    main.config(stage("unit", 'gate = "manual"'))
    main.test("unit")
    revision = main.commit()
    run = whole.until_run(revision, "unit", StageState.GATED)
    assert (run.detail, whole.jobs(run)) == ("an approval is needed", [])
    with whole.store.write() as connection:
        decision = Decision(run.build, "unit", DecisionKind.APPROVED, "ann", "fine")
        assert tags.decide(connection, decision)
    whole.until_run(revision, "unit", StageState.PASSED)


def test_the_level_follows_a_revoked_tag(main: Pushed, whole: Whole) -> None:
    main.config(stage("unit") + '[levels]\ngood = ["unit"]\n')
    main.test("unit")
    revision = main.commit()
    (tag,) = whole.until_level(revision, "good").tags
    with whole.store.write() as connection:
        assert tags.revoke_tag(connection, tag.id, who="ann", reason="it was luck", at=1.0)
    found = whole.until_level(revision, "goop")
    assert states(found) == {"unit": "passed"}


# -- several hosts --------------------------------------------------------------------

TWO = '[hosts.h1]\nspec = "popen"\n[hosts.h2]\nspec = "popen"\n'


def test_each_host_runs_all_and_shards_share(folder: Path) -> None:
    tree = Tree(folder / "tree")
    tree.config(
        stage("each", "hosts = 2")
        + stage("shard", "hosts = 3", 'mode = "shard"')
        + stage("both", "hosts = 2", 'mode = "together"').replace("tests/both", "tests/each")
    )
    for name in ("test_a.sh", "test_b.sh", "test_c.sh"):
        tree.test("shard", "exit 0", name)
    tree.test("each", 'echo "peers $NOSEJOBS_PEERS me $NOSEJOBS_PEER"')
    revision = tree.commit()
    hosts = TWO + '[hosts.h3]\nspec = "popen"\n'
    with Whole(settings_of(folder, tree.path, hosts)) as whole:
        each = whole.jobs(whole.until_run(revision, "each", StageState.PASSED))
        assert len({job.host for job in each}) == 2
        assert [job.tests for job in each] == [None, None]
        shard = whole.jobs(whole.until_run(revision, "shard", StageState.PASSED))
        assert sorted(name for job in shard for name in job.tests or ()) == [
            f"tests/shard/test_{letter}.sh" for letter in "abc"
        ]
        assert [len(job.tests or ()) for job in shard] == [1, 1, 1]
        both = whole.jobs(whole.until_run(revision, "both", StageState.PASSED))
        for job in both:
            with open(whole.service.blobs.path(job.package), "rb") as package:
                assert package.read(4) == b"PK\3\4"
        assert [job.part for job in both] == [0, 1]
