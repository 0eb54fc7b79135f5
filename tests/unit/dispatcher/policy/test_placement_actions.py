"""Tests of hosts for the stage runs of all builds, or the reasons why they wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dispatcher.configuration.settings import Pool
from dispatcher.model import Host, HostState, StageEvent, StageRun, StageState
from dispatcher.policy.action_types import (
    MoveRun,
    NotifyPoolShortage,
    PlanJobs,
    PlannedPart,
    RequestHosts,
    RunKey,
    SetRunDetail,
)
from dispatcher.policy.action_types import TestsToSplit as Split
from dispatcher.policy.placement import HostLoad, PlacementRequest, Unplaced
from dispatcher.policy.placement_actions import free_places, may_begin, place_runs, split_tests

NOW = 1000.0
KEY = RunKey(1, "unit", 1)
NO_HOST = "needs 1 host; none matches; h1 is down"


def load(name: str, jobs: int = 0, state: HostState = HostState.UP) -> HostLoad:
    return HostLoad(Host(name, "popen", state=state), jobs)


def request(
    state: StageState = StageState.PLACING, reason: str = "", id: int = 1, **more: Any
) -> RequestHosts:
    run = StageRun(id, 1, "unit", state=state, **more)
    placement = PlacementRequest(id, "unit of build 1")
    return RequestHosts(run, placement, (PlannedPart(0),), reason=reason)


@pytest.mark.parametrize(
    ("requested", "detail", "began"),
    [
        (request(detail=NO_HOST), "", NOW),
        (request(started_at=5.0), "", 5.0),
        (request(StageState.RUNNING, "running again: h1 was lost"),
         "running again: h1 was lost", None),
    ],
)  # fmt: skip
def test_a_run_with_hosts_gets_its_jobs_and_loses_the_reason_why_it_waited(
    requested: RequestHosts, detail: str, began: float | None
) -> None:
    actions = place_runs([requested], [load("h1")], 2, (), NOW)
    assert actions == [PlanJobs(requested, ("h1",), detail, began)]


@pytest.mark.parametrize(
    ("requested", "action"),
    [
        (request(), MoveRun(KEY, StageEvent.READY, NO_HOST)),
        (request(detail=NO_HOST), None),
        (request(StageState.RUNNING, "lost"), SetRunDetail(KEY, f"lost; waiting: {NO_HOST}")),
        (request(StageState.RUNNING, "lost", detail=f"lost; waiting: {NO_HOST}"), None),
    ],
)
def test_a_run_without_hosts_says_why_it_waits_and_is_written_once(
    requested: RequestHosts, action: MoveRun | SetRunDetail | None
) -> None:
    shortage = NotifyPoolShortage(Unplaced(1, NO_HOST, 1))
    actions = place_runs([requested], [load("h1", state=HostState.DOWN)], 2, (), NOW)
    assert actions == [shortage, *([action] if action else [])]


def test_pools_that_cannot_help_are_part_of_the_reason() -> None:
    labeled = PlacementRequest(1, "unit of build 1", ("gpu",))
    wanted = RequestHosts(request().run, labeled)
    down = HostLoad(Host("h1", "popen", ("gpu",), state=HostState.DOWN))
    _, move = place_runs([wanted], [down], 2, [Pool("any")], NOW)
    assert isinstance(move, MoveRun)
    assert move.detail == (
        "needs 1 host with label gpu; none matches; h1 is down; pool any has no label gpu"
    )


def test_a_run_that_can_never_be_placed_takes_nothing_from_the_others() -> None:
    pool = Pool("p", labels=("gpu",), max_hosts=2)
    too_many = RequestHosts(request(id=1).run, PlacementRequest(1, "a", ("gpu",), 3))
    labeled = RequestHosts(request(id=2).run, PlacementRequest(2, "b", ("gpu",)))
    starting = HostLoad(
        Host("p1", "popen", ("gpu",), pool="p", state=HostState.STARTING, reason="is brought up")
    )
    never, shortage, waits = place_runs([too_many, labeled], [starting], 2, [pool], NOW)
    assert isinstance(never, MoveRun)
    assert isinstance(waits, MoveRun)
    assert never.detail == (
        "can never be placed: needs 3 hosts with label gpu, and there are 2; the dispatcher has "
        "pool p (label gpu, at most 2 hosts); add hosts or labels to dispatcher.toml and restart "
        "the dispatcher, or change [stages.unit] in nosejobs.toml"
    )
    # The host that is starting is for the one that can be placed, so that no other is brought up.
    assert isinstance(shortage, NotifyPoolShortage)
    assert (shortage.unplaced.request, shortage.unplaced.missing) == (2, 0)
    assert waits.detail.startswith("needs 1 host with label gpu; none matches; p1 is starting")
    # The reason is written once.
    again = replace(too_many, run=replace(too_many.run, detail=never.detail))
    assert place_runs([again], [starting], 2, [pool], NOW) == []


def test_older_requests_come_first() -> None:
    actions = place_runs([request(id=1), request(id=2)], [load("h1")], 1, (), NOW)
    assert [type(each) for each in actions] == [PlanJobs, NotifyPoolShortage, MoveRun]


def test_only_hosts_that_are_up_have_free_places() -> None:
    loads = [load("h1"), load("h2", 1), load("h3", 5), load("h4", state=HostState.DOWN)]
    assert free_places(loads, 2) == 3


@pytest.mark.parametrize(
    ("every_change", "places", "is_idle", "expected"),
    [
        (False, 1, False, True),
        (False, 0, False, False),
        (False, -1, True, True),
        (True, -5, False, True),
    ],
)
def test_a_new_build_waits_for_a_place_unless_all_changes_are_built(
    every_change: bool, places: int, is_idle: bool, expected: bool
) -> None:
    assert may_begin(every_change, places, is_idle) is expected


def test_shards_are_parts() -> None:
    split = Split(7, "unit", ("a", "b", "c"))
    assert split_tests(split, {"a": 9.0, "b": 1.0, "c": 1.0}, 2) == (
        PlannedPart(0, tests=("a",)),
        PlannedPart(1, tests=("b", "c")),
    )
