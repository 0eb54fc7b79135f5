"""Pytest's reports of a test that has run.

The functions are pure: they send nothing.  The texts are those of
``shell_runner.reporting.report_text``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from shell_runner.remote.protocol.model import (
    ERROR,
    FAILED,
    PASSED,
    SKIPPED,
    XFAILED,
    XPASSED,
    Case,
    Execution,
    Test,
)
from shell_runner.remote.protocol.verdict import is_reported_by_cases, judge
from shell_runner.reporting import attempts, report_text
from shell_runner.reporting.attempts import (
    PROGRAM,
    AttemptElement,
    EarlierAttempt,
    TestcaseNames,
)
from shell_runner.reporting.report_text import FailureContext, format_stream, format_tail
from shell_runner.text import make_readable

from . import pytest_internals
from .failure_text import FailureText
from .items import ShellItem


@dataclass(frozen=True)
class ReportContext:
    """One execution of a test, with everything that its reports need."""

    item: ShellItem
    test: Test
    execution: Execution
    #: The name of the host; empty: not shown.
    host: str
    #: Paths of the artifacts on this machine.
    files: Sequence[str] = ()

    @property
    def has_passed_by_cases(self) -> bool:
        """Return whether cases were reported and the program as a whole did not fail.

        The reports of cases do not tell ``--lf`` that the program need not run again.
        """
        if not self.execution.parsed:
            return False
        return judge(self.test, self.execution).outcome in (PASSED, SKIPPED)


def describe_failure(context: ReportContext) -> FailureText:
    """Return the text of a program that did not pass."""
    failure = report_text.describe_failure(context.test, context.execution, _make_place(context))
    return FailureText(failure, context.item.file_id)


def describe_attempt(context: ReportContext) -> EarlierAttempt:
    """Return the description of an attempt that another one follows."""
    return attempts.describe_attempt(context.test, context.execution, _make_place(context))


def make_sections(execution: Execution, short: bool) -> list[tuple[str, str]]:
    """Return pytest's sections of captured output.

    ``short``: only the last lines of each stream, for a failure; otherwise all that was kept.
    """
    show = format_tail if short else format_stream
    return [
        (f"Captured {name} call", show(stream))
        for name, stream in (("stdout", execution.stdout), ("stderr", execution.stderr))
        if stream.total_bytes
    ]


def make_reports(context: ReportContext, skip_silent: bool = False) -> Iterator[pytest.TestReport]:
    """Yield the reports of a test: of its cases, and of the program if the cases do not suffice.

    ``skip_silent``: of a program that passed, only the report that says so.
    """
    execution = context.execution
    builder = _make_builder(context, has_cases=True)
    if execution.parsed is not None and execution.parsed.cases:
        yield from _make_case_reports(context, builder, execution.parsed.cases)
        if is_reported_by_cases(context.test, execution):
            return
    verdict = _make_verdict_report(builder, context)
    if skip_silent and verdict.passed:
        yield verdict
        return
    if verdict.when == "call":
        yield builder.build("setup", "passed")
    yield verdict
    # JUnit's writer takes the output from the last report.
    yield builder.build("teardown", "passed", None, verdict.sections)


def make_attempt_reports(context: ReportContext) -> Iterator[pytest.TestReport]:
    """Yield the reports of an attempt that another one follows; only the last one is shown."""
    builder = _ReportBuilder(context.item, context.execution, context.host, context.files)
    verdict = _make_verdict_report(builder, context)
    if verdict.when == "call":
        yield builder.build("setup", "passed")
    yield verdict


def make_verdict_report(context: ReportContext) -> pytest.TestReport:
    """Return the report that tells the outcome; an error is a failed setup, as in pytest."""
    return _make_verdict_report(_make_builder(context, has_cases=False), context)


def make_skip_reports(item: ShellItem, reason: str) -> Iterator[pytest.TestReport]:
    """Yield the reports of a test that is skipped without having run."""
    builder = _ReportBuilder(item, Execution(0), "")
    yield builder.build("setup", "skipped", _locate_skip(item, reason))
    yield builder.build("teardown", "passed")


def add_attributes(report: Any, item: ShellItem) -> None:
    """Give a report that pytest has made of ``item`` the attributes of our own reports."""
    report.nosejobs_host = ""
    report.nosejobs_case = None
    report.nosejobs_nodeid = report.nosejobs_item = item.nodeid
    report.nosejobs_program = item.program_id
    report.nosejobs_files = []


def _make_builder(context: ReportContext, has_cases: bool) -> _ReportBuilder:
    """Return the builder of the program's report, which shows also earlier attempts.

    ``has_cases``: whether cases are reported, too, which show the attempts in which they failed.
    """
    item, test, execution = context.item, context.test, context.execution
    builder = _ReportBuilder(item, execution, context.host, context.files)
    if item.earlier_attempts:
        is_flaky = judge(test, execution).outcome == PASSED
        testcases: Mapping[TestcaseNames, bool] = {PROGRAM: is_flaky}
        if has_cases:
            testcases = attempts.list_testcases(test, execution)
        elements = attempts.assign_elements(item.earlier_attempts, testcases, is_flaky)
        builder.show_attempts(elements)
    return builder


def _make_case_reports(
    context: ReportContext, first: _ReportBuilder, cases: Sequence[Case]
) -> Iterator[pytest.TestReport]:
    """Yield three reports for each case; time that no case claims is the first one's setup.

    ``first``: the builder of the program, whose artifacts are shown in the first case.
    """
    execution = context.execution
    unclaimed = report_text.unclaimed_duration(execution, cases)
    output: Sequence[tuple[str, str]] = make_sections(execution, short=True)
    others = first.without_files()
    for number, (case, names) in enumerate(report_text.name_cases(cases)):
        builder = (others if number else first).for_case(case, names)
        yield builder.build("setup", "passed", duration=unclaimed)
        unclaimed = 0.0
        sections: Sequence[tuple[str, str]] = ()
        if case.outcome in (FAILED, ERROR):  # the first failure shows the output
            sections, output = output, ()
        yield _make_case_report(builder, context, case, sections)
        yield builder.build("teardown", "passed", None, sections)


def _make_case_report(
    builder: _ReportBuilder,
    context: ReportContext,
    case: Case,
    sections: Sequence[tuple[str, str]],
) -> pytest.TestReport:
    duration = case.duration or 0.0
    if case.outcome == SKIPPED:
        reason = _locate_skip(context.item, f"Skipped: {report_text.case_skip_reason(case)}")
        return builder.build("call", "skipped", reason, duration=duration)
    if case.outcome in (FAILED, ERROR):
        # The sections are for the terminal; JUnit XML has the output in the text.
        text = _describe_case_failure(context, case, bool(sections))
        return builder.build("call", "failed", text, sections, duration=duration)
    outcome = "skipped" if case.outcome == XFAILED else "passed"
    report = builder.build("call", outcome, None, duration=duration)
    if case.outcome in (XFAILED, XPASSED):
        report.wasxfail = f"reason: {make_readable(case.message)}"
    return report


def _describe_case_failure(context: ReportContext, case: Case, with_output: bool) -> FailureText:
    failure = report_text.describe_case_failure(
        case, context.execution, _make_place(context), with_output
    )
    return FailureText(failure, context.item.file_id)


def _make_place(context: ReportContext) -> FailureContext:
    item = context.item
    return FailureContext(
        item.program_id, item.command, item.rerun_command, context.host, context.files
    )


def _make_verdict_report(builder: _ReportBuilder, context: ReportContext) -> pytest.TestReport:
    execution = context.execution
    outcome = judge(context.test, execution).outcome
    if outcome == PASSED:
        return builder.build("call", "passed", None, make_sections(execution, short=False))
    if outcome == SKIPPED:
        reason = _locate_skip(context.item, f"Skipped: {report_text.skip_reason(execution)}")
        return builder.build("call", "skipped", reason, make_sections(execution, short=False))
    when = "setup" if outcome == ERROR else "call"
    sections = make_sections(execution, short=True)
    return builder.build(when, "failed", describe_failure(context), sections)


def _locate_skip(item: ShellItem, reason: str) -> tuple[str, int, str]:
    """Return where and why a test is skipped, as pytest has it: at the program's first line."""
    return str(item.path), 1, reason


