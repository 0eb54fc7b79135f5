"""Tests that the rules of locks, serial tests and labels hold in every sequence of events."""

from __future__ import annotations

import time
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from shell_runner.run.commands import Command, GiveUp, RequirementUnmet, Return, Send
from shell_runner.run.requirements import Requirements
from shell_runner.run.scheduler import Scheduler

LABELS = ["docker", "gpu", "net"]


def few(words: list[str]) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(words), max_size=2)


NEEDS = st.builds(
    Requirements,
    locks=few(["db", "port", "disk"]),
    host_locks=few(["gpu0", "mount"]),
    serial=st.sampled_from([False, False, False, True]),
    labels=st.one_of(st.just(frozenset()), few(LABELS)),
)


class World:
    """Hosts that follow the scheduler's commands, and check each against the rules."""

    def __init__(
        self, scheduler: Scheduler, needs: dict[int, Requirements], labels: dict[str, set[str]]
    ):
        self.scheduler = scheduler
        self.needs = needs
        self.labels = labels
        self.there: dict[str, list[int]] = {}
        self.lost_while_ready: set[str] = set()
        self.expected = set(labels)
        self.ended: Counter[int] = Counter()

    def take(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Send):
                self._sent(command)
            elif not isinstance(command, Return):
                self.ended[command.test] += 1
                self._given_up(command)

    def _sent(self, command: Send) -> None:
        assert command.tests
        for test in command.tests:
            needs = self.needs.get(test, Requirements())
            assert needs.labels <= self.labels[command.host], "a host without the label"
            for host, tests in self.there.items():
                for other in tests:
                    theirs = self.needs.get(other, Requirements())
                    assert not needs.locks & theirs.locks, "two tests hold one lock"
                    if host == command.host:
                        assert not needs.host_locks & theirs.host_locks, "two hold a host's lock"
                        serial = needs.serial or theirs.serial
                        assert not serial, "a serial test is not alone"
            self.there[command.host].append(test)

    def _given_up(self, command: GiveUp | RequirementUnmet) -> None:
        wanted = self.needs.get(command.test, Requirements()).labels
        if isinstance(command, RequirementUnmet):
            assert set(command.missing) <= wanted
            assert command.missing
            assert not any(wanted <= self.labels[host] for host in self.expected)
            assert not any(wanted <= self.labels[host] for host in self.lost_while_ready)
        elif command.labels:
            assert set(command.labels) == wanted
            assert set(command.hosts) <= self.lost_while_ready


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(NEEDS, st.sampled_from([None, 0.001, 0.1, 3.0])), max_size=25),
    st.lists(st.tuples(few(LABELS), st.integers(1, 4)), min_size=1, max_size=4),
    st.data(),
)
def test_rules_hold_and_every_test_ends_once(tests, hosts, data):
    needs = {number: each for number, (each, _) in enumerate(tests)}
    estimates = {number: took for number, (_, took) in enumerate(tests) if took is not None}
    labels = {f"h{number}": set(each) for number, (each, _) in enumerate(hosts)}
    slots = {f"h{number}": count for number, (_, count) in enumerate(hosts)}
    scheduler = Scheduler(needs, estimates, 2, requirements=needs, hosts=labels)
    world = World(scheduler, needs, labels)
    retries = dict.fromkeys(needs, 1)
    world.take(scheduler.start())
    to_come = list(labels)
    while scheduler.open_tests:
        busy = [host for host, given in world.there.items() if given]
        choices = ["ready"] * bool(to_come) + ["done"] * 4 * bool(busy)
        assert choices or not world.expected, "deadlock: nothing runs and nobody will come"
        if len(world.expected) > 1 or not choices or data.draw(st.integers(0, 20)) == 0:
            choices.append("lose")
        event = data.draw(st.sampled_from(choices))
        if event == "ready":
            host = to_come.pop(0)
            world.there[host] = []
            world.take(scheduler.add_host(host, slots[host]))
        elif event == "done":
            host = data.draw(st.sampled_from(busy))
            test = data.draw(st.sampled_from(world.there[host]))
            rerun = retries[test] > 0 and data.draw(st.booleans())
            world.there[host].remove(test)
            retries[test] -= rerun
            assert scheduler.finish_test(host, test, 0.5, rerun)
            world.ended[test] += not rerun
            world.take(scheduler.fill(host))
        else:
            host = data.draw(st.sampled_from(sorted(world.expected)))
            world.expected.discard(host)
            if host in to_come:
                to_come.remove(host)
            else:
                world.lost_while_ready.add(host)
            world.there.pop(host, None)
            world.take(scheduler.remove_host(host))
            if not world.expected:
                world.take(scheduler.give_up_waiting())
                break
    assert world.ended == Counter(dict.fromkeys(needs, 1))
    assert scheduler.open_tests == 0
    assert not any(world.there.values())


