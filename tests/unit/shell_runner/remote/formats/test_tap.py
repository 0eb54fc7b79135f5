"""Tests of the rules of TAP, one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shell_runner.remote.formats import tap
from shell_runner.remote.protocol.model import ParsedOutput

SAMPLES = Path(__file__).parent / "samples"


def read(text: str | bytes, *, forced: bool = False) -> ParsedOutput | None:
    reader = tap.Reader(forced)
    reader.feed(text if isinstance(text, bytes) else text.encode())
    return reader.close()


def parsed(text: str | bytes, *, forced: bool = False) -> ParsedOutput:
    output = read(text, forced=forced)
    assert output is not None
    return output


def short(output: ParsedOutput) -> list[str]:
    return [
        "%s: %s%s" % (case.outcome, case.group + " > " if case.group else "", case.name)
        for case in output.cases
    ]


@pytest.mark.parametrize(
    "text",
    [
        "1..1\nok 1\n",
        "ok 1 - a\n1..1\n",
        "TAP version 13\n1..1\nok\n",
        "\n\n# comment\npragma +strict\n  # another\n1..1\nok 1\n",
        "\ufeff1..1\nok 1\n",
        "1..1\r\nok 1 - crlf\r\n",
        "1..1\nok 1 - no newline at the end",
        "# Subtest: first\n    ok 1 - a\n    1..1\nok 1 - first\n1..1\n",
    ],
)
def test_a_stream_that_begins_like_tap_and_has_a_plan_is_tap(text):
    output = parsed(text)
    assert (output.problem, len(output.cases)) == ("", 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello\n1..1\nok 1\n",
        "ok, that works\n1..1\n",
        "okay\n1..1\n",
        "ok 1 - but no plan\n",
        "1..10 sheep are counted\n",
        "Bail out! nobody planned anything\n",
        "    ok 1 - indented\n1..1\n",
        "# only a comment\n",
        "not okay\n",
    ],
)
def test_anything_else_is_not_tap(text):
    assert read(text) is None


def test_a_stream_is_refused_at_its_first_significant_line():
    reader = tap.Reader()
    reader.feed(b"# comment\n")
    assert not reader.refused
    reader.feed(b"compiling\n")
    assert reader.refused


def test_a_forced_stream_is_never_refused():
    reader = tap.Reader(forced=True)
    reader.feed(b"hello\n")
    assert not reader.refused
    assert reader.close() == ParsedOutput("tap", [], "no TAP in the output")


def test_garbage_before_and_between_is_passed_over_when_forced():
    output = parsed("hello\nok 1\nnoise\n1..1\n", forced=True)
    assert (output.problem, short(output)) == ("", ["passed: test 1"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1..3\nok 1\nok 2\n", "planned 3, saw 2"),
        ("1..1\nok 1\nok 2\n", "planned 1, saw 2"),
        ("1..1\n1..1\nok 1\n", "two plans"),
        ("ok 1\n1..2\nok 2\n", "the plan stands in the middle"),
        ("1..2\nok 1\nok 3\n", "out of sequence: found 3, expected 2; test 3 is outside"),
        ("1..2\nok 1\nok 1\n", "out of sequence: found 1, expected 2"),
        ("1..2\nok 2\nok 1\n", "out of sequence: found 2, expected 1"),
        ("TAP version 14\n1..2\nok 2\nok 1\n", ""),
        ("TAP version 14\n1..3\nok 2\nok\nok 3\n", ""),
        ("TAP version 14\n1..2\nok 1\nok 1\n", "test 1 was seen twice"),
        ("TAP version 14\n1..3\nok 2\nok 4\nok 1\n", "test 4 is outside the plan 1..3"),
        ("TAP version 13\nok 1\n", "no plan"),
        ("TAP version 15\n1..1\nok 1\n", "TAP version 15 is not supported"),
        ("1..1\nTAP version 13\nok 1\n", "the version line is not the first"),
        ("1..1\nok %s\n" % ("9" * 5000), "out of sequence"),
        ("1..%s\n" % ("9" * 5000), "planned 1000000000, saw 0"),
        ("1..0\nok 1\n", "planned 0, saw 1"),
        ("1..2\nok 1\nBail out! disk full\nok 2\n", "bailed out: disk full"),
        ("1..2\nok 1\nbail OUT!\n", "bailed out"),
        ("ok 1\nBail out!  no \\# plan\n", "bailed out: no # plan"),
        ("1..1\n# Subtest: s\n    ok 1\n    Bail out! deep\nok 1 - s\n", "bailed out: deep"),
        ("pragma +strict\n1..1\nok 1\nnoise\n", "not TAP, and the pragma is strict: noise"),
        ("pragma +strict\n1..1\nok 1\n\n# fine\npragma -strict\nnoise\n", ""),
        ("1..1\npragma +bail, +other\nok 1\n", ""),
        ("1..1\nok 1\n    pragma of prose\n", ""),
    ],
)
def test_an_error_in_a_stream_is_its_problem(text, problem):
    message = parsed(text).problem
    assert message.startswith(problem)
    assert bool(message) == bool(problem)


def test_nothing_counts_after_a_bail_out():
    assert short(parsed("1..3\nok 1\nBail out!\nnot ok 2\n")) == ["passed: test 1"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1..0 # SKIP no net", "no net"),
        ("1..0 # skipped: no net", "no net"),
        ("1..0 # WWW not installed", "WWW not installed"),
        ("1..0 skip no net", "no net"),
        ("1..0", ""),
        ("1..1\nok 1", None),
    ],
)
def test_a_plan_of_none_skips_all(text, reason):
    output = parsed(text + "\n")
    assert (output.skip_all, output.problem) == (reason, "")


@pytest.mark.parametrize(
    ("line", "outcome", "name", "message"),
    [
        ("ok", "passed", "test 1", ""),
        ("ok 1", "passed", "test 1", ""),
        ("ok 1 -", "passed", "test 1", ""),
        ("ok 1 - a", "passed", "a", ""),
        ("ok 1 a", "passed", "a", ""),
        ("ok - a", "passed", "a", ""),
        ("ok 2nd try", "passed", "2nd try", ""),
        ("ok 1 -flag", "passed", "-flag", ""),
        ("not ok 1 - a", "failed", "a", ""),
        ("ok 1 - a # SKIP why", "skipped", "a", "why"),
        ("ok 1 # sKiP", "skipped", "test 1", ""),
        ("not ok 1 - a # skip why", "skipped", "a", "why"),
        ("ok 1 # Skipped: on windows", "skipped", "test 1", "on windows"),
        ("ok 1 - #SkIp no space", "skipped", "test 1", "no space"),
        ("not ok 1 - a # TODO why", "xfailed", "a", "why"),
        ("ok 1 - a # todo", "xpassed", "a", ""),
        ("ok 1 hello \\# todo", "passed", "hello # todo", ""),
        ("ok 1 hello # todo hash \\# sign", "xpassed", "hello", "hash # sign"),
        ("ok 1 hello # todo hash # sign", "xpassed", "hello", "hash # sign"),
        ("ok 1 hello \\\\# todo hash", "xpassed", "hello \\\\", "hash"),
        ("ok 1 hello # other # todo", "passed", "hello # other # todo", ""),
        ("ok 1 hello \\\\\\\\\\\\\\# todo", "passed", "hello \\\\\\\\\\\\# todo", ""),
        ("ok 1 see https://e.com/p.html#skip it", "passed", "see https://e.com/p.html#skip it", ""),
        ("ok 1 issue #5 is done # skip why", "skipped", "issue #5 is done", "why"),
        ("ok 1 a\\nb", "passed", "a\\nb", ""),
        ("ok 1 - a # unknown thing", "passed", "a # unknown thing", ""),
        ("ok 1 - call() {", "passed", "call() {", ""),
    ],
)
def test_a_point_says_outcome_name_and_reason(line, outcome, name, message):
    (case,) = parsed("1..1\n%s\n" % line).cases
    assert (case.outcome, case.name, case.message) == (outcome, name, message)


@pytest.mark.parametrize("version", [0, 12, 13, 14])
@pytest.mark.parametrize(
    ("written", "tap14", "older"),
    [
        ("C:\\\\new", "C:\\new", "C:\\\\new"),
        ("\\\\", "\\", "\\\\"),
        ("a\\#b", "a#b", "a#b"),
        ("a\\nb", "a\\nb", "a\\nb"),
        ("\\\\\\#", "\\#", "\\\\#"),
    ],
)
@pytest.mark.parametrize("end", ["", " # TODO later"])
def test_two_backslashes_are_an_escape_since_tap_14(version, written, tap14, older, end):
    header = "TAP version %d\n" % version if version else ""
    text = "1..1\n# Subtest: s\n    1..1\n    ok 1 - %s%s\nok 1 - s\n" % (written, end)
    for stream in ("1..1\nok 1 - %s%s\n" % (written, end), text):
        (case,) = parsed(header + stream).cases
        assert case.name == (tap14 if version == 14 else older)


@pytest.mark.parametrize("line", ["okay", "OK 1", "ok: x", " ok 1", "not  ok 1", "Ok", "\tok 1"])
def test_a_line_that_only_looks_like_a_point_is_not_one(line):
    assert parsed("1..0\n%s\n" % line).cases == []


def test_node_taps_time_is_a_duration_and_no_part_of_the_name():
    (case,) = parsed("1..1\nok 1 - a # time=12.5ms\n").cases
    assert (case.name, case.duration) == ("a", 0.0125)


def test_comments_after_a_failing_point_are_its_details():
    text = "1..2\nok 1 - a\n# of nobody\nnot ok 2 - b\n#   Failed test 'b'\n# at line 3\n"
    first, second = parsed(text).cases
    assert first.details == ""
    assert second.details == "  Failed test 'b'\nat line 3"
    assert second.message == "Failed test 'b'"


def test_a_yaml_block_gives_details_message_and_duration():
    text = (
        "1..2\nnot ok 1 - a\n  ---\n  message: 'it broke'\n  duration_ms: 1500\n\n  data:\n"
        "    ok 1\n  ...\nok 2\n  ---\n  duration: 2.5\n  ...\n"
    )
    output = parsed(text)
    first, second = output.cases
    assert (first.message, first.duration) == ("it broke", 1.5)
    assert "data:\n  ok 1" in first.details
    assert (second.duration, second.details, output.problem) == (2.5, "", "")


def test_a_yaml_block_that_does_not_end_ends_where_its_indentation_does():
    output = parsed("1..2\nnot ok 1\n  ---\n  a: 1\nok 2\n")
    assert short(output) == ["failed: test 1", "passed: test 2"]


SUBTESTS = {
    "a failing subtest under a green parent fails": (
        "# Subtest: s\n    not ok 1 - bad\n    1..1\nok 1 - s\n1..1\n",
        ["failed: s > bad"],
    ),
    "a parent that its children account for is no case": (
        "# Subtest: s\n    ok 1 - a\n    not ok 2 - b\n    1..2\nnot ok 1 - s\n1..1\n",
        ["passed: s > a", "failed: s > b"],
    ),
    "a parent that fails alone is a case": (
        "# Subtest: s\n    ok 1 - a\n    1..1\nnot ok 1 - s\n1..1\n",
        ["passed: s > a", "failed: s"],
    ),
    "a wrong plan makes an error of the parent": (
        "# Subtest: s\n    ok 1 - a\n    1..2\nok 1 - s\n1..1\n",
        ["passed: s > a", "error: s"],
    ),
    "a missing plan makes an error of the parent": (
        "# Subtest: s\n    ok 1 - a\nok 1 - s\n1..1\n",
        ["passed: s > a", "error: s"],
    ),
    "TODO on the parent excuses the children": (
        "# Subtest: s\n    not ok 1 - bad\n    1..1\nnot ok 1 - s # TODO later\n1..1\n",
        ["xfailed: s > bad"],
    ),
    "TODO on a parent that passes is a case": (
        "# Subtest: s\n    ok 1 - a\n    1..1\nok 1 - s # TODO later\n1..1\n",
        ["passed: s > a", "xpassed: s"],
    ),
    "SKIP on the parent excuses the children": (
        "# Subtest: s\n    not ok 1 - bad\n    1..1\nok 1 - s # SKIP never mind\n1..1\n",
        ["skipped: s > bad"],
    ),
    "an empty subtest is a skipped case": (
        "# Subtest: s\n    1..0 # no net\nok 1 - s\n1..1\n",
        ["skipped: s"],
    ),
    "a comment without a subtest announces a plain point": (
        "# Subtest: s\nok 1 - s\n1..1\n",
        ["passed: s"],
    ),
    "a bare subtest is named by its parent": (
        "    ok 1 - a\n    1..1\nok 1 - s\n1..1\n",
        ["passed: s > a"],
    ),
    "a subtest may begin with a deeper one": (
        "        ok 1 - twice\n        1..1\n    ok 1 - in\n    1..1\nok 1 - out\n1..1\n",
        ["passed: out > in > twice"],
    ),
    "an older Test::More announces at the subtest's indentation": (
        "    # Subtest: s\n    ok 1 - a\n    1..1\nok 1 - s\n1..1\n",
        ["passed: s > a"],
    ),
    "a buffered subtest has its parent first": (
        "ok 1 - s # time=3ms {\n    not ok 1 - bad\n    1..1\n}\nok 2 - t\n1..2\n",
        ["failed: s > bad", "passed: t"],
    ),
    "a brace may follow the YAML of its point": (
        "not ok 1 - s\n  ---\n  at: x\n  ...\n{\n    not ok 1 - bad\n    1..1\n}\n1..1\n",
        ["failed: s > bad"],
    ),
    "buffered subtests nest": (
        "ok 1 - s {\n    ok 1 - t {\n        ok 1 - a\n        1..1\n    }\n    1..1\n}\n1..1\n",
        ["passed: s > t > a"],
    ),
    "a buffered subtest that is not closed is an error": (
        "ok 1 - s {\n    ok 1 - a\n    1..1\n1..1\n",
        ["passed: s > a", "error: s"],
    ),
    "indented prose is no subtest": (
        "    ok\nok 1 - a\n    ok so far\nok 2 - b\n1..2\n",
        ["passed: a", "passed: b"],
    ),
    "an indented failure is believed": (
        "    not ok 1 - bad\nok 1 - s\n1..1\n",
        ["failed: s > bad", "error: s"],
    ),
    "siblings have their own groups": (
        "# Subtest: s\n    ok 1 - a\n    1..1\nok 1 - s\n"
        "# Subtest: t\n    ok 1 - a\n    1..1\nok 2 - t\n1..2\n",
        ["passed: s > a", "passed: t > a"],
    ),
    "a strict subtest does not bind its parent": (
        "# Subtest: s\n    1..1\n    pragma +strict\n    ok 1 - a\nok 1 - s\nnoise\n1..1\n",
        ["passed: s > a"],
    ),
}


@pytest.mark.parametrize("rule", SUBTESTS)
def test_subtests(rule):
    text, expected = SUBTESTS[rule]
    output = parsed(text, forced=True)
    assert short(output) == expected
    assert output.problem == ""


def test_a_subtest_that_was_announced_and_cut_is_a_problem():
    output = parsed("1..1\n# Subtest: s\n    ok 1 - a\n")
    assert "the subtest 's' was not ended by a test point" in output.problem


def test_subtests_deeper_than_the_limit_are_a_problem():
    output = parsed("1..1\n%sok 1\nok 1\n" % (" " * 4 * (tap.MAX_DEPTH + 1)))
    assert "nested deeper" in output.problem


def test_more_cases_than_the_limit_are_a_problem(monkeypatch):
    monkeypatch.setattr("shell_runner.remote.formats.bounds.MAX_CASES", 3)
    output = parsed("1..4\n" + "ok\n" * 4)
    assert (len(output.cases), output.problem) == (3, "more than 3 cases")


def test_a_long_line_and_long_details_are_cut():
    text = "1..1\nnot ok 1 - %s\n%s" % ("x" * 10**6, "# %s\n" % ("y" * 50000) * 10)
    (case,) = parsed(text).cases
    assert len(case.name) <= 4096
    assert len(case.details) < 70000
    assert "more characters" in case.details


REAL = {
    "perl-sub.tap": (
        ["passed: first # hash", "passed: outer > a", "passed: outer > inner > deep",
         "failed: outer > inner > deeper", "skipped: skipped", "xfailed: todo",
         "xpassed: todo passes", "xfailed: todosub > inside todo", "skipped: test 7",
         "skipped: test 8", "failed: empty"],
        "",
    ),
    "perl-bail.tap": (["passed: test 1", "passed: s > test 1"], "bailed out: disk full"),
    "perl-short.tap": (["passed: one", "passed: two"], "planned 3, saw 2"),
    "perl-skipall.tap": ([], ""),
    "node.tap": (
        ["passed: ok one", "passed: group > child", "failed: group > bad", "skipped: skip",
         "xfailed: todo"],
        "",
    ),
    "bats.tap": (["passed: adds", "failed: fails", "skipped: skips"], ""),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_streams_read_as_their_authors_meant(name):
    output = parsed((SAMPLES / name).read_bytes())
    assert (short(output), output.problem) == REAL[name]


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Z"]), min_size=1).filter(
    lambda name: not name[0].isdigit() and name[0] != "-" and name[-1] != "{"
)
POINTS = st.tuples(NAMES, st.sampled_from(["passed", "failed", "skipped", "xfailed", "xpassed"]))
LINES = {
    "passed": "ok %d - %s",
    "failed": "not ok %d - %s",
    "skipped": "ok %d - %s # SKIP",
    "xfailed": "not ok %d - %s # TODO",
    "xpassed": "ok %d - %s # TODO",
}


@given(st.lists(POINTS, min_size=1), st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_was_written_as_tap_is_read_back(points, plan_first):
    lines = [
        LINES[outcome] % (number, name.replace("\\", "\\\\").replace("#", "\\#"))
        for number, (name, outcome) in enumerate(points, 1)
    ]
    lines.insert(0 if plan_first else len(lines), "1..%d" % len(points))
    lines.insert(0, "TAP version 14")
    output = parsed("\n".join(lines) + "\n")
    assert [(case.name, case.outcome) for case in output.cases] == points
    assert output.problem == ""


WORDS = ["ok 1", "not ok", "1..1", "1..2", "    ", "  ", "---", "...", "# Subtest: s", " {", "}",
         "Bail out!", "TAP version 14", "pragma +strict", "# TODO", "- a", "{", "\r", "\0",
         "\xff"]  # fmt: skip
TAPLIKE = st.lists(st.lists(st.sampled_from(WORDS), max_size=5).map("".join)).map("\n".join)


@given(TAPLIKE, st.integers(1, 7), st.booleans())
@settings(max_examples=150, deadline=None)
def test_tap_like_text_reads_the_same_in_any_chunks(text, size, forced):
    data = text.encode("latin-1")
    reader = tap.Reader(forced)
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])
    assert reader.close() == read(data, forced=forced)
