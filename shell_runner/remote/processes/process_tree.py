"""The processes below a process: find them, stop them, kill them.

Owns what is known of process trees.  Must not know tests or slots.  The caller is
a child subreaper, so that whatever a test starts stays below it, daemons included.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Callable, Dict, Iterable, List, Set

#: Where Linux tells of processes.
PROC = "/proc"
_PR_SET_CHILD_SUBREAPER = 36
#: States of /proc/PID/stat in which a process starts nothing more.
_STILL = frozenset("TtZXx")
#: Seconds after which a tree that keeps moving is left to the next attempt.
_FREEZE = 2.0


def become_subreaper() -> bool:
    """Inherit the orphans among our descendants; False where the system has no such thing."""
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def children(pid: int) -> List[int]:
    """Direct children, zombies included; empty if ``pid`` is gone."""
    found: List[int] = []
    try:
        for task in os.listdir("%s/%d/task" % (PROC, pid)):
            with open("%s/%d/task/%s/children" % (PROC, pid, task)) as lines:
                found += map(int, lines.read().split())
    except FileNotFoundError:
        if not os.path.isdir(PROC):
            return _children_by_ps().get(pid, [])
        if os.path.exists("%s/%d/stat" % (PROC, pid)) and not _kernel_lists_children():
            return _children_by_scan().get(pid, [])
    except (ProcessLookupError, NotADirectoryError):
        pass
    return found


def _kernel_lists_children() -> bool:
    return os.path.exists("%s/self/task/%d/children" % (PROC, os.getpid()))


def _children_by_ps() -> Dict[int, List[int]]:
    """For systems without /proc: POSIX has ps(1)."""
    table: Dict[int, List[int]] = {}
    command = ["ps", "-A", "-o", "pid=", "-o", "ppid="]
    done = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    for line in done.stdout.split(b"\n"):
        fields = line.split()
        if len(fields) == 2:
            table.setdefault(int(fields[1]), []).append(int(fields[0]))
    return table


def _children_by_scan() -> Dict[int, List[int]]:
    """For kernels built without CONFIG_PROC_CHILDREN."""
    table: Dict[int, List[int]] = {}
    for name in os.listdir(PROC):
        if name.isdigit():
            fields = stat(int(name))
            if len(fields) > 1:
                table.setdefault(int(fields[1]), []).append(int(name))
    return table


def stat(pid: int) -> List[str]:
    """The fields of /proc/PID/stat from the state on; empty if it is gone."""
    try:
        with open("%s/%d/stat" % (PROC, pid), errors="replace") as lines:
            return lines.read().rpartition(")")[2].split()
    except (OSError, ValueError):
        return []


def descendants(pid: int) -> List[int]:
    """All processes below ``pid``, parents before children."""
    found: List[int] = []
    level = children(pid)
    while level:
        found += level
        level = [child for parent in level for child in children(parent)]
    return found


def names(pids: Iterable[int]) -> List[str]:
    """The names of those that live, as ``ps -o comm`` has them."""
    found = []
    for pid in pids:
        try:
            with open("%s/%d/comm" % (PROC, pid), errors="replace") as lines:
                name = lines.read().rstrip("\n")
        except OSError:
            continue
        if stat(pid)[:1] != ["Z"]:
            found.append(name)
    return found


def send(pids: Iterable[int], number: int) -> None:
    """A signal to each that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass


def send_groups(pids: Iterable[int], number: int) -> None:
    """A signal to each and to its process group, in which a fork cannot slip through.

    What a test starts is in sessions of its own, so that a group holds nobody else.
    """
    ours, done = os.getsid(0), set()  # type: int, Set[int]
    for pid in pids:
        try:
            group = os.getpgid(pid)
            if group in done:
                continue
            done.add(group)
            if group > 1 and os.getsid(pid) != ours:
                os.killpg(group, number)
        except (ProcessLookupError, PermissionError):
            pass
    send(pids, number)


def freeze(found: "Lister", reap: Callable[[], object]) -> List[int]:
    """Stop all processes that ``found()`` lists, until no new one appears.

    A stopped process cannot fork, so that the walk ends even in a fork storm.  One in
    an uninterruptible call, or one that we may not signal, is waited for a moment only.
    Those that fork and exit faster than we look are reaped meanwhile (``reap``): their
    remains would fill the process table, and slow us down.
    """
    stopped: Set[int] = set()
    patience = 50
    deadline = time.monotonic() + _FREEZE
    while True:
        reap()
        now = found()
        fresh = [pid for pid in now if pid not in stopped]
        send_groups(fresh, signal.SIGSTOP)
        stopped.update(fresh)
        if time.monotonic() > deadline:
            return now
        if fresh:
            continue
        if patience == 0 or all(_is_still(pid) for pid in now):
            return now
        patience -= 1
        time.sleep(0.001)


def _is_still(pid: int) -> bool:
    state = stat(pid)[:1]
    return not state or state[0] in _STILL


def is_stopped(pid: int) -> bool:
    """By a signal or by a debugger."""
    return stat(pid)[:1] in (["T"], ["t"])


def ticks(pid: int) -> int:
    """Processor time that it has used, in ticks; 0 where nothing is known."""
    fields = stat(pid)
    return int(fields[11]) + int(fields[12]) if len(fields) > 12 and fields[12].isdigit() else 0


def is_dead(pid: int) -> bool:
    """Gone, or waiting to be reaped."""
    return stat(pid)[:1] in ([], ["Z"], ["X"])


class Lister:
    """Lists the descendants of a process, without those that are kept apart."""

    def __init__(self, root: int, apart: Iterable[int] = ()) -> None:
        self.root = root
        self.apart = frozenset(apart)

    def __call__(self) -> List[int]:
        level = [pid for pid in children(self.root) if pid not in self.apart]
        return level + [below for pid in level for below in descendants(pid)]
