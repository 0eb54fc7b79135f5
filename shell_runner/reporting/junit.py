"""JUnit XML of tests that have run somewhere: that which pytest writes of a live run.

Owns the elements and their order, which are those of pytest's writer with its defaults
(its family xunit2, no captured output) and of our additions to it.  The texts are those
of ``words``.  Must not know pytest, nor how a test came to run.
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
from ..text import pluralize, make_readable, quote_command
from . import report_text
from .report_text import FailureContext

#: Characters of the attribute ``message``; the text of the element has all.
_MESSAGE = 500
#: The problem of a test of which nothing is known.
_NO_RECORD = "not run"


def format_command(test: JobTest) -> str:
    """How it is executed, as a person would type it in its folder."""
    return quote_command(*test.test.argv, f"./{test.test.path.rpartition('/')[2]}")


def _path_of(test: JobTest) -> str:
    return test.test.path


def _nothing(test: JobTest, execution: Execution) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class ReportOptions:
    """What depends on who tells of the tests, and to whom."""

    command: Callable[[JobTest], str] = format_command
    #: One line that runs a test again.
    rerun_command: Callable[[JobTest], str] = format_command
    #: Where the artefacts of one execution are now.
    files: Callable[[JobTest, Execution], Sequence[str]] = _nothing
    #: Where the program is; stands in the text of a skip.
    source: Callable[[JobTest], str] = _path_of
    #: How often a test that has no number of its own may run again.
    retries: int = 0
    #: ``skip`` or ``error``: what a test is that its host could not run.
    requires: str = "skip"
    #: Seconds since the epoch, and how long all of it took; None: by the executions.
    started_at: float | None = None
    duration: float | None = None
    #: The same if no test has begun.
    fallback_started_at: float = 0.0
    #: What stands beside all testcases.
    system_err: str = ""
    #: Name of the machine in the attributes of the suite; empty: this one, as pytest has it.
    hostname: str = ""


def write_junit(
    target: str | Path | IO[bytes],
    name: str,
    host: str,
    tests: Sequence[JobTest],
    executions: Mapping[int, Sequence[Execution]],
    options: ReportOptions = ReportOptions(),
) -> None:
    """Write the testcases of ``tests``, in their order, as one suite called ``name``.

    ``host``: what reports call the host.  ``executions``: by number of the test, one for
    each try; the last one decides.
    """
    suite = TestSuite(make_readable(name))
    cases: list[TestCase] = []
    began, ended = [], []
    for test in tests:
        tries = executions.get(test.test.id) or [_no_record(test)]
        cases += _Teller(test, tries, host, options).testcases()
        began += [each.started_at for each in tries if each.started_at]
        ended += [each.started_at + each.duration for each in tries if each.started_at]
    suite.add_testcases(cases)  # one by one would be quadratic
    if options.system_err:
        _append(suite, SystemErr(make_readable(options.system_err)))
    started = min(began, default=options.fallback_started_at) if options.started_at is None else options.started_at
    took = max(ended, default=started) - started if options.duration is None else options.duration
    suite.time = round(max(took, 0.0), 3)
    suite.timestamp = _timestamp(started)
    suite.hostname = make_readable(options.hostname or platform.node())
    root = JUnitXml("pytest tests")
    _append(root, suite)
    if not isinstance(target, (str, Path)):
        root.write(target)
        return
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    with open(target, "wb") as file:
        root.write(file)


def _no_record(test: JobTest) -> Execution:
    words = "there is no record of what became of it"
    return Execution(test.test.id, problem=_NO_RECORD, detail=words)


def _timestamp(seconds: float) -> str:
    """A host may have any clock."""
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).astimezone().isoformat()
    except (ValueError, OverflowError, OSError):
        return datetime.datetime.fromtimestamp(0, datetime.UTC).isoformat()


class _Teller:
    """Makes the testcases of one test."""

    def __init__(
        self, test: JobTest, tries: Sequence[Execution], host: str, telling: ReportOptions
    ) -> None:
        self._test = test
        self._execution = tries[-1]
        self._earlier = tries[:-1]
        # Where a test could not run is not where it has run.
        self._host = "" if self._execution.problem == Problem.UNMET_REQUIREMENT else host
        self._telling = telling
        self._files = self._files_of(self._execution)
        retries = telling.retries if test.retries is None else test.retries
        result = judge(test.test, self._execution)
        self._flaky = ""
        if self._earlier and result.outcome == PASSED:
            self._flaky = report_text.flaky_message(len(self._earlier), 1 + retries)

    def testcases(self) -> Iterator[TestCase]:
        """One for each case that the program named, and its own if they do not tell all."""
        execution = self._execution
        if execution.problem == Problem.UNMET_REQUIREMENT and self._telling.requires == "skip":
            yield self._unmet()
            return
        cases = execution.parsed.cases if execution.parsed else ()
        # Earlier tries are told of once, behind the first verdict.
        earlier = [self._attempt(each) for each in self._earlier]
        rest = report_text.unclaimed_duration(execution, cases)
        files, output = self._files, True
        for case, names in report_text.name_cases(cases):
            made = self._start(names, rest + (case.duration or 0.0), case)
            self._end(made, files, self._result_of_case(case, output), earlier)
            output = output and case.outcome not in (FAILED, ERROR)  # once is enough
            yield made
            earlier, files, rest = [], (), 0.0
        if not is_reported_by_cases(self._test.test, execution):
            made = self._start(None, execution.duration)
            self._end(made, self._files, self._result(), earlier)
            yield made

    def _unmet(self) -> TestCase:
        made = self._start(None, 0.0)
        self._end(made, (), self._skipped(make_readable(self._execution.detail)), ())
        return made

    def _start(
        self,
        names: tuple[str, str] | None,
        took: float,
        case: Case | None = None,
    ) -> TestCase:
        classname, name = report_text.junit_names(self._test.nodeid, names)
        made = TestCase(name, classname, round(took, 3))
        properties: list[tuple[str, object]] = [*self._test.properties]
        if self._flaky:
            properties.append(("flaky", self._flaky))
        if self._host:
            properties += report_text.execution_properties(self._execution, self._host)
        if case is not None:
            properties += report_text.case_properties(case)
        if properties:
            _append(made, _properties(properties))
        return made

    def _end(
        self,
        made: TestCase,
        files: Sequence[str],
        result: Result | None,
        earlier: Sequence[Result],
    ) -> None:
        if files:
            _append(made, SystemOut(report_text.format_attachments(files)))
        _append(made, *([] if result is None else [result]), *earlier)

    def _result(self) -> Result | None:
        outcome = judge(self._test.test, self._execution).outcome
        if outcome == PASSED:
            return None
        if outcome == SKIPPED:
            return self._skipped(report_text.skip_reason(self._execution))
        failure = report_text.describe_failure(self._test.test, self._execution, self._place(self._execution))
        if outcome != ERROR:
            return _filled(Failure(), failure.message, str(failure))
        return _filled(Error(), f'failed on setup with "{failure.message}"', str(failure))

    def _result_of_case(self, case: Case, output: bool) -> Result | None:
        if case.outcome == SKIPPED:
            return self._skipped(report_text.case_skip_reason(case))
        if case.outcome == XFAILED:
            expected = Skipped(type_="pytest.xfail")
            expected.message = make_readable(case.message)
            return expected
        if case.outcome not in (FAILED, ERROR):
            return None
        place = self._place(self._execution)
        failure = report_text.describe_case_failure(case, self._execution, place, output)
        return _filled(Failure(), failure.message, str(failure))

    def _skipped(self, reason: str) -> Result:
        made = Skipped(type_="pytest.skip")
        made.message = reason
        made.text = make_readable(f"{self._telling.source(self._test)}:1: {reason}")
        return made

    def _attempt(self, execution: Execution) -> Result:
        """A try that another one followed."""
        result = judge(self._test.test, execution)
        failure = report_text.describe_failure(self._test.test, execution, self._place(execution))
        kinds = (FlakyFailure, FlakyError) if self._flaky else (RerunFailure, RerunError)
        made: Result = kinds[result.outcome == ERROR](type_=result.outcome)
        made.message = make_readable(result.message)
        made.text = make_readable(str(failure))
        return made

    def _place(self, execution: Execution) -> FailureContext:
        test, telling = self._test, self._telling
        files = self._files_of(execution)
        return FailureContext(test.nodeid, telling.command(test), telling.rerun_command(test), self._host, files)

    def _files_of(self, execution: Execution) -> Sequence[str]:
        return self._telling.files(self._test, execution) if execution.artefacts else ()


def _properties(values: Sequence[tuple[str, object]]) -> Element:
    made: Any = Properties
    found: Element = made()
    _append(found, *(Property(make_readable(name), make_readable(str(value))) for name, value in values))
    return found


def _filled(made: Result, message: str, text: str) -> Result:
    made.message, made.text = _short(message), text
    return made


def _append(parent: Any, *children: Element) -> None:
    """junitparser has types for what it gives, but not for this."""
    parent.extend(children)


def _short(message: str) -> str:
    """As pytest 9.2 has it: whole lines while they fit, and what has more of them."""
    lines = message.splitlines() or [""]
    kept: list[str] = []
    size = 0
    for line in lines:
        if kept and size + len(line) + 1 > _MESSAGE:
            break
        kept.append(line)
        size += len(line) + 1
    shown = "\n".join(kept)
    is_cut = len(shown) > _MESSAGE
    more = len(lines) - len(kept)
    if not (more or is_cut):
        return message
    note = f"+{more} more {pluralize('line', more)}" if more else "truncated"
    return f"{shown[:_MESSAGE] + '...' if is_cut else shown}\n[{note}; full report in element text]"
