"""Tests of the rules by which files are tests, and of the commands that run them."""

import pytest

from shell_runner.collection.discovery import (
    CandidateFile,
    FileKind,
    classify,
    explain_uncollected,
)
from shell_runner.collection.file_names import DEFAULT_PATTERNS, can_be_test

SH = b"#!/bin/sh\n"


@pytest.mark.parametrize(
    "name",
    [
        "test_a", "test_a.sh", "test_a.bash", "test_a.pl", "test_a.rb", "a_test", "a_test.sh",
        "a.t", "00-load.t", "a.bats", "test_a.t", "test_.sh", "a.b_test.sh", "test_a b.sh",
    ],
)  # fmt: skip
def test_names_that_can_be_tests(name: str) -> None:
    assert can_be_test(name)


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
def test_names_that_cannot_be_tests(name: str) -> None:
    assert not can_be_test(name)


@pytest.mark.parametrize(
    ("name", "patterns", "expected"),
    [
        ("check_a.sh", ("check_*",), True),
        ("check_a", ("check_*",), True),
        ("check_a.txt", ("check_*",), False),
        ("test_a.sh", ("check_*",), False),
        ("a.check", ("*.check",), True),
        ("test_a.exe", ("test_*.exe",), True),
        ("check_helper.sh", ("check_*",), True),
        ("test_helper_functions.sh", ("test_helper_functions.sh",), True),
        ("t0017-env-helper.sh", ("t[0-9]*",), True),
        ("test_fixture.sh", ("test_*", "check_*"), False),
        ("check_fixture.sh", ("test_*", "check_*"), True),
        ("helper.t", ("*.t",), False),
        ("helper.t", ("*.t", "helper.*"), True),
        ("helper.py", ("helper.*",), False),
    ],
)
def test_patterns_of_the_user_replace_ours(
    name: str, patterns: tuple[str, ...], expected: bool
) -> None:
    assert can_be_test(name, patterns) is expected


TABLE: list[tuple[str, bool, bytes, FileKind, tuple[str, ...]]] = [
    ("test_a", True, SH, FileKind.TEST, ()),
    ("test_a.sh", True, b"exit 0\n", FileKind.TEST, ()),
    ("test_a", True, b"\x7fELF\0", FileKind.TEST, ()),
    ("test_a", True, b"", FileKind.TEST, ()),
    ("test_a.sh", False, SH, FileKind.INVALID, ()),
    ("test_a.pl", False, b"#!/usr/bin/perl\n", FileKind.INVALID, ()),
    ("test_a", False, SH, FileKind.INVALID, ()),
    ("test_a", False, b"exit 0\n", FileKind.OTHER, ()),
    ("test_a.sh", False, b"exit 0\n", FileKind.OTHER, ()),
    ("a.t", False, b"#!/usr/bin/perl -w\n", FileKind.TEST, ("perl",)),
    ("a.t", False, b"#!/bin/sh\n", FileKind.TEST, ("/bin/sh",)),
    ("a.t", False, b"use Test::More;\n", FileKind.TEST, ("perl",)),
    ("a.t", True, b"use Test::More;\n", FileKind.TEST, ("perl",)),
    ("a.t", True, SH, FileKind.TEST, ()),
    ("a.t", True, b"\x7fELF\0", FileKind.TEST, ()),
    ("a.bats", False, b"@test x {\n", FileKind.TEST, ("bats", "--tap")),
    ("a.bats", True, b"#!/usr/bin/env bats\n", FileKind.TEST, ("bats", "--tap")),
]


@pytest.mark.parametrize(("name", "executable", "head", "kind", "argv"), TABLE)
def test_name_mode_and_content_decide_the_kind(
    name: str, executable: bool, head: bytes, kind: FileKind, argv: tuple[str, ...]
) -> None:
    result = classify(CandidateFile(name, executable, head))
    assert (result.kind, result.argv) == (kind, argv)
    assert bool(result.reason) is (kind is FileKind.INVALID)


@pytest.mark.parametrize("executable", [True, False])
@pytest.mark.parametrize(
    ("shebang", "argv"),
    [
        ("#!./perl -w", ("perl",)),
        ("#!perl", ("perl",)),
        ("#!perl -wT", ("perl", "-T")),
        ("#!/no/such/bin/perl5.36 -Ilib", ("perl",)),
        ("#! /usr/bin/perl", ("perl",)),
        ("#!/usr/bin/env perl -T", ("perl", "-T")),
        ("#!/usr/bin/env -S perl -t -w", ("perl", "-t")),
        ("#!/bin/sh -- # -*- perl -*- -T", ("perl", "-T")),
        ("#!/usr/bin/perl -w\r", ("perl",)),
    ],
)
def test_perl_runs_a_t_file_whose_shebang_names_it(
    shebang: str, argv: tuple[str, ...], executable: bool
) -> None:
    """The table is what ``TAP::Parser::SourceHandler::Perl`` does."""
    head = f"{shebang}\nprint 1;\n".encode()
    assert classify(CandidateFile("a.t", executable, head)).argv == argv


