"""A server process that has imported what its children need, and forks them.

The imports of a large program take longer than most tests.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

REPOSITORY_ROOT = Path(__file__).parents[2]
PROCESS_TIMEOUT = 60.0


class ForkServer:
    """A process that forks others: ``module`` calls :func:`serve`.  It starts when it is used."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        python: str = sys.executable,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._command = [python, "-m", module, *arguments]
        self._environment = {**environment, "PYTHONPATH": str(REPOSITORY_ROOT)}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server, if it has been used."""
        if self._process is not None:
            self._process.communicate()

    def fork(
        self,
        folder: Path,
        environment: Mapping[str, str],
        arguments: Sequence[str],
        *,
        out: str,
        error: str = "",
        **more: str,
    ) -> ForkedProcess:
        """Fork a process; ``out`` and ``error`` are output files in ``folder``."""
        request = {
            "folder": str(folder), "environment": dict(environment), "arguments": arguments,
            "out": out, "error": error or out, **more,
        }  # fmt: skip
        for name in (out, error):
            (folder / (name or out)).touch(0o600)
        return ForkedProcess(self._request(request), self._request)

    def _request(self, request: Mapping[str, Any] | int) -> int:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, env=self._environment, cwd=REPOSITORY_ROOT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class ForkedProcess:
    """A process that a server forked."""

    def __init__(self, pid: int, reap: Callable[[int], int]) -> None:
        """``reap`` waits for the process and returns its exit status, negative for a signal."""
        self.pid = pid
        self._reap = reap
        self._descriptor = os.pidfd_open(pid)

    def send(self, number: int) -> None:
        """Send a signal."""
        signal.pidfd_send_signal(self._descriptor, number)

    @property
    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return not select.select([self._descriptor], [], [], 0)[0]

    def wait(self, timeout: float = PROCESS_TIMEOUT) -> None:
        """Wait until the process has ended."""
        assert select.select([self._descriptor], [], [], timeout)[0], (
            "the process has not ended in time"
        )

    def kill(self) -> None:
        """Kill the process as `kill -9` does."""
        if self.is_alive:
            self.send(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        """Stop the process as Ctrl-C does."""
        self.send(signal.SIGINT)
        self.wait()

    def close(self) -> None:
        """Kill the process, and release its resources."""
        self.kill()
        os.close(self._descriptor)
        self._reap(self.pid)

    def wait_for_status(self, timeout: float = PROCESS_TIMEOUT) -> int:
        """Wait until the process has ended by itself; return its exit status."""
        try:
            self.wait(timeout)
        except AssertionError:
            self.close()
            raise
        os.close(self._descriptor)
        return self._reap(self.pid)


def serve(run: Callable[[Mapping[str, Any]], object]) -> None:
    """Fork a process for each request on standard input; it calls ``run`` and ends.

    A child returns from this function, so that it ends as a Python program does.
    """
    # Garbage collections of children must not touch these objects: shared pages stay shared.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, int):
            print(os.waitstatus_to_exitcode(os.waitpid(request, 0)[1]), flush=True)
            continue
        child = os.fork()
        if not child:
            _enter_environment(request)
            run(request)
            return
        print(child, flush=True)


def _enter_environment(request: Mapping[str, Any]) -> None:
    """Set up the process as a shell would do it."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    tempfile.tempdir = None
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for number, name in ((1, request["out"]), (2, request["error"])):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
