"""Tests of the splitter for lines of running tests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shell_runner.remote.execution import live_output
from shell_runner.remote.execution.live_output import LineSplitter

NOTE = "[... %d lines are not shown ...]"
text = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\xc3\xa9"]),
        st.sampled_from([b"x" * 4095, b"x" * 4096, b"y" * 9000]),
    ),
    max_size=20,
).map(b"".join)  # fmt: skip


def lines_of(data: bytes, sizes: list[int]) -> list[str]:
    lines, output_lines = LineSplitter(), []
    while data:
        size = sizes.pop() if sizes else len(data)
        output_lines += lines.feed(1, data[:size])
        data = data[size:]
    return output_lines + lines.flush()


@given(text, st.lists(st.integers(1, 5000), max_size=30))
def test_any_chunks_give_the_same_lines(data: bytes, sizes: list[int]) -> None:
    assert lines_of(data, sizes) == lines_of(data, [])


@given(text)
def test_nothing_is_lost_or_too_long(data: bytes) -> None:
    output_lines = lines_of(data, [])
    assert all(len(line) <= 4096 and "\n" not in line for line in output_lines)
    joined = "".join(output_lines).encode("utf-8", "surrogateescape")
    assert joined.replace(b"\r", b"") == data.replace(b"\n", b"").replace(b"\r", b"")


def test_streams_do_not_mix() -> None:
    lines = LineSplitter()
    assert lines.feed(1, b"out") == []
    assert lines.feed(2, b"err\n") == ["err"]
    assert lines.feed(1, b"put\r\n") == ["output"]
    lines.feed(1, b"a")
    lines.feed(2, b"b")
    assert sorted(lines.flush()) == ["a", "b"]
    assert lines.flush() == []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(live_output, "time", type("Clock", (), {"monotonic": lambda: now[0]}))
    monkeypatch.setattr(live_output, "_MAX_BYTES_PER_SECOND", 10)
    return now


def test_dropped_lines_are_counted_once_the_rate_falls(clock: list[float]) -> None:
    lines = LineSplitter()
    assert lines.feed(1, b"123456\n") == ["123456"]
    assert lines.feed(1, b"1\n2\n3\n") == []
    assert lines.feed(1, b"4\n") == []
    clock[0] += 1
    assert lines.feed(1, b"5\n") == [NOTE % 4, "5"]


def test_a_line_is_shown_completely_or_not_at_all(clock: list[float]) -> None:
    lines = LineSplitter()
    lines.feed(1, b"begun")  # and then 20 bytes more, which are too many
    assert lines.feed(1, b" over\nlost\nlost too") == []
    clock[0] += 1
    assert lines.feed(1, b" end") == []
    assert lines.feed(1, b"s\nok\n") == [NOTE % 3, "ok"]


def test_lines_dropped_until_the_end_are_counted_at_the_end(clock: list[float]) -> None:
    lines = LineSplitter()
    assert lines.feed(1, b"x" * 20) == []
    assert lines.flush() == [NOTE % 1]
    assert lines.flush() == []
