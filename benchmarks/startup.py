"""One test: seconds from the command to its first result, beside a plain Python test."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
from measure import Contender, Run

NAME = "startup"
_BASE = "pytest, Python test, no plugin"
_NOTES = (
    "Time until the outcome stands in the output of `pytest -v`; wall time to the end of the "
    "command is in the second table.",
)


def main(smoke: bool) -> dict[str, Any]:
    """Measure; a smoke run only shows that all of them work."""
    rounds = 1 if smoke else 11
    missing: list[str] = []
    with measure.workspace() as folder:
        contenders = list(_contenders(folder, missing))
        measure.in_turn(contenders, 1)  # compiled modules, a warm page cache
        runs = measure.in_turn(contenders, rounds)
    titles = (
        f"1 test, first result, {measure.format_rounds(rounds)}",
        f"1 test, whole run, {measure.format_rounds(rounds)}",
    )
    tables = [
        measure.table(titles[0], runs, _BASE, _NOTES, figure=_first),
        measure.table(titles[1], runs, _BASE, memory=True),
    ]
    return {"tables": tables, "skipped": missing}


def _first(done: Run) -> float:
    return done.first


def _contenders(folder: Path, missing: list[str]) -> Iterator[Contender]:
    shell, python, junit = folder / "shell", folder / "python", folder / "junit.xml"
    for each in (shell, python):
        each.mkdir()
        (each / "pytest.ini").touch()
    measure.write_script(shell / "test_one.sh", "exit 0")
    (python / "test_one.py").write_text("def test_one():\n    pass\n")
    common = {"until": b"PASSED", "check": functools.partial(measure.check_junit, junit, 1)}
    options = ("-v", f"--junitxml={junit}")

    yield Contender(_BASE, measure.pytest(*options, plugins=()), python, **common)
    yield Contender(
        "pytest, Python test, plugin loaded", measure.pytest(*options), python, **common
    )
    yield Contender("pytest, script, here", measure.pytest(*options), shell, **common)
    for slots in (1, 2):
        argv = measure.pytest(*options, f"--nosejobs={slots}*popen")
        yield Contender(f"pytest, script, {slots}*popen", argv, shell, **common)
    if measure.has_module("xdist"):
        argv = measure.pytest(*options, "-n2", plugins=("nosejobs", "xdist"))
        yield Contender("pytest, script, xdist -n2", argv, shell, **common)
    else:
        missing.append("pytest-xdist is not installed")
