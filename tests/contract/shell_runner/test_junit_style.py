"""Tests that JUnit XML is as Jenkins' schema demands, live and harvested, in every style."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from lxml import etree

from tests.helpers import junit_compare
from tests.helpers.single_host_run import LEAVE_SLEEP, write_program

from .test_plan_and_junit import ATTEMPTS, HOST, THIRD, XML, run_job, run_pytest

SCHEMA = etree.XMLSchema(etree.parse(str(Path(__file__).with_name("junit_10.xsd"))))

#: A program for each element and property that a testcase can have.
TREE = {
    "test_pass": "echo fine",
    "net/test_fail.sh": "echo out; exit 3",
    "net/test_skip": "exit 77",
    "test_error": "exit 99",
    "test_leaves": f"{LEAVE_SLEEP}; exit 1",
    "test_repeat": "# nosejobs: repeat=2\nexit 1",
    "test_odd": "printf '1..1\\nnot ok 1 - \\001<&>\\377\\n'; exit 1",
    "tap/test_mixed": "printf '1..4\\nok 1 - a\\nnot ok 2 - b # TODO soon\\nok 3 - c # TODO\\n"
    "ok 4 # SKIP no\\n'; exit 2",
    "xml/test_junit": XML + "exit 1",
    "files/test_writes": 'echo 1 > "$TEST_UNDECLARED_OUTPUTS_DIR/a"',
    "again/test_flaky": f"# nosejobs: retries=3\n{THIRD}",
    "again/test_red": "# nosejobs: retries=1\nexit 99",
    "again/test_cases": "# nosejobs: retries=2\n"
    + ATTEMPTS.format("ok 1 - a\nnot ok 2 - b", "not ok 1 - a\nok 2 - b", "ok 1\nok 2 - b"),
}


def make(root: Path, ini: str = "") -> Path:
    for name, text in TREE.items():
        write_program(root / name, f"#!/bin/sh\n{text}\n", 0o755)
    write_program(root / "nosejobs.toml", '[hosts.lab]\nspec = "popen"\n', 0o644)
    write_program(root / "pytest.ini", f"[pytest]\nnosejobs_grace = 0.2\n{ini}\n", 0o644)
    return root


def find_invalid(path: Path) -> list[str]:
    """Return what the schema says against a report."""
    SCHEMA.validate(etree.parse(str(path)))
    return [each.message for each in SCHEMA.error_log]


def read_suite_properties(path: Path) -> list[tuple[str, str]]:
    return sorted(
        (each.get("name", ""), each.get("value", ""))
        for each in ET.parse(path).iterfind("testsuite/properties/property")
        if not each.get("name", "").endswith(": slot")
    )


@pytest.fixture(scope="module", params=["case", "suite", "none"])
def reports(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write plain.xml, live.xml (on a host) and job.xml in the style that is the folder's name."""
    place = request.param
    folder = tmp_path_factory.mktemp("styles") / place
    ini = f"nosejobs_junit_properties = {place}"
    for name, hosts in (("plain", ()), ("live", (f"--nosejobs=2*{HOST}",))):
        root = make(folder / name, ini)
        outputs = (f"--junitxml=../{name}.xml", f"--nosejobs-artifacts=../{name} artifacts")
        done = run_pytest(root, *hosts, *outputs, "--junit-prefix=ci.nightly")
        assert done.returncode == 1, done.stdout + done.stderr
    style = (f"--junit-properties={place}", "--junit-prefix=ci.nightly")
    run_job(make(folder / "job"), folder, *style)
    return folder


@pytest.mark.parametrize("name", ["plain", "live", "job"])
def test_the_schema_has_nothing_against_a_report(reports: Path, name: str) -> None:
    errors = find_invalid(reports / f"{name}.xml")
    if reports.name != "case":
        assert not errors
        return
    # The schema has no properties of a testcase; that is all it says.
    assert errors
    assert [each for each in errors if "Element 'properties'" not in each] == []


@pytest.mark.parametrize("name", ["plain", "live", "job"])
def test_properties_are_where_the_style_says(reports: Path, name: str) -> None:
    path = reports / f"{name}.xml"
    suite = read_suite_properties(path)
    cases = [row.properties for rows in junit_compare.read_testcases(path).values() for row in rows]
    if reports.name == "case":
        assert (suite, all(cases)) == ([], True)
        return
    assert not any(cases)
    if reports.name == "none":
        assert not suite
        return
    host = "here" if name == "plain" else HOST
    assert {
        ("net/test_fail.sh: host", host), ("net/test_fail.sh: exit_status", "3"),
        ("test_leaves: exit_status", "1"), ("test_repeat::repeat-2-of-2: repeat", "2 of 2"),
        ("xml/test_junit::c > fine: build", "7 < 8"), ("xml/test_junit: host", host),
        ("tap/test_mixed::c: xpassed", "no reason given"),
        ("again/test_cases: flaky", "passed on attempt 3 of 3"),
    } <= {*suite}  # fmt: skip
    # Properties that all cases of a program share appear once.
    assert len({key for key, _ in suite}) == len(suite)


def test_live_and_harvested_names_are_the_same(reports: Path) -> None:
    live, job = (junit_compare.read_testcases(reports / f"{each}.xml") for each in ("live", "job"))
    assert live.keys() == job.keys()
    assert {
        ("ci.nightly", "test_pass"), ("ci.nightly.net", "test_fail.sh"),
        ("ci.nightly.xml.test_junit.c", "fine"), ("ci.nightly.again.test_cases", "b"),
    } <= live.keys()  # fmt: skip
    for key, rows in live.items():
        assert [row.properties for row in rows] == [row.properties for row in job[key]]
        tags = [[[tag for tag, _, _ in row.elements] for row in each] for each in (rows, job[key])]
        assert tags[0] == tags[1]
    suites = (read_suite_properties(reports / f"{each}.xml") for each in ("live", "job"))
    assert next(suites) == next(suites)


def test_the_schema_refuses_what_jenkins_refuses(tmp_path: Path) -> None:
    """Guarantee that the schema would find an error."""
    suite = '<testsuite name="s" tests="1" errors="0" failures="0" time="0.1">{}</testsuite>'
    good = '<testcase name="a" classname="b" time="1"><flakyFailure type="x"/></testcase>'
    for text, is_valid in (
        (suite.format(good), True),
        (suite.format(good.replace(' type="x"', "")), False),
        (suite.format(good.replace("flakyFailure", "properties")), False),
        (suite.format(good.replace(' name="a"', "")), False),
        (suite.format(good).replace("0.1", "1e9"), False),
        (suite.format(good).replace(' tests="1"', ""), False),
    ):
        path = tmp_path / "a.xml"
        path.write_text(text)
        assert bool(find_invalid(path)) != is_valid, text
