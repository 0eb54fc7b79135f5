"""The loop of a run on hosts.

Owns two threads' worth of work: the pump takes what hosts say, asks the schedule and
sends; the main thread reports, in the order of completion, and runs Python items in
between.  Results pass from one to the other by one queue.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from shell_runner.discovery import Metadata
from shell_runner.errors import HostError
from shell_runner.fleet import Ended, Fleet, Host, Ready, Said
from shell_runner.gateways import clean
from shell_runner.remote import capacity
from shell_runner.remote.model import Execution, Problem, Test, execution_from_row

from . import neighbours, retries
from .collect import ShellItem
from .schedule import Command, GiveUp, Needs, Schedule, Send, Unmet

if TYPE_CHECKING:
    from .plugin import Plugin

#: Exit status when some tests could not be run because hosts were lost.
EXIT_HOSTS_LOST = 6


@dataclass(frozen=True)
class Finished:
    """A test has come to its end on a host, or is given up."""

    execution: Execution
    host: str
    #: It has failed and runs once more.
    again: bool = False


@dataclass(frozen=True)
class Running:
    """A test runs on a slot for more than a moment."""

    test: int
    host: str
    slot: int


@dataclass(frozen=True)
class Line:
    """A line of output of a test that runs."""

    test: int
    host: str
    text: str


@dataclass(frozen=True)
class Waiting:
    """Tests on a host wait for what another run has there."""

    host: str
    what: str


News = Finished | Running | Line | Waiting


@dataclass(frozen=True)
class Crashed:
    """The pump itself failed: a bug of ours, not to be hidden."""

    error: BaseException


#: Takes a piece of a file: test, attempt, path, bytes.
TakeArtefact = Callable[[int, int, str, bytes], None]


class Pump(threading.Thread):
    """Takes the events of a fleet until all tests are done."""

    def __init__(
        self,
        fleet: Fleet,
        tests: Sequence[Test],
        schedule: Schedule,
        artefact: TakeArtefact,
        attempts: Mapping[int, int] | None = None,
    ) -> None:
        """``attempts``: how many a test has, if more than one."""
        super().__init__(daemon=True, name="nosejobs pump")
        self.results: queue.SimpleQueue[list[News] | Crashed] = queue.SimpleQueue()
        self.lost: list[HostError] = []
        self._artefact = artefact
        self._fleet = fleet
        self._tests = {test.id: test for test in tests}
        self._schedule = schedule
        self._attempts = attempts or {}
        self._expected = {host.id for host in fleet.hosts}
        self._hosts = {host.id: host for host in fleet.hosts}
        self._stopped = False

    def run(self) -> None:
        """Until every test has an end, or ``stop``."""
        try:
            self._perform(self._schedule.start())
            while self._schedule.open_tests and not self._stopped:
                self._take(self._fleet.events.get())
        except BaseException as error:
            self.results.put(Crashed(error))

    def stop(self) -> None:
        """End the thread; what hosts say from now on is not taken."""
        self._stopped = True
        self._fleet.wake()
        self.join()

    def _take(self, event: Any) -> None:
        if isinstance(event, Ready):
            self._perform(self._schedule.host_ready(event.host.id, event.slots, event.latency))
        elif isinstance(event, Said):
            self._take_frame(event.host, event.frame)
        elif isinstance(event, Ended):
            self._lose(event.host, event.error)

    def _take_frame(self, host: Host, frame: bytes) -> None:
        news: list[News] = []
        try:
            for message in host.messages(frame):
                news += self._take_message(host, message)
        except (ValueError, TypeError, LookupError, OSError) as error:
            self._lose(host, HostError(host.id, f"sent garbage: {clean(str(error))}"))
            return
        # The host first: while the results are reported, it works.
        self._perform(self._schedule.fill(host.id))
        if news:
            self.results.put(news)

    def _take_message(self, host: Host, message: list[Any]) -> Iterator[News]:
        if message[0] == "artefact":
            _, test, attempt, path, _, body = message
            if test not in self._tests or attempt != self._tests[test].attempt:
                raise ValueError("artefacts of an attempt that does not run")
            self._artefact(test, attempt, path, body)
        elif message[0] == "line":
            yield Line(int(message[1]), host.id, str(message[2]))
        elif message[0] == "running":
            yield Running(int(message[1]), host.id, int(message[2]))
        elif message[0] == "done":
            execution = execution_from_row(message[1])
            again = self._runs_again(execution)
            if self._schedule.done(host.id, execution.id, execution.duration, again):
                if again:
                    test = self._tests[execution.id]
                    self._tests[execution.id] = test._replace(attempt=test.attempt + 1)
                yield Finished(execution, host.id, again)
        elif message[0] == "waiting":
            yield Waiting(host.id, waiting_words(message[1], clean(str(message[2]))))
        elif message[0] == "trouble":
            self._lose(host, HostError(host.id, clean(str(message[1]))))

    def _runs_again(self, execution: Execution) -> bool:
        attempts = self._attempts.get(execution.id, 1)
        if attempts == 1:
            return False
        test = self._tests[execution.id]
        return test.attempt < attempts and retries.is_worth_another(test, execution)

    def _lose(self, host: Host, error: HostError) -> None:
        if host.id not in self._expected:
            return
        self._expected.discard(host.id)
        self.lost.append(error)
        commands = self._schedule.host_lost(host.id)
        if not self._expected:
            commands += self._schedule.nobody_left()
        self._perform(commands)

    def _perform(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, Send):
                self._hosts[command.host].run([self._test(test) for test in command.tests])
            elif isinstance(command, Unmet):
                self.results.put([self._unmet(command)])
            else:
                self.results.put([self._given_up(command)])

    def _test(self, number: int) -> Test:
        return self._tests[number]._replace(estimate=self._schedule.estimate(number))

    def _given_up(self, command: GiveUp) -> Finished:
        if command.hosts:
            words = f"lost with {' and '.join(command.hosts)}"
        else:
            words = "; ".join(f"{error.host}: {error.cause}" for error in self.lost)
        if command.labels:
            words = f"requires {', '.join(command.labels)}, {words}"
        attempt = self._tests[command.test].attempt
        execution = Execution(command.test, attempt, problem=Problem.HOST_LOST, detail=words)
        return Finished(execution, command.hosts[-1] if command.hosts else "")

    def _unmet(self, command: Unmet) -> Finished:
        labels = self._schedule.labels_of(command.test)
        words = unmet_words(labels, command.missing, sorted(self._expected))
        return Finished(Execution(command.test, problem=Problem.UNMET, detail=words), "")


def needs_of(metadata: Metadata) -> Needs:
    """What the schedule has to know of a test."""
    per_host = {name for name in metadata.locks if name.startswith("host:")}
    return Needs(
        locks=frozenset(metadata.locks) - per_host,
        host_locks=frozenset(per_host),
        serial=metadata.serial,
        labels=frozenset(metadata.requires),
    )


def locks_of_host(metadata: Metadata) -> tuple[str, ...]:
    """The names of its ``host:`` locks, as the host knows them."""
    prefix = "host:"
    return tuple(
        sorted(name.removeprefix(prefix) for name in metadata.locks if name.startswith(prefix))
    )


def waiting_words(kind: str, name: str) -> str:
    """What a host says that another run has; ValueError for what it cannot say."""
    words = {
        capacity.SLOTS: "slots that another run uses",
        capacity.LOCK: f"the lock {name}, which another run holds",
        capacity.ALONE: "another run: a test that must be alone",
    }
    if kind not in words:
        raise ValueError(f"waits for {kind!r}")
    return words[kind]


def unmet_words(labels: Sequence[str], missing: Sequence[str], hosts: Sequence[str]) -> str:
    """``requires docker: no host of this run has it (hosts: a, b)``."""
    if len(labels) == 1:
        what = "it"
    else:
        what = ", ".join(missing) if len(missing) < len(labels) else "all of them"
    return (
        f"requires {', '.join(labels)}: no host of this run has {what} (hosts: {', '.join(hosts)})"
    )


class Loop:
    """The main thread's part: reports and Python items."""

    def __init__(self, session: pytest.Session, plugin: Plugin, items: list[ShellItem]) -> None:
        self._session = session
        self._plugin = plugin
        self._items = items
        self._local = [item for item in session.items if not isinstance(item, ShellItem)]
        self._open = len(items)

    def run(self, pump: Pump) -> None:
        """Until all is reported.  Raises Session.Failed and Interrupted as pytest's own loop."""
        for number, item in enumerate(self._local):
            following = self._local[number + 1] if number + 1 < len(self._local) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            self._check()
            while self._open and self._report(pump, block=False):
                pass
        while self._open:
            self._report(pump, block=True)

    def _report(self, pump: Pump, block: bool) -> bool:
        try:
            batch = pump.results.get(block, self._plugin.tick())
        except queue.Empty:
            return False
        if isinstance(batch, Crashed):
            raise batch.error
        for news in batch:
            if isinstance(news, Finished):
                self._open -= not news.again
                self._plugin.report(news)
                self._session.shouldfail = self._session.shouldfail or neighbours.session_timeout(
                    self._session
                )
                self._check()
            else:
                self._plugin.tell(news)
        return True

    def _check(self) -> None:
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)
