"""Tests of starting programs and of the reasons why one cannot be started."""

import os
from pathlib import Path

import pytest

from shell_runner.remote.execution.spawn import (
    ProgramStartError,
    SpawnContext,
    is_binary,
    parse_shebang,
    start_program,
)
from shell_runner.remote.protocol.model import Problem
from tests.helpers.single_host_run import write_program

ENV = {"PATH": os.defpath}


def run(path: Path, argv: tuple[str, ...] = ()) -> int:
    """Start a program, wait for it and return its exit status."""
    with open(os.devnull, "w") as null:
        pid = start_program(str(path), argv, SpawnContext(ENV, null.fileno(), null.fileno()))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(
    ("text", "mode", "argv", "status"),
    [
        (b"#!/bin/sh\nexit 3\n", 0o755, (), 3),
        (b"exit 4\n", 0o755, (), 4),
        (b"", 0o755, (), 0),
        (b"exit 5\n", 0o644, ("sh",), 5),
        (b"#!/bin/sh -e\nfalse\nexit 0\n", 0o755, (), 1),
        (b"\xef\xbb\xbf#\nexit 6\n", 0o755, (), 6),
        (b"[ -t 0 ] && exit 1; read x && exit 2; exit 7\n", 0o755, (), 7),
    ],
)
def test_programs_run(
    tmp_path: Path, text: bytes, mode: int, argv: tuple[str, ...], status: int
) -> None:
    assert run(write_program(tmp_path / "test_a", text, mode), argv) == status


@pytest.mark.parametrize(
    ("text", "mode", "argv", "problem", "detail"),
    [
        (b"#!/no/such -x\n", 0o755, (), Problem.NO_INTERPRETER, "/no/such is not installed"),
        (b"#!/bin/sh\r\nexit\r\n", 0o755, (), Problem.NO_INTERPRETER, "CR"),
        (b"x", 0o755, ("no-such",), Problem.NO_INTERPRETER, "no-such is not installed"),
        (b"\x7fELF\x02\x01\x01" + bytes(60), 0o755, (), Problem.FOREIGN_BINARY, os.uname().machine),
        (b"MZ\x90\0" + bytes(60), 0o755, (), Problem.FOREIGN_BINARY, ""),
        (b"#!/bin/sh\n", 0o644, (), Problem.PERMISSION_DENIED, "chmod +x"),
        (b"#!/etc/passwd\n", 0o755, (), Problem.PERMISSION_DENIED, "interpreter is not executable"),
    ],
)
def test_the_cause_of_a_failed_start_is_named(
    tmp_path: Path, text: bytes, mode: int, argv: tuple[str, ...], problem: str, detail: str
) -> None:
    with pytest.raises(ProgramStartError) as caught:
        run(write_program(tmp_path / "test_a", text, mode), argv)
    assert caught.value.problem == problem
    assert detail in caught.value.detail


@pytest.mark.parametrize("argv", [(), ("sh",)])
def test_a_missing_file_is_named(tmp_path: Path, argv: tuple[str, ...]) -> None:
    with pytest.raises(ProgramStartError) as caught:
        run(tmp_path / "test_gone", argv)
    assert caught.value.problem == Problem.NO_SUCH_FILE
    assert "test_gone" in caught.value.detail


@pytest.mark.parametrize(
    ("head", "expected"),
    [(b"\x7fELF", True), (b"a\0b", True), (b"#!/bin/sh", False), (b"", False), (b"\xff", False)],
)
def test_binaries_are_recognized(head: bytes, expected: bool) -> None:
    assert is_binary(head) is expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [(b"#!/bin/sh\nx", "/bin/sh"), (b"#! /x -y\r\n", " /x -y\r"), (b"x", None), (b"#!", "")],
)
def test_shebangs_are_parsed(head: bytes, expected: str | None) -> None:
    assert parse_shebang(head) == expected
