"""Leftover processes and memory usage of a run, read from /proc."""

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
    """Yield the ids of all processes."""
    return (int(name) for name in os.listdir(PROC) if name.isdigit())


def has_marker(pid: int, marker: str) -> bool:
    """Return whether a process has ``marker`` in its environment, arguments or folder."""
    folder = PROC / str(pid)
    try:
        if marker in os.readlink(folder / "cwd"):
            return True
        data = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
    except OSError:
        return False
    return marker.encode() in data


def find_marked(marker: str) -> list[int]:
    """Return the ids of the processes with ``marker``."""
    return [pid for pid in list_pids() if pid != os.getpid() and has_marker(pid, marker)]


def find_leftovers(marker: str, timeout: float = 3.0) -> list[str]:
    """Return the command lines of processes that remain with ``marker`` after ``timeout``."""
    deadline = time.monotonic() + timeout
    while (remaining := find_marked(marker)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [f"{pid}: {_read_command(pid)}" for pid in remaining]


def _read_command(pid: int) -> str:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (OSError, UnicodeDecodeError):
        return "?"


def _read_status(pid: int, name: str) -> int:
    try:
        with open(PROC / str(pid) / "status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))
    except (OSError, StopIteration):
        return 0


@dataclass
class PeakMemory:
    """Peak resident memory of the parts of a run in KiB."""

    controller: int = 0
    #: The process that serves the controller, and one slot.
    host: int = 0
    slot: int = 0
    #: Sum of all processes, including programs, at one moment.
    total: int = 0

    def sample(self, root: int) -> None:
        """Update the peaks with the present memory of ``root`` and its descendants."""
        self.controller = max(self.controller, _read_status(root, "VmHWM"))
        level, depth, total = [root], 0, 0
        while level:
            total += sum(_read_status(pid, "VmRSS") for pid in level)
            if depth == 1:
                self.host = max([self.host, *(_read_status(pid, "VmHWM") for pid in level)])
            if depth == 2:
                self.slot = max([self.slot, *(_read_status(pid, "VmHWM") for pid in level)])
            level, depth = (
                [child for pid in level for child in process_tree.list_children(pid)],
                depth + 1,
            )
        self.total = max(self.total, total)


def watch_until_exit(
    process: subprocess.Popen[bytes], timeout: float, memory: PeakMemory | None = None
) -> PeakMemory:
    """Measure memory until a process ends; raises TimeoutError after ``timeout`` seconds."""
    memory, deadline = memory or PeakMemory(), time.monotonic() + timeout
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise TimeoutError
        memory.sample(process.pid)
        time.sleep(0.02)
    return memory
