"""A project of scripts, and runs of pytest in it as a user runs it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.helpers.node_ids import get_program_id
from tests.helpers.single_host_run import write_program

SH = "#!/bin/sh\n"


class Project:
    """A folder with an ini file, in which pytest runs as a separate process."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.root: Path = pytester.path
        self.junit = self.root / "junit.xml"
        self.ini("")

    def ini(self, text: str) -> None:
        """Write pytest.ini with these lines."""
        (self.root / "pytest.ini").write_text(f"[pytest]\n{text}\n")

    def add(self, name: str, text: str | bytes = "", mode: int = 0o755) -> Path:
        """Write a test program; a text without a shebang becomes a script of /bin/sh."""
        if isinstance(text, str) and not text.startswith("#!"):
            text = SH + text + "\n"
        return write_program(self.root / name, text, mode)

    def file(self, name: str, text: str) -> Path:
        """Write a file that is not executable."""
        return write_program(self.root / name, text, 0o644)

    def wrap_makereport(self, *lines: str, more: str = "") -> None:
        """Write a conftest file with a wrapper of makereport that runs ``lines``, and ``more``.

        They know ``item``, ``call`` and the ``report``.
        """
        hook = ["@pytest.hookimpl(wrapper=True)", "def pytest_runtest_makereport(item, call):"]
        body = [f"    {line}" for line in ("report = yield", *lines, "return report")]
        self.file("conftest.py", "\n".join(["import pytest", *hook, *body, more]))

    def run(self, *arguments: str) -> pytest.RunResult:
        """Run pytest as a process, without input and without plugins except this one."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
            ours = ("-p", "pytest_nosejobs.plugin")
            return self.pytester.runpytest_subprocess(*ours, *arguments, timeout=120)

    def run_with_all_plugins(self, *arguments: str) -> pytest.RunResult:
        """Run pytest as a process, with all plugins that are installed."""
        return self.pytester.runpytest_subprocess(*arguments, timeout=120)

    def collect(self, *arguments: str) -> list[str]:
        """Return what ``--collect-only -q`` prints: files of programs, and ids of other items."""
        result = self.run("--collect-only", "-q", *arguments)
        lines = result.outlines
        return [
            get_program_id(each) for each in (lines[: lines.index("")] if "" in lines else lines)
        ]

    def cases(self, *arguments: str) -> tuple[int, dict[str, Case]]:
        """Run with JUnit XML; return the exit status, and the testcases by name."""
        self.junit.unlink(missing_ok=True)
        done = self.run(f"--junitxml={self.junit}", *arguments)
        cases = [Case(element) for element in ET.parse(self.junit).iter("testcase")]
        assert len({case.id for case in cases}) == len(cases)
        return int(done.ret), {case.name: case for case in cases}


class Case:
    """One testcase of JUnit XML."""

    def __init__(self, element: ET.Element) -> None:
        self.id = (element.get("classname", ""), element.get("name", ""))
        self.name = self.id[1]
        self.element = element
        marks = [each for each in element if each.tag in ("failure", "error", "skipped")]
        self.outcome = "+".join(each.tag for each in marks) or "passed"
        self.message = "|".join(each.get("message", "") for each in marks)
        self.text = "".join(each.text or "" for each in marks)
        self.out = "".join(each.text or "" for each in element if each.tag == "system-out")
        self.properties = {
            each.get("name", ""): each.get("value", "") for each in element.iter("property")
        }

    def facts(self) -> tuple[str, ...]:
        """Return the values that must not depend on the host that ran the test."""
        text = re.sub(r"(?m)^(host|took) .*\n", "", self.text)
        return (*self.id, self.outcome, self.message, text, self.out)


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    return Project(pytester)


def outcomes(result: pytest.RunResult) -> dict[str, int]:
    """Return the counts of outcomes in the summary line."""
    return result.parseoutcomes()
