"""Detection of silent hosts, and the delay before a lost host is opened again.

Pure: the time is an argument.  Must not know hosts, channels or threads.
"""

from __future__ import annotations

import enum

#: Seconds of silence after which a host is lost.
HOST_TIMEOUT = 10.0
#: Seconds before the first attempt to open a lost host again, and the maximum for later ones.
_FIRST_REOPEN_DELAY, _MAX_REOPEN_DELAY = 1.0, 30.0


class HostHealth(enum.Enum):
    """The judgement of a host's silence."""

    ALIVE = "fine"
    PING_DUE = "ask"
    LOST = "lost"


class SilenceMonitor:
    """A monitor of the silence of one host."""

    def __init__(self, limit: float, now: float) -> None:
        """``limit``: seconds of silence after which the host is lost; ``now``: the current time."""
        self.limit = limit
        self._checked_at = self._awake_since = now
        self._pinged_at = now - limit

    def check(self, now: float, last_heard: float, limit: float = 0.0) -> HostHealth:
        """Judge the silence since ``last_heard``, when the last byte of the host arrived.

        ``limit``: a longer limit for this check.  All times are seconds of one monotonic clock.
        """
        limit = max(limit, self.limit)
        if now - self._checked_at > limit / 4:
            # This process was stopped (Ctrl-Z, a suspended machine): the host was not silent.
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
        """Return the seconds between two checks.

        They are a small part of the gap that shows that this process was stopped.
        """
        return min(max(self.limit / 20, 0.01), 0.5)


def backoff(attempt: int) -> float:
    """Return the seconds before attempt number ``attempt`` (from 0) to open a lost host again."""
    return min(_FIRST_REOPEN_DELAY * 2.0 ** min(attempt, 10), _MAX_REOPEN_DELAY)
