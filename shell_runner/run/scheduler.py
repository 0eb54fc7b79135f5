"""Which test goes to which host, and when.

Pure: events in, commands out; no clock (``at`` tells the time), no I/O.  Longest first; a
host gets one test for each slot and only as much more as hides the way there and back.
Tests of a lost host go to others, a test that has seen too many hosts die is given up.

How fast each host is shows in the run, against the history.  Near the end, a slow host
gets what it ends before a faster one would, or nothing; and what waits in the queue of a
host is asked back for one that is idle.

Tests that need something (a lock, a host of their own, a label) wait apart, in one
group for each set of needs, so that the many that need nothing pay nothing for them.
A lock is held from the sending of a test to its end; a test with locks is sent only
when a slot is free, for in a host's queue it would hold them for nothing.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

#: Seconds of work that a host holds in advance on top of its round trip: it covers
#: the gathering of small answers on both sides.
_HORIZON = 0.05
#: Tests for each slot that a host holds in advance at most.
_AHEAD = 32
#: Seconds below which a test that was there when a host was lost has that company alone:
#: who of many has killed the next one would not be known.
_QUICK = 1.0
#: Plans are made when tests times hosts are at most so many.
_PLANNED = 4096
#: Speeds that differ by less than this factor are the same.
_EVEN = 1.1
#: What is known of a host's speed: weight of each earlier test against the one behind it, and
#: seconds of the assumption that it is like all others.
_MEMORY, _PRIOR = 0.9, 0.1
#: Seconds of every test that are not its own, and by what factor it says something at most.
_OVERHEAD, _ODD = 0.005, 8.0
#: How often a test is asked back at most.
_ASKS = 2


@dataclass(frozen=True)
class Send:
    """Give these tests to the host."""

    host: str
    tests: tuple[int, ...]


@dataclass(frozen=True)
class Return:
    """Ask the host for these tests back; it keeps what it has started."""

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


Command = Send | Return | GiveUp | Unmet


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
    #: Those of them that run, as far as can be told from here, and since when.
    began: dict[int, float] = field(default_factory=dict)
    #: The others, in order.
    ahead: dict[int, None] = field(default_factory=dict)
    #: Those of them that have been asked back.
    asked: set[int] = field(default_factory=set)
    #: Locks of this host that are held.
    held: set[str] = field(default_factory=set)
    #: A test is there that must be alone.
    closed: bool = False

    @property
    def free(self) -> int:
        return 0 if self.closed else max(self.slots - len(self.given), 0)

    def take(self, test: int, estimate: float | None, now: float) -> None:
        self.given[test] = estimate
        self.ahead[test] = None
        self._start(now)

    def drop(self, test: int, now: float) -> None:
        del self.given[test]
        self.asked.discard(test)
        if self.began.pop(test, None) is None:
            del self.ahead[test]
        self._start(now)

    def _start(self, now: float) -> None:
        while self.ahead and len(self.began) < self.slots:
            test = next(iter(self.ahead))
            del self.ahead[test]
            self.began[test] = now


@dataclass
class _Mean:
    count: int = 0
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds


@dataclass
class _Speed:
    """Seconds that tests took, and that they should have."""

    took: float = 0.0
    known: float = 0.0

    @property
    def factor(self) -> float:
        return (self.took + _PRIOR) / (self.known + _PRIOR)

    def learn(self, seconds: float, estimate: float) -> None:
        estimate += _OVERHEAD
        seconds = min(max(seconds + _OVERHEAD, estimate / _ODD), estimate * _ODD)
        self.took = self.took * _MEMORY + seconds
        self.known = self.known * _MEMORY + estimate


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
    need, ``folders`` who are neighbours: a test without history is taken to last as long as
    they do.  ``hosts`` are the labels of all hosts of the run, by name.  Those in ``first`` go
    before all others, however short they are.
    """

    def __init__(
        self,
        tests: Iterable[int],
        estimates: Mapping[int, float],
        max_lost: int = 2,
        first: Container[int] = (),
        needs: Mapping[int, Needs] | None = None,
        hosts: Mapping[str, Iterable[str]] | None = None,
        folders: Mapping[int, str] | None = None,
    ) -> None:
        self._estimates = dict(estimates)
        self._folders = folders or {}
        self._neighbours: dict[str, _Mean] = {}
        for test, seconds in self._estimates.items():
            self._remember(test, seconds)
        self._now = 0.0
        self._speeds: dict[str, _Speed] = {}
        self._asks: dict[int, int] = {}
        #: A host has a free slot and gets nothing: a faster one would end sooner.
        self.is_holding = False
        self._first = first
        self._needs = {test: each for test, each in (needs or {}).items() if each != _NOTHING}
        # Unknown ones first: what is not known may be long.  Sorting keeps their order.
        order = sorted(tests, key=lambda test: (test not in first, -estimates.get(test, math.inf)))
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
        self._done = _Mean()
        self.open_tests = len(order)

    # -- events -------------------------------------------------------------------

    def at(self, now: float) -> None:
        """The time of what is told next."""
        self._now = now

    def start(self) -> list[Command]:
        """Before all else: tests that none of the hosts can run."""
        return self._drop_unmet()

    def host_ready(self, host: str, slots: int, latency: float = 0.0) -> list[Command]:
        """A host can take tests."""
        labels = self._expected.setdefault(host, self._gone.pop(host, frozenset()))
        self._hosts[host] = _Host(slots, latency, labels)
        return self.fill(host)

    def done(self, host: str, test: int, seconds: float, again: bool = False) -> bool:
        """A test has ended; False if nobody waits for that answer (it is stale).

        ``again``: it is to run once more, anywhere.
        """
        if not self.has(host, test):
            return False
        self._hosts[host].drop(test, self._now)
        if self._needs:
            self._release(test, self._hosts[host])
        self._learn(host, test, seconds)
        if again:
            self._wait(test)
        else:
            self.open_tests -= 1
        return True

    def returned(self, host: str, tests: Sequence[int]) -> list[Command]:
        """A host has given tests back that it had not started; unasked, it keeps them."""
        for test in reversed(tests):
            if self.has(host, test) and test in self._hosts[host].asked:
                self._hosts[host].drop(test, self._now)
                self._release(test, self._hosts[host])
                self._wait(test)
        return self.fill_all()

    def host_lost(self, host: str, may_return: bool = False) -> list[Command]:
        """All that was on that host goes elsewhere, or is given up.

        ``may_return``: tests for its labels alone wait for it.
        """
        lost = self._hosts.pop(host, None)
        labels = self._expected.get(host, frozenset())
        commands: list[Command] = []
        if not may_return:
            self._expected.pop(host, None)
            if lost is not None:
                self._gone[host] = labels
        if lost is not None:
            for test in lost.given:
                self._release(test, lost)
            for test in reversed(lost.given):
                commands += self._lose(test, host)
        if self._expected:
            commands += self._drop_unmet()
        return commands + self.fill_all()

    def nobody_left(self) -> list[Command]:
        """No host is there for what is open, and none will come: all of it is given up."""
        waiting = [*reversed(self._pending)]
        for group in (*self._alone, *self._groups):
            waiting += reversed(group.tests)
        self.open_tests -= len(waiting)
        self._pending.clear()
        self._alone.clear()
        self._groups.clear()
        return [self._left_alone(test) for test in waiting]

    def _left_alone(self, test: int) -> Command:
        hosts, labels = self._lost_with.get(test, ()), self.labels_of(test)
        if hosts or not labels:
            return GiveUp(test, hosts)
        absent = {name: each for name, each in self._expected.items() if name not in self._hosts}
        known = {**self._gone, **absent}
        theirs = tuple(name for name, each in known.items() if each.issuperset(labels))
        return GiveUp(test, theirs, labels)

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

    # -- what is known ------------------------------------------------------------

    def has(self, host: str, test: int) -> bool:
        """Whether that host has been given this test, and has not ended it."""
        return host in self._hosts and test in self._hosts[host].given

    def given(self, host: str) -> tuple[int, ...]:
        """All that is on that host."""
        return tuple(self._hosts[host].given) if host in self._hosts else ()

    def lost_with(self, test: int) -> tuple[str, ...]:
        """The hosts that were lost while they had it."""
        return self._lost_with.get(test, ())

    def speed(self, host: str) -> float:
        """Seconds there for each second of history."""
        found = self._speeds.get(host)
        return found.factor if found else 1.0

    @property
    def is_stuck(self) -> bool:
        """Tests are open, and none is anywhere."""
        return self.open_tests > 0 and not any(there.given for there in self._hosts.values())

    def _learn(self, host: str, test: int, seconds: float) -> None:
        self._done.add(seconds)
        known = self._estimates.get(test)
        if known is None:
            self._remember(test, seconds)
        elif seconds > 0:  # else it did not run at all
            self._speeds.setdefault(host, _Speed()).learn(seconds, known)

    def _remember(self, test: int, seconds: float) -> None:
        folder = self._folders.get(test)
        if folder is not None:
            self._neighbours.setdefault(folder, _Mean()).add(seconds)

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
        return self._has_room(host, group.tests[-1])

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
        """What that host should get now, and others if something has changed for them."""
        commands = self._fill_one(host)
        if self._stirred or self.is_holding:
            return commands + self.fill_all()
        return commands + self._rebalance()

    def fill_all(self) -> list[Command]:
        """What each host should get now, idle ones first."""
        commands: list[Command] = []
        self._stirred = self.is_holding = False
        for host in sorted(self._hosts, key=lambda name: -self._hosts[name].free):
            commands += self._fill_one(host)
        return commands + self._rebalance()

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
            elif self._pending and self._has_room(there, self._pending[-1]):
                place = self._choose(host)
                if place is None:
                    self.is_holding = True
                    break
                test = self._pending.pop(place)
            else:
                break
            there.take(test, self.estimate(test), self._now)
            batch.append(test)
        return [Send(host, tuple(batch))] if batch else []

    # -- near the end -------------------------------------------------------------

    def _choose(self, host: str) -> int | None:
        """Where in the list its next test is; None: the others end all of them sooner."""
        is_small = len(self._pending) * len(self._hosts) <= _PLANNED
        if not is_small or len(self._hosts) < 2 or not self._hosts[host].free:
            return -1
        speeds = {name: self.speed(name) for name in self._hosts}
        if max(speeds.values()) < min(speeds.values()) * _EVEN:
            return -1
        return self._plan(host, speeds)

    def _plan(self, host: str, speeds: Mapping[str, float]) -> int | None:
        """Longest first, each to where it ends soonest, until that is here and now."""
        ends = {name: self._ends(there, speeds[name]) for name, there in self._hosts.items()}
        places = [name for name, there in self._hosts.items() if not there.closed]
        for place in range(len(self._pending) - 1, -1, -1):
            seconds = self._guess(self._pending[place])
            best = min(
                places, key=lambda name: (ends[name][0] + seconds * speeds[name], name != host)
            )
            if best == host and ends[host][0] <= self._now:
                return place
            heapq.heapreplace(ends[best], ends[best][0] + seconds * speeds[best])
        return None

    def _ends(self, there: _Host, speed: float) -> list[float]:
        """When each slot of a host will be free; one that is late will be for as long again."""
        found = [self._now] * there.free
        for test, began in there.began.items():
            end = began + self._guess(test) * speed
            late = self._now - end
            found.append(end if late <= 0 else self._now + (self._now - began))
        found += [math.inf] * (not found)
        heapq.heapify(found)
        for test in there.ahead:
            heapq.heapreplace(found, found[0] + self._guess(test) * speed)
        return found

    def _guess(self, test: int) -> float:
        estimate = self.estimate(test)
        return 1.0 if estimate is None else estimate

    def _rebalance(self) -> list[Command]:
        """What waits in a queue is asked back, as much as has a place elsewhere."""
        if self._pending or len(self._hosts) < 2:
            return []
        asked = sum(len(there.asked) for there in self._hosts.values())
        free = sum(there.free for there in self._hosts.values()) - asked
        if free <= 0:
            return []
        host = max(self._hosts, key=lambda name: len(self._hosts[name].ahead))
        there = self._hosts[host]
        waiting = [test for test in there.ahead if self._may_move(test, there)]
        tests = tuple(waiting[-free:])
        there.asked.update(tests)
        for test in tests:
            self._asks[test] = self._asks.get(test, 0) + 1
        return [Return(host, tests)] if tests else []

    def _may_move(self, test: int, there: _Host) -> bool:
        is_asked = test in there.asked or self._asks.get(test, 0) >= _ASKS
        return not is_asked and test not in self._needs

    # -- one host -----------------------------------------------------------------

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

    def _has_room(self, host: _Host, test: int) -> bool:
        count = len(host.given)
        estimate = self.estimate(test)
        if test in self._lost_with:
            return count < host.slots and self._is_safe(host, estimate)
        if count < host.slots:
            return True
        if estimate is None:
            return False
        ahead = host.slots * (_HORIZON + host.latency) / max(estimate, 1e-6)
        return count < host.slots + min(math.floor(ahead), host.slots * _AHEAD)

    def _is_safe(self, host: _Host, estimate: float | None) -> bool:
        """Tests that were there when a host was lost meet again only if they are long."""
        is_quick = estimate is not None and estimate < _QUICK
        return not is_quick or self._lost_with.keys().isdisjoint(host.given)

    def estimate(self, test: int) -> float | None:
        """Seconds from history, else the mean of its neighbours, else of the run, else None."""
        known = self._estimates.get(test)
        if known is not None:
            return known
        near = self._neighbours.get(self._folders.get(test, ""), self._done)
        mean = near if near.count else self._done
        return mean.total / mean.count if mean.count else None
