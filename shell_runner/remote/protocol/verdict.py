"""The one judge: a Test and its Execution become a Result.

Pure: no clock, no I/O, nothing of where it ran.  The exit codes are automake's
("Scripts-based Testsuites": 0 pass, 77 skip, 99 hard error); all else fails.
"""

import signal
from typing import Dict, Sequence

from .model import ERROR, FAILED, PASSED, SKIPPED, Execution, ParsedOutput, Problem, Result, Test

_BY_EXIT: Dict[int, str] = {0: PASSED, 77: SKIPPED, 99: ERROR}

_PROBLEMS: Dict[str, str] = {
    Problem.NO_INTERPRETER: "missing interpreter",
    Problem.FOREIGN_BINARY: "built for another machine",
    Problem.PERMISSION_DENIED: "permission denied",
    Problem.NO_SUCH_FILE: "no such file",
    Problem.NOT_STARTED: "could not be started",
    Problem.SLOT_DIED: "its slot died",
    Problem.HOST_LOST: "host lost",
    Problem.CANCELED: "cancelled",
    Problem.UNMET_REQUIREMENT: "not run",
    Problem.NOT_RUN: "not run",
}

_INFRASTRUCTURE = frozenset([Problem.SLOT_DIED, Problem.HOST_LOST, Problem.CANCELED])


def judge(test: Test, execution: Execution) -> Result:
    """The verdict on ``execution``; the same for every reporter."""
    if execution.problem:
        return _judge_problem(execution)
    if execution.timed_out:
        return Result(FAILED, "timed out after %s" % format_seconds(test.timeout))
    if execution.signal is not None:
        return Result(FAILED, "killed by %s" % format_signal(execution.signal))
    result = _judge_end(execution)
    if execution.leftovers and test.leftovers == "fail" and result.outcome != FAILED:
        return Result(FAILED, "left %s" % format_leftovers(execution.leftovers))
    return result


def is_retryable(test: Test, execution: Execution) -> bool:
    """The test itself has failed; for infrastructure, whoever schedules has rules of its own."""
    result = judge(test, execution)
    return result.outcome in (FAILED, ERROR) and not result.infrastructure


def _judge_end(execution: Execution) -> Result:
    parsed = execution.parsed
    if parsed is None or execution.exit_status is None:
        return _judge_exit(execution.exit_status)
    if not parsed.cases and execution.exit_status in (77, 99):
        return _judge_exit(execution.exit_status)
    return _judge_cases(execution.exit_status, parsed)


def is_reported_by_cases(test: Test, execution: Execution) -> bool:
    """Whether the cases alone tell the outcome, so that the program needs no entry of its own."""
    parsed = execution.parsed
    if execution.leftovers and test.leftovers == "fail":
        return False
    if parsed is None or not parsed.cases or parsed.problem or execution.problem:
        return False
    if execution.timed_out or execution.signal is not None or execution.exit_status is None:
        return False
    return not execution.exit_status or any(case.outcome in (FAILED, ERROR) for case in parsed.cases)


def _judge_cases(status: "int | None", parsed: ParsedOutput) -> Result:
    """Neither green output nor a green exit is enough alone."""
    red = sum(case.outcome in (FAILED, ERROR) for case in parsed.cases)
    said = []
    if red:
        said.append("%d of %s failed" % (red, format_case_count(len(parsed.cases))))
    if parsed.problem:
        said.append(parsed.problem)
    if status:
        # 77 and 99 included: where cases are named, they are only the count of failures.
        said.insert(0, format_exit_status(status))
        if not (red or parsed.problem) and parsed.cases:
            said.append("though none of %s failed" % format_case_count(len(parsed.cases)))
    if red or (status and (parsed.cases or not parsed.problem)):
        return Result(FAILED, ", ".join(said))
    if said:
        return Result(ERROR, ", ".join(said))
    return _judge_green(parsed)


def _judge_green(parsed: ParsedOutput) -> Result:
    if parsed.skip_all is not None and not parsed.cases:
        return Result(SKIPPED, parsed.skip_all or "skipped all")
    if parsed.cases and all(case.outcome == SKIPPED for case in parsed.cases):
        return Result(SKIPPED, "all of %s skipped" % format_case_count(len(parsed.cases)))
    return Result(PASSED, format_case_count(len(parsed.cases)))


def format_case_count(count: int) -> str:
    """``1 case``, ``3 cases``."""
    return "1 case" if count == 1 else "%d cases" % count


def _judge_problem(execution: Execution) -> Result:
    words = _PROBLEMS.get(execution.problem, execution.problem)
    if execution.detail:
        words = "%s: %s" % (words, execution.detail)
    return Result(ERROR, words, execution.problem in _INFRASTRUCTURE)


def _judge_exit(status: "int | None") -> Result:
    if status is None:
        return Result(ERROR, "ended without an exit status", infrastructure=True)
    return Result(_BY_EXIT.get(status, FAILED), format_exit_status(status))


def format_leftovers(names: Sequence[str]) -> str:
    """``2 processes, killed: sleep, sleep``."""
    shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
    return "%d process%s, killed: %s" % (len(names), "es" if len(names) > 1 else "", shown)


#: What shells and env(1) mean by them (POSIX, "Exit Status for Commands").
_SHELL: Dict[int, str] = {126: "command not executable", 127: "command not found"}


def format_exit_status(status: int) -> str:
    """``exit 3``; what a shell means by 126, 127 and 128 + a signal is explained."""
    if status in _SHELL:
        return "exit %d (%s)" % (status, _SHELL[status])
    if 128 < status <= 128 + 64:
        name = format_signal(status - 128)
        if name.startswith("SIG"):
            return "exit %d (128 + %s)" % (status, name)
    return "exit %d" % status


def format_signal(number: int) -> str:
    """``SIGSEGV``; ``signal 40`` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal %d" % number


def format_seconds(value: float) -> str:
    """``5 s``, ``0.25 s``."""
    return "%g s" % round(value, 3)
