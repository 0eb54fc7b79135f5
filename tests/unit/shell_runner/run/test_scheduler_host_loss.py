"""Tests that each test ends exactly once, although hosts come and go and tests are moved."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shell_runner.run.commands import Command, GiveUp, Return, Send
from shell_runner.run.requirements import Requirements
from shell_runner.run.scheduler import Scheduler


class World:
    """Hosts that follow the scheduler's commands, with delayed answers."""

    def __init__(self, scheduler: Scheduler, slots: dict[str, int]) -> None:
        self.scheduler = scheduler
        self.slots = slots
        self.there: dict[str, list[int]] = {}
        self.asked: list[tuple[str, tuple[int, ...]]] = []
        self.ended: Counter[int] = Counter()
        self.lost: Counter[int] = Counter()

    def take(self, commands: Iterable[Command]) -> None:
        for command in commands:
            if isinstance(command, Send):
                for test in command.tests:
                    nowhere = all(test not in tests for tests in self.there.values())
                    assert nowhere, "a test is in two places"
                self.there[command.host] += command.tests
            elif isinstance(command, Return):
                assert set(command.tests) <= set(self.there[command.host])
                self.asked.append((command.host, command.tests))
            else:
                self.ended[command.test] += 1

    def running(self, host: str) -> list[int]:
        return self.there[host][: self.slots[host]]

    def ready(self, host: str) -> None:
        self.there[host] = []
        self.take(self.scheduler.add_host(host, self.slots[host], 0.05))

    def done(self, host: str, test: int, seconds: float, rerun: bool = False) -> None:
        self.there[host].remove(test)
        assert self.scheduler.finish_test(host, test, seconds, rerun)
        assert not self.scheduler.finish_test(host, test, seconds), "an answer counts twice"
        self.ended[test] += not rerun
        self.take(self.scheduler.fill(host))

    def answer(self) -> None:
        """Let a host return the requested tests that it has not started."""
        host, tests = self.asked.pop(0)
        if host in self.there:
            back = [test for test in self.there[host][self.slots[host] :] if test in tests]
            self.there[host] = [test for test in self.there[host] if test not in back]
            self.take(self.scheduler.requeue(host, back))

    def lose(self, host: str, can_reopen: bool) -> None:
        lost = self.there.pop(host)
        self.asked = [each for each in self.asked if each[0] != host]
        self.lost.update(lost)
        self.take(self.scheduler.remove_host(host, can_reopen))
        for test in lost:
            assert not self.scheduler.finish_test(host, test, 1.0), "a stale answer counts"
        self.scheduler.requeue(host, lost)


