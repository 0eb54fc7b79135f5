"""The wiring: pytest's hooks on one side, our parts on the other.

Owns the state of one pytest session.  Everything of substance is elsewhere.
"""

from __future__ import annotations

import inspect
import io
import os
import queue
import shlex
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.runner import runtestprotocol

from shell_runner import hosts, shipping
from shell_runner.artefacts import Artefacts, named
from shell_runner.discovery import Metadata, as_test
from shell_runner.errors import HostError, UsageError
from shell_runner.fleet import Ended, Event, Fleet, Host, Ready
from shell_runner.plan import DEFAULT_TIMEOUT, Rules
from shell_runner.remote import formats
from shell_runner.remote.model import PASSED, SKIPPED, Execution, Problem, Setup, Test
from shell_runner.remote.verdict import is_worth_another, judge
from shell_runner.run.controller import RunController
from shell_runner.run.events import (
    Finished,
    HostLost,
    Line,
    Loss,
    Running,
    Waiting,
    describe_losses,
)
from shell_runner.run.requirements import read_requirements
from shell_runner.run.scheduler import Scheduler
from shell_runner.words import readable, skip_reason, typed, unmet_words

from . import (
    durations,
    newhooks,
    options,
)
from . import (
    fast_directory as folders,
)
from . import (
    gc_tuning as garbage,
)
from . import (
    leftover_warnings as leftovers,
)
from . import (
    markers as marks,
)
from . import (
    node_ids as arguments,
)
from . import (
    other_plugins as neighbours,
)
from . import (
    progress_line as progress,
)
from . import (
    pytest_internals as standin,
)
from . import (
    reports as report,
)
from . import (
    reruns as retries,
)
from .items import Collection, ShellFailure, ShellItem, shell_items
from .local_run import Here
from .report_publisher import FromWorkers, HostWords, Log, Status, ViewWords, verbosity
from .run_loop import Loop

if TYPE_CHECKING:
    from .live_view import View

#: Exit status when some tests could not be run because hosts were lost.
EXIT_HOSTS_LOST = 6

#: Modules whose makereport hooks have nothing to say about a shell test.
_NOT_INTERESTED = ("_pytest.", __name__, "_hypothesis", "hypothesis", "xdist.")

#: Seconds between two lines that say that a host's tests wait for other runs; a little less
#: than what hosts keep to.
_WAITING_EVERY = 29.0

