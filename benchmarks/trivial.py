"""Thousands of scripts that do nothing: what a test costs beyond its program, beside xargs."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
from measure import Contender

NAME = "trivial"
_BASE = "xargs -0 -P2 -n1 sh"
_FOLDER = 100
#: More would take minutes.
_MOST_FOR_PROVE = 2000
_NOTES = (
    "Targets: at 10 000 at most 0.75 of lit, with common plugins (xdist, timeout, rerunfailures, "
    "html, metadata, all installed and none with an option) 0.85; at 300 at most 2.0 of xargs.",
    "The base starts each script by sh, as xargs cannot execute its input itself; 'spawn loops' "
    "do: two bare loops of posix_spawn and waitpid, one a half of the scripts.",
    "Memory: peak RSS of the command, and the sum over interpreters below it (for nosejobs: the "
    "host, which is gateway and slots). All but xargs, the loops and prove write JUnit, whose "
    "count of tests is checked. prove takes minutes for 10 000 and is run on 2000 only.",
)
_LOOP = """\
import os, sys
for path in open(sys.argv[1]).read().split(chr(0))[int(sys.argv[2])::2]:
    if path and os.waitpid(os.posix_spawn(path, [path], os.environ), 0)[1]:
        sys.exit(1)
"""
_LOOPS = '"$0" -S -c "$1" "$2" 0 & "$0" -S -c "$1" "$2" 1 && wait $!'


def main(smoke: bool) -> dict[str, Any]:
    """Measure; a smoke run only shows that all of them work."""
    sizes = {300: 1} if smoke else {300: 7, 2000: 5, 10_000: 3}
    missing: list[str] = []
    tables = []
    for size, rounds in sizes.items():
        with measure.workspace() as folder:
            contenders = list(_contenders(folder, size, missing))
            if not smoke:
                _warm_up(folder / "warm")
            runs = measure.in_turn(contenders, rounds)
        title = f"{size} scripts `exit 0`, 2 at a time, {measure.format_rounds(rounds)}"
        tables.append(measure.table(title, runs, _BASE, _NOTES, memory=True))
    return {"tables": tables, "skipped": sorted(set(missing))}


def _warm_up(folder: Path) -> None:
    """Compile modules and warm the page cache for all contenders."""
    folder.mkdir()
    measure.in_turn(list(_contenders(folder, 20, [])), 1)


def make_tree(folder: Path, count: int, body: str = "exit 0") -> list[Path]:
    """Write scripts, a hundred to a folder."""
    scripts = []
    for number in range(count):
        path = folder / f"d{number // _FOLDER:03}" / f"test_{number:05}.sh"
        path.parent.mkdir(parents=True, exist_ok=True)
        measure.write_script(path, body)
        scripts.append(path)
    return scripts


def _contenders(folder: Path, count: int, missing: list[str]) -> Iterator[Contender]:
    tree, junit = folder / "scripts", folder / "junit.xml"
    scripts = make_tree(tree, count)
    (tree / "pytest.ini").touch()
    paths = folder / "names"
    paths.write_bytes(b"\0".join(bytes(path) for path in scripts))
    check = functools.partial(measure.check_junit, junit, count)
    report = f"--junitxml={junit}"

    yield Contender(_BASE, _BASE.split(), tree, paths)
    loops = ["sh", "-c", _LOOPS, sys.executable, _LOOP, str(paths)]
    yield Contender("spawn loops", loops, tree)
    ours = measure.pytest("-q", "--nosejobs=2*popen", report)
    yield Contender("pytest --nosejobs=2*popen", ours, tree, check=check)
    plugins = ("nosejobs", *measure.list_common_plugins())
    ours = measure.pytest("-q", "--nosejobs=2*popen", report, plugins=plugins)
    yield Contender("the same with common plugins", ours, tree, check=check)
    missing += [
        f"{name} is not installed"
        for name in measure.COMMON_PLUGINS
        if not measure.has_module(name)
    ]
    yield from _lit(folder, junit, check, missing)
    yield from _ctest(folder, scripts, junit, check, missing)
    yield from _xdist(folder, scripts, report, check, missing)
    yield from _prove(folder, count, missing)


def _lit(folder: Path, junit: Path, check: Any, missing: list[str]) -> Iterator[Contender]:
    if not measure.has_module("lit"):
        missing.append("lit is not installed")
        return
    measure.write_lit_config(folder / "scripts", folder / "lit")
    yield Contender("lit -j2", measure.lit(2, folder / "scripts", junit), folder, check=check)


def _ctest(
    folder: Path, scripts: list[Path], junit: Path, check: Any, missing: list[str]
) -> Iterator[Contender]:
    if shutil.which("ctest") is None:
        missing.append("ctest is not installed")
        return
    project = folder / "ctest"
    project.mkdir()
    lines = [f'add_test({path.stem} "{path}")\n' for path in scripts]
    (project / "CTestTestfile.cmake").write_text("".join(lines))
    argv = ["ctest", "-Q", "-j2", "--output-junit", str(junit)]
    yield Contender("ctest -j2", argv, project, check=check)


def _xdist(
    folder: Path, scripts: list[Path], report: str, check: Any, missing: list[str]
) -> Iterator[Contender]:
    if not measure.has_module("xdist"):
        missing.append("pytest-xdist is not installed")
        return
    workers = measure.pytest("-q", "-n2", report, plugins=("nosejobs", "xdist"))
    yield Contender("pytest -n2, nosejobs' items", workers, folder / "scripts", check=check)
    module = folder / "python" / "test_module.py"
    module.parent.mkdir()
    (module.parent / "pytest.ini").touch()
    measure.write_python_module(module, scripts)
    plain = measure.pytest("-q", "-n2", report, plugins=("xdist",))
    yield Contender("pytest -n2, subprocess.run", plain, module.parent, check=check)


def _prove(folder: Path, count: int, missing: list[str]) -> Iterator[Contender]:
    if count > _MOST_FOR_PROVE:
        return
    if shutil.which("prove") is None:
        missing.append("prove is not installed")
        return
    tree = folder / "tap"
    make_tree(tree, count, "echo 1..1\necho ok 1")
    argv = ["prove", "--norc", "-j2", "-Q", "-e", "sh", "--ext", ".sh", "-r", "."]
    yield Contender("prove -j2 -e sh (prints TAP)", argv, tree)
