"""Tests of the promotion policy: levels from tags, and the next step of each stage."""

import random
from collections.abc import Iterable
from dataclasses import replace
from itertools import takewhile

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dispatcher.configuration.pipeline import (
    Gate,
    Level,
    PipelineConfig,
    Stage,
    parse,
    stage_digest,
)
from dispatcher.model import (
    STAGE_TRANSITIONS,
    BuildState,
    Decision,
    DecisionKind,
    StageRun,
    StageState,
    Tag,
    state_after,
)
from dispatcher.policy.promotion import (
    Facts,
    Plan,
    TagRevocation,
    counting_stages,
    highest_level,
    make_plan,
    rerun_error,
    verdict_runs,
)

SIX = parse("".join(f"[stages.{name}]\n" for name in (
    "unit", "smoke", "regression", "performance", "scalability", "resilience",
)))  # fmt: skip
CHAIN = PipelineConfig(
    None,
    (Stage("a"), Stage("b", needs=("a",)), Stage("c", needs=("b",))),
    (Level("low", ("a",)), Level("high", ("c",))),
)
BUILT = BuildState.BUILT


def perform(facts: Facts, steps: Plan) -> Facts:
    """Return the rows after a plan, as the store writes them."""
    reasons = {each.tag: each.reason for each in steps.revocations}
    tags = [
        replace(tag, revoked_at=1.0, revocation_reason=reasons[tag.id], serial=tag.id)
        if tag.id in reasons
        else tag
        for tag in facts.tags
    ]
    for grant in steps.grants:
        number = 1 + max((tag.id for tag in tags), default=0)
        tags.append(Tag(number, 1, "d", grant.stage, grant.config_digest, grant.run))
    runs = {run.id: run for run in facts.runs}
    for move in steps.run_changes:
        run = runs[move.run]
        assert state_after(STAGE_TRANSITIONS, run.state, move.event) is move.state
        runs[run.id] = replace(run, state=move.state, detail=move.detail)
    for new in steps.new_runs:
        number = 1 + max(runs, default=0)
        runs[number] = StageRun(number, 1, new.stage, 1, new.state, new.detail, new.config_digest)
    keys = [(tag.stage, tag.config_digest, tag.serial) for tag in tags]
    assert len(set(keys)) == len(keys), "the row of a tag would violate a unique constraint"
    return replace(facts, tags=tuple(tags), runs=tuple(runs.values()))


def settle(facts: Facts) -> Facts:
    """Perform a plan, and check that nothing is left to do."""
    facts = perform(facts, make_plan(facts))
    remaining = make_plan(facts)
    assert remaining == Plan(remaining.level)
    return facts


def end_run(facts: Facts, name: str, state: StageState) -> Facts:
    """Return the rows after the newest run of a stage has ended in a state."""
    newest = latest(facts, name)
    runs = (replace(run, state=state) if run is newest else run for run in facts.runs)
    return settle(replace(facts, runs=tuple(runs)))


def rerun(facts: Facts, name: str, only: tuple[str, ...] | None = None) -> Facts:
    number = 1 + max(run.id for run in facts.runs)
    before = latest(facts, name).number
    run = StageRun(
        number, 1, name, before + 1, StageState.WAITING, selected_tests=only, requested_by="ann"
    )
    return settle(replace(facts, runs=(*facts.runs, run)))


def revoke(facts: Facts, name: str) -> Facts:
    tags = (
        replace(tag, revoked_at=9.0, revocation_reason="a leak", serial=tag.id)
        if tag.stage == name and tag.is_valid
        else tag
        for tag in facts.tags
    )
    return settle(replace(facts, tags=tuple(tags)))


def latest(facts: Facts, name: str) -> StageRun:
    return max((run for run in facts.runs if run.stage == name), key=lambda run: run.number)


def states(facts: Facts) -> str:
    return " ".join(latest(facts, stage.name).state for stage in facts.tree.stages)


def start(tree: PipelineConfig = CHAIN, *decisions: Decision) -> Facts:
    return settle(Facts(BUILT, tree, decisions=decisions))