_KEY = pytest.StashKey["Plugin"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(newhooks)


@pytest.hookimpl(trylast=True)
def pytest_nosejobs_formats() -> list[ModuleType]:
    """The formats that come with us, by the hook that is everybody's."""
    return formats.builtin()


def pytest_configure(config: pytest.Config) -> None:
    try:
        plugin = Plugin(config)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[_KEY] = plugin
    config.pluginmanager.register(plugin, "nosejobs-session")
    if verbosity(config) > 0:
        config.pluginmanager.register(HostWords(plugin.log), "nosejobs-words")
    if plugin.arguments.only:
        config.pluginmanager.register(plugin.arguments, "nosejobs-arguments")
    if config.getoption("dist", "no") != "no":
        config.pluginmanager.register(FromWorkers(plugin.log), "nosejobs-workers")


class Plugin:
    """One session's worth of nosejobs."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.options = options.read(config)
        self.fleet: Fleet | None = None
        #: Suffixes of programs whose format is known before they run.
        self.spoken: dict[str, str] = {}
        self.specs = self._read_specs()
        self._formats = self._ask_for_formats()
        self.artefacts = self._open_artefacts()
        self.here = Here(self._setup(1), self._take_artefact, self._say_line)
        self.arguments = arguments.rewrite(config.args, config.invocation_params.dir)
        config.args[:] = self.arguments.args
        chosen = self.options
        rules = Rules(chosen.config, chosen.patterns, chosen.defaults, chosen.repeat)
        self._collection = Collection(self, rules, config.rootpath)
        self._tags: set[str] = set()
        self._history: dict[str, float] = {}
        self._new_durations: dict[str, float] = {}
        self._numbers: dict[int, ShellItem] = {}
        self._tests: dict[int, Test] = {}
        self._not_run = 0
        self.log = Log(config)
        self._view: View | None = None
        self._pump: RunController | None = None
        self._garbage = garbage.Patience()
        # Not before pytest's own: it looks for garbage once more, and of ours there is none.
        config.add_cleanup(self._garbage.end)
        #: By host, when it may say again that its tests wait for other runs.
        self._next_waiting: dict[str, float] = {}
        #: By folder, for conftest files are: whether somebody else makes reports.
        self._interested: dict[pytest.Collector | None, bool] = {}
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
        if self.config.getoption("stepwise", False):
            raise pytest.UsageError(
                "--stepwise and --nosejobs cannot be used at once: tests on hosts end in any "
                "order. Stop at a failure: -x. Run what failed again: --lf, or --ff first."
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
            formats=tuple(self._formats.items()),
            artefacts=chosen.artefacts_limit if chosen.artefacts else 0,
            live=self.config.getoption("capture", "fd") == "no",
        )

    def _open_artefacts(self) -> Artefacts | None:
        chosen = self.options
        if chosen.artefacts is None:
            return None
        trees = (chosen.root, self.config.rootpath)  # node ids are relative to the latter
        return Artefacts(chosen.artefacts, chosen.artefacts_limit, *trees)

    def _take_artefact(self, number: int, attempt: int, path: str, data: bytes) -> None:
        if self.artefacts is None or number not in self._numbers:
            raise ValueError("artefacts that nobody asked for")
        folder = self.artefacts.folder_of(self._numbers[number].nodeid, attempt)
        self.artefacts.add(folder, path, data)

    def _forget_artefacts(self, number: int, attempt: int) -> None:
        if self.artefacts is not None:
            self.artefacts.void(self.artefacts.folder_of(self._numbers[number].nodeid, attempt))

    def files_of(self, item: ShellItem, execution: Execution) -> list[str]:
        """Where the artefacts of a test are now, as a person would name them from here."""
        if self.artefacts is None:
            return []
        folder = self.artefacts.folder_of(item.nodeid, execution.attempt)
        # Only what has come: a host that names /etc/passwd must not have it attached.
        came = [path for path, _ in execution.artefacts if self.artefacts.received(folder, path)]
        shown = named(folder, self.config.invocation_params.dir)
        return [str(shown / path) for path in came]

    def _ask_for_formats(self) -> dict[str, str]:
        """Name and source of each format; a built-in one is on the host already."""
        own = {module.__name__ for module in formats.builtin()}
        found: dict[str, str] = {}
        for modules in self.config.hook.pytest_nosejobs_formats(config=self.config):
            for module in modules:
                source = "" if module.__name__ in own else inspect.getsource(module)
                found.setdefault(module.NAME, source)
                for suffix in formats.suffixes(module):
                    self.spoken.setdefault(suffix, module.NAME)
        return found

    # -- collection ---------------------------------------------------------------

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> Any:
        return self._collection.collect(file_path, parent)

    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> Any:
        """Faster than pytest's own, and its like; only where many programs are expected."""
        return folders.create(path, parent, self._collection) if self.specs else None

    def learn_tags(self, metadata: Metadata) -> None:
        """pytest wants to know markers before they are put on items."""
        for tag in metadata.tags:
            if tag not in self._tags:
                self._tags.add(tag)
                self.config.addinivalue_line("markers", f"{tag}: tag of shell tests")

    def pytest_collectstart(self) -> None:
        self._check_hosts()

    # -- running here -------------------------------------------------------------

    def run_here(self, item: ShellItem) -> None:
        """Run one test on this machine; raises ShellFailure, or pytest's Skipped."""
        self._numbers = {0: item}
        attempts = self._attempts_of(item)
        for attempt in range(1, attempts + 1):
            test = self._test(0, item)._replace(attempt=attempt)
            execution = self._execute_here(test)
            if attempt == attempts or not is_worth_another(test, execution):
                break
            item.reruns.append(self._attempt_report(item, test, execution, Here.NAME))
        retries.settle(item, test, execution, attempts)
        test = leftovers.warn(item, test, execution)
        item.finished = (test, execution)
        self._new_durations[item.nodeid] = execution.duration
        result = judge(test, execution)
        if result.outcome == SKIPPED:
            pytest.skip(skip_reason(execution))
        if result.outcome != PASSED:
            raise ShellFailure(test, execution, result)

    def check_requirements(self, item: ShellItem) -> None:
        """Labels of this machine, for a test that runs here, are those of ``[hosts.here]``."""
        item.finished = None
        item.earlier.clear()
        item.reruns.clear()
        entry = self.options.config.hosts.get(Here.NAME)
        missing = sorted(set(item.metadata.requires) - set(entry.labels if entry else ()))
        if not missing:
            return
        words = unmet_words(sorted(item.metadata.requires), missing, [Here.NAME])
        if self.options.requires == "skip":
            item.unmet = words
            pytest.skip(words)
        test, execution = self._test(0, item), Execution(0, problem=Problem.UNMET, detail=words)
        item.finished = (test, execution)
        raise ShellFailure(test, execution, judge(test, execution))

    def _attempts_of(self, item: ShellItem) -> int:
        if marks.should_fail(item):
            return 1
        return 1 + neighbours.reruns(item, item.metadata.retries)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """The ordinary protocol, but for cases and attempts.

        It is ours before it is rerunfailures', which would retry once more.
        """
        if not isinstance(item, ShellItem):
            return None
        own = item.user_properties
        made = runtestprotocol(item, log=False, nextitem=nextitem)
        # Not earlier: while a test runs, pytest captures what is written to the terminal.
        for rerun in item.reruns:
            self.log.whole(item, [rerun])
        if item.finished and item.finished[1].parsed and made[0].passed:
            item.user_properties = own  # makereport has put ours behind them
            # What a fixture of the session did at its end is no word of the program's.
            rest = [each for each in made if each.when == "teardown" and each.failed]
            ours = list(self._reports(item, *item.finished, Here.NAME))
            vars(ours[-1])["nosejobs_green"] = self._is_green(*item.finished)
            made = [*ours, *rest]
        self.log.whole(item, made)
        return True

    def _is_green(self, test: Test, execution: Execution) -> bool:
        """The reports of cases say nothing of the program that ``--lf`` runs again."""
        return bool(execution.parsed) and judge(test, execution).outcome in (PASSED, SKIPPED)

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self, item: pytest.Item) -> bool | None:
        """pytest-timeout's alarm would go off in here; the host stops the test instead."""
        return True if isinstance(item, ShellItem) else None

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
        report.belongs_to(made, item)
        if call.when == "setup" and item.unmet:
            reason = report.skipped_at(item, f"Skipped: {item.unmet}")
            return next(report.skip_reports(item, reason))
        if call.when != "teardown" and item.finished:
            verdict = report.verdict_report(item, *item.finished, Here.NAME)
            # The teardown report, which JUnit XML takes properties and output from, is pytest's.
            item.user_properties = verdict.user_properties
            for name, text in verdict.sections:
                item.add_report_section("call", name.split()[1], text)
            return verdict
        return made

    def _test(self, number: int, item: ShellItem) -> Test:
        path, spoken = self._path_in_tree(item), self.spoken.get(item.path.suffix, "")
        return as_test(number, path, item.argv, item.metadata, self._timeout_of(item), spoken)

    def _timeout_of(self, item: ShellItem) -> float:
        """Its metadata, our option or ini, pytest-timeout, the default: the first that speaks."""
        return (
            item.metadata.timeout
            or self.options.timeout
            or neighbours.timeout(item)
            or DEFAULT_TIMEOUT
        )

    def _path_in_tree(self, item: ShellItem) -> str:
        """Relative to the root; absolute if it is elsewhere, which only this machine can run."""
        root = f"{self.options.root}{os.sep}"
        return str(item.path).removeprefix(root)

    # -- running on hosts ---------------------------------------------------------

    def pytest_sessionstart(self) -> None:
        from _pytest.junitxml import xml_key

        self.log.xml = self.config.stash.get(xml_key, None)
        if self.specs:
            self._garbage.begin()
        if self.specs and not self._only_looks():
            self.fleet = Fleet(self.specs, self._setup(0), self.options.host_timeout)
            self.fleet.open()

    def _only_looks(self) -> bool:
        """Nothing is to be run: pytest itself shows what would be."""
        names = ("collectonly", "setuponly", "setupplan")
        return any(self.config.getoption(name, False) for name in names)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        items = shell_items(session.items)
        if self.fleet is None or not items:
            return None
        if session.testsfailed and not self.config.option.continue_on_collection_errors:
            return None  # pytest's own loop says so and stops
        self._run_on_hosts(session, self.fleet, items)
        return True

    def _run_on_hosts(self, session: pytest.Session, fleet: Fleet, items: list[ShellItem]) -> None:
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
        needs = {number: read_requirements(self._numbers[number].metadata) for number in waiting}
        labels = {host.id: host.spec.labels for host in fleet.hosts}
        schedule = Scheduler(
            waiting,
            known,
            self.options.max_lost,
            first=self._failed_first(),
            requirements=needs,
            hosts=labels,
            folders={number: str(self._numbers[number].path.parent) for number in waiting},
        )
        attempts = {number: self._attempts_of(self._numbers[number]) for number in waiting}
        pump = self._pump = RunController(
            fleet,
            list(self._tests.values()),
            schedule,
            self._take_artefact,
            attempts,
            self.options.host_timeout,
            self._forget_artefacts,
        )
        for event in opened:
            fleet.events.put(event)
        pump.start()
        self._start_view(session, len(waiting))
        self._garbage.spare()
        try:
            Loop(session, self, [self._numbers[number] for number in waiting]).run(pump)
        finally:
            if len(self._numbers) < len(session.items):
                self._garbage.end()  # that of Python tests is for pytest to find
            else:
                self._garbage.spare()
            pump.stop()
            if self._view:
                self._view.stop()
                self._view = None
                self.config.pluginmanager.unregister(name="nosejobs-view")

    def _start_view(self, session: pytest.Session, total: int) -> None:
        """Only where every test is ours: Python tests print what they like."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or len(self._numbers) < len(session.items):
            return
        stream = reporter._tw._file
        if options.wants_view(self.config, stream):
            from .live_view import View  # rich takes a while to import

            reporter.ensure_newline()
            self._view = View(stream, total)
            self.config.pluginmanager.register(ViewWords(self._view), "nosejobs-view")
            self._view.start()

    def tick(self) -> float | None:
        """Called before waiting for results; seconds to wait at most."""
        if self._view is None:
            return None
        self._view.tick()
        return 0.1

    def tell(self, news: Running | Line | Waiting | HostLost) -> None:
        """What is not the end of a test."""
        if isinstance(news, Waiting):
            self._say_waiting(news)
            return
        if isinstance(news, HostLost):
            self._say_gone(news)
            return
        item = self._numbers.get(news.test)
        if item is None:
            return
        if isinstance(news, Line):
            self._say_line(news.test, news.host, news.text)
        elif self._view is not None:
            self._view.running(news.host, news.slot, readable(item.nodeid))

    def _say_waiting(self, news: Waiting) -> None:
        """Not more often than a host should, whatever it sends."""
        now = time.monotonic()
        if now < self._next_waiting.get(news.host, 0.0) or verbosity(self.config) < 0:
            return
        self._next_waiting[news.host] = now + _WAITING_EVERY
        self._say(f"{news.host}: waiting for {news.reason}")

    def _say_gone(self, news: HostLost) -> None:
        if self._view is not None:
            self._view.forget(news.error.host)
        self._say(str(news.error), red=True)

    def _say(self, words: str, red: bool = False) -> None:
        """Above the view, or as a line of its own where nobody asked for silence."""
        if self._view is not None:
            self._view.say(f"nosejobs: {words}", "red" if red else "")
        elif verbosity(self.config) >= 0:
            self._write_line(f"nosejobs: {words}", red=red)

    def _say_line(self, number: int, host: str, text: str) -> None:
        item = self._numbers.get(number)
        if item is not None:
            name = readable(item.nodeid)
            self._write_line(f"[{host}] {name}: {readable(text)}")

    def _failed_first(self) -> set[int]:
        """With ``--ff``, the tests that failed in the last run."""
        cache = getattr(self.config, "cache", None)
        if cache is None or not self.config.getoption("failedfirst", False):
            return set()
        failed = cache.get("cache/lastfailed", {})
        return {number for number, item in self._numbers.items() if item.nodeid in failed}

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
            tree = self._scan_tree(tests)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from error
        if tree.left and verbosity(self.config) >= 0:
            shown = "; ".join(readable(each) for each in tree.left[:3])
            more = f"; and {len(tree.left) - 3} more" if len(tree.left) > 3 else ""
            self._write_line(f"nosejobs: not shipped: {shown}{more} (ini nosejobs_ship sends it)")
        return tree

    def _scan_tree(self, tests: list[str]) -> shipping.Tree:
        waiting = self._progress()

        def tell(done: int, total: int) -> None:
            waiting.show(progress.reading(done, total))

        try:
            return shipping.scan(self.options.root, tests, self.options.selection, tell)
        finally:
            waiting.end()

    def _progress(self) -> progress.Progress:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            return progress.Progress(io.StringIO(), 0, quiet=True)
        writer = reporter._tw
        return progress.Progress(writer._file, writer.fullwidth, verbosity(self.config) < 0)

    def _next_event(self, fleet: Fleet, waiting: progress.Progress) -> Event:
        """The next one of any host; meanwhile a word on what keeps them."""
        try:
            while True:
                try:
                    return fleet.events.get(timeout=0.5)
                except queue.Empty:
                    busy = {host.id: host.shipping for host in fleet.hosts}
                    waiting.show(progress.shipping({k: v for k, v in busy.items() if v}))
        finally:
            waiting.end()

    def _await_hosts(self, fleet: Fleet) -> list[Event]:
        """All hosts are ready, or have failed and may; their events, to be played again."""
        decided: list[Event] = []
        waiting = self._progress()
        names: set[str] = set()
        while len(names) < len(fleet.hosts):
            event = self._next_event(fleet, waiting)
            if isinstance(event, (Ready, Ended)):
                decided.append(event)
                names.add(event.host.id)
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
        """Tests that a mark (from a conftest) skips are not sent at all."""
        skipped = set()
        for number, item in self._numbers.items():
            reason = marks.why_skipped(item)
            expected = marks.not_run(item) if reason is None else None
            words = expected if reason is None else f"Skipped: {reason}"
            if words is None:
                continue
            skipped.add(number)
            made = list(report.skip_reports(item, report.skipped_at(item, words)))
            if expected is not None:
                made[0].wasxfail = expected
            self.log.of_host(item, made)
        return skipped

    # -- reporting ----------------------------------------------------------------

    def report(self, finished: Finished) -> None:
        """Log one test that a host has finished."""
        number = finished.execution.id
        item, test = self._numbers[number], self._tests[number]
        if finished.will_rerun:
            failed = self._attempt_report(item, test, finished.execution, finished.host)
            self.log.of_host(item, [failed])
            return
        if finished.lost_with:
            item.user_properties.append(("lost_with", describe_losses(finished.lost_with)))
        if item.earlier:
            retries.settle(item, test, finished.execution, self._attempts_of(item))
        if finished.execution.problem == Problem.UNMET and self.options.requires == "skip":
            reason = report.skipped_at(item, f"Skipped: {finished.execution.detail}")
            self.log.of_host(item, report.skip_reports(item, reason))
            return
        test = leftovers.warn(item, test, finished.execution)
        if finished.execution.problem == Problem.HOST_LOST:
            self._not_run += 1
        elif not finished.execution.problem:
            # As it would have been on a host like all others.
            self._new_durations[item.nodeid] = finished.execution.duration / finished.speed_factor
        if self._view is not None:
            name = readable(item.nodeid)
            self._view.finished(finished.host, finished.execution.slot, name)
        self.log.of_host(item, self._reports(item, test, finished.execution, finished.host))
        if self._is_green(test, finished.execution):
            standin.forget_failure(self.config, item.nodeid)

    def _attempt_report(
        self, item: ShellItem, test: Test, execution: Execution, host: str
    ) -> pytest.TestReport:
        """Of a failure that another attempt follows."""
        failure = ShellFailure(test, execution, judge(test, execution))
        for made in report.attempt_reports(item, test, execution, host):
            if self._others_make_reports(item):
                made = self._through_hooks(item, made, failure)
        return retries.remember(item, test, execution, made)

    def _reports(
        self, item: ShellItem, test: Test, execution: Execution, host: str
    ) -> Iterator[pytest.TestReport]:
        if not self._others_make_reports(item):
            yield from report.reports(item, test, execution, host, self.log.short)
            return
        made = report.reports(item, test, execution, host)
        failure = ShellFailure(test, execution, judge(test, execution))
        known = len(item.user_properties)
        added: list[tuple[str, object]] = []
        for each in made:
            # JUnit XML takes properties from the last report.
            each.user_properties += added
            own = len(each.user_properties)
            each = self._through_hooks(item, each, failure)
            added += [*each.user_properties[own:], *item.user_properties[known:]]
            del item.user_properties[known:]
            yield each

    def _others_make_reports(self, item: ShellItem) -> bool:
        """A conftest or plugin wants to see reports being made, or an xfail mark is there."""
        if next(item.iter_markers("xfail"), None):
            return True
        known = self._interested.get(item.parent)
        if known is None:
            found = item.ihook.pytest_runtest_makereport.get_hookimpls()
            known = self._interested[item.parent] = any(
                not (each.function.__module__ or "").startswith(_NOT_INTERESTED) for each in found
            )
        return known

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
    def pytest_report_teststatus(self, report: pytest.TestReport) -> Status | None:
        """An attempt that another one follows; and the plain pass, where nobody else speaks."""
        if not hasattr(report, "nosejobs_host"):
            return None
        if report.outcome == "rerun":  # type: ignore[comparison-overlap]
            return "rerun", "R", ("RERUN", {"yellow": True})
        if self.log.short and report.outcome == "passed" and not hasattr(report, "wasxfail"):
            return ("passed", ".", "PASSED") if report.when == "call" else ("", "", "")
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
        return typed(*item.argv, f"./{item.path.name}")

    def rerun_of(self, item: ShellItem) -> str:
        """One line that runs the test again by hand."""
        folder = os.path.relpath(item.path.parent, self.config.invocation_params.dir)
        if item.metadata.cwd == "root":
            path = os.path.relpath(item.path, self.options.root)
            folder = os.path.relpath(self.options.root, self.config.invocation_params.dir)
            command = typed(*item.argv, f"./{path}")
        else:
            command = self.command_of(item)
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in item.metadata.env)
        command = f"{settings} {command}".strip()
        return command if folder == "." else f"cd {typed(folder)} && {command}"

    def _write_line(self, line: str, **markup: bool) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            if reporter._tw.width_of_current_line:  # behind dots, which pytest does not count
                reporter._tw.line()
            reporter.write_line(line, **markup)
            reporter.flush()  # in a pipe, too, a line is of use when it comes

    def pytest_report_header(self) -> list[str]:
        lines = []
        if self.specs:
            lines = [f"nosejobs: {', '.join(self._spec_words(spec) for spec in self.specs)}"]
        lines += self._expiry_warnings()
        if self.config.getoption("usepdb", False):
            lines.append(
                "nosejobs: --pdb stops in Python tests only; for a shell test, run the line "
                "behind 'again' by hand"
            )
        return lines

    def _expiry_warnings(self) -> list[str]:
        agents = [spec for spec in self.specs if spec.kind == "agent"]
        if not agents:
            return []
        # TLS takes a while to import.
        from shell_runner.remote.credentials import expiry_warning
        from shell_runner.tls import default_credentials

        paths = dict.fromkeys(spec.credentials or default_credentials() for spec in agents)
        return [f"nosejobs: {words}" for words in map(expiry_warning, paths) if words]

    def _spec_words(self, spec: hosts.HostSpec) -> str:
        slots = _counted(spec.slots, "slot") if spec.slots else "all cores"
        return f"{spec.id} ({slots})"

    def _say_hosts(self, fleet: Fleet) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            return
        # Tests come in order of completion: a line for each change of file would be noise.
        reporter.showfspath = False
        if verbosity(self.config) < 0:
            return
        for host in fleet.hosts:
            self._write_line(f"nosejobs: {self._host_words(host)}")

    def _host_words(self, host: Host) -> str:
        if host.facts is None:
            return f"{host.id}: missing ({host.error.cause if host.error else 'not open'})"
        facts = host.facts
        words = f"{host.id}: {_counted(facts.slots, 'slot')}"
        words += f", Python {facts.python}, {facts.system} {facts.machine}"
        if facts.note:
            words += f", {facts.note}"
        if host.shipped is None:
            return f"{words}, tree in place"
        count, size = host.shipped.files, host.shipped.bytes
        if not count:
            return f"{words}, all files of the tree are there already"
        amount = f"{size / 1e6:.1f} MB" if size > 1e5 else f"{size} bytes"
        return f"{words}, shipped {_counted(count, 'file')} ({amount})"

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.artefacts is not None and self.artefacts.troubles:
            terminalreporter.section("artefacts that could not be written", red=True)
            for path, why in self.artefacts.troubles.items():
                terminalreporter.line(readable(f"{path}: {why}"))
        self.log.attempts.write(terminalreporter)
        if self._pump is not None:
            self._say_losses(terminalreporter, self._pump)

    def _say_losses(self, reporter: Any, pump: RunController) -> None:
        noted = {loss.error.host for loss in pump.losses}
        missing = self.fleet.failed() if self.fleet else []
        missing = [error for error in missing if error.host not in noted]
        if not missing and not pump.losses:
            return
        reporter.section("hosts lost or missing", red=True)
        for error in missing:
            reporter.line(str(error))
        for loss in pump.losses:
            reporter.line(str(loss.error))
            for line in self._loss_words(loss):
                reporter.line(f"  {line}")
        if self._not_run:
            reporter.line(f"{self._not_run} tests could not be run")

    def _loss_words(self, loss: Loss) -> Iterator[str]:
        """What became of its tests, and of the host."""
        places = {f"to {host}": tests for host, tests in loss.moved.items()}
        if loss.given_up:
            places["given up"] = loss.given_up
        words = ", ".join(f"{len(tests)} {place}" for place, tests in places.items())
        if words:
            yield f"tests that were there: {words}"
        if verbosity(self.config) > 0:
            for place, tests in places.items():
                for number in tests:
                    yield f"{readable(self._numbers[number].nodeid)} {place}"
        if loss.is_back:
            yield "connected again later"

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.fleet is not None:
            self.fleet.close()
        self.here.close()
        for item in shell_items(getattr(session, "items", ())):
            if item.earlier:
                neighbours.tell_reruns(item)
        if self._new_durations and not hasattr(self.config, "workerinput"):
            cache = getattr(self.config, "cache", None)
            durations.save(cache, self._history or durations.load(cache), self._new_durations)
        if self._not_run:
            session.exitstatus = EXIT_HOSTS_LOST


def _counted(count: int, what: str) -> str:
    """``1 slot``, ``2 slots``."""
    return f"{count} {what}{'s' if count > 1 else ''}"
