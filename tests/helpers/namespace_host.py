"""A whole host in a PID namespace: when its first process is killed, all of it dies at once.

As by a power cut.  The next start is another boot: process ids begin anew, and the boot id is
another one (a file bound over the kernel's, in the namespace's own view of /proc).  Inside runs
a real agent.  Needs root, or a kernel that gives namespaces to users.
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
PATIENCE = 60.0

#: The first process: starts what it is told to, reaps, answers; one JSON a line.
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
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or name == "1":
            continue
        try:
            stat = open("/proc/%s/stat" % name).read().rpartition(")")[2].split()
            words = open("/proc/%s/cmdline" % name, "rb").read().decode("utf-8", "replace")
        except OSError:
            continue
        if stat[0] not in "ZX":
            found.append([int(name), int(stat[1]), words.split("\0")])
    return found

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


class Machine:
    """One host, and a user elsewhere who hands jobs to it with the command ``nosejobs job``."""

    def __init__(self, folder: Path, fleet: Path) -> None:
        """``fleet``: bundles host.pem and client.pem."""
        self.folder = folder
        self.fleet = fleet
        for name in ("state", "cache", "tmp", "home", "user", "here"):
            (folder / name).mkdir(mode=0o700)
        # It was used before.
        preloaded_host_code.cache(folder / "cache")
        preloaded_host_code.queue(Path(state_dirs.host_folder(str(folder / "state/nosejobs")), "jobs"))
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
        """Another boot of the same disk."""
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
        self.agent()

    def power_off(self) -> None:
        """Everything dies in the same moment."""
        if self._init is not None:
            self._init.kill()  # unshare; its child is killed with it, and all that has
            self._init.communicate()
            self._init = None
            self._agent = 0
            _wait_for("its port to be free", lambda: _is_free(self.port))

    def agent(self) -> None:
        """Start the agent, unless it runs."""
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

    def processes(self) -> list[tuple[int, int, list[str]]]:
        """Process id, parent and command of each, by its own numbers."""
        return [(pid, parent, words) for pid, parent, words in self._ask("processes")]

    def send(self, pid: int, number: int) -> bool:
        """A signal to one of its processes."""
        return bool(self._ask("kill", pid, number))

    @property
    def worker(self) -> int:
        """The worker that is there."""
        return int(self.rows("SELECT pid FROM worker")[0][0])

    @property
    def runner(self) -> int:
        """The worker's child that runs a job."""
        worker = self.worker
        found = [pid for pid, parent, _ in self.processes() if parent == worker]
        assert len(found) == 1, self.processes()
        return found[0]

    @property
    def slot(self) -> int:
        """A slot that has a child, or just one."""
        processes = self.processes()
        parents = {parent for _, parent, _ in processes}
        runner = self.runner
        slots = [pid for pid, parent, _ in processes if parent == runner]
        assert slots, processes
        return next((pid for pid in slots if pid in parents), slots[0])

    def strangers(self) -> list[list[str]]:
        """What runs beside the agent."""
        return [words for pid, _, words in self.processes() if pid != self._agent]

    # -- its queue ----------------------------------------------------------------

    @property
    def jobs(self) -> Path:
        """The folder of the queue."""
        return next((self.folder / "state/nosejobs/hosts").iterdir()) / "jobs"

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """What the queue says, read by somebody who writes nothing."""
        path = f"file:{self.jobs / 'queue.db'}?mode=ro"
        with contextlib.closing(sqlite3.connect(path, uri=True, timeout=10)) as db:
            return list(db.execute(statement, values))

    def step(self, job: str) -> str:
        """Where the last attempt of a job is; empty if it has none."""
        found = self.rows(
            "SELECT step FROM attempt JOIN job ON job.number = attempt.job WHERE job.id = ? "
            "ORDER BY attempt.number DESC LIMIT 1",
            job,
        )
        return str(found[0][0]) if found else ""

    def state(self, job: str) -> str:
        """The state of a job; empty if there is none."""
        try:
            found = self.rows("SELECT state FROM job WHERE id = ?", job)
        except (sqlite3.OperationalError, StopIteration, FileNotFoundError):
            return ""
        return str(found[0][0]) if found else ""

    # -- its user -----------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """The user's."""
        return {
            **os.environ, "XDG_STATE_HOME": str(self.folder / "user"),
            "XDG_CACHE_HOME": str(self.folder / "user"), "PYTHONPATH": str(CHECKOUT),
            "NOSEJOBS_HOST": self.spec,
        }  # fmt: skip

    def begin(self, *words: object) -> subprocess.Popen[str]:
        """A command ``nosejobs job`` that runs on."""
        command = [sys.executable, "-m", "shell_runner.cli.main", "job", *map(str, words)]
        return subprocess.Popen(
            command, env=self.environment, cwd=self.folder / "here", text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def job(self, *words: object, status: int = 0) -> str:
        """A command ``nosejobs job``; what it prints."""
        process = self.begin(*words)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == status, f"{words}: {process.returncode}\n{out}\n{err}"
        return out

    def submit(self, *words: object) -> str:
        """The UUID of a new job."""
        id = self.job("submit", *words).strip()
        assert is_uuid(id)
        return id

    def wait_for(self, what: str, condition: Callable[[], object]) -> None:
        """Look until it is so."""
        _wait_for(what, condition, self.processes)


def _wait_for(
    what: str, condition: Callable[[], object], explain: Callable[[], object] = str
) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}: {explain()}"
        time.sleep(0.002)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


@contextlib.contextmanager
def bundles(folder: Path) -> Iterator[Path]:
    """A fleet of one host and one user."""
    authority = ca.Authority.create(folder / "ca", ca.utcnow())
    now = ca.utcnow()
    host = authority.issue_host("localhost", ("127.0.0.1",), now)
    ca.write_private(folder / "host.pem", host)
    ca.write_private(folder / "client.pem", authority.issue_client("user", now))
    yield folder


KILL, STOP, GO_ON = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT
