"""Tests of the scheduler's rules for any hosts, losses and durations."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shell_runner.run.commands import Command, GiveUp, Return, Send
from shell_runner.run.scheduler import Scheduler


class World:
    """Hosts that run the tests that they are sent and report each result to the scheduler."""

    def __init__(self, scheduler: Scheduler, durations: Mapping[int, float]) -> None:
        self.scheduler = scheduler
        self.durations = durations
        self.queues: dict[str, list[int]] = {}
        self.slots: dict[str, int] = {}
        self.ended: Counter[int] = Counter()
        self.given_up: list[GiveUp] = []
        self.sent: list[int] = []

    def take(self, commands: Iterable[Command]) -> None:
        for command in commands:
            if isinstance(command, Send):
                assert command.host in self.queues, "a test is sent to a host that is not there"
                assert command.tests
                self.queues[command.host] += command.tests
                self.sent += command.tests
            elif not isinstance(command, Return):  # these hosts have started all
                assert isinstance(command, GiveUp)
                self.ended[command.test] += 1
                self.given_up.append(command)

    def join(self, host: str, slots: int) -> None:
        self.queues[host], self.slots[host] = [], slots
        self.take(self.scheduler.add_host(host, slots))

    def finish(self, host: str, place: int) -> None:
        test = self.queues[host].pop(place)
        assert self.scheduler.finish_test(host, test, self.durations[test])
        self.ended[test] += 1
        self.take(self.scheduler.fill(host))

    def lose(self, host: str) -> list[int]:
        lost = self.queues.pop(host)
        self.take(self.scheduler.remove_host(host))
        return lost


DURATIONS = st.lists(st.floats(0.0, 10.0), max_size=60)
HOSTS = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def make(
    durations: list[float], known: Iterable[int] | None = None, max_lost: int = 2
) -> tuple[Scheduler, World]:
    tests = range(len(durations))
    estimates = {test: durations[test] for test in (tests if known is None else known)}
    scheduler = Scheduler(tests, estimates, max_lost)
    return scheduler, World(scheduler, dict(enumerate(durations)))


@given(DURATIONS, HOSTS, st.integers(1, 3), st.sets(st.integers(0, 59)), st.randoms())
def test_every_test_ends_exactly_once(
    durations: list[float],
    slots: list[int],
    max_lost: int,
    known: set[int],
    chance: random.Random,
) -> None:
    known = {number for number in known if number < len(durations)}
    scheduler, world = make(durations, known, max_lost)
    absent = {f"h{number}": count for number, count in enumerate(slots)}
    while scheduler.open_tests:
        busy = [host for host, queue in world.queues.items() if queue]
        if absent and (not world.queues or chance.random() < 0.2):
            host, count = absent.popitem()
            world.join(host, count)
        elif world.queues and chance.random() < 0.1:
            host = chance.choice(sorted(world.queues))
            for test in world.lose(host):
                assert not scheduler.finish_test(host, test, 1.0), "a stale answer counts"
        elif busy:
            host = chance.choice(sorted(busy))
            running = min(world.slots[host], len(world.queues[host]))
            world.finish(host, chance.randrange(running))
        elif not world.queues and not absent:
            world.take(scheduler.give_up_waiting())
        else:
            assert absent, "hosts are there, tests are open, and nobody has work"
            world.join(*absent.popitem())
    assert world.ended == Counter(range(len(durations)))
    assert scheduler.open_tests == 0
    for command in world.given_up:
        assert len(command.hosts) <= max_lost


@given(DURATIONS)
def test_longest_first(durations: list[float]) -> None:
    _, world = make(durations)
    world.join("h", 1)
    while world.queues["h"]:
        world.finish("h", 0)
    assert [durations[test] for test in world.sent] == sorted(durations, reverse=True)


@given(st.lists(st.floats(0.0, 10.0), min_size=3, max_size=20))
def test_those_that_must_be_first_are(durations: list[float]) -> None:
    world = World(
        Scheduler(range(len(durations)), dict(enumerate(durations)), first={1, 2}),
        dict(enumerate(durations)),
    )
    world.join("h", 1)
    while world.queues["h"]:
        world.finish("h", 0)
    assert set(world.sent[:2]) == {1, 2}


@given(st.integers(0, 30))
def test_without_history_the_order_is_that_of_collection(count: int) -> None:
    _, world = make([1.0] * count, known=())
    world.join("h", 1)
    while world.queues["h"]:
        world.finish("h", 0)
    assert world.sent == list(range(count))


def test_unknown_tests_go_first() -> None:
    _, world = make([5.0, 1.0, 3.0], known=(0, 1))
    world.join("h", 3)
    assert world.sent == [2, 0, 1]


@given(st.lists(st.floats(0.5, 10.0), min_size=1, max_size=60), HOSTS)
def test_makespan_keeps_the_bound_of_list_scheduling(
    durations: list[float], slots: list[int]
) -> None:
    """No slot idles while a test waits: at most Graham's sum / m + longest."""
    scheduler, world = make(durations)
    for number, count in enumerate(slots):
        world.join(f"h{number}", count)
    clock, ends = 0.0, dict[int, float]()
    while scheduler.open_tests:
        for host, queue in world.queues.items():
            assert len(queue) <= world.slots[host], "a long test waits behind another"
            for test in queue:
                ends.setdefault(test, clock + durations[test])
        host, test = min(
            ((host, test) for host, queue in world.queues.items() for test in queue),
            key=lambda pair: ends[pair[1]],
        )
        clock = ends[test]
        world.finish(host, world.queues[host].index(test))
    assert clock <= sum(durations) / sum(slots) + max(durations) + 1e-6


