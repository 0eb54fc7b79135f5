"""Tests of values that validators accept and refuse, and of their error messages."""

from typing import Any

import pytest

from shell_runner.validators import (
    InvalidValue,
    Validator,
    check,
    command,
    duration,
    flag,
    format_suggestion,
    format_value,
    line,
    list_of,
    matching,
    name,
    one_of,
    path_in_tree,
    size,
    text,
    variables,
    whole,
)


def no_id(value: object) -> str:
    """Return an empty id: the values are too large for the name of a test."""
    return "value"


@pytest.mark.parametrize(
    ("validator", "value", "kept"),
    [
        (duration(), 90, 90.0), (duration(), "90", 90.0), (duration(), "1.5 h", 5400.0),
        (duration(zero=True), 0, 0.0), (duration(maximum=1e9), 1e9, 1e9),
        (size, "1.5G", 1_500_000_000), (size, 0, 0), (flag, False, False),
        (whole(-1, 1), -1, -1), (one_of("a", "b"), "b", "b"), (line(3, 0), "", ""),
        (list_of(line(), "lines"), ["b", "a", "b"], ("b", "a")),
        (variables(), {"B": "", "A": "x"}, (("B", ""), ("A", "x"))),
        (path_in_tree, "./a//b/", "a/b"), (path_in_tree, ".", "."), (name, "a.b-c", "a.b-c"),
        (command(), "", ""), (text(), "a\nb", "a\nb"), (matching("a+", "x"), "aa", "aa"),
    ],
)  # fmt: skip
def test_what_is_kept(validator: Validator, value: Any, kept: Any) -> None:
    assert validator(value) == kept


@pytest.mark.parametrize(
    ("validator", "value", "message"),
    [
        (duration(), 0, 'must be a time above 0 and at most a year, as 90, "90s", "10m"'),
        (duration(maximum=1e9), 2e9, 'must be a time above 0, as 90, "90s"'),
        (duration(), True, "must be a time above 0"),
        (duration(), float("nan"), "must be a time above 0"),
        (line(5), "a" * 6, "must be a text of one line, 1 to 5 characters, not 'aaaaaa'"),
        (line(), "\n", "must be a text of one line, at most 1000 characters, not '\\n'"),
        (command(empty=False), " ", "must be a command that is not empty, not ' '"),
        (list_of(name, "names"), ["a", "-"], "must be a list of names; '-' is not a name: 1 to 64"),
        (list_of(name, "names", 1, 2), [], "must be a list of 1 to 2 names, not a list of 0"),
        (variables(), {"A": 1}, "must be a table of texts; A is 1"),
        (variables(), {"A-B": "1"}, "must be a table of variables; A-B is not the name of a"),
        (variables(reserved="X_"), {"X_A": "1"}, "must be without X_A: names that begin with X_"),
        (variables(), {"B": "secret", "A": 1}, "must be a table of texts; A is 1"),
        (path_in_tree, "../x", "must be a path inside of the tree, without '..', not '../x'"),
    ],
)
def test_what_is_refused(validator: Validator, value: Any, message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        check(validator, value, InvalidValue)
    assert str(caught.value).startswith(message)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"), (True, "true"), (1.5, "1.5"), ([1, 2], "a list of 2"),
        ("a\x1b[2J", r"'a\x1b[2J'"),
        ({}, "a table"), (1 << 70, "a number of 71 bits"), (16**100_000, "a number of 400001 bits"),
        ("x" * 1000, "'" + "x" * 56 + "..."), (float("inf"), "inf"),
    ],
    ids=no_id,
)  # fmt: skip
def test_values_are_shown_short_and_harmless(value: Any, text: str) -> None:
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("word", "words"), [("timout", "did you mean 'timeout'?"), ("zzz", "known: tags, timeout")]
)
def test_suggestions(word: str, words: str) -> None:
    assert words in format_suggestion(word, ["timeout", "tags"])
