"""Tests of the texts about results."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shell_runner.remote.execution.output_capture import OutputCapture
from shell_runner.remote.protocol import model
from shell_runner.remote.protocol.model import (
    FAILED,
    PASSED,
    SKIPPED,
    XFAILED,
    XPASSED,
    CapturedStream,
    Case,
    Execution,
)
from shell_runner.remote.protocol.verdict import format_leftovers
from shell_runner.reporting.report_text import (
    FailureContext,
    case_properties,
    describe_failure,
    execution_properties,
    format_stream,
    format_tail,
    junit_names,
    skip_reason,
)


def stream(data: bytes, keep: int = 1 << 20) -> CapturedStream:
    capture = OutputCapture(keep)
    capture.add(data)
    return capture.to_stream()


@given(st.binary(), st.integers(2, 100))
def test_any_output_is_readable_and_fits_into_xml(data: bytes, keep: int) -> None:
    for text in (format_stream(stream(data, keep)), format_tail(stream(data, keep))):
        text.encode("utf-8")
        element = ET.Element("out")
        element.text = text
        assert (ET.fromstring(ET.tostring(element)).text or "") == text


def test_a_cut_shows_how_many_bytes_are_missing() -> None:
    assert format_stream(stream(b"a" * 10 + b"b" * 2000 + b"c" * 10, 20)) == (
        "a" * 10 + "\n[... 2,000 bytes are not shown ...]\n" + "c" * 10
    )


def test_a_tail_is_the_last_50_lines() -> None:
    lines = [f"line {number}\n" for number in range(200)]
    assert format_tail(stream("".join(lines).encode())) == "[... 150 lines before ...]\n" + "".join(
        lines[-50:]
    )


def test_a_tail_of_a_cut_stream_has_nothing_of_its_head() -> None:
    tail = format_tail(stream(b"head" * 10 + b"x" * 1000 + b"\nend\n", 80))
    assert tail.startswith("[... the end of 1,045 bytes ...]\n")
    assert tail.endswith("\nend\n")
    assert "head" not in tail


def test_long_lines_are_shortened() -> None:
    tail = format_tail(stream(b"x" * 5000 + b"\nend\n"))
    assert tail == f"[... 3,001 characters ...]{'x' * 1999}\nend\n"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("sleep",), "1 process, killed: sleep"),
        (("sh", "cat"), "2 processes, killed: cat, sh"),
        (tuple("abcdefg"), "7 processes, killed: a, b, c, d, e, ..."),
    ],
)
def test_leftovers_are_named(names: tuple[str, ...], words: str) -> None:
    assert format_leftovers(names) == words


@pytest.mark.parametrize(
    ("out", "err", "reason"),
    [
        (b"first\nno docker here\n\n", b"x", "first\nno docker here"),
        (
            b"needs docker:\n  not installed\n  nor podman\n",
            b"",
            "needs docker:\n  not installed\n  nor podman",
        ),
        (b"1\n2\n3\n4\n5\n", b"", "1\n2\n3\n4\n5"),
        (b"1\n2\n3\n4\n5\nno docker here\n", b"", "no docker here"),
        (b"", b"why\n", "why"),
        (b"", b"", "exit 77"),
        (b" \n", b"", "exit 77"),
    ],
)
def test_a_skipped_program_says_why_in_its_output(out: bytes, err: bytes, reason: str) -> None:
    assert (
        skip_reason(Execution(1, exit_status=77, stdout=stream(out), stderr=stream(err))) == reason
    )


def test_properties_are_facts() -> None:
    assert execution_properties(Execution(1, attempt=2, slot=3, exit_status=0), "h") == [
        ("host", "h"),
        ("slot", 3),
        ("attempt", 2),
        ("exit_status", 0),
    ]
    killed = dict(execution_properties(Execution(1, signal=9, leftovers=("sh",)), "h"))
    assert killed["signal"] == 9
    assert killed["leftovers"] == "1 process, killed: sh"
    assert "exit_status" not in killed


_OMITTED = "omitted  3 files or folders over the limits were not copied"


@pytest.mark.parametrize(
    ("count", "left", "files", "words"),
    [
        (0, 0, (), []),
        (1, 0, (), ["wrote    1 file"]),
        (
            2,
            3,
            (),
            ["wrote    2 files", _OMITTED],
        ),
        (2, 0, ("out/0", "out/1"), ["wrote    out/0", "wrote    out/1"]),
        (
            1,
            3,
            ("out/0",),
            ["wrote    out/0", _OMITTED],
        ),
    ],
)
def test_a_failure_says_what_was_written_and_where_it_is(
    count: int, left: int, files: tuple[str, ...], words: list[str]
) -> None:
    artifacts = tuple((str(number), 1) for number in range(count))
    execution = Execution(1, exit_status=1, artifacts=artifacts, artifacts_omitted=left)
    place = FailureContext("test_a", "./test_a", "test_a", files=files)
    text = describe_failure(model.Test(1, "test_a"), execution, place)
    took = next(number for number, line in enumerate(text.lines) if line.startswith("took"))
    assert list(text.lines[took + 1 :]) == [*words, "rerun    test_a", "output   none"]


@pytest.mark.parametrize(
    ("nodeid", "case", "names"),
    [
        ("tests/net/test_a.sh", None, ("tests.net", "test_a.sh")),
        ("test_a.sh", None, (".", "test_a.sh")),
        ("net/test_a.sh", ("", "x/y"), ("net.test_a.sh", "x/y")),
        ("net/test_a.sh", ("GET /a/b", "x/y"), ("net.test_a.sh.GET /a/b", "x/y")),
        ("net/test_a.sh", ("Types/0.Add", "x"), ("net.test_a.sh.Types/0.Add", "x")),
    ],
)
def test_slashes_in_names_of_groups_stay(
    nodeid: str, case: tuple[str, str] | None, names: tuple[str, str]
) -> None:
    assert junit_names(nodeid, case) == names


@pytest.mark.parametrize("outcome", [PASSED, FAILED, SKIPPED, XFAILED, XPASSED])
def test_only_xpassed_cases_have_a_property_of_their_outcome(outcome: str) -> None:
    case = Case("a", outcome, "later", properties=(("k", "v"),))
    expected = [("k", "v"), *([("xpassed", "later")] if outcome == XPASSED else [])]
    assert case_properties(case) == expected
    assert case_properties(Case("a", XPASSED)) == [("xpassed", "no reason given")]
