"""Output of the plugin on pytest's terminal: header, messages, test status and summary."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from shell_runner.shipping import file_selection
from shell_runner.shipping.file_selection import SECRET_REASON
from shell_runner.text import format_count, make_readable, shorten_list

from . import pytest_internals
from .options import wants_live_view
from .progress_line import ProgressLine

if TYPE_CHECKING:
    from shell_runner.errors import HostError
    from shell_runner.hosts.fleet import Host
    from shell_runner.hosts.spec import HostSpec
    from shell_runner.run.events import HostDisconnected, Loss, Waiting

    from .live_view import LiveView

#: The return value of ``pytest_report_teststatus``.
Status = tuple[str, str, str | tuple[str, Mapping[str, bool]]]

#: Minimum seconds between two lines that say that a host's tests wait for other runs; a little
#: less than the interval that hosts keep.
_WAITING_MESSAGE_INTERVAL = 29.0

#: Files that the summary names without ``-v``.
_MAX_LISTED_FILES = 5

_VIEW_PLUGIN = "nosejobs-view"

#: Maximum number of paths that are named as not shipped, by verbosity; the others are counted.
#: With ``-vv`` all are named.
_MAX_LISTED_PATHS = {0: 3, 1: 100}


def get_verbosity(config: pytest.Config) -> int:
    """Return the number of ``-v`` minus that of ``-q``; 0 without pytest's terminal plugin."""
    return int(config.getoption("verbose", 0))


def get_progress_style(config: pytest.Config) -> str:
    """Return the ini value ``console_output_style``; empty without pytest's terminal plugin."""
    try:
        return str(config.getini("console_output_style"))
    except ValueError:
        return ""


class Terminal:
    """Messages during a run; nothing is written if pytest's terminal plugin is disabled."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._view: LiveView | None = None
        #: When each host may be reported again as waiting, by name.
        self._next_waiting: dict[str, float] = {}

    @property
    def view(self) -> LiveView | None:
        """Return the live view while it is shown."""
        return self._view

    @property
    def is_quiet(self) -> bool:
        """Return whether the user asked for less output."""
        return get_verbosity(self._config) < 0

    def write_line(self, line: str, **markup: bool) -> None:
        """Write a line of its own, whatever pytest has written before."""
        reporter = pytest_internals.get_terminal(self._config)
        if reporter is not None:
            pytest_internals.end_terminal_line(reporter)
            reporter.write_line(line, **markup)
            reporter.flush()  # also in a pipe, a line is useful when it comes

    def show_message(self, message: str, red: bool = False) -> None:
        """Show a message above the live view, or as a line unless pytest is quiet."""
        if self._view is not None:
            self._view.print_line(f"nosejobs: {message}", "red" if red else "")
        elif not self.is_quiet:
            self.write_line(f"nosejobs: {message}", red=red)

    def show_waiting(self, event: Waiting) -> None:
        """Show what tests wait for, but not too often, whatever the host sends."""
        now = time.monotonic()
        if now < self._next_waiting.get(event.host, 0.0) or self.is_quiet:
            return
        self._next_waiting[event.host] = now + _WAITING_MESSAGE_INTERVAL
        self.show_message(f"{event.host}: waiting for {event.reason}")

    def show_lost_host(self, event: HostDisconnected) -> None:
        """Show that a host was lost."""
        if self._view is not None:
            self._view.remove_host(event.error.host)
        self.show_message(str(event.error), red=True)

    def show_output_line(self, program_id: str, host: str, text: str) -> None:
        """Show a line of output of a running test."""
        self.write_line(f"[{host}] {make_readable(program_id)}: {make_readable(text)}")

    def show_hosts(self, hosts: Sequence[Host]) -> None:
        """Show the hosts of the run, once all are open or have failed."""
        reporter = pytest_internals.get_terminal(self._config)
        if reporter is None:
            return
        # Tests come in the order of completion: a line for each change of file would be noise.
        reporter.showfspath = False
        if not self.is_quiet:
            for host in hosts:
                self.write_line(f"nosejobs: {_describe_host(host)}")

    def show_not_shipped(self, skipped: Sequence[str], left_out: Sequence[str]) -> None:
        """Show the files of the tree that hosts do not get, and how to send them.

        ``skipped``: files that are part of the tree, each with the reason.  Tests can lack secrets,
        so those are shown even if pytest is quiet.  ``left_out``: what the rules leave out.
        """
        verbosity = max(get_verbosity(self._config), 0)
        limit = _MAX_LISTED_PATHS.get(verbosity, len(skipped) + len(left_out))
        if self.is_quiet:
            skipped = [each for each in skipped if each.endswith(SECRET_REASON)]
        if skipped:
            shown = "; ".join(make_readable(each) for each in shorten_list(skipped, limit))
            self.write_line(f"nosejobs: not shipped: {shown} (ini nosejobs_ship sends it)")
        if left_out:
            text = file_selection.describe_left_out(left_out, limit)
            pattern = file_selection.suggest_pattern(left_out)
            self.write_line(
                f"nosejobs: not shipped: {text} (ini nosejobs_ship = {pattern} sends it)"
            )

    def make_progress_line(self) -> ProgressLine:
        """Return a new progress line."""
        reporter = pytest_internals.get_terminal(self._config)
        if reporter is None:
            return ProgressLine(io.StringIO(), 0, quiet=True)
        stream = pytest_internals.get_terminal_stream(reporter)
        return ProgressLine(stream, pytest_internals.get_terminal_width(reporter), self.is_quiet)

    def start_view(self, total: int) -> None:
        """Show the live view of ``total`` tests if options and terminal allow it."""
        reporter = pytest_internals.get_terminal(self._config)
        if reporter is None:
            return
        stream = pytest_internals.get_terminal_stream(reporter)
        if wants_live_view(self._config, stream):
            from .live_view import LiveView  # rich takes a while to import

            reporter.ensure_newline()
            self._view = LiveView(stream, total)
            self._config.pluginmanager.register(LiveViewStatus(self._view), _VIEW_PLUGIN)
            self._view.start()

    def stop_view(self) -> None:
        """Erase the live view if it is shown."""
        if self._view is not None:
            self._view.stop()
            self._view = None
            self._config.pluginmanager.unregister(name=_VIEW_PLUGIN)


# -- test status ------------------------------------------------------------------


class HostStatusSuffix:
    """A plugin for ``-v``: appends the host to the status of each test, ``PASSED [host1]``."""

    def __init__(self, get_current_report: Callable[[], pytest.TestReport | None]) -> None:
        """``get_current_report``: returns the report that is being published."""
        self._get_current_report = get_current_report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> Generator[None, Status, Status]:
        """Append the host while the report is published, but not in pytest's summary."""
        category, letter, word = yield
        host = getattr(report, "nosejobs_host", "")
        if host and word and report is self._get_current_report():
            text, markup = word if isinstance(word, tuple) else (word, None)
            word = (f"{text} [{host}]", markup) if markup else f"{text} [{host}]"
        return category, letter, word


