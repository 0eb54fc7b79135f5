"""Tests of the elements of earlier attempts: each failure stands once, and where it belongs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shell_runner.remote.protocol.model import (
    ERROR,
    FAILED,
    PASSED,
    SKIPPED,
    CapturedStream,
    Case,
    Execution,
    ParsedOutput,
    Test,
)
from shell_runner.remote.protocol.verdict import judge
from shell_runner.reporting import attempts
from shell_runner.reporting.report_text import FailureContext

TEST = Test(0, "test_a")
CONTEXT = FailureContext("test_a", "./test_a", "./test_a")


def run(*cases: str, status: int = 0, **fields: Any) -> Execution:
    """Return an execution with cases such as ``a failed``."""
    made = [Case(name, outcome) for name, outcome in (each.split() for each in cases)]
    parsed = ParsedOutput("tap", made) if made else None
    output = CapturedStream("output", 6)
    return Execution(0, exit_status=status, stdout=output, parsed=parsed, **fields)


def elements(*executions: Execution) -> dict[str, list[str]]:
    """Return tag and message of each element by testcase; that of the program is ``""``."""
    *earlier, last = executions
    described = [attempts.describe_attempt(TEST, each, CONTEXT) for each in earlier]
    testcases = attempts.list_testcases(TEST, last)
    is_flaky = judge(TEST, last).outcome == PASSED
    assigned = attempts.assign_elements(described, testcases, is_flaky)
    return {
        names[1] if names else "": [f"{tag} {message}" for tag, _, message, _ in made]
        for names, made in assigned.items()
    }


RED = "a passed", "b failed"
GREEN = "a passed", "b passed"


@pytest.mark.parametrize(
    ("executions", "expected"),
    [
        ([run(*RED), run(*GREEN)], {"b": ["flakyFailure not ok"]}),
        ([run(*RED), run(*RED)], {"b": ["rerunFailure not ok"]}),
        ([run(*RED), run("b passed", "a failed")], {"b": ["flakyFailure not ok"]}),
        ([run(*RED), run("a passed", "b skipped")], {"b": ["rerunFailure not ok"]}),
        ([run("b error", "a passed"), run(*GREEN)], {"b": ["flakyError not ok"]}),
        (
            [run(*RED), run("a failed", "b passed"), run(*GREEN)],
            {"b": ["flakyFailure not ok"], "a": ["flakyFailure not ok"]},
        ),
        # A case that the last attempt does not have, and programs without failed cases.
        ([run(*RED), run("a passed")], {"a": ["flakyFailure b: not ok"]}),
        ([run(*RED), run(status=0)], {"": ["flakyFailure b: not ok"]}),
        ([run(status=3), run(*GREEN)], {"a": ["flakyFailure exit 3"]}),
        ([run(status=99), run(status=1)], {"": ["rerunError exit 99"]}),
        ([run(status=3), run("a passed", status=3)], {"": ["rerunFailure exit 3"]}),
        # The program failed, too.
        (
            [run(*RED, timed_out=True), run(*GREEN)],
            {"b": ["flakyFailure not ok"], "a": ["flakyFailure timed out after 600 s"]},
        ),
    ],
)  # fmt: skip
def test_a_failure_stands_in_the_testcase_that_failed(
    executions: list[Execution], expected: dict[str, list[str]]
) -> None:
    assert elements(*executions) == expected


def test_the_output_is_shown_once_for_an_attempt() -> None:
    described = attempts.describe_attempt(TEST, run("a failed", "b failed"), CONTEXT)
    texts = [text for _, _, text in described.failures.values()]
    assert ["--- stdout" in text for text in texts] == [True, False]


def test_what_is_kept_of_an_attempt_is_bounded() -> None:
    details = "x" * 60_000
    cases = [Case(str(number), FAILED, "m" * 2000, details) for number in range(1500)]
    parsed = ParsedOutput("tap", cases)
    execution = Execution(0, exit_status=1, parsed=parsed)
    described = attempts.describe_attempt(TEST, execution, CONTEXT)
    assert len(described.failures) == attempts.MAX_CASES + 1
    size = sum(len(text) for _, _, text in described.failures.values())
    assert details in described.failures["", "0"][2]
    assert size < attempts.MAX_TEXT_CHARS + 1000 * 2100
    # The program stands for the cases that are left out.
    assert described.failures[attempts.PROGRAM][1] == "exit 1, 1500 of 1500 cases failed"


OUTCOMES = st.sampled_from([PASSED, FAILED, ERROR, SKIPPED])
CASES = st.lists(st.tuples(st.sampled_from("abc"), OUTCOMES).map(" ".join), max_size=5)
EXECUTIONS = st.builds(
    lambda cases, status, timed_out: run(*cases, status=status, timed_out=timed_out),
    CASES, st.sampled_from([0, 1]), st.booleans(),
)  # fmt: skip


@given(st.lists(EXECUTIONS, min_size=1, max_size=4))
def test_every_failure_stands_once_in_a_testcase_that_exists(executions: list[Execution]) -> None:
    *earlier, last = executions
    described = [attempts.describe_attempt(TEST, each, CONTEXT) for each in earlier]
    testcases = attempts.list_testcases(TEST, last)
    assigned = attempts.assign_elements(described, testcases, judge(TEST, last).outcome == PASSED)
    assert set(assigned) <= set(testcases)
    assert sum(map(len, assigned.values())) == sum(len(each.failures) for each in described)
    assert all(each.failures for each in described)
    for attempt in described:
        for names, (_, message, text) in attempt.failures.items():
            if names in testcases:
                assert (message, text) in [row[2:] for row in assigned[names]]
