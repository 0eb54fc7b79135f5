"""Reports the outcomes of tests that run on hosts, or that are not sent at all.

If another plugin or a conftest file takes part in the protocol of a test, pytest's protocol is run
around its result.  Otherwise the reports are published directly, which is much faster.
"""

from __future__ import annotations

from collections import defaultdict

import pytest
from _pytest.runner import SetupState

from shell_runner.remote.protocol.model import Execution, Problem, Test
from shell_runner.run.events import Finished, describe_losses

from . import markers, protocol_reports, pytest_internals, reports, reruns
from .dependency_order import DependencyOrder
from .items import RemoteResult, ShellItem
from .leftover_warnings import warn_of_leftovers
from .protocol_hooks import ProtocolHooks
from .run_services import RunServices


class OutcomeReporter:
    """Reports the outcomes of one run."""

    def __init__(self, services: RunServices, session: pytest.Session) -> None:
        self._services = services
        self._session = session
        self._hooks = ProtocolHooks()
        self._dependencies = DependencyOrder(services.config, session.items)
        #: The plugins whose setup hooks have been called, by item.
        self._set_up_plugins: dict[ShellItem, tuple[object, ...]] = {}
        #: The earlier attempts of tests for which the protocol is run.
        self._attempts: dict[ShellItem, list[tuple[Test, Execution]]] = defaultdict(list)

    # -- before a test is sent ----------------------------------------------------

    def skip_by_marker(self, item: ShellItem) -> bool:
        """Report ``item`` as skipped if a marker says so; return whether one does.

        Evaluates the item's markers, on which ``reruns.count_attempts`` relies.
        """
        skip_reason = markers.evaluate_markers(item)
        not_run_reason = None if skip_reason is not None else markers.get_not_run_reason(item)
        reason = not_run_reason if skip_reason is None else f"Skipped: {skip_reason}"
        if reason is None:
            return False
        if self._hooks.has_listeners(item):
            self._run_protocol(item, RemoteResult())
        else:
            made = list(reports.make_skip_reports(item, reason))
            if not_run_reason is not None:
                made[0].wasxfail = not_run_reason
            self._services.publisher.publish_remote(item, made)
        self.note_reported(item)
        return True

    def is_ready(self, item: pytest.Item) -> bool:
        """Return whether ``item`` need not wait for the results of other tests."""
        return self._dependencies.is_ready(item)

    def set_up(self, item: ShellItem) -> bool:
        """Call the setup hooks of other plugins; return whether ``item`` is to be sent.

        If one of them skips it or fails, that is reported.
        """
        if not self._hooks.has_listeners(item):
            return True
        error, plugins = self._hooks.call_setup_hooks(item)
        if error is not None:
            self._run_protocol(item, RemoteResult(setup_error=error, set_up_plugins=plugins))
            self.note_reported(item)
            return False
        if plugins:
            self._set_up_plugins[item] = tuple(plugins)
        return True

    # -- results ------------------------------------------------------------------

    def note_reported(self, item: pytest.Item) -> None:
        """Note that the outcome of ``item`` is known to all plugins."""
        self._dependencies.note_reported(item)

    def report_attempt(self, item: ShellItem, test: Test, event: Finished) -> None:
        """Report an attempt that another one follows; the protocol shows it at its end."""
        if self._needs_protocol(item):
            self._attempts[item].append((test, event.execution))
            return
        context = self._services.make_context(item, test, event.execution, event.host)
        report = protocol_reports.make_attempt_report(context)
        self._services.publisher.publish_remote(item, [report])

    def report(self, item: ShellItem, test: Test, event: Finished) -> None:
        """Report the last attempt of a test."""
        execution = event.execution
        if event.lost_with:
            item.user_properties.append(("lost_with", describe_losses(event.lost_with)))
        if not execution.problem:
            # The history holds what the test would have taken on a host of average speed.
            duration = execution.duration / event.speed_factor
            self._services.durations.add(item.program_id, duration)
        if self._needs_protocol(item):
            attempts = [*self._attempts.pop(item, ()), (test, execution)]
            plugins = self._set_up_plugins.pop(item, ())
            self._run_protocol(item, RemoteResult(event.host, attempts, None, plugins))
        else:
            self._publish(item, test, event)
        self.note_reported(item)

    def _publish(self, item: ShellItem, test: Test, event: Finished) -> None:
        services, execution = self._services, event.execution
        publisher = services.publisher
        if item.earlier_attempts:
            reruns.add_flaky_property(item, test, execution, reruns.count_attempts(item))
        if execution.problem == Problem.UNMET_REQUIREMENT and services.options.requires == "skip":
            skip_reports = reports.make_skip_reports(item, f"Skipped: {execution.detail}")
            publisher.publish_remote(item, skip_reports)
            return
        test = warn_of_leftovers(item, test, execution)
        context = services.make_context(item, test, execution, event.host)
        made = reports.make_reports(context, publisher.skips_silent_hooks)
        publisher.publish_remote(item, made)
        if context.has_passed_by_cases:
            pytest_internals.forget_failure(services.config, item.nodeid)

    def _needs_protocol(self, item: ShellItem) -> bool:
        return self._hooks.has_listeners(item) or markers.has_expected_failure(item)

    def _run_protocol(self, item: ShellItem, result: RemoteResult) -> None:
        """Run pytest's protocol around a result.

        It has a state of setups and teardowns of its own: the other one may belong to a Python
        test that goes on afterwards.
        """
        session = self._session
        state, session._setupstate = session._setupstate, SetupState()
        item.remote_result = result
        try:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        finally:
            item.remote_result = None
            session._setupstate = state
