"""Tests that a plugin of which the fast path knows finds what it finds in pytest's whole protocol.

A plugin that takes part in the protocol of each test brings the whole protocol back.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from pytest_nosejobs import protocol_hooks
from tests.contract.plugins.plugin_table import PLUGINS, Plugin
from tests.contract.plugins.sample_project import Run, SampleProject

#: A conftest file that takes part, and notes for which items its hook is called.
LISTENER = """
from pathlib import Path
def pytest_runtest_teardown(item):
    with open(Path(item.config.rootpath, "out/called"), "a") as file:
        file.write(item.nodeid + "\\n")
"""
#: A conftest file that notes which programs have the whole protocol.
OBSERVER = """
from pathlib import Path
from pytest_nosejobs.protocol_hooks import ProtocolHooks
def pytest_sessionfinish(session):
    hooks = ProtocolHooks()
    found = [each.name for each in session.items if each.path.suffix in (".sh", ".t")]
    assert len(found) == 8
    listened = [each.name for each in session.items if hooks.has_listeners(each)]
    Path(session.config.rootpath, "out/listened").write_text(" ".join(listened))
"""
#: Options with which the fast path holds, where it does not with those of the table.
OPTIONS = {"pytest-bdd": (), "pytest-html": (), "pytest-benchmark": ()}
#: Times, and the order of lines, which differ from run to run.
VARIES = re.compile(r"\d+\.\d+ ?s|\d+:\d\d:\d\d|seed=\d+|\bp\d+\b")


def known_plugins() -> list[Plugin]:
    """Return the plugins of the table whose modules the fast path knows."""
    known = (
        *protocol_hooks._IRRELEVANT_MODULES,
        *protocol_hooks._IRRELEVANT_WITHOUT_OPTION,
        *protocol_hooks._IRRELEVANT_WITHOUT_MARKER,
    )
    names = [name.strip("._") for name in known if name not in ("_pytest.", "pytest_nosejobs.")]
    return [
        each
        for each in PLUGINS
        if each.name.replace("-", "_") in names or (each.name.removeprefix("pytest-") in names)
    ]


@pytest.mark.parametrize("plugin", known_plugins(), ids=lambda plugin: plugin.name)
def test_output_is_that_of_the_whole_protocol(
    plugin: Plugin, make_project: Callable[[], SampleProject]
) -> None:
    fast, whole = (run(make_project(), plugin, text) for text in (OBSERVER, LISTENER))
    assert fast.read("listened") == ""
    assert "sh/test_pass.sh::test_pass" in whole.read("called")
    assert fast.status == whole.status == 1, fast.stdout + fast.stderr
    assert fast.rows == whole.rows
    assert fast.summary == whole.summary
    assert list_lines(fast) == list_lines(whole)


def run(project: SampleProject, plugin: Plugin, conftest: str) -> Run:
    """Run the programs of the project on a host with a plugin, and with a conftest file."""
    project.add_all()
    project.file("conftest.py", conftest)
    options = OPTIONS.get(plugin.name, plugin.options)
    return project.run("--nosejobs=1*popen", *plugin.load_options, *options)


def list_lines(run: Run) -> list[str]:
    """Return the lines of the output without what varies, in the order of their texts.

    The letter of a rerun comes at the end of the test in the whole protocol, else at once.
    """
    lines = [VARIES.sub("", line) for line in run.stdout.splitlines()]
    return sorted("".join(sorted(line)) if line.endswith("%]") else line for line in lines)
