"""The scheduler's view of the hosts: which tests each one has and which locks they hold.

Pure.  Sums over all hosts and the order by free slots are kept up to date, so that no decision
has to look at each host.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Slots, free slots, queued tests and tests that are requested back.
_HostCounts = tuple[int, int, int, int]
#: The counts of a host that is not connected.
_NOTHING: _HostCounts = (0, 0, 0, 0)


@dataclass
class HostState:
    """One connected host.  Times are those of the scheduler's clock, in seconds."""

    slots: int
    #: Seconds of a round trip.
    latency: float
    labels: frozenset[str] = frozenset()
    #: Tests that the host has been sent and has not finished, with their estimates in seconds.
    assigned: dict[int, float | None] = field(default_factory=dict)
    #: The assigned tests that are assumed to run, with their start times.
    running: dict[int, float] = field(default_factory=dict)
    #: The assigned tests that wait on the host, in their order.
    queued: dict[int, None] = field(default_factory=dict)
    #: The assigned tests that the host has been asked to return.
    requested_back: set[int] = field(default_factory=set)
    #: Locks of this host that its tests hold.
    held_locks: set[str] = field(default_factory=set)
    #: Whether a serial test is there, so that nothing else may be sent.
    has_serial_test: bool = False

    @property
    def free_slots(self) -> int:
        """Return how many more tests would start at once."""
        return 0 if self.has_serial_test else max(self.slots - len(self.assigned), 0)

    def count(self) -> _HostCounts:
        """Return the numbers that are summed over all hosts."""
        return (self.slots, self.free_slots, len(self.queued), len(self.requested_back))

    def add(self, test: int, estimate: float | None, now: float) -> None:
        """Note that ``test`` is sent to the host."""
        self.assigned[test] = estimate
        self.queued[test] = None
        self._start_queued(now)

    def remove(self, test: int, now: float) -> None:
        """Note that ``test`` has ended or was returned.  It must be assigned."""
        del self.assigned[test]
        self.requested_back.discard(test)
        if self.running.pop(test, None) is None:
            del self.queued[test]
        self._start_queued(now)

    def _start_queued(self, now: float) -> None:
        while self.queued and len(self.running) < self.slots:
            test = next(iter(self.queued))
            del self.queued[test]
            self.running[test] = now


class _HostRanking:
    """Hosts by a small number that is above 0; the highest one is found without a search.

    The numbers change by few at a time, so that all operations take constant time on average.
    """

    def __init__(self) -> None:
        #: The hosts of each number; of equal ones, the first to have reached it comes first.
        self._hosts: list[dict[str, None]] = [{}]
        self._highest = 0

    def move(self, host: str, before: int, after: int) -> None:
        """Change the number of a host; 0: the host is not ranked."""
        if before == after:
            return
        if before:
            del self._hosts[before][host]
        if after:
            while len(self._hosts) <= after:
                self._hosts.append({})
            self._hosts[after][host] = None
            self._highest = max(self._highest, after)
        while self._highest and not self._hosts[self._highest]:
            self._highest -= 1

    def find_highest(self) -> str | None:
        """Return a host with the highest number; None if no host is ranked."""
        return next(iter(self._hosts[self._highest]), None)

    def list_descending(self) -> list[str]:
        """Return the ranked hosts, the highest first."""
        return [host for number in range(self._highest, 0, -1) for host in self._hosts[number]]


class HostStates(dict[str, HostState]):
    """The connected hosts by name.

    ``note_change`` must be called after the state of a host has changed.  The sums and the order
    of hosts are made when they are needed, of the hosts that have changed since.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, _HostCounts] = {}
        self._changed: dict[str, None] = {}
        self._by_free_slots, self._by_queue = _HostRanking(), _HostRanking()
        self._slots = self._free_slots = self._requested_tests = 0

    def add(self, host: str, state: HostState) -> None:
        """Add a connected host."""
        self[host] = state
        self.note_change(host)

    def remove(self, host: str) -> HostState | None:
        """Remove a host; return its state, None if it was not connected."""
        self.note_change(host)
        return self.pop(host, None)

    def note_change(self, host: str) -> None:
        """Note that the state of a host has changed."""
        self._changed[host] = None

    def count_slots(self) -> int:
        """Return the slots of all hosts."""
        self._update()
        return self._slots

    def count_unclaimed_slots(self) -> int:
        """Return the free slots of all hosts without those for tests that are requested back."""
        self._update()
        return self._free_slots - self._requested_tests

    def find_longest_queue(self) -> str | None:
        """Return a host on which most tests wait for a slot; None if none waits."""
        self._update()
        return self._by_queue.find_highest()

    def list_free(self) -> list[str]:
        """Return the hosts with free slots, those with most first."""
        self._update()
        return self._by_free_slots.list_descending()

    def _update(self) -> None:
        for host in self._changed:
            state = self.get(host)
            before = self._counts.pop(host, _NOTHING)
            after = _NOTHING
            if state is not None:
                after = self._counts[host] = state.count()
            self._slots += after[0] - before[0]
            self._free_slots += after[1] - before[1]
            self._requested_tests += after[3] - before[3]
            self._by_free_slots.move(host, before[1], after[1])
            self._by_queue.move(host, before[2], after[2])
        self._changed.clear()
