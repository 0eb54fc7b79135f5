"""Tests that only progress with tests keeps a host, whatever else it sends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shell_runner.remote.protocol.model import Execution
from shell_runner.run import controller, progress_clock
from shell_runner.run.progress_clock import MAX_WAITING, PROGRESS_GRACE, ProgressClock

from .test_run_controller import HostReady, Hosts

_TIMEOUT = 600.0


@given(st.lists(st.sampled_from(["waiting", "silence"]), min_size=1, max_size=60))
def test_no_words_keep_a_host_for_ever(words: list[str]) -> None:
    clock, now = ProgressClock(0.0), 0.0
    while now <= MAX_WAITING + 2:
        for word in words:
            if word == "waiting":
                clock.note_waiting(now)
            now += 1.0
            if clock.find_exceeded_limit(now, _TIMEOUT) is not None:
                assert now > _TIMEOUT + PROGRESS_GRACE
                return
    pytest.fail("the host was never dropped")


def test_progress_resets_the_clock_and_waiting_extends_it() -> None:
    clock = ProgressClock(0.0)
    limit = _TIMEOUT + PROGRESS_GRACE
    results = []
    for now in range(1, 3000):
        if now == 600:
            clock.note_progress(now)
        if 1000 <= now <= 2000 and now % 30 == 0:
            clock.note_waiting(now)
        results.append(clock.find_exceeded_limit(now, _TIMEOUT))
    first = next(now for now, result in enumerate(results, 1) if result is not None)
    assert first == 1980 + 121
    assert results[first - 1] == limit


def test_artifacts_count_by_their_bytes() -> None:
    limit = _TIMEOUT + PROGRESS_GRACE
    for interval, count, is_dropped in ((80, 1, True), (80, 80 << 10, False), (2, 2 << 20, False)):
        clock, results = ProgressClock(0.0), []
        for now in range(1, 3000):
            if now > limit - 100 and now % interval == 0:
                clock.note_bytes(now, count)
            results.append(clock.find_exceeded_limit(now, _TIMEOUT))
        assert any(results) == is_dropped, (interval, count)


def test_the_time_in_which_this_process_was_stopped_does_not_count() -> None:
    clock = ProgressClock(0.0)
    assert clock.find_exceeded_limit(1.0, _TIMEOUT) is None
    assert clock.find_exceeded_limit(100_000.0, _TIMEOUT) is None
    assert clock.find_exceeded_limit(100_001.0, _TIMEOUT) is None


#: Messages that a host can send without end, by name; ``h`` is the host.
ENDLESS: dict[str, list[Any]] = {
    "waiting": ["waiting", "slots", ""],
    "line": ["line", 0, "x"],
    "line of no test": ["line", 77, "x"],
    "empty artifact": ["artifact", 0, 1, "a", False, b""],
    "small artifact": ["artifact", 0, 1, "a", False, b"x"],
    "foreign result": ["done", list(Execution(1))],
    "wrong attempt": ["done", list(Execution(0, 2))],
    "unknown test": ["done", list(Execution(77))],
    "returned nothing": ["returned", []],
    "returned": ["returned", [0]],
    "running elsewhere": ["running", 1, 1],
    "bye": ["bye"],
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_host_that_only_talks_is_dropped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, a, tick = _start(monkeypatch)
    for _ in range(int(2 * MAX_WAITING / 5)):
        if fleet.controller._is_current(a):
            fleet.say(a, *ENDLESS[name])
        tick()
        if a.dropped:
            break
    assert a.dropped
    assert "no test has started or ended for" in str(fleet.controller.losses[0].error)


def test_a_host_that_makes_progress_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, a, tick = _start(monkeypatch)
    steps = [
        ["running", 0, 1],
        ["artifact", 0, 1, "a", False, b"x" * (1 << 20)],
        ["artifact", 0, 1, "a", True, b"x" * (1 << 20)],
        ["done", list(Execution(0))],
    ]
    for step in steps:
        for _ in range(int(0.9 * (_TIMEOUT + PROGRESS_GRACE) / 5)):
            tick()
        assert not a.dropped
        fleet.say(a, *step)
    assert not a.dropped
    assert not fleet.controller.losses


def _start(monkeypatch: pytest.MonkeyPatch) -> tuple[Hosts, Any, Callable[[], None]]:
    """Return a fleet whose host ``a`` has test 0, that host, and what lets 5 seconds pass."""
    clock = [time.monotonic()]
    monkeypatch.setattr(controller.time, "monotonic", lambda: clock[0])
    fleet = Hosts(2, "a", "b")
    a, b = fleet.hosts
    fleet.controller._handle(HostReady(a, 1, 0.0))
    fleet.controller._handle(HostReady(b, 1, 0.0))

    def tick() -> None:
        clock[0] += 5.0
        fleet.controller._scheduler.set_time(clock[0])
        fleet.controller._drop_hosts_without_progress(clock[0])
        # The other host is not the subject.
        for each in fleet.controller._progress_clocks.keys() - {"a"}:
            fleet.controller._progress_clocks[each].note_progress(clock[0])

    tick()
    assert progress_clock.MAX_WAITING > _TIMEOUT
    return fleet, a, tick
