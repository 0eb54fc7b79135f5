"""Tests of JUnit XML of executions; a contract test compares it with pytest's."""

import io
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shell_runner.junit_style import JunitStyle
from shell_runner.remote.protocol.job import JobTest
from shell_runner.remote.protocol.model import (
    ERROR,
    FAILED,
    PASSED,
    SKIPPED,
    XFAILED,
    XPASSED,
    CapturedStream,
    Case,
    Execution,
    ParsedOutput,
    Problem,
    Test,
)
from shell_runner.reporting import junit


def make_testcases(
    *attempts: Execution, test: JobTest | None = None, host: str = "lab", **options: Any
) -> list[ET.Element]:
    """Return the testcases of one test."""
    test = test or make_test()
    file = io.BytesIO()
    executions = {test.test.id: attempts} if attempts else {}
    junit.write_junit(file, "suite", host, [test], executions, junit.ReportOptions(**options))
    return list(ET.fromstring(file.getvalue()).iter("testcase"))


def make_test(nodeid: str = "sub/test_a.sh", **fields: Any) -> JobTest:
    return JobTest(nodeid, Test(0, nodeid), **fields)


def outcome(case: ET.Element) -> tuple[str, ...]:
    return tuple(each.tag for each in case if each.tag != "properties")


def properties(case: ET.Element) -> dict[str | None, str | None]:
    return {each.get("name"): each.get("value") for each in case.iter("property")}


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


PIECES = st.binary(max_size=40).map(text)


@given(PIECES, PIECES, PIECES, st.sampled_from([0, 1, 77, 99]), st.binary(max_size=9))
def test_well_formed_for_any_bytes(a: str, b: str, c: str, status: int, raw: bytes) -> None:
    """Names, output and files of a program may hold any bytes."""
    outcomes = (PASSED, FAILED, SKIPPED, ERROR, XFAILED, XPASSED)
    cases = [Case(a, each, b, c, None, c, ((a, b),)) for each in outcomes]
    output = CapturedStream(text(raw), len(raw))
    for parsed in (None, ParsedOutput("tap", cases), ParsedOutput("tap", [], a, b)):
        execution = Execution(
            0, exit_status=status, stdout=output, stderr=output, parsed=parsed, leftovers=(a,),
            artifacts=((a, 1),),
        )  # fmt: skip
        test = JobTest(a or "x", Test(0, b), properties=((a, b),))
        reports = make_testcases(
            execution, execution, test=test, host=c, files=lambda *_: [a, b],
            rerun_command=lambda _: c, source=lambda _: c,
        )  # fmt: skip
        assert len(reports) in (1, 6, 7)
        style = JunitStyle(c, "suite")
        moved = make_testcases(execution, test=test, host=c, style=style)
        assert len(moved) == len(reports)
        assert not any(properties(each) for each in moved)


@pytest.mark.parametrize(
    ("execution", "elements", "message"),
    [
        (Execution(0, exit_status=0), (), None),
        (Execution(0, exit_status=3), ("failure",), "exit 3"),
        (Execution(0, signal=9), ("failure",), "killed by SIGKILL"),
        (Execution(0, timed_out=True), ("failure",), "timed out after 600 s"),
        (Execution(0, exit_status=77), ("skipped",), "exit 77"),
        (Execution(0, exit_status=99), ("error",), 'failed on setup with "exit 99"'),
        (
            Execution(0, problem=Problem.CANCELED, detail="the job"),
            ("error",),
            'failed on setup with "canceled: the job"',
        ),
        (
            Execution(0, problem=Problem.UNMET_REQUIREMENT, detail="requires x"),
            ("skipped",),
            "requires x",
        ),
    ],
)
def test_an_execution_gives_its_element_and_message(
    execution: Execution, elements: tuple[str, ...], message: str | None
) -> None:
    (case,) = make_testcases(execution)
    assert outcome(case) == elements
    messages = [each.get("message") for each in case if each.tag != "properties"]
    assert messages == ([message] if elements else [])
    assert (case.get("classname"), case.get("name")) == ("sub", "test_a.sh")


def test_a_test_without_a_record_is_no_pass() -> None:
    """The reader of a package guarantees a record; if there is none, the report shows it."""
    (case,) = make_testcases()
    assert outcome(case) == ("error",)
    assert "no record" in (case[1].get("message") or "")


def test_an_unmet_requirement_is_an_error_on_request() -> None:
    (case,) = make_testcases(
        Execution(0, problem=Problem.UNMET_REQUIREMENT, detail="requires x"), requires="error"
    )
    assert outcome(case) == ("error",)
    assert properties(case) == {}


