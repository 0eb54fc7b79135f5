"""Processor time of pytest's own process: collection, a run, and what other plugins add to it."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import measure
import trivial
from measure import Contender, Run

NAME = "processor"
#: Plugins that are measured one by one, with those that they need.
_OTHERS: Mapping[str, tuple[str, ...]] = {
    "allure_pytest": ("allure_pytest",),
    "hypothesis": ("hypothesispytest",),
    "pytest_asyncio": ("asyncio",),
    "pytest_bdd": ("pytest-bdd",),
    "pytest_benchmark": ("benchmark",),
    "pytest_check": ("check",),
    "pytest_cov": ("pytest_cov",),
    "pytest_dependency": ("dependency",),
    "pytest_github_actions_annotate_failures": ("pytest_github_actions_annotate_failures",),
    "pytest_instafail": ("instafail",),
    "pytest_jsonreport": ("metadata", "pytest_jsonreport"),
    "pytest_order": ("pytest_order",),
    "pytest_randomly": ("randomly",),
    "pytest_reportlog": ("pytest_reportlog",),
    "pytest_retry": ("pytest-retry",),
    "pytest_split": ("pytest-split",),
    "pytest_sugar": ("sugar",),
    "syrupy": ("syrupy",),
}
_HOSTS = "--nosejobs=2*popen"
_ALONE = "no other plugin"
_NOTES = (
    "Processor seconds of the process of pytest alone, without those of hosts and programs; "
    "trivial scripts, 100 in a folder.",
    "Per test: the run of many without the run of one, divided by their number.",
)
#: Runs pytest, and writes the processor seconds of this process to a file.
_RUN = """
import os, resource, sys
import pytest
status = pytest.main(sys.argv[2:])
usage = resource.getrusage(resource.RUSAGE_SELF)
with open(sys.argv[1], "w") as file:
    file.write(str(usage.ru_utime + usage.ru_stime))
sys.stdout.flush()
os._exit(status)
"""


def main(smoke: bool) -> dict[str, Any]:
    """Measure; a smoke run only shows that all of them work."""
    many, some, rounds = (200, 100, 1) if smoke else (10_000, 3000, 7)
    missing = [name for name in (*measure.COMMON_PLUGINS, *_OTHERS) if not measure.has_module(name)]
    with measure.workspace() as folder:
        for name, count in (("many", many), ("some", some), ("one", 1)):
            trivial.make_tree(folder / name, count)
            (folder / name / "pytest.ini").touch()
        runs = measure.in_turn(list(_list_contenders(folder, missing)), rounds)
        per_test = {
            name: _divide(runs.pop(f"{name}, many"), runs.pop(f"{name}, one"), some - 1)
            for name in (_ALONE, "common plugins")
        }
        others = list(_list_others(folder, missing))
        runs_of_others = measure.in_turn(others[:2] if smoke else others, 1 if smoke else 3)
    tables = [
        measure.table(
            f"collection of {many} scripts, {measure.format_rounds(rounds)}",
            runs, "without hosts", _NOTES, figure=_get_seconds,
        ),
        measure.table(
            f"a run of {some} scripts with JUnit XML, per test, {measure.format_rounds(rounds)}",
            per_test, _ALONE, figure=_get_seconds,
        ),
        measure.table(
            f"a run of {some} scripts with JUnit XML and one more plugin",
            runs_of_others, _ALONE, figure=_get_seconds,
        ),
    ]  # fmt: skip
    return {"tables": tables, "skipped": [f"{name} is not installed" for name in missing]}


def _list_contenders(folder: Path, missing: Sequence[str]) -> Iterator[Contender]:
    common = measure.list_common_plugins()
    junit = f"--junitxml={folder}/junit.xml"
    yield _make_contender("without hosts", folder, "many", "--collect-only")
    yield _make_contender("with hosts", folder, "many", "--collect-only", _HOSTS)
    for name, plugins in ((_ALONE, []), ("common plugins", common)):
        yield _make_contender(f"{name}, many", folder, "some", _HOSTS, junit, plugins=plugins)
        yield _make_contender(f"{name}, one", folder, "one", _HOSTS, junit, plugins=plugins)


def _list_others(folder: Path, missing: Sequence[str]) -> Iterator[Contender]:
    junit = f"--junitxml={folder}/junit.xml"
    yield _make_contender(_ALONE, folder, "some", _HOSTS, junit)
    for name, plugins in {**measure.COMMON_PLUGINS, **_OTHERS}.items():
        if name not in missing:
            needed = ("metadata", *plugins) if name == "pytest_html" else plugins
            yield _make_contender(name, folder, "some", _HOSTS, junit, plugins=needed)


def _make_contender(
    name: str, folder: Path, tree: str, *options: str, plugins: Sequence[str] = ()
) -> Contender:
    seconds = folder / "seconds"
    chosen = [word for each in ("nosejobs", *plugins) for word in ("-p", each)]
    words = [sys.executable, "-c", _RUN, str(seconds), "-q", "-p", "no:cacheprovider"]
    check = functools.partial(_take_seconds, seconds)
    return Contender(name, [*words, *chosen, *options], folder / tree, check=check)


def _take_seconds(path: Path) -> float:
    seconds = float(path.read_text())
    os.unlink(path)
    return seconds


def _get_seconds(done: Run) -> float:
    return done.found


def _divide(many: Sequence[Run], one: Sequence[Run], count: int) -> list[Run]:
    """Return runs whose finding is the seconds for each test."""
    pairs = zip(many, one, strict=True)
    return [replace(each, found=(each.found - base.found) / count) for each, base in pairs]
