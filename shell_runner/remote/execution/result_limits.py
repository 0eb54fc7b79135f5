"""The limits of one result, which a host shortens before it sends or stores it.

Responsible for keeping the JSON of an Execution below a limit of its receiver, which would refuse
a longer one together with its sender.  Pure.
"""

import json
from typing import Callable, Tuple

from ..protocol.model import CapturedStream, Case, Execution, ParsedOutput

#: Characters of the details of each case in a row that would be too long.
_MAX_DETAILS_CHARS = 1000
#: Characters of each end of a stream in a row that would be too long.
_MAX_END_CHARS = 256 << 10
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


def shorten_to_fit(
    execution: Execution, is_allowed: Callable[[str], bool]
) -> Tuple[Execution, str]:
    """Shorten an execution until ``is_allowed`` accepts its JSON; return it and its JSON.

    First the details of cases and the output are shortened.  If that does not suffice, no case is
    kept, and the test is an error that says so.
    """
    row = _ENCODE(execution)
    if is_allowed(row):
        return execution, row
    for shorten in (_shorten_details, _shorten_output, _drop_cases):
        execution = shorten(execution)
        row = _ENCODE(execution)
        if is_allowed(row):
            break
    return execution, row


def _shorten_details(execution: Execution) -> Execution:
    parsed = execution.parsed
    if parsed is None:
        return execution
    return execution._replace(parsed=parsed._replace(cases=list(map(_shorten_case, parsed.cases))))


def _shorten_case(case: Case) -> Case:
    excess = len(case.details) - _MAX_DETAILS_CHARS
    if excess <= 0:
        return case
    details = "%s\n[%d more characters]" % (case.details[:_MAX_DETAILS_CHARS], excess)
    return case._replace(details=details)


def _shorten_output(execution: Execution) -> Execution:
    return execution._replace(
        stdout=_shorten_stream(execution.stdout), stderr=_shorten_stream(execution.stderr)
    )


def _shorten_stream(stream: CapturedStream) -> CapturedStream:
    """Return the stream with at most ``_MAX_END_CHARS`` characters of each end."""
    text, middle = stream.text, stream.cut_index
    if len(text) <= 2 * _MAX_END_CHARS:
        return stream
    if middle < 0:
        middle = len(text) // 2
    head = text[: min(middle, _MAX_END_CHARS)]
    tail = text[max(middle, len(text) - _MAX_END_CHARS) :]
    return stream._replace(text=head + tail, cut_index=len(head))


def _drop_cases(execution: Execution) -> Execution:
    parsed = execution.parsed
    if parsed is None:
        return execution
    problem = "its %d cases are too large for a result; none is kept" % len(parsed.cases)
    return execution._replace(parsed=ParsedOutput(parsed.format[:100], [], problem))
