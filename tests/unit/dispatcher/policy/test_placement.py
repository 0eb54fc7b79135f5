"""Tests of placement: the hosts of a stage, the reason to wait, and the shards of its tests."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.configuration.pipeline import Mode, build_as_stage, parse
from dispatcher.model import Host, HostState
from dispatcher.policy.placement import (
    HostLoad,
    Placed,
    PlacementRequest,
    Unplaced,
    make_request,
    place,
    split_into_shards,
)

GPU = ("linux", "gpu")


def at(
    name: str,
    labels: tuple[str, ...] = (),
    state: HostState = HostState.UP,
    jobs: int = 0,
    reason: str = "",
    cached: tuple[str, ...] = (),
) -> HostLoad:
    return HostLoad(
        Host(name, "ssh=x", labels, state=state, reason=reason), jobs, frozenset(cached)
    )


def placed(request: PlacementRequest, *loads: HostLoad, depth: int = 2) -> Placed | Unplaced:
    (answer,) = place([request], loads, depth)
    return answer


def hosts(request: PlacementRequest, *loads: HostLoad) -> tuple[str, ...]:
    answer = placed(request, *loads)
    assert isinstance(answer, Placed), answer
    return answer.hosts


def reason_of(request: PlacementRequest, *loads: HostLoad) -> str:
    answer = placed(request, *loads)
    assert isinstance(answer, Unplaced), answer
    return answer.reason


def test_a_request_that_waits_says_for_what() -> None:
    request = PlacementRequest(1, "smoke of build 7", GPU, 2)
    down = at("h2", GPU, HostState.QUARANTINED, reason="3 infrastructure failures in a row")
    others = [at("h3", ("linux",)), at("h4", GPU, jobs=2), at("h5"), at("h6", GPU, HostState.DOWN)]
    assert reason_of(request, at("h1", GPU), down, *others) == (
        "needs 2 hosts with labels linux, gpu; 2 match: h1, h4; "
        "h2 is quarantined (3 infrastructure failures in a row); h4 has 2 jobs; h6 is down; "
        "h3 has no label gpu; h5 has no labels linux, gpu"
    )
    assert reason_of(request, at("h1", GPU), down).startswith(
        "needs 2 hosts with labels linux, gpu; 1 matches: h1; h2 is quarantined"
    )
    assert reason_of(PlacementRequest(1, "a")) == "needs 1 host; none matches"
    assert reason_of(PlacementRequest(1, "a", ("x",)), *(at(f"h{n}") for n in range(20))).endswith(
        "; and 12 more"
    )


@pytest.mark.parametrize("state", [state for state in HostState if state is not HostState.UP])
def test_only_a_host_that_is_up_is_taken(state: HostState) -> None:
    assert f"h1 is {state}" in reason_of(PlacementRequest(1, "a"), at("h1", state=state))


def test_the_least_busy_host_first_then_what_it_has_cached() -> None:
    request = PlacementRequest(1, "a", contents=frozenset(["build", "tests"]))
    assert hosts(request, at("h1", jobs=1, cached=("build", "tests")), at("h2")) == ("h2",)
    assert hosts(request, at("h1"), at("h2", cached=("build",))) == ("h2",)
    assert hosts(request, at("h1", cached=("other",)), at("h2")) == ("h1",)


def test_a_host_that_was_lost_before_comes_last() -> None:
    request = PlacementRequest(1, "a", avoid=frozenset(["h1"]))
    assert hosts(request, at("h1"), at("h2", jobs=1)) == ("h2",)
    assert hosts(request, at("h1")) == ("h1",)


def test_parts_are_on_different_hosts() -> None:
    assert hosts(PlacementRequest(1, "a", count=2), at("h1"), at("h2", jobs=1)) == ("h1", "h2")
    assert "h1 has another part of it" in reason_of(
        PlacementRequest(1, "a", taken=frozenset(["h1"])), at("h1")
    )


def test_jobs_that_were_given_in_the_same_pass_count() -> None:
    loads = [at("h1"), at("h2")]
    answers = place([PlacementRequest(number, "a") for number in range(5)], loads, 2)
    assert [each.hosts[0] for each in answers if isinstance(each, Placed)] == [
        "h1", "h2", "h1", "h2",
    ]  # fmt: skip
    assert isinstance(answers[4], Unplaced)


def test_together_requires_idle_hosts() -> None:
    request = PlacementRequest(1, "a", count=2, mode=Mode.TOGETHER)
    assert "h2 has 1 job" in reason_of(request, at("h1"), at("h2", jobs=1))
    assert hosts(request, at("h1"), at("h2")) == ("h1", "h2")


def test_two_stages_that_work_together_get_all_or_nothing_in_order() -> None:
    requests = [PlacementRequest(n, f"stage {n}", count=2, mode=Mode.TOGETHER) for n in (1, 2)]
    first, second = place(requests, [at("h1"), at("h2"), at("h3")], 2)
    assert first == Placed(1, ("h1", "h2"))
    assert isinstance(second, Unplaced)
    assert "h1 has 1 job" in second.reason


def test_younger_stages_do_not_overtake_for_ever() -> None:
    together = PlacementRequest(1, "resilience of build 7", count=2, mode=Mode.TOGETHER)
    loads = [at("h1"), at("h2", jobs=1), at("h3", jobs=1)]
    _, later = place([together, PlacementRequest(2, "unit of build 8")], loads, 2)
    assert later == Placed(2, ("h3",))
    _, later = place([together, PlacementRequest(2, "unit of build 8")], loads[:2], 2)
    assert isinstance(later, Unplaced)
    assert "h1 is reserved for resilience of build 7" in later.reason


def test_hosts_are_reserved_for_the_oldest_only() -> None:
    requests = [PlacementRequest(n, f"stage {n}", count=2, mode=Mode.TOGETHER) for n in (1, 2)]
    answers = place([*requests, PlacementRequest(3, "c")], [at("h1", jobs=1), at("h2", jobs=1)], 2)
    assert isinstance(answers[2], Unplaced)
    assert answers[2].reason.count("is reserved for stage 1") == 2


def test_nothing_is_reserved_for_an_impossible_request() -> None:
    together = PlacementRequest(1, "a", count=3, mode=Mode.TOGETHER)
    _, later = place([together, PlacementRequest(2, "b")], [at("h1"), at("h2")], 2)
    assert isinstance(later, Placed)


def test_a_pool_learns_how_many_hosts_are_missing() -> None:
    starting = at("p1", GPU, HostState.STARTING)
    requests = [
        PlacementRequest(1, "a", GPU),
        PlacementRequest(2, "b", GPU, 2),
        PlacementRequest(3, "c"),
    ]
    answers = place(requests, [starting], 2)
    assert [each.missing for each in answers if isinstance(each, Unplaced)] == [0, 2, 1]
    assert "p1 is starting" in answers[0].reason  # type: ignore[union-attr]
    busy = placed(PlacementRequest(1, "a"), at("h1", jobs=2))
    assert isinstance(busy, Unplaced)
    assert busy.missing == 1


def test_a_request_has_the_needs_of_its_stage() -> None:
    tree = parse(
        "[build]\ncommand='x'\noutput='y'\nlabels=['arm']\n"
        "[stages.a]\nlabels=['gpu']\nhosts=2\nmode='together'\n"
    )
    assert tree.build is not None
    assert make_request(build_as_stage(tree.build), 1, "build 7", ["d"]) == PlacementRequest(
        1, "build 7", ("arm",), contents=frozenset(["d"])
    )
    request = make_request(tree.stages[0], 2, "a of build 7")
    assert request == PlacementRequest(2, "a of build 7", ("gpu",), 2, Mode.TOGETHER)


LABELS = st.lists(st.sampled_from(["linux", "gpu", "arm"]), unique=True).map(tuple)


@st.composite
def host_loads(draw: st.DrawFn) -> list[HostLoad]:
    loads = []
    for number in range(draw(st.integers(0, 6))):
        state = draw(st.sampled_from([*HostState, HostState.UP, HostState.UP, HostState.UP]))
        loads.append(at(f"h{number}", draw(LABELS), state, draw(st.integers(0, 3))))
    return loads


@st.composite
def placement_requests(draw: st.DrawFn) -> list[PlacementRequest]:
    requests = []
    for number in range(draw(st.integers(1, 8))):
        mode = draw(st.sampled_from(list(Mode)))
        count = draw(st.integers(2 if mode is Mode.TOGETHER else 1, 4))
        taken = draw(st.frozensets(st.sampled_from(["h0", "h1"]), max_size=1))
        requests.append(
            PlacementRequest(number, f"w{number}", draw(LABELS), count, mode, taken=taken)
        )
    return requests


@given(placement_requests(), host_loads(), st.integers(1, 3))
def test_no_host_has_too_much_and_no_label_is_ignored(
    requests: list[PlacementRequest], loads: list[HostLoad], depth: int
) -> None:
    known = {each.host.name: each for each in loads}
    jobs = Counter({name: each.jobs for name, each in known.items()})
    for request, answer in zip(requests, place(requests, loads, depth), strict=True):
        assert answer.request == request.id
        if isinstance(answer, Unplaced):
            assert answer.reason
            assert 0 <= answer.missing <= request.count
            continue
        assert len(set(answer.hosts)) == request.count
        for name in answer.hosts:
            assert set(request.labels) <= set(known[name].host.labels)
            assert known[name].host.state is HostState.UP
            assert name not in request.taken
            assert jobs[name] < (1 if request.mode is Mode.TOGETHER else depth)
        jobs.update(answer.hosts)


@given(placement_requests(), host_loads(), st.randoms(use_true_random=False))
def test_the_order_of_hosts_does_not_matter(
    requests: list[PlacementRequest], loads: list[HostLoad], random: random.Random
) -> None:
    others = random.sample(loads, len(loads))
    assert place(requests, others, 2) == place(requests, loads, 2)


@given(placement_requests(), host_loads(), st.integers(1, 3))
def test_whatever_can_be_placed_is_placed_in_the_end(
    requests: list[PlacementRequest], loads: list[HostLoad], depth: int
) -> None:
    """Jobs end one after the other; only a request for hosts that do not exist waits forever."""
    loads = [replace(each, jobs=0) for each in loads]
    waiting = list(requests)
    for _ in range(len(requests)):
        answers = place(waiting, loads, depth)
        waiting = [
            request
            for request, each in zip(waiting, answers, strict=True)
            if isinstance(each, Unplaced)
        ]
    for request in waiting:
        fits = [
            each
            for each in loads
            if each.host.state is HostState.UP
            and set(request.labels) <= set(each.host.labels)
            and each.host.name not in request.taken
        ]
        assert len(fits) < request.count


SECONDS = st.floats(0, 1000, allow_nan=False)
HISTORIES = st.dictionaries(st.integers(0, 200).map("t{}".format), SECONDS, max_size=40)


@given(HISTORIES, st.integers(1, 6))
def test_shards_are_a_partition_that_ends_at_about_the_same_time(
    history: dict[str, float], count: int
) -> None:
    parts = split_into_shards(history, history, count)
    assert sorted(test for shard in parts for test in shard) == sorted(history)
    assert all(parts)
    assert len(parts) == min(count, len(history))
    if parts:
        bound = sum(history.values()) / len(parts)
        longest = max(history.values())
        assert max(sum(history[test] for test in shard) for shard in parts) <= (
            bound + longest + 1e-6
        )


@given(HISTORIES, st.integers(1, 6), st.randoms(use_true_random=False))
def test_the_same_tests_make_the_same_shards(
    history: dict[str, float], count: int, random: random.Random
) -> None:
    tests = random.sample(list(history), len(history))
    assert split_into_shards(tests, history, count) == split_into_shards(history, history, count)


def test_longest_first_and_the_mean_for_what_is_unknown() -> None:
    history = {"a": 8.0, "b": 1.0, "c": 3.0}
    assert split_into_shards("abcx", history, 2) == (("a",), ("x", "c", "b"))
    assert split_into_shards("abc", {}, 2) == (("a", "c"), ("b",))
    assert split_into_shards("ab", {"a": float("nan"), "b": -1.0}, 1) == (("a", "b"),)
    assert split_into_shards([], {}, 3) == ()
    assert split_into_shards("aab", {}, 3) == (("a",), ("b",))


def test_tests_that_take_no_time_are_split_too() -> None:
    parts = split_into_shards("abcdef", dict.fromkeys("abcdef", 0.0), 3)
    assert [len(shard) for shard in parts] == [2, 2, 2]
