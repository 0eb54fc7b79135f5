"""The verdict: the only function that turns a Test and its Execution into a Result.

Pure: no clock, no I/O, no knowledge of the host.  The exit statuses are automake's
("Scripts-based Testsuites": 0 pass, 77 skip, 99 hard error); any other fails.
"""

import signal
from typing import Dict, Sequence

from .model import ERROR, FAILED, PASSED, SKIPPED, Execution, ParsedOutput, Problem, Result, Test

_OUTCOME_BY_EXIT_STATUS: Dict[int, str] = {0: PASSED, 77: SKIPPED, 99: ERROR}

_PROBLEM_MESSAGES: Dict[str, str] = {
    Problem.NO_INTERPRETER: "missing interpreter",
    Problem.FOREIGN_BINARY: "built for another machine",
    Problem.PERMISSION_DENIED: "permission denied",
    Problem.NO_SUCH_FILE: "no such file",
    Problem.NOT_STARTED: "could not be started",
    Problem.SLOT_DIED: "its slot died",
    Problem.HOST_LOST: "host lost",
    Problem.CANCELED: "canceled",
    Problem.UNMET_REQUIREMENT: "not run",
    Problem.NOT_RUN: "not run",
}

_INFRASTRUCTURE_PROBLEMS = frozenset([Problem.SLOT_DIED, Problem.HOST_LOST, Problem.CANCELED])


def judge(test: Test, execution: Execution) -> Result:
    """Return the verdict on ``execution``, the same for every reporter."""
    if execution.problem:
        return _judge_problem(execution)
    if execution.timed_out:
        return Result(FAILED, "timed out after %s" % format_seconds(test.timeout))
    if execution.signal is not None:
        return Result(FAILED, "killed by %s" % format_signal(execution.signal))
    result = _judge_completed(execution)
    if execution.leftovers and test.leftovers == "fail" and result.outcome != FAILED:
        return Result(FAILED, "left %s" % format_leftovers(execution.leftovers))
    return result


def is_retryable(test: Test, execution: Execution) -> bool:
    """Return whether the test itself failed; after infrastructure errors the scheduler decides."""
    result = judge(test, execution)
    return result.outcome in (FAILED, ERROR) and not result.infrastructure


def _judge_completed(execution: Execution) -> Result:
    parsed = execution.parsed
    if parsed is None or execution.exit_status is None:
        return _judge_exit_status(execution.exit_status)
    if not (parsed.cases or parsed.problem) and execution.exit_status in (77, 99):
        return _judge_exit_status(execution.exit_status)
    return _judge_cases(execution.exit_status, parsed)


def is_reported_by_cases(test: Test, execution: Execution) -> bool:
    """Return whether the cases alone show the outcome, so that the program needs no own report."""
    parsed = execution.parsed
    if execution.leftovers and test.leftovers == "fail":
        return False
    if parsed is None or not parsed.cases or parsed.problem or execution.problem:
        return False
    if execution.timed_out or execution.signal is not None or execution.exit_status is None:
        return False
    return not execution.exit_status or any(
        case.outcome in (FAILED, ERROR) for case in parsed.cases
    )


def _judge_cases(status: "int | None", parsed: ParsedOutput) -> Result:
    """Judge a program that named cases; it passes only if both cases and exit status do."""
    failed = sum(case.outcome in (FAILED, ERROR) for case in parsed.cases)
    reasons = []
    if failed:
        reasons.append("%d of %s failed" % (failed, format_case_count(len(parsed.cases))))
    if parsed.problem:
        reasons.append(parsed.problem)
    if status:
        # Also for 77 and 99: with cases, they may be the number of failures (Test::More).
        reasons.insert(0, format_exit_status(status))
        if not (failed or parsed.problem) and parsed.cases:
            reasons.append("though none of %s failed" % format_case_count(len(parsed.cases)))
    if failed or status:
        return Result(FAILED, ", ".join(reasons))
    if reasons:
        return Result(ERROR, ", ".join(reasons))
    return _judge_passing_cases(parsed)


def _judge_passing_cases(parsed: ParsedOutput) -> Result:
    if parsed.skip_all is not None and not parsed.cases:
        return Result(SKIPPED, parsed.skip_all or "skipped all")
    if parsed.cases and all(case.outcome == SKIPPED for case in parsed.cases):
        return Result(SKIPPED, "all of %s skipped" % format_case_count(len(parsed.cases)))
    return Result(PASSED, format_case_count(len(parsed.cases)))


def format_case_count(count: int) -> str:
    """Return ``1 case``, ``3 cases``."""
    return "1 case" if count == 1 else "%d cases" % count


def _judge_problem(execution: Execution) -> Result:
    message = _PROBLEM_MESSAGES.get(execution.problem, execution.problem)
    if execution.detail:
        message = "%s: %s" % (message, execution.detail)
    return Result(ERROR, message, execution.problem in _INFRASTRUCTURE_PROBLEMS)


def _judge_exit_status(status: "int | None") -> Result:
    if status is None:
        return Result(ERROR, "ended without an exit status", infrastructure=True)
    return Result(_OUTCOME_BY_EXIT_STATUS.get(status, FAILED), format_exit_status(status))


def format_leftovers(names: Sequence[str]) -> str:
    """Return ``2 processes, killed: sleep, sleep``."""
    shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
    return "%d process%s, killed: %s" % (len(names), "es" if len(names) > 1 else "", shown)


#: Exit statuses with a meaning for shells and env(1) (POSIX, "Exit Status for Commands").
_SHELL_EXIT_STATUSES: Dict[int, str] = {126: "command not executable", 127: "command not found"}


def format_exit_status(status: int) -> str:
    """Return ``exit 3``, with an explanation for the shell's 126, 127 and 128 + signal."""
    if status in _SHELL_EXIT_STATUSES:
        return "exit %d (%s)" % (status, _SHELL_EXIT_STATUSES[status])
    if 128 < status <= 128 + 64:
        name = format_signal(status - 128)
        if name.startswith("SIG"):
            return "exit %d (128 + %s)" % (status, name)
    return "exit %d" % status


def format_signal(number: int) -> str:
    """Return ``SIGSEGV``, or ``signal 40`` for a signal without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal %d" % number


def format_seconds(value: float) -> str:
    """Return ``5 s``, ``0.25 s``; ``value``: seconds."""
    return "%g s" % round(value, 3)
