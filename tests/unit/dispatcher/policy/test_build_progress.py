"""Tests of the next actions for a build, from a new change to tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.configuration.pipeline import PipelineConfig, parse
from dispatcher.model import (
    BUILD,
    BUILD_TRANSITIONS,
    STAGE_TRANSITIONS,
    Build,
    BuildEvent,
    BuildRows,
    BuildState,
    Change,
    Job,
    JobState,
    OutcomeCounts,
    StageEvent,
    StageRun,
    StageState,
    Tag,
    state_after,
)
from dispatcher.policy.action_types import (
    ROW_CHANGES,
    Action,
    AddRun,
    Artifact,
    DiscardResult,
    ExaminedTree,
    ExamineTree,
    ExtractArtifact,
    GrantTag,
    ListTests,
    MoveBuild,
    MoveRun,
    PlannedPart,
    RecordTree,
    RepeatPass,
    RequestHosts,
    RevokeTag,
    RunKey,
    SetBuildDetail,
    SetLevel,
    SetRunDetail,
    StartTask,
    StopJob,
    Task,
    TaskFailure,
    TaskResult,
    make_examine_task,
    make_run_key,
)
from dispatcher.policy.action_types import TestsToSplit as Split
from dispatcher.policy.build_progress import decide

NOW = 1000.0
COMMAND = '[build]\ncommand = "make"\noutput = "app"\n'
UNIT = '[stages.unit]\nhosts = 2\nmode = "shard"\n'
SMOKE = "[stages.smoke]\n"
LEVELS = '[levels]\ngood = ["unit", "smoke"]\n'
PIPELINE = parse(COMMAND + UNIT + SMOKE + LEVELS)
#: A tree without a build command, which is its own artifact.
PLAIN = parse(UNIT + SMOKE + LEVELS)
CHANGE = Change(7, "main", "r1", id=1)
EXAMINED = ExaminedTree("tree", 5, PIPELINE, "inputs")
ARTIFACT = Artifact("digest", 9)
TEMPORARY = TaskFailure("disk full", retry_at=1.0)
FINAL = TaskFailure("the link x leads out of the tree")
TESTS = ("test_a", "test_b", "test_c")
NEW = Build(1, 1)
BUILDING = replace(
    NEW,
    state=BuildState.BUILDING,
    tree_digest="tree",
    config=PIPELINE.as_json,
    inputs_digest="inputs",
)
BUILT = replace(BUILDING, state=BuildState.BUILT, artifact_digest="digest", artifact_size=9)
S = StageState


def rows(build: Build, *runs: StageRun, jobs: Sequence[Job] = (), **more: Any) -> BuildRows:
    return BuildRows("app", CHANGE, build, runs, jobs=tuple(jobs), **more)


def run(stage: str, state: StageState, number: int = 1, id: int = 0, **more: Any) -> StageRun:
    ids = {BUILD: 10, "unit": 20, "smoke": 30}
    return StageRun(id or ids[stage] + number, 1, stage, number, state, **more)


def job(run: StageRun, state: JobState, part: int = 0, attempt: int = 1, **more: Any) -> Job:
    end_reason = "" if state.is_open or state is JobState.LOST else "completed"
    fields = {"end_reason": end_reason, "package_digest": end_reason and f"package-{part}", **more}
    return Job(f"j{part}-{attempt}", run.id, f"h{part}", part, attempt, state, **fields)


def passed(*jobs: Job, failed: int = 0) -> tuple[tuple[str, OutcomeCounts], ...]:
    return tuple((each.id, OutcomeCounts(2, failed)) for each in jobs)


def decide_actions(
    rows: BuildRows,
    results: Mapping[Task, TaskResult] | None = None,
    pipeline: PipelineConfig = PIPELINE,
    **more: Any,
) -> list[Action]:
    """Return all actions except requests of results."""
    actions = decide(rows, pipeline, results or {}, NOW, **more)
    return [action for action in actions if not isinstance(action, StartTask)]


def tasks(rows: BuildRows, **more: Any) -> list[Task]:
    actions = decide(rows, PIPELINE, more.pop("results", {}), NOW, **more)
    return [action.task for action in actions if isinstance(action, StartTask)]


def list_task(rows: BuildRows, stage: str, pipeline: PipelineConfig = PIPELINE) -> ListTests:
    config = pipeline.stage(stage)
    assert config
    return ListTests(rows.build.id, rows.source, "r1", rows.build.tree_digest, config)


def requests(actions: Sequence[Action]) -> list[RequestHosts]:
    return [action for action in actions if isinstance(action, RequestHosts)]


# -- a new build ------------------------------------------------------------------------


def test_a_new_build_is_examined_first() -> None:
    assert tasks(rows(NEW)) == [ExamineTree(1, "app", "r1")]
    assert decide_actions(rows(NEW)) == []


def test_an_examined_build_gets_a_run_of_its_build_command_and_requests_a_host() -> None:
    task = make_examine_task(rows(NEW))
    *others, request = decide_actions(rows(NEW), {task: EXAMINED})
    run = StageRun(0, 1, BUILD, state=S.PLACING, config_digest="inputs")
    assert others == [
        DiscardResult(task),
        RecordTree(1, EXAMINED),
        MoveBuild(1, BuildEvent.BEGIN),
        AddRun(run),
    ]
    assert isinstance(request, RequestHosts)
    assert (request.run, request.parts) == (run, (PlannedPart(0, 1),))
    assert (request.placement.name, request.placement.contents) == (
        "build of build 1", frozenset(["tree"]),
    )  # fmt: skip


def test_a_tree_without_a_build_command_is_its_own_artifact_and_its_stages_begin() -> None:
    examined = ExaminedTree("tree", 5, PLAIN)
    actions = decide_actions(rows(NEW), {make_examine_task(rows(NEW)): examined})
    reuse = MoveBuild(1, BuildEvent.REUSE, artifact_digest="tree", artifact_size=5, ended_at=NOW)
    assert reuse in actions
    states = {each.run.stage: each.run.state for each in actions if isinstance(each, AddRun)}
    assert states == {"unit": S.PLACING, "smoke": S.WAITING}


@pytest.mark.parametrize(
    ("other", "origin"),
    [
        (Build(4, 1, artifact_digest="d4", artifact_size=3), 4),
        (Build(4, 1, artifact_digest="d4", artifact_size=3, reused_build=2), 2),
    ],
)
def test_the_artifact_of_the_same_inputs_is_taken_over(other: Build, origin: int) -> None:
    results = {make_examine_task(rows(NEW)): EXAMINED}
    actions = decide_actions(rows(NEW), results, reusable=other)
    detail = f"its inputs are those of build {origin}"
    assert MoveBuild(1, BuildEvent.REUSE, detail, "d4", 3, origin, NOW) in actions
    assert {each.run.stage for each in actions if isinstance(each, AddRun)} == {"unit", "smoke"}


@pytest.mark.parametrize(
    ("result", "event", "detail"),
    [
        (FINAL, BuildEvent.FAIL, FINAL.message),
        (ExaminedTree("tree", 5, error="unknown key"), BuildEvent.REJECT, "unknown key"),
    ],
)
def test_an_unusable_tree_ends_the_build(
    result: TaskResult, event: BuildEvent, detail: str
) -> None:
    actions = decide_actions(rows(NEW), {make_examine_task(rows(NEW)): result})
    assert actions[0] == DiscardResult(make_examine_task(rows(NEW)))
    assert actions[-1] == MoveBuild(1, event, detail, ended_at=NOW)
    assert requests(actions) == []


def test_a_build_that_is_built_again_ends_together_with_the_run_that_was_requested() -> None:
    again = run(BUILD, S.PLACING, 2)
    before = rows(replace(NEW, state=BuildState.BUILDING), again)
    result = ExaminedTree("tree", 5, error="unknown key")
    assert decide_actions(before, {make_examine_task(before): result}, PipelineConfig())[-2:] == [
        MoveRun(make_run_key(again), StageEvent.FAIL, "unknown key", NOW),
        MoveBuild(1, BuildEvent.FAIL, "unknown key", ended_at=NOW),
    ]


def test_an_error_that_may_pass_is_a_detail_and_changes_no_state() -> None:
    task = make_examine_task(rows(NEW))
    waiting = replace(NEW, detail="waiting: disk full")
    assert decide_actions(rows(NEW), {task: TEMPORARY}) == [SetBuildDetail(1, waiting.detail)]
    # The result is requested again in each pass: the task runs once its time has come.
    assert decide(rows(waiting), PIPELINE, {task: TEMPORARY}, NOW) == [StartTask(task)]


# -- the build command --------------------------------------------------------------------


def build_rows(state: JobState, **more: Any) -> BuildRows:
    running = run(BUILD, S.RUNNING)
    one = job(running, state, **more)
    counts = passed(one) if state is JobState.HARVESTED else ()
    return rows(BUILDING, running, jobs=[one], counts=counts)


def artifact_task(before: BuildRows) -> ExtractArtifact:
    (one,) = before.jobs
    assert PIPELINE.build
    return ExtractArtifact(one.id, one.host, one.package_digest, one.end_reason, PIPELINE.build)


def test_a_command_that_has_ended_ends_its_run_only_with_the_artifact() -> None:
    before = build_rows(JobState.HARVESTED)
    assert tasks(before)[0] == artifact_task(before)
    assert decide_actions(before) == []
    move_run, move_build, *_ = decide_actions(before, {artifact_task(before): ARTIFACT})
    assert move_run == MoveRun(RunKey(1, BUILD, 1), StageEvent.PASS, "", NOW)
    assert move_build == MoveBuild(1, BuildEvent.FINISH, "", "digest", 9, ended_at=NOW)


def test_stages_begin_in_the_pass_that_finishes_the_build() -> None:
    before = build_rows(JobState.HARVESTED)
    results = {artifact_task(before): ARTIFACT, list_task(before, "unit"): TESTS}
    actions = decide_actions(before, results)
    assert [each.run.stage for each in actions if isinstance(each, AddRun)] == ["unit", "smoke"]
    (request,) = requests(actions)
    assert (request.run.stage, request.run.id) == ("unit", 0)


def test_a_command_that_failed_fails_the_build_with_the_log() -> None:
    before = build_rows(JobState.HARVESTED)
    failure = TaskFailure("exit 3\nno compiler")
    assert decide_actions(before, {artifact_task(before): failure}) == [
        MoveRun(RunKey(1, BUILD, 1), StageEvent.FAIL, "exit 3", NOW),
        MoveBuild(
            1, BuildEvent.FAIL, "the build command failed: exit 3\nno compiler", ended_at=NOW
        ),
    ]


def test_an_artifact_that_cannot_be_stored_now_is_waited_for() -> None:
    before = build_rows(JobState.HARVESTED)
    actions = decide_actions(before, {artifact_task(before): TEMPORARY})
    assert actions == [SetBuildDetail(1, "waiting: disk full")]


def test_a_lost_build_job_runs_again_on_another_host_and_then_fails_the_build() -> None:
    before = build_rows(JobState.LOST, detail="no answer")
    (request,) = requests(decide_actions(before))
    assert request.parts == (PlannedPart(0, 2),)
    assert request.placement.avoid == {"h0"}
    assert (request.reason, request.hosts_lost) == ("running again: h0 was lost: no answer", 1)
    detail = "h0 was lost: no answer; it was run again 1 time"
    assert decide_actions(build_rows(JobState.LOST, attempt=2, detail="no answer")) == [
        MoveRun(RunKey(1, BUILD, 1), StageEvent.GIVE_UP, detail, NOW),
        MoveBuild(1, BuildEvent.FAIL, detail, ended_at=NOW),
    ]


@pytest.mark.parametrize(
    ("detail", "expected"),
    [("canceled by ann", "canceled by ann"), ("", "its build command was canceled")],
)
def test_a_canceled_command_fails_the_build(detail: str, expected: str) -> None:
    before = rows(BUILDING, run(BUILD, S.CANCELED, detail=detail))
    assert decide_actions(before) == [MoveBuild(1, BuildEvent.FAIL, expected, ended_at=NOW)]


@pytest.mark.parametrize(
    ("run_detail", "job_detail", "expected"),
    [
        ("", "no room", "waiting: h0: no room"),
        ("waiting: h0: no room", "no room", None),
        ("waiting: h0: no room", "", ""),
        ("said by somebody else", "", None),
    ],
)
def test_a_run_shows_why_its_open_jobs_wait(
    run_detail: str, job_detail: str, expected: str | None
) -> None:
    running = run(BUILD, S.RUNNING, detail=run_detail)
    open_job = job(running, JobState.SUBMITTED, detail=job_detail)
    actions = decide_actions(rows(BUILDING, running, jobs=[open_job]))
    wanted = [] if expected is None else [SetRunDetail(make_run_key(running), expected)]
    assert actions == wanted


# -- stages ---------------------------------------------------------------------------------


def placing(stage: str = "unit", **more: Any) -> BuildRows:
    runs = [run("unit", S.PLACING if stage == "unit" else S.PASSED)]
    runs.append(run("smoke", S.WAITING, detail="needs unit, which has not passed yet"))
    return rows(BUILT, *(replace(each, **more) if each.stage == stage else each for each in runs))


def test_a_sharded_stage_asks_for_no_more_hosts_than_it_has_tests() -> None:
    before = placing()
    for tests, count in ((TESTS, 2), (TESTS[:1], 1)):
        (request,) = requests(decide_actions(before, {list_task(before, "unit"): tests}))
        assert (request.placement.count, request.parts) == (count, ())
        assert request.split == Split(7, "unit", tests)


@pytest.mark.parametrize("mode", ["each", "together"])
def test_any_other_stage_gets_a_part_for_each_of_its_hosts(mode: str) -> None:
    pipeline = parse(f'[stages.unit]\nhosts = 3\nmode = "{mode}"\n' + SMOKE)
    before = placing()
    results = {list_task(before, "unit", pipeline): TESTS}
    (request,) = requests(decide_actions(before, results, pipeline))
    assert request.parts == tuple(map(PlannedPart, range(3)))
    assert (request.placement.count, request.placement.contents) == (3, {"digest"})


@pytest.mark.parametrize(
    ("result", "only", "event", "detail"),
    [
        ((), None, StageEvent.FAIL, "its names and markers select no test"),
        (TaskFailure("no such file", is_verdict=True), None, StageEvent.FAIL, "no such file"),
        (FINAL, None, StageEvent.GIVE_UP, FINAL.message),
        (
            TESTS, ("test_z",), StageEvent.GIVE_UP,
            "the stage has no such tests: run all of it again",
        ),
    ],
)  # fmt: skip
def test_a_run_that_cannot_begin_ends_without_a_job(
    result: TaskResult, only: tuple[str, ...] | None, event: StageEvent, detail: str
) -> None:
    before = placing(selected_tests=only)
    task = list_task(before, "unit")
    actions = decide_actions(before, {task: result}, settled=before)
    assert actions == [
        RepeatPass(),
        DiscardResult(task),
        MoveRun(RunKey(1, "unit", 1), event, detail, NOW),
    ]


def test_tests_that_cannot_be_listed_now_are_a_detail_that_is_written_once() -> None:
    before = placing()
    results = {list_task(before, "unit"): TEMPORARY}
    detail = "waiting: disk full"
    move = MoveRun(RunKey(1, "unit", 1), StageEvent.READY, detail)
    assert decide_actions(before, results, settled=before) == [move]
    written = placing(detail=detail)
    assert decide_actions(written, results, settled=written) == []


def running_unit(*states: JobState, attempt: int = 1, failed: int = 0, **more: Any) -> BuildRows:
    unit = run("unit", S.RUNNING)
    waiting = run("smoke", S.WAITING, detail="needs unit, which has not passed yet")
    jobs = [job(unit, state, part, attempt, **more) for part, state in enumerate(states)]
    harvested = [each for each in jobs if each.state is JobState.HARVESTED]
    return rows(BUILT, unit, waiting, jobs=jobs, counts=passed(*harvested, failed=failed))


DONE, OPEN, LOST = JobState.HARVESTED, JobState.SUBMITTED, JobState.LOST


def test_a_stage_that_passed_gives_its_tag_and_the_next_one_begins_in_the_same_pass() -> None:
    before = running_unit(DONE, DONE)
    results = {list_task(before, "smoke"): TESTS}
    actions = decide_actions(before, results)
    assert actions[0] == MoveRun(RunKey(1, "unit", 1), StageEvent.PASS, "4 tests", NOW)
    (tag,) = [each for each in actions if isinstance(each, GrantTag)]
    assert (tag.stage, tag.run, tag.runs) == ("unit", 21, (21,))
    assert MoveRun(RunKey(1, "smoke", 1), StageEvent.READY, "") in actions
    assert [each.run.stage for each in requests(actions)] == ["smoke"]


def test_a_stage_that_failed_blocks_the_next_one() -> None:
    actions = decide_actions(running_unit(DONE, DONE, failed=1))
    detail = "h0: 1 test failed; h1: 1 test failed"
    assert actions == [
        MoveRun(RunKey(1, "unit", 1), StageEvent.FAIL, detail, NOW),
        MoveRun(RunKey(1, "smoke", 1), StageEvent.BLOCK, "needs unit, which failed (run 1)"),
    ]


def test_a_lost_part_requests_a_host_that_has_no_other_part() -> None:
    before = running_unit(OPEN, LOST, tests=("test_a",))
    (request,) = requests(decide_actions(before))
    assert request.parts == (PlannedPart(1, 2, ("test_a",)),)
    assert (request.placement.taken, request.placement.avoid) == ({"h0"}, {"h1"})
    assert (request.placement.count, request.hosts_lost) == (1, 1)


def test_peers_of_a_lost_host_are_stopped_and_then_all_run_again() -> None:
    pipeline = parse('[stages.unit]\nhosts = 2\nmode = "together"\n' + SMOKE)
    actions = decide_actions(running_unit(OPEN, LOST), pipeline=pipeline)
    assert actions[0] == StopJob("j0-1")
    before = running_unit(DONE, LOST)
    results = {list_task(before, "unit", pipeline): TESTS}
    actions = decide_actions(before, results, pipeline)
    assert actions[0] == MoveRun(
        RunKey(1, "unit", 1), StageEvent.PLACE_AGAIN, "running again: h1 was lost"
    )
    (request,) = requests(actions)
    assert request.parts == (PlannedPart(0, 2), PlannedPart(1, 2))
    assert request.placement.avoid == {"h1"}


def test_a_revoked_tag_takes_the_level_with_it() -> None:
    pipeline = parse("[stages.unit]\n[levels]\ngood = ['unit']\n")
    tag = Tag(1, 1, "digest", "unit", "", None, actor="ann")
    before = rows(replace(BUILT, level="good"), run("unit", S.FAILED), tags=(tag,))
    assert decide_actions(before, pipeline=pipeline) == []
    gone = replace(before, tags=(replace(tag, revoked_at=1.0),))
    assert decide_actions(gone, pipeline=pipeline) == [SetLevel(1, "goop")]


def test_a_tag_that_a_later_run_overrules_is_revoked() -> None:
    pipeline = parse("[stages.unit]\n")
    first, second = run("unit", S.PASSED), run("unit", S.FAILED, 2)
    tag = Tag(5, 1, "digest", "unit", "any", first.id)
    actions = decide_actions(rows(BUILT, first, second, tags=(tag,)), pipeline=pipeline)
    assert actions == [RevokeTag(5, "overruled: run 2 of unit failed")]


def test_unchanged_rows_are_not_promoted_again() -> None:
    before = rows(BUILT)
    assert [type(each) for each in decide_actions(before)] == [AddRun, AddRun]
    assert decide_actions(before, settled=before) == []
    assert decide_actions(before, settled=rows(BUILDING)) == decide_actions(before)


def test_requests_come_in_the_order_of_the_runs() -> None:
    pipeline = parse("[stages.unit]\nneeds = []\n[stages.smoke]\nneeds = []\n")
    unit, smoke = run("unit", S.PLACING), run("smoke", S.RUNNING)
    before = rows(BUILT, unit, smoke, jobs=[job(smoke, LOST)])
    results = {list_task(before, "unit", pipeline): TESTS}
    host_requests = requests(decide_actions(before, results, pipeline))
    assert [each.run.stage for each in host_requests] == ["unit", "smoke"]


# -- tasks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "stages"),
    [
        (build_rows(OPEN), ["unit", "smoke"]),
        (running_unit(OPEN, OPEN), ["smoke"]),
        (rows(BUILT, run("unit", S.GATED), run("smoke", S.WAITING)), []),
        (rows(replace(NEW, state=BuildState.FAILED), run("unit", S.RUNNING)), []),
    ],
)
def test_tests_of_the_next_stages_are_listed_while_something_runs(
    before: BuildRows, stages: list[str]
) -> None:
    ahead = [each.stage.name for each in tasks(before) if isinstance(each, ListTests)]
    assert [each for each in ahead if each in stages] == stages
    assert tasks(before, may_look_ahead=False, settled=before) == []


def test_tests_that_are_known_are_requested_even_if_nothing_may_be_started_ahead() -> None:
    before = running_unit(OPEN, OPEN)
    known = {list_task(before, "smoke"): TESTS}
    assert tasks(before, results=known, may_look_ahead=False) == list(known)


@pytest.mark.parametrize("state", [BuildState.FAILED, BuildState.INVALID, BuildState.SUPERSEDED])
def test_nothing_happens_to_a_build_that_has_ended(state: BuildState) -> None:
    before = rows(replace(NEW, state=state), run("unit", S.PLACING))
    assert decide(before, PIPELINE, {}, NOW) == []


def test_details_are_cut() -> None:
    before = build_rows(JobState.HARVESTED)
    failure = TaskFailure("x" * 9000)
    for action in decide_actions(before, {artifact_task(before): failure}):
        assert isinstance(action, (MoveRun, MoveBuild))
        assert action.detail
        assert len(action.detail) == 8004


# -- all together ------------------------------------------------------------------------------


def perform(before: BuildRows, actions: Sequence[Action]) -> BuildRows:
    """Return the rows after the actions, as the store writes them; jobs get any host."""
    build, runs = before.build, {make_run_key(each): each for each in before.runs}
    jobs, tags = list(before.jobs), list(before.tags)
    for action in actions:
        match action:
            case RecordTree(tree=tree):
                config = tree.config.as_json if tree.config else None
                build = replace(
                    build,
                    tree_digest=tree.tree_digest,
                    config=config,
                    inputs_digest=tree.inputs_digest,
                )
            case MoveBuild():
                state = state_after(BUILD_TRANSITIONS, build.state, action.event)
                build = replace(build, state=state, **action.fields())
            case SetLevel(level=level):
                build = replace(build, level=level)
            case AddRun(run=new):
                assert make_run_key(new) not in runs
                runs[make_run_key(new)] = replace(new, id=len(runs) + 1)
            case MoveRun(run=key, event=event, detail=detail):
                state = state_after(STAGE_TRANSITIONS, runs[key].state, event)
                runs[key] = replace(runs[key], state=state, detail=detail)
            case GrantTag():
                tag = Tag(
                    len(tags) + 1,
                    1,
                    action.build.artifact_digest,
                    action.stage,
                    action.config_digest,
                )
                tags.append(replace(tag, stage_run=action.run))
            case RequestHosts():
                key = make_run_key(action.run)
                if runs[key].state is S.PLACING:
                    state = state_after(STAGE_TRANSITIONS, S.PLACING, StageEvent.PLACE)
                    runs[key] = replace(runs[key], state=state, detail="")
                parts = action.parts or [PlannedPart(n) for n in range(action.placement.count)]
                jobs += [
                    Job(
                        f"{key.stage}-{key.number}-{part.part}-{part.attempt}", runs[key].id,
                        f"h{part.part}", part.part, part.attempt, JobState.SUBMITTED,
                    )
                    for part in parts
                ]  # fmt: skip
    alive = {each.id for each in runs.values() if each.state in (S.RUNNING, S.PLACING)}
    return replace(
        before,
        build=build,
        runs=tuple(runs.values()),
        jobs=tuple(each for each in jobs if each.stage_run in alive),
        tags=tuple(tags),
    )


def results_for(actions: Sequence[Action]) -> dict[Task, TaskResult]:
    """Return a result for each task that is requested."""
    results: dict[Task, TaskResult] = {}
    for action in actions:
        if isinstance(action, StartTask):
            task = action.task
            if isinstance(task, ExamineTree):
                results[task] = EXAMINED
            else:
                results[task] = TESTS if isinstance(task, ListTests) else ARTIFACT
    return results


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_build_ends_with_nothing_left_to_do(
    data: st.DataObject,
) -> None:
    """Jobs pass, fail or are lost in any order; no decision is made twice."""
    current, results = rows(NEW), dict[Task, TaskResult]()
    counts: dict[str, OutcomeCounts] = {}
    for _ in range(60):
        pipeline = PIPELINE if current.build.config else PipelineConfig()
        actions = decide(current, pipeline, results, NOW)
        new_results = results_for(actions)
        is_settled = new_results.keys() <= results.keys() and not any(
            isinstance(action, (*ROW_CHANGES, RequestHosts)) for action in actions
        )
        results |= new_results
        current = perform(current, actions)
        open_jobs = [each for each in current.jobs if each.state.is_open]
        if open_jobs:
            ended = data.draw(st.sampled_from(open_jobs))
            state = data.draw(st.sampled_from([DONE, DONE, DONE, LOST]))
            failed = data.draw(st.sampled_from([0, 0, 0, 1]))
            end_reason = "completed" if state is DONE else ""
            new = replace(ended, state=state, end_reason=end_reason, package_digest=end_reason)
            counts[new.id] = OutcomeCounts(2, failed if state is DONE else 0)
            jobs = tuple(new if each is ended else each for each in current.jobs)
            harvested = tuple((each.id, counts[each.id]) for each in jobs if each.package_digest)
            current = replace(current, jobs=jobs, counts=harvested)
        elif is_settled:
            break
    else:
        pytest.fail("the build does not end")
    final = current.build.state
    assert final in (BuildState.BUILT, BuildState.FAILED)
    states = {each.stage: each.state for each in current.runs}
    ends = (S.PASSED, S.FAILED, S.ERROR, S.BLOCKED)
    assert all(state in ends for state in states.values())
    if set(states.values()) == {S.PASSED}:
        assert current.build.level == "good"
