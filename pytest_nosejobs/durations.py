"""How long tests took in earlier runs, in pytest's cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KEY = "nosejobs/durations"
#: Weight of the newest run: one slow day does not turn the order upside down.
_WEIGHT = 0.5
#: Tests that have not been seen for so many entries beyond those of this run are forgotten.
_MOST = 100_000


def load(cache: Any) -> dict[str, float]:
    """Seconds by node id; empty without a cache, or with a broken one."""
    found = cache.get(_KEY, {}) if cache is not None else {}
    if not isinstance(found, dict):
        return {}
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, (int, float)) and value >= 0
    }


def merge(old: Mapping[str, float], new: Mapping[str, float]) -> dict[str, float]:
    """The history after a run."""
    merged = dict(old)
    for name, seconds in new.items():
        merged.pop(name, None)  # the newest go to the end
        before = old.get(name, seconds)
        merged[name] = round(before + _WEIGHT * (seconds - before), 4)
    excess = len(merged) - max(_MOST, len(new))
    for name in list(merged)[: max(excess, 0)]:
        del merged[name]
    return merged


def save(cache: Any, old: Mapping[str, float], new: Mapping[str, float]) -> None:
    """Write the history back."""
    if cache is not None and new:
        cache.set(_KEY, merge(old, new))
