"""The wiring: pytest's hooks on one side, our parts on the other.

Owns the state of one pytest session.  Everything of substance is elsewhere.
"""

from __future__ import annotations

import fnmatch
import os
import shlex
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from shell_runner import hosts, shipping
from shell_runner.discovery import Metadata, apply, read_metadata
from shell_runner.errors import HostError, UsageError
from shell_runner.fleet import Ended, Event, Fleet, Host, Ready
from shell_runner.remote.model import PASSED, SKIPPED, Execution, Problem, Setup, Test
from shell_runner.remote.verdict import judge

from . import durations, leftovers, options, report
from .collect import Collection, ShellFailure, ShellItem, shell_items
from .here import Here
from .report import name_in_junit
from .schedule import Schedule
from .session import EXIT_HOSTS_LOST, Finished, Loop, Pump, log

#: Modules whose makereport hooks have nothing to say about a shell test.
_NOT_INTERESTED = ("_pytest.", __name__, "_hypothesis", "hypothesis", "xdist.")

_KEY = pytest.StashKey["Plugin"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


def pytest_configure(config: pytest.Config) -> None:
    try:
        plugin = Plugin(config)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[_KEY] = plugin
    config.pluginmanager.register(plugin, "nosejobs-session")


class Plugin:
    """One session's worth of nosejobs."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.options = options.read(config)
        self.fleet: Fleet | None = None
        self.specs = self._read_specs()
        self.here = Here(self._setup(1))
        self._collection = Collection(self, self.options.patterns, config.rootpath)
        self._tags: set[str] = set()
        self._history: dict[str, float] = {}
        self._new_durations: dict[str, float] = {}
        self._numbers: dict[int, ShellItem] = {}
        self._tests: dict[int, Test] = {}
        self._not_run = 0
        self._xml: Any = None
        self._pump: Pump | None = None
        self._keywords: dict[pytest.Collector | None, dict[str, Any]] = {}

    def _read_specs(self) -> list[hosts.HostSpec]:
        texts = self.config.getoption("nosejobs_hosts")
        if not texts or hasattr(self.config, "workerinput"):
            return []
        if self.config.getoption("numprocesses", None) or self.config.getoption("tx", None):
            raise pytest.UsageError(
                "-n and --nosejobs cannot be used at once: both would run the tests. "
                "Shell tests alone: --nosejobs=N*popen. Python tests in parallel: -n N, "
                "which runs shell tests in its workers, too."
            )
        return hosts.parse(texts, self.options.config.hosts)

    def _setup(self, slots: int) -> Setup:
        chosen = self.options
        return Setup(
            root=str(chosen.root),
            slots=slots,
            grace=chosen.grace,
            keep=chosen.keep,
            pass_env=chosen.pass_env,
            merge=chosen.merge,
        )

    # -- collection ---------------------------------------------------------------

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> Any:
        return self._collection.collect(file_path, parent)

    def metadata_of(self, name: str, head: bytes) -> Metadata:
        """Defaults, patterns of nosejobs.toml, the file's own comment; raises BadMetadata."""
        metadata = self.options.defaults
        tree = self.options.config
        for pattern, values in tree.patterns:
            if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(Path(name).name, pattern):
                metadata = apply(metadata, values, str(tree.path), f"[tests.{pattern!r}]")
        metadata = read_metadata(metadata, name, head)
        for tag in metadata.tags:
            if tag not in self._tags:
                self._tags.add(tag)
                self.config.addinivalue_line("markers", f"{tag}: tag of shell tests")
        return metadata

    def pytest_collectstart(self) -> None:
        self._check_hosts()

    # -- running here -------------------------------------------------------------

    def run_here(self, item: ShellItem) -> None:
        """Run one test on this machine; raises ShellFailure, or pytest's Skipped."""
        test = self._test(0, item)
        execution = self._execute_here(test)
        test = leftovers.warn(item, test, execution)
        item.finished = (test, execution)
        self._new_durations[item.nodeid] = execution.duration
        result = judge(test, execution)
        if result.outcome == SKIPPED:
            pytest.skip(report.skip_reason(execution).removeprefix("Skipped: "))
        if result.outcome != PASSED:
            raise ShellFailure(test, execution, result)

    def _execute_here(self, test: Test) -> Execution:
        try:
            return self.here.run(test)
        except HostError as error:
            self._not_run += 1
            return Execution(test.id, problem=Problem.HOST_LOST, detail=error.cause)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Innermost: what other plugins see is the same report that a host's test gets."""
        made = yield
        if not isinstance(item, ShellItem):
            return made
        if item.made is not None:
            return item.made
        if call.when == "call" and item.finished:
            verdict = report.verdict_report(item, *item.finished, Here.NAME)
            # The teardown report, which JUnit XML takes properties and output from, is pytest's.
            item.user_properties = verdict.user_properties
            for name, text in verdict.sections:
                item.add_report_section("call", name.split()[1], text)
            return verdict
        return made

    def _test(self, number: int, item: ShellItem) -> Test:
        said = item.metadata
        return Test(
            id=number,
            path=self._path_in_tree(item),
            timeout=said.timeout or self.options.timeout,
            argv=item.argv,
            cwd=said.cwd,
            home=said.home,
            env=said.env,
            pass_env=said.pass_env,
            leftovers=said.leftovers,
            limits=said.limits,
            isolation=said.isolation,
        )

    def _path_in_tree(self, item: ShellItem) -> str:
        """Relative to the root; absolute if it is elsewhere, which only this machine can run."""
        root = f"{self.options.root}{os.sep}"
        return str(item.path).removeprefix(root)

    # -- running on hosts ---------------------------------------------------------

    def pytest_sessionstart(self) -> None:
        from _pytest.junitxml import xml_key

        self._xml = self.config.stash.get(xml_key, None)
        if self.specs and not self.config.option.collectonly:
            self.fleet = Fleet(self.specs, self._setup(0))
            self.fleet.open()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        items = shell_items(session.items)
        if self.fleet is None or self.config.option.collectonly or not items:
            return None
        if session.testsfailed and not self.config.option.continue_on_collection_errors:
            return None  # pytest's own loop says so and stops
        self._run_on_hosts(session, self.fleet, items)
        return True

    def _run_on_hosts(
        self, session: pytest.Session, fleet: Fleet, items: list[ShellItem]
    ) -> None:
        self._numbers = dict(enumerate(items))
        self._tests = {number: self._test(number, item) for number, item in self._numbers.items()}
        if fleet.needs_tree:
            fleet.give_tree(self._scan())
        opened = self._await_hosts(fleet)
        self._history = durations.load(getattr(self.config, "cache", None))
        known = {
            number: self._history[item.nodeid]
            for number, item in self._numbers.items()
            if item.nodeid in self._history
        }
        skipped = self._report_marked_skips()
        waiting = [number for number in self._numbers if number not in skipped]
        schedule = Schedule(waiting, known, self.options.max_lost)
        pump = self._pump = Pump(fleet, list(self._tests.values()), schedule)
        for event in opened:
            fleet.events.put(event)
        pump.start()
        try:
            Loop(session, self, [self._numbers[number] for number in waiting]).run(pump)
        finally:
            pump.stop()

    def _scan(self) -> shipping.Tree:
        tests = []
        for test in self._tests.values():
            if os.path.isabs(test.path):
                raise pytest.UsageError(
                    f"{test.path} is outside of the tree that is shipped to hosts "
                    f"({self.options.root}); set nosejobs_root in the ini file"
                )
            tests.append(test.path)
        try:
            return shipping.scan(self.options.root, tests, self.options.selection)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from error

    def _await_hosts(self, fleet: Fleet) -> list[Event]:
        """All hosts are ready, or have failed and may; their events, to be played again."""
        decided: list[Event] = []
        while len(decided) < len(fleet.hosts):
            event = fleet.events.get()
            if isinstance(event, (Ready, Ended)):
                decided.append(event)
            self._check_hosts()
        if not any(isinstance(event, Ready) for event in decided):
            self._give_up("no host could be opened", fleet.failed())
        self._say_hosts(fleet)
        return decided

    def _check_hosts(self) -> None:
        failed = self.fleet.failed() if self.fleet else []
        if failed and not self.options.allow_missing:
            self._give_up("a host cannot be opened", failed)

    def _give_up(self, words: str, errors: list[HostError]) -> None:
        for error in errors:
            self._write_line(f"nosejobs: {error}", red=True)
        pytest.exit(f"nosejobs: {words}", returncode=EXIT_HOSTS_LOST)

    def _report_marked_skips(self) -> set[int]:
        """Tests with a skip mark (from a conftest) are not sent at all."""
        from _pytest.skipping import evaluate_skip_marks

        skipped = set()
        for number, item in self._numbers.items():
            if next(item.iter_markers("skip"), None) or next(item.iter_markers("skipif"), None):
                found = evaluate_skip_marks(item)
                if found:
                    skipped.add(number)
                    reason = (str(item.path), None, f"Skipped: {found.reason}")
                    log(item, report.skip_reports(item, reason))
        return skipped

    # -- reporting ----------------------------------------------------------------

    def report(self, finished: Finished) -> None:
        """Log one test that a host has finished."""
        number = finished.execution.id
        item, test = self._numbers[number], self._tests[number]
        test = leftovers.warn(item, test, finished.execution)
        if finished.execution.problem == Problem.HOST_LOST:
            self._not_run += 1
        elif not finished.execution.problem:
            self._new_durations[item.nodeid] = finished.execution.duration
        log(item, self._reports(item, test, finished.execution, finished.host))

    def _reports(
        self, item: ShellItem, test: Test, execution: Execution, host: str
    ) -> Iterator[pytest.TestReport]:
        made = report.reports(item, test, execution, host)
        if not self._others_make_reports(item):
            yield from made
            return
        for each in made:
            failure = ShellFailure(test, execution, judge(test, execution))
            yield self._through_hooks(item, each, failure)

    def _others_make_reports(self, item: ShellItem) -> bool:
        """A conftest or plugin wants to see reports being made, or an xfail mark is there."""
        if next(item.iter_markers("xfail"), None):
            return True
        found = item.ihook.pytest_runtest_makereport.get_hookimpls()
        return any(
            not (each.function.__module__ or "").startswith(_NOT_INTERESTED) for each in found
        )

    def _through_hooks(
        self, item: ShellItem, made: pytest.TestReport, failure: ShellFailure
    ) -> pytest.TestReport:
        def fail() -> None:
            if made.failed:
                raise failure

        call = pytest.CallInfo.from_call(fail, made.when)
        item.made = made
        try:
            seen: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
        finally:
            item.made = None
        return seen

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._xml is not None and report.when != "teardown" and hasattr(report, "nosejobs_host"):
            name_in_junit(self._xml, report)

    def pytest_report_teststatus(
        self, report: pytest.CollectReport | pytest.TestReport
    ) -> tuple[str, str, Any] | None:
        """``-v`` shows the host of each test."""
        host = getattr(report, "nosejobs_host", "")
        if not host or self.config.option.verbose < 1 or hasattr(report, "wasxfail"):
            return None
        if report.failed and report.when == "setup":
            return "error", "E", f"ERROR [{host}]"
        if report.when == "call":
            letter = {"passed": ".", "failed": "F", "skipped": "s"}[report.outcome]
            return report.outcome, letter, f"{report.outcome.upper()} [{host}]"
        return None

    def keywords_of(self, item: ShellItem) -> dict[str, Any]:
        """What pytest collects from the whole chain of nodes, with the chain above cached."""
        above = self._keywords.get(item.parent)
        if above is None:
            above = dict.fromkeys(item.parent.keywords if item.parent else (), 1)
            self._keywords[item.parent] = above
        return {**above, item.name: 1, **{mark.name: 1 for mark in item.own_markers}}

    def command_of(self, item: ShellItem) -> str:
        """How the test is executed, as a person would type it in its directory."""
        return shlex.join([*item.argv, f"./{item.path.name}"])

    def rerun_of(self, item: ShellItem) -> str:
        """One line that runs the test again by hand."""
        folder = os.path.relpath(item.path.parent, self.config.invocation_params.dir)
        if item.metadata.cwd == "root":
            path = os.path.relpath(item.path, self.options.root)
            folder = os.path.relpath(self.options.root, self.config.invocation_params.dir)
            command = shlex.join([*item.argv, f"./{path}"])
        else:
            command = self.command_of(item)
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in item.metadata.env)
        command = f"{settings} {command}".strip()
        return command if folder == "." else f"cd {shlex.quote(folder)} && {command}"

    def _write_line(self, line: str, **markup: bool) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(line, **markup)

    def pytest_report_header(self) -> list[str]:
        if not self.specs:
            return []
        lines = [f"nosejobs: {', '.join(self._spec_words(spec) for spec in self.specs)}"]
        if self.config.getoption("usepdb"):
            lines.append(
                "nosejobs: --pdb stops in Python tests only; for a shell test, run the line "
                "behind 'again' by hand"
            )
        return lines

    def _spec_words(self, spec: hosts.HostSpec) -> str:
        slots = f"{spec.slots} slot{'s' if spec.slots > 1 else ''}" if spec.slots else "all cores"
        return f"{spec.id} ({slots})"

    def _say_hosts(self, fleet: Fleet) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            return
        # Tests come in order of completion: a line for each change of file would be noise.
        reporter.showfspath = False
        if self.config.option.verbose < 0:
            return
        for host in fleet.hosts:
            self._write_line(f"nosejobs: {self._host_words(host)}")

    def _host_words(self, host: Host) -> str:
        if host.facts is None:
            return f"{host.id}: missing ({host.error.cause if host.error else 'not open'})"
        facts = host.facts
        words = f"{host.id}: {facts.slots} slot{'s' if facts.slots > 1 else ''}"
        words += f", Python {facts.python}, {facts.system} {facts.machine}"
        if host.shipped is None:
            return f"{words}, tree in place"
        size = f"{host.shipped.bytes / 1e6:.1f} MB" if host.shipped.bytes > 1e5 else (
            f"{host.shipped.bytes} bytes"
        )
        return f"{words}, shipped {host.shipped.files} files ({size})"

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        lost = self._pump.lost if self._pump else []
        missing = self.fleet.failed() if self.fleet else []
        errors = list(dict.fromkeys([*missing, *lost]))
        if not errors or self._pump is None:
            return
        terminalreporter.section("hosts lost", red=True)
        for error in errors:
            terminalreporter.line(str(error))
        if self._not_run:
            terminalreporter.line(f"{self._not_run} tests could not be run")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.fleet is not None:
            self.fleet.close()
        self.here.close()
        if self._new_durations and not hasattr(self.config, "workerinput"):
            cache = getattr(self.config, "cache", None)
            durations.save(cache, self._history or durations.load(cache), self._new_durations)
        if self._not_run:
            session.exitstatus = EXIT_HOSTS_LOST
