"""Runs tests on this machine, one at a time, by pytest's ordinary protocol.

The machine is opened like any other host, so that a test has the same outcome everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
from _pytest.runner import runtestprotocol

from shell_runner import errors
from shell_runner.errors import HostError
from shell_runner.hosts.fleet import Fleet, FrameReceived, HostEnded, HostReady
from shell_runner.hosts.spec import HostSpec
from shell_runner.remote.protocol.model import (
    PASSED,
    SKIPPED,
    Execution,
    Problem,
    Setup,
    Test,
    execution_from_row,
)
from shell_runner.remote.protocol.verdict import is_retryable, judge
from shell_runner.reporting.report_text import skip_reason, unmet_message

from . import reports, reruns
from .items import ShellFailure, ShellItem
from .leftover_warnings import warn_of_leftovers
from .protocol_reports import make_attempt_report, make_failure, replace_by_cases
from .reports import ReportContext
from .run_services import RunServices

#: The name of this machine in reports and in ``[hosts.here]`` of nosejobs.toml.
LOCAL_HOST = "here"


class LocalRunner:
    """Implements ``ItemRunner`` and the hooks of the ordinary protocol.

    It serves items that run on this machine, and those that have run on a host.
    """

    def __init__(self, services: RunServices) -> None:
        self._services = services
        self._slot = LocalSlot(services.setup, self._receive_artifact, self._show_line)
        self._program_id = ""
        #: Phases of the current item in which the program failed, with their reports.
        self._failed_phases: list[tuple[pytest.CallInfo[None], pytest.TestReport]] = []
        #: The number of tests that could not be run because this machine failed.
        self.tests_not_run = 0

    def check_requirements(self, item: ShellItem) -> None:
        """Check in the setup phase of an item that its host has the labels that it requires.

        Raises also what a setup hook has raised before the test would have been sent.
        """
        item.local_result = None
        item.earlier_attempts.clear()
        item.rerun_reports.clear()
        remote = item.remote_result
        if remote is None:
            self._check_local_labels(item)
        elif remote.setup_error is not None:
            raise remote.setup_error
        elif remote.attempts and remote.attempts[-1][1].problem == Problem.UNMET_REQUIREMENT:
            self._refuse(item, *remote.attempts[-1])

    def _check_local_labels(self, item: ShellItem) -> None:
        """Check the labels of ``[hosts.here]``."""
        entry = self._services.options.config.hosts.get(LOCAL_HOST)
        missing = sorted(set(item.metadata.requires) - set(entry.labels if entry else ()))
        if missing:
            reason = unmet_message(sorted(item.metadata.requires), missing, [LOCAL_HOST])
            execution = Execution(0, problem=Problem.UNMET_REQUIREMENT, detail=reason)
            self._refuse(item, item.make_test(0), execution)

    def _refuse(self, item: ShellItem, test: Test, execution: Execution) -> None:
        """Skip or fail an item whose requirements are not met."""
        if self._services.options.requires == "skip":
            item.unmet_reason = execution.detail
            pytest.skip(execution.detail)
        item.local_result = (test, execution)
        raise make_failure(self._make_context(item, test, execution))

    def run_item(self, item: ShellItem) -> None:
        """Run an item, again after a failure if it may, or take its result from the host.

        Raises ShellFailure, or pytest's Skipped.
        """
        remote = item.remote_result
        last = None
        for test, execution in self._run(item) if remote is None else remote.attempts:
            if last is not None:
                context = self._make_context(item, *last)
                item.rerun_reports.append(make_attempt_report(context))
            last = test, execution
        assert last is not None
        test, execution = last
        reruns.add_flaky_property(item, test, execution, reruns.count_attempts(item))
        test = warn_of_leftovers(item, test, execution)
        item.local_result = (test, execution)
        outcome = judge(test, execution).outcome
        if outcome == SKIPPED:
            pytest.skip(skip_reason(execution))
        if outcome != PASSED:
            raise make_failure(self._make_context(item, test, execution))

    def _run(self, item: ShellItem) -> Iterator[tuple[Test, Execution]]:
        """Run an item on this machine; yield its attempts and their executions."""
        self._program_id = item.program_id
        for attempt in range(1, reruns.count_attempts(item) + 1):
            test = item.make_test(0)._replace(attempt=attempt)
            execution = self._execute(test)
            yield test, execution
            if not is_retryable(test, execution):
                break
        self._services.durations.add(item.program_id, execution.duration)

    def run_protocol(self, item: ShellItem, nextitem: pytest.Item | None) -> None:
        """Run pytest's ordinary protocol, then publish reports of attempts and cases as well."""
        publisher = self._services.publisher
        properties = item.user_properties
        if item.remote_result is None:
            publisher.show_name(item)
        made: Iterable[pytest.TestReport]
        made = phases = runtestprotocol(item, log=False, nextitem=nextitem)
        if item.rerun_reports or (item.local_result and item.local_result[1].parsed):
            publisher.tell_status(phases)
        # Not earlier: while a test runs, pytest captures what is written to the terminal.
        for rerun in item.rerun_reports:
            publisher.publish(item, [rerun])
        if item.local_result and item.local_result[1].parsed and phases[0].passed:
            context = self._make_context(item, *item.local_result)
            made = replace_by_cases(context, properties, phases)
        publisher.publish(item, made)
        item.local_result = None  # it may hold many cases, and pytest keeps all items
        failed, self._failed_phases = self._failed_phases, []
        if not item.config.getoption("usepdb", False):
            for call, report in failed:
                item.ihook.pytest_exception_interact(node=item, call=call, report=report)

    def make_report(
        self, item: ShellItem, call: pytest.CallInfo[None], report: pytest.TestReport
    ) -> pytest.TestReport:
        """Return the report that replaces pytest's ``report`` of one phase of an item."""
        reports.add_attributes(report, item)
        if call.when == "setup" and item.unmet_reason:
            return next(reports.make_skip_reports(item, f"Skipped: {item.unmet_reason}"))
        if call.when == "teardown" or not item.local_result:
            return report
        verdict = reports.make_verdict_report(self._make_context(item, *item.local_result))
        if call.excinfo is not None and call.excinfo.errisinstance(ShellFailure):
            self._failed_phases.append((call, verdict))
        # The teardown report, from which JUnit XML takes properties and output, is pytest's.
        item.user_properties = verdict.user_properties
        for name, text in verdict.sections:
            item.add_report_section("call", name.split()[1], text)
        return verdict

    def close(self) -> None:
        """End the slot and whatever it runs."""
        self._slot.close()

    def _make_context(self, item: ShellItem, test: Test, execution: Execution) -> ReportContext:
        host = LOCAL_HOST if item.remote_result is None else item.remote_result.host
        return self._services.make_context(item, test, execution, host)

    def _execute(self, test: Test) -> Execution:
        try:
            return self._slot.run(test)
        except HostError as error:
            self.tests_not_run += 1
            return Execution(test.id, problem=Problem.HOST_LOST, detail=error.cause)

    def _receive_artifact(self, number: int, attempt: int, path: str, data: bytes) -> None:
        if number != 0:
            raise ValueError("artifacts of an unknown test")
        self._services.artifacts.receive(self._program_id, attempt, path, data)

    def _show_line(self, number: int, host: str, text: str) -> None:
        if number == 0:
            self._services.terminal.show_output_line(self._program_id, host, text)


