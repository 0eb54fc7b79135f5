"""Pools of kind ``local``: agents on this machine, each with its own state.

Owns the agents' processes and folders, and the authority that signs their certificates.  An agent
keeps running if the process that started it is killed.  It is found again by its process id,
start time and boot id.  Must not know when a host is wanted.
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

from ..config import MAX_SLOTS
from ..errors import HostOpenError, UsageError
from ..hosts import agent_zipapp
from ..remote.agent import credentials
from ..remote.files.remove_tree import remove_tree
from ..remote.processes import orphans, process_identity
from ..remote.protocol.host_facts import count_cores
from ..remote.protocol.job import Identity
from ..validators import format_suggestion
from .hookspecs import hookimpl
from .provider import Handle, PoolOptions, ProviderFactory, RunningHost

if TYPE_CHECKING:
    from ..hosts import ca

KIND = "local"
_OPTIONS = ("slots",)
#: Name of every agent in its certificate.
_CERTIFICATE_NAME = "localhost"
#: Seconds that an agent may take until it listens.
_START_TIMEOUT = 20.0
#: Seconds between two checks whether an agent listens.
_START_POLL_INTERVAL = 0.01
#: Seconds before their end when certificates are replaced.
_RENEWAL_PERIOD = 60 * 86_400.0
#: Characters of an agent's log that are shown if it has not started.
_MAX_LOG_CHARS = 500


@hookimpl
def nosejobs_pool_kinds() -> dict[str, ProviderFactory]:
    """Return the built-in kind."""
    return {KIND: LocalProvider}


class LocalProvider:
    """A provider of agents that run as this user and listen on the loopback address only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._hosts = self._folder / "hosts"
        self._lock = threading.Lock()
        #: Our child processes, to be waited for so that none stays a zombie.
        self._children: list[subprocess.Popen[bytes]] = []

    def check(self, pool: PoolOptions) -> None:
        """Raise UsageError for any option but a valid ``slots``."""
        for key in pool.options:
            if key not in _OPTIONS:
                message = f"[pools.{pool.name}.options]: unknown key {key!r}"
                raise UsageError(message + format_suggestion(key, _OPTIONS))
        slots = pool.options.get("slots", 1)
        if type(slots) is not int or not 1 <= slots <= MAX_SLOTS:
            message = f"[pools.{pool.name}.options] slots must be a whole number, 1 to {MAX_SLOTS}"
            raise UsageError(f"{message}, not {slots!r}")

    def bring_up(self, name: str, pool: PoolOptions, handle: Handle | None) -> RunningHost:
        """Return an agent that listens; start it unless it is running.

        Raises HostOpenError if it does not listen in time.
        """
        self.check(pool)
        if handle is None:
            # An agent whose handle was never stored has never had a job.
            self._kill(name)
        elif not self.is_alive(name, handle):
            handle = None
        handle = handle or self._start(name)
        client = self._folder / "client.pem"
        spec = f"agent=127.0.0.1:{handle['port']}//name={_CERTIFICATE_NAME}//credentials={client}"
        # All hosts of the pool together must not use more cores than there are.
        default_slots = max(count_cores() // pool.max_hosts, 1)
        return RunningHost(spec, handle, pool.options.get("slots", default_slots))

    def is_alive(self, name: str, handle: Handle) -> bool:
        """Return whether the process of ``handle`` runs, and not another one with its id."""
        self._reap_children()
        try:
            pid, start_ticks = int(handle["pid"]), str(handle["start_ticks"])
            identity = Identity(pid, start_ticks, str(handle["boot_id"]))
        except (KeyError, TypeError, ValueError):
            return False
        return process_identity.is_alive(identity)

    def take_down(self, name: str, handle: Handle | None) -> None:
        """Kill agent, worker and all their processes, then remove their files."""
        self._kill(name)
        # Tests that were killed with it can have left folders of any depth and mode.
        remove_tree(os.fspath(self._hosts / name))

    def existing(self) -> Collection[str]:
        """Return the names of the hosts' folders, which exist before any process does."""
        try:
            return sorted(os.listdir(self._hosts))
        except FileNotFoundError:
            return []

    def close(self) -> None:
        """Kill all agents.  Their queues stay; ``bring_up`` lets the jobs in them continue."""
        for name in self.existing():
            self._kill(name)

    # -- processes ----------------------------------------------------------------

    def _kill(self, name: str) -> None:
        """Kill all processes that have a host's marker, or work below its folder.

        Raises HostOpenError if some of them survive.
        """
        survivors = orphans.kill_orphans(name, os.fspath(self._hosts / name))
        self._reap_children()
        if survivors:
            raise HostOpenError(name, f"cannot kill the processes {survivors} of this host")

    def _reap_children(self) -> None:
        with self._lock:
            self._children = [child for child in self._children if child.poll() is None]

    def _start(self, name: str) -> Handle:
        folder = self._hosts / name
        for subfolder in ("state", "cache"):
            (folder / subfolder).mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock_folder():
            program, credentials_file = self._write_program(), self._write_credentials("host")
            self._write_credentials("client")
        port_file = folder / "port"
        port_file.unlink(missing_ok=True)
        command: list[str | Path] = [sys.executable, program, credentials_file]
        command += ["--listen", "127.0.0.1:0", "--port-file", port_file]
        with open(folder / "agent.log", "ab") as log:
            child = subprocess.Popen(
                command, env=self._environment(name, folder), cwd="/",
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        with self._lock:
            self._children.append(child)
        identity = process_identity.identify(child.pid)
        port = self._wait_for_port(name, child, port_file)
        assert identity is not None
        return {
            "pid": identity.pid,
            "start_ticks": identity.start_ticks,
            "boot_id": identity.boot_id,
            "port": port,
        }

    def _wait_for_port(self, name: str, child: subprocess.Popen[bytes], path: Path) -> int:
        """Return the port from the file that the agent writes once it listens.

        Raises HostOpenError, with the end of the agent's log, if it does not listen in time.
        """
        deadline = time.monotonic() + _START_TIMEOUT
        while child.poll() is None and time.monotonic() < deadline:
            with suppress(FileNotFoundError):
                return int(path.read_text())
            time.sleep(_START_POLL_INTERVAL)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            child.wait()
        log = (path.parent / "agent.log").read_text(errors="replace")[-_MAX_LOG_CHARS:].strip()
        raise HostOpenError(name, f"its agent does not start: {log or 'its log is empty'}")

    def _environment(self, name: str, folder: Path) -> dict[str, str]:
        """Return our environment without variables of nosejobs, and with the host's folders."""
        variables = {key: v for key, v in os.environ.items() if not key.startswith("NOSEJOBS_")}
        variables["XDG_STATE_HOME"] = os.fspath(folder / "state")
        variables["XDG_CACHE_HOME"] = os.fspath(folder / "cache")
        return {**variables, orphans.ATTEMPT_VARIABLE: name}

    # -- files of all hosts --------------------------------------------------------

    @contextmanager
    def _lock_folder(self) -> Iterator[None]:
        """Lock the folder against other threads and processes."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self._folder / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _write_program(self) -> Path:
        """Return the agent as a file that does not need this installation."""
        path = self._folder / "nosejobs-agent.pyz"
        if not path.exists() or path.read_bytes() != agent_zipapp.zipapp():
            agent_zipapp.write(path)
        return path

    def _write_credentials(self, role: str) -> Path:
        """Return the credentials of ``role`` (host or client), issued anew before they expire."""
        path = self._folder / f"{role}.pem"
        if path.exists() and credentials.read_expiry(str(path)) > time.time() + _RENEWAL_PERIOD:
            return path
        from ..hosts import ca  # ten megabytes of memory, which is needed once in months

        authority, now = self._open_authority(), ca.utcnow()
        if role == "host":
            text = authority.issue_host(_CERTIFICATE_NAME, ["127.0.0.1"], now)
        else:
            text = authority.issue_client("dispatcher", now)
        ca.write_private_file(path, text)
        return path

    def _open_authority(self) -> ca.CertificateAuthority:
        from ..hosts import ca

        folder = self._folder / "ca"
        if (folder / "crl.pem").exists():
            return ca.CertificateAuthority(folder)
        # An authority that was not finished has signed nothing.
        shutil.rmtree(folder, ignore_errors=True)
        return ca.CertificateAuthority.create(folder, ca.utcnow(), "nosejobs pool")
