"""Reports of items for which pytest's protocol is run.

The protocol has one report for each phase of a program.  Reports of its cases replace them
afterwards, so that no other plugin takes the outcome of a case for that of the program.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from shell_runner.remote.protocol.verdict import judge

from . import reports, reruns
from .items import ShellFailure
from .reports import ReportContext


def make_failure(context: ReportContext) -> ShellFailure:
    """Return the exception that stands for a program that did not pass."""
    test, execution = context.test, context.execution
    text = reports.describe_failure(context)
    return ShellFailure(test, execution, judge(test, execution), text)


def make_attempt_report(context: ReportContext) -> pytest.TestReport:
    """Return the report of a failed attempt that another one follows."""
    *_, report = reports.make_attempt_reports(context)
    return reruns.mark_as_rerun(context.item, reports.describe_attempt(context), report)


def replace_by_cases(
    context: ReportContext, properties: list[Any], made: Sequence[pytest.TestReport]
) -> Iterator[pytest.TestReport]:
    """Yield the reports of cases, and of the program if they do not suffice.

    ``properties``: those of the item before the protocol.  ``made``: the reports of the protocol.
    What other plugins have added to the report of the call is added to those of the cases.  If a
    plugin has changed the outcome, ``made`` is yielded, as that is its last word.
    """
    item = context.item
    after, item.user_properties = item.user_properties, properties
    verdict = reports.make_verdict_report(context)
    call = next((each for each in made if each.when != "teardown" and not _is_silent(each)), None)
    if call is None or call.outcome != verdict.outcome or hasattr(call, "wasxfail"):
        yield from made
        return
    added = {key: value for key, value in vars(call).items() if key not in vars(verdict)}
    item.user_properties = [*properties, *after[len(verdict.user_properties) :]]
    last = None
    for report in reports.make_reports(context):
        if last is not None:
            yield last
        if report.when == "call":
            for key, value in added.items():
                vars(report).setdefault(key, value)
        last = report
    assert last is not None
    vars(last)["nosejobs_green"] = context.has_passed_by_cases
    yield last
    # The failure of a fixture at its end is not one of the program.
    yield from (each for each in made if each.when == "teardown" and each.failed)


def _is_silent(report: pytest.TestReport) -> bool:
    return report.when == "setup" and report.passed
