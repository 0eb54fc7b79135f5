"""Which builds need not keep their artefact and packages.  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..settings import Retention


@dataclass(frozen=True)
class Kept:
    """A build whose artefact or packages are still there."""

    build: int
    source: int
    level: str
    #: When the last of its stage runs ended; None: something of it can still happen.
    ended: float | None


def expired(retention: Retention, builds: Iterable[Kept], now: float) -> tuple[int, ...]:
    """Builds that are too old, are not among the newest of their source, and have no level that
    is kept.  (What an artefact of theirs is to a build that stays is for the store to see.)"""
    seen: dict[int, int] = {}
    found = []
    for each in sorted(builds, key=lambda kept: -kept.build):
        seen[each.source] = seen.get(each.source, 0) + 1
        if seen[each.source] <= retention.builds or each.level in retention.levels:
            continue
        if each.ended is not None and now - each.ended > retention.age:
            found.append(each.build)
    return tuple(sorted(found))
