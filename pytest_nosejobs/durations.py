"""The history of durations, kept in pytest's cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

_KEY = "nosejobs/durations"
#: Weight of the newest run, so that one slow day does not change the order of all tests.
_NEWEST_WEIGHT = 0.5
#: Maximum number of tests in the history, unless this run alone has more; the oldest go first.
_MAX_ENTRIES = 100_000


class DurationHistory:
    """Seconds that tests took in earlier runs, and in this one."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._new: dict[str, float] = {}
        self._earlier: dict[str, float] | None = None

    @property
    def earlier(self) -> dict[str, float]:
        """Return the seconds of earlier runs by node id; the cache is read once."""
        if self._earlier is None:
            self._earlier = load(self._get_cache())
        return self._earlier

    def add(self, nodeid: str, seconds: float) -> None:
        """Note how long a test has taken in this run."""
        self._new[nodeid] = seconds

    def save(self) -> None:
        """Write what this run has added, if anything."""
        if self._new:
            save(self._get_cache(), self.earlier, self._new)

    def _get_cache(self) -> Any:
        """Return pytest's cache, or None without that plugin."""
        return getattr(self._config, "cache", None)


def load(cache: Any) -> dict[str, float]:
    """Return seconds by node id; empty if ``cache`` is None or its entry is invalid."""
    entry = cache.get(_KEY, {}) if cache is not None else {}
    if not isinstance(entry, dict):
        return {}
    return {
        name: float(value)
        for name, value in entry.items()
        if isinstance(value, (int, float)) and value >= 0
    }


def merge(earlier: Mapping[str, float], new: Mapping[str, float]) -> dict[str, float]:
    """Return the history after a run whose tests took ``new`` seconds."""
    merged = dict(earlier)
    for name, seconds in new.items():
        merged.pop(name, None)  # the newest entries go to the end
        before = earlier.get(name, seconds)
        merged[name] = round(before + _NEWEST_WEIGHT * (seconds - before), 4)
    excess = len(merged) - max(_MAX_ENTRIES, len(new))
    for name in list(merged)[: max(excess, 0)]:
        del merged[name]
    return merged


def save(cache: Any, earlier: Mapping[str, float], new: Mapping[str, float]) -> None:
    """Write the merged history, unless ``cache`` is None or ``new`` is empty."""
    if cache is not None and new:
        cache.set(_KEY, merge(earlier, new))
