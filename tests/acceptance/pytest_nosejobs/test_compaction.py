"""Tests that compact forms of reports and testcases change nothing that a user sees."""

from __future__ import annotations

import re

import pytest

from .conftest import Project

#: Counts the compact reports, and sets how many testcases are compressed together.
CONFTEST = """
from pytest_nosejobs import testcase_storage

testcase_storage.BATCH_SIZE = {batch_size}

def pytest_terminal_summary(terminalreporter):
    kept = [type(each).__name__ for each in terminalreporter.stats.get("passed", ())]
    print("\\ncompact reports:", kept.count("CompactReport"))
"""
#: Another plugin that listens, so that no report is made compact.
LISTENER = "\ndef pytest_runtest_logreport(report):\n    str(report)\n"
TAP = """cat <<'END'
TAP version 14
1..9
ok 1 - quick
ok 2 - slow
  ---
  duration_ms: 90000
  ...
ok 3 - odd [name] > of <a> & "case"::b ä \U0001f600
ok 4 - slower
  ---
  duration_ms: 120000.25
  ...
not ok 5 - broken
  ---
  message: it broke
  ...
ok 6 - left out # SKIP no network
not ok 7 - known # TODO later
ok 8 - solved # TODO later
ok 9 - quick
END
"""


@pytest.fixture
def cases(project: Project) -> Project:
    """Add programs of all outcomes, with cases and without."""
    project.add("test_a.sh", TAP)
    project.add("test_b.sh", "exit 0")
    project.add("test_c.sh", "echo why >&2; exit 3")
    project.add("test_d.sh", "exit 77")
    project.add("test_e.sh", "for i in 1 2 3 4 5 6 7; do echo ok $i - name; done; echo 1..7")
    project.add("test_f.sh", "echo 1..3; echo ok 1; kill -9 $$")
    project.add("test_g.sh", "# nosejobs: retries=1\ntest -e ../again && exit 0; >../again; exit 1")
    return project


def run(project: Project, is_compact: bool, *arguments: str) -> tuple[int, list[str], str]:
    """Return how many reports were compact, and the output and JUnit XML without times."""
    (project.root.parent / "again").unlink(missing_ok=True)
    text = CONFTEST.format(batch_size=2 if is_compact else 10**9)
    project.file("conftest.py", text + ("" if is_compact else LISTENER))
    options = ("-p", "no:cacheprovider", f"--junitxml={project.junit}")
    done = project.run(*options, *arguments)
    count, lines = 0, []
    for line in done.outlines:
        if line.startswith("compact reports: "):
            count = int(line.split()[-1])
        else:
            line = re.sub(r" in [0-9.]+s( \([0-9:]+\))?", " in TIME", line)
            lines.append(re.sub(r"(took|ready after) .*", r"\1 TIME", line))
    xml = project.junit.read_text()
    xml = re.sub(r'timestamp="[^"]*"', "", xml)
    xml = re.sub(r'time="[0-9]{1,2}\.[0-9]+"', "", xml)
    return count, lines, re.sub(r"took .*", "took TIME", xml)


@pytest.mark.parametrize("hosts", [("--nosejobs=popen//slots=1",), ()])
@pytest.mark.parametrize(
    "arguments",
    [("-rA",), ("-rp", "-q"), ("-ra", "--durations=2", "-o", "junit_family=xunit1"),
     ("-rA", "-q", "-q", "--junitprefix=a.b"), ("-rPx", "-o", "junit_logging=all")],
)  # fmt: skip
def test_output_and_xml_do_not_depend_on_compaction(
    cases: Project, arguments: tuple[str, ...], hosts: tuple[str, ...]
) -> None:
    compact, plain = (run(cases, is_compact, *hosts, *arguments) for is_compact in (True, False))
    assert compact[0] >= 8
    assert plain[0] == 0
    assert compact[1] == plain[1]
    assert compact[2] == plain[2]
    assert compact[2].count("<testcase ") == 22
    if "--durations=2" in arguments:
        assert {"120.00s call     test_a.sh::slower", "90.00s call     test_a.sh::slow"} <= {
            *compact[1]
        }


def test_known_plugins_do_not_prevent_compaction(cases: Project) -> None:
    plugins = ("-p", "pytest_rerunfailures", "-p", "xdist.plugin")
    with_plugins = run(cases, True, "--nosejobs=popen//slots=1", *plugins, "-rA")
    without = run(cases, True, "--nosejobs=popen//slots=1", "-rA")
    assert with_plugins[0] == without[0] >= 8
    assert with_plugins[2] == without[2]
    summary = [line for line in without[1] if line.startswith(("PASSED", "FAILED", "XFAIL"))]
    assert summary
    assert [each for each in with_plugins[1] if each in summary] == summary
