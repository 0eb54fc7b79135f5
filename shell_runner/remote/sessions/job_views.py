"""The parts of the replies about a job, as a client shows them.

Pure functions of the rows of the queue.  Must not know the queue, the disk or the channel.
"""

import json
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from ..jobs.package_builder import why_absent
from ..jobs.queue import State
from ..protocol.model import ERROR, FAILED, Stream, execution_from_row

#: States of jobs that are to get on.
WAITING = (State.QUEUED, State.RUNNING, State.PACKAGING)
_MAX_MESSAGE_CHARS = 2000
#: Failed tests that a reply names.
_MAX_NAMED_TESTS = 50
#: Characters of an Execution's row that is shown with a failed test.
_MAX_ROW_CHARS = 1 << 16

#: Number, outcome and row of a test that has failed.
FailedTest = Tuple[int, str, str]


def attempt(row: Any) -> Dict[str, Any]:
    """Return what a person wants to know of an attempt."""
    shown = ("id", "number", "detail", "began", "ended")
    return {**{name: getattr(row, name) for name in shown}, "step": str(row.step)}


def notification(pending: Optional[Tuple[int, float, str]], now: float) -> Optional[Dict[str, Any]]:
    """Return the state of a notification that did not arrive yet; None if there is none.

    ``pending``: how often it was tried, when it is due, and why it failed.  The reply has the
    seconds that are left by the clock of this host, as the client has its own.
    """
    if pending is None:
        return None
    tries, due, error = pending
    seconds = max(due - now, 0.0)
    return {"tries": tries, "seconds": seconds, "trouble": error[:_MAX_MESSAGE_CHARS]}


def failed_tests(row: Any, executions: Iterable[Any]) -> List[FailedTest]:
    """Return the tests of a job that have failed in its last attempt, in their order.

    ``executions``: the rows of that attempt.  Once the job has ended, tests that did not run
    have failed, too, as in the package.
    """
    last: Dict[int, FailedTest] = {}
    for test, _, outcome, text in executions:
        last[test] = (test, outcome, text)
    for test in range(row.count) if row.how else ():
        if test not in last:
            last[test] = (test, ERROR, json.dumps(why_absent(test, row.how, row.detail)))
    return [last[test] for test in sorted(last) if last[test][1] in (FAILED, ERROR)]


def failures(failed: Sequence[FailedTest], cases: Sequence[Any]) -> Dict[str, Any]:
    """Return the first failed tests with what is needed to say why; without their output.

    ``cases``: all tests of the job, by their numbers.
    """
    rows = [
        [cases[test].nodeid, outcome, cases[test].test, _without_output(text)]
        for test, outcome, text in failed[:_MAX_NAMED_TESTS]
    ]
    return {"count": len(failed), "first": rows}


def _without_output(text: str) -> Any:
    """Return the row of an Execution without what the test has written; None if it is long."""
    if len(text) > 8 * _MAX_ROW_CHARS:
        return None
    try:
        execution = execution_from_row(json.loads(text))._replace(out=Stream(), err=Stream())
    except ValueError:
        return None
    return execution if len(json.dumps(execution)) <= _MAX_ROW_CHARS else None
