"""Sleeping tests on 256 slots of this machine: makespan over the bound, and results a second."""

from __future__ import annotations

import functools
import random
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
from measure import Contender, Run, RunFailed

NAME = "sleeping"
_NOTES = (
    "Makespan: to the end of the last sleep, by files that the scripts themselves touch, from the "
    "mean of the times at which the slots have started their first ones: an interpreter is started "
    "for each slot, which takes this machine longer than many hosts. Ratio: to the lower bound "
    "max(longest, sum / slots). "
    "Each slot is a process on this machine, and so are the scripts; on hosts of their own they "
    "would take nothing from pytest. Results a second: what pytest's own process could take if it "
    "had one processor, by its processor time for each further result.",
)
#: Runs pytest, and appends the processor seconds of its process to the file of the first argument.
_PYTEST = """
import os, resource, sys
import pytest
status = pytest.main(sys.argv[2:])
usage = resource.getrusage(resource.RUSAGE_SELF)
with open(sys.argv[1], "a") as file:
    print(usage.ru_utime + usage.ru_stime, file=file)
sys.stdout.flush()
os._exit(status)
"""


@dataclass(frozen=True)
class _Sizes:
    slots: int
    few: int
    many: int
    shortest: float
    longest: float
    rounds: int


def main(smoke: bool) -> dict[str, Any]:
    """Measure; a smoke run has four slots."""
    sizes = _Sizes(4, 4, 12, 0.1, 0.3, 1) if smoke else _Sizes(256, 256, 1280, 4.0, 12.0, 1)
    tables, seconds = [], []
    with measure.workspace() as folder:
        for count in (sizes.few, sizes.many):
            made, used = _measure(folder / str(count), sizes, count)
            tables.append(made)
            seconds.append(used)
    cost = (seconds[1] - seconds[0]) / (sizes.many - sizes.few)
    return {
        "tables": tables,
        "processor microseconds of pytest's process for each further result": round(cost * 1e6),
        "results a second of one processor": round(1 / cost) if cost > 0 else 0,
    }


def _measure(folder: Path, sizes: _Sizes, count: int) -> tuple[dict[str, Any], float]:
    """Return the table of ``count`` tests, and the processor seconds of pytest's process."""
    tree, marks, junit, used = (
        folder / name for name in ("scripts", "marks", "junit.xml", "seconds")
    )
    for each in (folder, tree, marks):
        each.mkdir()
    (tree / "pytest.ini").touch()
    times = _sleeps(sizes, count)
    for number, seconds in enumerate(times):
        mark = marks / str(number)
        body = f": > {mark}.start\nsleep {seconds:.3f}\n: > {mark}.end"
        measure.write_script(tree / f"test_{number:04}.sh", body)
    options = ("-q", f"--nosejobs={sizes.slots}*popen", f"--junitxml={junit}")
    argv = [sys.executable, "-c", _PYTEST, str(used), *measure.pytest(*options)[3:]]
    check = functools.partial(_check, junit, marks, count, sizes.slots)
    forget = functools.partial(shutil.rmtree, tree / ".pytest_cache", ignore_errors=True)
    contenders = [
        Contender("nosejobs, no history", argv, tree, before=forget, check=check),
        Contender("nosejobs, history", argv, tree, check=check),
    ]
    runs = measure.in_turn(contenders, sizes.rounds)
    bound = max(max(times), sum(times) / sizes.slots)
    title = (
        f"{count} sleeps of {min(times):.2g} to {max(times):.2g} s, {sizes.slots} slots, "
        f"lower bound {bound:.2f} s, {measure.format_rounds(sizes.rounds)}"
    )
    made = measure.table(title, runs, bound, _NOTES, figure=_makespan, memory=True)
    return made, statistics.median(map(float, used.read_text().split()))


def _sleeps(sizes: _Sizes, count: int) -> list[float]:
    """Return random durations, the same for the same arguments."""
    source = random.Random(count)
    return [source.uniform(sizes.shortest, sizes.longest) for _ in range(count)]


def _makespan(done: Run) -> float:
    return done.found


def _check(junit: Path, marks: Path, count: int, slots: int) -> float:
    measure.check_junit(junit, count)
    starts = [path.stat().st_mtime_ns for path in marks.glob("*.start")]
    ends = [path.stat().st_mtime_ns for path in marks.glob("*.end")]
    if not len(starts) == len(ends) == count:
        raise RunFailed(f"{len(starts)} scripts started, {len(ends)} ended, of {count}")
    for path in marks.iterdir():
        path.unlink()
    return (max(ends) - statistics.mean(sorted(starts)[:slots])) / 1e9
