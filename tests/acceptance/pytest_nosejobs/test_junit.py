"""Tests of JUnit XML: it is well-formed whatever a program prints, and complete."""

import xml.etree.ElementTree as ET

import junitparser
import pytest

from .conftest import Project

HOSTS = "--nosejobs=2*popen"


@pytest.mark.parametrize("hosts", [(), (HOSTS,)])
def test_binary_garbage_parses_with_every_parser(project: Project, hosts: tuple[str, ...]) -> None:
    etree = pytest.importorskip("lxml.etree", reason="lxml is not installed")
    project.ini("junit_logging = all")
    garbage = bytes(range(256)) * 4 + "]]>&#0;\ufffe\ud800\x1b[31m".encode("utf-8", "surrogatepass")
    project.file("garbage", "")
    (project.root / "garbage").write_bytes(garbage)
    for number in range(4):
        project.add(f"test_{number}", f"cat garbage; cat garbage >&2; exit {number}")
    project.run(f"--junitxml={project.junit}", *hosts)
    names = [f"test_{number}" for number in range(4)]
    for parse in (ET.parse, etree.parse):
        testcases = parse(str(project.junit)).getroot().iter("testcase")
        assert sorted(case.get("name") for case in testcases) == names
    suites = junitparser.JUnitXml.fromfile(str(project.junit))
    assert sorted(case.name for suite in suites for case in suite) == names
    assert all("\\x00\\x01\\x02" in case.system_out for suite in suites for case in suite)


def test_properties_say_where_and_how(project: Project) -> None:
    project.add("test_pass", "sleep 60 &")
    project.add("test_fail", "exit 3")
    project.add("test_kill", "kill -9 $$")
    project.file("test_py.py", "def test_one(): pass\n")
    _, cases = project.cases(HOSTS)
    assert cases["test_one"].properties == {}
    for name, exits in {"test_pass": "0", "test_fail": "3"}.items():
        properties = cases[name].properties
        assert (properties["host"], properties["attempt"], properties["exit_status"]) == (
            "popen",
            "1",
            exits,
        )
        assert properties["slot"] in ("0", "1")
    assert cases["test_kill"].properties["signal"] == "9"
    assert "exit_status" not in cases["test_kill"].properties
    assert "sleep" in cases["test_pass"].properties["leftovers"]


def test_times_are_those_of_the_programs(project: Project) -> None:
    project.add("test_a", "sleep 0.3")
    _, cases = project.cases(HOSTS)
    assert 0.3 <= float(cases["test_a"].element.get("time", "0")) < 5


XDIST = ("-p", "xdist", "-n", "2")


def test_workers_of_xdist_send_output_once(project: Project) -> None:
    pytest.importorskip("xdist")
    long = "word " * 100
    project.add("test_fail.sh", "echo only-out; echo only-err >&2; exit 3")
    project.add("test_error.sh", "echo error-out; exit 99")
    project.add("test_silent.sh", "exit 5")
    project.add("test_time.sh", "# nosejobs: timeout=0.3\necho slow-out; sleep 60")
    project.add("words.t", "#!/bin/sh\necho 1..1; echo not ok 1 - case-out; exit 1\n")
    project.add("long.t", f"#!/bin/sh\necho 1..1; echo 'not ok 1 - {long}'; exit 1\n")
    project.add("test_again.sh", "# nosejobs: retries=1\necho again-out; exit 1")
    _, plain = project.cases()
    plain_output = project.run()
    _, spread = project.cases(*XDIST)
    done = project.run(*XDIST)
    for text in ("only-out", "only-err", "error-out", "slow-out", "case-out", "again-out"):
        counts = [str(each.stdout).count(text) for each in (plain_output, done)]
        assert counts[0] == counts[1] >= 1, text
    assert str(done.stdout).count("--- stdout") == 0
    for name, case in plain.items():
        assert spread[name].facts() == case.facts(), name
    summary = [line for line in done.outlines if line.startswith(("FAILED", "ERROR"))]
    assert sorted(summary) == sorted(
        line for line in plain_output.outlines if line.startswith(("FAILED", "ERROR"))
    )
