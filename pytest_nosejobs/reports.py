"""A Result becomes pytest's reports.

Owns their making, and how pytest is shown our texts.  The texts are those of ``words``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from shell_runner import words
from shell_runner.remote.model import (
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
from shell_runner.remote.verdict import is_told_by_cases, judge
from shell_runner.words import Failure, Place, readable, tail, whole

if TYPE_CHECKING:
    from .items import ShellItem


@dataclass(frozen=True)
class Crash:
    """What pytest shows in its short summary and as JUnit's message."""

    message: str
    path: str
    lineno: int = 0

    def __str__(self) -> str:
        """What ``--tb=line`` shows."""
        return f"{self.path}: {self.message}"


class FailureText:
    """What is shown of a test that did not pass; output comes as pytest's own sections."""

    def __init__(self, failure: Failure, nodeid: str) -> None:
        self.failure = failure
        self.reprcrash = Crash(failure.message, readable(nodeid))

    def toterminal(self, writer: Any) -> None:
        """For the terminal, where pytest adds the captured output."""
        for number, line in enumerate(self.failure.lines):
            writer.line(line, red=number == 0, bold=number == 0)

    def __str__(self) -> str:
        return str(self.failure)


def of_failure(test: Test, execution: Execution, item: ShellItem, host: str = "") -> FailureText:
    """What a person needs to know first."""
    failure = words.of_failure(test, execution, _place(item, execution, host))
    return FailureText(failure, item.nodeid)


def _place(item: ShellItem, execution: Execution, host: str) -> Place:
    plugin = item.plugin
    files = plugin.files_of(item, execution) if execution.artefacts else ()
    return Place(item.nodeid, plugin.command_of(item), plugin.rerun_of(item), host, files)


def sections(execution: Execution, short: bool) -> list[tuple[str, str]]:
    """pytest's sections of captured output: ends only for a failure, else all that was kept."""
    show = tail if short else whole
    return [
        (f"Captured {name} call", show(stream))
        for name, stream in (("stdout", execution.out), ("stderr", execution.err))
        if stream.total
    ]


def reports(
    item: ShellItem, test: Test, execution: Execution, host: str, short: bool = False
) -> Iterator[pytest.TestReport]:
    """The reports of a test that has run: of each of its cases, and of itself if need be.

    ``short``: of a program that passed, only the one that says so.
    """
    if execution.parsed is not None and execution.parsed.cases:
        yield from case_reports(item, test, execution, host)
        if is_told_by_cases(test, execution):
            return
    shared = _Shared(item, execution, host)
    verdict = _verdict_report(shared, test)
    if short and verdict.passed:
        yield verdict
        return
    if verdict.when == "call":
        yield shared.report("setup", "passed")
    yield verdict
    # JUnit's writer takes the output from the last report.
    yield shared.report("teardown", "passed", None, verdict.sections)


def case_reports(
    item: ShellItem, test: Test, execution: Execution, host: str
) -> Iterator[pytest.TestReport]:
    """Three reports for each case; time that no case claims goes to the set-up of the first."""
    assert execution.parsed is not None
    cases = execution.parsed.cases
    unclaimed = words.unclaimed(execution, cases)
    output: Sequence[tuple[str, str]] = sections(execution, short=True)
    for number, (case, names) in enumerate(words.named_cases(cases)):
        shared = _Shared(item, execution, host, case, names)
        shared.files = [] if number else shared.files
        yield shared.report("setup", "passed", took=unclaimed)
        unclaimed = 0.0
        shown: Sequence[tuple[str, str]] = ()
        if case.outcome in (FAILED, ERROR):  # once is enough
            shown, output = output, ()
        yield _case_report(shared, case, shown)
        yield shared.report("teardown", "passed", None, shown)


def _case_report(
    shared: _Shared, case: Case, output: Sequence[tuple[str, str]]
) -> pytest.TestReport:
    took = case.duration or 0.0
    if case.outcome == SKIPPED:
        reason = f"Skipped: {words.skip_reason_of_case(case)}"
        return shared.report("call", "skipped", skipped_at(shared.item, reason), took=took)
    if case.outcome in (FAILED, ERROR):
        # The sections are for the terminal; JUnit XML has the output in the text.
        text = of_case(case, shared, bool(output))
        return shared.report("call", "failed", text, output, took=took)
    outcome = "skipped" if case.outcome == XFAILED else "passed"
    made = shared.report("call", outcome, None, took=took)
    if case.outcome in (XFAILED, XPASSED):
        made.wasxfail = f"reason: {readable(case.message)}"
    return made


def of_case(case: Case, shared: _Shared, output: bool) -> FailureText:
    """What a person needs to know first of a case that failed."""
    place = _place(shared.item, shared.execution, shared.host)
    return FailureText(words.of_case(case, shared.execution, place, output), shared.item.nodeid)


