"""What is left of an attempt whose worker is dead: find it, stop it, kill it.

Owns the search for processes that belong to nobody any more.  Must not know the queue.  All that
runs for an attempt has its name in the environment; what a test has started with another
environment is found as a child, or as a member of the session, of one that has it, or by its
working directory.  What has none of these is not found, nor what forks and ends faster than /proc
can be read: that is killed by its slot, which notices the death of those above it.
"""

import contextlib
import os
import signal
import time
from typing import Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

from . import process_tree

#: The variable that every process of an attempt has.
MARKER = "NOSEJOBS_ATTEMPT"
#: Seconds after which what cannot be killed is left to the kernel.
_UNKILLABLE = 10.0
#: Looks after which what still moves is killed as it is.
_ROUNDS = 100
#: States of /proc/PID/stat in which a process starts nothing more, and those of dead ones.
_STILL, _DEAD = frozenset("TtZXx"), frozenset("ZXx")


class Process(NamedTuple):
    """One process, as /proc has it; ``pid`` and ``start`` together are nobody else's."""

    pid: int
    start: str
    state: str
    parent: int
    group: int
    session: int
    #: It has a terminal, and so belongs to a person.
    terminal: bool


class Search:
    """For the processes of one attempt, over and over while they are stopped and killed."""

    def __init__(self, attempt: str, workspace: str = "") -> None:
        self._attempt = attempt
        self._workspace = os.path.realpath(workspace) if workspace else ""
        #: Process groups in which there is nobody else.
        self.groups: Set[int] = set()

    def look(self) -> List[Process]:
        """Those that live, but not this one nor those above it."""
        table, marked, inside = self._read()
        spared = _above(table, os.getpid())
        marked -= spared
        sessions = {table[pid].session for pid in marked}
        lost = {number for number in sessions if _is_lost(table, number, marked, spared)}
        found = {pid for pid, each in table.items() if each.session in lost}
        found |= marked | (inside - spared)
        found = _with_children(table, found) - spared
        self.groups |= {table[pid].group for pid in found}
        self.groups -= {each.group for pid, each in table.items() if pid not in found} | {0, 1}
        return [table[pid] for pid in sorted(found)]

    def _read(self) -> Tuple[Dict[int, Process], Set[int], Set[int]]:
        """All processes, those marked, and those that work in the workspace.

        Latest first, for some live a moment only.  Where somebody works says nothing of the
        others in its session.
        """
        table: Dict[int, Process] = {}
        marked: Set[int] = set()
        inside: Set[int] = set()
        for pid in sorted(_pids(), reverse=True):
            is_marked = _is_marked(pid, self._attempt)
            found = process(pid)
            if found is None or found.state in _DEAD:
                continue
            table[pid] = found
            if is_marked:
                marked.add(pid)
            elif _is_inside(found, self._workspace):
                inside.add(pid)
        return table, marked, inside


def find(attempt: str, workspace: str = "") -> List[Process]:
    """The living processes of ``attempt``, but not this one nor those above it."""
    return Search(attempt, workspace).look()


def kill(attempt: str, workspace: str = "", seconds: float = _UNKILLABLE) -> List[int]:
    """Kill all that is left of ``attempt``; the process ids of what would not die."""
    deadline = time.monotonic() + seconds
    search = Search(attempt, workspace)
    while True:
        found = _freeze(search)
        if not found or time.monotonic() > deadline:
            return [each.pid for each in found]
        _send(search, found, signal.SIGKILL)
        _await_end(found, deadline)


def _is_lost(table: Dict[int, Process], session: int, marked: Set[int], spared: Set[int]) -> bool:
    """Whether a session with a marked member is the attempt's: not that of a person who looks."""
    if session <= 1 or any(table[pid].session == session for pid in spared if pid in table):
        return False
    leader = table.get(session)
    return leader is None or session in marked or not leader.terminal


def _with_children(table: Dict[int, Process], found: Set[int]) -> Set[int]:
    below: Dict[int, List[int]] = {}
    for each in table.values():
        below.setdefault(each.parent, []).append(each.pid)
    level = list(found)
    while level:
        level = [pid for parent in level for pid in below.get(parent, ()) if pid not in found]
        found.update(level)
    return found


def _above(table: Dict[int, Process], pid: int) -> Set[int]:
    found: Set[int] = set()
    while pid not in found:
        found.add(pid)
        pid = table[pid].parent if pid in table else 0
    return found


def _is_marked(pid: int, attempt: str) -> bool:
    try:
        with open("%s/%d/environ" % (process_tree.PROC, pid), "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return False  # it is gone, or another user's
    return ("%s=%s" % (MARKER, attempt)).encode("ascii", "replace") in variables


def _is_inside(found: Process, folder: str) -> bool:
    """Whether it works there, and is not a person's shell."""
    if not folder:
        return False
    try:
        place = os.readlink("%s/%d/cwd" % (process_tree.PROC, found.pid))
    except OSError:
        return False
    return not found.terminal and (place + "/").startswith(folder + "/")


def _pids() -> List[int]:
    try:
        return [int(name) for name in os.listdir(process_tree.PROC) if name.isdigit()]
    except OSError:
        return []  # no Linux: what is left cannot be found


def process(pid: int) -> Optional[Process]:
    """What /proc tells of it; None if it is gone."""
    fields = process_tree.stat(pid)
    if len(fields) < 20:
        return None
    parent, group, session = map(int, fields[1:4])
    return Process(pid, fields[19], fields[0], parent, group, session, fields[4] != "0")


def _freeze(search: Search) -> List[Process]:
    """Stop all that is found until nothing new appears: a stopped process cannot fork."""
    stopped: Set[Tuple[int, str]] = set()
    for _ in range(_ROUNDS):
        found = search.look()
        fresh = [each for each in found if (each.pid, each.start) not in stopped]
        _send(search, fresh, signal.SIGSTOP)
        stopped.update((each.pid, each.start) for each in fresh)
        if not fresh and all(each.state in _STILL for each in found):
            return found
        time.sleep(0.001)
    return found


def _send(search: Search, targets: List[Process], number: int) -> None:
    """To each, and to its group, in which a fork cannot slip through."""
    for group in {each.group for each in targets} & search.groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
    for each in targets:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            _signal(each, number)


def _signal(target: Process, number: int) -> None:
    """To that very process: one that has got its number since is not meant."""
    # Since Python 3.9 and Linux 5.3.
    pin, send = getattr(os, "pidfd_open", None), getattr(signal, "pidfd_send_signal", None)
    try:
        descriptor = pin(target.pid) if pin else -1
    except ProcessLookupError:
        return
    except OSError:
        descriptor = -1
    try:
        if not _is_same(target):
            return
        if descriptor < 0 or send is None:
            os.kill(target.pid, number)
        else:
            send(descriptor, number)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _is_same(target: Process) -> bool:
    now = process(target.pid)
    return now is not None and now.start == target.start


def _await_end(targets: Iterable[Process], deadline: float) -> None:
    for each in targets:
        while time.monotonic() < deadline:
            now = process(each.pid)
            if now is None or now.start != each.start or now.state in _DEAD:
                break
            time.sleep(0.001)
