"""Trivial scripts over ssh to this machine: rate beside 2*popen, with and without shipping."""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
import trivial
from measure import Contender, Run, RunFailed

NAME = "ssh"
_BASE = "2*popen"
_NOTES = (
    "Ratio: tests per second beside popen, whole run with start-up and connection; target 0.9. "
    "Cold: the host has neither our code nor any file of the tree. Warm: it has both, and "
    "unpacks the tree anew. The processor time is that of the controller alone. "
    "Files are in memory where the machine allows it, on both sides.",
)
_SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
PrintMotd no
SetEnv XDG_CACHE_HOME={cache} TMPDIR={tmp}
"""
_SSH = """\
Host bench
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {folder}/user_key
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile {folder}/known_hosts
  LogLevel ERROR
"""


def main(smoke: bool) -> dict[str, Any]:
    """Measure; a smoke run only shows that it works."""
    few, sizes = (20, {200: 1}) if smoke else (200, {2000: 5, 10_000: 3})
    if missing_program():
        return {"tables": [], "skipped": [f"{missing_program()} is not installed"]}
    tables: list[dict[str, Any]] = []
    skipped = []
    with measure.workspace() as folder, server(folder) as config:
        small = measure.in_turn(list(_contenders(folder / "few", few, config)), max(sizes.values()))
        for many, rounds in sizes.items():
            runs = measure.in_turn(list(_contenders(folder / str(many), many, config)), rounds)
            title = f"{many} scripts `exit 0`, 2 slots, {measure.format_rounds(rounds)}"
            tables.append(measure.table(title, runs, _BASE, _NOTES, inverse=True))
            further = steady(small, runs, few, many)
            if further is not None:
                tables.append(further)
            else:
                skipped.append(f"each script beyond {few}: lost in the machine's noise")
    return {"tables": tables, "skipped": skipped}


def steady(
    small: dict[str, list[Run]], large: dict[str, list[Run]], few: int, many: int
) -> dict[str, Any] | None:
    """Return the cost of one more test without one-time costs; None if it is lost in noise."""
    more = many - few
    costs = {
        name: [
            Run((b.wall - a.wall) / more, (b.cpu - a.cpu) / more, 0, 0)
            for a, b in zip(small[name], large[name], strict=False)
        ]
        for name in large
    }
    if any(each.wall <= 0 for done in costs.values() for each in done):
        return None
    note = "Difference of a run with more and one with fewer scripts, by their number."
    return measure.table(f"each script beyond {few} of {many}", costs, _BASE, [note], inverse=True)


def _contenders(folder: Path, count: int, config: Path) -> Iterator[Contender]:
    tree, junit = make_tree(folder / "scripts", count), folder / "junit.xml"
    check = functools.partial(measure.check_junit, junit, count)
    options = ("-q", f"--junitxml={junit}")
    cache = config.parent / "cache"
    forget = functools.partial(shutil.rmtree, cache, ignore_errors=True)
    spec = f"ssh=bench//slots=2//ssh_config={config}//python={sys.executable}"

    popen = measure.pytest(*options, f"--nosejobs={_BASE}")
    yield Contender(_BASE, popen, tree, check=check)
    ssh = measure.pytest(*options, f"--nosejobs={spec}")
    yield Contender("ssh, 2 slots, cold", ssh, tree, before=forget, check=check)
    yield Contender("ssh, 2 slots, warm", ssh, tree, check=check)


def make_tree(tree: Path, count: int) -> Path:
    """Write scripts with different contents: equal ones would be shipped once."""
    for number, path in enumerate(trivial.make_tree(tree, count)):
        measure.write_script(path, f"# {number} of {count}\nexit 0")
    (tree / "pytest.ini").touch()
    return tree


# -- a server of our own ----------------------------------------------------------


def missing_program() -> str:
    """Return the first program that a server needs and this machine lacks; "" if it has all."""
    needed = {name: shutil.which(name) for name in ("ssh", "ssh-keygen")} | {"sshd": _sshd()}
    return next((name for name, path in needed.items() if path is None), "")


def _sshd() -> str | None:
    # Often on the path of root alone; it must be started by its full path.
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Path]:
    """Run an sshd on loopback with its own keys; yield the client's configuration."""
    folder = folder / "sshd"
    folder.mkdir(mode=0o700)
    for name in ("host_key", "user_key"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    if os.geteuid() == 0:
        # What a service manager makes before it starts an sshd.
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    values = {
        "port": _free_port(), "folder": folder, "cache": folder / "cache",
        "tmp": os.environ["TMPDIR"], "user": getpass.getuser(),
    }  # fmt: skip
    (folder / "sshd_config").write_text(_SSHD.format(**values))
    config = folder / "ssh_config"
    config.write_text(_SSH.format(**values))
    log = folder / "log"
    argv = [str(_sshd()), "-D", "-f", str(folder / "sshd_config"), "-E", str(log)]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        _await_port(process, values["port"], log)
        yield config
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RunFailed(f"sshd does not answer\n{log.read_text() if log.exists() else ''}")
