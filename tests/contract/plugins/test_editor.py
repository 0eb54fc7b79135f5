"""Tests that VS Code discovers and runs programs beside Python tests.

The package ``vscode_pytest`` of its Python extension is in no registry; ``editor_plugin`` has its
calls.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.contract.plugins import editor_plugin
from tests.contract.plugins.sample_project import PROGRAM_OUTCOMES, PROGRAMS, SampleProject

#: The outcomes of the editor by ours.
EDITOR_OUTCOMES = {"passed": "success", "failed": "failure", "error": "error", "skipped": "skipped"}


def run_in_editor(project: SampleProject, *options: str) -> dict[str, Any]:
    """Run pytest as the editor does; return what its plugin has written."""
    output = project.root / "out/editor.json"
    variables = {
        "PYTHONPATH": str(Path(editor_plugin.__file__).parent), "EDITOR_OUTPUT": str(output),
    }  # fmt: skip
    run = project.run(
        "-p", "editor_plugin", f"--rootdir={project.root}", *options, variables=variables
    )
    assert run.status in (0, 1), run.stdout + run.stderr
    result: dict[str, Any] = json.loads(output.read_text())
    return result


def test_discovery_finds_programs_beside_python_tests(
    hosts: list[str], project: SampleProject
) -> None:
    project.add_all()
    project.file("sh/test_below.py", "class TestA:\n    def test_b(self): pass\n")
    tree = run_in_editor(project, "--collect-only", *hosts)["tree"]
    root = project.root
    assert tree["sh"] == {
        **{
            Path(name).name: {Path(name).stem: [f"{root / name}::{Path(name).stem}", "1"]}
            for name in PROGRAMS
        },
        "test_below.py": {"test_b": [f"{root}/sh/test_below.py::TestA::test_b", "2"]},
    }
    assert len(tree["test_python.py"]) == 6


def test_each_program_has_its_outcome(hosts: list[str], project: SampleProject) -> None:
    project.add_all()
    found = run_in_editor(project, *hosts)["outcomes"]
    expected = {
        f"{project.root}/{nodeid}": EDITOR_OUTCOMES[outcome]
        for nodeid, outcome in PROGRAM_OUTCOMES.items()
    }
    assert {key: found.get(key) for key in expected} == expected


@pytest.mark.parametrize("name", ["mixed.t::mixed", "test_fail.sh::test_fail"])
def test_an_id_of_the_editor_selects_one_program(
    name: str, hosts: list[str], project: SampleProject
) -> None:
    project.add_all()
    nodeid = f"{project.root}/sh/{name}"
    result = run_in_editor(project, nodeid, *hosts)
    file, _, item = name.partition("::")
    assert result["tree"] == {"sh": {file: {item: [nodeid, "1"]}}}
    assert result["outcomes"][nodeid] == "failure"
