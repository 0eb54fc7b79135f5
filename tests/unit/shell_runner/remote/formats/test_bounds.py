"""Tests of the limits on what readers keep of endless output."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from shell_runner.remote.formats import bounds
from shell_runner.remote.formats.lines import LineSplitter
from shell_runner.remote.protocol.model import Case


def split_lines(data, size, limit):
    splitter = LineSplitter(limit)
    lines_found = []
    for start in range(0, len(data), size):
        for lines in splitter.feed(data[start : start + size]):
            lines_found += lines
    return lines_found + splitter.finish()


@given(st.lists(st.sampled_from([b"\n", b"\r", b"a", b"\xc3\xb3", b"\xff"])).map(b"".join),
       st.integers(1, 20), st.integers(1, 12))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_lines_depend_on_the_bytes_and_not_on_the_chunks(data, size, limit):
    assert split_lines(data, size, limit) == split_lines(data, max(len(data), 1), limit)
    pieces = data.split(b"\n")
    cut = [piece[:limit] for piece in (pieces if pieces[-1] else pieces[:-1])]
    expected = [line.decode("utf-8", "replace").replace("\r", "\n").split("\n") for line in cut]
    # Empty lines are ignored: a CR before the newline adds one.
    assert [line for line in split_lines(data, size, limit) if line] == [
        line for lines in expected for line in lines if line
    ]


def test_what_is_kept_of_a_line_is_bounded_while_it_grows():
    splitter = LineSplitter(100)
    for _ in range(1000):
        assert list(splitter.feed(b"x" * 99)) == []
    assert len(splitter._partial) == 100


def test_an_excerpt_says_how_much_it_left_out():
    excerpt = bounds.Excerpt(5)
    assert (excerpt.add("abc"), excerpt.add("defg")) == (3, 2)
    assert excerpt.text() == "abcde\n[2 more characters]"


def test_details_are_dropped_before_cases_at_the_limit(monkeypatch):
    monkeypatch.setattr(bounds, "MAX_TOTAL_CHARS", 200)
    collector = bounds.CaseCollector()
    assert collector.add(Case("a", "failed", details="x" * 500))
    assert collector.add(Case("b", "failed"))
    assert [case.details for case in collector.cases] == ["", ""]
    assert collector.add(Case("c", "failed"))
    assert not collector.add(Case("d", "failed"))
    assert collector.problem == "the cases hold too much text"
