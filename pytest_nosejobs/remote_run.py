"""Runs the shell tests of a session on hosts.

It prepares the run (hosts, tree, scheduler, controller) and implements the ``RunListener`` that
turns the controller's events into reports and messages.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Sequence

import pytest

from shell_runner.errors import HostError, UsageError
from shell_runner.hosts.fleet import Event, Fleet, HostEnded, HostReady
from shell_runner.hosts.spec import HostSpec
from shell_runner.remote.protocol.model import Problem, Test
from shell_runner.run.controller import RunController
from shell_runner.run.events import (
    Finished,
    HostDisconnected,
    Line,
    Loss,
    Running,
    Waiting,
    describe_losses,
)
from shell_runner.run.requirements import read_requirements
from shell_runner.run.scheduler import Scheduler
from shell_runner.shipping import file_selection, tree_scan
from shell_runner.text import make_readable

from . import markers, progress_line, pytest_internals, reports, reruns
from .gc_tuning import GcTuning
from .items import ShellItem
from .leftover_warnings import warn_of_leftovers
from .progress_line import ProgressLine
from .run_loop import RunLoop
from .run_services import EXIT_HOSTS_LOST, RunServices

#: Seconds between two drawings of the live view.
_TICK_INTERVAL = 0.1
#: Seconds between two updates of the progress line while hosts are opened.
_PROGRESS_INTERVAL = 0.5


class RemoteRun:
    """One run on the hosts of ``--nosejobs``."""

    def __init__(
        self, services: RunServices, specs: Sequence[HostSpec], gc_tuning: GcTuning
    ) -> None:
        self._services = services
        self._gc_tuning = gc_tuning
        options = services.options
        self.fleet = Fleet(specs, services.setup, options.host_timeout)
        self._controller: RunController | None = None
        self._items: dict[int, ShellItem] = {}
        self._tests: dict[int, Test] = {}
        #: The number of tests that could not be run because hosts were lost.
        self.tests_not_run = 0

    def open(self) -> None:
        """Start opening all hosts, side by side, while pytest collects."""
        self.fleet.open()

    def close(self) -> None:
        """Close all hosts; nothing is left running on any of them."""
        self.fleet.close()

    @property
    def losses(self) -> Sequence[Loss]:
        """Return the hosts that were lost, in order."""
        return self._controller.losses if self._controller is not None else ()

    @property
    def has_run(self) -> bool:
        """Return whether the run has begun."""
        return self._controller is not None

    @property
    def program_ids(self) -> dict[int, str]:
        """Return the ids of the programs by test number."""
        return {number: item.program_id for number, item in self._items.items()}

    def check_hosts(self) -> None:
        """End the session if a host cannot be opened, unless the options allow it."""
        failed = self.fleet.opening_errors()
        if failed and not self._services.options.allow_missing:
            self._exit("a host cannot be opened", failed)

    def run(self, session: pytest.Session, items: Sequence[ShellItem]) -> None:
        """Run ``items`` on the hosts, and the Python items of ``session`` in between."""
        services, fleet = self._services, self.fleet
        self._items = dict(enumerate(items))
        self._tests = {number: item.make_test(number) for number, item in self._items.items()}
        if fleet.needs_tree:
            fleet.provide_tree(self._scan_tree())
        opened = self._wait_for_hosts()
        skipped = self._report_marker_skips()
        waiting = {num: item for num, item in self._items.items() if num not in skipped}
        controller = self._controller = RunController(
            fleet,
            list(self._tests.values()),
            self._make_scheduler(waiting),
            self._receive_artifact,
            {number: reruns.count_attempts(item) for number, item in waiting.items()},
            services.options.host_timeout,
            self._discard_artifacts,
        )
        for event in opened:
            fleet.events.put(event)
        controller.start()
        python_items = [item for item in session.items if not isinstance(item, ShellItem)]
        if not python_items:  # Python tests print what they like
            services.terminal.start_view(len(waiting))
        self._gc_tuning.freeze()
        try:
            RunLoop(session, self, python_items, len(waiting)).run(controller)
        finally:
            if python_items:
                self._gc_tuning.end()  # pytest looks for garbage of Python tests
            else:
                self._gc_tuning.freeze()
            controller.stop()
            services.terminal.stop_view()

    def _make_scheduler(self, waiting: dict[int, ShellItem]) -> Scheduler:
        history = self._services.durations.earlier
        return Scheduler(
            waiting,
            {
                number: history[item.program_id]
                for number, item in self._items.items()
                if item.program_id in history
            },
            self._services.options.max_lost,
            first=self._find_failed_first(),
            requirements={num: read_requirements(item.metadata) for num, item in waiting.items()},
            hosts={host.id: host.spec.labels for host in self.fleet.hosts},
            folders={number: str(item.path.parent) for number, item in waiting.items()},
        )

    def _find_failed_first(self) -> set[int]:
        """Return the tests that failed in the last run, with ``--ff``."""
        config = self._services.config
        cache = getattr(config, "cache", None)
        if cache is None or not config.getoption("failedfirst", False):
            return set()
        failed = cache.get("cache/lastfailed", {})
        return {number for number, item in self._items.items() if item.nodeid in failed}

    def _report_marker_skips(self) -> set[int]:
        """Report the tests that a marker of a conftest file skips; they are not sent at all."""
        skipped = set()
        for number, item in self._items.items():
            skip_reason = markers.evaluate_markers(item)
            not_run_reason = None if skip_reason is not None else markers.get_not_run_reason(item)
            reason = not_run_reason if skip_reason is None else f"Skipped: {skip_reason}"
            if reason is None:
                continue
            skipped.add(number)
            made = list(reports.make_skip_reports(item, reason))
            if not_run_reason is not None:
                made[0].wasxfail = not_run_reason
            self._services.publisher.publish_remote(item, made)
        return skipped

    # -- hosts and tree -----------------------------------------------------------

    def _scan_tree(self) -> tree_scan.SourceTree:
        """Return the files to ship.  Raise pytest.UsageError if a test is not among them."""
        options, terminal = self._services.options, self._services.terminal
        tests = []
        for test in self._tests.values():
            if os.path.isabs(test.path):
                raise pytest.UsageError(
                    f"{test.path} is outside of the tree that is shipped to hosts "
                    f"({options.root}); set nosejobs_root in the ini file"
                )
            tests.append(test.path)
        line = terminal.make_progress_line()
        try:
            tree = tree_scan.scan(
                options.root,
                tests,
                options.selection,
                lambda done, total: line.show(progress_line.describe_reading(done, total)),
            )
        except UsageError as error:
            raise pytest.UsageError(str(error)) from error
        finally:
            line.end()
        left_out: list[str] = []
        if not terminal.is_quiet:
            paths = [entry.path for entry in tree.entries]
            left_out = file_selection.list_left_out(options.root, paths, options.selection)
        terminal.show_not_shipped(tree.skipped, left_out)
        return tree

    def _wait_for_hosts(self) -> list[Event]:
        """Wait until each host is ready or has failed.

        Returns those events, which the controller must handle.  Ends the session if no host is
        ready, or if one has failed that may not.
        """
        fleet = self.fleet
        opened: list[Event] = []
        line = self._services.terminal.make_progress_line()
        names: set[str] = set()
        while len(names) < len(fleet.hosts):
            event = self._wait_for_event(line)
            if isinstance(event, (HostReady, HostEnded)):
                opened.append(event)
                names.add(event.host.id)
            self.check_hosts()
        if not any(isinstance(event, HostReady) for event in opened):
            self._exit("no host could be opened", fleet.opening_errors())
        self._services.terminal.show_hosts(fleet.hosts)
        return opened

    def _wait_for_event(self, line: ProgressLine) -> Event:
        """Return the next event of any host; meanwhile show the progress of shipping."""
        try:
            while True:
                try:
                    return self.fleet.events.get(timeout=_PROGRESS_INTERVAL)
                except queue.Empty:
                    progress = {host.id: host.shipping_progress for host in self.fleet.hosts}
                    busy = {name: amount for name, amount in progress.items() if amount}
                    line.show(progress_line.describe_shipping(busy))
        finally:
            line.end()

    def _exit(self, message: str, errors: Sequence[HostError]) -> None:
        for error in errors:
            self._services.terminal.write_line(f"nosejobs: {error}", red=True)
        pytest.exit(f"nosejobs: {message}", returncode=EXIT_HOSTS_LOST)

    # -- called in the controller's thread ----------------------------------------

    def _receive_artifact(self, number: int, attempt: int, path: str, data: bytes) -> None:
        if number not in self._items:
            raise ValueError("artifacts of an unknown test")
        self._services.artifacts.receive(self._items[number].program_id, attempt, path, data)

    def _discard_artifacts(self, number: int, attempt: int) -> None:
        self._services.artifacts.discard(self._items[number].program_id, attempt)

    # -- RunListener --------------------------------------------------------------

    def on_tick(self) -> float | None:
        """Draw the live view.  Return the seconds until the next call, None for no limit."""
        view = self._services.terminal.view
        if view is None:
            return None
        view.draw_if_due()
        return _TICK_INTERVAL

    def on_progress(self, event: Running | Line | Waiting | HostDisconnected) -> None:
        """Show an event that does not end a test."""
        terminal = self._services.terminal
        if isinstance(event, Waiting):
            terminal.show_waiting(event)
            return
        if isinstance(event, HostDisconnected):
            terminal.show_lost_host(event)
            return
        item = self._items.get(event.test)
        if item is None:
            return
        if isinstance(event, Line):
            terminal.show_output_line(item.program_id, event.host, event.text)
        elif terminal.view is not None:
            terminal.view.set_running(event.host, event.slot, make_readable(item.program_id))

    def on_finished(self, event: Finished) -> None:
        """Report a test that has ended, or an attempt that another one follows."""
        services, execution = self._services, event.execution
        item, test = self._items[execution.id], self._tests[execution.id]
        publisher = services.publisher
        if event.will_rerun:
            context = services.make_context(item, test, execution, event.host)
            attempt = services.report_maker.make_attempt_report(context)
            publisher.publish_remote(item, [attempt])
            return
        if event.lost_with:
            item.user_properties.append(("lost_with", describe_losses(event.lost_with)))
        if item.earlier_attempts:
            reruns.add_flaky_property(item, test, execution, reruns.count_attempts(item))
        if execution.problem == Problem.UNMET_REQUIREMENT and services.options.requires == "skip":
            skip_reports = reports.make_skip_reports(item, f"Skipped: {execution.detail}")
            publisher.publish_remote(item, skip_reports)
            return
        test = warn_of_leftovers(item, test, execution)
        if execution.problem == Problem.HOST_LOST:
            self.tests_not_run += 1
        elif not execution.problem:
            # The history holds what the test would have taken on a host of average speed.
            services.durations.add(item.program_id, execution.duration / event.speed_factor)
        view = services.terminal.view
        if view is not None:
            view.set_finished(event.host, execution.slot, make_readable(item.program_id))
        context = services.make_context(item, test, execution, event.host)
        made = services.report_maker.make_reports(context, publisher.skips_silent_hooks)
        publisher.publish_remote(item, made)
        if context.has_passed_by_cases:
            pytest_internals.forget_failure(services.config, item.nodeid)
