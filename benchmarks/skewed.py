"""Sixty sleeps of very different length: makespan over the lower bound.

On four slots of one host, and on two hosts with two slots each, one of them three times as
slow: there each script sleeps three times as long.
"""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
from measure import Contender, Run, RunFailed

NAME = "skewed"
_COUNT = 60
_SLOTS = 4
_SHORTEST, _LONGEST = 0.05, 3.0
#: The factor by which the slow one of two hosts is.
_FACTOR = 3
_NOTES = (
    "Makespan: from the start of the first script to the end of the last, by files that the "
    "scripts themselves touch. Ratio: to the lower bound max(longest, sum / slots).",
    "Target with history: at most 1.05.",
)


def main(smoke: bool) -> dict[str, Any]:
    """Measure; a smoke run takes a tenth of the times and proves little."""
    scale, rounds = (0.1, 1) if smoke else (1.0, 3)
    times = [each * scale for each in sleeps()]
    bound = max(max(times), sum(times) / _SLOTS)
    missing: list[str] = []
    with measure.workspace() as folder:
        runs = measure.in_turn(list(_contenders(folder, times, missing)), rounds)
    title = (
        f"{_COUNT} sleeps of {min(times):g}-{max(times):g} s, {_SLOTS} at a time, "
        f"lower bound {bound:.2f} s, {measure.format_rounds(rounds)}"
    )
    made = measure.table(title, runs, bound, _NOTES, figure=_makespan)
    tables = [made, _two_hosts(times, rounds)]
    return {"tables": tables, "skipped": missing, "lower_bound": bound}


def _two_hosts(times: list[float], rounds: int) -> dict[str, Any]:
    """Return the lower bound: the makespan if all slots are busy to the end."""
    bound = max(max(times), sum(times) / (_SLOTS / 2 * (1 + 1 / _FACTOR)))
    with measure.workspace() as folder:
        runs = measure.in_turn(list(_on_two_hosts(folder, times)), rounds)
    title = (
        f"the same on two hosts, {_SLOTS // 2} at a time on each, one {_FACTOR} times as slow, "
        f"lower bound {bound:.2f} s, {measure.format_rounds(rounds)}"
    )
    return measure.table(title, runs, bound, _NOTES, figure=_makespan)


def _on_two_hosts(folder: Path, times: list[float]) -> Iterator[Contender]:
    tree, marks, junit = folder / "scripts", folder / "marks", folder / "junit.xml"
    _write(tree, marks, times)
    (tree / "pytest.ini").write_text("[pytest]\nnosejobs_pass_env = SLOWLY\n")
    slow = folder / "slow-python"
    measure.write_script(slow, f'SLOWLY=1 exec {sys.executable} "$@"')
    half = _SLOTS // 2
    hosts = f"{half}*popen//id=slow//python={slow},{half}*popen//id=fast"
    argv = measure.pytest("-q", f"--nosejobs={hosts}", f"--junitxml={junit}")
    check = functools.partial(_check, junit, marks)
    forget = functools.partial(_clean, marks, tree / ".pytest_cache")
    yield Contender("nosejobs, no history", argv, tree, before=forget, check=check)
    clean = functools.partial(_clean, marks)
    yield Contender("nosejobs, history", argv, tree, before=clean, check=check)


def _makespan(done: Run) -> float:
    return done.found


def sleeps() -> list[float]:
    """Return durations spread evenly on a logarithmic scale, in a fixed, mixed order."""
    steps = [(number * 37 % _COUNT) / (_COUNT - 1) for number in range(_COUNT)]
    return [_SHORTEST * (_LONGEST / _SHORTEST) ** step for step in steps]


def _contenders(folder: Path, times: list[float], missing: list[str]) -> Iterator[Contender]:
    tree, marks, junit = folder / "scripts", folder / "marks", folder / "junit.xml"
    scripts = _write(tree, marks, times)
    report = f"--junitxml={junit}"
    check = functools.partial(_check, junit, marks)
    clean = functools.partial(_clean, marks)
    forget = functools.partial(_clean, marks, tree / ".pytest_cache")

    ours = measure.pytest("-q", f"--nosejobs={_SLOTS}*popen", report)
    yield Contender("nosejobs, no history", ours, tree, before=forget, check=check)
    # Its history is what the run before it has just left.
    yield Contender("nosejobs, history", ours, tree, before=clean, check=check)
    if measure.has_module("lit"):
        root = folder / "lit"
        measure.write_lit_config(tree, root)
        argv = measure.lit(_SLOTS, tree, junit)
        unknown = functools.partial(_clean, marks, root / ".lit_test_times.txt")
        yield Contender("lit, no history", argv, folder, before=unknown, check=check)
        yield Contender("lit, history", argv, folder, before=clean, check=check)
    else:
        missing.append("lit is not installed")
    if measure.has_module("xdist"):
        module = folder / "python" / "test_module.py"
        module.parent.mkdir()
        (module.parent / "pytest.ini").touch()
        measure.write_python_module(module, scripts)
        for way in ("worksteal", "load"):
            argv = measure.pytest("-q", f"-n{_SLOTS}", "--dist", way, report, plugins=("xdist",))
            name = f"xdist --dist {way}"
            yield Contender(name, argv, module.parent, before=clean, check=check)
    else:
        missing.append("pytest-xdist is not installed")


def _write(tree: Path, marks: Path, times: list[float]) -> list[Path]:
    tree.mkdir()
    marks.mkdir()
    (tree / "pytest.ini").touch()
    scripts = []
    for number, seconds in enumerate(times):
        path = tree / f"test_{number:02}.sh"
        mark = marks / f"{number:02}"
        slowly = f'if [ "$SLOWLY" ]; then sleep {seconds * _FACTOR:.4f}'
        body = f": > {mark}.start\n{slowly}; else sleep {seconds:.4f}; fi\n: > {mark}.end"
        measure.write_script(path, body)
        scripts.append(path)
    return scripts


def _clean(marks: Path, *others: Path) -> None:
    for path in marks.iterdir():
        path.unlink()
    for path in others:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _check(junit: Path, marks: Path) -> float:
    measure.check_junit(junit, _COUNT)
    starts = [path.stat().st_mtime_ns for path in marks.glob("*.start")]
    ends = [path.stat().st_mtime_ns for path in marks.glob("*.end")]
    if not len(starts) == len(ends) == _COUNT:
        raise RunFailed(f"{len(starts)} scripts started, {len(ends)} ended, of {_COUNT}")
    return (max(ends) - min(starts)) / 1e9
