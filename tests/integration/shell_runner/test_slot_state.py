"""Tests of what a test changes for the next one of its slot: the slot ends after it."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from .test_slot_handle import NewClient, new_client

__all__ = ["new_client"]

ROOT = Path(__file__).parents[3]

#: Starts each program: names that they use.
_PROLOGUE = f"""exec {sys.executable} -IS - <<'END'
import ctypes, fcntl, os, resource, signal, sys
slot = os.getppid()
call = ctypes.CDLL(None).syscall
"""
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}.get(platform.machine(), -1)
_KEYCTL = {"x86_64": 250, "aarch64": 219}.get(platform.machine(), -1)
_LIMITS = sorted(
    (name for name in vars(resource) if name.startswith("RLIMIT_")),
    key=lambda name: (vars(resource)[name], name),
)
#: Programs that change something; the slot must end.
CHANGES = {
    **{
        f"limit of {name}": f"soft, hard = resource.prlimit(slot, resource.{name})\n"
        "top = 1 << 40 if hard < 0 else hard\n"
        f"resource.prlimit(slot, resource.{name}, (max(top // 2, 0), top))"
        for name in _LIMITS
        if resource.getrlimit(vars(resource)[name])[1] != 0 and name != "RLIMIT_OFILE"
    },
    "priority": "os.setpriority(os.PRIO_PROCESS, slot, os.getpriority(os.PRIO_PROCESS, slot) + 1)",
    "scheduler": "os.sched_setscheduler(slot, os.SCHED_BATCH, os.sched_param(0))",
    "reset on fork": "os.sched_setscheduler(slot, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK,"
    " os.sched_param(0))",
    "score for the OOM killer": "open(f'/proc/{slot}/oom_score_adj', 'w').write('500')",
    "dump filter": "open(f'/proc/{slot}/coredump_filter', 'w').write('0')",
    "I/O priority": f"assert call({_IOPRIO_SET}, 1, slot, 3 << 13) == 0",
    "session keyring": f"if call({_KEYCTL}, 1, None) < 0: raise PermissionError\n"
    f"assert call({_KEYCTL}, 18) == 0",
    "owner of the pipe": "fcntl.fcntl(1, fcntl.F_SETOWN, slot)",
    "owner of the pipe of errors": "fcntl.fcntl(2, fcntl.F_SETOWN, -os.getpgid(slot))",
    "signal of the pipe": "fcntl.fcntl(1, fcntl.F_SETSIG, signal.SIGKILL)",
    "packets": "fcntl.fcntl(1, fcntl.F_SETFL, os.O_WRONLY | os.O_DIRECT)",
    "append": "fcntl.fcntl(1, fcntl.F_SETFL, os.O_WRONLY | os.O_APPEND)",
    "size of the pipe": "fcntl.fcntl(1, 1031, 4096)",
    "size of the pipe of errors": "fcntl.fcntl(2, 1031, 1 << 19)",
    "mode of the pipe": "os.fchmod(1, 0)",
    "reading end": "reader = os.open('/proc/self/fd/1', os.O_RDONLY); fcntl.fcntl(1, 1031, 8192)",
}
ROOT_CHANGES = {
    "owner of the inode": "os.fchown(1, 65534, 65534)",
    "other priority": "os.setpriority(0, slot, os.getpriority(0, slot) - 5)",
    "real time": "os.sched_setscheduler(slot, os.SCHED_FIFO, os.sched_param(1))",
}
if len(os.sched_getaffinity(0)) > 1:
    CHANGES["affinity"] = "os.sched_setaffinity(slot, {min(os.sched_getaffinity(0))})"
if os.getuid() == 0:
    CHANGES.update(ROOT_CHANGES)

#: Programs that change only themselves, or what the slot restores.
HARMLESS = {
    "own priority": "os.nice(5)",
    "own limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))",
    "own affinity": "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
    "own score": "open('/proc/self/oom_score_adj', 'w').write('500')",
    "not blocking": "os.set_blocking(1, False); os.set_blocking(2, False)",
    "output": "print('x' * 1_000_000)",
    "signals": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "umask": "os.umask(0o777)",
}

#: Changes of the process of a slot pool that any user can undo.
RESTORABLE = {
    "soft limit": "resource.setrlimit(resource.RLIMIT_NOFILE, (50, hard))",
    "affinity": "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
    "score for the OOM killer": "open('/proc/self/oom_score_adj', 'w').write('900')",
    "dump filter": "open('/proc/self/coredump_filter', 'w').write('0x3')",
    "timer slack": "open('/proc/self/timerslack_ns', 'w').write('70001')",
    "I/O priority": f"call({_IOPRIO_SET}, 1, 0, 3 << 13)",
    "all of these": "",
}
RESTORABLE["all of these"] = "; ".join(RESTORABLE.values())
_RESTORE = """
import ctypes, os, resource
from shell_runner.remote.execution.slot_state import InheritedState
call = ctypes.CDLL(None).syscall
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
state = InheritedState()
assert state.restore()
%s
assert state.is_unchanged() == %s, "nothing was changed"
print(state.restore(), state.is_unchanged())
state.close()
"""


def _run_python(code: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", RESTORABLE)
def test_changes_of_the_process_of_the_pool_are_undone(name: str) -> None:
    is_unchanged = name == "affinity" and len(os.sched_getaffinity(0)) == 1
    assert _run_python(_RESTORE % (RESTORABLE[name], is_unchanged)) == "True True\n"


def test_a_change_that_cannot_be_undone_is_reported() -> None:
    change = "os.setresuid(65534, 65534, 65534) if os.getuid() == 0 else 0\n"
    change += "resource.setrlimit(resource.RLIMIT_NOFILE, (50, 60))"
    assert _run_python(_RESTORE % (change, False)) == "False False\n"


@pytest.mark.parametrize("name", CHANGES)
def test_a_slot_that_its_test_has_changed_ends(name: str, new_client: NewClient) -> None:
    slot = new_client()
    slot.start(f"{_PROLOGUE}{CHANGES[name]}\nEND")
    slot.start("echo never")
    execution = slot.next_execution()
    if execution.exit_status != 0 and "PermissionError" in execution.stderr.text:
        pytest.skip("not permitted to this user")
    assert execution.exit_status == 0, execution.stderr.text
    assert slot.next_message() == ["retired"]
    assert slot.process.wait(20) == 0


@pytest.mark.parametrize("name", HARMLESS)
def test_a_slot_that_is_as_before_goes_on(name: str, new_client: NewClient) -> None:
    slot = new_client()
    execution = slot.run(f"{_PROLOGUE}{HARMLESS[name]}\nEND")
    assert execution.exit_status == 0, execution.stderr.text
    assert slot.run("echo next").stdout.text == "next\n"


@pytest.mark.parametrize(
    "prepare", ["", "fcntl.fcntl(1, fcntl.F_SETFL, os.O_WRONLY | os.O_DIRECT)"]
)
@pytest.mark.parametrize("lines", [191, 250])
def test_all_that_a_test_has_written_is_its_own(
    prepare: str, lines: int, new_client: NewClient
) -> None:
    # Written at the very end by a process that the slot does not read in between.
    program = f"fcntl.fcntl(1, 1031, 1 << 20)\n{prepare}\nos.kill(slot, signal.SIGSTOP)\n"
    program += f"for number in range({lines}): os.write(1, b'line %d\\n' % number)\n"
    program += "os.kill(slot, signal.SIGCONT)"
    slot = new_client()
    execution = slot.run(f"{_PROLOGUE}{program}\nEND")
    assert execution.exit_status == 0, execution.stderr.text
    assert execution.stdout.text.splitlines() == [f"line {number}" for number in range(lines)]
