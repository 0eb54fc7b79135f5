"""Which files are tests, how they are run, and what they say of themselves."""

from typing import Any

import pytest

from shell_runner.config import suggestion
from shell_runner.discovery import (
    File,
    Kind,
    Metadata,
    apply,
    classify,
    could_be_test,
    read_metadata,
)
from shell_runner.errors import BadMetadata

SH = b"#!/bin/sh\n"


@pytest.mark.parametrize(
    "name",
    [
        "test_a", "test_a.sh", "test_a.bash", "test_a.pl", "test_a.rb", "a_test", "a_test.sh",
        "a.t", "00-load.t", "a.bats", "test_a.t", "test_.sh", "a.b_test.sh", "test_a b.sh",
    ],
)  # fmt: skip
def test_names_of_tests(name: str) -> None:
    assert could_be_test(name)


@pytest.mark.parametrize(
    "name",
    [
        "a.sh", "run", "tests", "testa.sh", "mytest.sh", "a_tests.sh", "test-a.sh", "Test_a.sh",
        "test_a.json", "test_a.txt", "test_a.md", "test_a.yaml", "test_a.c", "test_a.1.0",
        "test_a.py", "a_test.py", "test_a.pyc", "test_a.sh.orig", "test_a.sh~",
        "test_helper", "test_helper.bash", "test_a_helpers.sh", "helper_test.sh", "Helper_test",
        "test_fixture.sh", "fixtures_test", "test_fixture.t", "bats_helper.bats",
    ],
)  # fmt: skip
def test_names_of_others(name: str) -> None:
    assert not could_be_test(name)


@pytest.mark.parametrize(
    ("name", "patterns", "expected"),
    [
        ("check_a.sh", ("check_*",), True),
        ("check_a", ("check_*",), True),
        ("check_a.txt", ("check_*",), False),
        ("test_a.sh", ("check_*",), False),
        ("a.check", ("*.check",), True),
        ("test_a.exe", ("test_*.exe",), True),
        ("check_helper.sh", ("check_*",), False),
    ],
)
def test_patterns_of_the_user_replace_ours(
    name: str, patterns: tuple[str, ...], expected: bool
) -> None:
    assert could_be_test(name, patterns) is expected


TABLE: list[tuple[str, bool, bytes, Kind, tuple[str, ...]]] = [
    ("test_a", True, SH, Kind.TEST, ()),
    ("test_a.sh", True, b"exit 0\n", Kind.TEST, ()),
    ("test_a", True, b"\x7fELF\0", Kind.TEST, ()),
    ("test_a", True, b"", Kind.TEST, ()),
    ("test_a.sh", False, SH, Kind.BROKEN, ()),
    ("test_a.pl", False, b"#!/usr/bin/perl\n", Kind.BROKEN, ()),
    ("test_a", False, SH, Kind.BROKEN, ()),
    ("test_a", False, b"exit 0\n", Kind.OTHER, ()),
    ("test_a.sh", False, b"exit 0\n", Kind.OTHER, ()),
    ("a.t", False, b"#!/usr/bin/perl -w\n", Kind.TEST, ("/usr/bin/perl", "-w")),
    ("a.t", False, b"#!/bin/sh\n", Kind.TEST, ("/bin/sh",)),
    ("a.t", False, b"use Test::More;\n", Kind.TEST, ("perl",)),
    ("a.t", True, b"use Test::More;\n", Kind.TEST, ("perl",)),
    ("a.t", True, SH, Kind.TEST, ()),
    ("a.t", True, b"\x7fELF\0", Kind.TEST, ()),
    ("a.bats", False, b"@test x {\n", Kind.TEST, ("bats", "--tap")),
    ("a.bats", True, b"#!/usr/bin/env bats\n", Kind.TEST, ("bats", "--tap")),
]


@pytest.mark.parametrize(("name", "executable", "head", "kind", "argv"), TABLE)
def test_classes(
    name: str, executable: bool, head: bytes, kind: Kind, argv: tuple[str, ...]
) -> None:
    found = classify(File(name, executable, head))
    assert (found.kind, found.argv) == (kind, argv)
    assert bool(found.why) is (kind is Kind.BROKEN)


@pytest.mark.parametrize(("name", "head"), [("run", SH), ("run.sh", b"exit\n"), ("notes.md", b"")])
def test_a_named_file_is_taken_or_says_why_not(name: str, head: bytes) -> None:
    assert classify(File(name, True, head), named=True).kind is Kind.TEST
    refused = classify(File(name, False, head), named=True)
    assert refused.kind is Kind.BROKEN
    assert f"chmod +x {name}" in refused.why


def test_the_advice_can_be_pasted() -> None:
    assert "chmod +x 'test_a b.sh'" in classify(File("test_a b.sh", False, SH)).why


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.sh", ".sh"), ("a.b.sh", ".sh"), ("a", ""), (".t", ""), (".bats", "")]
)
def test_suffixes(name: str, suffix: str) -> None:
    assert File(name, True, b"").suffix == suffix


