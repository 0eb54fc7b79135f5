"""Tests of the verdict on programs whose output names cases."""

import itertools

import pytest

from shell_runner.remote.protocol.model import (
    ERROR,
    FAILED,
    OUTCOMES,
    PASSED,
    SKIPPED,
    XFAILED,
    XPASSED,
    Case,
    Execution,
    ParsedOutput,
    Problem,
    Test,
)
from shell_runner.remote.protocol.verdict import is_reported_by_cases, judge

TEST = Test(0, "t", timeout=5)


def parsed(*outcomes: str, problem: str = "", skip_all: str | None = None) -> ParsedOutput:
    return ParsedOutput("tap", [Case("c", each) for each in outcomes], problem, skip_all)


@pytest.mark.parametrize(
    ("output", "status", "outcome", "message"),
    [
        (parsed(PASSED), 0, PASSED, "1 case"),
        (parsed(PASSED, XFAILED, XPASSED, SKIPPED), 0, PASSED, "4 cases"),
        (parsed(PASSED, FAILED), 0, FAILED, "1 of 2 cases failed"),
        (parsed(PASSED, FAILED), 1, FAILED, "exit 1, 1 of 2 cases failed"),
        (parsed(ERROR), 0, FAILED, "1 of 1 case failed"),
        (parsed(PASSED), 1, FAILED, "exit 1, though none of 1 case failed"),
        (parsed(PASSED), 77, FAILED, "exit 77, though none of 1 case failed"),
        (parsed(PASSED), 99, FAILED, "exit 99, though none of 1 case failed"),
        (parsed(FAILED), 77, FAILED, "exit 77, 1 of 1 case failed"),
        (parsed(SKIPPED, SKIPPED), 0, SKIPPED, "all of 2 cases skipped"),
        (parsed(SKIPPED), 1, FAILED, "exit 1, though none of 1 case failed"),
        (parsed(PASSED, problem="cut"), 0, ERROR, "cut"),
        (parsed(PASSED, problem="cut"), 1, FAILED, "exit 1, cut"),
        (parsed(FAILED, problem="cut"), 0, FAILED, "1 of 1 case failed, cut"),
        (parsed(problem="no TAP"), 0, ERROR, "no TAP"),
        (parsed(problem="no TAP"), 2, FAILED, "exit 2, no TAP"),
        (parsed(problem="planned 3, saw 0"), 0, ERROR, "planned 3, saw 0"),
        (parsed(problem="planned 3, saw 0"), 1, FAILED, "exit 1, planned 3, saw 0"),
        (parsed(problem="planned 3, saw 0"), 77, FAILED, "exit 77, planned 3, saw 0"),
        (parsed(problem="planned 3, saw 0"), 99, FAILED, "exit 99, planned 3, saw 0"),
        (parsed(skip_all="why"), 0, SKIPPED, "why"),
        (parsed(skip_all=""), 0, SKIPPED, "skipped all"),
        (parsed(skip_all="why"), 1, FAILED, "exit 1"),
        (parsed(skip_all="why"), 77, SKIPPED, "exit 77"),
        (parsed(), 0, PASSED, "0 cases"),
        (parsed(), 77, SKIPPED, "exit 77"),
        (parsed(), 99, ERROR, "exit 99"),
        (parsed(PASSED), None, ERROR, "ended without an exit status"),
    ],
)
def test_cases_and_exit_status_decide_together(
    output: ParsedOutput, status: int | None, outcome: str, message: str
) -> None:
    result = judge(TEST, Execution(0, exit_status=status, parsed=output))
    assert (result.outcome, result.message) == (outcome, message)


def test_signals_timeouts_and_problems_take_precedence_over_cases() -> None:
    green = Execution(0, exit_status=0, parsed=parsed(PASSED))
    assert judge(TEST, green).outcome == PASSED
    for changes, message in (
        ({"exit_status": None, "signal": 11}, "killed by SIGSEGV"),
        ({"timed_out": True}, "timed out after 5 s"),
        ({"problem": Problem.SLOT_DIED}, "its slot died"),
    ):
        execution = green._replace(**changes)  # type: ignore[arg-type]
        result = judge(TEST, execution)
        assert result.outcome in (FAILED, ERROR)
        assert result.message == message
        assert not is_reported_by_cases(TEST, execution)


STATUSES = (0, 1, 77, 99, 255, None)


def test_a_verdict_that_cases_do_not_show_gets_a_report_of_its_own() -> None:
    """A failed verdict is visible in a case, or the program gets a report of its own."""
    for count in range(3):
        for outcomes in itertools.product(sorted(OUTCOMES), repeat=count):
            for status, problem in itertools.product(STATUSES, ("", "cut")):
                output = parsed(*outcomes, problem=problem)
                execution = Execution(0, exit_status=status, parsed=output)
                outcome = judge(TEST, execution).outcome
                red = outcome in (FAILED, ERROR)
                if status and (outcomes or problem):
                    assert outcome == FAILED
                visible = {FAILED, ERROR} & set(outcomes)
                assert red or not visible
                if is_reported_by_cases(TEST, execution):
                    assert bool(visible) == red
                if status or problem:
                    assert judge(TEST, execution).outcome != PASSED
