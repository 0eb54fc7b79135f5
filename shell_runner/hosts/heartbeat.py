"""Whether a host still answers, and how long to wait before it is opened again.

Pure: the time comes as an argument.  Must not know hosts, channels or threads.
"""

from __future__ import annotations

import enum

#: Seconds before the first attempt to open a lost host again, and at most.
_FIRST_REOPEN_DELAY, _MAX_REOPEN_DELAY = 1.0, 30.0


class HostHealth(enum.Enum):
    """What to make of a host's silence."""

    ALIVE = "fine"
    PING_DUE = "ask"
    LOST = "lost"


class SilenceMonitor:
    """The silence of one host."""

    def __init__(self, limit: float, now: float) -> None:
        """``limit``: seconds of silence after which it is lost."""
        self.limit = limit
        self._checked_at = self._awake_since = now
        self._pinged_at = now - limit

    def check(self, now: float, last_heard: float, limit: float = 0.0) -> HostHealth:
        """``heard``: when it said something for the last time; ``limit``: a longer one, for now."""
        limit = max(limit, self.limit)
        if now - self._checked_at > limit / 4:
            # It was us who slept (Ctrl-Z, a suspended machine): no silence of the host's.
            self._awake_since = now
        self._checked_at = now
        silence = now - max(last_heard, self._awake_since)
        if silence >= limit:
            return HostHealth.LOST
        if silence < self.limit / 4 or now - self._pinged_at < self.limit / 4:
            return HostHealth.ALIVE
        self._pinged_at = now
        return HostHealth.PING_DUE

    @property
    def interval(self) -> float:
        """Seconds between two looks: a small part of what tells us that we slept ourselves."""
        return min(max(self.limit / 20, 0.01), 0.5)


def backoff(attempt: int) -> float:
    """Seconds before the attempt with this number (from 0) to open a lost host again."""
    return min(_FIRST_REOPEN_DELAY * 2.0 ** min(attempt, 10), _MAX_REOPEN_DELAY)