def sent(commands: list[Command]) -> list[int]:
    return [test for each in commands if isinstance(each, Send) for test in each.tests]


def test_an_idle_host_takes_serial_tests_first_and_nothing_beside_them():
    scheduler = Scheduler(
        range(4), {0: 9.0, 1: 9.0, 2: 1.0, 3: 9.0}, requirements={2: Requirements(serial=True)}
    )
    assert sent(scheduler.add_host("a", 2)) == [2]
    assert scheduler.fill("a") == []
    scheduler.finish_test("a", 2, 1.0)
    assert sent(scheduler.fill("a")) == [0, 1]


def test_a_host_drains_when_only_serial_tests_are_left():
    lock = frozenset(["db"])
    needs = {0: Requirements(lock), 1: Requirements(lock, serial=True)}
    scheduler = Scheduler(range(3), {0: 9.0, 1: 1.0, 2: 5.0}, requirements=needs)
    assert sent(scheduler.add_host("a", 2)) == [1]
    scheduler.finish_test("a", 1, 1.0, rerun=True)
    assert sent(scheduler.fill("a")) == [1]  # idle again, so the serial one again
    scheduler.finish_test("a", 1, 1.0)
    assert sent(scheduler.fill("a")) == [0, 2]


def test_a_serial_test_waits_for_the_last_test_of_its_host():
    needs = {0: Requirements(frozenset(["db"])), 1: Requirements(frozenset(["db"]), serial=True)}
    scheduler = Scheduler(range(3), {0: 9.0}, requirements=needs, hosts={"a": [], "b": []})
    assert sent(scheduler.add_host("a", 1)) == [1]
    assert sent(scheduler.add_host("b", 1)) == [2]
    scheduler.finish_test("a", 1, 1.0, rerun=True)
    scheduler.finish_test("b", 2, 1.0)
    assert scheduler.fill("b") == [Send("b", (1,))]  # whoever is idle first
    scheduler.finish_test("b", 1, 1.0)
    assert scheduler.fill("b") == [Send("b", (0,))]


def test_a_chain_of_one_lock_starts_before_longer_tests():
    needs = dict.fromkeys([1, 2, 3], Requirements(frozenset(["db"])))
    scheduler = Scheduler(range(4), {0: 5.0, 1: 3.0, 2: 2.0, 3: 1.0}, requirements=needs)
    assert sent(scheduler.add_host("a", 1)) == [1]


def test_tests_with_a_lock_are_not_sent_ahead():
    needs = {number: Requirements(host_locks=frozenset([f"lock{number}"])) for number in range(40)}
    estimates = dict.fromkeys(range(80), 0.0001)
    scheduler = Scheduler(range(40), estimates, requirements=needs)
    assert len(sent(scheduler.add_host("a", 2))) == 2
    without = Scheduler(range(40, 80), estimates)
    assert len(sent(without.add_host("a", 2))) > 2


