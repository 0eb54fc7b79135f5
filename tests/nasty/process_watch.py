"""What a run leaves behind, and what memory it takes, read from /proc."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shell_runner.remote.processes import process_tree

PROC = Path("/proc")


def list_pids() -> Iterator[int]:
    """All processes."""
    return (int(name) for name in os.listdir(PROC) if name.isdigit())


def has_marker(pid: int, marker: str) -> bool:
    """Whether a process has ``marker`` in its environment, arguments or working directory."""
    folder = PROC / str(pid)
    try:
        if marker in os.readlink(folder / "cwd"):
            return True
        found = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
    except OSError:
        return False
    return marker.encode() in found


def find_marked(marker: str) -> list[int]:
    """The processes that carry ``marker``."""
    return [pid for pid in list_pids() if pid != os.getpid() and has_marker(pid, marker)]


def find_leftovers(marker: str, patience: float = 3.0) -> list[str]:
    """The command lines of those that are still there after a while."""
    deadline = time.monotonic() + patience
    while (found := find_marked(marker)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [f"{pid}: {_command(pid)}" for pid in found]


def _command(pid: int) -> str:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (OSError, UnicodeDecodeError):
        return "?"


def _status(pid: int, name: str) -> int:
    try:
        with open(PROC / str(pid) / "status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))
    except (OSError, StopIteration):
        return 0


@dataclass
class PeakMemory:
    """Peak resident memory of a run, KiB, by part."""

    controller: int = 0
    #: The process that serves the controller, and the slots.
    host: int = 0
    slot: int = 0
    #: Sum of all processes at one moment, programs included.
    total: int = 0

    def sample(self, root: int) -> None:
        """Take in what the processes below ``root`` have needed so far."""
        self.controller = max(self.controller, _status(root, "VmHWM"))
        level, depth, total = [root], 0, 0
        while level:
            total += sum(_status(pid, "VmRSS") for pid in level)
            if depth == 1:
                self.host = max([self.host, *(_status(pid, "VmHWM") for pid in level)])
            if depth == 2:
                self.slot = max([self.slot, *(_status(pid, "VmHWM") for pid in level)])
            level, depth = [child for pid in level for child in process_tree.list_children(pid)], depth + 1
        self.total = max(self.total, total)


def watch_until_exit(
    process: subprocess.Popen[bytes], timeout: float, memory: PeakMemory | None = None
) -> PeakMemory:
    """Watch a process to its end; TimeoutError if that does not come."""
    memory, deadline = memory or PeakMemory(), time.monotonic() + timeout
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise TimeoutError
        memory.sample(process.pid)
        time.sleep(0.02)
    return memory
