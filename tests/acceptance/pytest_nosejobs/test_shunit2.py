"""Tests with the unmodified examples of the package shunit2."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.sshd import Sshd

from .conftest import Project

EXAMPLES = Path("/usr/share/doc/shunit2/examples")
PROGRAM = Path("/usr/share/shunit2/shunit2")
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*_test.sh"))


def count_assertions(text: str) -> tuple[int, int]:
    """Return the numbers of failed assertions and of tests in the output of shunit2."""
    text = re.sub(r"\\x1b\[[0-9;]*m|\x1b\[[0-9;]*m", "", text)
    ran = re.search(r"Ran (\d+) tests?", text)
    return len(re.findall(r"^ASSERT:", text, re.MULTILINE)), int(ran[1]) if ran else -1


@pytest.fixture
def examples(project: Project) -> Project:
    if not (EXAMPLES.is_dir() and PROGRAM.exists()):
        pytest.skip("the package shunit2 is not installed")
    project.ini("junit_logging = all")
    copy = project.root / "copy"
    shutil.copytree(EXAMPLES, copy / "examples")
    (copy / "shunit2").symlink_to(PROGRAM)
    project.file("copy/nosejobs.toml", "")
    return project


def run_without_pytest(project: Project) -> dict[str, tuple[int, tuple[int, int]]]:
    """Run each script without pytest; return exit status and counts by name."""
    results = {}
    for name in SCRIPTS:
        done = subprocess.run(
            [f"./{name}"],
            cwd=project.root / "copy" / "examples",
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        results[name] = done.returncode, count_assertions(done.stdout)
    return results


@pytest.mark.parametrize("kind", ["here", "popen", "ssh"])
def test_statuses_and_assertions_are_those_by_hand(
    examples: Project, kind: str, sshd: Sshd
) -> None:
    expected = run_without_pytest(examples)
    assert sorted(status for status, _ in expected.values()) == [0] * 5 + [1] * 2
    hosts = {
        "here": (),
        "popen": ("--nosejobs=4*popen",),
        "ssh": (f"--nosejobs={sshd.spec(slots=4)}",),
    }
    (examples.root / "pytest.ini").rename(examples.root / "copy" / "pytest.ini")
    _, cases = examples.cases(*hosts[kind], "--rootdir=copy", "-c", "copy/pytest.ini", "copy")
    assert sorted(cases) == SCRIPTS
    results = {
        name: (int(case.properties["exit_status"]), count_assertions(case.out))
        for name, case in cases.items()
    }
    assert results == expected
    assert sorted(case.outcome for case in cases.values()) == ["failure"] * 2 + ["passed"] * 5
