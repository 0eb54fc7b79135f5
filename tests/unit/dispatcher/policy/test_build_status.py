"""Tests of the status of a build: its outcome and a message."""

import pytest

from dispatcher.configuration import pipeline
from dispatcher.model import GOOP, Build, BuildState, StageRun, StageState, Tag
from dispatcher.policy import build_status
from dispatcher.policy.build_status import Outcome
from dispatcher.policy.promotion import Facts

BUILT = Build(1, 1, BuildState.BUILT, level=GOOP)
S = StageState


def runs(**states: StageState) -> list[StageRun]:
    return [
        StageRun(number, 1, stage, state=state)
        for number, (stage, state) in enumerate(states.items(), 1)
    ]


@pytest.mark.parametrize(
    ("states", "outcome", "message"),
    [
        ({}, Outcome.STOPPED, "built; it has no stages, so that nothing was tested"),
        ({"unit": S.PASSED}, Outcome.PASSED, "passed"),
        ({"unit": S.PASSED, "smoke": S.RUNNING}, Outcome.RUNNING, "runs smoke"),
        ({"unit": S.FAILED, "smoke": S.BLOCKED}, Outcome.FAILED, "stopped at unit"),
        # While a stage runs, the build may still reach a higher level.
        ({"unit": S.FAILED, "audit": S.RUNNING}, Outcome.RUNNING, "runs audit"),
        ({"unit": S.PLACING}, Outcome.RUNNING, "unit waits for a host"),
        ({"unit": S.ERROR}, Outcome.ERROR, "unit could not be run"),
        ({"unit": S.GATED, "smoke": S.WAITING}, Outcome.STOPPED, "unit needs an approval"),
        ({"unit": S.HELD}, Outcome.STOPPED, "unit is held"),
        ({"unit": S.CANCELED, "smoke": S.BLOCKED}, Outcome.STOPPED, "unit was canceled"),
        # All that a person has to do is named.
        (
            {"a": S.HELD, "b": S.GATED, "c": S.WAITING, "d": S.CANCELED},
            Outcome.STOPPED,
            "d was canceled, b needs an approval, a is held",
        ),
        ({"a": S.HELD, "b": S.GATED, "c": S.FAILED}, Outcome.FAILED, "stopped at c"),
        ({"a": S.HELD, "b": S.HELD}, Outcome.STOPPED, "a and b are held"),
        (dict.fromkeys("abcde", S.CANCELED), Outcome.STOPPED, "a, b and 3 more were canceled"),
        (dict.fromkeys("abcd", S.PLACING), Outcome.RUNNING, "a, b and 2 more wait for a host"),
    ],
)
def test_the_stage_that_matters_most_is_named(
    states: dict[str, StageState], outcome: Outcome, message: str
) -> None:
    assert build_status.compute_status(BUILT, runs(**states)) == (outcome, message)


NEVER = "can never be placed: needs 2 hosts with label gpu, and there are none; the dispatcher ..."


@pytest.mark.parametrize(
    ("states", "outcome", "message"),
    [
        ({}, Outcome.STOPPED, f"big {NEVER.partition(';')[0]}"),
        # A person has to act before the stage goes on, but other stages go on by themselves.
        ({"unit": S.RUNNING}, Outcome.RUNNING, "runs unit"),
        ({"unit": S.PLACING}, Outcome.RUNNING, "unit waits for a host"),
        ({"unit": S.FAILED}, Outcome.FAILED, "stopped at unit"),
        ({"unit": S.ERROR}, Outcome.ERROR, "unit could not be run"),
        (
            {"unit": S.HELD, "smoke": S.GATED},
            Outcome.STOPPED,
            f"big {NEVER.partition(';')[0]}, smoke needs an approval, unit is held",
        ),
        ({"unit": S.WAITING}, Outcome.STOPPED, f"big {NEVER.partition(';')[0]}"),
    ],
)
def test_a_stage_that_can_never_be_placed_waits_for_a_person(
    states: dict[str, StageState], outcome: Outcome, message: str
) -> None:
    big = StageRun(9, 1, "big", state=S.PLACING, detail=NEVER)
    assert build_status.compute_status(BUILT, [*runs(**states), big]) == (outcome, message)


