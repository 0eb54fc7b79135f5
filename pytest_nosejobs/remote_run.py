"""Runs the shell tests of a session on hosts.

It prepares the run (hosts, tree, scheduler, controller) and implements the ``RunListener`` that
turns the controller's events into reports and messages.
"""

from __future__ import annotations

import os
import queue
from collections import deque
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
)
from shell_runner.run.requirements import read_requirements
from shell_runner.run.scheduler import Scheduler
from shell_runner.shipping import file_selection, tree_scan
from shell_runner.text import make_readable

from . import progress_line, reruns
from .gc_tuning import GcTuning
from .items import ShellItem
from .outcome_reporter import OutcomeReporter
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
        #: The tests that are not reported yet.
        self._open: set[int] = set()
        #: Tests among them that wait for the results of others, in order.
        self._held: deque[int] = deque()
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
        self._outcomes = OutcomeReporter(services, session)
        waiting, held = self._select_tests()
        self._held.extend(held)
        self._open = {*waiting, *held}
        controller = self._controller = RunController(
            fleet,
            list(self._tests.values()),
            self._make_scheduler(waiting),
            self._receive_artifact,
            {number: reruns.count_attempts(self._items[number]) for number in self._open},
            services.options.host_timeout,
            self._discard_artifacts,
            held,
        )
        for event in opened:
            fleet.events.put(event)
        controller.start()
        python_items = [item for item in session.items if not isinstance(item, ShellItem)]
        if not python_items:  # Python tests print what they like
            services.terminal.start_view(len(self._open))
        self._gc_tuning.freeze()
        try:
            RunLoop(session, self, python_items).run(controller)
        finally:
            if python_items:
                self._gc_tuning.end()  # pytest looks for garbage of Python tests
            else:
                self._gc_tuning.freeze()
            controller.stop()
            services.terminal.stop_view()

    def _select_tests(self) -> tuple[list[int], list[int]]:
        """Report the tests that are not sent at all; return the numbers of the others.

        Those of the second list have to wait for the results of other tests.
        """
        waiting, held = [], []
        for number, item in self._items.items():
            if self._outcomes.skip_by_marker(item):
                continue
            if not self._outcomes.is_ready(item):
                held.append(number)
            elif self._outcomes.set_up(item):
                waiting.append(number)
        return waiting, held

    def _make_scheduler(self, waiting: Sequence[int]) -> Scheduler:
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
            requirements={num: read_requirements(self._items[num].metadata) for num in self._open},
            hosts={host.id: host.spec.labels for host in self.fleet.hosts},
            folders={
                number: os.path.dirname(self._items[number].file_path) for number in self._open
            },
        )

    def _find_failed_first(self) -> set[int]:
        """Return the tests that failed in the last run, with ``--ff``."""
        config = self._services.config
        cache = getattr(config, "cache", None)
        if cache is None or not config.getoption("failedfirst", False):
            return set()
        failed = cache.get("cache/lastfailed", {})
        return {number for number, item in self._items.items() if item.nodeid in failed}

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
        number = event.execution.id
        item, test = self._items[number], self._tests[number]
        if event.will_rerun:
            self._outcomes.report_attempt(item, test, event)
            return
        if event.execution.problem == Problem.HOST_LOST:
            self.tests_not_run += 1
        view = self._services.terminal.view
        if view is not None:
            view.set_finished(event.host, event.execution.slot, make_readable(item.program_id))
        self._outcomes.report(item, test, event)
        self._open.discard(number)
        self._release_held()

    # -- SessionListener ----------------------------------------------------------

    @property
    def open_tests(self) -> int:
        """Return the number of tests that are not reported yet."""
        return len(self._open)

    def is_ready(self, item: pytest.Item) -> bool:
        """Return whether a Python item need not wait for tests on hosts."""
        return self._outcomes.is_ready(item)

    def on_reported(self, item: pytest.Item) -> None:
        """Release what has waited for a Python item."""
        self._outcomes.note_reported(item)
        self._release_held()

    def _release_held(self) -> None:
        """Send the tests whose dependencies are known now, in order."""
        assert self._controller is not None
        while self._held and self._outcomes.is_ready(self._items[self._held[0]]):
            number = self._held.popleft()
            runs = self._outcomes.set_up(self._items[number])
            if not runs:
                self._open.discard(number)
            self._controller.release(number, runs)