def test_from_goop_to_ship() -> None:
    facts, levels = start(SIX), []
    for stage in SIX.stages:
        assert latest(facts, stage.name).state is StageState.PLACING
        levels.append(make_plan(facts).level)
        facts = end_run(facts, stage.name, StageState.PASSED)
    assert levels == ["goop", "goop", "goop", "published", "published", "published"]
    assert make_plan(facts).level == "ship"
    assert [tag.stage for tag in facts.tags] == [stage.name for stage in SIX.stages]


@pytest.mark.parametrize("state", [state for state in BuildState if state is not BUILT])
def test_nothing_begins_without_an_artifact(state: BuildState) -> None:
    assert make_plan(Facts(state, SIX)) == Plan("goop")


def test_a_new_tag_triggers_what_waits_in_the_same_plan() -> None:
    facts = start()
    runs = (replace(facts.runs[0], state=StageState.PASSED), *facts.runs[1:])
    steps = make_plan(replace(facts, runs=runs))
    assert [(each.stage, each.run) for each in steps.grants] == [("a", facts.runs[0].id)]
    assert (steps.run_changes[0].run, steps.run_changes[0].state) == (2, StageState.PLACING)
    assert steps.level == "low"


@pytest.mark.parametrize(
    ("state", "detail"),
    [
        (StageState.FAILED, "needs a, which failed (run 1)"),
        (StageState.ERROR, "needs a, which could not be run (run 1)"),
        (StageState.CANCELED, "needs a, which was canceled (run 1)"),
    ],
)
def test_what_has_not_passed_blocks_what_needs_it(state: StageState, detail: str) -> None:
    facts = end_run(start(), "a", state)
    assert states(facts) == f"{state} blocked blocked"
    assert latest(facts, "b").detail == detail
    assert latest(facts, "c").detail == "needs b, which is blocked"


def test_a_rerun_that_passes_unblocks() -> None:
    facts = end_run(start(), "a", StageState.FAILED)
    facts = rerun(facts, "a")
    assert states(facts) == "placing waiting waiting"
    facts = end_run(facts, "a", StageState.PASSED)
    assert states(facts) == "passed placing waiting"
    assert [(tag.stage_run, tag.is_valid) for tag in facts.tags] == [(4, True)]


def test_a_rerun_that_fails_overrules_the_tag() -> None:
    facts = end_run(start(), "a", StageState.PASSED)
    facts = rerun(facts, "a")
    assert make_plan(facts).level == "low", "a run on its way proves nothing"
    facts = end_run(facts, "a", StageState.FAILED)
    assert make_plan(facts).level == "goop"
    assert [tag.revocation_reason for tag in facts.tags] == ["overruled: run 2 of a failed"]
    assert states(facts) == "failed blocked blocked"


@pytest.mark.parametrize("state", [StageState.ERROR, StageState.CANCELED])
def test_a_rerun_without_a_verdict_leaves_the_tag(state: StageState) -> None:
    facts = end_run(rerun(end_run(start(), "a", StageState.PASSED), "a"), "a", state)
    assert make_plan(facts).level == "low"
    assert latest(facts, "b").state is StageState.PLACING


def test_a_rerun_that_passes_has_the_tag() -> None:
    facts = end_run(rerun(end_run(start(), "a", StageState.PASSED), "a"), "a", StageState.PASSED)
    assert [(tag.stage_run, tag.is_valid) for tag in facts.tags] == [(1, False), (4, True)]
    assert make_plan(facts).level == "low"


def test_a_rerun_of_failed_tests_stands_on_the_full_run() -> None:
    facts = end_run(start(), "a", StageState.FAILED)
    facts = end_run(rerun(facts, "a", ("t1", "t2")), "a", StageState.FAILED)
    facts = rerun(facts, "a", ("t2",))
    newest = latest(facts, "a")
    runs = [replace(run, state=StageState.PASSED) if run is newest else run for run in facts.runs]
    (tag,) = make_plan(replace(facts, runs=tuple(runs))).grants
    assert tag.runs == (1, 4, 5)


def test_some_tests_are_no_stage() -> None:
    facts = end_run(start(), "a", StageState.ERROR)
    facts = end_run(rerun(facts, "a", ("t1",)), "a", StageState.PASSED)
    assert facts.tags == ()
    assert latest(facts, "b").detail.endswith("which has passed in parts only: run all of it again")