@pytest.mark.parametrize("stage", ["big", "build"])
def test_a_lost_part_that_can_never_be_placed_waits_for_a_person(stage: str) -> None:
    detail = f"running again: h1 was lost; waiting: {NEVER}"
    run = StageRun(1, 1, stage, state=S.RUNNING, detail=detail)
    build = Build(1, 1, BuildState.BUILDING) if stage == "build" else BUILT
    assert build_status.compute_status(build, [run]) == (
        Outcome.STOPPED,
        f"{stage} {NEVER.partition(';')[0]}",
    )
    ended = StageRun(1, 1, "big", state=S.FAILED, detail=detail)
    assert build_status.compute_status(BUILT, [ended]).outcome is Outcome.FAILED


def test_several_stages_that_can_never_be_placed_are_named() -> None:
    stages = [StageRun(n, 1, name, state=S.PLACING, detail=NEVER) for n, name in enumerate("ab")]
    assert build_status.compute_status(BUILT, stages) == (
        Outcome.STOPPED,
        "a and b can never be placed",
    )


def test_a_build_command_that_can_never_be_placed_waits_for_a_person() -> None:
    run = StageRun(1, 1, "build", state=S.PLACING, detail=NEVER)
    assert build_status.compute_status(Build(1, 1, BuildState.BUILDING), [run]) == (
        Outcome.STOPPED,
        f"build {NEVER.partition(';')[0]}",
    )


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        (BuildState.NEW, Outcome.RUNNING),
        (BuildState.BUILDING, Outcome.RUNNING),
        (BuildState.FAILED, Outcome.FAILED),
        (BuildState.INVALID, Outcome.FAILED),
        (BuildState.SUPERSEDED, Outcome.SUPERSEDED),
    ],
)
def test_without_an_artifact_no_stage_counts(state: BuildState, outcome: Outcome) -> None:
    status = build_status.compute_status(Build(1, 1, state), runs(unit=S.PASSED))
    assert status.outcome is outcome
    assert status.is_final is (outcome is not Outcome.RUNNING)


def test_a_build_command_that_could_not_be_run_is_no_fault_of_the_tree() -> None:
    status = build_status.compute_status(Build(1, 1, BuildState.FAILED), runs(build=S.ERROR))
    assert status.outcome is Outcome.ERROR


def test_the_last_run_of_a_stage_counts() -> None:
    first = StageRun(1, 1, "unit", 1, S.FAILED)
    again = StageRun(2, 1, "unit", 2, S.PASSED)
    assert build_status.compute_status(BUILT, [again, first]).outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("state", "tagged", "outcome", "message"),
    [
        (S.PASSED, False, Outcome.STOPPED, "unit has no valid tag"),  # it was revoked
        (S.FAILED, True, Outcome.PASSED, "passed"),  # by hand
        (S.CANCELED, True, Outcome.PASSED, "passed"),  # another run, and the tag stays
        (S.RUNNING, True, Outcome.RUNNING, "runs unit"),
        (S.FAILED, False, Outcome.FAILED, "stopped at unit"),
    ],
)
def test_a_tag_is_the_last_word_on_what_has_ended(
    state: StageState, tagged: bool, outcome: Outcome, message: str
) -> None:
    counting = ["unit", "smoke"] if tagged else ["smoke"]
    status = build_status.compute_status(BUILT, runs(unit=state, smoke=S.PASSED), counting)
    assert status == (outcome, message)


def test_a_build_with_a_revoked_tag_has_not_passed() -> None:
    tree = pipeline.parse("[stages.unit]\n")
    (run,) = runs(unit=S.PASSED)
    given = Tag(1, 1, "d", "unit", pipeline.stage_digest(tree.stages[0]), run.id, revoked_at=9.0)
    facts = Facts(BuildState.BUILT, tree, (run,), (given,))
    assert build_status.settled_status(BUILT, facts) == (
        Outcome.STOPPED,
        "unit has no valid tag",
    )


def test_what_policy_will_write_makes_a_build_not_final() -> None:
    tree = pipeline.parse("[stages.unit]\n[stages.smoke]\n")
    stage_runs = runs(unit=S.PASSED, smoke=S.WAITING)
    assert build_status.compute_status(BUILT, stage_runs).is_final
    facts = Facts(BuildState.BUILT, tree, tuple(stage_runs))
    assert build_status.settled_status(BUILT, facts).outcome is Outcome.RUNNING