class LiveViewStatus:
    """A plugin for the live view: it counts reports, and pytest prints no dots."""

    def __init__(self, view: LiveView) -> None:
        self._view = view

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> Generator[None, Status, Status]:
        """Count the report; print a line above the view for a failure."""
        category, _, _ = yield
        self._view.count(category)
        if report.failed:
            name = make_readable(report.nodeid)
            crash = getattr(report.longrepr, "reprcrash", None)  # other plugins may replace it
            message = crash.message if crash else ""
            self._view.print_line(f"{category.upper():6} {name} - {message}", "red")
        return category, "", ""


# -- header -----------------------------------------------------------------------


def make_header(config: pytest.Config, specs: Sequence[HostSpec]) -> list[str]:
    """Return the lines of the plugin in pytest's header."""
    lines = []
    if specs:
        lines = [f"nosejobs: {', '.join(_describe_spec(spec) for spec in specs)}"]
    lines += _make_expiry_warnings(specs)
    if config.getoption("usepdb", False):
        lines.append(
            "nosejobs: --pdb stops in Python tests only; to debug a shell test, run the command "
            "after 'rerun' in its failure by hand"
        )
    return lines


def _make_expiry_warnings(specs: Sequence[HostSpec]) -> list[str]:
    """Return warnings about certificates of agents that expire soon."""
    agents = [spec for spec in specs if spec.kind == "agent"]
    if not agents:
        return []
    # TLS takes a while to import.
    from shell_runner.hosts.tls import default_credentials
    from shell_runner.remote.agent.credentials import describe_expiry

    paths = dict.fromkeys(spec.credentials or default_credentials() for spec in agents)
    return [f"nosejobs: {warning}" for warning in map(describe_expiry, paths) if warning]


