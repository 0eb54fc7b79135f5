"""Tests of the proxy that runs ssh, and of the command line of ssh."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from shell_runner.hosts import proxy
from shell_runner.hosts.frame_guard import VIOLATION_LINE
from shell_runner.hosts.proxy_errors import PID_LINE, REASON_LINE, ErrorFile
from tests.helpers.single_host_run import write_program

PLAIN = {"kind": "ssh", "address": "me@h", "python": "", "ssh_config": "", "errors": ""}


def test_ssh_never_asks_and_notices_a_dead_network() -> None:
    command = proxy.make_ssh_command(PLAIN, "x")
    assert command[0] == "ssh"
    for option in ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5"):
        assert command[command.index(option) - 1] == "-o"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["me@h"]),
        ({"address": "-p 2200 me@h"}, ["-p", "2200", "me@h"]),
        ({"address": "-o 'X=a b' h"}, ["-o", "X=a b", "h"]),
        ({"ssh_config": "/c"}, ["-F", "/c", "me@h"]),
    ],
)
def test_addresses_may_hold_arguments(changes: dict[str, str], expected: list[str]) -> None:
    command = proxy.make_ssh_command({**PLAIN, **changes}, "x")
    assert command[-1 - len(expected) : -1] == expected


@pytest.mark.parametrize("code", ["print(1 + 1)", "print('2'); '\"'"])
def test_the_remote_command_survives_a_shell(code: str) -> None:
    remote = proxy.make_ssh_command({**PLAIN, "python": sys.executable}, code)[-1]
    done = subprocess.run(["sh", "-c", remote], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"


def test_python3_is_what_runs_there_unless_told_otherwise() -> None:
    assert proxy.make_ssh_command(PLAIN, "x")[-1].startswith("exec python3 -u -c ")
    assert " python3.9 " in proxy.make_ssh_command({**PLAIN, "python": "python3.9"}, "x")[-1]


def test_settings_fit_in_a_spec() -> None:
    word = proxy.encode_settings({**PLAIN, "ssh_config": "/a//b c", "errors": "é?>"})
    assert not set(word) & set("/ +")


def run_proxy(folder: Path, path: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run the proxy as execnet does; return its result, and the text of the file of errors."""
    process = start_proxy(folder, path)
    out, err = process.communicate(timeout=30)
    done = subprocess.CompletedProcess([], process.returncode, out.decode(), err.decode())
    return done, (folder / "errors").read_text()


def start_proxy(folder: Path, path: str) -> subprocess.Popen[bytes]:
    (folder / "errors").touch()
    settings = proxy.encode_settings({**PLAIN, "errors": str(folder / "errors")})
    command = [sys.executable, "-P", proxy.__file__, settings, "-u", "-c", "BOOT"]
    pipe = subprocess.PIPE
    env = {**os.environ, "PATH": path}
    return subprocess.Popen(command, env=env, cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe)


def fake_ssh(folder: Path, code: str) -> None:
    write_program(folder / "ssh", f"#!{sys.executable}\nimport json, os, sys\n{code}\n")


def test_it_starts_ssh_with_its_complaints_in_the_file(tmp_path: Path) -> None:
    argv = tmp_path / "told"
    fake_ssh(tmp_path, f"json.dump(sys.argv, open({str(argv)!r}, 'w'))\nsys.stderr.write('oops')")
    done, errors = run_proxy(tmp_path, str(tmp_path))
    assert json.loads(argv.read_text())[-1].endswith("BOOT'")
    assert PID_LINE.match(errors)
    assert errors.endswith("\noops")
    assert (done.stdout, done.stderr) == ("", "")


def test_what_the_host_says_passes_the_guard(tmp_path: Path) -> None:
    fake_ssh(tmp_path, "sys.stdout.buffer.write(b'1' + b'\\x02' + bytes(8))")
    done, _ = run_proxy(tmp_path, str(tmp_path))
    assert done.stdout == "1\x02" + 8 * "\0"


def test_a_hostile_host_is_ended_with_a_reason(tmp_path: Path) -> None:
    fake_ssh(tmp_path, "os.write(1, b'1' + bytes(9)); sys.stdin.read(); open('ended', 'w')")
    done, errors = run_proxy(tmp_path, str(tmp_path))
    match = REASON_LINE.search(errors)
    assert match is not None
    assert "STATUS" in match[1]
    assert done.stdout in ("", "1")
    assert done.returncode == 1


_FLOOD = """
try:
    for _ in range(40): os.write(2, b"n" * (1 << 20))
except OSError: pass
"""


def test_a_host_cannot_fill_the_disk_by_errors(tmp_path: Path) -> None:
    fake_ssh(tmp_path, _FLOOD + "os.write(1, b'1' + bytes(9)); sys.stdin.read()")
    _, errors = run_proxy(tmp_path, str(tmp_path))
    assert errors.count("n") > proxy.MAX_ERROR_FILE_BYTES / 2
    assert len(errors) < proxy.MAX_ERROR_FILE_BYTES + 4096
    assert REASON_LINE.search(errors)


def test_many_errors_do_not_hide_the_reason() -> None:
    file = ErrorFile()
    try:
        assert file.close_reason() == ""
        lines = [b"nosejobs-pid: 1\n", b"noise\n" * 100_000, VIOLATION_LINE.encode()]
        Path(file.path).write_bytes(b"".join(lines) + b"nosejobs-reason: too large\n")
        assert file.close_reason() == "too large"
        assert file.was_ended_by_guard()
        assert len(file.read()) < 100_000
    finally:
        file.close()


def test_the_end_of_the_proxy_is_the_end_of_ssh(tmp_path: Path) -> None:
    """An ssh that does not read its input would hold the connection forever."""
    fake_ssh(tmp_path, "import time; os.write(1, b'1'); time.sleep(100)")
    process = start_proxy(tmp_path, str(tmp_path))
    assert process.stdout is not None
    assert process.stdout.read(1) == b"1"
    (child,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    child.wait(5)


def test_a_machine_without_ssh_is_told(tmp_path: Path) -> None:
    done, errors = run_proxy(tmp_path, str(tmp_path))
    assert done.stdout == ""
    assert "nosejobs-no-ssh: " in errors


def test_a_proxy_that_nobody_waits_for_leaves_nothing(tmp_path: Path) -> None:
    settings = proxy.encode_settings({**PLAIN, "errors": str(tmp_path / "errors")})
    command = [sys.executable, proxy.__file__, settings, "-u", "-c", "pass"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
    assert not os.listdir(tmp_path)
