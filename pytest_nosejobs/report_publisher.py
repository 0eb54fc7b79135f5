"""Reports go to pytest's hooks.

Owns the order of the hooks around the reports of one test, what JUnit XML and the
counters of pytest need before and after each, and which hooks nobody would hear.
Must not know how reports are made.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from shell_runner.words import readable

from . import pytest_internals as standin
from .items import ShellItem
from .reports import attach_in_junit, name_in_junit
from .reruns import Attempts

if TYPE_CHECKING:
    from .live_view import View

#: What pytest_report_teststatus returns.
Status = tuple[str, str, str | tuple[str, Mapping[str, bool]]]

#: Hooks that tell of reports.
_HOOKS = (
    "pytest_runtest_logstart",
    "pytest_runtest_logreport",
    "pytest_runtest_logfinish",
    "pytest_report_teststatus",
)
#: Modules that have nothing to say about the beginning of a test whose end they hear.
_DEAF = ("_pytest.", __package__)


class Log:
    """Sends reports through the hooks, as pytest's runner does."""

    def __init__(self, config: pytest.Config) -> None:
        self.attempts = Attempts()
        #: pytest's writer of JUnit XML, if there is one.
        self.xml: Any = None
        #: What is being reported now; later, pytest asks for the words of its summary.
        self.reporting: pytest.TestReport | None = None
        self._config = config
        #: Nobody would hear more than the verdicts and the ends of tests on hosts.
        self.short = False
        self._asked = False

    def whole(self, item: ShellItem, reports: Iterable[pytest.TestReport]) -> None:
        """All hooks around the reports of one test; each case is announced by itself."""
        hook = item.config.hook
        for nodeid, group in itertools.groupby(reports, key=lambda each: each.nodeid):
            hook.pytest_runtest_logstart(nodeid=nodeid, location=item.location)
            for each in group:
                self._one(each)
            hook.pytest_runtest_logfinish(nodeid=nodeid, location=item.location)

    def of_host(self, item: ShellItem, reports: Iterable[pytest.TestReport]) -> None:
        """The same, but for what nobody would hear: a third of the time of tiny tests."""
        if not self._asked:
            self.short, self._asked = _nobody_listens(self._config), True
        if not self.short:
            self.whole(item, reports)
            return
        each = None
        for each in reports:
            if each.when != "setup" or not each.passed or each.duration:
                self._one(each)
        if self.xml is not None and each is not None and each.when == "call" and each.passed:
            # It came alone.  JUnit's writer does the same when it sees a teardown.
            self.xml.node_reporter(each).write_captured_output(each)
            self.xml.finalize(each)

    def _one(self, report: pytest.TestReport) -> None:
        self.before(report)
        self._config.hook.pytest_runtest_logreport(report=report)
        self.after(report)

    def before(self, report: Any) -> None:
        """Names for JUnit XML before it sees the report; what pytest counts is programs."""
        self.reporting = report
        if not hasattr(report, "nosejobs_host"):
            return
        # A worker of xdist may send reports of its items only: on the way from it to
        # the controller a case bears the id of its program.
        worker = hasattr(self._config, "workerinput")
        wanted = report.nosejobs_program if worker else report.nosejobs_nodeid
        if report.nodeid != wanted:
            report.nodeid = wanted
        is_verdict = report.when == "call" or report.failed
        if self.xml is not None and (is_verdict or report.skipped):
            name_in_junit(self.xml, report)
            if is_verdict:
                attach_in_junit(self.xml, report)
        if report.nosejobs_case and report.when == "call":
            standin.step_aside(self._config, report)

    def after(self, report: Any) -> None:
        """Called when pytest's own hooks have seen the report."""
        self.reporting = None
        if not hasattr(report, "nosejobs_host"):
            return
        if report.nosejobs_case and report.when == "call":
            standin.count_program(self._config, report)
        self.attempts.take(report, self.xml)
        if getattr(report, "nosejobs_green", False):
            standin.forget_failure(self._config, report.nosejobs_program)


class FromWorkers:
    """In a controller of xdist, which itself logs the reports that its workers send."""

    def __init__(self, log: Log) -> None:
        self._log = log

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, None, None]:
        """What ``Log`` does around the hook when it calls it itself."""
        self._log.before(report)
        yield
        self._log.after(report)


class HostWords:
    """With ``-v``: the host behind the word of each test while it is reported."""

    def __init__(self, log: Log) -> None:
        self._log = log

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> Generator[None, Status, Status]:
        """``PASSED [host1]``; in the summary at the end, without."""
        category, letter, word = yield
        host = getattr(report, "nosejobs_host", "")
        if host and word and report is self._log.reporting:
            words, markup = word if isinstance(word, tuple) else (word, None)
            word = (f"{words} [{host}]", markup) if markup else f"{words} [{host}]"
        return category, letter, word


class ViewWords:
    """With the view: nothing but the category, for dots would tear it."""

    def __init__(self, view: View) -> None:
        self._view = view

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> Generator[None, Status, Status]:
        """Counted in the view; failures are lines above it."""
        category, _, _ = yield
        self._view.count(category)
        if report.failed:
            name = readable(report.nodeid)
            crash = getattr(report.longrepr, "reprcrash", None)  # other plugins may replace it
            words = crash.message if crash else ""
            self._view.say(f"{category.upper():6} {name} - {words}", "red")
        return category, "", ""


def verbosity(config: pytest.Config) -> int:
    """How often ``-v``, less ``-q``; 0 without the plugin that has these options."""
    return int(config.getoption("verbose", 0))


def _nobody_listens(config: pytest.Config) -> bool:
    """Only pytest itself hears reports, and it shows nothing of what passed around a test.

    With ``-v`` it prints the name of a test at its beginning, with ``-vv`` and with
    ``--durations-min=0`` how long nothing took; ``console_output_style = times`` counts it.
    """
    if verbosity(config) > 0 or config.getini("console_output_style") == "times":
        return False
    if config.getoption("durations_min", None) == 0:
        return False
    found = (each for name in _HOOKS for each in getattr(config.hook, name).get_hookimpls())
    return all((each.function.__module__ or "").startswith(_DEAF) for each in found)
