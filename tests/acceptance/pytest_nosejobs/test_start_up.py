"""Tests that a session without shell tests loads next to nothing of the plugin."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.pytest_nosejobs.conftest import Project, outcomes

#: A conftest file that writes the names of the project's modules that a session has loaded.
OBSERVER = """
import sys
from pathlib import Path
def pytest_unconfigure(config):
    packages = ("pytest_nosejobs", "shell_runner")
    names = [each for each in sys.modules if each.startswith(packages)]
    worker = getattr(config, "workerinput", {}).get("workerid", "")
    Path(config.rootpath, f"loaded{worker}").write_text("\\n".join(sorted(names)))
"""
#: The modules of each session.
ALWAYS = [
    "pytest_nosejobs", "pytest_nosejobs.fast_directory", "pytest_nosejobs.newhooks",
    "pytest_nosejobs.option_definitions", "pytest_nosejobs.plugin", "shell_runner",
    "shell_runner.collection", "shell_runner.collection.file_names", "shell_runner.config_file",
    "shell_runner.junit_style",
]  # fmt: skip


@pytest.fixture
def python_project(project: Project) -> Project:
    """Return a project with a Python test and files that are no tests."""
    project.file("conftest.py", OBSERVER)
    project.file("unit/test_python.py", "def test_passes(): pass\n")
    project.file("unit/test_data.json", "{}")
    project.file("unit/helper_test.md", "text")
    project.file("Makefile", "all:\n")
    project.file("run.sh", "exit 1\n")
    return project


def list_loaded(project: Project) -> list[list[str]]:
    """Return the names of the modules that each process of the last session has loaded."""
    return [path.read_text().split() for path in sorted(project.root.glob("loaded*"))]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("unit",),
        ("unit/test_python.py::test_passes",),
        ("-v", "-k", "passes"),
        ("-p", "xdist", "-n2"),
    ],
    ids=" ".join,
)
def test_a_session_without_shell_tests(python_project: Project, options: tuple[str, ...]) -> None:
    assert python_project.run(*options).ret == 0
    loaded = list_loaded(python_project)
    assert len(loaded) == (3 if "xdist" in options else 1)
    assert all(each == ALWAYS for each in loaded)


def add_script(project: Project) -> str:
    project.add("shell/deep/test_script.sh", "echo done")
    return ""


def name_script(project: Project) -> str:
    project.add("shell/any_name", "echo done")
    return "shell/any_name"


def name_case(project: Project) -> str:
    project.add("shell/test_a.t", "echo 1..1; echo ok 1 - first")
    return "shell/test_a.t::first"


def write_config(project: Project) -> str:
    project.file("nosejobs.toml", '[tests]\npreset = "nonsense"\n')
    return ""


def set_ini(project: Project) -> str:
    project.ini("nosejobs_grace = never")
    return ""


def set_option(project: Project) -> str:
    return "--nosejobs-repeat=0"


def implement_hook(project: Project) -> str:
    project.file("conftest.py", f"{OBSERVER}\ndef pytest_nosejobs_formats(config): 1 / 0\n")
    return ""


@pytest.mark.parametrize("prepare", [add_script, name_script, name_case])
@pytest.mark.parametrize("options", [(), ("-p", "xdist", "-n2")], ids=["alone", "workers"])
def test_a_program_loads_the_rest(
    python_project: Project, prepare: Callable[[Project], str], options: tuple[str, ...]
) -> None:
    argument = prepare(python_project)
    result = python_project.run(
        "-v", f"--junitxml={python_project.junit}", *options, argument or "."
    )
    assert result.ret == 0
    assert "pytest_nosejobs.session_plugin" in list_loaded(python_project)[0]
    assert "PASSED" in result.stdout.str()
    assert "[here]" in result.stdout.str()  # the host of a program
    assert ("host", "here") in read_properties(python_project.junit)


@pytest.mark.parametrize(
    ("prepare", "status", "message"),
    [
        (write_config, 4, "nonsense"),
        (set_ini, 4, "ini nosejobs_grace must be a number above 0"),
        (set_option, 4, "--nosejobs-repeat must be 1 to 10000"),
        (implement_hook, 3, "ZeroDivisionError"),
    ],
)
def test_invalid_settings_are_errors_without_shell_tests(
    python_project: Project, prepare: Callable[[Project], str], status: int, message: str
) -> None:
    argument = prepare(python_project)
    result = python_project.run(*filter(None, [argument]))
    assert result.ret == status
    assert message in result.stdout.str() + result.stderr.str()


def read_properties(path: Path) -> list[tuple[str | None, str | None]]:
    """Return the names and values of all properties in a file of JUnit XML."""
    return [(each.get("name"), each.get("value")) for each in ET.parse(path).iter("property")]


def test_python_tests_before_a_program_have_the_process_to_themselves(project: Project) -> None:
    project.file(
        "test_python.py",
        "import threading\ndef test_threads(): assert threading.active_count() == 1\n",
    )
    project.add("test_script.sh")
    assert outcomes(project.run()) == {"passed": 2}
    assert outcomes(project.run("-k", "threads")) == {"passed": 1, "deselected": 1}


def test_a_module_beside_python_tests_hides_none_of_ours(project: Project) -> None:
    project.file("one/queue.py", "")
    project.file("one/test_python.py", "import sys\ndef test_path(): assert 'one' in sys.path[0]\n")
    project.add("two/test_script.sh")
    assert outcomes(project.run()) == {"passed": 2}


@pytest.mark.parametrize("options", [(), ("--nosejobs=popen",)], ids=["here", "on a host"])
def test_formats_are_those_of_the_first_conftest_files(
    project: Project, options: tuple[str, ...]
) -> None:
    project.file("one/conftest.py", "def pytest_nosejobs_formats(config): 1 / 0\n")
    project.add("one/test_first.sh")
    project.add("two/test_script.sh")
    assert outcomes(project.run(*options)) == {"passed": 2}


@pytest.mark.parametrize("options", [(), ("--nosejobs-view=no",)], ids=["late", "early"])
def test_sections_come_in_the_same_order(project: Project, options: tuple[str, ...]) -> None:
    project.add("test_script.sh")
    project.file("test_other.sh", "echo")
    output = project.run(f"--junitxml={project.junit}", *options).stdout
    output.fnmatch_lines(["*generated xml file*", "nosejobs: 1 file looks like a test *"])
