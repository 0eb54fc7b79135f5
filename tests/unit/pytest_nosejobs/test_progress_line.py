"""Tests of the progress line: its times and its texts."""

import io
import time

import pytest

from pytest_nosejobs.progress_line import ProgressLine, describe_reading, describe_shipping


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setenv("TERM", "xterm")
    return now


def show_each(progress: ProgressLine, clock: list[float], seconds: int) -> None:
    """Show a new message every half second."""
    for number in range(seconds * 2):
        progress.show(f"h1: {number}")
        clock[0] += 0.5


def test_elsewhere_a_line_each_ten_seconds(clock: list[float]) -> None:
    stream = io.StringIO()
    progress = ProgressLine(stream, 80)
    show_each(progress, clock, 25)
    progress.end()
    expected = [f"nosejobs: h1: {number}" for number in (2, 22, 42)]
    assert stream.getvalue().splitlines() == expected


def test_on_a_terminal_one_line_changes_each_second_and_goes(clock: list[float]) -> None:
    stream = Terminal()
    progress = ProgressLine(stream, 80)
    show_each(progress, clock, 4)
    lines = [f"\rnosejobs: h1: {number}\x1b[K" for number in (2, 4, 6)]
    assert stream.getvalue() == "".join(lines)
    progress.end()
    progress.end()
    assert stream.getvalue() == "".join(lines) + "\r\x1b[K"


def test_what_takes_less_than_a_second_is_not_show_each(clock: list[float]) -> None:
    stream = Terminal()
    progress = ProgressLine(stream, 80)
    show_each(progress, clock, 1)
    progress.end()
    assert stream.getvalue() == ""


def test_a_line_fits_the_terminal(clock: list[float]) -> None:
    stream = Terminal()
    progress = ProgressLine(stream, 20)
    clock[0] += 2
    progress.show("x" * 50)
    assert stream.getvalue() == f"\rnosejobs: {'x' * 9}\x1b[K"


@pytest.mark.parametrize(("quiet", "message"), [(True, "h1"), (False, "")])
def test_nothing_to_say_or_nobody_to_hear(clock: list[float], quiet: bool, message: str) -> None:
    stream = io.StringIO()
    progress = ProgressLine(stream, 80, quiet)
    clock[0] += 2
    progress.show(message)
    assert stream.getvalue() == ""


def test_messages() -> None:
    assert describe_reading(312_000_000, 2_048_000_000) == "reading 312 of 2048 MB of the tree"
    assert describe_shipping({}) == ""
    assert describe_shipping({"h1": (312_000_000, 2_048_000_000)}) == "h1: shipping 312 of 2048 MB"
    assert describe_shipping({"h1": (1500, 20_000), "h2": (5, 5)}) == (
        "h1: shipping 1 of 20 kB, h2: unpacking"
    )
    many = {f"h{number}": (0, 0) for number in range(5)}
    assert describe_shipping(many).endswith("h2: unpacking, and 2 more hosts")
