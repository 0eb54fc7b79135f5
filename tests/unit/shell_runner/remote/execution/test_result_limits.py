"""Tests that every result of a host can be sent, whatever its size."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from shell_runner.remote.execution.result_limits import shorten_to_fit
from shell_runner.remote.protocol import frames, verdict
from shell_runner.remote.protocol.model import (
    FAILED,
    PASSED,
    CapturedStream,
    Case,
    Execution,
    ParsedOutput,
    Test,
    execution_from_row,
)


def make_cases(count: int, **fields: str) -> ParsedOutput:
    return ParsedOutput("tap", [Case(f"case {n}", FAILED, **fields) for n in range(count)])


def make_stream(text: str) -> CapturedStream:
    return CapturedStream(text, len(text))


#: Results are made when a test needs them: they are large.
RESULTS: dict[str, Callable[[], Execution]] = {
    "small": lambda: Execution(1, exit_status=0),
    "large details": lambda: Execution(
        1, exit_status=1, parsed=make_cases(300, details="x" * 60_000)
    ),
    "too large details": lambda: Execution(
        1, exit_status=1, parsed=make_cases(600, details="x" * 60_000)
    ),
    "commas in details": lambda: Execution(
        1, exit_status=1, parsed=make_cases(100, details="," * 60_000)
    ),
    "large names": lambda: Execution(1, exit_status=1, parsed=make_cases(9000, group="x" * 4000)),
    "many cases": lambda: Execution(1, exit_status=0, parsed=make_cases(500_000)),
    "escaped output": lambda: Execution(1, exit_status=1, stdout=make_stream("\udcff" * 8_000_000)),
    "commas": lambda: Execution(
        1, stdout=make_stream("," * 4_000_000), stderr=make_stream("," * 4_000_000)
    ),
    "all": lambda: Execution(
        1,
        exit_status=1,
        stdout=make_stream("\udcff" * 8_000_000),
        stderr=make_stream("\udcff" * 8_000_000),
        leftovers=("\ufffd" * 15,) * 10_000,
        parsed=make_cases(100_000, details="\udcff" * 1000),
        artifacts=tuple(("\udcff" * 100 + f"{n:05}", n) for n in range(10_000)),
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_fits_into_a_message_and_its_frames_pass_the_guard(name: str) -> None:
    execution = RESULTS[name]()
    shortened, row = shorten_to_fit(execution, frames.is_sendable)
    assert frames.is_sendable(row)
    joiner, whole = frames.FrameJoiner(), b""
    for frame in frames.split_messages([b'["done",' + row.encode("ascii") + b"]"]):
        assert len(frame) <= frames.MAX_FRAME_BYTES
        whole = joiner.add(frame)
    ((kind, received),) = frames.unpack_frame(whole)
    assert kind == "done"
    assert execution_from_row(received) == execution_from_row(json.loads(row))
    before, now = (verdict.judge(Test(1, "test_a"), each) for each in (execution, shortened))
    assert now.outcome != PASSED or before.outcome == PASSED
    if shortened.parsed is not None and shortened.parsed.cases:
        assert now == before


def test_the_border_of_a_message() -> None:
    def make(size: int) -> Execution:
        return Execution(1, exit_status=1, stdout=CapturedStream("x" * size, size))

    overhead = len(json.dumps(make(0), separators=(",", ":")))
    largest = frames.MAX_MESSAGE_BYTES - frames._MESSAGE_OVERHEAD - overhead - 10
    while not frames.is_sendable(json.dumps(make(largest), separators=(",", ":"))):
        largest -= 1
    exact = make(largest)
    assert shorten_to_fit(exact, frames.is_sendable)[0] is exact
    beyond = make(largest + 10)
    shortened, row = shorten_to_fit(beyond, frames.is_sendable)
    assert shortened is not beyond
    assert frames.is_sendable(row)
    joiner = frames.FrameJoiner()
    row = json.dumps(exact, separators=(",", ":"))
    parts = list(frames.split_messages([b'["done",' + row.encode() + b"]"]))
    assert len(parts) > 1
    assert [bool(joiner.add(part)) for part in parts] == [False] * (len(parts) - 1) + [True]


def test_what_was_dropped_is_said() -> None:
    details, _ = shorten_to_fit(RESULTS["too large details"](), frames.is_sendable)
    assert details.parsed is not None
    assert details.parsed.cases[0].details == "x" * 1000 + "\n[59000 more characters]"
    names, _ = shorten_to_fit(RESULTS["large names"](), frames.is_sendable)
    result = verdict.judge(Test(1, "test_a"), names._replace(exit_status=0))
    assert result == ("error", "its 9000 cases are too large for a result; none is kept", False)
