"""Fuzzers of the readers of output: TAP, subunit, go test, libtest and JUnit XML.

Any bytes in chunks of any size give the same cases or none, never an exception, in a time that
is bounded by their number.
"""

from __future__ import annotations

import importlib
import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from shell_runner.remote.formats import BUILTIN_NAMES, bounds
from shell_runner.remote.protocol import model
from shell_runner.remote.protocol.model import ParsedOutput
from tests.helpers.fuzzing import iterate_seeds, limit_processor_time, load_corpus, mutate

_OUTCOMES = {
    model.PASSED, model.FAILED, model.SKIPPED, model.ERROR, model.XFAILED, model.XPASSED,
}  # fmt: skip
#: Seconds of processor time for one stream of some kilobytes; readers take milliseconds.
_MAX_SECONDS = 5
_TEXTS = ("", "a", "b # c", "\\#", "\x1b[31m", "\ud800", "\u202e", "\0", "x" * 5000, "<&>", "::")
_NUMBERS = (0, 1, 2, -1, 10**6, 10**400, 1.5, -0.5, float("nan"), float("inf"), True, None)

_Generator = Callable[[random.Random], bytes]


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _make_tap(rng: random.Random) -> bytes:
    fragments = (
        "TAP version 13", "TAP version 14", "TAP version 99999999999", "1..3", "1..0 # SKIP why",
        "1..99999999999999999999", "1..", "ok", "ok 1", "not ok 2 - b", "ok 3 # TODO later",
        "ok 4 # SKIP", "not ok 5 # todo", "ok 99999999999999999999", "  ---", "  message: |",
        "    deep: [1, 2", "  ...", "Bail out! why", "    ok 1 - nested", "    1..1",
        "# Subtest: s", "    # Subtest: t", "pragma +strict", "pragma -x", "# comment", "noise",
        "ok 6 - s {", "}", "        ok 1 - deeper",
    )  # fmt: skip
    lines = [rng.choice(fragments) for _ in range(rng.randint(1, 40))]
    lines = [line + rng.choice(_TEXTS) if rng.random() < 0.2 else line for line in lines]
    lines = [" " * rng.randint(0, 9) + line if rng.random() < 0.1 else line for line in lines]
    if rng.random() < 0.05:
        lines += ["    " * depth + "# Subtest: x" for depth in range(400)]
    return _encode(rng.choice(("\n", "\n", "\r\n")).join(lines))


def _make_value(rng: random.Random, depth: int = 0) -> object:
    if depth < 3 and rng.random() < 0.1:
        return [_make_value(rng, depth + 1), {"a": _make_value(rng, depth + 1)}]
    return rng.choice(_NUMBERS if rng.random() < 0.4 else _TEXTS)


def _make_json(rng: random.Random, choices: dict[str, tuple[object, ...]]) -> bytes:
    lines = []
    for _ in range(rng.randint(1, 30)):
        row = {key: rng.choice(values) for key, values in choices.items() if rng.random() < 0.9}
        if row and rng.random() < 0.1:
            row[rng.choice(list(row))] = _make_value(rng)
        lines.append(json.dumps(row).encode())
    if rng.random() < 0.05:
        lines.append(b'{"a":' * 100_000)
    return b"\n".join(lines)


def _make_gotest(rng: random.Random) -> bytes:
    actions = ("start", "run", "pause", "cont", "pass", "fail", "skip", "output", "bench", "?")
    choices: dict[str, tuple[object, ...]] = {
        "Action": actions, "Package": ("p", "q"), "Test": ("T", "T/a", "T/a/b", "U"),
        "Output": ("--- FAIL: T\n", "panic: x\n", *_TEXTS), "Elapsed": _NUMBERS,
        "Time": ("2024-01-01T00:00:00Z", "?"),
    }  # fmt: skip
    return _make_json(rng, choices)


def _make_libtest(rng: random.Random) -> bytes:
    events = ("started", "ok", "failed", "ignored", "timeout", "discovered", "?")
    choices: dict[str, tuple[object, ...]] = {
        "type": ("suite", "test", "bench", "?"), "event": events, "name": ("a", "b::c", "d"),
        "stdout": _TEXTS, "message": _TEXTS, "exec_time": _NUMBERS, "test_count": _NUMBERS,
        "passed": _NUMBERS,
    }  # fmt: skip
    return _make_json(rng, choices)


