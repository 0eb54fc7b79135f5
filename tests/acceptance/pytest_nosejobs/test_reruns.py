"""Tests of retries: the reports are identical in plain runs and on hosts."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

HERE_AND_THERE = pytest.mark.parametrize("args", [(), ("--nosejobs=2*popen",)])

#: Fails twice and passes when it runs for the third time.
THIRD = "echo x >> $0.runs; echo run; [ $(wc -l < $0.runs) -ge 3 ]"


def script(pytester: pytest.Pytester, name: str, metadata: str, body: str) -> None:
    path = pytester.path / name
    path.write_text(f"#!/bin/sh\n# nosejobs: {metadata}\n{body}\n")
    path.chmod(0o755)


def runs(pytester: pytest.Pytester, name: str) -> int:
    return len((pytester.path / f"{name}.runs").read_text().splitlines())


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *args, timeout=120)


@HERE_AND_THERE
def test_a_pass_after_failures_is_flaky(pytester: pytest.Pytester, args: tuple) -> None:
    script(pytester, "test_a.sh", "retries=3", THIRD)
    xml = pytester.path / "out.xml"
    result = run(pytester, *args, f"--junitxml={xml}")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*RR.*",
            "*= flaky tests =*",
            "test_a.sh: passed on attempt 3 of 4",
            "  attempt 1: failed: exit 1*",
            "  attempt 2: failed: exit 1*",
            "*= 1 passed, 2 rerun in *",
        ]
    )
    (case,) = ET.parse(xml).iter("testcase")
    properties = {each.get("name"): each.get("value") for each in case.iter("property")}
    assert properties["flaky"] == "passed on attempt 3 of 4"
    assert properties["attempt"] == "3"
    assert [each.tag for each in case if each.tag != "properties"] == ["flakyFailure"] * 2
    (suite,) = ET.parse(xml).iter("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "0", "0")


@HERE_AND_THERE
def test_the_last_attempt_decides(pytester: pytest.Pytester, args: tuple) -> None:
    script(pytester, "test_a.sh", "retries=1", THIRD)
    script(pytester, "test_b.sh", "retries=1", "exit 99")
    xml = pytester.path / "out.xml"
    result = run(pytester, "-v", *args, f"--junitxml={xml}")
    assert result.ret == 1
    counts = result.parseoutcomes()
    assert (counts["failed"], counts["errors"], counts["rerun"]) == (1, 1, 2)
    result.stdout.no_fnmatch_line("*flaky tests*")
    result.stdout.fnmatch_lines(["test_a.sh::test_a RERUN ?*?*", "test_a.sh::test_a FAILED ?*?*"])
    tags = {
        str(case.get("name")): [each.tag for each in case if each.tag != "properties"]
        for case in ET.parse(xml).iter("testcase")
    }
    assert tags == {
        "test_a.sh": ["failure", "rerunFailure"],
        "test_b.sh": ["error", "rerunError"],
    }


#: Prints the cases of the first, the second or the third attempt.
CASES = """echo x >> $0.runs; echo 1..2
case $(wc -l < $0.runs) in 1) echo '{}';; 2) echo '{}';; *) echo '{}';; esac
"""


@pytest.mark.parametrize("args", [(), ("--nosejobs=2*popen",), ("-n2",)])
@pytest.mark.parametrize("conftest", ["", "def pytest_runtest_call(item): pass"])
def test_an_earlier_failure_is_shown_at_the_case_that_failed(
    pytester: pytest.Pytester, args: tuple, conftest: str
) -> None:
    """The hook makes pytest run its whole protocol around the result."""
    pytester.makeconftest(conftest)
    red, green = "not ok 1 - a\nnot ok 2 - b", "ok 1 - a\nok 2 - b"
    attempts = {
        "last.t": ("ok 1 - a\nnot ok 2 - b", green),
        "turns.t": ("ok 1 - a\nnot ok 2 - b", "not ok 1 - a\nok 2 - b"),
        "stays.t": (red, "ok 1 - a\nnot ok 2 - b"),
        "gone.t": ("ok 1 - a\nnot ok 2 - gone", green),
    }
    for name, outputs in attempts.items():
        script(pytester, name, "retries=1", CASES.format(*outputs, ""))
    xml = pytester.path / "out.xml"
    run(pytester, *args, f"--junitxml={xml}")
    tags = {
        (case.get("classname"), case.get("name")): " ".join(
            f"{each.tag}({each.get('message')})" for each in case if each.tag != "properties"
        )
        for case in ET.parse(xml).iter("testcase")
    }
    assert tags == {
        ("last.t", "a"): "",
        ("last.t", "b"): "flakyFailure(not ok)",
        ("turns.t", "a"): "failure(not ok)",
        ("turns.t", "b"): "flakyFailure(not ok)",
        ("stays.t", "a"): "flakyFailure(not ok)",
        ("stays.t", "b"): "failure(not ok) rerunFailure(not ok)",
        ("gone.t", "a"): "flakyFailure(gone: not ok)",
        ("gone.t", "b"): "",
    }


@HERE_AND_THERE
def test_no_retry_after_pass_or_skip(pytester: pytest.Pytester, args: tuple) -> None:
    script(pytester, "test_a.sh", "retries=3", "echo x >> $0.runs")
    script(pytester, "test_b.sh", "retries=3", "echo x >> $0.runs; exit 77")
    run(pytester, *args).assert_outcomes(passed=1, skipped=1)
    assert (runs(pytester, "test_a.sh"), runs(pytester, "test_b.sh")) == (1, 1)


@HERE_AND_THERE
def test_earlier_attempts_are_no_failures_for_maxfail(
    pytester: pytest.Pytester, args: tuple
) -> None:
    script(pytester, "test_a.sh", "retries=2", THIRD)
    run(pytester, "-x", *args).assert_outcomes(passed=1)


@HERE_AND_THERE
def test_reruns_of_rerunfailures(pytester: pytest.Pytester, args: tuple) -> None:
    pytest.importorskip("pytest_rerunfailures")
    script(pytester, "test_a.sh", "tags=x", THIRD)
    script(pytester, "test_b.sh", "retries=0", "echo x >> $0.runs; exit 1")
    result = run(pytester, "--reruns=2", *args)
    result.stdout.fnmatch_lines(["*= 1 failed, 1 passed, 2 rerun in *"])
    assert (runs(pytester, "test_a.sh"), runs(pytester, "test_b.sh")) == (3, 1)


@HERE_AND_THERE
def test_flaky_mark_of_rerunfailures(pytester: pytest.Pytester, args: tuple) -> None:
    pytest.importorskip("pytest_rerunfailures")
    script(pytester, "test_a.sh", "tags=x", "echo x >> $0.runs; exit 1")
    pytester.makeconftest(
        "import pytest\n"
        "def pytest_collection_modifyitems(items):\n"
        "    for item in items:\n"
        "        item.add_marker(pytest.mark.flaky(reruns=2))\n"
    )
    result = run(pytester, *args)
    result.stdout.fnmatch_lines(["*= 1 failed, 2 rerun in *"])
    assert runs(pytester, "test_a.sh") == 3


@HERE_AND_THERE
def test_fail_on_flaky_of_rerunfailures(pytester: pytest.Pytester, args: tuple) -> None:
    pytest.importorskip("pytest_rerunfailures")
    script(pytester, "test_a.sh", "retries=2", THIRD)
    assert run(pytester, "--fail-on-flaky", *args).ret == 7


@HERE_AND_THERE
def test_without_rerunfailures(pytester: pytest.Pytester, args: tuple) -> None:
    script(pytester, "test_a.sh", "retries=2", THIRD)
    result = run(pytester, "-p", "no:rerunfailures", *args)
    result.stdout.fnmatch_lines(["*RR.*", "*= 1 passed, 2 rerun in *"])


@HERE_AND_THERE
def test_what_should_fail_is_not_tried_again(pytester: pytest.Pytester, args: tuple) -> None:
    script(pytester, "test_a.sh", "retries=2", "echo x >> $0.runs; exit 1")
    pytester.makeconftest(
        "import pytest\n"
        "def pytest_collection_modifyitems(items):\n"
        "    items[0].add_marker(pytest.mark.xfail)\n"
    )
    run(pytester, *args).assert_outcomes(xfailed=1)
    assert runs(pytester, "test_a.sh") == 1


@HERE_AND_THERE
def test_python_tests_keep_their_reruns(pytester: pytest.Pytester, args: tuple) -> None:
    pytest.importorskip("pytest_rerunfailures")
    script(pytester, "test_a.sh", "tags=x", THIRD)
    pytester.makepyfile(test_py="seen = []\ndef test_it():\n    seen.append(1); assert seen[1:]\n")
    result = run(pytester, "--reruns=2", *args)
    result.stdout.fnmatch_lines(["*= 2 passed, 3 rerun in *"])


def test_in_workers_of_xdist(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    script(pytester, "test_a.sh", "retries=2", THIRD)
    xml = pytester.path / "out.xml"
    result = run(pytester, "-n1", f"--junitxml={xml}")
    result.stdout.fnmatch_lines(["test_a.sh: passed on attempt 3 of 3", "*= 1 passed, 2 rerun *"])
    (case,) = ET.parse(xml).iter("testcase")
    assert [each.tag for each in case if each.tag != "properties"] == ["flakyFailure"] * 2
