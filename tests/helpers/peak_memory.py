"""Peak memory of a command and the processes below it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

#: Starts a command and prints its peak memory in KiB, as the system accounts for it and those of
#: its descendants that it has waited for.
_STARTER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
print(usage.ru_maxrss)
sys.exit(process.returncode)
"""


def measure_peak_memory(command: Sequence[str | Path], **environment: str) -> int:
    """Run a command; return the bytes that it, or a descendant of it, took at most.

    A small process starts it: a program that a process has started by ``vfork`` is charged the
    peak memory of that process, here of the whole test run.  Raises CalledProcessError.
    """
    done = subprocess.run(
        [sys.executable, "-S", "-c", _STARTER, *command],
        env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return int(done.stdout) << 10
