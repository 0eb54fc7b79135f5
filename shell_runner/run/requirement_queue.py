"""Tests with requirements that wait to be sent, and the locks that sent ones hold.

Pure.  Tests wait in one group for each set of requirements, apart from the many tests that
require nothing, so that those cost nothing extra.  A lock is held from the sending of a test
until it ends.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Mapping

from .host_state import HostState
from .requirements import NO_REQUIREMENTS, Requirements


class RequirementGroup:
    """The waiting tests with the same requirements, the next one to send at the end."""

    def __init__(self, requirements: Requirements) -> None:
        self.requirements = requirements
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
    """The groups of waiting tests, heaviest first."""

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
            test: required for test, required in requirements.items() if required != NO_REQUIREMENTS
        }
        self._rank = rank
        self._serial_groups: list[RequirementGroup] = []
        self._other_groups: list[RequirementGroup] = []
        self._groups = {each: RequirementGroup(each) for each in self._requirements.values()}
        self._held_locks: set[str] = set()
        #: Whether a lock or a host has become free since this was last set to False.
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
        """Return whether tests with requirements wait."""
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
        self._held_locks |= group.requirements.locks
        host.held_locks |= group.requirements.host_locks
        host.has_serial_test = group.requirements.serial
        return test

    def release(self, test: int, host: HostState) -> None:
        """Release what ``test`` holds on ``host``, if anything."""
        required = self._requirements.get(test)
        if required is not None and required.is_exclusive:
            self._held_locks -= required.locks
            host.held_locks -= required.host_locks
            host.has_serial_test = False
            self.has_released = True

    def remove_unmet(self, hosts: Iterable[frozenset[str]]) -> list[int]:
        """Remove and return the waiting tests whose labels none of ``hosts`` has.

        ``hosts``: the labels of each host.
        """
        host_labels = list(hosts)
        removed: list[int] = []
        for group in (*self._serial_groups, *self._other_groups):
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
        for group in (*self._serial_groups, *self._other_groups):
            while group.tests:
                waiting.append(group.pop())
        self._serial_groups.clear()
        self._other_groups.clear()
        return waiting

    def _find_heaviest(
        self, groups: Iterable[RequirementGroup], host: HostState
    ) -> RequirementGroup | None:
        for group in groups:
            required = group.requirements
            if (
                required.labels <= host.labels
                and self._held_locks.isdisjoint(required.locks)
                and host.held_locks.isdisjoint(required.host_locks)
            ):
                return group
        return None

    def _list_for(self, group: RequirementGroup) -> list[RequirementGroup]:
        return self._serial_groups if group.requirements.serial else self._other_groups

    def _insert(self, group: RequirementGroup) -> None:
        if group.tests:
            bisect.insort(self._list_for(group), group, key=lambda each: -each.weight)

    def _remove(self, group: RequirementGroup) -> None:
        if group.tests:
            self._list_for(group).remove(group)
