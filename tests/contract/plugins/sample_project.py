"""A small project of programs and Python tests with all outcomes, and runs of pytest in it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.junit_compare import Row, read_testcases
from tests.helpers.single_host_run import write_program

MIXED = r"""cat <<'END'
1..4
ok 1 - a
not ok 2 - b
# got 1
ok 3 - c # SKIP no c
not ok 4 - d # TODO later
END"""
PROGRAMS = {
    "sh/green.t": r"printf '1..2\nok 1 - a\nok 2 - b\n'",
    "sh/mixed.t": MIXED,
    "sh/test_error.sh": "echo broken\nexit 99",
    "sh/test_fail.sh": "echo out\necho err >&2\nexit 3",
    "sh/test_flaky.sh": "# nosejobs: retries=1\nmkdir tried || exit 0\nexit 1",
    "sh/test_pass.sh": "echo fine",
    "sh/test_skip.sh": "echo no net\nexit 77",
    "sh/test_tagged.sh": "# nosejobs: tags=smoke\nexit 0",
}
PYTHON_TESTS = """
import pytest

def test_pass(): pass

def test_fail(): assert 1 == 2

@pytest.mark.parametrize("n", [1, 2])
def test_param(n): pass

def test_skip(): pytest.skip("why")

@pytest.fixture
def broken():
    yield
    raise RuntimeError("teardown")

def test_teardown(broken): pass
"""
#: The ids of the programs, and the worst outcome of each.
PROGRAM_OUTCOMES = {
    "sh/green.t::green": "passed",
    "sh/mixed.t::mixed": "failed",
    "sh/test_error.sh::test_error": "error",
    "sh/test_fail.sh::test_fail": "failed",
    "sh/test_flaky.sh::test_flaky": "passed",
    "sh/test_pass.sh::test_pass": "passed",
    "sh/test_skip.sh::test_skip": "skipped",
    "sh/test_tagged.sh::test_tagged": "passed",
}
#: The ids of all reports, and their outcomes.
REPORT_OUTCOMES = {
    "sh/green.t::a": "passed",
    "sh/green.t::b": "passed",
    "sh/mixed.t::a": "passed",
    "sh/mixed.t::b": "failed",
    "sh/mixed.t::c": "skipped",
    "sh/mixed.t::d": "xfailed",
    **{key: value for key, value in PROGRAM_OUTCOMES.items() if ".t::" not in key},
    "test_python.py::test_fail": "failed",
    "test_python.py::test_param[1]": "passed",
    "test_python.py::test_param[2]": "passed",
    "test_python.py::test_pass": "passed",
    "test_python.py::test_skip": "skipped",
    "test_python.py::test_teardown": "error",
}
_SUMMARY_LINE = re.compile(
    r"(?:PASSED|FAILED|ERROR|XFAIL|XPASS) (?P<id>.*?)(?: - |$)|SKIPPED \[\d+\] "
)


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    root: Path
    status: int
    stdout: str
    stderr: str

    def read(self, name: str) -> str:
        """Return the text of a file below ``out``."""
        return (self.root / "out" / name).read_text()

    @property
    def rows(self) -> dict[tuple[str, str], list[Row]]:
        """Return the testcases of JUnit XML by class and name, without those of the sample."""
        cases = read_testcases(self.root / "out/junit.xml", self.root)
        return {key: rows for key, rows in cases.items() if key[0] != "test_sample"}

    @property
    def summary(self) -> list[str]:
        """Return the lines of the short summary that name a test, without those of the sample."""
        lines = self.stdout.rpartition("short test summary info")[2].splitlines()
        return sorted(each for each in lines if _SUMMARY_LINE.match(each) and "sample" not in each)


class SampleProject:
    """A folder with the project, in which pytest runs with the plugins of one environment."""

    def __init__(self, root: Path, python: Path) -> None:
        self.root = root
        self._python = python
        (root / "out").mkdir(parents=True)
        self.file("pytest.ini", "[pytest]\nmarkers =\n    one: a marker\n")

    def add_all(self) -> None:
        """Add the programs and the Python tests."""
        for name, text in PROGRAMS.items():
            self.program(name, text)
        self.file("test_python.py", PYTHON_TESTS)

    def program(self, name: str, text: str) -> None:
        """Write a script of /bin/sh."""
        write_program(self.root / name, f"#!/bin/sh\n{text}\n", 0o755)

    def file(self, name: str, text: str) -> None:
        """Write a file that is not executable."""
        write_program(self.root / name, text, 0o644)

    def run(
        self, *options: str, variables: Mapping[str, str] | None = None, with_all: bool = False
    ) -> Run:
        """Run pytest as a process, with this plugin and those that ``options`` name.

        ``with_all``: with all that are installed, as pytest loads them without such options.
        """
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST", "COV", "GITHUB", "TEAMCITY", "PYTHONPATH"))
            and name not in ("CI", "BUILD_NUMBER", "COLUMNS", "PYTHONDONTWRITEBYTECODE")
        }
        state = self.root.parent
        environment = {
            **inherited,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "XDG_CACHE_HOME": str(state / "cache"),
            "XDG_STATE_HOME": str(state / "state"),
            "PYTHONPYCACHEPREFIX": str(self._python.parents[2] / "bytecode"),
            **(variables or {}),
        }
        if with_all:
            del environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"]
        command = [str(self._python), "-m", "pytest", "-p", "nosejobs", "-rA", *options]
        done = subprocess.run(
            [*command, "--junitxml=out/junit.xml"],
            cwd=self.root, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=120,
        )  # fmt: skip
        return Run(self.root, done.returncode, done.stdout, done.stderr)
