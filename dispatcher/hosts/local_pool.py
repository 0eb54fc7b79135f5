"""Pools of kind ``local``: agents on this machine, each with a state of its own.

Owns their processes and folders, and the authority that signs their certificates.  An agent
outlives a dispatcher that was killed, and is found again: a process is a number, a start and a
boot.  Must not know rows, nor when a host is wanted.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from shell_runner.config import MAX_SLOTS
from shell_runner.errors import CannotOpen, UsageError
from shell_runner.hosts import agent_zipapp
from shell_runner.remote.agent import credentials
from shell_runner.remote.files import remove_tree as place
from shell_runner.remote.processes import orphans, process_identity
from shell_runner.remote.protocol.host_facts import cores
from shell_runner.remote.protocol.job import Identity
from shell_runner.validators import suggestion

from ..configuration.settings import Pool
from .hookspecs import Handle, Maker, Raised, hookimpl

if TYPE_CHECKING:
    from shell_runner.hosts import ca

KIND = "local"
_OPTIONS = ("slots",)
#: What an agent is called in its certificate.
_NAME = "localhost"
#: Seconds that an agent may take to listen, and between two looks at whether it does.
_START, _LOOK = 20.0, 0.01
#: Days before their end when certificates are made anew.
_RENEW = 60
_DAY = 86_400.0
#: Characters of an agent's log that are shown when it has not started.
_TAIL = 500


@hookimpl
def nosejobs_pool_kinds() -> dict[str, Maker]:
    """The embedded one."""
    return {KIND: Local}


class Local:
    """Agents as processes of this user, which listen on loopback only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._hosts = self._folder / "hosts"
        self._lock = threading.Lock()
        #: Children of ours, so that none stays a zombie.
        self._children: list[subprocess.Popen[bytes]] = []

    def check(self, pool: Pool) -> None:
        """There is one option."""
        for key in pool.options:
            if key not in _OPTIONS:
                words = f"[pools.{pool.name}.options]: unknown key {key!r}"
                raise UsageError(words + suggestion(key, _OPTIONS))
        slots = pool.options.get("slots", 1)
        if type(slots) is not int or not 1 <= slots <= MAX_SLOTS:
            words = f"[pools.{pool.name}.options] slots must be a whole number, 1 to {MAX_SLOTS}"
            raise UsageError(f"{words}, not {slots!r}")

    def bring_up(self, name: str, pool: Pool, handle: Handle | None) -> Raised:
        """An agent that listens."""
        self.check(pool)
        if handle is None:
            # One whose handle was never written down has never had a job.
            self._kill(name)
        elif not self.is_alive(name, handle):
            handle = None
        found = handle or self._start(name)
        client = self._folder / "client.pem"
        spec = f"agent=127.0.0.1:{found['port']}//name={_NAME}//credentials={client}"
        # Together they must not have more than there is.
        share = max(cores() // pool.most, 1)
        return Raised(spec, found, pool.options.get("slots", share))

    def is_alive(self, name: str, handle: Handle) -> bool:
        """The process of the handle, and no other one that has its number."""
        self._reap()
        try:
            found = Identity(int(handle["pid"]), str(handle["start"]), str(handle["boot"]))
        except (KeyError, TypeError, ValueError):
            return False
        return process_identity.is_alive(found)

    def take_down(self, name: str, handle: Handle | None) -> None:
        """Agent, worker and whatever they run; then their files."""
        self._kill(name)
        # Tests that were killed with it can have left folders of any depth and mode.
        place.remove_tree(os.fspath(self._hosts / name))

    def existing(self) -> Collection[str]:
        """By their folders, which are there before a process is."""
        try:
            return sorted(os.listdir(self._hosts))
        except FileNotFoundError:
            return []

    def close(self) -> None:
        """No process stays; the queues of those with jobs do, and go on when they are back."""
        for name in self.existing():
            self._kill(name)

    # -- processes ----------------------------------------------------------------

    def _kill(self, name: str) -> None:
        """All that has this host's mark, or works below its folder."""
        stubborn = orphans.kill(name, os.fspath(self._hosts / name))
        self._reap()
        if stubborn:
            raise CannotOpen(name, f"cannot kill the processes {stubborn} of this host")

    def _reap(self) -> None:
        with self._lock:
            self._children = [child for child in self._children if child.poll() is None]

    def _start(self, name: str) -> Handle:
        folder = self._hosts / name
        for each in ("state", "cache"):
            (folder / each).mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._prepared():
            program, bundle = self._program(), self._bundle("host")
            self._bundle("client")
        port_file = folder / "port"
        port_file.unlink(missing_ok=True)
        command: list[str | Path] = [sys.executable, program, bundle, "--listen", "127.0.0.1:0"]
        with open(folder / "agent.log", "ab") as log:
            child = subprocess.Popen(
                [*command, "--port-file", port_file], env=self._environment(name, folder),
                cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        with self._lock:
            self._children.append(child)
        found = process_identity.of(child.pid)
        port = self._port(name, child, port_file)
        assert found is not None
        return {**found._asdict(), "port": port}

    def _port(self, name: str, child: subprocess.Popen[bytes], path: Path) -> int:
        deadline = time.monotonic() + _START
        while child.poll() is None and time.monotonic() < deadline:
            with suppress(FileNotFoundError):
                return int(path.read_text())
            time.sleep(_LOOK)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            child.wait()
        log = (path.parent / "agent.log").read_text(errors="replace")[-_TAIL:].strip()
        raise CannotOpen(name, f"its agent does not start: {log or 'it says nothing'}")

    def _environment(self, name: str, folder: Path) -> dict[str, str]:
        """That of the dispatcher, but for what is ours, and folders of its own."""
        found = {key: text for key, text in os.environ.items() if not key.startswith("NOSEJOBS_")}
        found["XDG_STATE_HOME"] = os.fspath(folder / "state")
        found["XDG_CACHE_HOME"] = os.fspath(folder / "cache")
        return {**found, orphans.MARKER: name}

    # -- files that all share -----------------------------------------------------

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        """One at a time, also of several dispatchers."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self._folder / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _program(self) -> Path:
        """The agent as a file that needs nothing of ours."""
        path = self._folder / "nosejobs-agent.pyz"
        if not path.exists() or path.read_bytes() != agent_zipapp.zipapp():
            agent_zipapp.write(path)
        return path

    def _bundle(self, role: str) -> Path:
        path = self._folder / f"{role}.pem"
        if path.exists() and credentials.expires(str(path)) > time.time() + _RENEW * _DAY:
            return path
        from shell_runner.hosts import ca  # ten megabytes, which most dispatchers never need

        authority, now = self._authority(), ca.utcnow()
        if role == "host":
            text = authority.issue_host(_NAME, ["127.0.0.1"], now)
        else:
            text = authority.issue_client("dispatcher", now)
        ca.write_private(path, text)
        return path

    def _authority(self) -> ca.Authority:
        from shell_runner.hosts import ca

        folder = self._folder / "ca"
        if (folder / "crl.pem").exists():
            return ca.Authority(folder)
        # One that was not finished has signed nothing.
        shutil.rmtree(folder, ignore_errors=True)
        return ca.Authority.create(folder, ca.utcnow(), "nosejobs pool")
