"""Sends reports to pytest's hooks.

It knows the order of the hooks around the reports of one test, what JUnit XML and pytest's
counters need before and after each, and which hooks can be skipped.  It must not know how
reports are made.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from typing import Any

import pytest

from shell_runner.junit_style import IN_TESTCASES

from . import junit_xml, other_plugins, pytest_internals
from .compact_reports import ReportCompactor
from .items import ShellItem
from .reruns import RerunRecorder
from .terminal import get_progress_style, get_verbosity
from .testcase_storage import TestcaseStorage

#: Hooks that are called for each report.
_REPORT_HOOKS = (
    "pytest_runtest_logstart",
    "pytest_runtest_logreport",
    "pytest_runtest_logfinish",
    "pytest_report_teststatus",
)
#: Modules whose hooks do nothing at the beginning of a test whose end they see, and keep no
#: report.  Those of pytest-rerunfailures see the outcome "rerun" only.
_SILENT_MODULES = ("_pytest.", __package__, "pytest_rerunfailures")


class ReportPublisher:
    """Sends reports through the hooks, as pytest's runner does."""

    def __init__(self, config: pytest.Config, property_place: str = IN_TESTCASES) -> None:
        """``property_place``: where JUnit XML has properties, one of ``PROPERTY_PLACES``."""
        self.reruns = RerunRecorder()
        #: Pytest's writer of JUnit XML, or None.
        self.xml: Any = None
        self._testcases: TestcaseStorage | None = None
        self._property_place = property_place
        self._properties = junit_xml.PropertyMover(None, property_place)
        #: The report that is being published; None in between and in pytest's summary.
        self.current_report: pytest.TestReport | None = None
        self._config = config
        self._compactor = ReportCompactor()
        #: Programs that a progress bar has counted.
        self._counted_programs: set[str] = set()

    def start(self) -> None:
        """Begin to add to pytest's JUnit XML, if it writes any."""
        xml = self.xml = pytest_internals.get_junit_writer(self._config)
        self._properties = junit_xml.PropertyMover(xml, self._property_place)
        storage = TestcaseStorage(xml)
        if pytest_internals.replace_junit_writing(self._config, xml, storage.write_file):
            self._testcases = storage

    @functools.cached_property
    def skips_silent_hooks(self) -> bool:
        """Return whether no plugin notices more of a remote test than its verdict and its end.

        Only to be asked for after the collection, which may load plugins.
        """
        return _only_pytest_listens(self._config)

    def show_name(self, item: ShellItem) -> None:
        """Let pytest's terminal show the name of a test that starts.

        Other plugins hear of the test when it has ended: until then nobody knows whether it has
        cases, of which each is announced by itself.
        """
        show = getattr(pytest_internals.get_terminal(self._config), "pytest_runtest_logstart", None)
        if show is not None:
            show(nodeid=item.nodeid, location=item.location)

    def tell_status(self, reports: Iterable[pytest.TestReport]) -> None:
        """Tell the status of a program to plugins that keep one for each item.

        Of its attempts and cases they know nothing, or take the first report for the last.
        """
        for report in reports:
            self._config.hook.pytest_report_teststatus(report=report, config=self._config)

    def publish(self, item: ShellItem, reports: Iterable[pytest.TestReport]) -> None:
        """Publish the reports of a test with all hooks; each case is announced by itself."""
        hook = item.config.hook
        for nodeid, group in itertools.groupby(reports, key=lambda report: report.nodeid):
            hook.pytest_runtest_logstart(nodeid=nodeid, location=item.location)
            for report in group:
                self._publish_one(report)
            hook.pytest_runtest_logfinish(nodeid=nodeid, location=item.location)

    def publish_remote(self, item: ShellItem, reports: Iterable[pytest.TestReport]) -> None:
        """Publish the reports of a test that ran on a host.

        If only pytest's own plugins implement the hooks and none of them would print anything,
        logstart, logfinish and empty setup reports are skipped.  For very short tests that saves
        about a third of the time.
        """
        if not self.skips_silent_hooks:
            self.publish(item, reports)
            return
        report = None
        for report in reports:
            if report.when != "setup" or not report.passed or report.duration:
                self._publish_one(report)
        is_single = report is not None and report.when == "call" and report.passed
        if self.xml is not None and report is not None and is_single:
            junit_xml.finish_testcase(self.xml, report)

    def _publish_one(self, report: pytest.TestReport) -> None:
        self.prepare(report)
        self._config.hook.pytest_runtest_logreport(report=report)
        self.complete(report)
        if self.skips_silent_hooks and hasattr(report, "nosejobs_case"):
            stats = pytest_internals.get_kept_reports(self._config)
            self._compactor.compact_last(stats, report)

    def prepare(self, report: Any) -> None:
        """Do what must precede pytest's own hooks: names for JUnit XML, the count of programs."""
        self.current_report = report
        if not hasattr(report, "nosejobs_host"):
            return
        # A worker of xdist may send reports of its items only: on the way from it to
        # the controller, a case has the id of its program.
        is_worker = hasattr(self._config, "workerinput")
        nodeid = report.nosejobs_item if is_worker else report.nosejobs_nodeid
        if report.nodeid != nodeid:
            pytest_internals.set_node_id(report, nodeid, report.location[0])
        is_verdict = report.when == "call" or report.failed
        if self.xml is not None and (is_verdict or report.skipped):
            junit_xml.set_names(self.xml, report)
            self._properties.move(report)
            if is_verdict:
                junit_xml.attach_files(self.xml, report)
        if report.nosejobs_case and report.when == "call":
            pytest_internals.uncount_program(self._config, report)
        if not self.skips_silent_hooks and not is_worker:
            if report.when != "call":
                other_plugins.count_program_once(self._config, report, self._counted_programs)
            if is_verdict:
                other_plugins.link_files(self._config, report)

    def complete(self, report: Any) -> None:
        """Do what must follow pytest's own hooks."""
        self.current_report = None
        if not hasattr(report, "nosejobs_host"):
            return
        if report.nosejobs_case and report.when == "call":
            pytest_internals.count_program(self._config, report)
        self.reruns.record(report, self.xml)
        if getattr(report, "nosejobs_green", False):
            pytest_internals.forget_failure(self._config, report.nosejobs_item)
        if self._testcases is not None:
            self._testcases.store_finished()


def _only_pytest_listens(config: pytest.Config) -> bool:
    """Return whether only pytest hears of reports and prints nothing about passed phases.

    With ``-v`` it prints the name of a test at its beginning; with ``-vv`` and with
    ``--durations-min=0``, the duration of empty phases; and ``console_output_style = times``
    adds them up.
    """
    if get_verbosity(config) > 0 or get_progress_style(config) == "times":
        return False
    if config.getoption("durations_min", None) == 0:
        return False
    implementations = (
        each for name in _REPORT_HOOKS for each in getattr(config.hook, name).get_hookimpls()
    )
    return all(
        (each.function.__module__ or "").startswith(_SILENT_MODULES) for each in implementations
    )
