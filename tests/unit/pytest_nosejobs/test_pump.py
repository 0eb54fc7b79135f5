"""A host that sends garbage is lost; the run is not."""

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_nosejobs.schedule import Schedule
from pytest_nosejobs.session import Crashed, Finished, Pump, Waiting
from shell_runner.remote.model import Execution, Problem, Test

ROW = list(Execution(1))


def pump_with(message: Any) -> tuple[Pump, Any]:
    host: Any = SimpleNamespace(id="evil", run=lambda _: None, messages=lambda _: [message])
    fleet: Any = SimpleNamespace(hosts=[host])

    def artefact(test: int, attempt: int, path: str, body: bytes) -> None:
        if test not in {1: None} or not isinstance(body, bytes):
            raise ValueError("not asked for")

    pump = Pump(fleet, [Test(1, "t")], Schedule([1], {}), artefact)
    pump._perform(pump._schedule.host_ready("evil", 1))
    return pump, host


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
        ["artefact"], ["artefact", []], ["artefact", [], 1, "a", True, b""],
        ["artefact", 7, 1, "a", True, b""],
        ["waiting"], ["waiting", "slots"], ["waiting", "for ever", ""], ["waiting", [], ""],
        ["trouble"],
    ],
    ids=repr,
)  # fmt: skip
def test_garbage_loses_the_host(message: list[Any]) -> None:
    pump, host = pump_with(message)
    pump._take_frame(host, b"")
    assert [error.host for error in pump.lost] == ["evil"]
    (news,) = pump.results.get_nowait() if not pump.results.empty() else (None,)
    assert not isinstance(news, Crashed)
    assert isinstance(news, Finished)
    assert news.execution.problem == Problem.HOST_LOST


def test_what_is_sound_is_taken() -> None:
    pump, host = pump_with(["done", ROW])
    pump._take_frame(host, b"")
    assert not pump.lost
    (news,) = pump.results.get_nowait()
    assert isinstance(news, Finished)
    assert news.execution == Execution(1)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (["slots", ""], "slots that another run uses"),
        (["lock", "gpu\x1b[2J"], "the lock gpu, which another run holds"),
        (["alone", ""], "another run: a test that must be alone"),
    ],
)
def test_what_tests_wait_for_is_told_in_our_words(said: list[str], words: str) -> None:
    pump, host = pump_with(["waiting", *said])
    pump._take_frame(host, b"")
    assert pump.results.get_nowait() == [Waiting("evil", words)]
