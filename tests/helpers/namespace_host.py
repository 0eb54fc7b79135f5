"""A host in a PID namespace: killing its first process kills all of it at once, like a power cut.

The next start is another boot: process ids start again, and the boot id differs (a file is mounted
over the kernel's in the namespace's view of /proc).  A real agent runs inside.  Needs root, or a
kernel that gives namespaces to users.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from shell_runner.hosts import ca
from shell_runner.remote.files import state_dirs
from shell_runner.remote.protocol.job import is_uuid
from tests.helpers import preloaded_host_code

CHECKOUT = Path(__file__).parents[2]
TIMEOUT = 60.0

#: Program of the first process: starts, kills and lists processes on request, one JSON a line.
_INIT = r"""
import json, os, signal, subprocess, sys
boot = sys.argv[1]
subprocess.run(["mount", "--bind", boot, "/proc/sys/kernel/random/boot_id"], check=True)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
agents = {}

def reap():
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        try:
            stat = open("/proc/%d/stat" % pid).read().rpartition(")")[2].split()
        except OSError:
            continue
        if stat[1] == "1" and stat[0] == "Z" and pid not in agents:
            os.waitpid(pid, os.WNOHANG)

def processes():
    rows = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or name == "1":
            continue
        try:
            stat = open("/proc/%s/stat" % name).read().rpartition(")")[2].split()
            arguments = open("/proc/%s/cmdline" % name, "rb").read().decode("utf-8", "replace")
        except OSError:
            continue
        if stat[0] not in "ZX":
            rows.append([int(name), int(stat[1]), arguments.split("\0")])
    return rows

def answer(order):
    if order[0] == "agent":
        if agents:
            (old,) = agents.values()
            if old.poll() is None:
                return old.pid
            agents.clear()
        process = subprocess.Popen(order[1], stderr=open(order[2], "a"))
        agents[process.pid] = process
        return process.pid
    if order[0] == "kill":
        try:
            os.kill(order[1], order[2])
        except ProcessLookupError:
            return False
        if order[1] in agents and order[2] == signal.SIGKILL:
            agents.pop(order[1]).wait()
        return True
    if order[0] == "processes":
        return processes()

print(json.dumps("up"), flush=True)
for line in sys.stdin:
    reap()
    print(json.dumps(answer(json.loads(line))), flush=True)
