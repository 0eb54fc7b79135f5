"""Which hosts run a stage, what it waits for if none does, and who runs which tests.

Pure.  All wishes are looked at together, oldest first, and each gets all of its hosts or none: two
stages never hold what the other one waits for.  A wish for several hosts that are busy now keeps
them: younger ones cannot slip in for ever.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shell_runner.text import format_count, pluralize, shorten_list

from ..config import Mode, Stage
from ..model import Host, HostState

#: Hosts that are told of in words.
_MANY = 8


@dataclass(frozen=True)
class Place:
    """A host as a place for jobs."""

    host: Host
    #: Jobs there that are open: it runs one, the others are in its queue.
    jobs: int = 0
    #: Digests of what it has already.
    cached: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Wish:
    """Hosts that somebody wants."""

    #: Unique: the id of a stage run.
    id: int
    #: For people: "smoke of build 7".
    name: str
    labels: tuple[str, ...] = ()
    count: int = 1
    mode: Mode = Mode.EACH
    #: Digests of what has to be there: build and tests.
    contents: frozenset[str] = frozenset()
    #: Hosts where its other parts are; they cannot be taken again.
    taken: frozenset[str] = frozenset()
    #: Hosts that it would rather not have: they were lost before.
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Placed:
    """These hosts, by part."""

    wish: int
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class Waits:
    """No hosts yet."""

    wish: int
    #: What it waits for.
    words: str
    #: Hosts that a pool could bring up for it, beside those that start already.
    missing: int
    labels: tuple[str, ...] = ()


def wish_of(stage: Stage, run: int, name: str, contents: Iterable[str] = ()) -> Wish:
    """The hosts that a stage (``config.build_stage`` too) wants for all of its parts."""
    return Wish(run, name, stage.labels, stage.hosts, stage.mode, frozenset(contents))


def place(wishes: Sequence[Wish], places: Iterable[Place], depth: int) -> list[Placed | Waits]:
    """An answer to each wish, in their order: the oldest ones come first.

    ``depth``: jobs that a host has at a time.  A stage whose hosts work together wants them idle.
    """
    ground = _Ground(places, depth)
    return [ground.answer(wish) for wish in wishes]


class _Ground:
    """The hosts, with what was given away and kept during one look."""

    def __init__(self, places: Iterable[Place], depth: int) -> None:
        self._places = sorted(places, key=lambda place: place.host.name)
        self._depth = depth
        self._given: dict[str, int] = {}
        #: Name of the wish that keeps a host, by host.
        self._kept: dict[str, str] = {}
        #: Hosts that start, for a wish that was looked at before.
        self._promised: set[str] = set()

    def answer(self, wish: Wish) -> Placed | Waits:
        fitting = [place for place in self._places if not self._misfit(place, wish)]
        free = [place for place in fitting if not self._busy(place, wish)]
        if len(free) >= wish.count:
            hosts = self._best(free, wish)
            for name in hosts:
                self._given[name] = self._given.get(name, 0) + 1
            return Placed(wish.id, hosts)
        words = self._words(wish, fitting)
        self._keep(wish, fitting)
        missing = wish.count - len(free)
        return Waits(wish.id, words, missing - self._promise(wish, missing), wish.labels)

    def _jobs(self, place: Place) -> int:
        return place.jobs + self._given.get(place.host.name, 0)

    def _best(self, places: Iterable[Place], wish: Wish) -> tuple[str, ...]:
        """Those never lost before, then the least busy, then those with the contents."""

        def order(place: Place) -> tuple[bool, int, int, int, str]:
            lacks = len(wish.contents - place.cached)
            avoided = place.host.name in wish.avoid
            return avoided, self._jobs(place), lacks, -place.host.slots, place.host.name

        return tuple(place.host.name for place in sorted(places, key=order)[: wish.count])

    def _keep(self, wish: Wish, fitting: Sequence[Place]) -> None:
        """Several hosts are seldom free together: they wait for the wish, if there are so many."""
        can = [place for place in fitting if place.host.name not in self._kept]
        if wish.count > 1 and len(can) >= wish.count:
            for name in self._best(can, wish):
                self._kept[name] = wish.name

    def _promise(self, wish: Wish, most: int) -> int:
        """How many hosts that start are for this wish, and so for no other one."""
        starting = [
            place.host.name
            for place in self._places
            if place.host.state is HostState.STARTING and not _lacks(place.host, wish)
        ]
        found = [name for name in starting if name not in self._promised][:most]
        self._promised.update(found)
        return len(found)

    @staticmethod
    def _misfit(place: Place, wish: Wish) -> str:
        """Why a host cannot be had, whatever it does now; empty: it can."""
        host = place.host
        if missing := _lacks(host, wish):
            return f"has no {'label' if len(missing) == 1 else 'labels'} {', '.join(missing)}"
        if host.name in wish.taken:
            return "has another part of it"
        if host.state is not HostState.UP:
            return f"is {host.state}" + (f" ({host.reason})" if host.reason else "")
        return ""

    def _busy(self, place: Place, wish: Wish) -> str:
        """Why a host that fits cannot be had now; empty: it can."""
        if place.host.name in self._kept:
            return f"is kept for {self._kept[place.host.name]}"
        jobs = self._jobs(place)
        if jobs >= (1 if wish.mode is Mode.TOGETHER else self._depth):
            return f"has {format_count(jobs, 'job')}"
        return ""

    def _words(self, wish: Wish, fitting: Sequence[Place]) -> str:
        labels = f" with {pluralize('label', len(wish.labels))} {', '.join(wish.labels)}"
        wanted = f"{format_count(wish.count, 'host')}{labels if wish.labels else ''}"
        names = ": " + ", ".join(place.host.name for place in fitting[:_MANY]) if fitting else ""
        more = ", ..." if len(fitting) > _MANY else ""
        fits = f"{len(fitting) or 'none'} {'fits' if len(fitting) < 2 else 'fit'}{names}{more}"
        return "; ".join([wanted, fits, *self._reasons(wish)])

    def _reasons(self, wish: Wish) -> list[str]:
        """Of each host that is not to be had; those with other labels come last."""
        found: list[tuple[bool, str]] = []
        for place in self._places:
            why = self._misfit(place, wish) or self._busy(place, wish)
            if why:
                found.append((bool(_lacks(place.host, wish)), f"{place.host.name} {why}"))
        words = [text for _, text in sorted(found, key=lambda each: each[0])]
        return shorten_list(words, _MANY)


def _lacks(host: Host, wish: Wish) -> list[str]:
    return [label for label in wish.labels if label not in host.labels]


# -- shards ----------------------------------------------------------------------------------


def shards(
    tests: Iterable[str], durations: Mapping[str, float], count: int
) -> tuple[tuple[str, ...], ...]:
    """The tests, split so that all shards end at about the same time; longest first in each.

    At most ``count``, none of them empty.  A test that was never seen takes the mean of the
    others.  The same tests and durations make the same shards, in whatever order they come.
    """
    seconds = _estimates(sorted(set(tests)), durations)
    order = sorted(seconds, key=lambda test: (-seconds[test], test))
    heap: list[tuple[float, int, int]] = [(0.0, 0, each) for each in range(min(count, len(order)))]
    found: list[list[str]] = [[] for _ in heap]
    for test in order:
        # Of shards that end at the same time, the one with fewer tests: durations can be 0.
        load, number, shard = heap[0]
        heapq.heapreplace(heap, (load + seconds[test], number + 1, shard))
        found[shard].append(test)
    return tuple(map(tuple, found))


def _estimates(tests: Sequence[str], durations: Mapping[str, float]) -> dict[str, float]:
    known = {test: durations[test] for test in tests if _usable(durations.get(test))}
    mean = math.fsum(known.values()) / len(known) if known else 1.0
    return {test: known.get(test, mean) for test in tests}


def _usable(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value >= 0