def _describe_spec(spec: HostSpec) -> str:
    slots = _count(spec.slots, "slot") if spec.slots else "all cores"
    return f"{spec.id} ({slots})"


def _describe_host(host: Host) -> str:
    facts = host.facts
    if facts is None:
        return f"{host.id}: missing ({host.error.cause if host.error else 'not open'})"
    text = f"{host.id}: {_count(facts.slots, 'slot')}"
    text += f", Python {facts.python}, {facts.system} {facts.machine}"
    if facts.note:
        text += f", {facts.note}"
    if host.shipped is None:
        return f"{text}, tree in place"
    count, size = host.shipped.files, host.shipped.bytes
    if not count:
        return f"{text}, all files of the tree are there already"
    amount = f"{size / 1e6:.1f} MB" if size > 1e5 else f"{size} bytes"
    return f"{text}, shipped {_count(count, 'file')} ({amount})"


def _count(number: int, noun: str) -> str:
    """Return ``1 slot``, ``2 slots``."""
    return f"{number} {noun}{'s' if number > 1 else ''}"


# -- summary ----------------------------------------------------------------------


class TerminalSummary:
    """The sections of the plugin in the summary at the end of a session."""

    def __init__(self, config: pytest.Config, reporter: Any) -> None:
        """``reporter``: pytest's terminal reporter."""
        self._is_verbose = get_verbosity(config) > 0
        self._reporter = reporter

    def write_artifact_errors(self, errors: Mapping[Any, str]) -> None:
        """Write the artifacts that could not be written, with the reasons."""
        if errors:
            self._reporter.section("artifacts that could not be written", red=True)
            for path, reason in errors.items():
                self._reporter.line(make_readable(f"{path}: {reason}"))

    def write_uncollected(self, reasons: Mapping[str, str]) -> None:
        """Write the files that look like tests and are not collected, with ``-v`` the reasons."""
        if not reasons:
            return
        if self._is_verbose:
            self._reporter.section("files that look like tests and are not collected", yellow=True)
            for path, reason in reasons.items():
                self._reporter.line(f"{path}: {reason}")
            return
        verb = "looks like a test and is" if len(reasons) == 1 else "look like tests and are"
        names = ", ".join(shorten_list(list(reasons), _MAX_LISTED_FILES))
        text = f"nosejobs: {_count(len(reasons), 'file')} {verb} not collected: {names}"
        self._reporter.line(f"{text} (-v lists why)", yellow=True)

    def write_flaky_tests(self, flaky: Mapping[str, Sequence[str]]) -> None:
        """Write how each flaky test passed, and why it had failed before, by node id."""
        if flaky:
            self._reporter.section("flaky tests", yellow=True)
            for nodeid, (text, *reasons) in flaky.items():
                self._reporter.line(f"{nodeid}: {text}")
                for reason in reasons:
                    self._reporter.line(f"  {reason}")

    def write_losses(
        self,
        losses: Sequence[Loss],
        failed: Sequence[HostError],
        program_ids: Mapping[int, str],
        tests_not_run: int,
    ) -> None:
        """Write the hosts that were lost or could not be opened, and what became of their tests.

        ``failed``: the errors of hosts that were never open.  ``program_ids``: by test number.
        """
        lost = {loss.error.host for loss in losses}
        missing = [error for error in failed if error.host not in lost]
        if not missing and not losses:
            return
        self._reporter.section("hosts lost or missing", red=True)
        for error in missing:
            self._reporter.line(str(error))
        for loss in losses:
            self._reporter.line(str(loss.error))
            for line in self._describe_loss(loss, program_ids):
                self._reporter.line(f"  {line}")
        if tests_not_run:
            self._reporter.line(f"{format_count(tests_not_run, 'test')} could not be run")

    def _describe_loss(self, loss: Loss, program_ids: Mapping[int, str]) -> Iterator[str]:
        fates = {f"to {host}": tests for host, tests in loss.moved.items()}
        if loss.given_up:
            fates["given up"] = loss.given_up
        counts = ", ".join(f"{len(tests)} {fate}" for fate, tests in fates.items())
        if counts:
            yield f"tests that were there: {counts}"
        if self._is_verbose:
            for fate, tests in fates.items():
                for number in tests:
                    yield f"{make_readable(program_ids[number])} {fate}"
        if loss.is_back:
            yield "connected again later"