def test_a_revoked_tag_takes_what_depends_on_it_along_and_runs_nothing() -> None:
    facts = start()
    for name in "abc":
        facts = end_run(facts, name, StageState.PASSED)
    assert make_plan(facts).level == "high"
    facts = revoke(facts, "a")
    assert make_plan(facts).level == "goop"
    assert counting_stages(facts.tree, facts.tags) == frozenset()
    assert states(facts) == "passed passed passed"
    facts = end_run(rerun(facts, "a"), "a", StageState.PASSED)
    assert make_plan(facts).level == "high", "b and c have not run again"
    assert len(facts.runs) == 4


def test_what_had_not_begun_waits_for_a_revoked_tag_by_name() -> None:
    facts = revoke(end_run(start(), "a", StageState.PASSED), "a")
    assert states(facts) == "passed waiting waiting"
    assert latest(facts, "b").detail == "needs a, whose tag was revoked: a leak"
    facts = end_run(start(), "a", StageState.PASSED)
    facts = revoke(end_run(facts, "b", StageState.PASSED), "a")
    assert latest(facts, "c").detail == (
        "waits for b, whose tag counts only when the stages that it needs have their tags"
    )


def test_a_revoked_tag_stays_revoked_until_another_run_passes() -> None:
    facts = end_run(rerun(end_run(start(), "a", StageState.PASSED), "a"), "a", StageState.PASSED)
    facts = revoke(facts, "a")
    assert not any(tag.is_valid for tag in facts.tags)
    facts = end_run(rerun(facts, "a"), "a", StageState.PASSED)
    assert [tag.is_valid for tag in facts.tags] == [False, False, True]


def test_a_tag_by_hand_counts_and_is_nobody_elses_to_revoke() -> None:
    facts = end_run(start(), "a", StageState.FAILED)
    by_hand = Tag(1, 1, "d", "a", "", actor="ann")
    facts = settle(replace(facts, tags=(by_hand,)))
    assert make_plan(facts).level == "low"
    assert states(facts) == "failed placing waiting"
    facts = end_run(rerun(facts, "a"), "a", StageState.FAILED)
    assert facts.tags == (by_hand,)
    facts = end_run(rerun(facts, "a"), "a", StageState.PASSED)
    assert [tag.is_valid for tag in facts.tags] == [True, True]


def test_a_tag_of_a_stage_written_otherwise_says_nothing() -> None:
    tag = Tag(1, 1, "d", "a", stage_digest(Stage("a", retries=1)), 1)
    assert highest_level(CHAIN, [tag]) == "goop"
    assert highest_level(CHAIN, [replace(tag, config_digest=stage_digest(Stage("a")))]) == "low"


def test_a_level_wants_the_levels_below_it() -> None:
    tree = PipelineConfig(
        None, (Stage("a"), Stage("b")), (Level("low", ("a",)), Level("high", ("b",)))
    )
    b = Tag(1, 1, "d", "b", "")
    assert highest_level(tree, [b]) == "goop"
    assert highest_level(tree, [b, Tag(2, 1, "d", "a", "")]) == "high"


GATED = PipelineConfig(None, (Stage("a"), Stage("b", needs=("a",), gate=Gate.MANUAL)), ())


def test_a_gate_asks_only_when_all_else_is_met() -> None:
    facts = start(GATED)
    assert states(facts) == "placing waiting"
    facts = end_run(facts, "a", StageState.PASSED)
    assert states(facts) == "passed gated"
    approved = Decision(1, "b", DecisionKind.APPROVED, "ann")
    assert states(settle(replace(facts, decisions=(approved,)))) == "passed placing"


def test_an_approval_in_advance_opens_the_gate() -> None:
    facts = start(GATED, Decision(1, "b", DecisionKind.APPROVED, "ann"))
    assert states(end_run(facts, "a", StageState.PASSED)) == "passed placing"


def test_a_hold_comes_first_and_an_approval_ends_it() -> None:
    facts = start(CHAIN, Decision(1, "a", DecisionKind.HELD, "bob", "the lab moves"))
    assert states(facts) == "held waiting waiting"
    assert latest(facts, "a").detail == "held by bob: the lab moves"
    assert latest(facts, "b").detail == "needs a, which is held"
    approved = Decision(1, "a", DecisionKind.APPROVED, "bob")
    assert states(settle(replace(facts, decisions=(approved,)))) == "placing waiting waiting"


