"""The clock that shows whether a host makes progress with its tests.

Pure: the time is an argument.  A host can send messages without end, so only what it can do a
limited number of times counts: tests that start or end, and bytes of artifacts, by a low rate.
"""

from __future__ import annotations

#: Seconds after the longest timeout of its tests at which a host without progress is lost.
PROGRESS_GRACE = 90.0
#: Maximum seconds without progress of a host that says that it waits for another run.
MAX_WAITING = 3600.0
#: Lowest rate in bytes per second at which artifacts arrive: else one byte a minute would do.
_MIN_ARTIFACT_RATE = 1024
#: Seconds for which a message that the host waits is believed; a host repeats it sooner.
_WAITING_VALIDITY = 120.0
#: Seconds between two checks after which this process itself was stopped.
_STOPPED_GAP = 15.0


class ProgressClock:
    """The time since the last progress of one host."""

    def __init__(self, now: float) -> None:
        self._progress_at = self._checked_at = now
        self._waiting_at: float | None = None

    def note_progress(self, now: float) -> None:
        """Note that the host made progress, or has nothing to do."""
        self._progress_at = now
        self._waiting_at = None

    def note_bytes(self, now: float, count: int) -> None:
        """Note that the host sent bytes of artifacts: progress for the time that they may take."""
        self._progress_at = min(self._progress_at + count / _MIN_ARTIFACT_RATE, now)

    def note_waiting(self, now: float) -> None:
        """Note that the host says that it waits for what another run holds."""
        self._waiting_at = now

    def find_exceeded_limit(self, now: float, longest_timeout: float) -> float | None:
        """Return the seconds without progress that the host has exceeded, or None.

        ``longest_timeout``: seconds, of the tests that the host has.
        """
        if now - self._checked_at > _STOPPED_GAP:
            # This process was stopped (Ctrl-Z, a suspended machine), and so were its messages.
            self._progress_at = now
        self._checked_at = now
        limit = longest_timeout + PROGRESS_GRACE
        if self._waiting_at is not None and now - self._waiting_at <= _WAITING_VALIDITY:
            limit = max(limit, MAX_WAITING)
        return limit if now - self._progress_at > limit else None