def attempt_reports(
    item: ShellItem, test: Test, execution: Execution, host: str
) -> Iterator[pytest.TestReport]:
    """Of an attempt that another one follows; only the last of them is shown."""
    verdict = verdict_report(item, test, execution, host)
    if verdict.when == "call":
        yield _Shared(item, execution, host).report("setup", "passed")
    yield verdict


def verdict_report(
    item: ShellItem, test: Test, execution: Execution, host: str
) -> pytest.TestReport:
    """The report that tells the outcome; an error is pytest's failed setup."""
    return _verdict_report(_Shared(item, execution, host), test)


def _verdict_report(shared: _Shared, test: Test) -> pytest.TestReport:
    item, execution, host = shared.item, shared.execution, shared.host
    outcome = judge(test, execution).outcome
    if outcome == PASSED:
        return shared.report("call", "passed", None, sections(execution, short=False))
    if outcome == SKIPPED:
        reason = skipped_at(item, f"Skipped: {words.skip_reason(execution)}")
        return shared.report("call", "skipped", reason, sections(execution, short=False))
    text = of_failure(test, execution, item, host)
    when = "setup" if outcome == ERROR else "call"
    return shared.report(when, "failed", text, sections(execution, short=True))


def skipped_at(item: ShellItem, reason: str) -> tuple[str, int, str]:
    """Where and why, as pytest has it: a program is skipped at its first line."""
    return str(item.path), 1, reason


def skip_reports(item: ShellItem, reason: tuple[str, int, str]) -> Iterator[pytest.TestReport]:
    """The reports of a test that a mark skips, without its having run."""
    shared = _Shared(item, Execution(0), "")
    yield shared.report("setup", "skipped", reason)
    yield shared.report("teardown", "passed")


def belongs_to(made: Any, item: ShellItem) -> None:
    """A report that pytest has made of our item gets the names that ours have."""
    made.nosejobs_host = ""
    made.nosejobs_case = None
    made.nosejobs_nodeid = made.nosejobs_program = item.nodeid
    made.nosejobs_files = []


def name_in_junit(xml: Any, report: pytest.TestReport) -> None:
    """Names that say more than pytest's own.

    pytest takes the last ``::`` part of a node id for the name, and so would leave the
    class of a program empty, which viewers show as a nameless root.
    """
    classname, name = words.in_junit(report.nosejobs_program, report.nosejobs_case)
    reporter = xml.node_reporter(report)
    reporter.add_attribute("classname", classname)
    reporter.add_attribute("name", name)


def attach_in_junit(xml: Any, report: pytest.TestReport) -> None:
    """Where the files are that the test wrote, for those who show JUnit XML."""
    if report.nosejobs_files:
        element = ElementTree.Element("system-out")
        element.text = words.attachments(report.nosejobs_files)
        xml.node_reporter(report).append(element)


class _Shared:
    """What the reports of one test, or of one of its cases, have in common."""

    def __init__(
        self,
        item: ShellItem,
        execution: Execution,
        host: str,
        case: Case | None = None,
        names: tuple[str, str] | None = None,
    ) -> None:
        """``names``: group and name of the case, unique within its program."""
        self.item = item
        self.execution = execution
        self.host = host
        self.case = names
        self.files = item.plugin.files_of(item, execution) if execution.artefacts else []
        name = " > ".join(filter(None, names or ()))
        self.nodeid = f"{item.nodeid}::{name}" if name else item.nodeid
        self.location = (item.nodeid, None, f"./{self.nodeid}")
        known = words.properties(execution, host) if host else ()
        self.properties = [*item.user_properties, *known]
        if case:
            self.properties += words.case_properties(case)
        self.keywords = item.plugin.keywords_of(item)

    def report(
        self,
        when: Any,
        outcome: Any,
        longrepr: Any = None,
        found: Sequence[tuple[str, str]] = (),
        took: float | None = None,
    ) -> pytest.TestReport:
        """One report; unless told otherwise, only the one with the verdict has a duration."""
        execution = self.execution
        if took is None:
            verdict = when == "call" or longrepr is not None
            took = execution.duration if verdict else 0.0
        return pytest.TestReport(
            self.nodeid,
            self.location,
            self.keywords,
            outcome,
            longrepr,
            when,
            found,
            took,
            execution.started,
            execution.started + took,
            self.properties,
            nosejobs_host=self.host,
            nosejobs_case=self.case,
            nosejobs_nodeid=self.nodeid,
            nosejobs_program=self.item.nodeid,
            nosejobs_files=self.files,
            **self.item.attempts_before(),
        )