def test_a_hold_names_the_gate_too() -> None:
    facts = end_run(start(GATED), "a", StageState.PASSED)
    held = Decision(1, "b", DecisionKind.HELD, "bob")
    detail = latest(settle(replace(facts, decisions=(held,))), "b").detail
    assert detail == "held by bob; its gate needs an approval, too, which also ends the hold"


@pytest.mark.parametrize("state", [StageState.PLACING, StageState.RUNNING])
def test_the_reason_of_a_wait_does_not_depend_on_placement(state: StageState) -> None:
    """Placement and jobs move a run between these states; the text must hold in both."""
    facts = start()
    assert latest(facts, "b").detail == "needs a, which has not passed yet"
    runs = [replace(run, state=state) if run.stage == "a" else run for run in facts.runs]
    moved = replace(facts, runs=tuple(runs))
    assert not make_plan(moved).run_changes


def test_stages_without_needs_run_side_by_side() -> None:
    tree = PipelineConfig(None, (Stage("a"), Stage("b"), Stage("c", needs=("a", "b"))), ())
    facts = end_run(start(tree), "b", StageState.PASSED)
    assert states(facts) == "placing passed waiting"
    assert states(end_run(facts, "a", StageState.FAILED)) == "failed passed blocked"


def test_what_placement_says_of_a_stage_is_left_alone() -> None:
    facts = start()
    runs = (replace(facts.runs[0], detail="no host fits"), *facts.runs[1:])
    assert make_plan(replace(facts, runs=runs)).run_changes == ()


def test_a_run_behind_a_newer_one_is_cancelled() -> None:
    facts = start()
    late = replace(facts.runs[0], id=9, number=2)
    facts = settle(replace(facts, runs=(*facts.runs, late)))
    assert [run.state for run in facts.runs if run.stage == "a"] == ["canceled", "placing"]


def test_why_a_stage_cannot_be_run_again() -> None:
    facts = start()
    assert rerun_error(facts, "x") == "the build has no stage x"
    assert rerun_error(facts, "a") == "run 1 of a is placing: it has not run yet"
    failed = replace(facts, state=BuildState.FAILED)
    assert "the build is failed" in rerun_error(failed, "a")
    facts = end_run(facts, "a", StageState.ERROR)
    assert rerun_error(facts, "a") == ""
    assert rerun_error(facts, "a", failed_only=True).endswith("run all of it again")


# -- whatever happens ------------------------------------------------------------------------

NAMES = [f"s{number}" for number in range(6)]


@st.composite
def trees(draw: st.DrawFn) -> PipelineConfig:
    count = draw(st.integers(1, 6))
    stages = []
    for number in range(count):
        needs = draw(st.lists(st.sampled_from(NAMES[:number]), unique=True)) if number else []
        gate = draw(st.sampled_from([Gate.NONE, Gate.NONE, Gate.MANUAL]))
        stages.append(Stage(NAMES[number], needs=tuple(needs), gate=gate))
    draw(st.randoms(use_true_random=False)).shuffle(stages)
    some = st.lists(st.sampled_from(NAMES[:count]), min_size=1, unique=True)
    levels = draw(st.lists(some, max_size=3))
    named = (Level(f"l{number}", tuple(each)) for number, each in enumerate(levels))
    return PipelineConfig(None, tuple(stages), tuple(named))


def any_tags(tree: PipelineConfig, random: random.Random) -> list[Tag]:
    """Return tags of unknown runs and by hand; each stage has one valid tag at most."""
    tags = []
    for number, stage in enumerate([*tree.stages, *tree.stages], 1):
        if random.random() < 0.5:
            by_hand = random.random() < 0.3
            tag = make_tag(number, stage, None if by_hand else 77)
            gone = number > len(tree.stages) or random.random() < 0.3
            tags.append(revoke_tag(tag) if gone else tag)
    return tags


