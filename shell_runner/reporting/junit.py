"""JUnit XML of executions, equal to the report that pytest writes of a live run.

Defines the elements and their order, which are those of pytest's writer with its defaults (its
family xunit2, no captured output) and of our additions to it.  The texts come from
``report_text``.  This module must not know pytest, nor how a test came to run.
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from junitparser import (
    Element,
    Error,
    Failure,
    JUnitXml,
    Properties,
    Property,
    Skipped,
    SystemErr,
    SystemOut,
    TestCase,
    TestSuite,
)
from junitparser.junitparser import Result
from junitparser.xunit2 import FlakyError, FlakyFailure, RerunError, RerunFailure

from ..junit_style import DEFAULT_STYLE, IN_SUITE, IN_TESTCASES, JunitStyle
from ..remote.protocol.command_words import build_command
from ..remote.protocol.job import JobTest
from ..remote.protocol.model import (
    ERROR,
    FAILED,
    PASSED,
    SKIPPED,
    XFAILED,
    Case,
    Execution,
    Problem,
)
from ..remote.protocol.verdict import is_reported_by_cases, judge
from ..text import make_readable, pluralize, quote_command
from . import report_text
from .attempts import (
    PROGRAM,
    AttemptElement,
    TestcaseNames,
    assign_elements,
    describe_attempt,
    list_testcases,
)
from .report_text import FailureContext

#: Characters of the attribute ``message``; the text of the element holds the whole message.
_MAX_MESSAGE_CHARS = 500
#: The class of each element of an earlier attempt.
_ATTEMPT_ELEMENTS: Mapping[str, Callable[..., Result]] = {
    "flakyFailure": FlakyFailure, "flakyError": FlakyError,
    "rerunFailure": RerunFailure, "rerunError": RerunError,
}  # fmt: skip
#: The problem of a test without a record.
_NO_RECORD = "not run"


def format_command(test: JobTest) -> str:
    """Return the command that executes the test, as typed in the test's directory."""
    folder, _, name = test.test.path.rpartition("/")
    root = "/".join([".."] * (folder.count("/") + 1)) if folder else "."
    return quote_command(*build_command(test.test, f"./{name}", root))


def _get_path(test: JobTest) -> str:
    return test.test.path


def _list_no_files(test: JobTest, execution: Execution) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class ReportOptions:
    """The parts of a report that depend on its writer and its readers."""

    #: Returns the command that executes a test.
    command: Callable[[JobTest], str] = format_command
    #: Returns the command that reruns a test, in one line.
    rerun_command: Callable[[JobTest], str] = format_command
    #: Returns the paths of the artifacts of one execution.
    files: Callable[[JobTest, Execution], Sequence[str]] = _list_no_files
    #: Returns the path of the program for the text of a skip.
    source: Callable[[JobTest], str] = _get_path
    #: Reruns of a failed test that sets no number of its own.
    retries: int = 0
    #: Outcome of a test whose requirements its host does not meet: ``skip`` or ``error``.
    requires: str = "skip"
    #: Start of the run in seconds since the epoch; None: the start of the first execution.
    started_at: float | None = None
    #: Duration of the run in seconds; None: up to the end of the last execution.
    duration: float | None = None
    #: Start of the run in seconds since the epoch if no test has started.
    fallback_started_at: float = 0.0
    #: Text of the suite's ``system-err``.
    system_err: str = ""
    #: The suite's attribute ``hostname``; empty: the name of this machine, as in pytest.
    hostname: str = ""
    style: JunitStyle = DEFAULT_STYLE


def write_junit(
    target: str | Path | IO[bytes],
    name: str,
    host: str,
    tests: Sequence[JobTest],
    executions: Mapping[int, Sequence[Execution]],
    options: ReportOptions = ReportOptions(),
) -> None:
    """Write the testcases of ``tests``, in their order, as one suite called ``name``.

    ``target``: a path, whose folder is created, or a binary file.  ``host``: the host's name in
    the report.  ``executions``: by number of the test, one for each attempt; the last one decides.
    Raises OSError if the file cannot be written.
    """
    suite = TestSuite(make_readable(name))
    cases: list[TestCase] = []
    properties: list[tuple[str, object]] = []
    started_times, end_times = [], []
    for test in tests:
        attempts = executions.get(test.test.id) or [_missing_execution(test)]
        builder = _TestcaseBuilder(test, attempts, host, options)
        cases += builder.build_all()
        properties += builder.suite_properties
        started_times += [each.started_at for each in attempts if each.started_at]
        end_times += [each.started_at + each.duration for each in attempts if each.started_at]
    if properties:
        _append(suite, _properties_element(properties))
    suite.add_testcases(cases)  # one by one would be quadratic
    if options.system_err:
        _append(suite, SystemErr(make_readable(options.system_err)))
    started_at, duration = options.started_at, options.duration
    if started_at is None:
        started_at = min(started_times, default=options.fallback_started_at)
    if duration is None:
        duration = max(end_times, default=started_at) - started_at
    suite.time = round(max(duration, 0.0), 3)
    suite.timestamp = _format_timestamp(started_at)
    suite.hostname = make_readable(options.hostname or platform.node())
    root = JUnitXml("pytest tests")
    _append(root, suite)
    if not isinstance(target, (str, Path)):
        root.write(target)
        return
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    with open(target, "wb") as file:
        root.write(file)


