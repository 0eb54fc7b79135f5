"""A real sshd on loopback with its own keys, port and folders, stopped when it is closed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest


class Sshd:
    """One daemon whose files are below ``folder``, and the ssh configuration to reach it."""

    def __init__(self, folder: Path, path: str | None = None) -> None:
        """``path`` is the PATH of remote commands, by default a bare Python and usual folders."""
        self.folder = folder
        self.config = folder / "ssh_config"
        self.cache = folder / "cache"
        self.bare = folder / "bare"
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None
        self._command: list[str] = []
        self.port = free_port()

    def __enter__(self) -> Self:
        program = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if program is None or shutil.which("ssh") is None:
            pytest.skip("openssh-server or openssh-client is not installed")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._write(program)
        self._command = [program, "-D", "-E", str(self.folder / "log")]
        self._command += ["-f", str(self.folder / "sshd_config")]
        self._start()
        return self

    def _start(self) -> None:
        # As from an init system: no environment or session of the test.
        environment = {"PATH": os.environ["PATH"]}
        self._process = subprocess.Popen(self._command, env=environment, start_new_session=True)
        self._await(self.folder / "log")

    def keep_up(self) -> None:
        """Start it again if it has ended, as an init system does."""
        if self._process is not None and self._process.poll() is not None:
            self._start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def _write(self, program: str) -> None:
        for name in ("host_key", "user_key", "stranger_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name]
            subprocess.run(command, check=True)
        for name in ("home", "tmp"):
            (self.folder / name).mkdir()
        path = self._path
        if path is None:
            venv = [sys.executable, "-m", "venv", "--without-pip", str(self.bare)]
            subprocess.run(venv, check=True)
            path = f"{self.bare}/bin:/usr/local/bin:/usr/bin:/bin"
        user_key = (self.folder / "user_key.pub").read_text()
        (self.folder / "authorized_keys").write_text(user_key)
        (self.folder / "sshd_config").write_text(
            f"Port {self.port}\n"
            "ListenAddress 127.0.0.1\n"
            f"HostKey {self.folder}/host_key\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\n"
            f"PidFile {self.folder}/pid\n"
            "StrictModes no\n"
            "UsePAM no\n"
            "PermitRootLogin yes\n"
            "PasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\n"
            "MaxStartups 100\n"
            f"SetEnv HOME={self.folder}/home XDG_CACHE_HOME={self.cache}"
            f" TMPDIR={self.folder}/tmp PATH={path}\n"
        )
        self.config.write_text(
            self._client("there", "user_key", self.port)
            + self._client("stranger", "stranger_key", self.port)
            + self._client("closed", "user_key", free_port())
            + self._client("nowhere", "user_key", self.port, "no-such-host.invalid")
        )

    def _client(self, name: str, key: str, port: int, address: str = "127.0.0.1") -> str:
        return (
            f"Host {name}\n"
            f"  HostName {address}\n"
            f"  Port {port}\n"
            f"  IdentityFile {self.folder}/{key}\n"
            "  IdentitiesOnly yes\n"
            "  IdentityAgent none\n"
            f"  UserKnownHostsFile {self.folder}/known_hosts\n"
            "  StrictHostKeyChecking accept-new\n"
        )

    def _await(self, log: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + 10
        while self._process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError(f"sshd does not listen: {log.read_text()}")

    def spec(self, name: str = "there", **options: object) -> str:
        """Return a host spec for the daemon; ``name`` is a host of the ssh configuration."""
        rest = "".join(f"//{key}={value}" for key, value in options.items())
        return f"ssh={name}//ssh_config={self.config}{rest}"


def free_port() -> int:
    """Return a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