"""


class NamespaceHost:
    """A host, and a user elsewhere who submits jobs to it by the command ``nosejobs job``."""

    def __init__(self, folder: Path, fleet: Path) -> None:
        """Create the folders; ``fleet``: the folder with host.pem and client.pem."""
        self.folder = folder
        self.fleet = fleet
        for name in ("state", "cache", "tmp", "home", "user", "here"):
            (folder / name).mkdir(mode=0o700)
        # The host has our code already, as if it had been used before.
        preloaded_host_code.install_in_cache(folder / "cache")
        preloaded_host_code.install_in_queue(
            Path(state_dirs.host_folder(str(folder / "state/nosejobs")), "jobs")
        )
        self._init: subprocess.Popen[str] | None = None
        self._agent = 0
        self.port = _free_port()
        self.spec = f"agent=localhost:{self.port}//credentials={fleet / 'client.pem'}"

    # -- its life -----------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.boot()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a host of its own needs namespaces, as root has them: {error}")
        return self

    def __exit__(self, *_: object) -> None:
        self.power_off()

    def boot(self) -> None:
        """Boot the host again with the same disk."""
        boot = self.folder / "boot_id"
        boot.write_text(f"{uuid.uuid4()}\n")
        command = [
            "unshare", "--fork", "--pid", "--mount", "--mount-proc", "--kill-child",
            sys.executable, "-c", _INIT, str(boot),
        ]  # fmt: skip
        environment = {
            "HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp"),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT),
        }  # fmt: skip
        self._init = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        try:
            self._answer()
        except ValueError:
            raise OSError("unshare failed") from None
        self.start_agent()

    def power_off(self) -> None:
        """Kill all processes of the host at the same moment."""
        if self._init is not None:
            self._init.kill()  # unshare; its child is killed with it, and all that has
            self._init.communicate()
            self._init = None
            self._agent = 0
            _wait_for("its port to be free", lambda: _is_free(self.port))

    def start_agent(self) -> None:
        """Start the agent unless it runs."""
        command = [sys.executable, "-m", "shell_runner.remote", "agent"]
        command += [str(self.fleet / "host.pem"), "--listen", f"127.0.0.1:{self.port}"]
        self._agent = self._ask("agent", command, str(self.folder / "agent.log"))
        _wait_for("the agent", lambda: not _is_free(self.port))

    def _ask(self, *order: Any) -> Any:
        assert self._init is not None
        assert self._init.stdin is not None
        self._init.stdin.write(json.dumps(order) + "\n")
        self._init.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._init is not None
        assert self._init.stdout is not None
        return json.loads(self._init.stdout.readline())

    # -- its processes ------------------------------------------------------------

    def list_processes(self) -> list[tuple[int, int, list[str]]]:
        """Return process id, parent and command of each process, as seen in the namespace."""
        return [(pid, parent, arguments) for pid, parent, arguments in self._ask("processes")]

    def send_signal(self, pid: int, number: int) -> bool:
        """Send a signal to a process of the host; return False if there is none."""
        return bool(self._ask("kill", pid, number))

    @property
    def worker_pid(self) -> int:
        """The process id of the registered worker."""
        return int(self.query("SELECT pid FROM worker")[0][0])

    @property
    def runner_pid(self) -> int:
        """The process id of the worker's child that runs a job."""
        worker = self.worker_pid
        rows = [pid for pid, parent, _ in self.list_processes() if parent == worker]
        assert len(rows) == 1, self.list_processes()
        return rows[0]

    @property
    def slot_pid(self) -> int:
        """The process id of a slot, of one with a child if there is one."""
        processes = self.list_processes()
        parents = {parent for _, parent, _ in processes}
        runner = self.runner_pid
        slots = [pid for pid, parent, _ in processes if parent == runner]
        assert slots, processes
        return next((pid for pid in slots if pid in parents), slots[0])

    def list_other_processes(self) -> list[list[str]]:
        """Return the commands of all processes except the agent."""
        return [arguments for pid, _, arguments in self.list_processes() if pid != self._agent]

    # -- its queue ----------------------------------------------------------------

    @property
    def queue_folder(self) -> Path:
        """The folder of the queue."""
        return next((self.folder / "state/nosejobs/hosts").iterdir()) / "jobs"

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query on the queue, opened read-only."""
        path = f"file:{self.queue_folder / 'queue.db'}?mode=ro"
        with contextlib.closing(sqlite3.connect(path, uri=True, timeout=10)) as db:
            return list(db.execute(statement, values))

    def get_phase(self, job: str) -> str:
        """Return the phase of the last attempt of a job; empty if it has none."""
        rows = self.query(
            "SELECT phase FROM attempt JOIN job ON job.number = attempt.job WHERE job.id = ? "
            "ORDER BY attempt.number DESC LIMIT 1",
            job,
        )
        return str(rows[0][0]) if rows else ""

    def get_state(self, job: str) -> str:
        """Return the state of a job; empty if there is no such job."""
        try:
            rows = self.query("SELECT state FROM job WHERE id = ?", job)
        except (sqlite3.OperationalError, StopIteration, FileNotFoundError):
            return ""
        return str(rows[0][0]) if rows else ""

    # -- its user -----------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the user's commands."""
        return {
            **os.environ, "XDG_STATE_HOME": str(self.folder / "user"),
            "XDG_CACHE_HOME": str(self.folder / "user"), "PYTHONPATH": str(CHECKOUT),
            "NOSEJOBS_HOST": self.spec,
        }  # fmt: skip

    def start_command(self, *arguments: object) -> subprocess.Popen[str]:
        """Start a command ``nosejobs job``; return its process."""
        command = [sys.executable, "-m", "shell_runner.cli.main", "job", *map(str, arguments)]
        return subprocess.Popen(
            command, env=self.environment, cwd=self.folder / "here", text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run_command(self, *arguments: object, status: int = 0) -> str:
        """Run a command ``nosejobs job``; return its standard output."""
        process = self.start_command(*arguments)
        out, err = process.communicate(timeout=TIMEOUT)
        assert process.returncode == status, f"{arguments}: {process.returncode}\n{out}\n{err}"
        return out

    def submit(self, *arguments: object) -> str:
        """Submit a job; return its UUID."""
        id = self.run_command("submit", *arguments).strip()
        assert is_uuid(id)
        return id

    def wait_for(self, what: str, condition: Callable[[], object]) -> None:
        """Wait until ``condition()`` is true; ``what`` names it if it fails."""
        _wait_for(what, condition, self.list_processes)


def _wait_for(
    what: str, condition: Callable[[], object], explain: Callable[[], object] = str
) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}: {explain()}"
        time.sleep(0.01)  # each look at the queue takes processor time


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


@contextlib.contextmanager
def issue_bundles(folder: Path) -> Iterator[Path]:
    """Issue the bundles of one host and one user; yield their folder."""
    authority = ca.CertificateAuthority.create(folder / "ca", ca.utcnow())
    now = ca.utcnow()
    host = authority.issue_host("localhost", ("127.0.0.1",), now)
    ca.write_private_file(folder / "host.pem", host)
    ca.write_private_file(folder / "client.pem", authority.issue_client("user", now))
    yield folder


KILL, STOP, CONTINUE = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT
