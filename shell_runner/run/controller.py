"""The loop of a run on hosts.

Owns two threads' worth of work: the pump takes what hosts say, asks the schedule and
sends; the main thread reports, in the order of completion, and runs Python items in
between.  Results pass from one to the other by one queue.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..discovery import HOST_LOCK, Metadata, locks_of_host
from ..errors import HostError
from ..fleet import HOST_TIMEOUT, Ended, Fleet, Host, Ready, Said
from ..guard import clean_line
from ..remote import capacity
from ..remote.model import Execution, Problem, Test, execution_from_row
from ..remote.verdict import is_worth_another
from ..words import unmet_words
from .scheduler import Command, GiveUp, Needs, Return, Schedule, Send, Unmet

#: Exit status when some tests could not be run because hosts were lost.
EXIT_HOSTS_LOST = 6

#: Seconds between two looks at tests that are held back for a faster host.
_LOOK = 0.1
#: Seconds between two looks at how hosts get on.
_CHECK = 1.0
#: Seconds behind the timeout of a test after which a host without any news of it is lost.
_LATE = 90.0
#: Characters of lines that wait to be shown; more are dropped.
_LINES = 16 << 20


@dataclass(frozen=True)
class Finished:
    """A test has come to its end on a host, or is given up."""

    execution: Execution
    host: str
    #: It has failed and runs once more.
    again: bool = False
    #: The hosts that were lost while they had it.
    lost_with: tuple[str, ...] = ()
    #: Seconds there for each second of history.
    speed: float = 1.0


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

    @property
    def size(self) -> int:
        """What it takes while it waits, in characters."""
        return len(self.text) + 100


@dataclass(frozen=True)
class Waiting:
    """Tests on a host wait for what another run has there."""

    host: str
    what: str


@dataclass(frozen=True)
class Gone:
    """A host is lost."""

    error: HostError


News = Finished | Running | Line | Waiting | Gone


@dataclass(frozen=True)
class Crashed:
    """The pump itself failed: a bug of ours, not to be hidden."""

    error: BaseException


#: Takes a piece of a file: test, attempt, path, bytes.
TakeArtefact = Callable[[int, int, str, bytes], None]
#: What has come of a test and attempt is void: it runs elsewhere.
ForgetArtefacts = Callable[[int, int], None]


@dataclass
class Loss:
    """A host was lost; what became of what it had."""

    error: HostError
    #: Where its tests went, as far as they have been sent already.
    moved: dict[str, list[int]] = field(default_factory=dict)
    given_up: list[int] = field(default_factory=list)
    is_back: bool = False


class Pump(threading.Thread):
    """Takes the events of a fleet until all tests are done."""

    def __init__(
        self,
        fleet: Fleet,
        tests: Sequence[Test],
        schedule: Schedule,
        artefact: TakeArtefact,
        attempts: Mapping[int, int] | None = None,
        timeout: float = HOST_TIMEOUT,
        forget: ForgetArtefacts | None = None,
    ) -> None:
        """``attempts``: how many a test has, if more than one.

        ``timeout``: seconds to wait for a lost host when there is no other.
        """
        super().__init__(daemon=True, name="nosejobs pump")
        self.results: queue.SimpleQueue[list[News] | Crashed] = queue.SimpleQueue()
        self.losses: list[Loss] = []
        self._artefact = artefact
        self._forget = forget
        self._fleet = fleet
        self._tests = {test.id: test for test in tests}
        self._schedule = schedule
        self._attempts = attempts or {}
        self._expected = {host.id for host in fleet.hosts}
        self._hosts = {host.id: host for host in fleet.hosts}
        #: Tests of lost hosts that have not been sent elsewhere yet.
        self._homeless: dict[int, Loss] = {}
        self._timeout = timeout
        self._stuck_since: float | None = None
        self._late = ""
        self._stopped = False
        #: Size of the lines that have come, and of those that the main thread has shown.
        self._lines_come = self.lines_shown = 0
        #: When each host was last heard to make progress with its tests.
        self._progress: dict[str, float] = {}
        self._next_check = 0.0
        #: Host, test and attempt of what hosts have said that it runs.
        self._announced: set[tuple[Any, int, int]] = set()

    def run(self) -> None:
        """Until every test has an end, or ``stop``."""
        try:
            self._perform(self._schedule.start())
            self._mind(time.monotonic())
            while self._schedule.open_tests and not self._stopped:
                self._turn()
        except BaseException as error:
            self.results.put(Crashed(error))

    def _turn(self) -> None:
        try:
            event = self._fleet.events.get(timeout=self._patience())
        except queue.Empty:
            event = None
        now = time.monotonic()
        self._schedule.at(now)
        if event is not None:
            self._take(event)
        elif self._schedule.is_holding:
            self._perform(self._schedule.fill_all())
        self._mind(now)
        if now >= self._next_check:
            self._next_check = now + _CHECK
            self._drop_silent(now)

    def _drop_silent(self, now: float) -> None:
        """A host ends each test in time, or says that it waits; one that does neither lies."""
        for host in list(self._hosts.values()):
            given = self._schedule.given(host.id) if self._is_current(host) else ()
            if not given:
                self._progress[host.id] = now
                continue
            limit = max(self._tests[number].timeout for number in given) + _LATE
            if now - self._progress.setdefault(host.id, now) > limit:
                late = HostError(host.id, f"has told of no end of a test for {limit:g} s")
                host.drop(late)
                self._lose(host, late)

    def _patience(self) -> float:
        """Seconds until something has to be done though nothing happens."""
        if self._schedule.is_holding:
            return _LOOK
        if self._stuck_since is None:
            return _CHECK
        return max(self._stuck_since + self._timeout - time.monotonic(), 0.0)

    def _mind(self, now: float) -> None:
        """With no test anywhere, a lost host has a while to come back; then all is given up."""
        if not self._schedule.is_stuck:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since >= self._timeout:
            self._late = f"; no host came back within {self._timeout:g} s"
            self._perform(self._schedule.nobody_left())

    def stop(self) -> None:
        """End the thread; what hosts say from now on is not taken."""
        self._stopped = True
        self._fleet.wake()
        self.join()

    def _take(self, event: Any) -> None:
        if isinstance(event, (Ready, Said, Ended)) and not self._is_current(event.host):
            return  # of a connection that has been given up
        if isinstance(event, Ready):
            for loss in self.losses:
                loss.is_back |= loss.error.host == event.host.id
            self._perform(self._schedule.host_ready(event.host.id, event.slots, event.latency))
        elif isinstance(event, Said):
            self._take_frame(event.host, event.frame)
        elif isinstance(event, Ended):
            self._lose(event.host, event.error, event.may_return)

    def _is_current(self, host: Host) -> bool:
        return self._hosts.get(host.id) is host and host.id in self._expected

    def _take_frame(self, host: Host, frame: bytes) -> None:
        if not self._is_current(host):
            return
        self._progress[host.id] = time.monotonic()
        news: list[News] = []
        try:
            for message in host.messages(frame):
                news += self._take_message(host, message)
        except (ValueError, TypeError, LookupError, OSError, ArithmeticError) as error:
            garbage = HostError(host.id, f"sent garbage: {clean_line(str(error))}")
            host.drop(garbage)
            self._lose(host, garbage)
        else:
            # The host first: while the results are reported, it works.
            self._perform(self._schedule.fill(host.id))
        if news:
            self.results.put(news)

    def _take_message(self, host: Host, message: list[Any]) -> Iterator[News]:
        if message[0] == "artefact":
            _, test, attempt, path, _, body = message
            if test not in self._tests:
                raise ValueError("artefacts of a test that nobody knows")
            if self._runs_there(host, test) and attempt == self._tests[test].attempt:
                self._artefact(test, attempt, path, body)
        elif message[0] == "line":
            line = Line(int(message[1]), host.id, str(message[2]))
            if self._lines_come - self.lines_shown < _LINES:
                self._lines_come += line.size
                yield line
        elif message[0] == "running":
            yield from self._take_running(host, int(message[1]), int(message[2]))
        elif message[0] == "done":
            yield from self._take_done(host, execution_from_row(message[1]))
        elif message[0] == "returned":
            self._perform(self._schedule.returned(host.id, [int(each) for each in message[1]]))
        elif message[0] == "waiting":
            yield Waiting(host.id, waiting_words(message[1], clean_line(str(message[2]))))
        elif message[0] == "trouble":
            self._lose(host, HostError(host.id, clean_line(str(message[1]))))
        elif message[0] != "bye":
            raise ValueError(f"a message that nobody knows: {message[0]!r}")

    def _take_running(self, host: Host, test: int, slot: int) -> Iterator[News]:
        """Once for each attempt: more would be a flood."""
        if not self._runs_there(host, test):
            return
        started = (host, test, self._tests[test].attempt)
        if started in self._announced:
            raise ValueError("says again that a test runs")
        self._announced.add(started)
        yield Running(test, host.id, slot)

    def _runs_there(self, host: Host, test: int) -> bool:
        return self._is_current(host) and self._schedule.has(host.id, test)

    def _take_done(self, host: Host, execution: Execution) -> Iterator[News]:
        """An answer counts once, and only from who was asked for this attempt."""
        test = self._tests.get(execution.id)
        is_asked = test is not None and self._runs_there(host, test.id)
        if test is None or not is_asked or execution.attempt != test.attempt:
            return
        again = self._runs_again(execution)
        speed = self._schedule.speed(host.id)
        self._schedule.done(host.id, test.id, execution.duration, again)
        if again:
            self._tests[test.id] = test._replace(attempt=test.attempt + 1)
        lost_with = self._schedule.lost_with(test.id)
        yield Finished(execution, host.id, again, lost_with, speed)

    def _runs_again(self, execution: Execution) -> bool:
        attempts = self._attempts.get(execution.id, 1)
        if attempts == 1:
            return False
        test = self._tests[execution.id]
        return test.attempt < attempts and is_worth_another(test, execution)

    def _lose(self, host: Host, error: HostError, may_return: bool = False) -> None:
        if not self._is_current(host):
            return
        self._note_loss(host, error)
        other = self._fleet.reopen(host) if may_return else None
        if other is None:
            self._expected.discard(host.id)
        else:
            self._hosts[host.id] = other
        commands = self._schedule.host_lost(host.id, other is not None)
        if not self._expected:
            commands += self._schedule.nobody_left()
        self._perform(commands)

    def _note_loss(self, host: Host, error: HostError) -> None:
        """Not each attempt to open it again, though the last one may know more."""
        known = [loss for loss in self.losses if loss.error.host == error.host]
        if known and not known[-1].is_back:
            return
        loss = Loss(error)
        self.losses.append(loss)
        self.results.put([Gone(error)])
        for number in self._schedule.given(host.id):
            self._homeless[number] = loss
            if self._forget is not None:
                self._forget(number, self._tests[number].attempt)

    def _perform(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, Send):
                self._send(command)
            elif isinstance(command, Return):
                self._hosts[command.host].take_back(command.tests)
            elif isinstance(command, Unmet):
                self.results.put([self._unmet(command)])
            else:
                self.results.put([self._given_up(command)])

    def _send(self, command: Send) -> None:
        self._hosts[command.host].run([self._test(test) for test in command.tests])
        if self._homeless:
            for test in command.tests:
                loss = self._homeless.pop(test, None)
                if loss is not None:
                    loss.moved.setdefault(command.host, []).append(test)

    def _test(self, number: int) -> Test:
        return self._tests[number]._replace(estimate=self._schedule.estimate(number))

    def _given_up(self, command: GiveUp) -> Finished:
        loss = self._homeless.pop(command.test, None)
        if loss is not None:
            loss.given_up.append(command.test)
        if command.hosts:
            words = f"lost with {lost_words(command.hosts)}"
        else:
            words = "; ".join(f"{loss.error.host}: {loss.error.cause}" for loss in self.losses)
        if command.labels:
            words = f"requires {', '.join(command.labels)}, {words}"
        attempt, words = self._tests[command.test].attempt, words + self._late
        execution = Execution(command.test, attempt, problem=Problem.HOST_LOST, detail=words)
        host = command.hosts[-1] if command.hosts else ""
        # Those that it had to run on are not those that it was on.
        return Finished(execution, host, lost_with=() if command.labels else command.hosts)

    def _unmet(self, command: Unmet) -> Finished:
        labels = self._schedule.labels_of(command.test)
        words = unmet_words(labels, command.missing, sorted(self._expected))
        return Finished(Execution(command.test, problem=Problem.UNMET, detail=words), "")


def lost_words(hosts: Sequence[str]) -> str:
    """``a and b``, ``a (twice)``."""
    counts = {host: hosts.count(host) for host in hosts}
    times = {1: "", 2: " (twice)"}
    words = [host + times.get(count, f" ({count} times)") for host, count in counts.items()]
    return " and ".join(words)


def needs_of(metadata: Metadata) -> Needs:
    """What the schedule has to know of a test."""
    return Needs(
        locks=frozenset(name for name in metadata.locks if not name.startswith(HOST_LOCK)),
        host_locks=frozenset(locks_of_host(metadata)),
        serial=metadata.serial,
        labels=frozenset(metadata.requires),
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
