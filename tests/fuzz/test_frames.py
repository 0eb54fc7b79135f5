"""Fuzzers of what a host sends: execnet's frames, and our messages as the controller reads them."""

from __future__ import annotations

import contextlib
import copy
import json
import queue
import random
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from shell_runner.errors import HostError
from shell_runner.hosts.fleet import Host
from shell_runner.hosts.frame_guard import FrameGuard, ProtocolViolation
from shell_runner.hosts.spec import parse_specs
from shell_runner.remote.protocol import frames, verdict
from shell_runner.remote.protocol.model import (
    CapturedStream,
    Case,
    Execution,
    HostFacts,
    ParsedOutput,
    Setup,
    Test,
)
from shell_runner.reporting import report_text
from shell_runner.run.controller import RunController
from shell_runner.run.events import Finished
from shell_runner.run.scheduler import Scheduler
from tests.helpers.fuzzing import iterate_seeds, load_corpus, mutate

_DATA, _CLOSE_ERROR, _CLOSE, _LAST_MESSAGE, _TERMINATE = 4, 6, 5, 7, 2
_HEADER = struct.Struct("!bii")
#: Bytes that the guard may hold back: the start of a frame.
_LIMIT = 4096

_EXECUTION = Execution(
    1, exit_status=1, stdout=CapturedStream("out\n", 4), stderr=CapturedStream("ab", 9, 1),
    leftovers=("sleep",), artifacts=(("a/b", 1),),
    parsed=ParsedOutput("tap", [Case("one", "failed", "m", "d", 0.5, "g", (("k", "v"),))], "p"),
)  # fmt: skip
_MESSAGES: list[list[Any]] = [
    ["done", list(_EXECUTION)],
    ["done", list(Execution(1, exit_status=0))],
    ["running", 1, 1],
    ["line", 1, "text"],
    ["returned", [1]],
    ["waiting", "lock", "gpu"],
    ["error", "it broke"],
    ["artifact", 1, 1, "a/b", True],
    ["ready", {**HostFacts("n", "Linux", "x", "3.9", 1, 1, "/r")._asdict()}],
    ["received"],
    ["missing", [1], []],
    ["bye"],
]
_ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 255, 256, 1e308, float("nan"), float("inf"), 2**70, 10**4000,
    "", "x" * 5000, "\x1b[2J\u202e", "\ud800", "\udcff", "a\nb", "/".join("d" * 300), "../x", "\0",
    [], {}, [[]], [None], {"a": []}, "done", [1, 2, 3],
]  # fmt: skip


# -- frames of execnet ----------------------------------------------------------------


def _make_frame(code: int, channel: int, payload: bytes) -> bytes:
    return _HEADER.pack(code, channel, len(payload)) + payload


def _make_stream(rng: random.Random) -> bytes:
    """Return the bytes of a correct host."""
    parts = [b"1"]
    for _ in range(rng.randint(0, 4)):
        body = rng.randbytes(rng.randint(0, 50))
        parts.append(_make_frame(_DATA, 1, b"A" + struct.pack("!i", len(body)) + body + b"Q"))
    ends = [
        _make_frame(_CLOSE_ERROR, 1, b"N" + struct.pack("!i", 4) + b"boomQ"),
        _make_frame(_CLOSE, 1, b""),
        _make_frame(_LAST_MESSAGE, 1, b""),
        _make_frame(_TERMINATE, 0, b""),
        b"",
    ]
    return b"".join(parts) + rng.choice(ends)


def _pass_guard(chunks: list[bytes]) -> tuple[bytes, bool]:
    """Return what the guard passes, and whether it ended the connection."""
    guard, passed = FrameGuard(_LIMIT), b""
    try:
        for chunk in chunks:
            passed += guard.feed(chunk)
            assert len(guard._buffer) <= (1 << 20) + len(chunk) + 64
    except ProtocolViolation as error:
        violation = str(error)
    else:
        return passed, False
    assert violation.isprintable()
    return passed, True


