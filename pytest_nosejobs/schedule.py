"""Which test goes to which host, and when.

Pure: events in, commands out; no clock, no I/O.  Longest first; a host gets one
test for each slot and only as much more as hides the way there and back.  Tests of
a lost host go to others, a test that has seen too many hosts die is given up.
"""

from __future__ import annotations

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


Command = Send | GiveUp


@dataclass
class _Host:
    slots: int
    #: Seconds there and back.
    latency: float
    #: Tests that are there, with their estimates.
    given: dict[int, float | None] = field(default_factory=dict)


class Schedule:
    """The state of a run.  Tests are numbers; ``estimates`` are seconds by number.

    Those in ``first`` go before all others, however short they are.
    """

    def __init__(
        self,
        tests: Iterable[int],
        estimates: Mapping[int, float],
        max_lost: int = 2,
        first: Container[int] = (),
    ) -> None:
        self._estimates = dict(estimates)
        # Unknown ones first: what is not known may be long.  Sorting keeps their order.
        order = sorted(
            tests, key=lambda test: (test not in first, -estimates.get(test, math.inf))
        )
        self._pending = order[::-1]
        self._hosts: dict[str, _Host] = {}
        self._lost_with: dict[int, tuple[str, ...]] = {}
        self._max_lost = max_lost
        self._done_count = 0
        self._done_seconds = 0.0
        self.open_tests = len(order)

    # -- events -------------------------------------------------------------------

    def host_ready(self, host: str, slots: int, latency: float = 0.0) -> list[Command]:
        """A host can take tests."""
        self._hosts[host] = _Host(slots, latency)
        return self.fill(host)

    def done(self, host: str, test: int, seconds: float) -> bool:
        """A test has ended; False if nobody waits for that answer (it is stale)."""
        if host not in self._hosts or test not in self._hosts[host].given:
            return False
        del self._hosts[host].given[test]
        self.open_tests -= 1
        self._done_count += 1
        self._done_seconds += seconds
        return True

    def host_lost(self, host: str) -> list[Command]:
        """All that was on that host goes elsewhere, or is given up."""
        lost = self._hosts.pop(host, None)
        commands: list[Command] = []
        for test in reversed(lost.given if lost else {}):
            commands += self._lose(test, host)
        for other in self._hosts:
            commands += self.fill(other)
        return commands

    def nobody_left(self) -> list[Command]:
        """No host is there and none will come: every test that is open is given up."""
        commands: list[Command] = [
            GiveUp(test, self._lost_with.get(test, ())) for test in reversed(self._pending)
        ]
        self.open_tests -= len(self._pending)
        self._pending.clear()
        return commands

    def _lose(self, test: int, host: str) -> list[Command]:
        hosts = self._lost_with[test] = (*self._lost_with.get(test, ()), host)
        if len(hosts) >= self._max_lost:
            self.open_tests -= 1
            return [GiveUp(test, hosts)]
        self._pending.append(test)
        return []

    # -- decisions ----------------------------------------------------------------

    def fill(self, host: str) -> list[Command]:
        """What that host should get now."""
        there = self._hosts.get(host)
        if there is None:
            return []
        batch: list[int] = []
        while self._pending and self._has_room(there, self.estimate(self._pending[-1])):
            test = self._pending.pop()
            there.given[test] = self.estimate(test)
            batch.append(test)
        return [Send(host, tuple(batch))] if batch else []

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
