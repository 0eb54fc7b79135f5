"""Process trees: lists, stops and signals the descendants of a process.

Must not know tests or slots.  The caller is a child subreaper, so that all processes that a test
starts stay its descendants, daemons included.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Callable, Dict, Iterable, List, Set

#: Folder in which Linux shows processes.
PROC = "/proc"
#: Option of prctl(2).
_PR_SET_CHILD_SUBREAPER = 36
#: States of /proc/PID/stat of processes that cannot fork any more.
_STOPPED_STATES = frozenset("TtZXx")
#: Seconds after which freeze() gives up on a tree that keeps changing.
_FREEZE_TIMEOUT = 2.0


def become_subreaper() -> bool:
    """Become the parent of orphaned descendants; return False if the system does not support it."""
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def list_children(pid: int) -> List[int]:
    """Return the direct children, zombies included; empty if ``pid`` has exited."""
    pids: List[int] = []
    try:
        for task in os.listdir("%s/%d/task" % (PROC, pid)):
            with open("%s/%d/task/%s/children" % (PROC, pid, task)) as lines:
                pids += map(int, lines.read().split())
    except FileNotFoundError:
        if not os.path.isdir(PROC):
            return _children_by_ps().get(pid, [])
        if os.path.exists("%s/%d/stat" % (PROC, pid)) and not _kernel_lists_children():
            return _children_by_scan().get(pid, [])
    except (ProcessLookupError, NotADirectoryError):
        pass
    return pids


def _kernel_lists_children() -> bool:
    return os.path.exists("%s/self/task/%d/children" % (PROC, os.getpid()))


def _children_by_ps() -> Dict[int, List[int]]:
    """Return the children of all processes by ps(1) of POSIX, for systems without /proc."""
    table: Dict[int, List[int]] = {}
    command = ["ps", "-A", "-o", "pid=", "-o", "ppid="]
    done = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    for line in done.stdout.split(b"\n"):
        fields = line.split()
        if len(fields) == 2:
            table.setdefault(int(fields[1]), []).append(int(fields[0]))
    return table


def _children_by_scan() -> Dict[int, List[int]]:
    """Return the children of all processes, for kernels without CONFIG_PROC_CHILDREN."""
    table: Dict[int, List[int]] = {}
    for name in os.listdir(PROC):
        if name.isdigit():
            fields = read_stat(int(name))
            if len(fields) > 1:
                table.setdefault(int(fields[1]), []).append(int(name))
    return table


def read_stat(pid: int) -> List[str]:
    """Return the fields of /proc/PID/stat from the state on; empty if ``pid`` has exited."""
    try:
        with open("%s/%d/stat" % (PROC, pid), errors="replace") as lines:
            return lines.read().rpartition(")")[2].split()
    except (OSError, ValueError):
        return []


def list_descendants(pid: int) -> List[int]:
    """Return all descendants of ``pid``, parents before children."""
    pids: List[int] = []
    level = list_children(pid)
    while level:
        pids += level
        level = [child for parent in level for child in list_children(parent)]
    return pids


def read_names(pids: Iterable[int]) -> List[str]:
    """Return the names of the living processes, as ``ps -o comm`` shows them."""
    names = []
    for pid in pids:
        try:
            with open("%s/%d/comm" % (PROC, pid), errors="replace") as lines:
                name = lines.read().rstrip("\n")
        except OSError:
            continue
        if read_stat(pid)[:1] != ["Z"]:
            names.append(name)
    return names


def send_signal(pids: Iterable[int], number: int) -> None:
    """Send a signal to each process that still exists."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass


def signal_groups(pids: Iterable[int], number: int) -> None:
    """Send a signal to each process and to its process group, so that a fork cannot escape.

    Processes of tests are in sessions of their own, so that a group contains no others.
    """
    own_session, done = os.getsid(0), set()  # type: int, Set[int]
    for pid in pids:
        try:
            group = os.getpgid(pid)
            if group in done:
                continue
            done.add(group)
            if group > 1 and os.getsid(pid) != own_session:
                os.killpg(group, number)
        except (ProcessLookupError, PermissionError):
            pass
    send_signal(pids, number)


def freeze(lister: "DescendantLister", reap: Callable[[], object]) -> List[int]:
    """Stop the processes of ``lister`` until no new one appears; return all of them.

    A stopped process cannot fork, so this ends even in a fork storm.  A process in an
    uninterruptible call, or one that we may not signal, is waited for only briefly.  ``reap`` is
    called in each round: zombies of processes that fork and exit at once would fill the process
    table.
    """
    stopped: Set[int] = set()
    rounds_left = 50
    deadline = time.monotonic() + _FREEZE_TIMEOUT
    while True:
        reap()
        current = lister()
        new = [pid for pid in current if pid not in stopped]
        signal_groups(new, signal.SIGSTOP)
        stopped.update(new)
        if time.monotonic() > deadline:
            return current
        if new:
            continue
        if rounds_left == 0 or all(_is_stopped_or_dead(pid) for pid in current):
            return current
        rounds_left -= 1
        time.sleep(0.001)


def _is_stopped_or_dead(pid: int) -> bool:
    state = read_stat(pid)[:1]
    return not state or state[0] in _STOPPED_STATES


def is_stopped(pid: int) -> bool:
    """Return whether a process was stopped by a signal or a debugger."""
    return read_stat(pid)[:1] in (["T"], ["t"])


def read_cpu_ticks(pid: int) -> int:
    """Return the processor time of a process in clock ticks; 0 if it is unknown."""
    fields = read_stat(pid)
    return int(fields[11]) + int(fields[12]) if len(fields) > 12 and fields[12].isdigit() else 0


def is_dead(pid: int) -> bool:
    """Return whether a process has exited, even if it is not reaped yet."""
    return read_stat(pid)[:1] in ([], ["Z"], ["X"])


class DescendantLister:
    """A callable that lists the descendants of ``root``, except ``unrelated_pids`` and theirs."""

    def __init__(self, root: int, unrelated_pids: Iterable[int] = ()) -> None:
        self.root = root
        self.unrelated_pids = frozenset(unrelated_pids)

    def __call__(self) -> List[int]:
        level = [pid for pid in list_children(self.root) if pid not in self.unrelated_pids]
        return level + [below for pid in level for below in list_descendants(pid)]