def tags_of_runs(
    tree: PipelineConfig, random: random.Random, runs: Iterable[StageRun]
) -> list[Tag]:
    """Return tags as the dispatcher grants them: one for a passed run, one valid at a time."""
    tags = []
    for stage in tree.stages:
        for by_hand in (False, True):
            passed = [r.id for r in runs if (r.stage, r.state) == (stage.name, StageState.PASSED)]
            made = [None] if by_hand else passed
            for run in random.sample(made, random.randint(0, len(made))):
                tags = [revoke_tag(t) if t.stage == stage.name and t.stage_run else t for t in tags]
                tag = make_tag(len(tags) + 1, stage, run)
                tags.append(revoke_tag(tag) if random.random() < 0.3 else tag)
    return tags


def make_tag(number: int, stage: Stage, run: int | None) -> Tag:
    return Tag(number, 1, "d", stage.name, "" if run is None else stage_digest(stage), run)


def revoke_tag(tag: Tag) -> Tag:
    return replace(tag, revoked_at=2.0, serial=tag.id)


@st.composite
def situations(draw: st.DrawFn) -> Facts:
    """Draw rows in any state, including combinations that no history leads to."""
    tree = draw(trees())
    random = draw(st.randoms(use_true_random=False))
    runs = []
    for stage in tree.stages:
        for number in range(1, random.randrange(4)):
            state = random.choice(list(StageState))
            only = ("t",) if random.random() < 0.2 else None
            runs.append(StageRun(len(runs) + 1, 1, stage.name, number, state, selected_tests=only))
    decisions = [
        Decision(1, stage.name, random.choice(list(DecisionKind)), "ann")
        for stage in tree.stages
        if random.random() < 0.3
    ]
    tags = tags_of_runs(tree, random, runs)
    return Facts(BUILT, tree, tuple(runs), tuple(tags), tuple(decisions))


@given(situations())
def test_a_plan_that_was_performed_leaves_nothing_to_do(facts: Facts) -> None:
    settle(facts)


