"""The hooks of a session that has shell tests.

They only delegate: to the collection, the local runner, the remote run, the report publisher and
the terminal.  ``plugin`` loads this module when the session needs it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from shell_runner.collection.programs import CollectionRules
from shell_runner.errors import UsageError

from . import options, other_plugins
from .artifacts import ArtifactReceiver
from .collection import MANY_PROGRAMS, Collection
from .durations import DurationHistory
from .failure_text import FailureText, add_parts
from .gc_tuning import GcTuning
from .items import ItemSettings, ShellItem, select_shell_items
from .local_run import LocalRunner
from .node_ids import RequestedCases, rewrite_arguments
from .output_formats import load_formats
from .report_publisher import ReportPublisher
from .run_services import EXIT_HOSTS_LOST, RunServices
from .stored_durations import StoredDurations
from .terminal import (
    HostStatusSuffix,
    Status,
    Terminal,
    TerminalSummary,
    get_verbosity,
    make_header,
)

if TYPE_CHECKING:
    from .remote_run import RemoteRun

#: Options with which pytest shows something, and nothing is run.
_SHOW_ONLY_OPTIONS = (
    "collectonly", "setuponly", "setupplan", "showfixtures", "show_fixtures_per_test", "cacheshow",
)  # fmt: skip


def register_session_plugin(config: pytest.Config, is_configuring: bool) -> SessionPlugin:
    """Create the plugin object of a session, and register it and what the options require.

    ``is_configuring``: called in ``pytest_configure``.

    Raises pytest.UsageError if they are invalid.
    """
    try:
        plugin = SessionPlugin(config, is_configuring)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    publisher = plugin.services.publisher
    register = config.pluginmanager.register
    register(plugin, "nosejobs-session")
    if get_verbosity(config) > 0:
        register(HostStatusSuffix(lambda: publisher.current_report), "nosejobs-host-status")
    if plugin.arguments.cases and not hasattr(config, "workerinput"):
        register(RequestedCases(plugin.arguments, config.rootpath), "nosejobs-requested-cases")
    if plugin.arguments.only:
        register(plugin.arguments, "nosejobs-arguments")
    if config.getoption("store_durations", False):
        register(StoredDurations(config), "nosejobs-stored-durations")
    return plugin


class SessionPlugin:
    """The hooks of one session."""

    def __init__(self, config: pytest.Config, is_configuring: bool) -> None:
        """Read the options.  Raise UsageError or pytest.UsageError if they are invalid."""
        self.config = config
        chosen = options.read_options(config)
        self.specs = options.read_host_specs(config, chosen.config)
        output_formats = load_formats(config, is_configuring)
        self.services = RunServices(
            config=config,
            options=chosen,
            setup=options.build_setup(config, chosen, output_formats.sources),
            artifacts=ArtifactReceiver(config, chosen),
            durations=DurationHistory(config),
            publisher=ReportPublisher(config, chosen.junit_properties),
            terminal=Terminal(config),
        )
        self.local_runner = LocalRunner(self.services)
        #: The run on hosts; None without hosts, or if nothing is to be run.
        self.remote_run: RemoteRun | None = None
        self.arguments = rewrite_arguments(config.args, config.invocation_params.dir)
        config.args[:] = self.arguments.args
        rules = CollectionRules(chosen.config, chosen.patterns, chosen.defaults, chosen.repeat)
        settings = ItemSettings(chosen.root, chosen.timeout, output_formats.by_suffix)
        self._gc_tuning = GcTuning()
        is_shown_only = any(config.getoption(name, False) for name in _SHOW_ONLY_OPTIONS)
        self._will_run_hosts = bool(self.specs) and not is_shown_only
        self.collection = Collection(
            config,
            rules,
            self.local_runner,
            settings,
            chosen.is_strict,
            self._gc_tuning.begin,
        )
        # Pytest's own cleanup comes first and collects garbage once more; ours is exempt.
        config.add_cleanup(self._gc_tuning.end)
        if config.getoption("markers", False):  # lists them; nothing is collected
            self.collection.register_all_tags()

    # -- session ------------------------------------------------------------------

    def pytest_report_header(self) -> list[str]:
        """Return the lines about hosts."""
        return make_header(self.config, self.specs)

    def start_session(self) -> None:
        """Start opening the hosts.

        It is no hook, as pytest may have called that one before this plugin was loaded.
        """
        self.services.publisher.start()
        if not self.specs:
            return
        self._gc_tuning.begin()
        if self._will_run_hosts:
            from .remote_run import RemoteRun  # not needed, and not loaded, without hosts

            self.remote_run = RemoteRun(self.services, self.specs, self._gc_tuning)
            self.remote_run.open()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Close the hosts, save durations and set the exit status."""
        if self.remote_run is not None:
            self.remote_run.close()
        self.local_runner.close()
        for item in select_shell_items(getattr(session, "items", ())):
            if item.earlier_attempts:
                other_plugins.set_execution_count(item, 1 + len(item.earlier_attempts))
        if not hasattr(self.config, "workerinput"):
            self.services.durations.save()
        if self._count_tests_not_run():
            session.exitstatus = EXIT_HOSTS_LOST

    def write_summary(self, terminalreporter: Any) -> None:
        """Write the plugin's sections of the summary.

        It is no hook either: those of plugins come in the order in which they were registered.
        """
        summary = TerminalSummary(self.config, terminalreporter)
        summary.write_uncollected(self.collection.get_uncollected())
        summary.write_artifact_errors(self.services.artifacts.errors)
        summary.write_flaky_tests(self.services.publisher.reruns.flaky)
        remote = self.remote_run
        if remote is not None and remote.has_run:
            failed = remote.fleet.opening_errors()
            not_run = self._count_tests_not_run()
            summary.write_losses(remote.losses, failed, remote.program_ids, not_run)

    def _count_tests_not_run(self) -> int:
        remote = self.remote_run.tests_not_run if self.remote_run is not None else 0
        return self.local_runner.tests_not_run + remote

    # -- collection ---------------------------------------------------------------

    def pytest_collectstart(self) -> None:
        """End the session early if a host cannot be opened."""
        if self.remote_run is not None:
            self.remote_run.check_hosts()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Take settings of other plugins from the items, when those have been chosen."""
        other_plugins.take_retries(self.config, select_shell_items(items))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Exempt thousands of programs from the search for garbage."""
        programs = len(select_shell_items(session.items))
        if programs < len(session.items):
            if self.remote_run is None:
                self._gc_tuning.end()  # pytest looks for garbage of Python tests
        elif programs >= MANY_PROGRAMS:
            self._gc_tuning.freeze()

    # -- running and reporting ----------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run shell tests on the hosts and Python tests here; without hosts, pytest's loop runs."""
        items = select_shell_items(session.items)
        if self.remote_run is None or not items:
            return None
        if session.testsfailed and not self.config.option.continue_on_collection_errors:
            return None  # pytest's own loop reports that and stops
        self.remote_run.run(session, items)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """Run a shell test on this machine.

        It comes before pytest-rerunfailures, which would run the test once more.
        """
        if not isinstance(item, ShellItem):
            return None
        other_plugins.note_current_item(item)
        self.local_runner.run_protocol(item, nextitem)
        return True

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self, item: pytest.Item) -> bool | None:
        """Suppress pytest-timeout's alarm in this process: the host stops a shell test."""
        return True if isinstance(item, ShellItem) else None

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Replace the report of a shell test.

        This wrapper is the innermost one, so that other plugins see the final report, which is
        the same as for a test on a host.
        """
        report = yield
        if not isinstance(item, ShellItem):
            return report
        return self.local_runner.make_report(item, call, report)

    @pytest.hookimpl(wrapper=True)
    def pytest_report_to_serializable(
        self, report: pytest.TestReport
    ) -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
        """Keep the parts of a failure's text, for xdist and for logs of reports."""
        data = yield
        if data is not None and isinstance(report.longrepr, FailureText):
            add_parts(data, report.longrepr)
        return data

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> Status | None:
        """Return the status of a rerun, and of a plain pass where no other plugin has a say."""
        if not hasattr(report, "nosejobs_host"):
            return None
        if report.outcome == "rerun":  # type: ignore[comparison-overlap]
            return "rerun", "R", ("RERUN", {"yellow": True})
        is_short = self.services.publisher.skips_silent_hooks
        if is_short and report.outcome == "passed" and not hasattr(report, "wasxfail"):
            return ("passed", ".", "PASSED") if report.when == "call" else ("", "", "")
        return None