@given(st.floats(0.0, 0.001), st.integers(1, 8))
def test_prefetch_of_tiny_tests_is_bounded(seconds: float, slots: int) -> None:
    _, world = make([seconds] * 1000)
    world.join("h", slots)
    assert slots < len(world.sent) <= slots * 33


def test_prefetch_grows_with_the_latency() -> None:
    sent = []
    for latency in (0.0, 0.5):
        scheduler, _ = make([0.1] * 100)
        (command,) = scheduler.add_host("h", 1, latency)
        assert isinstance(command, Send)
        sent.append(len(command.tests))
    assert sent == [1, 6]


def test_a_test_that_has_seen_too_many_hosts_die_is_given_up() -> None:
    scheduler, world = make([1.0], max_lost=2)
    for host in ("a", "b", "c"):
        world.join(host, 1)
    world.lose("a")
    world.lose("b")
    assert world.given_up == [GiveUp(0, ("a", "b"))]
    assert scheduler.open_tests == 0


def test_tests_of_a_lost_host_go_to_others_in_order() -> None:
    _, world = make([4.0, 3.0, 2.0, 1.0])
    world.join("a", 2)
    world.join("b", 1)
    assert world.queues == {"a": [0, 1], "b": [2]}
    world.lose("a")
    world.finish("b", 0)
    assert world.queues["b"] == [0]


def test_with_nobody_left_all_open_tests_are_given_up_in_order() -> None:
    scheduler, world = make([3.0, 2.0, 1.0])
    world.join("a", 1)
    world.lose("a")
    world.take(scheduler.give_up_waiting())
    assert world.given_up == [GiveUp(0, ("a",)), GiveUp(1, ()), GiveUp(2, ())]


@pytest.mark.parametrize("host", ["h", "stranger"])
def test_answers_that_nobody_waits_for_are_told_apart(host: str) -> None:
    scheduler, world = make([1.0, 1.0])
    world.join("h", 1)
    assert not scheduler.finish_test(host, 1, 1.0)
    assert scheduler.open_tests == 2


def test_the_mean_of_this_run_stands_in_for_history() -> None:
    scheduler, world = make([2.0, 4.0, 9.0], known=())
    assert scheduler.estimate(2) is None
    world.join("h", 2)
    world.finish("h", 0)
    world.finish("h", 0)
    assert scheduler.estimate(2) == 3.0
