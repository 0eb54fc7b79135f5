"""Tests of patterns of paths."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.configuration.glob_patterns import compile_patterns


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("Makefile", ["Makefile"], ["src/Makefile", "Makefile2"]),
        ("src", ["src", "src/a", "src/a/b"], ["srcs/a", "x/src"]),
        ("src/", ["src/a"], ["srcs"]),
        ("./src/./a", ["src/a"], ["a"]),
        ("*.c", ["a.c"], ["src/a.c", "a.h"]),
        ("src/*.c", ["src/a.c"], ["src/x/a.c", "src/a.cc"]),
        ("**/*.c", ["a.c", "src/a.c", "src/x/a.c"], ["a.h"]),
        ("**", ["a", "a/b"], []),
        ("src/**/test", ["src/test", "src/a/test", "src/a/b/test/c"], ["src/tests"]),
        ("**/a/**/b", ["a/b", "x/a/y/a/z/b/c"], ["b/a", "a/x/bb"]),
        ("release/*", ["release/1", "release/1/x"], ["release", "x/release/1"]),
        ("v[0-9].?", ["v1.2"], ["vx.2", "v1.22"]),
        ("a**b", ["ab", "axb"], ["a/b"]),
        ("A", ["A"], ["a"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    matches = compile_patterns([pattern])
    assert [path for path in yes + no if matches(path)] == yes


def test_any_of_several() -> None:
    matches = compile_patterns(["a", "b/*"])
    assert [path for path in ("a", "b/x", "c") if matches(path)] == ["a", "b/x"]
    assert not compile_patterns([])("a")


def matches_slowly(pattern: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    """Return whether a path matches a pattern, by a slow search of all possibilities."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(matches_slowly(pattern[1:], parts[at:]) for at in range(len(parts) + 1))
    fits = bool(parts) and pattern[0] in ("*", parts[0])
    return fits and matches_slowly(pattern[1:], parts[1:])


SOME = st.lists(st.sampled_from(["a", "b", "*", "**"]), min_size=1, max_size=7)


@given(SOME, st.lists(st.sampled_from("ab"), min_size=1, max_size=7))
def test_two_stars_stand_for_any_folders(pattern: list[str], path: list[str]) -> None:
    expected = matches_slowly((*pattern, "**"), tuple(path))
    assert compile_patterns(["/".join(pattern)])("/".join(path)) is expected


@pytest.mark.parametrize("pattern", ["**/a" * 200, "*a" * 400 + "b", "**/" * 400 + "b", "*" * 900])
def test_no_pattern_is_slow(pattern: str) -> None:
    matches = compile_patterns([pattern])
    began = time.process_time()
    for path in ("a/" * 150 + "c", "a" * 400 + "c", "a/" * 400 + "c"):
        matches(path)
    assert time.process_time() - began < 1
