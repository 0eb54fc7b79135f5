"""The plan for the end of a run: which pending test a host gets so that all hosts end early.

Pure.  The longest test goes to the host that ends it soonest, as in list scheduling by longest
processing time first; a slow host may get nothing.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence

from .duration_estimator import DurationEstimator
from .host_state import HostState

#: Maximum number of tests times hosts for which a plan is made.
_MAX_PLAN_SIZE = 4096
#: Hosts whose speeds differ by less than this factor are treated as equally fast.
_EQUAL_SPEED_FACTOR = 1.1
#: Seconds that a test without an estimate is assumed to take.
_DEFAULT_SECONDS = 1.0


def choose_test(
    host: str,
    pending: Sequence[int],
    hosts: Mapping[str, HostState],
    durations: DurationEstimator,
    now: float,
) -> int | None:
    """Return the index in ``pending`` of the test that ``host`` gets next.

    ``pending``: tests, the longest at the end.  ``now``: seconds of the scheduler's clock.
    Returns None if the other hosts end all of them sooner.
    """
    is_small = len(pending) * len(hosts) <= _MAX_PLAN_SIZE
    if not is_small or len(hosts) < 2 or not hosts[host].free_slots:
        return -1
    speeds = {name: durations.speed_factor(name) for name in hosts}
    if max(speeds.values()) < min(speeds.values()) * _EQUAL_SPEED_FACTOR:
        return -1
    ends = {name: _slot_ends(state, speeds[name], durations, now) for name, state in hosts.items()}
    candidates = [name for name, state in hosts.items() if not state.has_serial_test]
    for index in range(len(pending) - 1, -1, -1):
        seconds = _expected_seconds(pending[index], durations)
        best = min(
            candidates, key=lambda name: (ends[name][0] + seconds * speeds[name], name != host)
        )
        if best == host and ends[host][0] <= now:
            return index
        heapq.heapreplace(ends[best], ends[best][0] + seconds * speeds[best])
    return None


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
