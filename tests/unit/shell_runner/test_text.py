"""Tests of text that is safe to show, and of quoted commands."""

import subprocess
from pathlib import Path

import pytest

from shell_runner.text import (
    format_count,
    make_readable,
    quote_command,
    shorten_list,
    strip_control_chars,
    to_single_line,
)


@pytest.mark.parametrize("text", ["\x1b[31mred", "\x1b]0;t\x07", "\x9b2J", "a\rb", "\x00"])
def test_no_escape_survives(text: str) -> None:
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in strip_control_chars(text))


def test_line_breaks_of_ssh_are_line_breaks() -> None:
    """A carriage return before a line feed is what ssh writes; a lone one overwrites a line."""
    assert strip_control_chars("é\r\nb\r\n") == "é\nb\n"
    assert strip_control_chars("\x1b[31ma\x1b[0m\r\nb") == "a\nb"
    assert strip_control_chars("50%\r100%") == "50%\\r100%"
    assert to_single_line("a\r\nb") == "a b"


def test_a_single_line_is_bounded_and_has_no_escapes() -> None:
    assert to_single_line("a\n\n  b\x1b[31m\tc") == "a b c"
    assert to_single_line("x" * 20, 10) == "x" * 10 + " ..."


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\n", "plain\n"),
        ("é\n".encode(), "é\n"),
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"a\r\nb", "a\nb"),
        (b"50%\r100%", "50%\\x0d100%"),
        (b"\xff\xfe", "\\xff\\xfe"),
        (b"\0\x07\x1b]0;t\x07", "\\x00\\x07\\x1b]0;t\\x07"),
        ("\ufffe\x85".encode(), "\\ufffe\\x85"),
        (b"a\tb", "a\tb"),
    ],
)
def test_control_characters_and_broken_bytes_are_visible(data: bytes, text: str) -> None:
    assert make_readable(data.decode("utf-8", "surrogateescape")) == text


def test_a_command_can_be_typed_whatever_its_bytes(tmp_path: Path) -> None:
    for name in ("plain", "a b", "it's", "a\nb", "\udcff", "\t\udc80'\\x"):
        (tmp_path / name).write_text("#!/bin/sh\necho ran\n")
        done = subprocess.run(
            ["bash", "-c", f"sh {quote_command('./' + name)}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.stdout == "ran\n", name
        assert quote_command(name).isprintable()


def test_counts_have_a_plural() -> None:
    assert [format_count(n, "test") for n in (0, 1, 2)] == ["0 tests", "1 test", "2 tests"]


def test_a_list_says_how_many_it_leaves_out() -> None:
    assert shorten_list(["a", "b"], 2) == ["a", "b"]
    assert shorten_list(["a", "b", "c", "d"], 2) == ["a", "b", "and 2 more"]