class _ReportBuilder:
    """Builds the reports of one program or case, which have most of their fields in common."""

    def __init__(
        self,
        item: ShellItem,
        execution: Execution,
        host: str,
        files: Sequence[str] = (),
    ) -> None:
        self._item = item
        self._execution = execution
        self._nodeid = item.nodeid
        self._location = item.get_location(item.name)
        self._keywords = item.get_report_keywords()
        properties = report_text.execution_properties(execution, host) if host else ()
        self._properties = [*item.user_properties, *properties]
        self._attributes = {
            "nosejobs_host": host,
            "nosejobs_case": None,
            "nosejobs_nodeid": self._nodeid,
            "nosejobs_program": item.program_id,
            "nosejobs_item": self._nodeid,
            "nosejobs_files": list(files),
            # The others are those of a case.
            "nosejobs_shared_properties": len(self._properties),
            **item.get_attempt_attributes(),
        }
        self._attempts: Mapping[TestcaseNames, Sequence[AttemptElement]] = {}

    def show_attempts(self, elements: Mapping[TestcaseNames, Sequence[AttemptElement]]) -> None:
        """Show elements of earlier attempts in the reports of their testcases."""
        self._attempts = elements
        self._attributes["nosejobs_attempts"] = tuple(elements.get(PROGRAM, ()))

    def without_files(self) -> _ReportBuilder:
        """Return a builder of reports that do not name the artifacts."""
        builder = copy.copy(self)
        builder._attributes = {**self._attributes, "nosejobs_files": []}
        return builder

    def for_case(self, case: Case, names: tuple[str, str]) -> _ReportBuilder:
        """Return the builder of a case, which shares what all cases of the program have.

        ``names``: group and name of the case, unique within its program.
        """
        builder = copy.copy(self)
        item = self._item
        name = " > ".join(filter(None, names))
        nodeid = builder._nodeid = f"{item.program_id}::{name}" if name else item.nodeid
        builder._location = item.get_location(name or item.name)
        builder._properties = self._properties + report_text.case_properties(case)
        builder._attributes = {
            **self._attributes, "nosejobs_case": names, "nosejobs_nodeid": nodeid,
        }  # fmt: skip
        if self._attempts:
            builder._attributes["nosejobs_attempts"] = tuple(self._attempts.get(names, ()))
        return builder

    def build(
        self,
        when: Any,
        outcome: Any,
        longrepr: Any = None,
        sections: Sequence[tuple[str, str]] = (),
        duration: float | None = None,
    ) -> pytest.TestReport:
        """Return one report.

        ``duration``: in seconds; by default that of the program if the report has the verdict,
        else 0.
        """
        execution = self._execution
        if duration is None:
            is_verdict = when == "call" or longrepr is not None
            duration = execution.duration if is_verdict else 0.0
        return pytest.TestReport(
            pytest_internals.make_node_id(self._nodeid, self._location[0]),
            self._location,
            self._keywords,
            outcome,
            longrepr,
            when,
            sections,
            duration,
            execution.started_at,
            execution.started_at + duration,
            self._properties,
            **self._attributes,
        )