def _split(rng: random.Random, data: bytes) -> list[bytes]:
    cuts = sorted(rng.randint(0, len(data)) for _ in range(rng.randint(0, 6)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _check_passed(passed: bytes) -> None:
    """Check that execnet gets nothing but allowed frames; the last one may be incomplete."""
    assert passed[:1] in (b"", b"1")
    at = 1
    while len(passed) - at >= _HEADER.size:
        code, channel, length = _HEADER.unpack_from(passed, at)
        at += _HEADER.size
        assert code in (_DATA, _CLOSE, _CLOSE_ERROR, _LAST_MESSAGE, _TERMINATE)
        assert channel == (0 if code == _TERMINATE else 1)
        assert 0 <= length <= (_LIMIT + 6 if code == _DATA else 20_000)
        if code == _DATA:
            assert passed[at : at + 1] in (b"A", b"")
        at += length


def test_the_guard_passes_only_frames_of_a_correct_host() -> None:
    violations = passes = 0
    for rng in iterate_seeds():
        for _ in range(100):
            honest = _make_stream(rng)
            assert not _pass_guard(_split(rng, honest))[1]
            data = mutate(rng, honest)
            chunks = _split(rng, data)
            whole, pieces = _pass_guard([data]), _pass_guard(chunks)
            assert whole[1] == pieces[1]
            if not whole[1]:
                assert whole == pieces
            _check_passed(pieces[0])
            violations += whole[1]
            passes += not whole[1]
    assert violations
    assert passes


# -- our messages ---------------------------------------------------------------------


def _replace_node(rng: random.Random, value: Any) -> Any:
    """Return the JSON value with one node in it replaced, removed or repeated."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        return {**value, key: _replace_node(rng, value[key])}
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.9:
        items, at = list(value), rng.randrange(len(value))
        action = rng.random()
        if action < 0.05:
            del items[at]
        elif action < 0.1:
            items.insert(at, copy.deepcopy(items[at]))
        else:
            items[at] = _replace_node(rng, items[at])
        return items
    return copy.deepcopy(rng.choice(_ODD))


def _make_frames(rng: random.Random, corpus: list[bytes]) -> Iterator[bytes]:
    """Yield frames with one odd message, or odd bytes."""
    message = rng.choice(_MESSAGES)
    for _ in range(rng.randint(0, 3)):
        message = _replace_node(rng, message)
    if rng.random() < 0.2 and isinstance(message, list):
        yield frames.pack_blob(message, rng.randbytes(5))
        return
    packed = b"J" + json.dumps([message]).encode("ascii")
    if rng.random() < 0.2:
        packed = mutate(rng, rng.choice([packed, *corpus]))
    if rng.random() < 0.2:
        at = rng.randint(0, len(packed))
        yield b"P" + packed[:at]
        yield b"E" + packed[at:]
    else:
        yield packed


def _make_run() -> tuple[RunController, Host]:
    (spec,) = parse_specs(["popen"], {})
    host = Host(spec, Setup("/"), queue.SimpleQueue())
    fleet: Any = SimpleNamespace(hosts=[host])

    def receive(test: int, attempt: int, path: str, body: bytes) -> None:
        if not isinstance(path, str) or not isinstance(body, bytes):
            raise ValueError("not an artifact")

    run = RunController(fleet, [Test(1, "t")], Scheduler([1], {}), receive)
    run._perform(run._scheduler.add_host(host.id, 1))
    return run, host


def _check_report(execution: Execution) -> None:
    """Check that the reports of an accepted execution can be made and are safe to show."""
    context = report_text.FailureContext("t", "./t", "t")
    test = Test(1, "t")
    texts = [str(report_text.describe_failure(test, execution, context))]
    texts += [report_text.make_readable(verdict.judge(test, execution).message)]
    texts += [report_text.skip_reason(execution), report_text.format_stream(execution.stdout)]
    texts += [f"{key}={text}" for key, text in report_text.execution_properties(execution, "h")]
    cases = execution.parsed.cases if execution.parsed else []
    for case, names in report_text.name_cases(cases):
        texts += [*names, *map("=".join, report_text.case_properties(case))]
        texts += [str(report_text.describe_case_failure(case, execution, context, True))]
        texts += [report_text.case_skip_reason(case), *report_text.junit_names("t", names)]
    assert report_text.unclaimed_duration(execution, cases) >= 0
    for text in texts:
        assert not {"\x1b", "\u202e", "\0", "\ud800"} & set(text), text
        text.encode()


def _feed_controller(sent: list[bytes]) -> bool:
    """Let a host send frames to a run; return whether it was lost.  No exception may escape."""
    run, host = _make_run()
    for frame in sent:
        run._handle_frame(host, frame)
    while not run.results.empty():
        batch = run.results.get()
        assert isinstance(batch, list)
        for event in batch:
            if isinstance(event, Finished):
                _check_report(event.execution)
    for loss in run.losses:
        assert str(loss.error).isprintable()
        assert len(str(loss.error)) < 5000
    return bool(run.losses)


def _feed_opening(sent: list[bytes]) -> None:
    """Let a host send frames before it is ready.  Only errors that name it may be raised."""
    _, host = _make_run()
    for frame in sent:
        host._on_frame(frame)
    host._on_frame(None)
    with contextlib.suppress(HostError, ValueError):
        (facts,) = host._await_message("ready")
        host._check_facts(facts)


def test_any_message_is_taken_or_loses_its_host() -> None:
    corpus, lost, kept = load_corpus("frames"), 0, 0
    for frame in corpus:
        _feed_controller([frame])
    for rng in iterate_seeds():
        for _ in range(50):
            sent = list(_make_frames(rng, corpus))
            if _feed_controller(sent):
                lost += 1
            else:
                kept += 1
            _feed_opening(sent)
    assert lost
    assert kept


@pytest.mark.parametrize("message", _MESSAGES, ids=lambda message: str(message[0]))
def test_correct_messages_are_taken(message: list[Any]) -> None:
    packed = frames.pack_messages([message])
    if message[0] == "artifact":
        packed = frames.pack_blob(message, b"x")
    is_lost = _feed_controller([packed])
    assert is_lost == (message[0] in ("ready", "received", "missing", "error"))
