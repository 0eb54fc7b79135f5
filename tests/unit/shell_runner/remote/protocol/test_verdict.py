"""Tests of the verdict on an execution."""

import signal

import pytest

from shell_runner.remote.protocol import model
from shell_runner.remote.protocol.model import ERROR, FAILED, PASSED, SKIPPED, Execution, Problem
from shell_runner.remote.protocol.verdict import (
    format_exit_status,
    format_signal,
    is_retryable,
    judge,
)

TEST = model.Test(1, "test_a", timeout=5.0)


@pytest.mark.parametrize(
    ("facts", "outcome", "message"),
    [
        ({"exit_status": 0}, PASSED, "exit 0"),
        ({"exit_status": 77}, SKIPPED, "exit 77"),
        ({"exit_status": 99}, ERROR, "exit 99"),
        ({"exit_status": 1}, FAILED, "exit 1"),
        ({"exit_status": 3}, FAILED, "exit 3"),
        ({"exit_status": 139}, FAILED, "exit 139 (128 + SIGSEGV)"),
        ({"exit_status": 255}, FAILED, "exit 255"),
        ({"signal": 11}, FAILED, "killed by SIGSEGV"),
        ({"signal": 9}, FAILED, "killed by SIGKILL"),
        ({"timed_out": True, "signal": 15}, FAILED, "timed out after 5 s"),
        ({"timed_out": True, "exit_status": 0}, FAILED, "timed out after 5 s"),
        ({"timed_out": True, "exit_status": 77}, FAILED, "timed out after 5 s"),
    ],
)
def test_the_end_of_a_program_decides_its_outcome(
    facts: dict[str, object], outcome: str, message: str
) -> None:
    result = judge(TEST, Execution(1, **facts))  # type: ignore[arg-type]
    assert (result.outcome, result.message, result.infrastructure) == (outcome, message, False)


@pytest.mark.parametrize(
    ("problem", "message", "infrastructure"),
    [
        (Problem.NO_INTERPRETER, "missing interpreter", False),
        (Problem.FOREIGN_BINARY, "built for another machine", False),
        (Problem.PERMISSION_DENIED, "permission denied", False),
        (Problem.NO_SUCH_FILE, "no such file", False),
        (Problem.NOT_STARTED, "could not be started", False),
        (Problem.SLOT_DIED, "its slot died", True),
        (Problem.HOST_LOST, "host lost", True),
        (Problem.CANCELED, "canceled", True),
        ("of-a-newer-host", "of-a-newer-host", False),
    ],
)
def test_problems_are_errors_of_the_test_or_of_the_infrastructure(
    problem: str, message: str, infrastructure: bool
) -> None:
    result = judge(TEST, Execution(1, exit_status=0, problem=problem, detail="x"))
    assert (result.outcome, result.message) == (ERROR, f"{message}: x")
    assert result.infrastructure is infrastructure


def test_every_problem_has_a_message() -> None:
    for name, problem in vars(Problem).items():
        if name.isupper():
            assert "-" not in judge(TEST, Execution(1, problem=problem)).message


def test_no_end_at_all_is_never_green() -> None:
    result = judge(TEST, Execution(1))
    assert (result.outcome, result.infrastructure) == (ERROR, True)


def test_exit_zero_alone_passes() -> None:
    for status in range(256):
        assert (judge(TEST, Execution(1, exit_status=status)).outcome == PASSED) is (status == 0)
        assert format_exit_status(status).startswith(f"exit {status}")


def test_no_signal_passes() -> None:
    for number in range(1, 65):
        assert judge(TEST, Execution(1, signal=number)).outcome == FAILED


def test_signals_without_a_name_keep_their_number() -> None:
    assert format_signal(signal.SIGRTMIN + 3) == f"signal {signal.SIGRTMIN + 3}"


@pytest.mark.parametrize(("timeout", "message"), [(0.25, "0.25 s"), (600.0, "600 s"), (5, "5 s")])
def test_timeouts_are_reported_in_seconds(timeout: float, message: str) -> None:
    result = judge(TEST._replace(timeout=timeout), Execution(1, timed_out=True))
    assert result.message == f"timed out after {message}"


@pytest.mark.parametrize(
    ("facts", "retryable"),
    [
        ({"exit_status": 0}, False),
        ({"exit_status": 77}, False),
        ({"exit_status": 1}, True),
        ({"exit_status": 99}, True),
        ({"signal": 11}, True),
        ({"timed_out": True, "exit_status": 0}, True),
        ({"problem": Problem.FOREIGN_BINARY}, True),
        ({"problem": Problem.SLOT_DIED}, False),
        ({"problem": Problem.HOST_LOST}, False),
        ({"problem": Problem.CANCELED}, False),
        ({}, False),
    ],
)
def test_only_a_test_that_failed_itself_is_retryable(
    facts: dict[str, object], retryable: bool
) -> None:
    assert is_retryable(TEST, Execution(1, **facts)) is retryable  # type: ignore[arg-type]