def _missing_execution(test: JobTest) -> Execution:
    return Execution(test.test.id, problem=_NO_RECORD, detail="there is no record of its execution")


def _format_timestamp(seconds: float) -> str:
    """Return an ISO 8601 time; the epoch for a time of a host that cannot be represented."""
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).astimezone().isoformat()
    except (ValueError, OverflowError, OSError):
        return datetime.datetime.fromtimestamp(0, datetime.UTC).isoformat()


class _TestcaseBuilder:
    """Builds the testcases of one test."""

    def __init__(
        self, test: JobTest, attempts: Sequence[Execution], host: str, options: ReportOptions
    ) -> None:
        self._test = test
        self._execution = attempts[-1]
        self._earlier = attempts[:-1]
        # A host that could not run the test is not named as its host.
        self._host = "" if self._execution.problem == Problem.UNMET_REQUIREMENT else host
        self._options = options
        self._files = self._get_files(self._execution)
        retries = options.retries if test.retries is None else test.retries
        result = judge(test.test, self._execution)
        self._flaky = ""
        if self._earlier and result.outcome == PASSED:
            self._flaky = report_text.flaky_message(len(self._earlier), 1 + retries)
        self._has_suite_properties = False
        #: The properties that belong in the testsuite; complete once all testcases are built.
        self.suite_properties: list[tuple[str, object]] = []

    def build_all(self) -> Iterator[TestCase]:
        """Yield a testcase for each case, and one for the program if the cases do not show all."""
        execution = self._execution
        if execution.problem == Problem.UNMET_REQUIREMENT and self._options.requires == "skip":
            yield self._build_unmet()
            return
        cases = execution.parsed.cases if execution.parsed else ()
        earlier = self._assign_earlier_attempts()
        unclaimed = report_text.unclaimed_duration(execution, cases)
        files, with_output = self._files, True
        for case, names in report_text.name_cases(cases):
            element = self._start_testcase(names, unclaimed + (case.duration or 0.0), case)
            self._finish_testcase(
                element, files, self._case_result_element(case, with_output), earlier.get(names, ())
            )
            with_output = with_output and case.outcome not in (FAILED, ERROR)  # shown once
            yield element
            files, unclaimed = (), 0.0
        if not is_reported_by_cases(self._test.test, execution):
            element = self._start_testcase(None, execution.duration)
            self._finish_testcase(
                element, self._files, self._result_element(), earlier.get(PROGRAM, ())
            )
            yield element

    def _assign_earlier_attempts(self) -> Mapping[TestcaseNames, Sequence[AttemptElement]]:
        if not self._earlier:
            return {}
        test = self._test.test
        attempts = [
            describe_attempt(test, each, self._failure_context(each)) for each in self._earlier
        ]
        testcases = list_testcases(test, self._execution)
        return assign_elements(attempts, testcases, bool(self._flaky))

    def _build_unmet(self) -> TestCase:
        element = self._start_testcase(None, 0.0)
        self._finish_testcase(
            element, (), self._skipped_element(make_readable(self._execution.detail)), ()
        )
        return element

    def _start_testcase(
        self,
        names: tuple[str, str] | None,
        duration: float,
        case: Case | None = None,
    ) -> TestCase:
        style = self._options.style
        classname, name = report_text.junit_names(self._test.nodeid, names, style.prefix)
        element = TestCase(name, classname, round(duration, 3))
        own = [] if case is None else report_text.case_properties(case)
        if style.properties == IN_TESTCASES:
            properties = [*self._list_properties(), *own]
            if properties:
                _append(element, _properties_element(properties))
        elif style.properties == IN_SUITE:
            self._add_suite_properties(names, own)
        return element

    def _add_suite_properties(
        self, names: tuple[str, str] | None, own: Sequence[tuple[str, object]]
    ) -> None:
        """Add properties for the testsuite: those that all cases share are of the program."""
        nodeid, make_name = self._test.nodeid, report_text.suite_property_name
        if not self._has_suite_properties:
            self._has_suite_properties = True
            self.suite_properties += [
                (make_name(nodeid, None, key), value) for key, value in self._list_properties()
            ]
        self.suite_properties += [(make_name(nodeid, names, key), value) for key, value in own]

    def _list_properties(self) -> list[tuple[str, object]]:
        """Return the properties that all testcases of the program have."""
        properties: list[tuple[str, object]] = [*self._test.properties]
        if self._flaky:
            properties.append(("flaky", self._flaky))
        if self._host:
            properties += report_text.execution_properties(self._execution, self._host)
        return properties

    def _finish_testcase(
        self,
        element: TestCase,
        files: Sequence[str],
        result: Result | None,
        earlier: Sequence[AttemptElement],
    ) -> None:
        if files:
            _append(element, SystemOut(report_text.format_attachments(files)))
        _append(element, *([] if result is None else [result]))
        _append(element, *map(_attempt_element, earlier))

    def _result_element(self) -> Result | None:
        outcome = judge(self._test.test, self._execution).outcome
        if outcome == PASSED:
            return None
        if outcome == SKIPPED:
            return self._skipped_element(report_text.skip_reason(self._execution))
        failure = report_text.describe_failure(
            self._test.test, self._execution, self._failure_context(self._execution)
        )
        if outcome != ERROR:
            return _fill(Failure(), failure.message, str(failure))
        return _fill(Error(), f'failed on setup with "{failure.message}"', str(failure))

    def _case_result_element(self, case: Case, with_output: bool) -> Result | None:
        if case.outcome == SKIPPED:
            return self._skipped_element(report_text.case_skip_reason(case))
        if case.outcome == XFAILED:
            expected = Skipped(type_="pytest.xfail")
            expected.message = make_readable(case.message)
            return expected
        if case.outcome not in (FAILED, ERROR):
            return None
        context = self._failure_context(self._execution)
        failure = report_text.describe_case_failure(case, self._execution, context, with_output)
        return _fill(Failure(), failure.message, str(failure))

    def _skipped_element(self, reason: str) -> Result:
        element = Skipped(type_="pytest.skip")
        element.message = reason
        element.text = make_readable(f"{self._options.source(self._test)}:1: {reason}")
        return element

    def _failure_context(self, execution: Execution) -> FailureContext:
        test, options = self._test, self._options
        files = self._get_files(execution)
        return FailureContext(
            test.nodeid, options.command(test), options.rerun_command(test), self._host, files
        )

    def _get_files(self, execution: Execution) -> Sequence[str]:
        return self._options.files(self._test, execution) if execution.artifacts else ()


