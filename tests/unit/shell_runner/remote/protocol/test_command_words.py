"""Tests of the words of the command that runs a test."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shell_runner.remote.protocol.command_words import build_command, expand_placeholders
from shell_runner.remote.protocol.model import Test

PLAIN = Test(0, "sub/t")


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (PLAIN, ["/r/sub/t"]),
        (PLAIN._replace(argv=("perl", "-T")), ["perl", "-T", "/r/sub/t"]),
        (PLAIN._replace(args=("-v", "{root}/x")), ["/r/sub/t", "-v", "/r/x"]),
        (PLAIN._replace(argv=("perl",), args=("a b",)), ["perl", "/r/sub/t", "a b"]),
        (PLAIN._replace(run=("./runtest", "{file}")), ["/r/runtest", "/r/sub/t"]),
        (PLAIN._replace(run=("./runtest",)), ["/r/runtest", "/r/sub/t"]),
        (PLAIN._replace(run=("bin/run", "--x={file}", "y")), ["/r/bin/run", "--x=/r/sub/t", "y"]),
        (PLAIN._replace(run=("/usr/bin/run", "{file}")), ["/usr/bin/run", "/r/sub/t"]),
        (PLAIN._replace(run=("{root}/run",)), ["/r/run", "/r/sub/t"]),
        (PLAIN._replace(run=("{file}", "--tap")), ["/r/sub/t", "--tap"]),
        (PLAIN._replace(run=("guile", "-s"), args=("z",)), ["guile", "-s", "/r/sub/t", "z"]),
        (PLAIN._replace(run=("sh",), argv=("perl",)), ["sh", "/r/sub/t"]),
        (PLAIN._replace(run=("awk", "{print}")), ["awk", "{print}", "/r/sub/t"]),
    ],
)
def test_words(test: Test, words: list[str]) -> None:
    assert build_command(test, "/r/sub/t", "/r") == words


@given(st.text(), st.text(), st.text())
def test_paths_are_not_expanded_again(word: str, file: str, root: str) -> None:
    result = expand_placeholders("{file}" + word.replace("{", "") + "{root}", file, root)
    assert result == file + word.replace("{", "") + root


@given(st.lists(st.text(), min_size=1), st.lists(st.text()))
def test_the_program_is_always_in_the_command(run: list[str], args: list[str]) -> None:
    words = build_command(PLAIN._replace(run=tuple(run), args=tuple(args)), "/f", "/r")
    assert any("/f" in word for word in words)