NEEDS = st.sampled_from(
    [Requirements()] * 6
    + [
        Requirements(locks=frozenset(["db"])),
        Requirements(serial=True),
        Requirements(labels=frozenset(["gpu"])),
    ]
)
TESTS = st.lists(
    st.tuples(NEEDS, st.sampled_from([None, 0.0, 0.001, 0.02, 3.0]), st.sampled_from("ab")),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(TESTS, st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(1, 3), st.randoms())
def test_whatever_happens_every_test_ends_once(
    tests: list[tuple[Requirements, float | None, str]],
    slots: list[int],
    max_lost: int,
    chance: random.Random,
) -> None:
    hosts = {f"h{number}": count for number, count in enumerate(slots)}
    scheduler = Scheduler(
        range(len(tests)),
        {number: each[1] for number, each in enumerate(tests) if each[1] is not None},
        max_lost,
        requirements={number: each[0] for number, each in enumerate(tests)},
        hosts={host: ["gpu"] if host == "h0" else [] for host in hosts},
        folders={number: each[2] for number, each in enumerate(tests)},
    )
    world = World(scheduler, hosts)
    away, now, again = set(hosts), 0.0, Counter[int]()
    world.take(scheduler.start())
    for _ in range(20_000):
        if not scheduler.open_tests:
            break
        now += chance.random()
        scheduler.set_time(now)
        busy = sorted(host for host, given in world.there.items() if given)
        event = chance.random()
        if away and (event < 0.1 or not busy):
            host = chance.choice(sorted(away))
            away.discard(host)
            world.ready(host)
        elif event < 0.15 and world.there:
            host = chance.choice(sorted(world.there))
            can_reopen = len(world.there) == 1 or chance.random() < 0.7
            world.lose(host, can_reopen)
            if can_reopen:
                away.add(host)
        elif event < 0.4 and world.asked:
            world.answer()
        elif event < 0.5:
            world.take(scheduler.fill_all())
        elif busy:
            host = chance.choice(busy)
            test = chance.choice(world.running(host))
            again[test] += 1
            retry = again[test] < 2 and chance.random() < 0.1
            world.done(host, test, chance.choice([0.001, 0.5, 9.0]), retry)
        elif scheduler.is_stuck:
            world.take(scheduler.give_up_waiting())
    assert world.ended == Counter(dict.fromkeys(range(len(tests)), 1))
    assert scheduler.open_tests == 0
    assert not any(world.there.values())
    assert all(count <= max_lost for count in world.lost.values())


def test_what_waits_in_a_queue_moves_to_an_idle_host() -> None:
    scheduler = Scheduler(range(10), dict.fromkeys(range(10), 0.001))
    world = World(scheduler, {"a": 1, "b": 2})
    world.ready("a")
    assert len(world.there["a"]) == 10
    world.ready("b")
    assert world.asked == [("a", (8, 9))]
    world.answer()
    assert world.there == {"a": [*range(8)], "b": [8, 9]}
    world.done("b", 8, 0.001)
    assert world.asked == [("a", (7,))]


def test_what_has_been_started_meanwhile_stays() -> None:
    scheduler = Scheduler(range(2), dict.fromkeys(range(2), 0.001))
    world = World(scheduler, {"a": 1, "b": 1})
    world.ready("a")
    world.ready("b")
    world.done("a", 0, 0.001)
    world.answer()
    assert world.there == {"a": [1], "b": []}
    world.done("a", 1, 0.001)
    assert world.ended == {0: 1, 1: 1}


def test_a_host_that_comes_back_has_its_labels_and_the_tests_that_waited_for_it() -> None:
    needs = {0: Requirements(labels=frozenset(["gpu"]))}
    scheduler = Scheduler([0], {}, requirements=needs, hosts={"a": ["gpu"], "b": []})
    world = World(scheduler, {"a": 1, "b": 1})
    world.ready("a")
    world.ready("b")
    world.lose("a", can_reopen=True)
    assert scheduler.is_stuck
    assert not world.ended
    world.ready("a")
    assert world.there["a"] == [0]


def test_a_test_for_labels_that_are_gone_says_whose_they_were() -> None:
    needs = dict.fromkeys((0, 1), Requirements(labels=frozenset(["gpu"])))
    scheduler = Scheduler([0, 1], {}, requirements=needs, hosts={"a": ["gpu"], "b": []})
    scheduler.add_host("a", 1)
    scheduler.add_host("b", 1)
    assert scheduler.remove_host("a", can_reopen=True) == []
    given_up = scheduler.give_up_waiting()
    assert sorted(given_up, key=lambda each: len(each.labels)) == [
        GiveUp(0, ("a",)), GiveUp(1, ("a",), ("gpu",)),
    ]  # fmt: skip


def test_a_test_is_given_up_on_one_host_that_dies_again_and_again() -> None:
    scheduler = Scheduler([0], {})
    for _ in range(2):
        assert scheduler.add_host("a", 1) == [Send("a", (0,))]
        given_up = scheduler.remove_host("a", can_reopen=True)
    assert given_up == [GiveUp(0, ("a", "a"))]


def test_short_tests_that_saw_a_host_die_do_not_meet_again() -> None:
    scheduler = Scheduler(range(6), dict.fromkeys(range(6), 0.001))
    world = World(scheduler, {"a": 2, "b": 2})
    world.ready("a")
    world.lose("a", can_reopen=False)
    world.ready("b")
    assert len(world.there["b"]) == 1
    world.done("b", 0, 0.001)
    assert world.there["b"] == [1]


def test_neighbors_stand_in_for_history() -> None:
    scheduler = Scheduler(range(5), {0: 2.0, 1: 4.0}, folders={0: "x", 1: "x", 2: "x", 3: "y"})
    assert scheduler.estimate(2) == 3.0
    assert scheduler.estimate(3) is None
    scheduler.add_host("a", 9)
    scheduler.finish_test("a", 4, 7.0)
    assert scheduler.estimate(3) == 7.0
    scheduler.finish_test("a", 3, 1.0)
    assert scheduler.estimate(3) == 1.0


def test_speed_is_learned_from_the_history_and_outlives_the_connection() -> None:
    scheduler = Scheduler(range(30), dict.fromkeys(range(30), 1.0))
    scheduler.add_host("a", 30)
    for test in range(20):
        scheduler.finish_test("a", test, 3.0)
    assert 2.8 < scheduler.durations.speed_factor("a") < 3.1
    scheduler.remove_host("a", can_reopen=True)
    scheduler.add_host("a", 30)
    assert scheduler.durations.speed_factor("a") > 2.8
    assert scheduler.durations.speed_factor("b") == 1.0


def makespan(
    seconds: list[float], hosts: dict[str, tuple[int, float]], estimates: dict[int, float]
) -> float:
    """Simulate a run; hosts have slots and a speed factor."""
    scheduler = Scheduler(range(len(seconds)), estimates)
    world = World(scheduler, {host: slots for host, (slots, _) in hosts.items()})
    ends: list[tuple[float, str, int]] = []
    begun: set[int] = set()
    now = 0.0
    for host in hosts:
        world.ready(host)
    while scheduler.open_tests:
        while world.asked:
            world.answer()
        for host, (_, factor) in hosts.items():
            for test in set(world.running(host)) - begun:
                begun.add(test)
                heapq.heappush(ends, (now + seconds[test] * factor, host, test))
        tick = now + 0.1
        if scheduler.is_holding_back and tick < ends[0][0]:
            now = tick
            scheduler.set_time(now)
            world.take(scheduler.fill_all())
            continue
        now, host, test = heapq.heappop(ends)
        scheduler.set_time(now)
        world.done(host, test, seconds[test] * hosts[host][1])
    return now


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.0, 3.0, 5.0])
@pytest.mark.parametrize("slots", [1, 2])
def test_two_hosts_of_different_speed_end_at_the_same_time(factor: float, slots: int) -> None:
    seconds = [0.05 * 60 ** ((number * 37 % 60) / 59) for number in range(60)]
    hosts = {"slow": (slots, factor), "fast": (slots, 1.0)}
    bound = sum(seconds) / (slots + slots / factor)
    took = makespan(seconds, hosts, dict(enumerate(seconds)))
    assert took <= 1.05 * bound, took / bound


def test_a_long_test_that_nobody_expected_holds_nothing_up() -> None:
    seconds = [60.0] + [0.001] * 50
    hosts = {"a": (1, 1.0), "b": (1, 1.0)}
    took = makespan(seconds, hosts, dict.fromkeys(range(51), 0.001))
    assert took == pytest.approx(60.0, abs=0.5)


def test_the_end_of_a_large_run_costs_little() -> None:
    count, hosts = 3000, {f"h{number}": (4, 1.0 + number % 3) for number in range(16)}
    assert makespan([0.01] * count, hosts, dict.fromkeys(range(count), 0.01)) > 0
