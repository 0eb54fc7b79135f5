"""JUnit XML of executions, without pytest; that it is pytest's, the contract test says."""

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

from shell_runner.remote.protocol.job import JobTest
from shell_runner.remote.protocol.model import (
    ERROR,
    FAILED,
    PASSED,
    SKIPPED,
    XFAILED,
    XPASSED,
    Case,
    Execution,
    ParsedOutput,
    Problem,
    CapturedStream,
    Test,
)
from shell_runner.reporting import junit


def made(
    *tries: Execution, test: JobTest | None = None, host: str = "lab", **telling: Any
) -> list[ET.Element]:
    """The testcases of one test."""
    test = test or a_test()
    file = io.BytesIO()
    executions = {test.test.id: tries} if tries else {}
    junit.write_junit(file, "suite", host, [test], executions, junit.ReportOptions(**telling))
    return list(ET.fromstring(file.getvalue()).iter("testcase"))


def a_test(nodeid: str = "sub/test_a.sh", **fields: Any) -> JobTest:
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
    """Whatever a program prints, names its cases and files, or is called."""
    outcomes = (PASSED, FAILED, SKIPPED, ERROR, XFAILED, XPASSED)
    cases = [Case(a, each, b, c, None, c, ((a, b),)) for each in outcomes]
    output = CapturedStream(text(raw), len(raw))
    for parsed in (None, ParsedOutput("tap", cases), ParsedOutput("tap", [], a, b)):
        execution = Execution(
            0, exit_status=status, stdout=output, stderr=output, parsed=parsed, leftovers=(a,),
            artefacts=((a, 1),),
        )  # fmt: skip
        test = JobTest(a or "x", Test(0, b), properties=((a, b),))
        found = made(
            execution, execution, test=test, host=c, files=lambda *_: [a, b],
            again=lambda _: c, source=lambda _: c,
        )  # fmt: skip
        assert len(found) in (1, 6, 7)


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
            'failed on setup with "cancelled: the job"',
        ),
        (Execution(0, problem=Problem.UNMET_REQUIREMENT, detail="requires x"), ("skipped",), "requires x"),
    ],
)
def test_outcomes(execution: Execution, elements: tuple[str, ...], message: str | None) -> None:
    (case,) = made(execution)
    assert outcome(case) == elements
    said = [each.get("message") for each in case if each.tag != "properties"]
    assert said == ([message] if elements else [])
    assert (case.get("classname"), case.get("name")) == ("sub", "test_a.sh")


def test_a_test_without_a_record_is_no_pass() -> None:
    """What reads a package sees to it that there is one; if it does not, it shows."""
    (case,) = made()
    assert outcome(case) == ("error",)
    assert "no record" in (case[1].get("message") or "")


def test_what_a_host_lacks_is_an_error_on_request() -> None:
    (case,) = made(Execution(0, problem=Problem.UNMET_REQUIREMENT, detail="requires x"), requires="error")
    assert outcome(case) == ("error",)
    assert properties(case) == {}


def test_earlier_tries_are_told_of_in_the_one_testcase() -> None:
    tries = [Execution(0, 1, exit_status=1), Execution(0, 2, exit_status=99), Execution(0, 3, exit_status=0)]
    (case,) = made(*tries, retries=4)
    assert outcome(case) == ("flakyFailure", "flakyError")
    assert properties(case)["flaky"] == "passed on attempt 3 of 5"
    assert properties(case)["attempt"] == "3"
    (case,) = made(*tries[:2], test=a_test(retries=1), retries=4)
    assert outcome(case) == ("error", "rerunFailure")
    assert "flaky" not in properties(case)
    (case,) = made(*tries, test=a_test(retries=2), retries=4)
    assert properties(case)["flaky"] == "passed on attempt 3 of 3"


def test_earlier_tries_and_files_are_told_of_once() -> None:
    parsed = ParsedOutput("tap", [Case("a", PASSED), Case("b", FAILED)])
    tries = [Execution(0, 1, exit_status=1), Execution(0, 2, exit_status=1, parsed=parsed, artefacts=(("f", 1),))]
    first, second = made(*tries, files=lambda *_: ["out/f"])
    assert outcome(first) == ("system-out", "rerunFailure")
    assert outcome(second) == ("failure",)


def test_a_failure_says_how_to_run_it_again() -> None:
    (case,) = made(Execution(0, exit_status=1), again=lambda test: f"nosejobs job rerun {test.nodeid}")
    words = case[1].text or ""
    assert "\ncommand  ./test_a.sh\nhost     lab, slot 0\n" in words
    assert "\nagain    nosejobs job rerun sub/test_a.sh\n" in words


def test_long_messages_are_cut_and_the_text_is_whole() -> None:
    for length, lines in ((400, 1), (501, 1), (300, 3)):
        message = "\n".join(["x" * length] * lines)
        (case,) = made(Execution(0, problem=message))
        said = case[1].get("message") or ""
        assert len(said) < 600
        assert message in (case[1].text or "")
        assert ("full report in element text" in said) == (length != 400)


def test_suite_counts_and_names(tmp_path: Path) -> None:
    tests = [JobTest(f"test_{number}", Test(number, f"test_{number}")) for number in range(4)]
    executions: dict[int, Sequence[Execution]] = {
        number: [Execution(number, exit_status=status, started_at=1e9 + number, duration=2.5)]
        for number, status in enumerate((0, 1, 77, 99))
    }
    path = tmp_path / "new" / "out.xml"
    junit.write_junit(path, "nightly", "lab", tests, executions, junit.ReportOptions(hostname="here"))
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
def test_any_clock_will_do(started: float) -> None:
    assert len(made(Execution(0, exit_status=0, started_at=started))) == 1


def test_time_is_linear() -> None:
    """junitparser's way of adding one case would take four times as long for twice as many."""
    tests = [JobTest(f"d/test_{number}", Test(number, "x")) for number in range(6000)]
    executions = {each.test.id: [Execution(each.test.id, exit_status=1)] for each in tests}
    taken = []
    for count in (3000, 6000):
        begin = time.process_time()
        junit.write_junit(io.BytesIO(), "s", "h", tests[:count], executions)
        taken.append(time.process_time() - begin)
    assert taken[1] < 3 * taken[0] + 0.3


def test_the_same_without_lxml(tmp_path: Path) -> None:
    """junitparser takes it where it is installed; it is no dependency."""
    script = (
        "import sys\n"
        "if sys.argv[2] == 'without': sys.modules['lxml'] = None\n"
        "from shell_runner import junit\n"
        "from shell_runner.remote.protocol.job import JobTest\n"
        "from shell_runner.remote.protocol.model import Execution, Stream, Test\n"
        "bad = '<&>\\x00\\udcff]]>\\n\\t\"'\n"
        "execution = Execution(0, exit=1, out=Stream(bad, 9), started=1e9)\n"
        "junit.write(sys.argv[1], bad, bad, [JobTest(bad, Test(0, bad))], {0: [execution]})\n"
    )
    found = []
    for name in ("with", "without"):
        path = tmp_path / name
        subprocess.run([sys.executable, "-c", script, str(path), name], check=True)
        root = ET.parse(path).getroot()
        found.append([(each.tag, each.attrib, each.text) for each in root.iter()])
    assert found[0] == found[1]
    assert len(found[0]) == 9
