"""A fuzzer of what a slot sends: any bytes are messages, or the death of the slot alone."""

from typing import Any
from unittest import mock

import pytest

from shell_runner.remote.execution import slot_handle
from shell_runner.remote.protocol.frames import (
    MAX_MESSAGE_BYTES,
    MAX_MESSAGE_VALUES,
    FrameDecoder,
    frame_message,
)
from shell_runner.remote.protocol.model import Execution, Setup, Test
from tests.helpers.fuzzing import iterate_seeds, load_corpus, mutate


class _FakeProcess:
    """A slot process that records that it was killed."""

    def __init__(self) -> None:
        self.is_killed = False

    def kill(self) -> None:
        self.is_killed = True


class _FakeSocket:
    """A socket that returns the given bytes, then the end."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def recv(self, size: int) -> bytes:
        data, self.data = self.data[:size], self.data[size:]
        return data


def _read_all(data: bytes) -> tuple[list[str], bool]:
    """Return the kinds of the messages in ``data``, and whether the slot was killed."""
    process = _FakeProcess()
    with mock.patch.object(slot_handle, "_spawn_slot", return_value=process):
        handle = slot_handle.SlotHandle(0, Setup("/"), "/tmp/session/0")
    handle.socket.close()
    handle.assigned.extend(Test(number, "x") for number in range(3))
    handle.request_return([1])
    handle.socket = _FakeSocket(data)  # type: ignore[assignment]
    kinds = []
    is_alive = True
    while is_alive:
        messages, is_alive = handle.read()
        kinds += [message.kind for message in messages]
    return kinds, process.is_killed


_VALID = b"".join(
    frame_message(message)
    for message in (
        ["running", 0, 1.0], ["line", 0, "text"], ["artifacts", 0, "/tmp/session/0-artifacts-0-1",
        [["a", 1]]], ["done", Execution(0, 1, exit_status=0)], ["returned", [1]], ["retired"],
    )
)  # fmt: skip


def test_what_a_slot_sends_is_understood() -> None:
    kinds, is_killed = _read_all(_VALID)
    assert kinds == ["running", "line", "artifacts", "done", "returned"]
    assert not is_killed


_DONE = ["done", Execution(0, 1, exit_status=0)]


@pytest.mark.parametrize(
    "messages",
    [
        [["returned", [0]]],
        [["returned", [1, 2]]],
        [["recalled", [0, 1, 2]]],
        [["running", 0, 1.0], ["running", 0, 1.0]],
        [["retired"]],
        [_DONE, ["running", 1, 1.0], ["retired"]],
        [_DONE, ["retired"], ["done", Execution(1, 1, exit_status=0)]],
        [_DONE, ["retired"], ["retired"]],
        [["line", 0, "x" * MAX_MESSAGE_BYTES]],
        [["done", Execution(0, 1, leftovers=("x" * MAX_MESSAGE_BYTES,))]],
        [["done", Execution(0, 1, leftovers=("",) * MAX_MESSAGE_VALUES)]],
    ],
)
def test_a_message_that_no_slot_sends_at_this_moment_kills_the_slot(messages: list[Any]) -> None:
    # The controller would drop the host for it, or the pool would run the test again for ever.
    assert _read_all(b"".join(map(frame_message, messages)))[1]


@pytest.mark.parametrize("data", load_corpus("slot_frames"))
def test_found_cases_kill_the_slot(data: bytes) -> None:
    assert _read_all(data)[1]


def test_mutated_frames_kill_the_slot_at_most() -> None:
    killed = 0
    for rng in iterate_seeds():
        killed += _read_all(mutate(rng, _VALID))[1]
    assert killed


def test_a_long_frame_is_refused_before_it_is_buffered() -> None:
    decoder = FrameDecoder()
    with pytest.raises(ValueError, match="4294967295 bytes"):
        list(decoder.feed(b"\xff\xff\xff\xff"))