# -- metadata ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("# nosejobs: timeout=30", Metadata(timeout=30.0)),
        ("#nosejobs: timeout=0.5", Metadata(timeout=0.5)),
        ("# nosejobs: tags=smoke,net", Metadata(tags=("smoke", "net"))),
        ("// nosejobs: tags=a", Metadata(tags=("a",))),
        ("-- nosejobs: cwd=root", Metadata(cwd="root")),
        ("; nosejobs: home=keep", Metadata(home="keep")),
        ("/* nosejobs: tags=a */", Metadata(tags=("a",))),
        ("# nosejobs: pass=FOO,BAR_*", Metadata(pass_env=("FOO", "BAR_*"))),
        ("# nosejobs: env=A=1,B=x=y", Metadata(env=(("A", "1"), ("B", "x=y")))),
        ("# nosejobs: timeout=1 tags=a # why", Metadata(timeout=1.0, tags=("a",))),
        ("# nosejobs: tags=a\n\n# nosejobs: tags=b", Metadata(tags=("a", "b"))),
        ("# not ours\n\n# nosejobs: timeout=3", Metadata(timeout=3.0)),
        ("echo\n# nosejobs: timeout=3", Metadata()),
        ("# mentions nosejobs: timeout=3", Metadata()),
    ],
)
def test_the_leading_comment_is_read(comment: str, expected: Metadata) -> None:
    text = f"#!/bin/sh\n{comment}\necho\n"
    assert read_metadata(Metadata(), "test_a.sh", text.encode()) == expected


@pytest.mark.parametrize(
    ("comment", "line", "key", "words"),
    [
        ("# nosejobs: timout=3", 2, "timout", "did you mean 'timeout'?"),
        ("# nosejobs: colour=red", 2, "colour", "known: "),
        ("# nosejobs: timeout=soon", 2, "timeout", "'soon'"),
        ("# nosejobs: timeout=0", 2, "timeout", "above 0"),
        ("# nosejobs: timeout=-1", 2, "timeout", "above 0"),
        ("# nosejobs: timeout=nan", 2, "timeout", "above 0"),
        ("# nosejobs: timeout", 2, "timeout", "needs a value"),
        ("# first\n# nosejobs: tags=a,,b", 3, "tags", "not a word"),
        ("# nosejobs: tags=1st", 2, "tags", "not a word"),
        ("# nosejobs: cwd=there", 2, "cwd", "dir or root"),
        ("# nosejobs: home=no", 2, "home", "private or keep"),
        ("# nosejobs: env=1A=2", 2, "env", "name of a variable"),
        ("# nosejobs: timeout=1 timeout=2", 2, "timeout", "twice"),
        ("# nosejobs: tags='a", 2, "nosejobs", "quotation"),
    ],
)
def test_bad_metadata_names_file_line_and_key(
    comment: str, line: int, key: str, words: str
) -> None:
    with pytest.raises(BadMetadata) as caught:
        read_metadata(Metadata(), "d/test_a.sh", f"#!/bin/sh\n{comment}\n".encode())
    assert str(caught.value).startswith(f"d/test_a.sh:{line}: {key}: ")
    assert words in str(caught.value)


def test_binaries_have_no_comments() -> None:
    head = b"\x7fELF\0# nosejobs: timout=1\n"
    assert read_metadata(Metadata(), "test_a", head) == Metadata()


def test_bats_tags_are_tags_anywhere_in_a_bats_file() -> None:
    head = b"# bats file_tags=a\n@test x {\n}\n# bats test_tags=b, c:1\n@test y {\n}\n"
    assert read_metadata(Metadata(), "a.bats", head).tags == ("a", "b", "c:1")
    assert read_metadata(Metadata(), "a.sh", head).tags == ()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"timeout": 5}, Metadata(5.0, ("x",))),
        ({"tags": ["y", "x"]}, Metadata(1.0, ("x", "y"))),
        ({"env": {"A": "1"}}, Metadata(1.0, ("x",), env=(("A", "1"),))),
        ({}, Metadata(1.0, ("x",))),
    ],
)
def test_later_sources_win_and_lists_add_up(values: dict[str, Any], expected: Metadata) -> None:
    assert apply(Metadata(1.0, ("x",)), values, "f", 1) == expected


@pytest.mark.parametrize(
    ("key", "value"), [("timeout", True), ("tags", 3), ("tags", [1]), ("env", 3), ("cwd", 1)]
)
def test_values_of_the_wrong_type_are_refused(key: str, value: Any) -> None:
    with pytest.raises(BadMetadata, match=rf"nosejobs.toml:\[tests\]: {key}: "):
        apply(Metadata(), {key: value}, "nosejobs.toml", "[tests]")


@pytest.mark.parametrize(
    ("word", "words"), [("timout", "did you mean 'timeout'?"), ("zzz", "known: tags, timeout")]
)
def test_suggestions(word: str, words: str) -> None:
    assert words in suggestion(word, ["timeout", "tags"])
