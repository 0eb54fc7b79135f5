"""The one judge: a Test and its Execution become a Result.

Pure: no clock, no I/O, nothing of where it ran.  The exit codes are automake's
("Scripts-based Testsuites": 0 pass, 77 skip, 99 hard error); all else fails.
"""

import signal
from typing import Dict, Sequence

from .model import ERROR, FAILED, PASSED, SKIPPED, Execution, Problem, Result, Test

_BY_EXIT: Dict[int, str] = {0: PASSED, 77: SKIPPED, 99: ERROR}

_PROBLEMS: Dict[str, str] = {
    Problem.NO_INTERPRETER: "missing interpreter",
    Problem.FOREIGN: "built for another machine",
    Problem.DENIED: "permission denied",
    Problem.VANISHED: "no such file",
    Problem.SPAWN: "could not be started",
    Problem.SLOT_DIED: "its slot died",
    Problem.HOST_LOST: "host lost",
    Problem.CANCELLED: "cancelled",
}

_INFRASTRUCTURE = frozenset([Problem.SLOT_DIED, Problem.HOST_LOST, Problem.CANCELLED])


def judge(test: Test, execution: Execution) -> Result:
    """The verdict on ``execution``; the same for every reporter."""
    if execution.problem:
        return _judge_problem(execution)
    if execution.timed_out:
        return Result(FAILED, "timed out after %s" % seconds(test.timeout))
    if execution.signal is not None:
        return Result(FAILED, "killed by %s" % signal_name(execution.signal))
    result = _judge_exit(execution.exit)
    if execution.leftovers and test.leftovers == "fail" and result.outcome != FAILED:
        return Result(FAILED, "left %s" % leftover_words(execution.leftovers))
    return result


def _judge_problem(execution: Execution) -> Result:
    words = _PROBLEMS.get(execution.problem, execution.problem)
    if execution.detail:
        words = "%s: %s" % (words, execution.detail)
    return Result(ERROR, words, execution.problem in _INFRASTRUCTURE)


def _judge_exit(status: "int | None") -> Result:
    if status is None:
        return Result(ERROR, "ended without an exit status", infrastructure=True)
    return Result(_BY_EXIT.get(status, FAILED), exit_words(status))


def leftover_words(names: Sequence[str]) -> str:
    """``2 processes, killed: sleep, sleep``."""
    shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
    return "%d process%s, killed: %s" % (len(names), "es" if len(names) > 1 else "", shown)


def exit_words(status: int) -> str:
    """``exit 3``; a shell's 128 + n is explained as the signal it stands for."""
    if 128 < status <= 128 + 64:
        name = signal_name(status - 128)
        if name.startswith("SIG"):
            return "exit %d (128 + %s)" % (status, name)
    return "exit %d" % status


def signal_name(number: int) -> str:
    """``SIGSEGV``; ``signal 40`` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal %d" % number


def seconds(value: float) -> str:
    """``5 s``, ``0.25 s``."""
    return "%g s" % round(value, 3)
