"""Makes reports the way pytest does where other plugins expect to take part in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shell_runner.remote.protocol.verdict import judge

from . import reports, reruns
from .items import ShellFailure, ShellItem
from .reports import ReportContext

#: Modules whose makereport hooks do nothing for a shell test.  That of pytest-rerunfailures notes
#: what its own loop over attempts needs, which does not run shell tests.
_IRRELEVANT_MODULES = (
    "_pytest.", f"{__package__}.", "_hypothesis", "hypothesis", "xdist.", "pytest_rerunfailures",
)  # fmt: skip


class ReportMaker:
    """Makes the reports of executions and passes them through the hooks of other plugins."""

    def __init__(self) -> None:
        #: Whether other plugins take part, by parent: each folder may have a conftest file.
        self._has_other_hooks: dict[pytest.Collector | None, bool] = {}

    def make_reports(
        self, context: ReportContext, skip_silent: bool = False
    ) -> Iterator[pytest.TestReport]:
        """Yield the reports of an execution.

        ``skip_silent``: of a program that passed, only the report that says so, unless another
        plugin takes part.
        """
        item = context.item
        if not self._needs_hooks(item):
            yield from reports.make_reports(context, skip_silent)
            return
        made = reports.make_reports(context)
        known = len(item.user_properties)
        added: list[tuple[str, object]] = []
        for report in made:
            # JUnit XML takes properties from the last report.
            report.user_properties += added
            own = len(report.user_properties)
            report = self._call_hooks(context, report)
            added += [*report.user_properties[own:], *item.user_properties[known:]]
            del item.user_properties[known:]
            yield report

    def make_attempt_report(self, context: ReportContext) -> pytest.TestReport:
        """Return the report of a failed attempt that another one follows."""
        item = context.item
        for report in reports.make_attempt_reports(context):
            if self._needs_hooks(item):
                report = self._call_hooks(context, report)
        return reruns.mark_as_rerun(item, context.test, context.execution, report)

    def _needs_hooks(self, item: ShellItem) -> bool:
        """Return whether a conftest file or plugin takes part, or an xfail marker applies."""
        if next(item.iter_markers("xfail"), None):
            return True
        needs_hooks = self._has_other_hooks.get(item.parent)
        if needs_hooks is None:
            implementations = item.ihook.pytest_runtest_makereport.get_hookimpls()
            needs_hooks = self._has_other_hooks[item.parent] = any(
                not (each.function.__module__ or "").startswith(_IRRELEVANT_MODULES)
                for each in implementations
            )
        return needs_hooks

    def _call_hooks(self, context: ReportContext, report: pytest.TestReport) -> pytest.TestReport:
        """Return ``report`` as the makereport hooks leave it."""
        item = context.item

        def fail() -> None:
            if report.failed:
                raise make_failure(context)

        call = pytest.CallInfo.from_call(fail, report.when)
        item.pending_report = report
        try:
            seen: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
        finally:
            item.pending_report = None
        return seen


def make_failure(context: ReportContext) -> ShellFailure:
    """Return the exception that stands for a program that did not pass."""
    test, execution = context.test, context.execution
    text = reports.describe_failure(context)
    return ShellFailure(test, execution, judge(test, execution), text)
