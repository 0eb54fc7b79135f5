"""Real agent processes on loopback with certificates of a real authority."""

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
from pathlib import Path
from typing import Any, Self

from shell_runner.hosts import ca, tls
from shell_runner.hosts.tls_transport import TlsTransport

#: The code that execnet passes to an interpreter that it starts.
BOOTSTRAP = "import sys;exec(eval(sys.stdin.readline()))"
#: Code that answers each line with the value of its expression.
ECHO = "import os, sys, subprocess\nfor line in sys.stdin: print(eval(line), flush=True)"


class FleetAuthority:
    """A fleet's authority, which writes bundles by name into ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = ca.CertificateAuthority.create(folder / "ca", ca.utcnow())
        self.crl = self.ca.folder / "crl.pem"

    def issue_host(self, name: str = "localhost", *addresses: str, days: int = 365) -> Path:
        """Write the bundle of a host; return its path."""
        names = addresses or ("127.0.0.1", "::1")
        return self._write(name, self.ca.issue_host(name, names, ca.utcnow(), days))

    def issue_client(self, name: str = "laptop", days: int = 365) -> Path:
        """Write the bundle of a controller; return its path."""
        return self._write(name, self.ca.issue_client(name, ca.utcnow(), days))

    def revoke(self, name: str) -> None:
        """Revoke all certificates of ``name``."""
        self.ca.revoke(name, ca.utcnow())

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / f"{name}.pem"
        ca.write_private_file(path, text)
        return path


class AgentProcess:
    """An agent process, whose log can be awaited line by line."""

    def __init__(self, bundle: Path, *options: object, command: tuple[str, ...] = ()) -> None:
        """Start the agent by ``command``, by default by the module of this checkout."""
        self.bundle = bundle
        self.lines: list[str] = []
        self.port = 0
        prefix = command or (sys.executable, "-m", "shell_runner.remote", "agent")
        listen = () if "--connect" in options else ("--listen", "127.0.0.1:0")
        argv = [*prefix, str(bundle), *listen, *map(str, options)]
        # A pipe that stays open: an agent that read its standard input would freeze.
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._fresh: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        match = self.expect(r"listening .*port=(\d+)|dialing ")
        self.port = int(match[1] or 0)
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
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._reader.join(20)

    def expect(self, pattern: str, seconds: float = 20.0) -> re.Match[str]:
        """Wait for the next log line that matches; drop the lines before it."""
        deadline = time.monotonic() + seconds
        while True:
            for number, line in enumerate(self.lines):
                match = re.search(pattern, line)
                if match:
                    del self.lines[: number + 1]
                    return match
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

    def make_proxy_settings(self, credentials: Path, **changes: Any) -> dict[str, Any]:
        """Return the settings of a proxy that connects to this agent."""
        return {
            "kind": "agent", "address": "localhost", "port": self.port,
            "credentials": str(credentials), **changes,
        }  # fmt: skip

    def connect(self, credentials: Path, **changes: Any) -> InterpreterClient:
        """Connect to an interpreter of the agent that evaluates lines."""
        return InterpreterClient(
            tls.connect(self.make_proxy_settings(credentials, **changes), BOOTSTRAP)
        )

    def kill(self) -> None:
        """Kill the agent by SIGKILL."""
        self.process.kill()
        self.process.wait()


class InterpreterClient:
    """A minimal proxy: evaluates expressions in an interpreter of an agent."""

    def __init__(self, transport: TlsTransport) -> None:
        self.transport = transport
        self._text = b""
        self.send(repr(ECHO).encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.transport.close()

    def send(self, data: bytes) -> None:
        """Send all of ``data``."""
        left = memoryview(data)
        while left:
            taken = self.transport.write(left)
            left = left[taken:]
            if not taken:
                self._wait(20)

    def _wait(self, seconds: float) -> bool:
        poller = select.poll()
        for descriptor, events in self.transport.list_poll_events():
            poller.register(descriptor, events)
        return bool(poller.poll(seconds * 1000))

    def read(self, seconds: float = 20.0) -> bytes:
        """Return some bytes; empty at the end of the connection."""
        while True:
            data = self.transport.read()
            if data is not None:
                return data
            assert self._wait(seconds), "nothing came"

    def evaluate(self, expression: str) -> str:
        """Return the value of an expression in the interpreter, as text."""
        self.send(expression.encode() + b"\n")
        while b"\n" not in self._text:
            data = self.read()
            assert data, "the connection has ended"
            self._text += data
        line, _, self._text = self._text.partition(b"\n")
        return line.decode()

    def wait_for_end(self, seconds: float = 20.0) -> bool:
        """Read to the end of the connection; return False if it did not end in time."""
        with contextlib.suppress(AssertionError):
            try:
                while self.read(seconds):
                    pass
            except OSError:
                pass
            return True
        return False

    def start_daemon(self, marker: str) -> int:
        """Start a process on the host in its own session that ignores SIGTERM; return its pid."""
        code = f"trap '' TERM HUP INT; : {marker}; sleep 300 & echo $$; while :; do wait; done"
        command = ["setsid", "sh", "-c", code]
        return int(self.evaluate(f"int(subprocess.Popen({command}, stdout=-1).stdout.readline())"))


@contextlib.contextmanager
def pause_process(pid: int) -> Iterator[None]:
    """Stop a process by SIGSTOP inside the context."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