@given(situations(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(facts: Facts, random: random.Random) -> None:
    def shuffle(rows: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(random.sample(rows, len(rows)))

    other = replace(
        facts,
        runs=shuffle(facts.runs),
        tags=shuffle(facts.tags),
        decisions=shuffle(facts.decisions),
    )
    mine, theirs = make_plan(facts), make_plan(other)
    assert set(mine.run_changes) == set(theirs.run_changes)
    assert replace(mine, run_changes=()) == replace(theirs, run_changes=())


@given(situations())
def test_every_stage_ends_or_waits_for_something_that_has_a_name(facts: Facts) -> None:
    facts = settle(facts)
    actors = {each.stage: each.actor for each in facts.decisions}
    for stage in facts.tree.stages:
        run = latest(facts, stage.name)
        if run.state in (StageState.WAITING, StageState.BLOCKED):
            assert any(f"needs {need}, " in run.detail for need in stage.needs)
        elif run.state is StageState.HELD:
            assert actors[stage.name] in run.detail
        elif run.state is StageState.GATED:
            assert "approval" in run.detail
        else:
            assert run.state.is_final or run.state in (StageState.PLACING, StageState.RUNNING)


@given(situations())
def test_something_is_always_on_its_way_or_asks_for_somebody(facts: Facts) -> None:
    """No stage waits in a cycle, or for a stage that has ended without a reason."""
    facts = settle(facts)
    now = {stage.name: latest(facts, stage.name) for stage in facts.tree.stages}
    moving = (StageState.PLACING, StageState.RUNNING, StageState.HELD, StageState.GATED)
    for stage in facts.tree.stages:
        if now[stage.name].state is StageState.WAITING:
            needed = [now[need] for need in stage.needs]
            assert any(
                run.state in moving
                or run.state is StageState.WAITING
                or (run.state is StageState.PASSED and "needs" in now[stage.name].detail)
                for run in needed
            )


@given(trees(), st.randoms(use_true_random=False))
def test_levels_are_monotone_in_tags(tree: PipelineConfig, random: random.Random) -> None:
    tags = any_tags(tree, random)
    some = [tag for tag in tags if random.random() < 0.5]
    order = ["goop", *(each.name for each in tree.levels)]
    assert counting_stages(tree, some) <= counting_stages(tree, tags)
    assert order.index(highest_level(tree, some)) <= order.index(highest_level(tree, tags))


@given(situations(), st.randoms(use_true_random=False))
def test_a_tag_more_never_stops_a_stage(facts: Facts, random: random.Random) -> None:
    facts = settle(facts)
    stage = random.choice(facts.tree.stages).name
    tags = [tag for tag in facts.tags if tag.is_valid and tag.stage_run is None]
    assume(stage not in {tag.stage for tag in tags})
    more = Tag(99, 1, "d", stage, "", actor="ann")
    with_more = settle(replace(facts, tags=(*facts.tags, more)))
    rank = [StageState.BLOCKED, StageState.WAITING, StageState.GATED, StageState.PLACING]
    for each in facts.tree.stages:
        before, now = latest(facts, each.name).state, latest(with_more, each.name).state
        if before in rank:
            assert rank.index(now) >= rank.index(before)
        else:
            assert now is before
    order = ["goop", *(each.name for each in facts.tree.levels)]
    assert order.index(make_plan(with_more).level) >= order.index(make_plan(facts).level)


@given(trees(), st.data())
def test_the_order_in_which_stages_end_does_not_matter(
    tree: PipelineConfig, data: st.DataObject
) -> None:
    fate = {
        stage.name: data.draw(st.sampled_from([StageState.PASSED] * 3 + [StageState.FAILED]))
        for stage in tree.stages
    }
    approved = [Decision(1, stage.name, DecisionKind.APPROVED, "ann") for stage in tree.stages]
    outcomes = set()
    for _ in range(3):
        facts = start(tree, *approved)
        while ready := [run for run in facts.runs if run.state is StageState.PLACING]:
            run = data.draw(st.sampled_from(ready))
            facts = end_run(facts, run.stage, fate[run.stage])
        assert all(run.state.is_final or run.state is StageState.BLOCKED for run in facts.runs)
        outcomes.add((states(facts), make_plan(facts).level))
        assert len(facts.tags) == states(facts).split().count("passed")
    assert len(outcomes) == 1


def test_many_stages_that_need_many_take_no_time() -> None:
    """The plan is fast for 200 stages that each need all before them, and for a chain of 200."""
    names = [f"s{number}" for number in range(200)]
    dense = [Stage(name, needs=tuple(names[:number])) for number, name in enumerate(names)]
    chain = [Stage(name, needs=tuple(names[max(n - 1, 0) : n])) for n, name in enumerate(names)]
    for stages in (dense, chain):
        facts = start(PipelineConfig(None, tuple(stages), ()))
        assert states(facts).split().count("waiting") == 199
        assert states(end_run(facts, "s0", StageState.FAILED)).split().count("blocked") == 199


def test_the_reason_of_a_revocation_names_the_run() -> None:
    facts = rerun(end_run(start(), "a", StageState.PASSED), "a")
    runs = tuple(replace(r, state=StageState.FAILED) if r.number == 2 else r for r in facts.runs)
    assert make_plan(replace(facts, runs=runs)).revocations == (
        TagRevocation(1, "overruled: run 2 of a failed"),
    )


def test_the_verdict_is_the_newest_in_whatever_order_runs_come() -> None:
    runs = [
        StageRun(number, 1, "a", number, state, selected_tests=only)
        for number, state, only in [
            (1, StageState.PASSED, None),
            (2, StageState.FAILED, None),
            (3, StageState.PASSED, ("t",)),
            (4, StageState.CANCELED, None),
        ]
    ]
    for order in (runs, runs[::-1]):
        assert [run.number for run in verdict_runs(order)] == [3, 2]


def test_of_hundreds_of_needs_some_are_named() -> None:
    """A longer detail would be truncated in its row, and so be written again in each pass."""
    names = [f"{'s' * 60}{number}" for number in range(199)]
    first = tuple(Stage(name, gate=Gate.MANUAL) for name in names)
    facts = start(PipelineConfig(None, (*first, Stage("last", needs=tuple(names)))))
    detail = latest(facts, "last").detail
    assert detail.endswith(f"needs {names[4]}, which needs an approval; and 194 more")


# -- histories ------------------------------------------------------------------------

_ENDED = {
    "pass": StageState.PASSED, "fail": StageState.FAILED, "error": StageState.ERROR,
}  # fmt: skip
#: Actions in proportion to how often they happen: mostly, stages run and pass.
_ACTIONS = (
    *("begin", "pass", "fail", "rerun", "rerun failed") * 4,
    *("error", "cancel", "hold", "approve", "approve", "tag", "revoke"),
)


class ExpectedState:
    """A model of the promotion rules by stage, without runs and rows of tags."""

    def __init__(self, tree: PipelineConfig) -> None:
        self.tree = tree
        self.earned: dict[str, bool] = {}
        self.by_hand: set[str] = set()
        self.decided: dict[str, str] = {}

    def record(self, action: str, name: str) -> None:
        """Record an action on a stage."""
        if action in ("pass", "fail", "revoke"):
            self.earned[name] = action == "pass"
        if action in ("hold", "approve"):
            self.decided[name] = action
        if action == "tag":
            self.by_hand.add(name)
        if action == "revoke":
            self.by_hand.discard(name)

    def counting(self) -> set[str]:
        counting = set(self.by_hand)
        for _ in self.tree.stages:
            earned = (stage for stage in self.tree.stages if self.earned.get(stage.name))
            counting |= {stage.name for stage in earned if counting.issuperset(stage.needs)}
        return counting

    def may_run(self, stage: Stage) -> bool:
        decision = self.decided.get(stage.name)
        is_open = stage.gate is Gate.NONE or decision == "approve"
        return decision != "hold" and is_open and self.counting().issuperset(stage.needs)


def _perform_action(facts: Facts, action: str, name: str) -> Facts | None:
    """Return the rows after an action; None if it is not possible now."""
    run = latest(facts, name)
    valid = [tag for tag in facts.tags if tag.is_valid and tag.stage == name]
    if action == "begin" and run.state is StageState.PLACING:
        return _with_state(facts, run, StageState.RUNNING)
    if action in _ENDED and run.state is StageState.RUNNING:
        return _with_state(facts, run, _ENDED[action])
    if action == "cancel" and not run.state.is_final:
        return _with_state(facts, run, StageState.CANCELED)
    if action.startswith("rerun") and not rerun_error(facts, name, action != "rerun"):
        only = ("t",) if action != "rerun" else None
        again = StageRun(len(facts.runs) + 1, 1, name, run.number + 1, selected_tests=only)
        return replace(facts, runs=(*facts.runs, again))
    if action in ("hold", "approve"):
        kind = DecisionKind.HELD if action == "hold" else DecisionKind.APPROVED
        others = (each for each in facts.decisions if each.stage != name)
        return replace(facts, decisions=(*others, Decision(1, name, kind, "ann")))
    if action == "tag" and None not in {tag.stage_run for tag in valid}:
        return replace(facts, tags=(*facts.tags, Tag(len(facts.tags) + 1, 1, "d", name, "")))
    if action == "revoke" and valid:
        return replace(facts, tags=tuple(revoke_tag(t) if t in valid else t for t in facts.tags))
    return None


def _with_state(facts: Facts, run: StageRun, state: StageState) -> Facts:
    moved = (replace(each, state=state) if each is run else each for each in facts.runs)
    return replace(facts, runs=tuple(moved))


@settings(max_examples=20)
@given(trees(), st.randoms(use_true_random=False))
def test_whatever_happens_in_whatever_order_tags_and_levels_are_as_the_model_says(
    tree: PipelineConfig, random: random.Random
) -> None:
    facts, expected = start(tree), ExpectedState(tree)
    names = [stage.name for stage in tree.stages][:3]
    for _ in range(25):
        possibilities = [
            (action, name, _perform_action(facts, action, name))
            for action in _ACTIONS
            for name in names
        ]
        action, name, rows = random.choice([each for each in possibilities if each[2] is not None])
        assert rows is not None
        facts = settle(rows)
        expected.record(action, name)
        assert counting_stages(tree, facts.tags) == expected.counting()
        reached = takewhile(lambda each: expected.counting().issuperset(each.stages), tree.levels)
        assert make_plan(facts).level == ["goop", *(each.name for each in reached)][-1]
        for stage in tree.stages:
            state = latest(facts, stage.name).state
            # A stage that may run is never blocked; one that may not run is never placed.
            assert not state.is_idle or (state is StageState.PLACING) == expected.may_run(stage)