@pytest.mark.parametrize("shebang", ["#!/bin/sh", "#!/usr/bin/superl", "#!/usr/bin/env python3"])
def test_another_shebang_of_a_t_file_is_followed(shebang: str) -> None:
    head = f"{shebang}\n# perl\n".encode()
    assert classify(CandidateFile("a.t", True, head)).argv == ()
    assert classify(CandidateFile("a.t", False, head)).argv == tuple(shebang[2:].split())


@pytest.mark.parametrize(("name", "head"), [("run", SH), ("run.sh", b"exit\n"), ("notes.md", b"")])
def test_a_named_file_is_a_test_or_gives_the_reason(name: str, head: bytes) -> None:
    assert classify(CandidateFile(name, True, head), is_explicit=True).kind is FileKind.TEST
    refused = classify(CandidateFile(name, False, head), is_explicit=True)
    assert refused.kind is FileKind.INVALID
    assert f"chmod +x {name}" in refused.reason


def test_the_advice_can_be_pasted() -> None:
    assert "chmod +x 'test_a b.sh'" in classify(CandidateFile("test_a b.sh", False, SH)).reason


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.sh", ".sh"), ("a.b.sh", ".sh"), ("a", ""), (".t", ""), (".bats", "")]
)
def test_suffixes(name: str, suffix: str) -> None:
    assert CandidateFile(name, True, b"").suffix == suffix


LOOK_ALIKES: list[tuple[str, bool, bytes, tuple[str, ...], str]] = [
    ("test_noshebang.sh", False, b"exit 0\n", DEFAULT_PATTERNS, "neither executable nor"),
    ("test_helper_login.sh", True, SH, DEFAULT_PATTERNS, "contains 'helper'"),
    ("login_Fixture_test", True, SH, DEFAULT_PATTERNS, "contains 'Fixture'"),
    ("helper.t", False, b"", DEFAULT_PATTERNS, "contains 'helper'"),
    ("test-dash.sh", True, SH, DEFAULT_PATTERNS, "matches no pattern"),
    ("test.sh", True, b"exit 0\n", DEFAULT_PATTERNS, "matches no pattern"),
    ("test.sh", False, SH, DEFAULT_PATTERNS, "matches no pattern"),
    ("Test_a.sh", True, SH, DEFAULT_PATTERNS, "matches no pattern"),
    ("tests", True, b"\x7fELF\0", DEFAULT_PATTERNS, "matches no pattern"),
    ("login-test.pl", True, SH, DEFAULT_PATTERNS, "matches no pattern"),
    ("test-dash.sh", True, SH, ("test_*", "check_*"), "matches no pattern"),
    ("a.check", False, b"exit 0\n", ("*.check",), "neither executable nor"),
    # No program, a library of tests, or the user has decided:
    ("test_helper.bash", False, b"load x\n", DEFAULT_PATTERNS, ""),
    ("test_helper.bash", False, SH, DEFAULT_PATTERNS, ""),
    ("test-lib.sh", False, b"# functions\n", DEFAULT_PATTERNS, ""),
    ("test_data", False, b"1 2\n", DEFAULT_PATTERNS, ""),
    ("test-data.json", True, b"{}", DEFAULT_PATTERNS, ""),
    ("test-a.py", True, SH, DEFAULT_PATTERNS, ""),
    ("latest.sh", True, SH, DEFAULT_PATTERNS, ""),
    ("run.sh", True, SH, DEFAULT_PATTERNS, ""),
    ("test-dash.sh", True, SH, ("check_*",), ""),
    ("test_a.sh", True, SH, ("check_*",), ""),
]


@pytest.mark.parametrize(("name", "executable", "head", "patterns", "reason"), LOOK_ALIKES)
def test_a_file_that_looks_like_a_test_has_a_reason_why_it_is_none(
    name: str, executable: bool, head: bytes, patterns: tuple[str, ...], reason: str
) -> None:
    file = CandidateFile(name, executable, head)
    is_test = can_be_test(name, patterns) and classify(file).kind is not FileKind.OTHER
    assert not is_test
    explanation = explain_uncollected(file, patterns)
    assert reason in explanation
    assert bool(explanation) is bool(reason)


@pytest.mark.parametrize("name", [row[0] for row in LOOK_ALIKES if "contains" in row[4]])
def test_the_advice_about_an_excluded_name_works(name: str) -> None:
    assert can_be_test(name, (*DEFAULT_PATTERNS, name))
