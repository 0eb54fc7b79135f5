"""The scheduler's view of one host: which tests it has and which locks they hold."""

from __future__ import annotations

from dataclasses import dataclass, field


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