def _attempt_element(values: AttemptElement) -> Result:
    tag, outcome, message, text = values
    element = _ATTEMPT_ELEMENTS[tag](type_=outcome)
    element.message, element.text = message, make_readable(text)
    return element


def _properties_element(values: Sequence[tuple[str, object]]) -> Element:
    make_element: Any = Properties  # junitparser's constructor has no types
    element: Element = make_element()
    for name, value in values:
        _append(element, Property(make_readable(name), make_readable(str(value))))
    return element


def _fill(element: Result, message: str, text: str) -> Result:
    element.message, element.text = _shorten(message), text
    return element


def _append(parent: Any, *children: Element) -> None:
    """Append elements; junitparser's types do not declare this."""
    parent.extend(children)


def _shorten(message: str) -> str:
    """Shorten a message as pytest 9.2 does: whole lines while they fit, and a note."""
    lines = message.splitlines() or [""]
    kept: list[str] = []
    size = 0
    for line in lines:
        if kept and size + len(line) + 1 > _MAX_MESSAGE_CHARS:
            break
        kept.append(line)
        size += len(line) + 1
    shown = "\n".join(kept)
    is_cut = len(shown) > _MAX_MESSAGE_CHARS
    more = len(lines) - len(kept)
    if not (more or is_cut):
        return message
    note = f"+{more} more {pluralize('line', more)}" if more else "truncated"
    if is_cut:
        shown = shown[:_MAX_MESSAGE_CHARS] + "..."
    return f"{shown}\n[{note}; full report in element text]"