def test_earlier_attempts_are_reported_in_the_testcase() -> None:
    attempts = [
        Execution(0, 1, exit_status=1),
        Execution(0, 2, exit_status=99),
        Execution(0, 3, exit_status=0),
    ]
    (case,) = make_testcases(*attempts, retries=4)
    assert outcome(case) == ("flakyFailure", "flakyError")
    assert properties(case)["flaky"] == "passed on attempt 3 of 5"
    assert properties(case)["attempt"] == "3"
    (case,) = make_testcases(*attempts[:2], test=make_test(retries=1), retries=4)
    assert outcome(case) == ("error", "rerunFailure")
    assert "flaky" not in properties(case)
    (case,) = make_testcases(*attempts, test=make_test(retries=2), retries=4)
    assert properties(case)["flaky"] == "passed on attempt 3 of 3"


def test_earlier_attempts_and_files_are_reported_once() -> None:
    parsed = ParsedOutput("tap", [Case("a", PASSED), Case("b", FAILED)])
    attempts = [
        Execution(0, 1, exit_status=1),
        Execution(0, 2, exit_status=1, parsed=parsed, artifacts=(("f", 1),)),
    ]
    first, second = make_testcases(*attempts, files=lambda *_: ["out/f"])
    assert outcome(first) == ("system-out", "rerunFailure")
    assert outcome(second) == ("failure",)


def test_a_failure_says_how_to_run_it_again() -> None:
    (case,) = make_testcases(
        Execution(0, exit_status=1), rerun_command=lambda test: f"nosejobs job rerun {test.nodeid}"
    )
    failure_text = case[1].text or ""
    assert "\ncommand  ./test_a.sh\nhost     lab, slot 0\n" in failure_text
    assert "\nrerun    nosejobs job rerun sub/test_a.sh\n" in failure_text


def test_long_messages_are_cut_and_the_text_is_whole() -> None:
    for length, lines in ((400, 1), (501, 1), (300, 3)):
        message = "\n".join(["x" * length] * lines)
        (case,) = make_testcases(Execution(0, problem=message))
        messages = case[1].get("message") or ""
        assert len(messages) < 600
        assert message in (case[1].text or "")
        assert ("full report in element text" in messages) == (length != 400)


def test_suite_counts_and_names(tmp_path: Path) -> None:
    tests = [JobTest(f"test_{number}", Test(number, f"test_{number}")) for number in range(4)]
    executions: dict[int, Sequence[Execution]] = {
        number: [Execution(number, exit_status=status, started_at=1e9 + number, duration=2.5)]
        for number, status in enumerate((0, 1, 77, 99))
    }
    path = tmp_path / "new" / "out.xml"
    junit.write_junit(
        path, "nightly", "lab", tests, executions, junit.ReportOptions(hostname="here")
    )
    root = ET.parse(path).getroot()
    (suite,) = root
    stamp = suite.attrib.pop("timestamp")
    assert stamp.startswith(("2001-09-08T", "2001-09-09T"))
    assert (root.tag, suite.attrib.pop("hostname")) == ("testsuites", "here")
    assert suite.attrib == {
        "name": "nightly", "tests": "4", "failures": "1", "errors": "1", "skipped": "1",
        "time": "5.5",
    }  # fmt: skip
    assert [case.get("name") for case in suite] == [test.nodeid for test in tests]


@pytest.mark.parametrize("started", [-1e11, 1e11, 0.0])
def test_any_start_time_is_accepted(started: float) -> None:
    assert len(make_testcases(Execution(0, exit_status=0, started_at=started))) == 1


def test_time_is_linear() -> None:
    """Adding cases one by one with junitparser would take four times as long for twice as many."""
    tests = [JobTest(f"d/test_{number}", Test(number, "x")) for number in range(6000)]
    executions = {each.test.id: [Execution(each.test.id, exit_status=1)] for each in tests}
    taken = []
    for count in (3000, 6000):
        begin = time.process_time()
        junit.write_junit(io.BytesIO(), "s", "h", tests[:count], executions)
        taken.append(time.process_time() - begin)
    assert taken[1] < 3 * taken[0] + 0.3


def test_the_report_is_the_same_without_lxml(tmp_path: Path) -> None:
    """junitparser uses lxml if it is installed; lxml is not a dependency."""
    script = (
        "import sys\n"
        "if sys.argv[2] == 'without': sys.modules['lxml'] = None\n"
        "from shell_runner.reporting import junit\n"
        "from shell_runner.remote.protocol.job import JobTest\n"
        "from shell_runner.remote.protocol.model import CapturedStream, Execution, Test\n"
        "bad = '<&>\\x00\\udcff]]>\\n\\t\"'\n"
        "execution = Execution(0, exit_status=1, stdout=CapturedStream(bad, 9), started_at=1e9)\n"
        "junit.write_junit(sys.argv[1], bad, bad, [JobTest(bad, Test(0, bad))], {0: [execution]})\n"
    )
    reports = []
    for name in ("with", "without"):
        path = tmp_path / name
        subprocess.run([sys.executable, "-c", script, str(path), name], check=True)
        root = ET.parse(path).getroot()
        reports.append([(each.tag, each.attrib, each.text) for each in root.iter()])
    assert reports[0] == reports[1]
    assert len(reports[0]) == 9
