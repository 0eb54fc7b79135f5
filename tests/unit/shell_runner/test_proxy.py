"""The command line of ssh."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shell_runner import proxy
from tests.bench import write

PLAIN = {"address": "me@h", "python": "", "ssh_config": "", "errors": ""}


def test_ssh_never_asks_and_notices_a_dead_network() -> None:
    command = proxy.ssh_command(PLAIN, "x")
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
    command = proxy.ssh_command({**PLAIN, **changes}, "x")
    assert command[-1 - len(expected) : -1] == expected


@pytest.mark.parametrize("code", ["print(1 + 1)", "print('2'); '\"'"])
def test_the_remote_command_survives_a_shell(code: str) -> None:
    remote = proxy.ssh_command({**PLAIN, "python": sys.executable}, code)[-1]
    done = subprocess.run(["sh", "-c", remote], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"


def test_python3_is_what_runs_there_unless_told_otherwise() -> None:
    assert proxy.ssh_command(PLAIN, "x")[-1].startswith("exec python3 -u -c ")
    assert " python3.9 " in proxy.ssh_command({**PLAIN, "python": "python3.9"}, "x")[-1]


def test_settings_fit_in_a_spec() -> None:
    word = proxy.encode({**PLAIN, "ssh_config": "/a//b c", "errors": "é?>"})
    assert not set(word) & set("/ +")


def run_proxy(folder: Path, path: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run the program as execnet does; what became of it, and the file of complaints."""
    errors = folder / "errors"
    settings = proxy.encode({**PLAIN, "errors": str(errors)})
    command = [sys.executable, proxy.__file__, settings, "-u", "-c", "BOOT"]
    env = {**os.environ, "PATH": path}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)
    return done, errors.read_text()


def test_it_becomes_ssh_with_its_complaints_in_the_file(tmp_path: Path) -> None:
    script = "import json, os, sys\nprint(json.dumps([sys.argv, os.getpid()]))\n"
    write(tmp_path / "ssh", f"#!{sys.executable}\n{script}print('oops', file=sys.stderr)\n")
    done, errors = run_proxy(tmp_path, str(tmp_path))
    argv, pid = json.loads(done.stdout)
    assert argv[-1].endswith("BOOT'")
    assert errors == f"nosejobs-pid: {pid}\noops\n"
    assert proxy.PID.match(errors)
    assert done.stderr == ""


def test_a_machine_without_ssh_is_told(tmp_path: Path) -> None:
    done, errors = run_proxy(tmp_path, str(tmp_path))
    assert done.returncode == 127
    assert "nosejobs-no-ssh: " in errors
