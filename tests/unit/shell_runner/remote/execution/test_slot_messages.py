"""Tests of the check of what a slot sends."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shell_runner.remote.execution.slot_messages import (
    NO_TEST,
    InvalidMessageError,
    SlotMessage,
    parse_slot_message,
)
from shell_runner.remote.protocol.model import Execution, Test

RUNNING = Test(3, "test_x", attempt=2)
FOLDER = "/tmp/session"
ROW = json.dumps(Execution(3, 2, exit_status=0))


def parse(message: Any, running: "Test | None" = RUNNING) -> SlotMessage:
    return parse_slot_message(json.dumps(message).encode(), running, FOLDER)


@pytest.mark.parametrize(
    ("message", "test"),
    [
        (["running", 3, 1.5], RUNNING),
        (["line", 3, "text \0\udcff"], RUNNING),
        (["artifacts", 3, f"{FOLDER}/1-artifacts-3-2", [["a/b", 5], ["c..", 0]]], RUNNING),
        (["artifacts", 3, f"{FOLDER}/1.4-artifacts-3-2", [["a", 5]]], RUNNING),
        (["returned", [1, 2]], NO_TEST),
        (["recalled", []], NO_TEST),
        (["retired"], NO_TEST),
    ],
)
def test_messages_of_a_slot_are_accepted(message: list[Any], test: Test) -> None:
    assert parse(message) == SlotMessage(message[0], test, message[1:] if message[1:] else ())


def test_a_result_is_passed_on_as_it_came() -> None:
    text = f'["done",{ROW}]'.encode()
    assert parse_slot_message(text, RUNNING, FOLDER).row == ROW.encode()


@pytest.mark.parametrize(
    "message",
    [
        None, 5, "x", {}, [], [[]], [5], ["unknown"], ["unknown", 3, 1], ["done"], ["done", []],
        ["done", json.loads(ROW), 1], ["done", [3, 2, "slot"]], ["done", [4, 2]], ["done", [3, 1]],
        ["done", {"id": 3}], ["running"], ["running", 3], ["running", 4, 1.0], ["running", 3, "x"],
        ["running", 3, 1.0, 2], ["running", True, 1.0], ["running", 3, float("nan")],
        ["line", 3], ["line", 3, 5], ["line", 3, None], ["line", 3, ["x"]], ["line", 4, "x"],
        ["retired", 1], ["returned"], ["returned", 3], ["returned", [None]], ["recalled", [[1]]],
        ["returned", {"1": 2}], ["artifacts", 3], ["artifacts", 3, f"{FOLDER}/1-artifacts-3-2"],
        ["artifacts", 3, "/etc", []], ["artifacts", 3, FOLDER, []], ["artifacts", 3, 5, []],
        ["artifacts", 3, f"{FOLDER}/lock", []], ["artifacts", 3, f"{FOLDER}/../x", []],
        ["artifacts", 3, f"{FOLDER}/1-artifacts-3-2/..", []],
        ["artifacts", 3, f"{FOLDER}/1-artifacts-3-2", [["../x", 1]]],
        ["artifacts", 3, f"{FOLDER}/1-artifacts-3-2", [["/etc/shadow", 1]]],
        ["artifacts", 3, f"{FOLDER}/1-artifacts-3-2", [["a\0b", 1]]],
        ["artifacts", 3, f"{FOLDER}/1-artifacts-3-2", [["a", -1]]],
        ["artifacts", 3, f"{FOLDER}/1-artifacts-3-2", [["a", 1.5]]],
        ["artifacts", 3, f"{FOLDER}/1-artifacts-3-2", [["a"]]],
    ],
)  # fmt: skip
def test_other_values_are_refused(message: Any) -> None:
    with pytest.raises(InvalidMessageError, match=r"\S"):
        parse(message)


@pytest.mark.parametrize("text", [b"", b"hello", b"\xff", b"[" * 100_000, b'["done"', b"[1e999]"])
def test_garbage_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidMessageError, match=r"\S"):
        parse_slot_message(text, RUNNING, FOLDER)


@pytest.mark.parametrize("name", ["done", "running", "line", "artifacts"])
def test_nothing_about_a_test_is_accepted_if_none_runs(name: str) -> None:
    with pytest.raises(InvalidMessageError, match="no test is running"):
        parse([name, 3, 1.0], running=None)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(3), st.lists
)


@given(
    st.sampled_from(["done", "running", "line", "artifacts", "returned", "recalled", "retired"]),
    st.lists(VALUES, max_size=4),
)
def test_any_value_is_accepted_or_refused(name: str, values: list[Any]) -> None:
    try:
        message = parse([name, *values])
    except InvalidMessageError:
        return
    assert message.kind == name
