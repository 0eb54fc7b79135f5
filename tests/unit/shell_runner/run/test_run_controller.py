"""Tests of invalid, repeated and late messages of hosts, and of lost hosts."""

import dataclasses
import queue
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from shell_runner.errors import HostError
from shell_runner.hosts.fleet import FrameReceived, HostEnded, HostReady
from shell_runner.remote.protocol.model import Execution, Problem, Test
from shell_runner.run.controller import RunController
from shell_runner.run.events import (
    ControllerCrashed,
    Finished,
    HostDisconnected,
    Waiting,
    describe_losses,
)
from shell_runner.run.scheduler import Scheduler

ROW = list(Execution(1))


@dataclasses.dataclass(eq=False)
class FakeHost:
    """The part of a host that the controller uses."""

    id: str
    run_tests: Callable[[Any], None]
    unpack_messages: Callable[[Any], list[Any]]
    sent: list[Any] = dataclasses.field(default_factory=list)
    dropped: bool = False

    def drop(self, _: HostError) -> None:
        self.dropped = True


def controller_with(message: Any) -> tuple[RunController, Any]:
    host: Any = FakeHost("evil", lambda _: None, lambda _: [message])
    fleet: Any = SimpleNamespace(hosts=[host])

    def artifact(test: int, attempt: int, path: str, body: bytes) -> None:
        if test not in {1: None} or not isinstance(body, bytes):
            raise ValueError("not asked for")

    controller = RunController(fleet, [Test(1, "t")], Scheduler([1], {}), artifact)
    controller._perform(controller._scheduler.add_host("evil", 1))
    return controller, host


@pytest.mark.parametrize(
    "message",
    [
        ["done"], ["done", 7], ["done", None], ["done", []], ["done", {}],
        ["done", [*ROW[:9], 7, *ROW[10:]]],
        ["done", [1, 1, 0, 0.0, float("nan")]],
        ["done", [1, 1, 0, 0.0, "1"]],
        ["done", [*ROW[:5], "0"]],
        ["done", [*ROW[:9], "", [7, 0, -1]]],
        ["done", [*ROW[:9], "", ["", None, -1]]],
        ["done", [*ROW[:16], [["a"]]]],
        ["done", [*ROW[:16], [[7, 1]]]],
        ["done", [*ROW[:15], ["tap", [["a", "fine"]], "", None]]],
        ["done", [*ROW[:15], None, [7]]],
        ["line"], ["line", []], ["line", "x", 1], ["line", 1],
        ["running", {}], ["running", 1], ["running", 1, None],
        ["artifact"], ["artifact", []], ["artifact", [], 1, "a", True, b""],
        ["artifact", 7, 1, "a", True, b""],
        ["returned"], ["returned", 7], ["returned", [[]]],
        ["waiting"], ["waiting", "slots"], ["waiting", "for ever", ""], ["waiting", [], ""],
        ["error"],
    ],
    ids=repr,
)  # fmt: skip
def test_garbage_loses_the_host(message: list[Any]) -> None:
    controller, host = controller_with(message)
    controller._handle_frame(host, b"")
    assert [loss.error.host for loss in controller.losses] == ["evil"]
    assert controller.results.get_nowait() == [HostDisconnected(controller.losses[0].error)]
    (news,) = controller.results.get_nowait() if not controller.results.empty() else (None,)
    assert not isinstance(news, ControllerCrashed)
    assert isinstance(news, Finished)
    assert news.execution.problem == Problem.HOST_LOST


def test_what_is_sound_is_taken() -> None:
    controller, host = controller_with(["done", ROW])
    controller._handle_frame(host, b"")
    assert not controller.losses
    (news,) = controller.results.get_nowait()
    assert isinstance(news, Finished)
    assert news.execution == Execution(1)


class Hosts:
    """A fleet whose hosts send what a test tells them to, and a controller in this thread."""

    def __init__(self, tests: int, *names: str, attempts: int = 1, max_lost: int = 2) -> None:
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.hosts = [self.host(name) for name in names]
        self.files: list[tuple[int, int, str]] = []
        self.void: list[tuple[int, int]] = []
        self.controller = RunController(
            self,  # type: ignore[arg-type]
            [Test(number, "t") for number in range(tests)],
            Scheduler(range(tests), {}, max_lost),
            lambda test, attempt, path, _: self.files.append((test, attempt, path)),
            dict.fromkeys(range(tests), attempts),
            timeout=0.3,
            discard_artifacts=lambda *which: self.void.append(which),
        )

    def host(self, name: str) -> Any:
        sent: list[Any] = []
        return FakeHost(name, sent.extend, lambda message: [message], sent)

    def reopen(self, host: Any) -> Any:
        return self.host(host.id)

    def say(self, host: Any, *message: Any) -> None:
        self.controller._handle(FrameReceived(host, list(message)))  # type: ignore[arg-type]

    def done(self, host: Any, test: int, attempt: int = 1, status: int = 0) -> None:
        self.say(host, "done", list(Execution(test, attempt, exit_status=status)))

    def end(self, host: Any) -> Any:
        """Lose the host; return the host that replaces it."""
        self.controller._handle(HostEnded(host, HostError(host.id, "gone"), can_reopen=True))
        return self.controller._hosts[host.id]

    def finished(self) -> list[tuple[int, int]]:
        results = []
        while not self.controller.results.empty():
            batch = self.controller.results.get()
            assert isinstance(batch, list)
            results += [
                (each.execution.id, each.execution.attempt)
                for each in batch
                if isinstance(each, Finished)
            ]
        return results