class LocalSlot:
    """One slot on this machine, opened when the first test needs it."""

    def __init__(
        self,
        setup: Setup,
        receive_artifact: Callable[[int, int, str, bytes], None],
        show_line: Callable[[int, str, str], None],
    ) -> None:
        """Keep the callables; they are called while a test runs.

        ``receive_artifact``: gets test, attempt, path and bytes.  ``show_line``: gets test, host
        and a line of output.
        """
        self._setup = setup
        self._receive_artifact = receive_artifact
        self._show_line = show_line
        self._fleet: Fleet | None = None

    def run(self, test: Test) -> Execution:
        """Run one test to its end.  Raise HostError if this machine cannot."""
        fleet = self._open()
        try:
            fleet.hosts[0].run_tests([test])
            return self._wait(fleet)
        except BaseException:
            # After Ctrl-C, a timeout of another plugin or a lost host, the test must not go on.
            self.close()
            raise

    def close(self) -> None:
        """End the slot and whatever it runs."""
        if self._fleet is not None:
            self._fleet.close()
            self._fleet = None

    def _open(self) -> Fleet:
        if self._fleet is None:
            self._fleet = Fleet([HostSpec(LOCAL_HOST, "popen", 1)], self._setup)
            self._fleet.open()
            event = self._fleet.events.get()
            if isinstance(event, HostEnded):
                self.close()
                raise event.error
            assert isinstance(event, HostReady)
        return self._fleet

    def _wait(self, fleet: Fleet) -> Execution:
        while True:
            event = fleet.events.get()
            if isinstance(event, HostEnded):
                raise errors.HostLost(LOCAL_HOST, event.error.cause)
            if isinstance(event, FrameReceived):
                for message in event.host.unpack_messages(event.frame):
                    if message[0] == "done":
                        return execution_from_row(message[1])
                    if message[0] == "artifact":
                        _, number, attempt, path, _, body = message
                        self._receive_artifact(number, attempt, path, body)
                    if message[0] == "line":
                        self._show_line(message[1], LOCAL_HOST, message[2])
                    if message[0] == "error":
                        raise HostError(LOCAL_HOST, str(message[1]))
