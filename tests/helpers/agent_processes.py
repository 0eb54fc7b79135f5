"""Real agents on loopback with certificates of a real authority; gone when closed."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from shell_runner.hosts import ca, tls

#: What execnet gives to an interpreter that it starts.
BOOTSTRAP = "import sys;exec(eval(sys.stdin.readline()))"
#: Answers each line with the value of the expression in it.
ECHO = "import os, sys, subprocess\nfor line in sys.stdin: print(eval(line), flush=True)"


class Authority:
    """A fleet's authority, and bundles by name, below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = ca.CertificateAuthority.create(folder / "ca", ca.utcnow())
        self.crl = self.ca.folder / "crl.pem"

    def host(self, name: str = "localhost", *addresses: str, days: int = 365) -> Path:
        """A host's bundle."""
        given = addresses or ("127.0.0.1", "::1")
        return self._write(name, self.ca.issue_host(name, given, ca.utcnow(), days))

    def client(self, name: str = "laptop", days: int = 365) -> Path:
        """A controller's bundle."""
        return self._write(name, self.ca.issue_client(name, ca.utcnow(), days))

    def revoke(self, name: str) -> None:
        """Put all that ``name`` has on the list."""
        self.ca.revoke(name, ca.utcnow())

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / f"{name}.pem"
        ca.write_private_file(path, text)
        return path


class Agent:
    """One agent process: ``log`` is what it says, line by line."""

    def __init__(self, bundle: Path, *options: object, command: tuple[str, ...] = ()) -> None:
        """``command``: what runs it; else our own interpreter with the checkout's module."""
        self.bundle = bundle
        self.lines: list[str] = []
        self.port = 0
        given = command or (sys.executable, "-m", "shell_runner.remote", "agent")
        listen = () if "--connect" in options else ("--listen", "127.0.0.1:0")
        argv = [*given, str(bundle), *listen, *map(str, options)]
        self.process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        self._fresh: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        found = self.expect(r"listening .*port=(\d+)|dialing ")
        self.port = int(found[1] or 0)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        self._reader.join(20)

    def expect(self, pattern: str, seconds: float = 20.0) -> re.Match[str]:
        """The first line from here on that matches; those before it are skipped."""
        deadline = time.monotonic() + seconds
        while True:
            for number, line in enumerate(self.lines):
                found = re.search(pattern, line)
                if found:
                    del self.lines[: number + 1]
                    return found
            line = None
            with contextlib.suppress(queue.Empty):
                line = self._fresh.get(timeout=max(deadline - time.monotonic(), 0))
            if line is None:
                raise AssertionError(f"no {pattern!r} in the log:\n" + "\n".join(self.lines))
            self.lines.append(line)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as log:
            for line in log:
                self._fresh.put(line.rstrip("\n"))
        self._fresh.put(None)

    def settings(self, credentials: Path, **changes: Any) -> dict[str, Any]:
        """What the proxy would be told."""
        return {
            "kind": "agent", "address": "localhost", "port": self.port,
            "credentials": str(credentials), **changes,
        }  # fmt: skip

    def connect(self, credentials: Path, **changes: Any) -> Peer:
        """An interpreter behind it that evaluates lines."""
        return Peer(tls.connect(self.settings(credentials, **changes), BOOTSTRAP))

    def kill(self) -> None:
        """As kill -9 does."""
        self.process.kill()
        self.process.wait()


class Peer:
    """Speaks with an interpreter through a transport: the smallest possible proxy."""

    def __init__(self, transport: tls.TlsTransport) -> None:
        self.transport = transport
        self._text = b""
        self.send(repr(ECHO).encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.transport.close()

    def send(self, data: bytes) -> None:
        """All of it."""
        left = memoryview(data)
        while left:
            taken = self.transport.write(left)
            left = left[taken:]
            if not taken:
                self._wait(20)

    def _wait(self, seconds: float) -> bool:
        poller = select.poll()
        for descriptor, events in self.transport.polled():
            poller.register(descriptor, events)
        return bool(poller.poll(seconds * 1000))

    def read(self, seconds: float = 20.0) -> bytes:
        """Some bytes; none at the end."""
        while True:
            data = self.transport.read()
            if data is not None:
                return data
            assert self._wait(seconds), "nothing came"

    def ask(self, expression: str) -> str:
        """The value of an expression over there."""
        self.send(expression.encode() + b"\n")
        while b"\n" not in self._text:
            data = self.read()
            assert data, "the connection has ended"
            self._text += data
        line, _, self._text = self._text.partition(b"\n")
        return line.decode()

    def ended(self, seconds: float = 20.0) -> bool:
        """Read to the end; False: there was none."""
        with contextlib.suppress(AssertionError):
            try:
                while self.read(seconds):
                    pass
            except OSError:
                pass
            return True
        return False

    def daemon(self, marker: str) -> int:
        """Start a process over there that wants to stay: own session, deaf to SIGTERM."""
        code = f"trap '' TERM HUP INT; : {marker}; sleep 300 & echo $$; while :; do wait; done"
        command = ["setsid", "sh", "-c", code]
        return int(self.ask(f"int(subprocess.Popen({command}, stdout=-1).stdout.readline())"))


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does not run meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def ago(days: int) -> Any:
    """A moment in the past."""
    return ca.utcnow() - timedelta(days=days)
