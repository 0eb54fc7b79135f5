"""Earlier attempts of a test, as elements of the testcases of its last attempt.

Pure: values in, values out.  The elements have the names of Maven Surefire: ``flakyFailure`` and
``flakyError`` if the testcase has passed at last, otherwise ``rerunFailure`` and ``rerunError``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..remote.protocol.model import ERROR, FAILED, PASSED, XPASSED, Execution, Test
from ..remote.protocol.verdict import is_reported_by_cases, judge
from ..text import make_readable
from .report_text import FailureContext, describe_case_failure, describe_failure, name_cases

#: Maximum number of failed cases of one attempt that are kept, and of characters of their texts.
#: Reports of the last attempt are the only complete ones; a test may have many attempts.
MAX_CASES, MAX_TEXT_CHARS = 1000, 1 << 20

#: The testcase of a program, in place of group and name of a case.
PROGRAM = None
#: Group and name of a case, or PROGRAM.
TestcaseNames = tuple[str, str] | None
#: Outcome, message and text of a failure.
AttemptFailure = tuple[str, str, str]
#: Tag, outcome, message and text of an element.  A plain tuple, because xdist sends it from its
#: workers.
AttemptElement = tuple[str, str, str, str]


@dataclass(frozen=True)
class EarlierAttempt:
    """An attempt that another one followed."""

    #: Outcome and message of the program.
    outcome: str
    message: str
    #: The failures that a report shows.
    failures: Mapping[TestcaseNames, AttemptFailure]


def describe_attempt(test: Test, execution: Execution, context: FailureContext) -> EarlierAttempt:
    """Return the description of an attempt: of its failed cases, else of the program.

    If there are more cases than ``MAX_CASES``, the failure of the program stands for the others.
    A case whose text would exceed ``MAX_TEXT_CHARS`` has its message alone.
    """
    result = judge(test, execution)
    message = make_readable(result.message)
    failures: dict[TestcaseNames, AttemptFailure] = {}
    is_complete, size = is_reported_by_cases(test, execution), 0
    for case, names in name_cases(execution.parsed.cases if execution.parsed else ()):
        if case.outcome not in (FAILED, ERROR):
            continue
        if len(failures) == MAX_CASES:
            is_complete = False
            break
        with_output = not failures  # shown once
        failure = describe_case_failure(case, execution, context, with_output)
        text = str(failure)
        if size + len(text) > MAX_TEXT_CHARS:
            text = failure.message
        size += len(text)
        failures[names] = (case.outcome, failure.message, text)
    if not failures or not is_complete:
        text = str(describe_failure(test, execution, context))
        failures[PROGRAM] = (result.outcome, message, text)
    return EarlierAttempt(result.outcome, message, failures)


def list_testcases(test: Test, execution: Execution) -> dict[TestcaseNames, bool]:
    """Return the testcases of the last attempt, in their order, and whether each has passed."""
    testcases: dict[TestcaseNames, bool] = {}
    for case, names in name_cases(execution.parsed.cases if execution.parsed else ()):
        testcases[names] = case.outcome in (PASSED, XPASSED)
    if not is_reported_by_cases(test, execution):
        testcases[PROGRAM] = judge(test, execution).outcome == PASSED
    return testcases


def assign_elements(
    attempts: Sequence[EarlierAttempt], testcases: Mapping[TestcaseNames, bool], is_flaky: bool
) -> Mapping[TestcaseNames, Sequence[AttemptElement]]:
    """Return the elements of earlier attempts by the testcases of the last one.

    A failed case stands in the testcase with its name.  The program, and a case that the last
    attempt does not have, stand in the testcase of the program, else in the first one.

    ``testcases``: as of ``list_testcases``.  ``is_flaky``: whether the program has passed at last.
    """
    default = PROGRAM if PROGRAM in testcases else next(iter(testcases), PROGRAM)
    elements: dict[TestcaseNames, list[AttemptElement]] = defaultdict(list)
    for attempt in attempts:
        for names, (outcome, message, text) in attempt.failures.items():
            if names is not PROGRAM and names in testcases:
                elements[names].append(_make_element(testcases[names], outcome, message, text))
                continue
            if names is not PROGRAM:
                message = f"{' > '.join(filter(None, names))}: {message}"
            elements[default].append(_make_element(is_flaky, outcome, message, text))
    return elements


def _make_element(has_passed: bool, outcome: str, message: str, text: str) -> AttemptElement:
    tag = ("flaky" if has_passed else "rerun") + ("Error" if outcome == ERROR else "Failure")
    return tag, outcome, message, text
