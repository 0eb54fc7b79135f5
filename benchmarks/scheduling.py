"""The scheduler alone in a simulated run: decisions a second, memory, and growth.

No host, no process and no clock: a heap of ends of tests stands for the hosts.
"""

from __future__ import annotations

import concurrent.futures
import gc
import heapq
import multiprocessing
import random
import resource
import sys
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shell_runner.run.commands import Command, Return, Send
from shell_runner.run.requirements import Requirements
from shell_runner.run.scheduler import Scheduler

NAME = "scheduling"
_SLOTS = 32
#: Numbers of tests and of hosts, each with 32 slots.
_SIZES = (
    (10_000, 10), (100_000, 10), (1_000_000, 10),
    (100_000, 100), (1_000_000, 100),
    (10_000, 1000), (100_000, 1000), (1_000_000, 1000),
)  # fmt: skip
_OTHER_SIZES = ((10_000, 1000), (1_000_000, 1000))
_SMOKE_SIZES = ((500, 2), (500, 20))
_LABELS = 2
_PER_FOLDER = 100
#: Seconds of the shortest and of the longest test.
_SHORTEST, _LONGEST = 0.1, 30.0
_LATENCY = 0.02
_NOTES = (
    "A decision: one test has ended, and the host gets what it runs next. The processor time is "
    "that of the simulation with its heap, in this process. Memory: resident memory of the "
    "scheduler beyond that of the simulated durations, by test. Makespan: to the lower bound "
    "max(longest test, sum / slots, longest chain of a lock).",
)


@dataclass(frozen=True)
class Workload:
    """The tests of a simulated run."""

    title: str
    #: Seconds that each test takes on a host of ordinary speed.
    durations: list[float]
    #: Whether the scheduler knows the durations from an earlier run.
    has_history: bool
    requirements: Mapping[int, Requirements]
    #: The factor by which every fourth host is slower.
    slow_factor: float = 1.0


def main(smoke: bool) -> dict[str, Any]:
    """Simulate; a smoke run has 500 tests."""
    tables = []
    for title in ("history", "no history", "history, locks and labels", "history, slow hosts"):
        sizes = _SMOKE_SIZES if smoke else _SIZES if title == "history" else _OTHER_SIZES
        rows = [_measure_apart(title, tests, hosts) for tests, hosts in sizes]
        tables.append(Table(f"{title}, {_SLOTS} slots on each host", rows, list(_NOTES)).as_dict())
    return {"tables": tables}


def make_workload(title: str, tests: int) -> Workload:
    """Return tests with random durations, the same for the same arguments."""
    source = random.Random(tests)
    ratio = _LONGEST / _SHORTEST
    durations = [_SHORTEST * ratio ** source.random() for _ in range(tests)]
    requirements: dict[int, Requirements] = {}
    if "locks" in title:
        for test in range(0, tests, 100):
            requirements[test] = Requirements(locks=frozenset({f"lock{test // 1000}"}))
            requirements[test + 1] = Requirements(
                labels=frozenset({f"label{test // 100 % _LABELS}"})
            )
    return Workload(
        title, durations, "no history" not in title, requirements, 3.0 if "slow" in title else 1.0
    )


def _measure_apart(title: str, tests: int, hosts: int) -> dict[str, Any]:
    """Measure in a process of its own, whose memory holds nothing of the run before."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        row = pool.submit(_simulate, title, tests, hosts).result()
    print(f"  {title}: {row}", file=sys.stderr, flush=True)
    return row


def _simulate(title: str, tests: int, hosts: int) -> dict[str, Any]:
    return _measure(make_workload(title, tests), hosts)


def _measure(work: Workload, hosts: int) -> dict[str, Any]:
    gc.collect()
    before = _resident()
    begin = time.process_time()
    simulation = Simulation(work, hosts)
    built = time.process_time()
    memory = _resident() - before
    simulation.run()
    seconds = time.process_time() - built
    tests = len(work.durations)
    bound = _bound(work, hosts)
    return {
        "what": f"{tests} tests, {hosts} hosts",
        "decisions a second": round(tests / seconds),
        "microseconds each": round(seconds / tests * 1e6, 1),
        "start, seconds": round(built - begin, 2),
        "bytes for each test": round(memory / tests),
        "tests returned": simulation.returned,
        "makespan to bound": round(simulation.now / bound, 3),
        "peak, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


def _bound(work: Workload, hosts: int) -> float:
    """Return the seconds that the run takes at least."""
    chains: defaultdict[str, float] = defaultdict(float)
    for test, required in work.requirements.items():
        for lock in required.locks:
            chains[lock] += work.durations[test]
    slow = hosts // 4
    slots = _SLOTS * (hosts - slow + slow / work.slow_factor)
    return max(max(work.durations), sum(work.durations) / slots, *chains.values())


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class _Host:
    """A simulated host: running tests are in the heap of the simulation, others wait here."""

    def __init__(self, name: str, factor: float) -> None:
        self.name = name
        self.factor = factor
        self.free = _SLOTS
        self.waiting: deque[int] = deque()


class Simulation:
    """One run of a workload."""

    def __init__(self, work: Workload, hosts: int) -> None:
        self.now = 0.0
        self.returned = 0
        self._work = work
        names = {
            f"host{number}": ([f"label{number % _LABELS}"] if work.requirements else [])
            for number in range(hosts)
        }
        history = dict(enumerate(work.durations)) if work.has_history else {}
        folders = {test: f"folder{test // _PER_FOLDER}" for test in range(len(work.durations))}
        self._scheduler = Scheduler(
            range(len(work.durations)), history, requirements=work.requirements,
            hosts=names, folders=folders,
        )  # fmt: skip
        self._hosts = {
            name: _Host(name, work.slow_factor if number % 4 == 3 else 1.0)
            for number, name in enumerate(names)
        }
        #: Time, test and host of what ends next; the test is -1 for an answer to a Return.
        self._ends: list[tuple[float, int, str, tuple[int, ...]]] = []

    def run(self) -> None:
        """Run all tests.  Raises RuntimeError if some are never sent."""
        scheduler = self._scheduler
        self._perform(scheduler.start())
        for name in self._hosts:
            self._perform(scheduler.add_host(name, _SLOTS, _LATENCY))
        while scheduler.open_tests:
            if not self._ends:
                raise RuntimeError(f"{scheduler.open_tests} tests are open and none runs")
            self.now, test, name, tests = heapq.heappop(self._ends)
            scheduler.set_time(self.now)
            if test < 0:
                self._perform(scheduler.requeue(name, tests))
                continue
            host = self._hosts[name]
            host.free += 1
            self._start_waiting(host)
            scheduler.finish_test(name, test, self._work.durations[test] * host.factor)
            self._perform(scheduler.fill(name))

    def _perform(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Send):
                host = self._hosts[command.host]
                host.waiting.extend(command.tests)
                self._start_waiting(host)
            elif isinstance(command, Return):
                self._return(command)
            else:
                raise TypeError(command)

    def _start_waiting(self, host: _Host) -> None:
        while host.free and host.waiting:
            host.free -= 1
            test = host.waiting.popleft()
            end = self.now + self._work.durations[test] * host.factor
            heapq.heappush(self._ends, (end, test, host.name, ()))

    def _return(self, command: Return) -> None:
        host = self._hosts[command.host]
        waiting = set(host.waiting)
        tests = tuple(test for test in command.tests if test in waiting)
        host.waiting = deque(test for test in host.waiting if test not in tests)
        self.returned += len(tests)
        heapq.heappush(self._ends, (self.now + _LATENCY, -1, host.name, tests))