def test_a_lock_is_not_starved_by_tiny_tests_that_are_sent_ahead():
    needs = dict.fromkeys(range(3), Requirements(frozenset(["db"])))
    estimates = {**dict.fromkeys(range(3), 1.0), **dict.fromkeys(range(3, 2000), 0.001)}
    scheduler = Scheduler(range(2000), estimates, requirements=needs)
    given = sent(scheduler.add_host("a", 2))
    order = []
    while given:
        # The tiny tests end first.
        test = next((each for each in given if each >= 3), given[0])
        if test >= 3 and min(given) < 3 and len(order) % 50 == 49:
            test = min(given)
        given.remove(test)
        order.append(test)
        scheduler.finish_test("a", test, 0.001)
        given += sent(scheduler.fill("a"))
    assert sorted(order) == list(range(2000))
    assert order.index(2) < 500


def test_a_freed_lock_wakes_the_other_host():
    lock = Requirements(frozenset(["db"]))
    scheduler = Scheduler(
        [0, 1],
        {0: 2.0, 1: 1.0},
        requirements={0: lock, 1: Requirements(lock.locks, labels=frozenset(["gpu"]))},
        hosts={"a": [], "b": ["gpu"]},
    )
    assert sent(scheduler.add_host("a", 1)) == [0]
    assert scheduler.add_host("b", 1) == []
    scheduler.finish_test("a", 0, 1.0)
    assert scheduler.fill("a") == [Send("b", (1,))]


def test_what_is_missing_is_named():
    needs = {
        0: Requirements(labels=frozenset(["docker"])),
        1: Requirements(labels=frozenset(["gpu", "net"])),
        2: Requirements(labels=frozenset(["gpu", "docker"])),
    }
    scheduler = Scheduler(range(3), {}, requirements=needs, hosts={"a": ["gpu"], "b": ["net"]})
    assert set(scheduler.start()) == {
        RequirementUnmet(0, ("docker",)),
        RequirementUnmet(1, ("gpu", "net")),
        RequirementUnmet(2, ("docker",)),
    }
    assert scheduler.open_tests == 0


def test_a_label_that_was_lost_is_no_reason_to_skip():
    needs = {0: Requirements(labels=frozenset(["gpu"]))}
    scheduler = Scheduler([0, 1], {1: 1.0}, requirements=needs, hosts={"a": ["gpu"], "b": []})
    assert sent(scheduler.add_host("a", 1)) == [0]
    assert sent(scheduler.add_host("b", 1)) == [1]
    assert scheduler.remove_host("a") == [GiveUp(0, ("a",), ("gpu",))]


def test_a_host_that_never_came_leaves_its_labels_missing():
    needs = {0: Requirements(labels=frozenset(["gpu"]))}
    scheduler = Scheduler([0], {}, requirements=needs, hosts={"a": ["gpu"], "b": []})
    assert scheduler.start() == []
    assert scheduler.remove_host("a") == [RequirementUnmet(0, ("gpu",))]


def run_all(scheduler: Scheduler) -> float:
    begin = time.perf_counter()
    given = {host: sent(scheduler.add_host(host, 4)) for host in ("a", "b")}
    while any(given.values()):
        for host in given:
            if given[host]:
                scheduler.finish_test(host, given[host].pop(0), 0.001)
                for each in scheduler.fill(host):
                    if isinstance(each, Send):
                        given[each.host] += each.tests
    return time.perf_counter() - begin


def test_many_tests_with_needs_take_no_quadratic_time():
    count = 5000
    for needs in (
        {},
        dict.fromkeys(range(count), Requirements(frozenset(["db"]))),
        {number: Requirements(frozenset([f"lock{number}"])) for number in range(count)},
        dict.fromkeys(range(count), Requirements(serial=True)),
    ):
        scheduler = Scheduler(range(count), {}, requirements=needs)
        assert run_all(scheduler) < 10.0  # minutes, if it were quadratic
        assert scheduler.open_tests == 0
