"""Head and tail of a stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shell_runner.remote.execution.output_capture import Capture
from shell_runner.remote.protocol.model import Stream


@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(2, 60).map(lambda n: n * 2))
def test_what_fits_is_whole_and_what_does_not_keeps_both_ends(
    pieces: list[bytes], keep: int
) -> None:
    capture = Capture(keep)
    for piece in pieces:
        capture.add(piece)
    whole = b"".join(pieces)
    found = capture.stream()
    kept = found.text.encode("utf-8", "surrogateescape")
    assert found.total == len(whole)
    if len(whole) <= keep:
        assert (kept, found.cut_at) == (whole, -1)
    else:
        assert len(kept) == keep
        assert kept == whole[: keep // 2] + whole[-keep // 2 :]
        assert found.text[: found.cut_at].encode("utf-8", "surrogateescape") == whole[: keep // 2]


def test_nothing_is_an_empty_stream() -> None:
    assert Capture(10).stream() == Stream()


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_memory_stays_bounded(keep: int) -> None:
    capture = Capture(keep)
    for _ in range(1000):
        capture.add(b"0123456789")
    found = capture.stream()
    assert found.total == 10_000
    assert len(found.text) == 2


def test_a_character_cut_by_a_read_is_whole() -> None:
    capture = Capture(100)
    for byte in "é".encode():
        capture.add(bytes([byte]))
    assert capture.stream().text == "é"
