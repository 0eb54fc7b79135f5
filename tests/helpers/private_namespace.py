"""Code that mounts, unmounts or kills at random, run where it cannot harm the machine."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
#: Command prefix: own mounts that are not propagated to the machine, own process ids, own /proc.
UNSHARE = (
    "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
    "--propagation", "private",
)  # fmt: skip
#: Checks, after the command, that the mounts are the same as before it; ``$BEFORE`` is a file.
#: Mounts of network namespaces do not count: another test that removes its own removes them here.
COMPARE_MOUNTS = """
list() { cut -d" " -f1,4,5 /proc/self/mountinfo | grep -v " /run/netns/"; }
list >"$BEFORE"; "$@"; status=$?; list | diff - "$BEFORE" || exit 99; exit $status
"""


@functools.cache
def is_available() -> bool:
    """Return whether this user may create mount and PID namespaces."""
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


needs_namespace = pytest.mark.skipif(
    not is_available(), reason="needs namespaces of its own, as root has them"
)


def run_python(code: str, *arguments: object, timeout: float = 120.0) -> str:
    """Run Python code in namespaces of its own; return its output, which must be a success."""
    command = [*UNSHARE, sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_status(command: str, folder: Path) -> int:
    """Run a shell command in namespaces of its own; return its exit status."""
    command_line = [*UNSHARE, "sh", "-c", command]
    return subprocess.run(command_line, cwd=folder, capture_output=True, check=False).returncode
