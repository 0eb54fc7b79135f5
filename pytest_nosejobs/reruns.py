"""Tests that run again after a failure.

Owns how earlier attempts are shown: each is a report with the outcome
"rerun", as pytest-rerunfailures has it, and the last one decides.  In JUnit XML they are
``flakyFailure`` and ``rerunFailure`` elements (Surefire's names) of the one testcase.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from shell_runner.remote.model import ERROR, PASSED, Execution, Test
from shell_runner.remote.verdict import judge
from shell_runner.words import flaky_words, readable

if TYPE_CHECKING:
    from .items import ShellItem


def remember(
    item: ShellItem, test: Test, execution: Execution, made: pytest.TestReport
) -> pytest.TestReport:
    """Make ``made`` the report of an attempt that another one follows."""
    result = judge(test, execution)
    text = readable(str(made.longrepr or ""))
    made.outcome = "rerun"  # type: ignore[assignment]
    made.rerun = len(item.earlier)  # type: ignore[attr-defined]
    item.earlier.append((result.outcome, readable(result.words), text))
    return made


def settle(item: ShellItem, test: Test, execution: Execution, attempts: int) -> None:
    """The last attempt is over: one that passes after a failure is flaky."""
    if item.earlier and judge(test, execution).outcome == PASSED:
        item.user_properties.append(("flaky", flaky_words(len(item.earlier), attempts)))


class Attempts:
    """What the reports of a session tell of earlier attempts."""

    def __init__(self) -> None:
        #: By node id, in words.
        self.flaky: dict[str, str] = {}
        self._told: set[str] = set()

    def take(self, report: pytest.TestReport, xml: Any) -> None:
        """Called after pytest's own hooks have seen ``report``; ``xml`` may be None."""
        if report.outcome == "rerun":  # type: ignore[comparison-overlap]
            if xml is not None:
                _forget(xml, report)
            return
        earlier = getattr(report, "nosejobs_earlier", ())
        program = report.location[0]
        is_verdict = report.when == "call" or report.failed
        if not earlier or not is_verdict or program in self._told:
            return
        self._told.add(program)
        flaky = dict(report.user_properties).get("flaky")
        if flaky:
            self.flaky[program] = str(flaky)
        if xml is not None:
            xml.node_reporter(report).nodes += [_element(each, bool(flaky)) for each in earlier]

    def write(self, reporter: Any) -> None:
        """A section of the terminal's summary."""
        if self.flaky:
            reporter.section("flaky tests", yellow=True)
            for nodeid, words in self.flaky.items():
                reporter.line(f"{nodeid}: {words}")


def _element(attempt: tuple[str, str, str], flaky: bool) -> ElementTree.Element:
    outcome, message, text = attempt
    name = ("flaky" if flaky else "rerun") + ("Error" if outcome == ERROR else "Failure")
    element = ElementTree.Element(name, message=message, type=outcome)
    element.text = text
    return element


def _forget(xml: Any, report: pytest.TestReport) -> None:
    """pytest opens a testcase for any report: this one would look like a pass."""
    opened = xml.node_reporter(report)
    xml.node_reporters_ordered.remove(opened)
    for key, value in list(xml.node_reporters.items())[::-1]:
        if value is opened:
            del xml.node_reporters[key]
            return
