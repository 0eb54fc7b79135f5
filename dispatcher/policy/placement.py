"""Choose the hosts of stage runs, and divide tests among hosts.

Pure.  All requests are answered together, oldest first, and each gets all of its hosts or none: two
stages never hold what the other one waits for.  A request for several hosts that are busy now
reserves them, so that younger requests cannot overtake it for ever.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from shell_runner.text import format_count, pluralize, shorten_list

from ..configuration.host_supply import format_demand
from ..configuration.pipeline import Mode, Stage
from ..model import Host, HostState

#: Hosts that are named in the reason why a request waits.
_MAX_NAMED_HOSTS = 8


@dataclass(frozen=True)
class HostLoad:
    """A host, and what it has."""

    host: Host
    #: Open jobs: it runs one, the others are in its queue.
    jobs: int = 0
    #: Digests of builds and tests that it has already.
    cached: frozenset[str] = frozenset()


@dataclass(frozen=True)
class PlacementRequest:
    """The hosts that parts of a stage run need."""

    #: Unique among the requests that are answered together.
    id: Hashable
    #: For people: "smoke of build 7".
    name: str
    labels: tuple[str, ...] = ()
    count: int = 1
    mode: Mode = Mode.EACH
    #: Digests of what has to be there: build and tests.
    contents: frozenset[str] = frozenset()
    #: Hosts of the other parts; they cannot be taken again.
    taken: frozenset[str] = frozenset()
    #: Hosts that are taken last, because they were lost before.
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Placed:
    """The hosts that a request gets, by part."""

    request: Hashable
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class Unplaced:
    """A request that gets no hosts now."""

    request: Hashable
    #: The thing that it waits for, for people.
    reason: str
    #: Hosts that a pool could bring up for it, beside those that are starting.
    missing: int
    labels: tuple[str, ...] = ()


def make_request(
    stage: Stage, id: Hashable, name: str, contents: Iterable[str] = ()
) -> PlacementRequest:
    """Return the hosts that a stage needs for all of its parts.

    ``stage`` can be a build command (``pipeline.build_stage``).
    """
    count, mode = stage.hosts, stage.mode
    return PlacementRequest(id, name, stage.labels, count, mode, frozenset(contents))


def place(
    requests: Sequence[PlacementRequest], hosts: Iterable[HostLoad], depth: int
) -> list[Placed | Unplaced]:
    """Return an answer to each request, in their order: the oldest ones come first.

    ``depth``: jobs that a host has at a time.  A stage whose hosts work together needs idle ones.
    """
    assignment = _Assignment(hosts, depth)
    return [assignment.answer(request) for request in requests]


class _Assignment:
    """The hosts, with what the requests answered so far have taken and reserved."""

    def __init__(self, hosts: Iterable[HostLoad], depth: int) -> None:
        self._hosts = sorted(hosts, key=lambda load: load.host.name)
        self._depth = depth
        #: By host, jobs that earlier requests gave it.
        self._assigned: dict[str, int] = {}
        #: By host, the name of the request that reserves it.
        self._reserved: dict[str, str] = {}
        #: Hosts that are starting, for an earlier request.
        self._promised: set[str] = set()

    def answer(self, request: PlacementRequest) -> Placed | Unplaced:
        """Take the hosts of a request, or reserve them."""
        matching = [load for load in self._hosts if not self._mismatch(load, request)]
        free = [load for load in matching if not self._occupation(load, request)]
        if len(free) >= request.count:
            hosts = self._choose(free, request)
            for name in hosts:
                self._assigned[name] = self._assigned.get(name, 0) + 1
            return Placed(request.id, hosts)
        reason = self._waiting_reason(request, matching)
        self._reserve(request, matching)
        missing = request.count - len(free)
        missing -= self._promise(request, missing)
        return Unplaced(request.id, reason, missing, request.labels)

    def _jobs(self, load: HostLoad) -> int:
        return load.jobs + self._assigned.get(load.host.name, 0)

    def _choose(self, hosts: Iterable[HostLoad], request: PlacementRequest) -> tuple[str, ...]:
        """Prefer hosts never lost before, then the least busy, then those with the contents."""

        def order(load: HostLoad) -> tuple[bool, int, int, int, str]:
            missing = len(request.contents - load.cached)
            is_avoided = load.host.name in request.avoid
            return is_avoided, self._jobs(load), missing, -load.host.slots, load.host.name

        return tuple(load.host.name for load in sorted(hosts, key=order)[: request.count])

    def _reserve(self, request: PlacementRequest, matching: Sequence[HostLoad]) -> None:
        """Reserve several hosts, if there are so many: they are seldom free at the same time."""
        possible = [load for load in matching if load.host.name not in self._reserved]
        if request.count > 1 and len(possible) >= request.count:
            for name in self._choose(possible, request):
                self._reserved[name] = request.name

    def _promise(self, request: PlacementRequest, limit: int) -> int:
        """Promise starting hosts to this request and to no later one; return their number."""
        starting = [
            load.host.name
            for load in self._hosts
            if load.host.state is HostState.STARTING and not _missing_labels(load.host, request)
        ]
        names = [name for name in starting if name not in self._promised][:limit]
        self._promised.update(names)
        return len(names)

    @staticmethod
    def _mismatch(load: HostLoad, request: PlacementRequest) -> str:
        """Return why a host cannot be had, whatever it does now; empty: it can."""
        host = load.host
        if missing := _missing_labels(host, request):
            return f"has no {pluralize('label', len(missing))} {', '.join(missing)}"
        if host.name in request.taken:
            return "has another part of it"
        if host.state is not HostState.UP:
            return f"is {host.state}" + (f" ({host.reason})" if host.reason else "")
        return ""

    def _occupation(self, load: HostLoad, request: PlacementRequest) -> str:
        """Return why a host that matches cannot be had now; empty: it can."""
        if load.host.name in self._reserved:
            return f"is reserved for {self._reserved[load.host.name]}"
        jobs = self._jobs(load)
        if jobs >= (1 if request.mode is Mode.TOGETHER else self._depth):
            return f"has {format_count(jobs, 'job')}"
        return ""

    def _waiting_reason(self, request: PlacementRequest, matching: Sequence[HostLoad]) -> str:
        needed = format_demand(request.count, request.labels)
        names = ", ".join(load.host.name for load in matching[:_MAX_NAMED_HOSTS])
        more = ", ..." if len(matching) > _MAX_NAMED_HOSTS else ""
        verb = "matches" if len(matching) < 2 else "match"
        matches = f"{len(matching) or 'none'} {verb}" + (f": {names}{more}" if names else "")
        return "; ".join([needed, matches, *self._host_reasons(request)])

    def _host_reasons(self, request: PlacementRequest) -> list[str]:
        """Return why each host cannot be had; those that lack labels come last."""
        reasons: list[tuple[bool, str]] = []
        for load in self._hosts:
            reason = self._mismatch(load, request) or self._occupation(load, request)
            if reason:
                lacks_labels = bool(_missing_labels(load.host, request))
                reasons.append((lacks_labels, f"{load.host.name} {reason}"))
        texts = [text for _, text in sorted(reasons, key=lambda reason: reason[0])]
        return shorten_list(texts, _MAX_NAMED_HOSTS)


def _missing_labels(host: Host, request: PlacementRequest) -> list[str]:
    return [label for label in request.labels if label not in host.labels]


# -- shards ----------------------------------------------------------------------------------


def split_into_shards(
    tests: Iterable[str], durations: Mapping[str, float], count: int
) -> tuple[tuple[str, ...], ...]:
    """Split tests so that all shards end at about the same time; longest first in each.

    Returns at most ``count`` shards, none of them empty.  ``durations``: seconds by test; a test
    that was never run takes the mean of the others.  The same tests and durations make the same
    shards, in whatever order they come.
    """
    seconds = _estimates(sorted(set(tests)), durations)
    order = sorted(seconds, key=lambda test: (-seconds[test], test))
    heap: list[tuple[float, int, int]] = [
        (0.0, 0, shard) for shard in range(min(count, len(order)))
    ]
    members: list[list[str]] = [[] for _ in heap]
    for test in order:
        # Of shards that end at the same time, the one with fewer tests: durations can be 0.
        load, number, shard = heap[0]
        heapq.heapreplace(heap, (load + seconds[test], number + 1, shard))
        members[shard].append(test)
    return tuple(map(tuple, members))


def _estimates(tests: Sequence[str], durations: Mapping[str, float]) -> dict[str, float]:
    known = {test: durations[test] for test in tests if _is_usable(durations.get(test))}
    mean = math.fsum(known.values()) / len(known) if known else 1.0
    return {test: known.get(test, mean) for test in tests}


def _is_usable(seconds: float | None) -> bool:
    return seconds is not None and math.isfinite(seconds) and seconds >= 0
