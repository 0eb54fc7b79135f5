"""Runs programs on one host through a Fleet, as the plugin does, without pytest."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Self

from shell_runner.hosts import spec as hosts
from shell_runner.hosts.fleet import HostEnded, Fleet, HostReady, FrameReceived
from shell_runner.remote.protocol.model import Execution, Result, Setup, Test, execution_from_row
from shell_runner.remote.protocol.verdict import judge
from shell_runner.shipping.tree_scan import scan


class HostRun:
    """A host, and a tree at ``root`` of which it runs programs."""

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
        """A program in the tree; its path there."""
        return write_program(self.root / name, text, mode).relative_to(self.root).as_posix()

    def new_test(self, script: str | bytes, **fields: Any) -> Test:
        """A test of a new program with this text."""
        self._count += 1
        name = self.write(f"test_{self._count}", script)
        return Test(self._count, name, **{"timeout": 30.0, **fields})

    def start(self, *tests: Test) -> None:
        """Send tests."""
        self.fleet.hosts[0].run_tests(tests)

    def finish(self, count: int) -> dict[int, Execution]:
        """The next ``count`` executions, by number of the test."""
        found: dict[int, Execution] = {}
        deadline = time.monotonic() + 60
        while len(found) < count:
            event = self.fleet.events.get(timeout=max(deadline - time.monotonic(), 0.01))
            if isinstance(event, HostEnded):
                raise event.error
            if isinstance(event, FrameReceived):
                for message in event.host.unpack_messages(event.frame):
                    assert message[0] in ("done", "running", "waiting"), message
                    if message[0] == "done":
                        execution = execution_from_row(message[1])
                        found[execution.id] = execution
        return found

    def run(self, script: str | bytes, **fields: Any) -> Execution:
        """Run one program to its end."""
        return self.run_test(self.new_test(script, **fields))

    def run_test(self, test: Test) -> Execution:
        """Run one test to its end."""
        self.start(test)
        return self.finish(1)[test.id]

    def judge(self, script: str | bytes, **fields: Any) -> Result:
        """Run one program; the verdict."""
        test = self.new_test(script, **fields)
        return judge(test, self.run_test(test))


def write_program(path: Path, text: str | bytes, mode: int = 0o755) -> Path:
    """A file with that mode, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def find_processes(marker: str) -> list[int]:
    """Who runs with ``marker`` in its arguments or environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            for name in ("cmdline", "environ"):
                try:
                    if marker.encode() in (folder / name).read_bytes():
                        found.append(int(folder.name))
                        break
                except OSError:
                    continue
    return found


def wait_until_gone(marker: str, seconds: float) -> bool:
    """Whether nobody with ``marker`` is left within that time."""
    deadline = time.monotonic() + seconds
    while find_processes(marker):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
