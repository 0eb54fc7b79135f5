"""The scheduler: which test goes to which host, and when.

Pure: events in, commands out; no clock (``set_time`` gives it), no I/O.  The longest tests
go first.  A host gets one test for each slot, and only as many more as cover a round trip.
Tests of a lost host go to others; a test that was on too many lost hosts is given up.

How fast each host is shows in the run, against the history.  Near the end, a slow host
gets what it ends before a faster one would, or nothing; and tests that are queued on a busy
host are requested back for an idle one.

Tests that require something (a lock, a host of their own, a label) wait in a
``RequirementQueue``.  A test with locks is sent only when a slot is free: queued on a host, it
would hold them without running.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence

from .commands import Command, GiveUp, RequirementUnmet, Return, Send
from .duration_estimator import DurationEstimator
from .host_state import HostState, HostStates
from .makespan_plan import is_near_end, plan_tests
from .requirement_queue import RequirementGroup, RequirementQueue
from .requirements import Requirements

#: Seconds of work that a host is sent in advance in addition to its round trip: it covers the
#: batching of small messages on both sides.
_PREFETCH_SECONDS = 0.05
#: Maximum number of tests for each slot that a host is sent in advance.
_MAX_PREFETCH_PER_SLOT = 32
#: Seconds below which a test that was on a lost host is never sent ahead beside another such
#: test: of many short tests, the one that kills hosts could not be told apart.
_SHORT_TEST_SECONDS = 1.0
#: Maximum number of times that one test is requested back from a host.
_MAX_RETURN_REQUESTS = 2


class Scheduler:
    """The state of one run.  Tests are numbers, hosts are names, times are seconds."""

    def __init__(
        self,
        tests: Iterable[int],
        estimates: Mapping[int, float],
        max_lost: int = 2,
        first: Container[int] = (),
        requirements: Mapping[int, Requirements] | None = None,
        hosts: Mapping[str, Iterable[str]] | None = None,
        folders: Mapping[int, str] | None = None,
    ) -> None:
        """Plan a run of ``tests``.

        ``estimates``: seconds by test number, from earlier runs.  ``max_lost``: the number of
        lost hosts after which a test is given up.  ``first``: tests that go before all others,
        however short they are.  ``requirements``: of the tests that have some.  ``hosts``: the
        labels of all hosts of the run, by name.  ``folders``: the folder of each test; a test
        without an estimate is assumed to last as long as the others in its folder.
        """
        self.durations = DurationEstimator(estimates, folders or {})
        self._now = 0.0
        self._first = first
        #: Whether a host has a free slot and gets nothing, as a faster one would end sooner.
        self.is_holding_back = False
        # Tests without an estimate go first: they may be long.  Sorting keeps their order.
        order = sorted(tests, key=lambda test: (test not in first, -estimates.get(test, math.inf)))
        order.reverse()
        self._constrained = RequirementQueue(requirements or {}, order, self._rank)
        #: The waiting tests that require nothing, the next one at the end.
        self._pending = [test for test in order if test not in self._constrained]
        #: Labels of the hosts that are connected or may connect.
        self._expected = {name: frozenset(labels) for name, labels in (hosts or {}).items()}
        #: Labels of the hosts that were connected and will not return.
        self._lost: dict[str, frozenset[str]] = {}
        self._hosts = HostStates()
        self._return_requests: dict[int, int] = {}
        self._lost_with: dict[int, tuple[str, ...]] = {}
        self._max_lost = max_lost
        #: The number of tests that have not ended.
        self.open_tests = len(order)
        #: The number of tests that hosts have been sent and have not finished.
        self._assigned_tests = 0
        #: The tests that each host starts at once near the end; None: the hosts are equally fast.
        self._plan: dict[str, list[int]] | None = None
        self._is_plan_current = False

    # -- events -------------------------------------------------------------------

    def set_time(self, now: float) -> None:
        """Set the time of the next events, in seconds of a monotonic clock."""
        self._now = now

    def start(self) -> list[Command]:
        """Begin the run: reject the tests that none of the hosts can run."""
        return self._reject_unmet()

    def add_host(self, host: str, slots: int, latency: float = 0.0) -> list[Command]:
        """Note that a host is ready.  ``latency``: seconds of a round trip."""
        labels = self._expected.setdefault(host, self._lost.pop(host, frozenset()))
        self._hosts.add(host, HostState(slots, latency, labels))
        return self.fill(host)

    def add_test(self, test: int) -> list[Command]:
        """Add a test that had to wait for the results of others."""
        self.open_tests += 1
        self._enqueue(test)
        commands = self._reject_unmet() if test in self._constrained else []
        return commands + self.fill_all()

    def finish_test(self, host: str, test: int, seconds: float, rerun: bool = False) -> bool:
        """Note that ``host`` has finished ``test`` after ``seconds``.

        ``rerun``: the test runs once more, on any host.  Returns False, and changes nothing, if
        the test is not assigned to that host: the answer is stale.
        """
        if not self.is_assigned(host, test):
            return False
        self._unassign(host, test)
        self.durations.add_result(host, test, seconds)
        if rerun:
            self._enqueue(test)
        else:
            self.open_tests -= 1
        return True

    def requeue(self, host: str, tests: Sequence[int]) -> list[Command]:
        """Note that ``host`` has returned tests that it had not started.

        Tests that it was not asked to return stay assigned to it.
        """
        for test in reversed(tests):
            if self.is_assigned(host, test) and test in self._hosts[host].requested_back:
                self._unassign(host, test)
                self._enqueue(test)
        return self.fill_all()

    def _unassign(self, host: str, test: int) -> None:
        state = self._hosts[host]
        state.remove(test, self._now)
        self._assigned_tests -= 1
        self._constrained.release(test, state)
        self._hosts.note_change(host)

    def remove_host(self, host: str, can_reopen: bool = False) -> list[Command]:
        """Note that a host is lost: its tests go elsewhere, or are given up.

        ``can_reopen``: tests that require its labels wait for it.
        """
        state = self._hosts.remove(host)
        labels = self._expected.get(host, frozenset())
        commands: list[Command] = []
        if not can_reopen:
            self._expected.pop(host, None)
            if state is not None:
                self._lost[host] = labels
        if state is not None:
            self._assigned_tests -= len(state.assigned)
            for test in state.assigned:
                self._constrained.release(test, state)
            for test in reversed(state.assigned):
                commands += self._move_from_lost_host(test, host)
        if self._expected:
            commands += self._reject_unmet()
        return commands + self.fill_all()

    def give_up_waiting(self) -> list[Command]:
        """Give up all tests that wait: no host is there for them, and none will come."""
        waiting = [*reversed(self._pending), *self._constrained.clear()]
        self._pending.clear()
        self.open_tests -= len(waiting)
        return [self._give_up(test) for test in waiting]

    def _give_up(self, test: int) -> GiveUp:
        hosts, labels = self._lost_with.get(test, ()), self.required_labels(test)
        if hosts or not labels:
            return GiveUp(test, hosts)
        absent = {name: each for name, each in self._expected.items() if name not in self._hosts}
        known = {**self._lost, **absent}
        suitable = tuple(name for name, each in known.items() if each.issuperset(labels))
        return GiveUp(test, suitable, labels)

    def _move_from_lost_host(self, test: int, host: str) -> list[Command]:
        hosts = self._lost_with[test] = (*self._lost_with.get(test, ()), host)
        if len(hosts) >= self._max_lost:
            self.open_tests -= 1
            return [GiveUp(test, hosts)]
        self._enqueue(test)
        return []

    def _enqueue(self, test: int) -> None:
        if test in self._constrained:
            self._constrained.add(test)
        else:
            self._pending.append(test)

    def _reject_unmet(self) -> list[Command]:
        tests = self._constrained.remove_unmet(self._expected.values())
        self.open_tests -= len(tests)
        return [self._reject(test) for test in tests]

    def _reject(self, test: int) -> Command:
        """Return the reason: a host with its labels was lost, or there never was one."""
        labels = self._constrained.labels(test)
        lost = tuple(name for name, each in self._lost.items() if labels <= each)
        if lost:
            return GiveUp(test, lost, tuple(sorted(labels)))
        known = frozenset[str]().union(*self._expected.values())
        return RequirementUnmet(test, tuple(sorted(labels - known or labels)))

    # -- queries ------------------------------------------------------------------

    def is_assigned(self, host: str, test: int) -> bool:
        """Return whether ``host`` has been sent ``test`` and has not finished it."""
        state = self._hosts.get(host)
        return state is not None and test in state.assigned

    def assigned_tests(self, host: str) -> tuple[int, ...]:
        """Return the tests that ``host`` has been sent and has not finished."""
        return tuple(self._hosts[host].assigned) if host in self._hosts else ()

    def hosts_lost_with(self, test: int) -> tuple[str, ...]:
        """Return the hosts that were lost while they had ``test``, one entry for each loss."""
        return self._lost_with.get(test, ())

    def required_labels(self, test: int) -> tuple[str, ...]:
        """Return the labels that the host of ``test`` must have, sorted."""
        return tuple(sorted(self._constrained.labels(test)))

    def estimate(self, test: int) -> float | None:
        """Return the seconds that ``test`` is expected to take, or None if unknown."""
        return self.durations.estimate(test)

    @property
    def is_stuck(self) -> bool:
        """Return whether tests are open and no host has any of them."""
        return self.open_tests > 0 and not self._assigned_tests

    # -- decisions ----------------------------------------------------------------

    def fill(self, host: str) -> list[Command]:
        """Return the tests that ``host`` gets now.

        If something has changed for other hosts, the commands include theirs.
        """
        self._is_plan_current = False
        commands = self._fill_one(host)
        if self._constrained.has_released or self.is_holding_back:
            commands += self._fill_free()
        return commands + self._rebalance()

    def fill_all(self) -> list[Command]:
        """Return the tests that each host gets now, idle hosts first."""
        self._is_plan_current = False
        commands = self._fill_free()
        for host in self._hosts:
            if not self._has_waiting:
                break
            commands += self._fill_one(host)
        return commands + self._rebalance()

    def _fill_free(self) -> list[Command]:
        """Return the tests that the hosts with free slots get now, idle hosts first."""
        self._constrained.has_released = self.is_holding_back = False
        commands: list[Command] = []
        for host in self._hosts.list_free():
            if not self._has_waiting:
                break
            commands += self._fill_one(host)
        return commands

    @property
    def _has_waiting(self) -> bool:
        """Return whether a test waits that is not blocked by a lock."""
        return bool(self._pending) or self._constrained.has_waiting

    def _fill_one(self, host: str) -> list[Command]:
        state = self._hosts.get(host)
        if state is None:
            return []
        batch: list[int] = []
        while not state.has_serial_test:
            group = self._next_group(state) if self._constrained.has_waiting else None
            if group is not None:
                # Without room nothing else is sent ahead: it would keep the group waiting.
                if not self._has_room_for_group(state, group):
                    break
                test = self._constrained.take(group, state)
            elif self._pending and self._has_room_for_test(state, self._pending[-1]):
                pending = self._take_pending(host, state)
                if pending is None:
                    break
                test = pending
            else:
                break
            state.add(test, self.estimate(test), self._now)
            batch.append(test)
        if not batch:
            return []
        self._assigned_tests += len(batch)
        self._hosts.note_change(host)
        return [Send(host, tuple(batch))]

    def _take_pending(self, host: str, state: HostState) -> int | None:
        """Remove and return the next pending test for ``host``; None if it waits for another host.

        Near the end, tests that start at once are planned; those that are sent ahead are not.
        """
        if not state.free_slots or not is_near_end(self._pending, self._hosts):
            return self._pending.pop()
        if not self._is_plan_current:
            self._plan = plan_tests(self._pending, self._hosts, self.durations, self._now)
            self._is_plan_current = True
        if self._plan is None:
            return self._pending.pop()
        planned = self._plan.get(host, [])
        while planned:
            test = planned.pop(0)
            if test in self._pending:
                self._pending.remove(test)
                return test
        self.is_holding_back = True
        return None

    def _next_group(self, host: HostState) -> RequirementGroup | None:
        """Return the group whose turn it is; None if it is the turn of the other tests."""
        if not host.assigned:
            # Only an idle host can take a serial test, so it does.
            serial = self._constrained.find_serial(host)
            if serial is not None:
                return serial
        group = self._constrained.find_other(host)
        if group is None or not self._pending:
            return group
        return group if group.weight >= self._rank(self._pending[-1]) else None

    def _rank(self, test: int) -> float:
        """Return the seconds by which tests are ordered.

        A test without history may be long; one of ``first`` is treated like that.
        """
        return math.inf if test in self._first else self.durations.history.get(test, math.inf)

    def _has_room_for_group(self, host: HostState, group: RequirementGroup) -> bool:
        if group.requirements.is_exclusive:
            return len(host.assigned) < host.slots
        return self._has_room_for_test(host, group.tests[-1])

    def _has_room_for_test(self, host: HostState, test: int) -> bool:
        count = len(host.assigned)
        estimate = self.estimate(test)
        if test in self._lost_with:
            return count < host.slots and self._is_safe(host, estimate)
        if count < host.slots:
            return True
        if estimate is None:
            return False
        prefetch = host.slots * (_PREFETCH_SECONDS + host.latency) / max(estimate, 1e-6)
        limit = host.slots * _MAX_PREFETCH_PER_SLOT
        return count < host.slots + min(math.floor(prefetch), limit)

    def _is_safe(self, host: HostState, estimate: float | None) -> bool:
        """Return whether a test of a lost host may join the tests on ``host``.

        Short tests that were on lost hosts do not meet again.
        """
        is_short = estimate is not None and estimate < _SHORT_TEST_SECONDS
        return not is_short or self._lost_with.keys().isdisjoint(host.assigned)

    # -- near the end -------------------------------------------------------------

    def _rebalance(self) -> list[Command]:
        """Request queued tests back, as many as other hosts have free slots for."""
        if self._pending or len(self._hosts) < 2:
            return []
        free = self._hosts.count_unclaimed_slots()
        host = self._hosts.find_longest_queue() if free > 0 else None
        if host is None:
            return []
        state = self._hosts[host]
        movable = [test for test in state.queued if self._may_move(test, state)]
        tests = tuple(movable[-free:])
        state.requested_back.update(tests)
        for test in tests:
            self._return_requests[test] = self._return_requests.get(test, 0) + 1
        self._hosts.note_change(host)
        return [Return(host, tests)] if tests else []

    def _may_move(self, test: int, host: HostState) -> bool:
        if test in host.requested_back or test in self._constrained:
            return False
        return self._return_requests.get(test, 0) < _MAX_RETURN_REQUESTS
