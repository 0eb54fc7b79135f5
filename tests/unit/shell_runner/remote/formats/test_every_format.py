"""Tests of the guarantees of every format for any bytes."""

from __future__ import annotations

import importlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shell_runner.remote import formats
from shell_runner.remote.protocol.model import (
    ERROR,
    FAILED,
    PASSED,
    SKIPPED,
    XFAILED,
    XPASSED,
    ParsedOutput,
)

SAMPLES = sorted((Path(__file__).parent / "samples").iterdir())
BUILTIN = [importlib.import_module(f"{formats.__name__}.{name}") for name in formats.BUILTIN_NAMES]
STREAMED = [module for module in BUILTIN if hasattr(module, "Reader")]
OUTCOMES = {PASSED, FAILED, SKIPPED, ERROR, XFAILED, XPASSED}
OF = {".tap": "tap", ".subunit": "subunit", ".xml": "junit"}
each_stream = pytest.mark.parametrize("module", STREAMED, ids=lambda module: module.NAME)
each_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)


def read(module, data, *, size=None, forced=False):
    reader = module.Reader(forced)
    step = size or max(len(data), 1)
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
    return reader.close()


def format_of(sample):
    if sample.suffix == ".json":
        return "gotest" if sample.name.startswith("go-") else "libtest"
    return OF[sample.suffix]


def check(parsed):
    assert parsed is None or isinstance(parsed, ParsedOutput)
    for case in parsed.cases if parsed else ():
        assert case.outcome in OUTCOMES
        assert case.name
        assert case.duration is None or 0 <= case.duration < float("inf")
        (case.name + case.message + case.details + case.group).encode()


def test_each_format_has_a_name_and_one_way_in():
    for module in BUILTIN:
        assert module.__name__.rpartition(".")[2] == module.NAME
        assert hasattr(module, "Reader") != hasattr(module, "read_file")


def test_suffixes_force_tap_alone():
    suffixes = {module.NAME: formats.get_suffixes(module) for module in BUILTIN}
    assert suffixes.pop("tap") == (".t", ".bats")
    assert set(suffixes.values()) == {()}


def test_the_table_of_suffixes_agrees_with_the_modules():
    named = {suffix: module.NAME for module in BUILTIN for suffix in formats.get_suffixes(module)}
    assert named == formats.BUILTIN_SUFFIXES


@each_sample
def test_a_real_stream_is_recognized_by_its_own_format_alone(sample):
    data = sample.read_bytes()
    claimed = [module.NAME for module in STREAMED if read(module, data) is not None]
    assert claimed == ([] if sample.suffix == ".xml" else [format_of(sample)])


@each_sample
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_a_real_stream_reads_the_same_in_any_chunks(sample, size):
    for module in STREAMED:
        data = sample.read_bytes()
        assert read(module, data, size=size) == read(module, data)


@each_stream
@given(st.binary(max_size=300), st.integers(1, 9), st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_bytes_in_any_chunks_read_the_same(module, data, size, forced):
    parsed = read(module, data, forced=forced)
    check(parsed)
    assert read(module, data, size=size, forced=forced) == parsed


@each_stream
def test_forced_output_without_a_trace_of_the_format_is_a_problem(module):
    parsed = read(module, b"hello\n", forced=True)
    assert parsed is not None
    assert parsed.problem
    assert not parsed.cases


@each_stream
@pytest.mark.parametrize("data", [b"x" * 200000, b"\0" * 200000, b"\xb3" * 200000, b"\n" * 200000])
def test_other_output_is_refused_or_not_recognized(module, data):
    assert read(module, data) is None


def mutated(data, random_):
    data = bytearray(data)
    for _ in range(random_.randint(1, 6)):
        at = random_.randrange(len(data) or 1)
        kind = random_.randrange(4)
        if kind == 0:
            data[at : at + 1] = bytes([random_.randrange(256)])
        elif kind == 1:
            del data[at : at + random_.randint(1, 40)]
        elif kind == 2:
            data[at:at] = data[at : at + random_.randint(1, 40)]
        else:
            del data[at:]
    return bytes(data)


@each_sample
def test_a_damaged_stream_raises_nothing(sample, tmp_path):
    modules = {module.NAME: module for module in BUILTIN}
    module = modules[format_of(sample)]
    for seed in range(60):
        data = mutated(sample.read_bytes(), random.Random(seed))
        if sample.suffix == ".xml":
            path = tmp_path / "damaged.xml"
            path.write_bytes(data)
            check(module.read_file(str(path)))
        else:
            parsed = read(module, data, forced=True)
            check(parsed)
            assert read(module, data, size=13, forced=True) == parsed


# A stream of several suites that is cut between two of them looks complete, so it is left out.
ONE_SUITE = [path for path in SAMPLES if path.suffix == ".json" and "mixed" not in path.name]


@pytest.mark.parametrize("sample", ONE_SUITE, ids=lambda path: path.name)
def test_a_json_stream_that_is_cut_is_never_green(sample):
    module = {module.NAME: module for module in STREAMED}[format_of(sample)]
    data = sample.read_bytes()
    for at in range(len(data) // 10, len(data) - 2, max(1, len(data) // 40)):
        parsed = read(module, data[:at])
        # Before the first line is complete, the format is unknown.
        has_error = parsed is None or [case for case in parsed.cases if case.outcome == ERROR]
        assert has_error or parsed.problem
