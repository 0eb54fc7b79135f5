"""Tests that no plugin changes what a run reports: outcomes, ids, JUnit XML and exit status."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.plugins.plugin_table import PLUGINS, Plugin
from tests.contract.plugins.sample_project import Run, SampleProject

RunWith = Callable[[str, str], Run]


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_results_are_those_without_the_plugin(plugin: Plugin, mode: str, run_with: RunWith) -> None:
    bare, run = run_with("", mode), run_with(plugin.name, mode)
    assert run.status == bare.status == 1, run.stdout + run.stderr
    assert run.rows == bare.rows
    assert len(bare.summary) == 19
    if not plugin.has_own_summary:
        assert run.summary == bare.summary
    if plugin.sample:
        assert 'name="test_sample" ' in run.read("junit.xml")
        assert "PASSED test_sample.py::test_sample" in run.stdout


def test_results_are_those_without_all_plugins_together(
    mode: str, hosts: list[str], run_with: RunWith, project: SampleProject
) -> None:
    project.add_all()
    bare, run = run_with("", mode), project.run(*hosts, with_all=True)
    assert run.status == bare.status == 1, run.stdout + run.stderr
    assert run.rows == bare.rows
    assert run.summary == bare.summary


def test_results_are_the_same_in_both_modes(run_with: RunWith) -> None:
    here, hosts = run_with("", "here"), run_with("", "hosts")
    assert here.summary == hosts.summary
    assert {key: [each.outcome for each in rows] for key, rows in here.rows.items()} == {
        key: [each.outcome for each in rows] for key, rows in hosts.rows.items()
    }


def test_the_page_names_all_plugins_with_their_versions() -> None:
    page = (Path(__file__).parents[3] / "docs/plugins.md").read_text()
    rows = re.findall(r"(?m)^\| \[(\S+)\]\(https://pypi\.org/project/(\S+)/\) \| (\S+) \|", page)
    assert rows == [(each.name, each.name, each.version) for each in PLUGINS]