def test_an_answer_counts_once_and_only_from_who_was_asked() -> None:
    fleet = Hosts(3, "a", "b")
    a, b = fleet.hosts
    fleet.controller._handle(HostReady(a, 1, 0.0))
    fleet.controller._handle(HostReady(b, 1, 0.0))
    for host, test in ((b, 0), (a, 0), (a, 0), (a, 77), (a, 1), (b, 1)):
        fleet.done(host, test)
    assert fleet.finished() == [(0, 1), (1, 1)]
    assert fleet.controller._scheduler.open_tests == 1
    assert not fleet.controller.losses


def test_an_answer_of_an_earlier_attempt_does_not_end_the_next_one() -> None:
    fleet = Hosts(1, "a", attempts=2)
    (a,) = fleet.hosts
    fleet.controller._handle(HostReady(a, 1, 0.0))
    for attempt in (1, 1, 2, 2):
        fleet.done(a, 0, attempt, status=1)
    assert fleet.finished() == [(0, 1), (0, 2)]


def test_what_the_old_connection_says_is_not_taken() -> None:
    fleet = Hosts(1, "a")
    (old,) = fleet.hosts
    fleet.controller._handle(HostReady(old, 1, 0.0))
    new = fleet.end(old)
    fleet.controller._handle(HostReady(new, 1, 0.0))
    assert [test.id for test in new.sent] == [0]
    fleet.done(old, 0)
    fleet.say(old, "artifact", 0, 1, "x", True, b"late")
    fleet.say(old, "error", "late")
    fleet.say(old, "nonsense of an old connection")
    fleet.controller._handle(HostEnded(old, HostError("a", "again"), can_reopen=True))
    fleet.controller._handle(HostReady(old, 9, 0.0))
    assert fleet.finished() == fleet.files == []
    fleet.say(new, "artifact", 0, 1, "x", True, b"")
    fleet.done(new, 0)
    assert fleet.files == [(0, 1, "x")]
    assert fleet.finished() == [(0, 1)]
    assert len(fleet.controller.losses) == 1


def test_artifacts_of_a_lost_host_are_void_and_late_ones_are_dropped() -> None:
    fleet = Hosts(1, "a", "b")
    a, b = fleet.hosts
    fleet.controller._handle(HostReady(a, 1, 0.0))
    fleet.controller._handle(HostReady(b, 1, 0.0))
    fleet.say(b, "artifact", 0, 1, "x", True, b"")
    fleet.say(a, "artifact", 0, 2, "x", True, b"")
    assert fleet.files == []
    assert not fleet.controller.losses
    fleet.end(a)
    assert fleet.void == [(0, 1)]


def test_it_is_told_where_tests_went() -> None:
    fleet = Hosts(3, "a", "b", max_lost=2)
    a, b = fleet.hosts
    fleet.controller._handle(HostReady(a, 2, 0.0))
    fleet.controller._handle(HostReady(b, 1, 0.0))
    second = fleet.end(a)
    fleet.done(b, 2)
    fleet.controller._handle(HostReady(second, 1, 0.0))
    first, later = fleet.controller.losses[0], None
    assert first.moved == {"b": [0], "a": [1]}
    assert first.is_back
    fleet.end(b)
    later = fleet.controller.losses[1]
    assert later.given_up == [0]
    assert describe_losses(("a", "b")) == "a and b"
    assert describe_losses(("a", "a")) == "a (twice)"


def test_a_failed_attempt_to_come_back_is_no_second_loss() -> None:
    fleet = Hosts(1, "a")
    (host,) = fleet.hosts
    fleet.controller._handle(HostReady(host, 1, 0.0))
    for _ in range(3):
        host = fleet.end(host)
    assert len(fleet.controller.losses) == 1
    fleet.controller._handle(HostReady(host, 1, 0.0))
    fleet.done(host, 0)
    assert fleet.finished() == [(0, 1)]


def test_with_no_host_back_in_time_all_that_is_open_is_given_up() -> None:
    fleet = Hosts(3, "a")
    (host,) = fleet.hosts
    fleet.events.put(HostReady(host, 1, 0.0))
    fleet.events.put(HostEnded(host, HostError("a", "gone"), can_reopen=True))
    begin = time.monotonic()
    fleet.controller.run()
    assert 0.3 <= time.monotonic() - begin < 5
    assert sorted(fleet.finished()) == [(0, 1), (1, 1), (2, 1)]


def test_what_is_done_in_a_frame_counts_though_the_rest_is_garbage() -> None:
    fleet = Hosts(2, "a", "b")
    a, b = fleet.hosts
    a.unpack_messages = lambda _: [["done", list(Execution(0))], ["done", 7]]
    fleet.controller._handle(HostReady(a, 1, 0.0))
    fleet.controller._handle(HostReady(b, 1, 0.0))
    fleet.say(a, "")
    assert [loss.error.host for loss in fleet.controller.losses] == ["a"]
    assert (0, 1) in fleet.finished()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (["slots", ""], "slots that another run uses"),
        (["lock", "gpu\x1b[2J"], "the lock gpu, which another run holds"),
        (["alone", ""], "a serial test of another run"),
    ],
)
def test_what_tests_wait_for_is_told_in_our_words(said: list[str], words: str) -> None:
    controller, host = controller_with(["waiting", *said])
    controller._handle_frame(host, b"")
    assert controller.results.get_nowait() == [Waiting("evil", words)]
