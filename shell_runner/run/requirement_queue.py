"""Tests with requirements that wait to be sent, and the locks that sent ones hold.

Pure.  Tests wait in one group for each set of requirements, apart from the many tests that
require nothing, so that those cost nothing extra.  A lock is held from the sending of a test
until it ends.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from .host_state import HostState
from .requirements import NO_REQUIREMENTS, Requirements


class RequirementGroup:
    """The waiting tests with the same requirements, the next one to send at the end."""

    def __init__(self, requirements: Requirements) -> None:
        self.requirements = requirements
        #: A lock that another test holds and for which all tests wait; empty if there is none.
        self.blocking_lock = ""
        self.tests: list[int] = []
        self._ranks: list[float] = []
        self._sum = 0.0
        self._unknown = 0

    def add(self, test: int, rank: float) -> None:
        """Make ``test`` the next one; ``rank``: its seconds, infinite if unknown."""
        self.tests.append(test)
        self._ranks.append(rank)
        self._add_to_sum(rank, 1)

    def pop(self) -> int:
        """Remove and return the next test.  Raise IndexError if there is none."""
        self._add_to_sum(self._ranks.pop(), -1)
        return self.tests.pop()

    def _add_to_sum(self, rank: float, sign: int) -> None:
        if rank == math.inf:
            self._unknown += sign
        else:
            self._sum += sign * rank

    @property
    def weight(self) -> float:
        """Return the seconds until the last test can end at the earliest.

        Tests that exclude each other form a chain that takes the sum of their durations.
        """
        if not self.requirements.is_exclusive:
            return self._ranks[-1]
        return math.inf if self._unknown else self._sum


class RequirementQueue:
    """The groups of waiting tests, heaviest first.

    A group that waits for a lock of the run is kept apart until that lock is released, so that
    the search for a test does not pass over it each time.
    """

    def __init__(
        self,
        requirements: Mapping[int, Requirements],
        tests: Iterable[int],
        rank: Callable[[int], float],
    ) -> None:
        """Queue those of ``tests`` that require something.

        ``requirements``: by test number.  ``tests``: all tests of the run, the next one to send
        at the end.  ``rank``: returns the seconds by which tests are ordered, infinite if
        unknown.
        """
        self._requirements = {
            test: required
            for test, required in requirements.items()
            if required is not NO_REQUIREMENTS and required != NO_REQUIREMENTS
        }
        self._rank = rank
        self._serial_groups: list[RequirementGroup] = []
        self._other_groups: list[RequirementGroup] = []
        self._groups = {each: RequirementGroup(each) for each in self._requirements.values()}
        #: The groups that wait for each lock of the run that is held.
        self._blocked_groups: dict[str, list[RequirementGroup]] = {}
        #: Whether a lock for which tests wait was released since this was last set to False.
        self.has_released = False
        for test in tests:
            if test in self._requirements:
                self._groups[self._requirements[test]].add(test, rank(test))
        for group in self._groups.values():
            self._insert(group)

    def __contains__(self, test: int) -> bool:
        """Return whether ``test`` requires something."""
        return test in self._requirements

    @property
    def has_waiting(self) -> bool:
        """Return whether tests with requirements wait, as far as no held lock is known."""
        return bool(self._other_groups or self._serial_groups)

    def labels(self, test: int) -> frozenset[str]:
        """Return the labels that the host of ``test`` must have."""
        return self._requirements.get(test, NO_REQUIREMENTS).labels

    def add(self, test: int) -> None:
        """Queue a test with requirements again; it is the next one of its group."""
        group = self._groups[self._requirements[test]]
        self._remove(group)
        group.add(test, self._rank(test))
        self._insert(group)

    def find_serial(self, host: HostState) -> RequirementGroup | None:
        """Return the heaviest group of serial tests that ``host`` could run, or None."""
        return self._find_heaviest(self._serial_groups, host)

    def find_other(self, host: HostState) -> RequirementGroup | None:
        """Return the heaviest group of not serial tests that ``host`` could run, or None."""
        return self._find_heaviest(self._other_groups, host)

    def take(self, group: RequirementGroup, host: HostState) -> int:
        """Remove the next test of ``group`` and let it hold its locks on ``host``."""
        self._remove(group)
        test = group.pop()
        self._insert(group)
        self._blocked_groups.update((lock, []) for lock in group.requirements.locks)
        host.held_locks |= group.requirements.host_locks
        host.has_serial_test = group.requirements.serial
        return test

    def release(self, test: int, host: HostState) -> None:
        """Release what ``test`` holds on ``host``, if anything."""
        required = self._requirements.get(test)
        if required is not None and required.is_exclusive:
            host.held_locks -= required.host_locks
            host.has_serial_test = False
            for lock in required.locks:
                self._release_lock(lock)

    def _release_lock(self, lock: str) -> None:
        for group in self._blocked_groups.pop(lock):
            group.blocking_lock = ""
            self._insert(group)
            self.has_released = True

    def remove_unmet(self, hosts: Iterable[frozenset[str]]) -> list[int]:
        """Remove and return the waiting tests whose labels none of ``hosts`` has.

        ``hosts``: the labels of each host.
        """
        host_labels = list(hosts)
        removed: list[int] = []
        for group in self._list_groups():
            labels = group.requirements.labels
            if any(labels <= each for each in host_labels):
                continue
            self._remove(group)
            while group.tests:
                removed.append(group.pop())
        return removed

    def clear(self) -> list[int]:
        """Remove and return all waiting tests in the order in which they would be sent."""
        waiting: list[int] = []
        for group in self._list_groups():
            self._remove(group)
            while group.tests:
                waiting.append(group.pop())
        return waiting

    def _list_groups(self) -> list[RequirementGroup]:
        """Return all groups in the order in which they would be sent."""
        groups = [*self._serial_groups, *self._other_groups]
        for blocked in self._blocked_groups.values():
            groups += blocked
        return sorted(groups, key=lambda each: (not each.requirements.serial, -each.weight))

    def _find_heaviest(
        self, groups: Sequence[RequirementGroup], host: HostState
    ) -> RequirementGroup | None:
        blocked: list[RequirementGroup] = []
        heaviest = None
        for group in groups:
            required = group.requirements
            if not self._blocked_groups.keys().isdisjoint(required.locks):
                blocked.append(group)
            elif required.labels <= host.labels and host.held_locks.isdisjoint(required.host_locks):
                heaviest = group
                break
        for group in blocked:
            self._block(group)
        return heaviest

    def _block(self, group: RequirementGroup) -> None:
        """Set a group apart, one of whose locks is held."""
        lock = next(each for each in group.requirements.locks if each in self._blocked_groups)
        self._remove(group)
        group.blocking_lock = lock
        self._blocked_groups[lock].append(group)

    def _list_for(self, group: RequirementGroup) -> list[RequirementGroup]:
        if group.blocking_lock:
            return self._blocked_groups[group.blocking_lock]
        return self._serial_groups if group.requirements.serial else self._other_groups

    def _insert(self, group: RequirementGroup) -> None:
        if group.tests:
            bisect.insort(self._list_for(group), group, key=lambda each: -each.weight)

    def _remove(self, group: RequirementGroup) -> None:
        if group.tests:
            self._list_for(group).remove(group)
            group.blocking_lock = ""
