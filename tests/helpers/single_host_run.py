"""Runs programs on one host through a Fleet, like the pytest plugin but without pytest."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Self

from shell_runner.hosts import spec as hosts
from shell_runner.hosts.fleet import Fleet, FrameReceived, HostEnded, HostReady
from shell_runner.remote.protocol.model import Execution, Result, Setup, Test, execution_from_row
from shell_runner.remote.protocol.verdict import judge
from shell_runner.shipping.tree_scan import scan

#: A command of the shell that leaves a process, whose name is not that of the shell any more.
LEAVE_SLEEP = "sleep 60 & until grep -qx sleep /proc/$!/comm; do :; done"


class HostRun:
    """A run on one host with the programs of the tree ``root``."""

    def __init__(self, root: Path, spec: str = "popen", **setup: Any) -> None:
        self.root = root
        self.fleet = Fleet(hosts.parse_specs([spec], {}), Setup(str(root), **setup))
        self._count = 0

    @property
    def host(self) -> Any:
        return self.fleet.hosts[0]

    def __enter__(self) -> Self:
        self.fleet.open()
        if self.fleet.needs_tree:
            self.fleet.provide_tree(scan(self.root, []))
        event = self.fleet.events.get(timeout=60)
        if isinstance(event, HostEnded):
            self.fleet.close()
            raise event.error
        assert isinstance(event, HostReady)
        return self

    def __exit__(self, *_: object) -> None:
        self.fleet.close()

    def write(self, name: str, text: str | bytes, mode: int = 0o755) -> str:
        """Write a program; return its path relative to the tree."""
        return write_program(self.root / name, text, mode).relative_to(self.root).as_posix()

    def new_test(self, script: str | bytes, **fields: Any) -> Test:
        """Write a program with this text and return a Test of it."""
        self._count += 1
        name = self.write(f"test_{self._count}", script)
        return Test(self._count, name, **{"timeout": 30.0, **fields})

    def start(self, *tests: Test) -> None:
        """Send tests to the host."""
        self.fleet.hosts[0].run_tests(tests)

    def finish(self, count: int) -> dict[int, Execution]:
        """Return the next ``count`` executions by the numbers of their tests."""
        executions: dict[int, Execution] = {}
        deadline = time.monotonic() + 60
        while len(executions) < count:
            event = self.fleet.events.get(timeout=max(deadline - time.monotonic(), 0.01))
            if isinstance(event, HostEnded):
                raise event.error
            if isinstance(event, FrameReceived):
                for message in event.host.unpack_messages(event.frame):
                    assert message[0] in ("done", "running", "waiting"), message
                    if message[0] == "done":
                        execution = execution_from_row(message[1])
                        executions[execution.id] = execution
        return executions

    def run(self, script: str | bytes, **fields: Any) -> Execution:
        """Run one program and return its Execution."""
        return self.run_test(self.new_test(script, **fields))

    def run_test(self, test: Test) -> Execution:
        """Run one test and return its Execution."""
        self.start(test)
        return self.finish(1)[test.id]

    def judge(self, script: str | bytes, **fields: Any) -> Result:
        """Run one program and return the verdict."""
        test = self.new_test(script, **fields)
        return judge(test, self.run_test(test))


def write_program(path: Path, text: str | bytes, mode: int = 0o755) -> Path:
    """Write a file with this mode and create its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def find_processes(marker: str) -> list[int]:
    """Return the ids of processes with ``marker`` in their arguments or environment."""
    pids = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            for name in ("cmdline", "environ"):
                try:
                    if marker.encode() in (folder / name).read_bytes():
                        pids.append(int(folder.name))
                        break
                except OSError:
                    continue
    return pids


def wait_until_gone(marker: str, seconds: float) -> bool:
    """Wait until no process with ``marker`` is left; return False after ``seconds``."""
    deadline = time.monotonic() + seconds
    while find_processes(marker):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