def _make_subunit(rng: random.Random) -> bytes:
    packets = b""
    for _ in range(rng.randint(1, 12)):
        flags = 0x2000 | rng.randrange(0x1000) if rng.random() < 0.5 else 0x2800 | rng.randrange(8)
        body = b"\1a" if flags & 0x800 else b""
        if rng.random() < 0.5:
            body += rng.randbytes(rng.randrange(20))
        size = 3 + 3 + len(body) if rng.random() < 0.8 else rng.randrange(1 << 14)
        # Signature, flags and a length in two bytes, then the checksum of all of it.
        head = b"\xb3" + struct.pack(">H", flags) + struct.pack(">H", 0x4000 | (size + 3) & 0x3FFF)
        data = head + body
        packets += data + struct.pack(">L", zlib.crc32(data))
        packets += rng.choice((b"", b"", b"text\n", b"\xb3"))
    return packets


def _make_junit(rng: random.Random) -> bytes:
    def tag(depth: int) -> str:
        name = rng.choice(
            ("testsuites", "testsuite", "testcase", "failure", "error", "skipped", "system-out",
             "properties", "property", "rerunFailure", "x:y", "\u00e4")
        )  # fmt: skip
        keys = ("name", "classname", "time", "message", "value", "tests", "status", "result")
        values = ("1", "nan", "1,5", "-1", "1e999", "1e99", "&#10;", "a.b", "", "9" * 99)
        attributes = "".join(
            f' {key}="{rng.choice(values)}"' for key in rng.sample(keys, rng.randrange(5))
        )
        children = [tag(depth + 1) for _ in range(rng.randrange(4))] if depth < 5 else []
        text = rng.choice(("", "text", "&lt;", "&amp;", "<![CDATA[x]]>", "&unknown;", "\x1b"))
        return f"<{name}{attributes}>{text}{''.join(children)}</{name}>"

    head = rng.choice(("", "<?xml version='1.0'?>", '<!DOCTYPE a [<!ENTITY b "c">]>', "\ufeff"))
    if rng.random() < 0.03:
        return _encode(head + "<testsuite>" * 20_000)
    return _encode(f"{head}<testsuite>{''.join(tag(0) for _ in range(4))}</testsuite>")


_GENERATORS: dict[str, _Generator] = {
    "tap": _make_tap, "subunit": _make_subunit, "gotest": _make_gotest,
    "libtest": _make_libtest, "junit": _make_junit,
}  # fmt: skip


def _make_stream(rng: random.Random, name: str, corpus: list[bytes]) -> bytes:
    data = rng.choice(corpus) if rng.random() < 0.5 else _GENERATORS[name](rng)
    return mutate(rng, data) if rng.random() < 0.6 else data


def _read(name: str, data: bytes, sizes: random.Random | None, path: Path) -> ParsedOutput | None:
    """Read a stream or a file in chunks; ``sizes`` makes their sizes, None means one chunk."""
    module = importlib.import_module(f"shell_runner.remote.formats.{name}")
    if hasattr(module, "read_file"):
        path.write_bytes(data)
        parsed: ParsedOutput | None = module.read_file(str(path))
        return parsed
    reader = module.Reader(forced=True)
    while data:
        size = sizes.choice((1, 7, 512, 1 << 16)) if sizes else len(data)
        reader.feed(data[:size])
        data = data[size:]
    closed: ParsedOutput | None = reader.close()
    return closed


def _check(name: str, data: bytes, rng: random.Random, path: Path) -> bool:
    """Read a stream in two ways; return whether it had cases."""
    with limit_processor_time(_MAX_SECONDS):
        parsed = _read(name, data, None, path)
        assert _read(name, data, rng, path) == parsed
    for case in parsed.cases if parsed else ():
        assert case.outcome in _OUTCOMES
        assert case.name
        assert len(case.name) <= bounds.MAX_NAME_CHARS
        assert len(case.message) <= bounds.MAX_MESSAGE_CHARS
        assert len(case.details) <= 2 * bounds.MAX_DETAILS_CHARS
        assert len(case.properties) <= bounds.MAX_PROPERTIES
        assert case.duration is None or 0 <= case.duration < float("inf")
        (case.name + case.message + case.details + case.group).encode()
    assert parsed is None or model.parsed_output_from_row(tuple(parsed)) == parsed
    return parsed is not None and bool(parsed.cases)


@pytest.mark.parametrize("name", BUILTIN_NAMES)
def test_found_streams(name: str, tmp_path: Path) -> None:
    for data in load_corpus(name):
        _check(name, data, random.Random(0), tmp_path / "file")


@pytest.mark.parametrize("name", BUILTIN_NAMES)
def test_any_stream_gives_cases_or_none(name: str, tmp_path: Path) -> None:
    corpus = load_corpus(name)
    path = tmp_path / "file"
    outcomes = {_check(name, _make_stream(rng, name, corpus), rng, path) for rng in iterate_seeds()}
    assert outcomes == {True, False}
