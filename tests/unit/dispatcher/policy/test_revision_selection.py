"""Tests of change detection, from old and new heads of branches to changes to build."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.configuration.settings import Source
from dispatcher.model import Build, BuildState, Change
from dispatcher.policy.revision_selection import (
    Commit,
    Move,
    Moves,
    changes_to_build,
    compare_heads,
    superseded_builds,
)

GIT = Source("app", git="/x", branches=("main", "release/*"))
EVERY = replace(GIT, bursts="every")
PATHS = replace(GIT, paths=("src/**",))
MOVE = Move("main", "a", "d")
COMMITS = [
    Commit("b", "ann", "one", ("src/x.c",)),
    Commit("c", "bob", "two", ("README",)),
    Commit("d", "cyd", "three", ("docs/x", "src/y.c")),
]


def revisions(changes: tuple[Change, ...]) -> list[tuple[str, str]]:
    return [(change.previous_revision, change.revision) for change in changes]


def test_the_first_poll_builds_heads_not_history() -> None:
    comparison = compare_heads(GIT, {}, {"release/1": "r", "main": "d", "feature": "f"})
    assert comparison.moved == (Move("main", "", "d"), Move("release/1", "", "r"))
    for source in (GIT, EVERY, PATHS):
        assert revisions(changes_to_build(source, 1, comparison.moved[0], COMMITS)) == [("", "d")]


def test_only_branches_that_moved() -> None:
    before = {"main": "a", "release/1": "r"}
    assert compare_heads(GIT, before, {"main": "d", "release/1": "r"}).moved == (MOVE,)
    assert compare_heads(GIT, before, before) == Moves()


def test_a_branch_that_is_gone_or_not_wanted_any_more_is_forgotten() -> None:
    before = {"main": "a", "release/1": "r", "feature": "f"}
    assert compare_heads(GIT, before, {"main": "a", "feature": "f"}).gone == (
        "feature",
        "release/1",
    )


def test_a_source_without_a_matching_branch_has_an_error() -> None:
    assert compare_heads(GIT, {}, {}).error == "the repository is empty: there is no branch yet"
    there = {f"f{number}": "x" for number in range(9)}
    assert compare_heads(GIT, {}, there).error == (
        "no branch matches main, release/*; there are: f0, f1, f2, f3, f4, ... "
        "(see branches in [sources])"
    )


def test_a_directory_has_one_branch_of_any_name() -> None:
    source = Source("drop", directory="/x")
    assert compare_heads(source, {"": "a"}, {"": "b"}).moved == (Move("", "a", "b"),)


def test_the_newest_of_a_burst() -> None:
    assert changes_to_build(GIT, 7, MOVE, COMMITS, seen=3.0) == (
        Change(7, "main", "d", "a", False, "cyd", "three", 3.0),
    )


def test_every_commit_of_a_burst() -> None:
    changes = changes_to_build(EVERY, 1, MOVE, COMMITS)
    assert revisions(changes) == [("a", "b"), ("b", "c"), ("c", "d")]
    assert [change.author for change in changes] == ["ann", "bob", "cyd"]


def test_only_commits_that_touch_the_paths() -> None:
    every = replace(EVERY, paths=("src/**",))
    assert revisions(changes_to_build(every, 1, MOVE, COMMITS)) == [("a", "b"), ("b", "d")]
    assert revisions(changes_to_build(PATHS, 1, MOVE, COMMITS)) == [("a", "d")]
    other = Move("main", "b", "c")
    for source in (every, PATHS):
        assert changes_to_build(source, 1, other, COMMITS[1:2]) == ()
        assert changes_to_build(source, 1, other, [Commit("c", paths=())]) == ()


def test_an_empty_commit_is_a_commit() -> None:
    assert len(changes_to_build(GIT, 1, Move("main", "a", "b"), [Commit("b", paths=())])) == 1


def test_the_newest_is_built_if_any_of_its_burst_touched_the_paths() -> None:
    assert revisions(changes_to_build(PATHS, 1, Move("main", "a", "c"), COMMITS[:2])) == [
        ("a", "c")
    ]


def test_paths_that_are_not_known_may_be_any() -> None:
    assert len(changes_to_build(PATHS, 1, MOVE, [Commit("d")])) == 1
    assert len(changes_to_build(PATHS, 1, MOVE, [])) == 1


@pytest.mark.parametrize("source", [GIT, EVERY, PATHS])
def test_a_force_push_is_one_change_marked_as_forced(source: Source) -> None:
    (change,) = changes_to_build(source, 1, MOVE, COMMITS, forced=True)
    assert (change.previous_revision, change.revision, change.forced) == ("a", "d", True)


def test_a_force_push_back_is_a_change_too() -> None:
    there = changes_to_build(GIT, 1, Move("main", "a", "b"), [Commit("b")])
    back = changes_to_build(GIT, 1, Move("main", "b", "a"), [], forced=True)
    assert revisions((*there, *back)) == [("a", "b"), ("b", "a")]


def builds(*states: BuildState, branch: str = "main") -> list[tuple[Build, Change]]:
    return [
        (Build(10 + number, number, state), Change(1, branch, f"r{number}", id=number))
        for number, state in enumerate(states, 1)
    ]


NEW, BUILDING = BuildState.NEW, BuildState.BUILDING


def test_a_newer_change_comes_first() -> None:
    ours = builds(NEW, BUILDING, NEW, NEW)
    why = "a newer change came first"
    assert superseded_builds(GIT, "main", ours) == ((11, why), (13, why))
    assert superseded_builds(GIT, "main", ours[::-1]) == ((11, why), (13, why))
    assert superseded_builds(GIT, "other", ours) == ()
    assert superseded_builds(EVERY, "main", ours) == ()
    assert superseded_builds(GIT, "main", []) == ()


def test_a_build_that_has_begun_is_not_superseded() -> None:
    begun = [state for state in BuildState if state is not NEW]
    assert superseded_builds(GIT, "main", builds(*begun, NEW)) == ()


def test_a_deleted_branch_supersedes_its_new_builds() -> None:
    ours = builds(BUILDING, NEW)
    assert superseded_builds(GIT, "main", ours, gone=True) == ((12, "its branch was deleted"),)
    assert superseded_builds(EVERY, "main", ours, gone=True) == ()


HEADS = st.dictionaries(st.sampled_from(["main", "release/1", "x"]), st.sampled_from("abc"))


@given(HEADS, HEADS)
def test_comparing_again_finds_nothing(before: dict[str, str], now: dict[str, str]) -> None:
    comparison = compare_heads(GIT, before, now)
    heads = {name: head for name, head in before.items() if name not in comparison.gone}
    heads |= {move.branch: move.revision for move in comparison.moved}
    again = compare_heads(GIT, heads, now)
    assert (again.moved, again.gone) == ((), ())
    assert bool(heads) != bool(comparison.error)


@given(
    st.sampled_from([GIT, EVERY, PATHS, replace(EVERY, paths=("src/**",))]),
    st.lists(st.sampled_from([None, (), ("src/a",), ("b",), ("b", "src/a")]), max_size=6),
    st.booleans(),
)
def test_changes_are_a_chain_to_where_the_branch_stands(
    source: Source, paths: list[tuple[str, ...] | None], forced: bool
) -> None:
    commits = [Commit(f"r{number}", paths=each) for number, each in enumerate(paths)]
    move = Move("main", "a", commits[-1].revision if commits else "z")
    changes = changes_to_build(source, 1, move, commits, forced)
    assert [change.previous_revision for change in changes] == [
        "a",
        *(c.revision for c in changes),
    ][: len(changes)]
    if changes and source.bursts == "newest":
        assert changes[-1].revision == move.revision
    if not source.paths:
        assert changes[-1].revision == move.revision
