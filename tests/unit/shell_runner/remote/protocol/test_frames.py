"""Tests of frames of messages."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shell_runner.hosts.frame_guard import MAX_PAYLOAD_BYTES
from shell_runner.remote.protocol import frames
from shell_runner.remote.protocol.frames import (
    FrameDecoder,
    frame_encoded_message,
    frame_message,
    pack_blob,
    pack_encoded_messages,
    pack_messages,
    unpack_frame,
)
from shell_runner.remote.protocol.model import (
    CapturedStream,
    Case,
    Execution,
    ParsedOutput,
    execution_from_row,
    host_facts_from_json,
)

VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5)
MESSAGES = st.lists(st.builds(lambda name, rest: [name, *rest], st.text(), st.lists(VALUES)))


@given(MESSAGES)
def test_messages_survive_a_frame(messages: list[list[Any]]) -> None:
    assert unpack_frame(pack_messages(messages)) == messages
    encoded = [json.dumps(message).encode() for message in messages]
    assert unpack_frame(pack_encoded_messages(encoded)) == messages


@given(VALUES, st.binary())
def test_blobs_survive_a_frame(header: Any, body: bytes) -> None:
    assert unpack_frame(pack_blob(header, body)) == (header, body)


@given(st.lists(st.integers(0, 200)), st.integers(20, 60))
def test_messages_survive_the_parts_of_frames(sizes: list[int], limit: int) -> None:
    messages = [["line", "x" * size] for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "MAX_FRAME_BYTES", limit)
        parts = list(frames.split_messages([json.dumps(each).encode() for each in messages]))
    assert all(len(part) <= limit for part in parts)
    joiner = frames.FrameJoiner()
    received = [unpack_frame(whole) for whole in map(joiner.add, parts) if whole]
    assert [message for messages in received for message in messages] == messages


def test_parts_of_more_than_a_message_are_refused() -> None:
    joiner = frames.FrameJoiner()
    part = b"P" + bytes(frames.MAX_FRAME_BYTES)
    count = frames.MAX_MESSAGE_BYTES // frames.MAX_FRAME_BYTES
    assert [joiner.add(part) for _ in range(count)] == [b""] * count
    with pytest.raises(ValueError, match="more than 33554432 bytes"):
        joiner.add(b"Ex")


def test_the_guard_passes_the_largest_frame() -> None:
    assert 2 * frames.MAX_FRAME_BYTES < MAX_PAYLOAD_BYTES


@pytest.mark.parametrize(
    "frame",
    [
        b"", b"X", b"J", b"J{}", b"J1", b"J[1]", b"J[[]]", b"J[[1]]", b"J[[\"a\"]", b"J\xff",
        b"B", b"B\0\0", b"B\0\0\0\x01{", b"B\xff\xff\xff\xff1x",
    ],
)  # fmt: skip
def test_garbage_is_a_value_error(frame: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        unpack_frame(frame)


@given(st.binary(max_size=64))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        unpack_frame(data)


@given(st.lists(VALUES), st.data())
def test_frames_are_decoded_from_chunks_of_any_size(values: list[Any], data: st.DataObject) -> None:
    data_sent = b"".join(frame_message(value) for value in values)
    decoder, values_decoded, start = FrameDecoder(), [], 0
    while start < len(data_sent):
        end = data.draw(st.integers(start + 1, len(data_sent)))
        values_decoded += [json.loads(text) for text in decoder.feed(data_sent[start:end])]
        start = end
    assert values_decoded == values


def test_a_frame_is_its_length_and_its_text() -> None:
    assert frame_message([1]) == frame_encoded_message(b"[1]") == b"\0\0\0\x03[1]"


ODD_OUTPUT = [*Execution(3)._replace(stdout=CapturedStream(7))]  # type: ignore[arg-type]


def test_executions_survive_json() -> None:
    execution = Execution(
        3, exit_status=1, stdout=CapturedStream("\udcff", 1), stderr=CapturedStream("ab", 9, 1),
        leftovers=("sleep",),
        parsed=ParsedOutput("tap", [Case("a", "passed", properties=(("k", "v"),))]),
    )  # fmt: skip
    assert execution_from_row(json.loads(json.dumps(execution))) == execution


@pytest.mark.parametrize(
    "row", [[], [1] * 40, [1, 1, 0, 0, 0, 0, 0, 0, "", "", 5], ODD_OUTPUT, None]
)
def test_broken_executions_are_value_errors(row: Any) -> None:
    with pytest.raises(ValueError, match="not an execution"):
        execution_from_row(row)


def test_unknown_facts_of_a_newer_host_are_ignored() -> None:
    known = {"name": "n", "system": "s", "machine": "m", "python": "3", "cores": 2}
    assert host_facts_from_json({**known, "moon": "full"}).cores == 2
