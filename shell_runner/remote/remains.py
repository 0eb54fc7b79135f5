"""What is left of an attempt whose worker is dead: find it, stop it, kill it.

Owns the search for processes that belong to nobody any more.  Must not know the queue.  All that
runs for an attempt has its name in the environment; what a test has started with another
environment is found as a child, or as a member of the session, of one that has it.
"""

import os
import signal
import time
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Set

from . import tree

#: The variable that every process of an attempt has.
MARKER = "NOSEJOBS_ATTEMPT"
#: Seconds after which what cannot be killed is left to the kernel.
_UNKILLABLE = 10.0
#: Rounds without anything new after which what still moves is killed as it is.
_PATIENCE = 50
#: States of /proc/PID/stat in which a process starts nothing more, and those of dead ones.
_STILL, _DEAD = frozenset("TtZXx"), frozenset("ZXx")


class Process(NamedTuple):
    """One process, as /proc has it; ``pid`` and ``start`` together are nobody else's."""

    pid: int
    start: str
    state: str
    parent: int
    session: int
    #: It has a terminal, and so belongs to a person.
    terminal: bool


def kill(attempt: str, seconds: float = _UNKILLABLE) -> List[int]:
    """Kill all that is left of ``attempt``; the process ids of what would not die."""
    deadline = time.monotonic() + seconds
    while True:
        found = _freeze(lambda: find(attempt))
        if not found or time.monotonic() > deadline:
            return [each.pid for each in found]
        _send(found, signal.SIGKILL)
        _await_end(found, deadline)


def find(attempt: str) -> List[Process]:
    """The living processes of ``attempt``, but not this one nor those above it."""
    table = _table()
    spared = _above(table, os.getpid())
    marked = {pid for pid in table if pid not in spared and _is_marked(pid, attempt)}
    sessions = {table[pid].session for pid in marked}
    lost = {number for number in sessions if _is_lost(table, number, marked, spared)}
    found = marked | {pid for pid, each in table.items() if each.session in lost}
    return [table[pid] for pid in sorted(_with_children(table, found) - spared)]


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
        with open("%s/%d/environ" % (tree.PROC, pid), "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return False  # it is gone, or another user's
    return ("%s=%s" % (MARKER, attempt)).encode("ascii", "replace") in variables


def _table() -> Dict[int, Process]:
    try:
        names = os.listdir(tree.PROC)
    except OSError:
        return {}
    read = [process(int(name)) for name in names if name.isdigit()]
    return {each.pid: each for each in read if each is not None and each.state not in _DEAD}


def process(pid: int) -> Optional[Process]:
    """What /proc tells of it; None if it is gone."""
    fields = tree.stat(pid)
    if len(fields) < 20:
        return None
    return Process(
        pid, fields[19], fields[0], int(fields[1]), int(fields[3]), terminal=fields[4] != "0"
    )


def _freeze(search: Callable[[], List[Process]]) -> List[Process]:
    """Stop what ``search`` finds until nothing new appears: a stopped process cannot fork."""
    stopped: Set[Process] = set()
    patience = _PATIENCE
    while True:
        found = search()
        known = {each._replace(state="", parent=0) for each in found}
        fresh = [each for each in found if each._replace(state="", parent=0) not in stopped]
        _send(fresh, signal.SIGSTOP)
        stopped |= known
        if not fresh and (patience == 0 or all(each.state in _STILL for each in found)):
            return found
        patience -= not fresh
        time.sleep(0.001)


def _send(targets: Iterable[Process], number: int) -> None:
    for each in targets:
        try:
            _signal(each, number)
        except (ProcessLookupError, PermissionError):
            pass


def _signal(target: Process, number: int) -> None:
    """To that very process: one that has got its number since is not meant."""
    pin = getattr(os, "pidfd_open", None)  # since Python 3.9 and Linux 5.3
    try:
        descriptor = pin(target.pid) if pin else -1
    except ProcessLookupError:
        return
    except OSError:
        descriptor = -1
    try:
        if not _is_same(target):
            return
        if descriptor < 0:
            os.kill(target.pid, number)
        else:
            signal.pidfd_send_signal(descriptor, number)  # type: ignore[attr-defined,unused-ignore]
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
