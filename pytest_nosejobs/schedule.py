"""Which test goes to which host, and when.

Pure: events in, commands out; no clock, no I/O.  Longest first; a host gets one
test for each slot and only as much more as hides the way there and back.  Tests of
a lost host go to others, a test that has seen too many hosts die is given up.

Tests that need something (a lock, a host of their own, a label) wait apart, in one
group for each set of needs, so that the many that need nothing pay nothing for them.
A lock is held from the sending of a test to its end; a test with locks is sent only
when a slot is free, for in a host's queue it would hold them for nothing.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

#: Seconds of work that a host holds in advance on top of its round trip: it covers
#: the gathering of small answers on both sides.
_HORIZON = 0.05
#: Tests for each slot that a host holds in advance at most.
_AHEAD = 32


@dataclass(frozen=True)
class Send:
    """Give these tests to the host."""

    host: str
    tests: tuple[int, ...]


@dataclass(frozen=True)
class GiveUp:
    """This test cannot be run; the hosts that were lost with it."""

    test: int
    hosts: tuple[str, ...]
    #: The labels for which the test had to run on one of them; empty: it was there.
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unmet:
    """No host of the run has what this test requires; what is missing on all of them."""

    test: int
    missing: tuple[str, ...]


Command = Send | GiveUp | Unmet


@dataclass(frozen=True)
class Needs:
    """What a test needs to run."""

    #: One at a time over all hosts.
    locks: frozenset[str] = frozenset()
    #: One at a time on each host.
    host_locks: frozenset[str] = frozenset()
    #: Alone on its host.
    serial: bool = False
    #: Labels of its host.
    labels: frozenset[str] = frozenset()

    @property
    def exclusive(self) -> bool:
        """Such tests cannot run side by side: they make a chain."""
        return bool(self.locks or self.host_locks or self.serial)


_NOTHING = Needs()


@dataclass
class _Host:
    slots: int
    #: Seconds there and back.
    latency: float
    labels: frozenset[str] = frozenset()
    #: Tests that are there, with their estimates.
    given: dict[int, float | None] = field(default_factory=dict)
    #: Locks of this host that are held.
    held: set[str] = field(default_factory=set)
    #: A test is there that must be alone.
    closed: bool = False


class _Group:
    """Tests with the same needs that wait, the longest at the end."""

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.tests: list[int] = []
        self._seconds: list[float] = []
        self._sum = 0.0
        self._unknown = 0

    def add(self, test: int, seconds: float) -> None:
        self.tests.append(test)
        self._seconds.append(seconds)
        self._count(seconds, 1)

    def pop(self) -> int:
        self._count(self._seconds.pop(), -1)
        return self.tests.pop()

    def _count(self, seconds: float, sign: int) -> None:
        if seconds == math.inf:
            self._unknown += sign
        else:
            self._sum += sign * seconds

    @property
    def weight(self) -> float:
        """Seconds until the last of them can end at best: a chain is as long as its sum."""
        if not self.needs.exclusive:
            return self._seconds[-1]
        return math.inf if self._unknown else self._sum


class Schedule:
    """The state of a run.

    Tests are numbers; ``estimates`` are seconds by number, ``needs`` what some of them
    need.  ``hosts`` are the labels of all hosts of the run, by name.  Those in ``first``
    go before all others, however short they are.
    """

    def __init__(
        self,
        tests: Iterable[int],
        estimates: Mapping[int, float],
        max_lost: int = 2,
        first: Container[int] = (),
        needs: Mapping[int, Needs] | None = None,
        hosts: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        self._estimates = dict(estimates)
        self._first = first
        self._needs = {test: each for test, each in (needs or {}).items() if each != _NOTHING}
        # Unknown ones first: what is not known may be long.  Sorting keeps their order.
        order = sorted(
            tests, key=lambda test: (test not in first, -estimates.get(test, math.inf))
        )
        self._pending = [test for test in reversed(order) if test not in self._needs]
        #: Those with tests that wait, heaviest first: serial ones, and all others.
        self._alone: list[_Group] = []
        self._groups: list[_Group] = []
        self._group_of = {each: _Group(each) for each in self._needs.values()}
        for test in reversed(order):
            if test in self._needs:
                self._group_of[self._needs[test]].add(test, self._rank(test))
        for group in self._group_of.values():
            self._insert(group)
        #: Hosts that are there or will come.
        self._expected = {name: frozenset(labels) for name, labels in (hosts or {}).items()}
        #: Hosts that were there and are not any more.
        self._gone: dict[str, frozenset[str]] = {}
        self._held: set[str] = set()
        #: Something has become free that tests for other hosts may have waited for.
        self._stirred = False
        self._hosts: dict[str, _Host] = {}
        self._lost_with: dict[int, tuple[str, ...]] = {}
        self._max_lost = max_lost
        self._done_count = 0
        self._done_seconds = 0.0
        self.open_tests = len(order)

    # -- events -------------------------------------------------------------------

    def start(self) -> list[Command]:
        """Before all else: tests that none of the hosts can run."""
        return self._drop_unmet()

    def host_ready(self, host: str, slots: int, latency: float = 0.0) -> list[Command]:
        """A host can take tests."""
        labels = self._expected.setdefault(host, frozenset())
        self._hosts[host] = _Host(slots, latency, labels)
        return self.fill(host)

    def done(self, host: str, test: int, seconds: float, again: bool = False) -> bool:
        """A test has ended; False if nobody waits for that answer (it is stale).

        ``again``: it is to run once more, anywhere.
        """
        if host not in self._hosts or test not in self._hosts[host].given:
            return False
        del self._hosts[host].given[test]
        if self._needs:
            self._release(test, self._hosts[host])
        self._done_count += 1
        self._done_seconds += seconds
        if again:
            self._wait(test)
        else:
            self.open_tests -= 1
        return True

    def host_lost(self, host: str) -> list[Command]:
        """All that was on that host goes elsewhere, or is given up."""
        lost = self._hosts.pop(host, None)
        labels = self._expected.pop(host, frozenset())
        commands: list[Command] = []
        if lost is not None:
            self._gone[host] = labels
            for test in lost.given:
                self._release(test, lost)
            for test in reversed(lost.given):
                commands += self._lose(test, host)
        if self._expected:
            commands += self._drop_unmet()
        for other in self._hosts:
            commands += self._fill_one(other)
        self._stirred = False
        return commands

    def nobody_left(self) -> list[Command]:
        """No host is there and none will come: every test that is open is given up."""
        waiting = [*reversed(self._pending)]
        for group in (*self._alone, *self._groups):
            waiting += reversed(group.tests)
        self.open_tests -= len(waiting)
        self._pending.clear()
        self._alone.clear()
        self._groups.clear()
        return [GiveUp(test, self._lost_with.get(test, ())) for test in waiting]

    def _lose(self, test: int, host: str) -> list[Command]:
        hosts = self._lost_with[test] = (*self._lost_with.get(test, ()), host)
        if len(hosts) >= self._max_lost:
            self.open_tests -= 1
            return [GiveUp(test, hosts)]
        self._wait(test)
        return []

    def _wait(self, test: int) -> None:
        if test not in self._needs:
            self._pending.append(test)
            return
        group = self._group_of[self._needs[test]]
        self._remove(group)
        group.add(test, self._rank(test))
        self._insert(group)

    # -- tests that need something ------------------------------------------------

    def labels_of(self, test: int) -> tuple[str, ...]:
        """What its host must have."""
        return tuple(sorted(self._needs.get(test, _NOTHING).labels))

    def _list_of(self, group: _Group) -> list[_Group]:
        return self._alone if group.needs.serial else self._groups

    def _insert(self, group: _Group) -> None:
        if group.tests:
            bisect.insort(self._list_of(group), group, key=lambda each: -each.weight)

    def _remove(self, group: _Group) -> None:
        if group.tests:
            self._list_of(group).remove(group)

    def _release(self, test: int, host: _Host) -> None:
        needs = self._needs.get(test)
        if needs is not None and needs.exclusive:
            self._held -= needs.locks
            host.held -= needs.host_locks
            host.closed = False
            self._stirred = True

    def _take(self, group: _Group, host: _Host) -> int:
        self._remove(group)
        test = group.pop()
        self._insert(group)
        self._held |= group.needs.locks
        host.held |= group.needs.host_locks
        host.closed = group.needs.serial
        return test

    def _heaviest(self, groups: Iterable[_Group], host: _Host) -> _Group | None:
        """The first whose locks are free, on a host that has its labels."""
        for group in groups:
            needs = group.needs
            if (
                needs.labels <= host.labels
                and self._held.isdisjoint(needs.locks)
                and host.held.isdisjoint(needs.host_locks)
            ):
                return group
        return None

    def _has_room_for(self, group: _Group, host: _Host) -> bool:
        if group.needs.exclusive:
            return len(host.given) < host.slots
        return self._has_room(host, self.estimate(group.tests[-1]))

    def _drop_unmet(self) -> list[Command]:
        commands: list[Command] = []
        for group in (*self._alone, *self._groups):
            labels = group.needs.labels
            if any(labels <= there for there in self._expected.values()):
                continue
            self._remove(group)
            self.open_tests -= len(group.tests)
            while group.tests:
                commands.append(self._unmet(group.pop(), labels))
        return commands

    def _unmet(self, test: int, labels: frozenset[str]) -> Command:
        """Not possible in this run, unless a host that could have done it was lost."""
        gone = tuple(name for name, theirs in self._gone.items() if labels <= theirs)
        if gone:
            return GiveUp(test, gone, tuple(sorted(labels)))
        known = frozenset[str]().union(*self._expected.values())
        return Unmet(test, tuple(sorted(labels - known or labels)))

    # -- decisions ----------------------------------------------------------------

    def fill(self, host: str) -> list[Command]:
        """What that host should get now, and others if a lock has become free."""
        commands = self._fill_one(host)
        if self._stirred:
            self._stirred = False
            for other in self._hosts:
                if other != host:
                    commands += self._fill_one(other)
        return commands

    def _fill_one(self, host: str) -> list[Command]:
        there = self._hosts.get(host)
        if there is None:
            return []
        batch: list[int] = []
        while not there.closed:
            group = self._next_group(there) if self._groups or self._alone else None
            if group is not None:
                # Without room nothing else is sent ahead: it would keep the group waiting.
                if not self._has_room_for(group, there):
                    break
                test = self._take(group, there)
            elif self._pending and self._has_room(there, self.estimate(self._pending[-1])):
                test = self._pending.pop()
            else:
                break
            there.given[test] = self.estimate(test)
            batch.append(test)
        return [Send(host, tuple(batch))] if batch else []

    def _next_group(self, there: _Host) -> _Group | None:
        """The group whose turn it is; None: that of those that need nothing."""
        if not there.given:
            # Only an idle host can take a serial one, so it does.
            alone = self._heaviest(self._alone, there)
            if alone is not None:
                return alone
        group = self._heaviest(self._groups, there)
        if group is None or not self._pending:
            return group
        return group if group.weight >= self._rank(self._pending[-1]) else None

    def _rank(self, test: int) -> float:
        """What its turn depends on: seconds from history; what is not known may be long."""
        return math.inf if test in self._first else self._estimates.get(test, math.inf)

    def _has_room(self, host: _Host, estimate: float | None) -> bool:
        count = len(host.given)
        if count < host.slots:
            return True
        if estimate is None:
            return False
        ahead = host.slots * (_HORIZON + host.latency) / max(estimate, 1e-6)
        return count < host.slots + min(math.floor(ahead), host.slots * _AHEAD)

    def estimate(self, test: int) -> float | None:
        """Seconds from history, else the mean of what has run so far, else None."""
        known = self._estimates.get(test)
        if known is None and self._done_count:
            return self._done_seconds / self._done_count
        return known
