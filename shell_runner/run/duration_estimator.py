"""Estimates of how long tests take, and of how fast each host is.

Pure: it learns from what the scheduler tells it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Weight of each earlier test against the next one in a host's speed.
_MEMORY = 0.9
#: Seconds of evidence for the assumption that a new host is as fast as the history says.
_PRIOR = 0.1
#: Seconds that every test costs beside its own work.
_OVERHEAD = 0.005
#: Factor by which a single test may at most differ from its estimate in a host's speed.
_MAX_DEVIATION = 8.0


@dataclass
class _Mean:
    """The mean of the durations that were added, in seconds."""

    count: int = 0
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds


@dataclass
class _Speed:
    """Seconds that recent tests took on a host, and seconds that the history promised."""

    actual: float = 0.0
    expected: float = 0.0

    @property
    def factor(self) -> float:
        return (self.actual + _PRIOR) / (self.expected + _PRIOR)

    def add(self, seconds: float, estimate: float) -> None:
        estimate += _OVERHEAD
        seconds += _OVERHEAD
        seconds = min(max(seconds, estimate / _MAX_DEVIATION), estimate * _MAX_DEVIATION)
        self.actual = self.actual * _MEMORY + seconds
        self.expected = self.expected * _MEMORY + estimate


class DurationEstimator:
    """Durations by test number, from the history and from the tests of this run."""

    def __init__(self, history: Mapping[int, float], folders: Mapping[int, str]) -> None:
        """Take what is known before the run.

        ``history``: seconds by test number.  ``folders``: the folder of each test; a test
        without history is assumed to last as long as the others in its folder.
        """
        #: Seconds by test number, of tests that have a history.
        self.history = dict(history)
        self._folders = folders
        self._folder_means: dict[str, _Mean] = {}
        self._run_mean = _Mean()
        self._speeds: dict[str, _Speed] = {}
        for test, seconds in self.history.items():
            self._add_to_folder(test, seconds)

    def add_result(self, host: str, test: int, seconds: float) -> None:
        """Learn from a test that has ended on ``host`` after ``seconds``."""
        self._run_mean.add(seconds)
        known = self.history.get(test)
        if known is None:
            self._add_to_folder(test, seconds)
        elif seconds > 0:  # 0 means that it did not run at all
            self._speeds.setdefault(host, _Speed()).add(seconds, known)

    def estimate(self, test: int) -> float | None:
        """Return the seconds that ``test`` is expected to take, or None if unknown.

        They come from the history, else from the mean of the test's folder, else from the
        mean of this run.
        """
        known = self.history.get(test)
        if known is not None:
            return known
        mean = self._folder_means.get(self._folders.get(test, ""), self._run_mean)
        if not mean.count:
            mean = self._run_mean
        return mean.total / mean.count if mean.count else None

    def speed_factor(self, host: str) -> float:
        """Return the seconds that ``host`` takes for one second of history."""
        speed = self._speeds.get(host)
        return speed.factor if speed else 1.0

    def _add_to_folder(self, test: int, seconds: float) -> None:
        folder = self._folders.get(test)
        if folder is not None:
            self._folder_means.setdefault(folder, _Mean()).add(seconds)
