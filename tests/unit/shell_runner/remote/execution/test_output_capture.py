"""Tests of the capture of an output stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shell_runner.remote.execution.output_capture import OutputCapture
from shell_runner.remote.protocol.model import CapturedStream


@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(2, 60).map(lambda n: n * 2))
def test_short_output_is_complete_and_long_output_keeps_both_ends(
    pieces: list[bytes], keep: int
) -> None:
    capture = OutputCapture(keep)
    for piece in pieces:
        capture.add(piece)
    data = b"".join(pieces)
    stream = capture.to_stream()
    kept = stream.text.encode("utf-8", "surrogateescape")
    assert stream.total_bytes == len(data)
    if len(data) <= keep:
        assert (kept, stream.cut_index) == (data, -1)
    else:
        assert len(kept) == keep
        assert kept == data[: keep // 2] + data[-keep // 2 :]
        assert (
            stream.text[: stream.cut_index].encode("utf-8", "surrogateescape") == data[: keep // 2]
        )


def test_no_output_is_an_empty_stream() -> None:
    assert OutputCapture(10).to_stream() == CapturedStream()


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_memory_stays_bounded(keep: int) -> None:
    capture = OutputCapture(keep)
    for _ in range(1000):
        capture.add(b"0123456789")
    stream = capture.to_stream()
    assert stream.total_bytes == 10_000
    assert len(stream.text) == 2


def test_a_character_cut_by_a_read_is_whole() -> None:
    capture = OutputCapture(100)
    for byte in "é".encode():
        capture.add(bytes([byte]))
    assert capture.to_stream().text == "é"
