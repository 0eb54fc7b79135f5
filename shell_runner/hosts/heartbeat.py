"""Whether a host still answers, and how long to wait before it is opened again.

Pure: the time comes as an argument.  Must not know hosts, channels or threads.
"""

from __future__ import annotations

import enum

#: Seconds before the first attempt to open a lost host again, and at most.
_FIRST, _MOST = 1.0, 30.0


class Sign(enum.Enum):
    """What to make of a host's silence."""

    FINE = "fine"
    ASK = "ask"
    LOST = "lost"


class Pulse:
    """The silence of one host."""

    def __init__(self, limit: float, now: float) -> None:
        """``limit``: seconds of silence after which it is lost."""
        self.limit = limit
        self._looked = self._since = now
        self._asked = now - limit

    def look(self, now: float, heard: float, limit: float = 0.0) -> Sign:
        """``heard``: when it said something for the last time; ``limit``: a longer one, for now."""
        limit = max(limit, self.limit)
        if now - self._looked > limit / 4:
            # It was us who slept (Ctrl-Z, a suspended machine): no silence of the host's.
            self._since = now
        self._looked = now
        silence = now - max(heard, self._since)
        if silence >= limit:
            return Sign.LOST
        if silence < self.limit / 4 or now - self._asked < self.limit / 4:
            return Sign.FINE
        self._asked = now
        return Sign.ASK

    @property
    def interval(self) -> float:
        """Seconds between two looks: a small part of what tells us that we slept ourselves."""
        return min(max(self.limit / 20, 0.01), 0.5)


def backoff(attempt: int) -> float:
    """Seconds before the attempt with this number (from 0) to open a lost host again."""
    return min(_FIRST * 2.0 ** min(attempt, 10), _MOST)
