"""Tests that plugins whose hooks are known to do nothing show the same on the fast path.

On the fast path, pytest's protocol is not run for a program on a host.  A conftest file with a hook
of the protocol brings the slow path back.
"""

import json
import re
import xml.etree.ElementTree as ET
from html import unescape

import pytest

from .conftest import Project

_SHOW_PATH = """
from pytest_nosejobs.protocol_hooks import ProtocolHooks


def pytest_terminal_summary(terminalreporter, config):
    items = config.pluginmanager.get_plugin("session").items
    listeners = {ProtocolHooks().has_listeners(item) for item in items}
    terminalreporter.line(f"listeners: {listeners}")
"""
_LISTENER = """
def pytest_runtest_makereport(item, call):
    return None
"""
_PLUGINS = {
    "html": ("-p", "pytest_html.plugin", "-p", "pytest_metadata.plugin"),
    "metadata": ("-p", "pytest_metadata.plugin", "--metadata", "name", "value"),
    "rerunfailures": ("-p", "pytest_rerunfailures", "--reruns=1"),
    "timeout": ("-p", "pytest_timeout", "--timeout=60"),
    "xdist": ("-p", "xdist.plugin", "-p", "xdist.looponfail"),
}
#: Times, which differ between any two runs.
_VARYING = re.compile(r"\d+(\.\d+)? ?m?s\b|time=\S+")


@pytest.fixture(autouse=True)
def _tests(project: Project) -> None:
    project.add("test_good.sh", "echo out; echo err >&2")
    project.add("test_bad.sh", "echo output; exit 3")
    project.add("test_skip.sh", "exit 77")
    project.add("sub/test_cases.sh", "printf '1..2\\nok 1 - a\\nnot ok 2 - b\\n'")
    project.add("test_timeout.sh", "# nosejobs: timeout=0.3\nsleep 60")


def _run(project: Project, is_slow: bool, *options: str) -> tuple[dict[str, int], list[str]]:
    """Return the counts, and the testcases of JUnit XML as text without what varies."""
    project.file("conftest.py", _SHOW_PATH + (_LISTENER if is_slow else ""))
    result = project.run(
        "--nosejobs=popen", f"--junitxml={project.junit}", "-p", "no:randomly", *options
    )
    result.stdout.fnmatch_lines([f"listeners: {{{is_slow}}}"])
    testcases = [
        _VARYING.sub("", re.sub(r"\s+", " ", ET.tostring(each, encoding="unicode")))
        for each in ET.parse(project.junit).iter("testcase")
    ]
    return result.parseoutcomes(), sorted(testcases)


@pytest.mark.parametrize("name", _PLUGINS)
def test_outcomes_and_junit_are_the_same_on_both_paths(project: Project, name: str) -> None:
    slow, fast = (_run(project, is_slow, *_PLUGINS[name]) for is_slow in (True, False))
    assert fast[0] == slow[0]
    assert "\n".join(fast[1]) == "\n".join(slow[1])
    assert {"passed", "failed", "skipped"} <= fast[0].keys()


def test_the_report_of_pytest_html_shows_the_same_with_hosts_and_without(
    project: Project,
) -> None:
    """With the option, programs have pytest's whole protocol."""
    tables = []
    for options in (("--nosejobs=2*popen",), ()):
        project.run(*_PLUGINS["html"], "--html=report.html", *options)
        page = (project.root / "report.html").read_text()
        blob = re.search(r'data-jsonblob="([^"]*)"', page)
        assert blob is not None
        rows = json.loads(unescape(blob[1]))["tests"].values()
        tables.append(sorted((each["testId"], each["result"]) for row in rows for each in row))
    assert tables[0] == tables[1]
    assert len(tables[0]) >= 5


@pytest.mark.parametrize(
    ("module", "status"),
    [("pytest_timeout_notes", 1), ("pytest_timeout", 0), ("pytest_benchmark.plugin", 1)],
)
def test_plugins_are_known_by_their_full_names_and_markers(
    project: Project, module: str, status: int
) -> None:
    path = module.replace(".", "/")
    project.file(f"{path}.py", "def pytest_runtest_setup(item): 1 / 0\n")
    project.file(
        "conftest.py",
        "import pytest\n"
        "def pytest_collection_modifyitems(items): items[0].add_marker('benchmark')\n",
    )
    project.ini("markers = benchmark")
    assert project.run("-p", module, "--nosejobs=popen", "test_good.sh").ret == status
