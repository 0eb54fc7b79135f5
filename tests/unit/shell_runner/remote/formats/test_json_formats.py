"""Tests of the cases in the JSON output of go test and of libtest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shell_runner.remote.formats import gotest, libtest

SAMPLES = Path(__file__).parent / "samples"


def read(module, *events, tail=""):
    reader = module.Reader()
    text = "".join(json.dumps(event) + "\n" for event in events) + tail
    reader.feed(text.encode())
    return reader.close()


def sample(module, name):
    reader = module.Reader()
    reader.feed((SAMPLES / name).read_bytes())
    return reader.close()


def short(parsed):
    return [
        "%s: %s%s" % (case.outcome, case.group + " > " if case.group else "", case.name)
        for case in parsed.cases
    ]


REAL = {
    "go-ok.json": [
        "passed: example.com/m/ok > TestOne", "passed: example.com/m/ok > TestSub > a",
        "failed: example.com/m/ok > TestSub > b/c",
        "skipped: example.com/m/ok > TestSub > deep > er", "passed: example.com/m/ok > TestSlow",
    ],
    "go-bad.json": [
        "passed: example.com/m/bad > TestFine", "failed: example.com/m/bad > TestBoom",
    ],
    "go-nobuild.json": ["error: example.com/m/nobuild"],
    "go-empty.json": [],
    "go-exit.json": ["error: example.com/m/exit > TestX"],
    "rust-mixed.json": [
        "passed: tests::adds", "failed: tests::fails", "skipped: tests::ignored",
        "passed: tests::panics",
    ],
    "rust-bench.json": ["skipped: tests::aborts", "passed: tests::b"],
    "rust-abort.json": ["error: tests::aborts", "error: tests::b"],
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_streams_read_as_their_tools_meant(name):
    module = gotest if name.startswith("go") else libtest
    parsed = sample(module, name)
    assert short(parsed) == REAL[name]
    assert parsed.problem == ("a suite did not end" if "abort" in name else "")


def test_a_go_failure_shows_what_it_printed():
    case = sample(gotest, "go-ok.json").cases[2]
    assert (case.message, case.details) == ("broken", "    ok_test.go:4: broken\n")


def test_a_go_package_that_does_not_build_shows_the_compiler():
    case = sample(gotest, "go-nobuild.json").cases[0]
    assert case.message == "build failed"
    assert "undefined: undefined" in case.details


def test_a_go_package_without_tests_skips_all():
    assert sample(gotest, "go-empty.json").skip_all == "no test files"


def event(action, test="", **more):
    values = {"Action": action, "Package": "p", **more}
    return {**values, "Test": test} if test else values


def test_a_go_package_that_fails_alone_is_an_error():
    parsed = read(gotest, event("start"), event("run", "T"), event("pass", "T"), event("fail"))
    assert short(parsed) == ["passed: p > T", "error: p"]


def test_a_go_parent_that_fails_alone_is_a_case():
    events = [event("run", "T"), event("run", "T/a"), event("pass", "T/a"), event("fail", "T")]
    assert short(read(gotest, *events, event("fail"))) == ["passed: p > T > a", "failed: p > T"]


def test_a_go_stream_that_is_cut_is_a_problem():
    parsed = read(gotest, event("start"), event("run", "T"), tail='{"Action":"pa')
    assert short(parsed) == ["error: p > T"]
    assert parsed.problem == "the package p did not end"


def test_a_go_build_that_no_package_reports_is_an_error():
    parsed = read(gotest, {"Action": "build-fail", "ImportPath": "p"})
    assert short(parsed) == ["error: p"]


def test_other_output_between_go_events_is_passed_over():
    parsed = read(gotest, event("run", "T"), event("pass", "T"), tail="noise\n{}\n[1]\n")
    assert short(parsed) == ["passed: p > T"]


@pytest.mark.parametrize("first", ["{}", '{"Action":"pass"}', '{"Action":1,"Package":"p"}', "x"])
def test_a_stream_that_does_not_begin_with_a_go_event_is_refused(first):
    reader = gotest.Reader()
    reader.feed(first.encode() + b"\n")
    assert reader.refused
    assert reader.close() is None


STARTED = {"type": "suite", "event": "started", "test_count": 1}
ENDED = {"type": "suite", "event": "ok", "passed": 1, "failed": 0, "ignored": 0, "measured": 0}
PASSED = {"type": "test", "event": "ok", "name": "a"}
FAILED = {"type": "test", "event": "failed", "name": "a"}


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([STARTED, PASSED, ENDED], ""),
        ([STARTED, PASSED, ENDED, STARTED, PASSED, ENDED], ""),
        ([STARTED, PASSED], "a suite did not end"),
        ([STARTED, PASSED, STARTED, PASSED, ENDED], "a suite did not end"),
        ([STARTED, ENDED], "planned 1, saw 0"),
        ([STARTED, PASSED, PASSED, ENDED], "planned 1, saw 2"),
        ([STARTED, PASSED, {**ENDED, "passed": 2}], "the suite counts 2 tests, but named 1"),
        ([STARTED, PASSED, {**ENDED, "event": "failed"}], "the suite failed without a failing"),
        ([STARTED, FAILED, {**ENDED, "event": "failed", "passed": 0, "failed": 1}], ""),
        ([PASSED], "a test outside of any suite"),
        ([ENDED], "a suite ended that had not started"),
    ],
)
def test_a_rust_suite_must_agree_with_its_counts(events, problem):
    message = read(libtest, *events).problem
    assert message.startswith(problem)
    assert bool(message) == bool(problem)


def test_a_rust_timeout_is_a_warning():
    parsed = read(libtest, STARTED, {**PASSED, "event": "timeout"}, PASSED, ENDED)
    assert short(parsed) == ["passed: a"]


def test_a_rust_failure_with_endless_output_is_still_a_failure():
    for more in range(12):
        loud = {**FAILED, "stdout": "y" * more + 'x"\\\ud83d\ude00' * 60000}
        parsed = read(libtest, STARTED, loud, {**ENDED, "passed": 0, "failed": 1})
        assert short(parsed) == ["failed: a"]
        assert parsed.problem == ""


@pytest.mark.parametrize(
    "line", ["[" * 200000, '{"a":' * 100000, '{"type":' + "9" * 200000, '{"type":"\\ud800"}']
)
@pytest.mark.parametrize("module", [gotest, libtest])
def test_hostile_json_is_refused(module, line):
    assert read(module, tail=line + "\n") is None


def test_half_a_surrogate_pair_does_not_survive():
    tail = '{"type":"test","event":"failed","name":"\\ud800","stdout":"\\udfff"}\n'
    (case,) = read(libtest, STARTED, tail=tail).cases
    assert (case.name + case.details).encode() == b"??"
