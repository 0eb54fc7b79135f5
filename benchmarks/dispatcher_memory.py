"""Resident memory of the dispatcher: started, with one and four hosts, and as builds go through.

The figures are those of the process of ``nosejobs up`` alone.  It is started once before, so that
no figure has the memory that compiling its modules takes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import jobs
import measure
import promotion

NAME = "dispatcher-memory"
#: Builds between two figures.
_STEP = 100
#: Seconds until the threads have finished what follows the last build.
_REST = 0.5
_PACKAGES = ("cryptography", "sqlalchemy", "fastapi")


def main(smoke: bool) -> dict[str, Any]:
    """Measure; a smoke run only shows that it works."""
    lacking = [name for name in _PACKAGES if not measure.has_module(name)]
    if lacking:
        return {"tables": [], "skipped": [f"{name} is not installed" for name in lacking]}
    figures: dict[str, float] = {}
    with jobs.folders() as (_, memory):
        if smoke:
            return figures | _measure(memory / "1", 1, 6, 3)
        with promotion.run_nosejobs(memory / "warm-up", 1):
            pass
        for hosts, builds in ((1, 0), (4, 5000)):
            figures |= _measure(memory / str(hosts), hosts, builds, _STEP)
    return figures


def _measure(folder: Path, hosts: int, builds: int, step: int) -> dict[str, float]:
    """Return the megabytes after the start, and after each ``step`` of ``builds``."""
    name = f"{hosts} host{'s' if hosts > 1 else ''}"
    with promotion.run_nosejobs(folder, hosts) as side:
        figures = {f"{name}, started: MB": _resident_memory(side)}
        for count in range(step, builds + 1, step):
            side.commit(promotion.MANY, step)
            side.notify(promotion.MANY)
            side.await_end(promotion.MANY)
            figures[f"{name}, {count} builds: MB"] = _resident_memory(side)
            print(f"  {count} builds: {_resident_memory(side)} MB", file=sys.stderr)
    return figures


def _resident_memory(side: promotion.DispatcherUnderTest) -> float:
    """Return megabytes."""
    time.sleep(_REST)
    return round(measure.status(side.process.pid, "VmRSS:") / 1024, 1)
