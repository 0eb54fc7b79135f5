"""Tests that run again after a failure.

Each earlier attempt is a report with the outcome "rerun", as in pytest-rerunfailures; the last
attempt decides.
"""

from __future__ import annotations

from typing import Any

import pytest

from shell_runner.remote.protocol.model import PASSED, Execution, Test
from shell_runner.remote.protocol.verdict import judge
from shell_runner.reporting.attempts import EarlierAttempt
from shell_runner.reporting.report_text import flaky_message
from shell_runner.text import attempt_reasons

from . import junit_xml, markers, other_plugins
from .items import ShellItem


def count_attempts(item: ShellItem) -> int:
    """Return the maximum number of attempts of ``item``.

    A test that is expected to fail has one.  Call it after the markers have been evaluated.
    """
    if markers.is_expected_to_fail(item):
        return 1
    return 1 + other_plugins.get_reruns(item, item.metadata.retries)


def mark_as_rerun(
    item: ShellItem, attempt: EarlierAttempt, report: pytest.TestReport
) -> pytest.TestReport:
    """Make ``report`` that of an attempt that another one follows, and note it in ``item``."""
    report.outcome = "rerun"  # type: ignore[assignment]
    report.rerun = len(item.earlier_attempts)  # type: ignore[attr-defined]
    item.earlier_attempts.append(attempt)
    return report


def add_flaky_property(item: ShellItem, test: Test, execution: Execution, attempts: int) -> None:
    """Mark ``item`` as flaky if its last attempt has passed after a failure.

    ``attempts``: the maximum number of attempts.
    """
    if item.earlier_attempts and judge(test, execution).outcome == PASSED:
        text = flaky_message(len(item.earlier_attempts), attempts)
        item.user_properties.append(("flaky", text))


class RerunRecorder:
    """Records from the reports of a session which tests ran again."""

    def __init__(self) -> None:
        #: The way in which each flaky program passed, and why its earlier attempts failed, by node
        #: id, as lines for people.
        self.flaky: dict[str, list[str]] = {}
        self._recorded: set[str] = set()

    def record(self, report: pytest.TestReport, xml: Any) -> None:
        """Record a report that pytest's own hooks have seen.

        ``xml``: pytest's writer of JUnit XML, or None.
        """
        if report.outcome == "rerun":  # type: ignore[comparison-overlap]
            if xml is not None:
                junit_xml.remove_testcase(xml, report)
            return
        earlier = getattr(report, "nosejobs_earlier", ())
        if not earlier or not (report.when == "call" or report.failed):
            return
        if xml is not None:
            junit_xml.add_earlier_attempts(xml, report, getattr(report, "nosejobs_attempts", ()))
        program = getattr(report, "nosejobs_program", "")
        if program in self._recorded:
            return
        self._recorded.add(program)
        flaky = dict(report.user_properties).get("flaky")
        if flaky:
            self.flaky[program] = [str(flaky), *attempt_reasons(earlier)]
