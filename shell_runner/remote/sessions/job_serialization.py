"""Views of a job: the JSON values of the replies that a client shows.

Pure functions of the rows of the queue.  Must not know the queue, the disk or the channel.
"""

import json
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from ..jobs.result_package_content import make_absent_execution
from ..jobs.rows import AttemptRow, JobRow
from ..jobs.states import State
from ..protocol.job import JobConfig, JobTest
from ..protocol.model import ERROR, FAILED, CapturedStream, Test, execution_from_row

#: States of jobs that a worker still has to process.
UNFINISHED_STATES = (State.QUEUED, State.RUNNING, State.PACKAGING)
#: Maximum characters of an error in a reply.
_MAX_MESSAGE_CHARS = 2000
#: Maximum items of each list of a configuration in a reply.
_MAX_SHOWN_ITEMS = 100
#: Maximum failed tests in a reply.
_MAX_FAILED_TESTS = 50
#: Maximum characters of the row of an Execution that is sent with a failed test.
_MAX_ROW_CHARS = 1 << 16

#: Number, outcome and Execution row (JSON) of a failed test.
FailedTest = Tuple[int, str, str]


def make_attempt_view(row: AttemptRow) -> Dict[str, Any]:
    """Return the view of an attempt."""
    return {
        "id": row.id,
        "number": row.number,
        "phase": str(row.phase),
        "detail": row.detail[:_MAX_MESSAGE_CHARS],
        "started_at": row.started_at,
        "ended_at": row.ended_at,
    }


def make_notification_view(
    pending: Optional[Tuple[int, float, str]], now: float
) -> Optional[Dict[str, Any]]:
    """Return the view of a notification that has not been delivered; None if there is none.

    ``pending``: attempts so far, Unix timestamp of the next one, and error of the last one.  The
    view has the seconds until the next attempt, since the client's clock may differ.
    """
    if pending is None:
        return None
    attempts, due_at, error = pending
    seconds = max(due_at - now, 0.0)
    return {"attempts": attempts, "seconds": seconds, "error": error[:_MAX_MESSAGE_CHARS]}


def list_failed_tests(row: JobRow, executions: Iterable[Any]) -> List[FailedTest]:
    """Return the failed tests of the last attempt of a job, ordered by number.

    ``executions``: the rows of that attempt.  Once the job has ended, tests that did not run count
    as failed, as in the package.
    """
    last: Dict[int, FailedTest] = {}
    for test, _, outcome, text in executions:
        last[test] = (test, outcome, text)
    for test in range(row.test_count) if row.end_reason else ():
        if test not in last:
            last[test] = (
                test,
                ERROR,
                json.dumps(make_absent_execution(test, row.end_reason, row.detail)),
            )
    return [last[test] for test in sorted(last) if last[test][1] in (FAILED, ERROR)]


def make_failures_view(failed: Sequence[FailedTest], cases: Sequence[JobTest]) -> Dict[str, Any]:
    """Return the number of failed tests, and the first of them with the facts to explain them.

    ``cases``: all tests of the job, by number.  The output of the tests is left out.
    """
    rows = [
        [cases[test].nodeid[:_MAX_MESSAGE_CHARS], outcome, *_explain(cases[test].test, text)]
        for test, outcome, text in failed[:_MAX_FAILED_TESTS]
    ]
    return {"count": len(failed), "first": rows}


def _explain(test: Test, text: str) -> Tuple[Test, Any]:
    """Return a test and the row of its Execution; without what is too long."""
    if len(json.dumps(test)) <= _MAX_ROW_CHARS:
        return test, _remove_output(text)
    return Test(test.id, test.path[:_MAX_MESSAGE_CHARS]), None


def make_config_view(config: JobConfig) -> Dict[str, Any]:
    """Return the configuration of a job; what is too long to be shown is cut."""
    return {name: shorten(value) for name, value in config._asdict().items()}


def shorten(value: Any) -> Any:
    """Return a value of JSON with at most so many characters and items as are shown."""
    if isinstance(value, str):
        return value[:_MAX_MESSAGE_CHARS]
    if isinstance(value, (list, tuple)):
        return [shorten(each) for each in value[:_MAX_SHOWN_ITEMS]]
    return value


def _remove_output(text: str) -> Any:
    """Return the row of an Execution without the test's output; None if it is too long."""
    if len(text) > 8 * _MAX_ROW_CHARS:
        return None
    try:
        execution = execution_from_row(json.loads(text))._replace(
            stdout=CapturedStream(), stderr=CapturedStream()
        )
    except ValueError:
        return None
    return execution if len(json.dumps(execution)) <= _MAX_ROW_CHARS else None
