"""Tests of the frame guard: which bytes of a host pass, and which end its connection."""

import contextlib
import struct

import pytest
from execnet.gateway_base import Message, dumps_internal
from hypothesis import given
from hypothesis import strategies as st

from shell_runner.hosts.frame_guard import FrameGuard, ProtocolViolation


def frame(code: int, channel: int = 1, payload: bytes = b"") -> bytes:
    return struct.pack("!bii", code, channel, len(payload)) + payload


def data(body: bytes) -> bytes:
    return frame(Message.CHANNEL_DATA, 1, dumps_internal(body))


GOOD = [
    data(b""),
    data(b"J[]"),
    data(bytes(100_000)),
    frame(Message.CHANNEL_LAST_MESSAGE),
    frame(Message.CHANNEL_CLOSE),
]
END = frame(Message.GATEWAY_TERMINATE, 0)


def test_what_a_sound_host_sends_passes_unchanged() -> None:
    stream = b"1" + b"".join(GOOD) + END
    assert FrameGuard().feed(stream) == stream


@given(st.lists(st.integers(1, 60_000), max_size=20))
def test_pieces_make_no_difference(cuts: list[int]) -> None:
    stream, guard, passed = b"1" + b"".join(GOOD) + END, FrameGuard(), b""
    while stream:
        cut = cuts.pop() if cuts else len(stream)
        passed += guard.feed(stream[:cut])
        stream = stream[cut:]
    assert passed == b"1" + b"".join(GOOD) + END


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_pass_or_are_refused_by_name(noise: bytes, started: bool) -> None:
    guard = FrameGuard()
    passed = b""
    with contextlib.suppress(ProtocolViolation):
        passed = guard.feed((b"1" if started else b"") + noise)
    assert passed == ((b"1" if started else b"") + noise)[: len(passed)]


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (frame(Message.STATUS), "STATUS"),
        (frame(Message.RECONFIGURE, 0, dumps_internal((True, True))), "RECONFIGURE"),
        (frame(Message.CHANNEL_EXEC, 1, dumps_internal("x")), "CHANNEL_EXEC"),
        (frame(99), "99"),
        (frame(-1), "-1"),
        (frame(Message.CHANNEL_DATA, 3, dumps_internal(b"x")), "channel 3"),
        (frame(Message.CHANNEL_DATA, 0, dumps_internal(b"x")), "channel 0"),
        (frame(Message.CHANNEL_CLOSE, 3), "malformed"),
        (frame(Message.CHANNEL_CLOSE, 1, b"x"), "malformed"),
        (frame(Message.GATEWAY_TERMINATE, 1), "malformed"),
        (struct.pack("!bii", Message.CHANNEL_DATA, 1, -1), "-1 bytes"),
        (struct.pack("!bii", Message.CHANNEL_DATA, 1, 1 << 30), "bytes; at most"),
        (struct.pack("!bii", Message.CHANNEL_CLOSE_ERROR, 1, 1 << 30), "error text"),
        (struct.pack("!bii", Message.CHANNEL_CLOSE, 1, -9), "malformed"),
        # a list of 2**31 - 1 elements: 6 bytes that would need gigabytes of memory
        (frame(Message.CHANNEL_DATA, 1, b"K\x7f\xff\xff\xffQ"), "not a byte string"),
        (frame(Message.CHANNEL_DATA, 1, dumps_internal("text")), "not a byte string"),
        (frame(Message.CHANNEL_DATA, 1, dumps_internal([b"x"])), "not a byte string"),
        (frame(Message.CHANNEL_DATA, 1, b"A\0\0\0\x05aQ"), "not a byte string"),
        (frame(Message.CHANNEL_DATA, 1, b"A\0\0\0\x01aX"), "without an end mark"),
        (frame(Message.CHANNEL_CLOSE_ERROR, 1, dumps_internal(b"x")), "not text"),
        (frame(Message.CHANNEL_CLOSE_ERROR, 1, b""), "not text"),
    ],
)
def test_a_trick_ends_the_host(stream: bytes, words: str) -> None:
    guard = FrameGuard()
    assert guard.feed(b"1") == b"1"
    with pytest.raises(ProtocolViolation, match=words):
        guard.feed(stream)


def test_a_shell_that_prints_is_named() -> None:
    with pytest.raises(ProtocolViolation, match=r"Welcome!.*login shell"):
        FrameGuard().feed(b"Welcome!\x1b[2J\n1")


def test_errors_are_capped_and_cannot_drive_a_terminal() -> None:
    text = "\x1b[2J\x1b]0;title\x07" + "x" * 50_000 + "the end"
    passed = FrameGuard().feed(b"1" + frame(Message.CHANNEL_CLOSE_ERROR, 1, dumps_internal(text)))
    assert len(passed) < 5000
    assert b"\x1b" not in passed
    assert passed.endswith(b"the endQ")


def test_a_large_message_streams_through() -> None:
    guard, body = FrameGuard(), bytes(10 << 20)
    stream = b"1" + data(body)
    passed = 0
    for start in range(0, len(stream), 1 << 16):
        passed += len(guard.feed(stream[start : start + (1 << 16)]))
        assert start + (1 << 16) - passed < 1 << 16
    assert passed == len(stream)


def test_a_larger_message_than_allowed_is_refused_at_its_head() -> None:
    with pytest.raises(ProtocolViolation, match="at most 10"):
        FrameGuard(10).feed(b"1" + data(bytes(11))[:9])


def test_nothing_follows_the_good_bye() -> None:
    assert FrameGuard().feed(b"1" + END + b"\xff" * 100) == b"1" + END
