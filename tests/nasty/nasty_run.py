"""Runs of pytest over trees of nasty programs, and their testcases.

Must not depend on where the tests run: options, a command before the interpreter and a user say it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.nasty import corpus, process_watch
from tests.nasty.corpus import NastyProgram

ROOT = Path(__file__).parents[2]


def build_home_variables(home: Path) -> dict[str, str]:
    """Return the variables that keep all files of a user below ``home``."""
    return {
        "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_STATE_HOME": str(home / "state"),
    }  # fmt: skip


@dataclass
class NastyTestcase:
    """The content of one testcase of JUnit XML."""

    outcome: str = corpus.PASSED
    message: str = ""
    output: str = ""
    properties: dict[str, str] = field(default_factory=dict)


class NastyRun:
    """A run of pytest over a tree of nasty programs."""

    def __init__(
        self, folder: Path, programs: Iterable[NastyProgram], options: Iterable[str] = (),
        user: str = "",
    ) -> None:  # fmt: skip
        """Write the tree; it and the temporary files belong to ``user`` if one is given."""
        self.marker = f"nasty-{uuid.uuid4().hex}"
        self.tree = folder / self.marker
        self.tree.mkdir(parents=True)
        self.xml = folder / f"{self.marker}.xml"
        self.tmp = Path(corpus.TMP or folder) / f"{self.marker}-tmp"
        self.home = self.tmp / "home"
        self.home.mkdir(parents=True)
        self.programs = list(programs)
        corpus.write_tree(self.tree, self.programs)
        if user:
            subprocess.run(["chown", "-R", user, self.tree, self.tmp], check=True)
        self.output = ""
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, before: Iterable[str] = ()) -> NastyRun:
        """Start the run; ``before`` is a command that executes the interpreter."""
        ini = {
            "nosejobs_grace": "0.3",
            "nosejobs_pass_env": "NASTY_MARKER",
            "junit_logging": "all",
        }
        command = [
            *before, sys.executable, "-m", "pytest", "-q", f"--rootdir={self.tree}",
            f"--junitxml={self.xml}", "-p", "no:randomly",
            *(word for name, value in ini.items() for word in ("-o", f"{name}={value}")),
            *self._options,
        ]  # fmt: skip
        env = {
            **os.environ, "TMPDIR": str(self.tmp), "NASTY_MARKER": self.marker,
            **build_home_variables(self.home), "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }  # fmt: skip
        self.log = self.xml.with_suffix(".log").open("w+b")
        self.process = subprocess.Popen(
            command, cwd=self.tree, env=env, stdout=self.log, stderr=subprocess.STDOUT
        )
        return self

    def finish(self, timeout: float = 120.0) -> int:
        """Wait for the end of the run; return its exit status."""
        assert self.process is not None
        status = self.process.wait(timeout)
        self.read_log()
        return status

    def read_log(self) -> None:
        self.log.seek(0)
        self.output = self.log.read().decode(errors="replace")
        self.log.close()

    def results(self) -> dict[str, NastyTestcase]:
        """Return the testcases by ``class/name``, where the class is the folder."""
        testcases = {}
        for element in ET.parse(self.xml).iter("testcase"):
            testcases[f"{element.get('classname')}/{element.get('name')}"] = _read_testcase(element)
        return testcases

    def get_testcase(self, case: NastyProgram) -> NastyTestcase:
        """Return the testcase of one program."""
        return self.results()[get_key(case)]

    def list_leftovers(self) -> list[str]:
        """Return processes and temporary folders that are left."""
        processes = process_watch.find_leftovers(self.marker)
        return [*processes, *map(str, self.tmp.glob("nosejobs-*"))]

    def remove(self) -> None:
        shutil.rmtree(self.tmp, ignore_errors=True)


def get_key(case: NastyProgram) -> str:
    folder, _, name = case.id.rpartition("/")
    return f"{folder.replace('/', '.') or '.'}/{name}"


def _read_testcase(element: ET.Element) -> NastyTestcase:
    testcase = NastyTestcase()
    for tag, outcome in (
        ("failure", corpus.FAILED), ("error", corpus.ERROR), ("skipped", corpus.SKIPPED),
    ):  # fmt: skip
        problem = element.find(tag)
        if problem is not None:
            testcase.outcome = outcome
            testcase.message = f"{problem.get('message')}\n{problem.text}"
    streams = [element.find("system-out"), element.find("system-err")]
    testcase.output = "".join(each.text or "" for each in streams if each is not None)
    for each in element.iter("property"):
        testcase.properties[each.get("name", "")] = each.get("value", "")
    return testcase


def check(case: NastyProgram, found: NastyTestcase) -> None:
    """Check a testcase against all expectations of the table."""
    assert found.outcome == case.outcome, found.message
    assert case.message in found.message
    assert case.output in found.output
    if case.leftovers:
        assert case.leftovers in found.properties.get("leftovers", "")
    else:
        assert "leftovers" not in found.properties


def compare(program: NastyProgram, results: dict[str, NastyTestcase]) -> str:
    """Return what differs from the expectations of one program; empty if nothing does."""
    found = results.get(get_key(program))
    if found is None:
        return "not reported"
    try:
        check(program, found)
    except AssertionError as error:
        return f"{error}: {found}"
    return ""


def count_cases(program: NastyProgram, results: dict[str, NastyTestcase]) -> tuple[int, int]:
    """Return how many cases of one program failed, and how many passed."""
    prefix = program.id + "/"
    outcomes = [found.outcome for key, found in results.items() if key.startswith(prefix)]
    return outcomes.count(corpus.FAILED), outcomes.count(corpus.PASSED)
