"""The controller of a run on hosts.

It is a thread that receives what hosts send, asks the scheduler and sends tests.  A front end
takes the events from ``RunController.results`` in its own thread, in the order of completion.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import HostError
from ..hosts.fleet import Fleet, FrameReceived, Host, HostEnded, HostReady
from ..hosts.heartbeat import HOST_TIMEOUT
from ..remote.execution import resource_locks
from ..remote.protocol.model import Execution, Problem, Test, execution_from_row
from ..remote.protocol.verdict import is_retryable
from ..reporting.report_text import unmet_message
from ..text import to_single_line
from .commands import Command, GiveUp, RequirementUnmet, Return, Send
from .events import (
    ControllerCrashed,
    Finished,
    HostDisconnected,
    Line,
    Loss,
    RunEvent,
    Running,
    Waiting,
    describe_losses,
)
from .progress_clock import ProgressClock
from .scheduler import Scheduler

#: Seconds between two looks at tests that are held back for a faster host.
_HOLD_BACK_POLL_INTERVAL = 0.1
#: Seconds between two checks of the hosts' progress.
_PROGRESS_CHECK_INTERVAL = 1.0
#: Maximum characters of output lines that wait to be shown; further lines are dropped.
_MAX_WAITING_LINE_CHARS = 16 << 20

#: Exceptions for messages that a correct host never sends.
_INVALID_CONTENT_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    OSError,
    ArithmeticError,
    RecursionError,
)

#: Receives a piece of an artifact: test, attempt, path, bytes.  Raises ValueError, or OSError,
#: for one that the host must not send.
ReceiveArtifact = Callable[[int, int, str, bytes], None]
#: Discards the artifacts that have arrived of a test and attempt, which runs elsewhere.
DiscardArtifacts = Callable[[int, int], None]


class RunController(threading.Thread):
    """Handles the events of a fleet until all tests have ended."""

    def __init__(
        self,
        fleet: Fleet,
        tests: Sequence[Test],
        scheduler: Scheduler,
        receive_artifact: ReceiveArtifact,
        attempts: Mapping[int, int] | None = None,
        timeout: float = HOST_TIMEOUT,
        discard_artifacts: DiscardArtifacts | None = None,
        held: Iterable[int] = (),
    ) -> None:
        """Prepare a run; ``start`` begins it.

        ``attempts``: the maximum number of attempts of a test, by test number; 1 by default.
        ``timeout``: seconds to wait for a lost host to return when no host has any test.
        ``held``: the tests that the scheduler does not have, until ``release`` is called.
        Both callables are called in the controller's thread.
        """
        super().__init__(daemon=True, name="run controller")
        #: Batches of events for the front end.
        self.results: queue.SimpleQueue[list[RunEvent] | ControllerCrashed] = queue.SimpleQueue()
        self.losses: list[Loss] = []
        self._receive_artifact = receive_artifact
        self._discard_artifacts = discard_artifacts
        self._fleet = fleet
        self._tests = {test.id: test for test in tests}
        self._scheduler = scheduler
        self._attempts = attempts or {}
        self._held = set(held)
        self._released: queue.SimpleQueue[tuple[int, bool]] = queue.SimpleQueue()
        self._expected = {host.id for host in fleet.hosts}
        self._hosts = {host.id: host for host in fleet.hosts}
        #: Tests of lost hosts that have not been sent elsewhere yet.
        self._unmoved: dict[int, Loss] = {}
        self._timeout = timeout
        self._stuck_since: float | None = None
        self._timeout_detail = ""
        self._stopped = False
        #: Size of the lines that have arrived, and of those that the front end has shown.
        self._received_line_chars = self._shown_line_chars = 0
        self._progress_clocks: dict[str, ProgressClock] = {}
        self._next_check = 0.0
        #: Host, test and attempt of the ``running`` messages that have arrived.
        self._announced: set[tuple[Any, int, int]] = set()

    def run(self) -> None:
        """Handle events until every test has ended or ``stop`` is called.

        An exception ends the thread and is reported as ``ControllerCrashed``.
        """
        try:
            self._perform(self._scheduler.start())
            self._check_stuck(time.monotonic())
            while (self._scheduler.open_tests or self._held) and not self._stopped:
                self._handle_next()
        except BaseException as error:
            self.results.put(ControllerCrashed(error))

    def stop(self) -> None:
        """End the thread and wait for it; later messages of hosts are ignored."""
        self._stopped = True
        self._fleet.wake()
        self.join()

    def release(self, test: int, runs: bool) -> None:
        """Let a held test run, or end without a result if not ``runs``."""
        self._released.put((test, runs))
        self._fleet.wake()

    def acknowledge_line(self, line: Line) -> None:
        """Note that the front end has shown ``line``, which makes room for others."""
        self._shown_line_chars += line.size

    def _handle_next(self) -> None:
        try:
            event = self._fleet.events.get(timeout=self._next_timeout())
        except queue.Empty:
            event = None
        now = time.monotonic()
        self._scheduler.set_time(now)
        if event is not None:
            self._handle(event)
        elif self._scheduler.is_holding_back:
            self._perform(self._scheduler.fill_all())
        while not self._released.empty():
            self._add_released(*self._released.get())
        self._check_stuck(now)
        if now >= self._next_check:
            self._next_check = now + _PROGRESS_CHECK_INTERVAL
            self._drop_hosts_without_progress(now)

    def _add_released(self, test: int, runs: bool) -> None:
        self._held.discard(test)
        if runs:
            self._perform(self._scheduler.add_test(test))
        if not self._expected:
            self._perform(self._scheduler.give_up_waiting())

    def _next_timeout(self) -> float:
        """Return the seconds until something must be done even if no event arrives."""
        if self._scheduler.is_holding_back:
            return _HOLD_BACK_POLL_INTERVAL
        if self._stuck_since is None:
            return _PROGRESS_CHECK_INTERVAL
        return max(self._stuck_since + self._timeout - time.monotonic(), 0.0)

    def _drop_hosts_without_progress(self, now: float) -> None:
        """Drop hosts that neither start nor end their tests in time."""
        for host in list(self._hosts.values()):
            assigned = self._scheduler.assigned_tests(host.id) if self._is_current(host) else ()
            clock = self._progress_clocks.setdefault(host.id, ProgressClock(now))
            if not assigned:
                clock.note_progress(now)
            timeouts = (self._tests[number].timeout for number in assigned)
            limit = clock.find_exceeded_limit(now, max(timeouts, default=0.0))
            if limit is not None:
                error = HostError(host.id, f"no test has started or ended for {limit:g} s")
                host.drop(error)
                self._lose(host, error)

    def _note_progress(self, host: Host) -> None:
        if host.id in self._progress_clocks:
            self._progress_clocks[host.id].note_progress(time.monotonic())

    def _check_stuck(self, now: float) -> None:
        """Give up all tests when no host has had any of them for ``timeout`` seconds."""
        if not self._scheduler.is_stuck:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since >= self._timeout:
            self._timeout_detail = f"; no host came back within {self._timeout:g} s"
            self._perform(self._scheduler.give_up_waiting())

    # -- what hosts send ----------------------------------------------------------

    def _handle(self, event: Any) -> None:
        if isinstance(event, (HostReady, FrameReceived, HostEnded)) and not self._is_current(
            event.host
        ):
            return  # of a connection that has been given up
        if isinstance(event, HostReady):
            for loss in self.losses:
                loss.is_back |= loss.error.host == event.host.id
            self._perform(self._scheduler.add_host(event.host.id, event.slots, event.latency))
        elif isinstance(event, FrameReceived):
            self._handle_frame(event.host, event.frame)
        elif isinstance(event, HostEnded):
            self._lose(event.host, event.error, event.can_reopen)

    def _is_current(self, host: Host) -> bool:
        return self._hosts.get(host.id) is host and host.id in self._expected

    def _handle_frame(self, host: Host, frame: bytes) -> None:
        if not self._is_current(host):
            return
        events: list[RunEvent] = []
        try:
            for message in host.unpack_messages(frame):
                events += self._handle_message(host, message)
        except _INVALID_CONTENT_ERRORS as error:
            invalid = HostError(host.id, f"sent garbage: {to_single_line(str(error))}")
            host.drop(invalid)
            self._lose(host, invalid)
        else:
            # The host comes first: it works while the front end reports the results.
            self._perform(self._scheduler.fill(host.id))
        if events:
            self.results.put(events)

    def _handle_message(self, host: Host, message: list[Any]) -> Iterator[RunEvent]:
        if message[0] == "artifact":
            _, test, attempt, path, _, body = message
            if test not in self._tests:
                raise ValueError("artifacts of an unknown test")
            if self._is_running_on(host, test) and attempt == self._tests[test].attempt:
                self._receive_artifact(test, attempt, path, body)
                if host.id in self._progress_clocks:
                    self._progress_clocks[host.id].note_bytes(time.monotonic(), len(body))
        elif message[0] == "line":
            line = Line(int(message[1]), host.id, str(message[2]))
            waiting_chars = self._received_line_chars - self._shown_line_chars
            if waiting_chars < _MAX_WAITING_LINE_CHARS:
                self._received_line_chars += line.size
                yield line
        elif message[0] == "running":
            yield from self._handle_running(host, int(message[1]), int(message[2]))
        elif message[0] == "done":
            yield from self._handle_done(host, execution_from_row(message[1]))
        elif message[0] == "returned":
            self._perform(self._scheduler.requeue(host.id, [int(each) for each in message[1]]))
        elif message[0] == "waiting":
            if host.id in self._progress_clocks:
                self._progress_clocks[host.id].note_waiting(time.monotonic())
            yield Waiting(host.id, _waiting_reason(message[1], to_single_line(str(message[2]))))
        elif message[0] == "error":
            self._lose(host, HostError(host.id, to_single_line(str(message[1]))))
        elif message[0] != "bye":
            raise ValueError(f"unknown message {message[0]!r}")

    def _handle_running(self, host: Host, test: int, slot: int) -> Iterator[RunEvent]:
        """Accept one ``running`` message for each attempt: more would be a flood."""
        if not self._is_running_on(host, test):
            return
        announcement = (host, test, self._tests[test].attempt)
        if announcement in self._announced:
            raise ValueError("a second 'running' message for one attempt")
        self._announced.add(announcement)
        self._note_progress(host)
        yield Running(test, host.id, slot)

    def _is_running_on(self, host: Host, test: int) -> bool:
        return self._is_current(host) and self._scheduler.is_assigned(host.id, test)

    def _handle_done(self, host: Host, execution: Execution) -> Iterator[RunEvent]:
        """Accept a result once, and only from the host that was sent this attempt."""
        test = self._tests.get(execution.id)
        is_expected = test is not None and self._is_running_on(host, test.id)
        if test is None or not is_expected or execution.attempt != test.attempt:
            return
        self._note_progress(host)
        rerun = self._needs_rerun(execution)
        speed_factor = self._scheduler.durations.speed_factor(host.id)
        self._scheduler.finish_test(host.id, test.id, execution.duration, rerun)
        if rerun:
            self._tests[test.id] = test._replace(attempt=test.attempt + 1)
        lost_with = self._scheduler.hosts_lost_with(test.id)
        yield Finished(execution, host.id, rerun, lost_with, speed_factor)

    def _needs_rerun(self, execution: Execution) -> bool:
        attempts = self._attempts.get(execution.id, 1)
        if attempts == 1:
            return False
        test = self._tests[execution.id]
        return test.attempt < attempts and is_retryable(test, execution)

    # -- lost hosts ---------------------------------------------------------------

    def _lose(self, host: Host, error: HostError, can_reopen: bool = False) -> None:
        if not self._is_current(host):
            return
        self._record_loss(host, error)
        successor = self._fleet.reopen(host) if can_reopen else None
        if successor is None:
            self._expected.discard(host.id)
        else:
            self._hosts[host.id] = successor
        commands = self._scheduler.remove_host(host.id, successor is not None)
        if not self._expected:
            commands += self._scheduler.give_up_waiting()
        self._perform(commands)

    def _record_loss(self, host: Host, error: HostError) -> None:
        """Record the loss of a host once, not each failed attempt to open it again."""
        earlier = [loss for loss in self.losses if loss.error.host == error.host]
        if earlier and not earlier[-1].is_back:
            return
        loss = Loss(error)
        self.losses.append(loss)
        self.results.put([HostDisconnected(error)])
        for number in self._scheduler.assigned_tests(host.id):
            self._unmoved[number] = loss
            if self._discard_artifacts is not None:
                self._discard_artifacts(number, self._tests[number].attempt)

    # -- commands of the scheduler ------------------------------------------------

    def _perform(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, Send):
                self._send(command)
            elif isinstance(command, Return):
                self._hosts[command.host].request_return(command.tests)
            elif isinstance(command, RequirementUnmet):
                self.results.put([self._finish_unmet(command)])
            else:
                self.results.put([self._finish_given_up(command)])

    def _send(self, command: Send) -> None:
        self._hosts[command.host].run_tests([self._with_estimate(test) for test in command.tests])
        if self._unmoved:
            for test in command.tests:
                loss = self._unmoved.pop(test, None)
                if loss is not None:
                    loss.moved.setdefault(command.host, []).append(test)

    def _with_estimate(self, number: int) -> Test:
        return self._tests[number]._replace(estimate=self._scheduler.estimate(number))

    def _finish_given_up(self, command: GiveUp) -> Finished:
        loss = self._unmoved.pop(command.test, None)
        if loss is not None:
            loss.given_up.append(command.test)
        detail = _give_up_reason(command, self.losses) + self._timeout_detail
        attempt = self._tests[command.test].attempt
        execution = Execution(command.test, attempt, problem=Problem.HOST_LOST, detail=detail)
        host = command.hosts[-1] if command.hosts else ""
        # With labels, these are the hosts on which the test had to run, not those that had it.
        return Finished(execution, host, lost_with=() if command.labels else command.hosts)

    def _finish_unmet(self, command: RequirementUnmet) -> Finished:
        labels = self._scheduler.required_labels(command.test)
        detail = unmet_message(labels, command.missing, sorted(self._expected))
        return Finished(
            Execution(command.test, problem=Problem.UNMET_REQUIREMENT, detail=detail), ""
        )


def _give_up_reason(command: GiveUp, losses: Sequence[Loss]) -> str:
    """Return why a test was given up, as shown to people."""
    if command.hosts:
        reason = f"lost with {describe_losses(command.hosts)}"
    else:
        reason = "; ".join(f"{loss.error.host}: {loss.error.cause}" for loss in losses)
    return f"requires {', '.join(command.labels)}, {reason}" if command.labels else reason


def _waiting_reason(kind: str, name: str) -> str:
    """Return what tests on a host wait for, as shown to people.

    ``kind``: what another run holds there.  ``name``: of the lock, if it is one.  Raises
    ValueError for an unknown kind.
    """
    reasons = {
        resource_locks.SLOTS: "slots that another run uses",
        resource_locks.LOCK: f"the lock {name}, which another run holds",
        resource_locks.ALONE: "a serial test of another run",
    }
    if kind not in reasons:
        raise ValueError(f"waits for {kind!r}")
    return reasons[kind]
