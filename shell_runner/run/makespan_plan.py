"""The plan for the end of a run: which pending tests each host gets so that all end early.

Pure.  The longest test goes to the host that ends it soonest, as in list scheduling by longest
processing time first; a slow host may get nothing.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from .duration_estimator import DurationEstimator
from .host_state import HostState, HostStates

#: Maximum number of tests times hosts, and slots, for which a plan is made.
_MAX_PLAN_SIZE = 4096
#: Hosts whose speeds differ by less than this factor are treated as equally fast.
_EQUAL_SPEED_FACTOR = 1.1
#: Seconds that a test without an estimate is assumed to take.
_DEFAULT_SECONDS = 1.0


def is_near_end(pending: Sequence[int], hosts: HostStates) -> bool:
    """Return whether so few tests are pending on several hosts that a plan for all can be made."""
    if len(hosts) < 2 or len(pending) * len(hosts) > _MAX_PLAN_SIZE:
        return False
    return len(pending) * len(hosts) + hosts.count_slots() <= _MAX_PLAN_SIZE


def plan_tests(
    pending: Sequence[int], hosts: HostStates, durations: DurationEstimator, now: float
) -> dict[str, list[int]] | None:
    """Return the tests that each host starts at once; the other tests wait for a faster host.

    ``pending``: tests, the longest at the end.  ``now``: seconds of the scheduler's clock.
    Returns None if no test should wait, since the hosts are equally fast.
    """
    speeds = {name: durations.speed_factor(name) for name in hosts}
    if max(speeds.values()) < min(speeds.values()) * _EQUAL_SPEED_FACTOR:
        return None
    ends = {name: _slot_ends(state, speeds[name], durations, now) for name, state in hosts.items()}
    # A host with a free slot comes before others that end a test at the same time.
    order = dict.fromkeys([*hosts.list_free(), *hosts])
    candidates = [name for name in order if not hosts[name].has_serial_test]
    plan: dict[str, list[int]] = {}
    for test in reversed(pending):
        seconds = _expected_seconds(test, durations)
        best = min(candidates, key=lambda name: ends[name][0] + seconds * speeds[name])
        if ends[best][0] <= now:
            plan.setdefault(best, []).append(test)
        heapq.heapreplace(ends[best], ends[best][0] + seconds * speeds[best])
    return plan


def _slot_ends(
    host: HostState, speed: float, durations: DurationEstimator, now: float
) -> list[float]:
    """Return a heap of the times at which the slots of ``host`` become free.

    A test that is late is assumed to take as long again as it has taken.
    """
    ends = [now] * host.free_slots
    for test, started in host.running.items():
        end = started + _expected_seconds(test, durations) * speed
        ends.append(end if now <= end else now + (now - started))
    ends += [math.inf] * (not ends)
    heapq.heapify(ends)
    for test in host.queued:
        heapq.heapreplace(ends, ends[0] + _expected_seconds(test, durations) * speed)
    return ends


def _expected_seconds(test: int, durations: DurationEstimator) -> float:
    estimate = durations.estimate(test)
    return _DEFAULT_SECONDS if estimate is None else estimate
