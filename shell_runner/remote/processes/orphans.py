"""Orphans: finds, stops and kills the processes of an attempt whose worker is dead.

Must not know the queue.  Every process of an attempt has its id in the environment.  Processes that
a test has started with another environment are found as descendants or session members of one that
has it, or by their working directory.  Other processes are not found, nor those that fork and exit
faster than /proc can be read; their slot kills them when it notices the death of its parent.
"""

import contextlib
import os
import signal
import time
from typing import Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

from . import process_tree

#: Environment variable with the id of the attempt, set for each of its processes.
ATTEMPT_VARIABLE = "NOSEJOBS_ATTEMPT"
#: Seconds after which processes that cannot be killed are left to the kernel.
_KILL_TIMEOUT = 10.0
#: Maximum searches while processes are stopped; then they are killed even if some still run.
_MAX_FREEZE_ROUNDS = 100
#: States of /proc/PID/stat of processes that cannot fork any more, and those of dead ones.
_STOPPED_STATES, _DEAD_STATES = frozenset("TtZXx"), frozenset("ZXx")


class Process(NamedTuple):
    """A process as shown by /proc; ``pid`` and ``start_ticks`` together are unique per boot."""

    pid: int
    start_ticks: str
    state: str
    parent_pid: int
    group_id: int
    session_id: int
    #: Whether it has a controlling terminal, so that it belongs to a person.
    has_terminal: bool


class OrphanSearch:
    """A repeated search for the processes of one attempt while they are stopped and killed."""

    def __init__(self, attempt: str, workspace: str = "") -> None:
        self._attempt = attempt
        self._workspace = os.path.realpath(workspace) if workspace else ""
        #: Process groups that contain no other processes.
        self.groups: Set[int] = set()

    def find(self) -> List[Process]:
        """Return the living processes of the attempt, except this process and its ancestors."""
        table, marked, inside = self._read()
        ancestors = _list_ancestors(table, os.getpid())
        marked -= ancestors
        sessions = {table[pid].session_id for pid in marked}
        orphaned = {number for number in sessions if _is_orphaned(table, number, marked, ancestors)}
        pids = {pid for pid, process in table.items() if process.session_id in orphaned}
        pids |= marked | (inside - ancestors)
        pids = _add_descendants(table, pids) - ancestors
        self.groups |= {table[pid].group_id for pid in pids}
        self.groups -= {process.group_id for pid, process in table.items() if pid not in pids}
        self.groups -= {0, 1}
        return [table[pid] for pid in sorted(pids)]

    def _read(self) -> Tuple[Dict[int, Process], Set[int], Set[int]]:
        """Return all processes by pid, those with the marker, and those that work in the workspace.

        The newest are read first, since some live for a moment only.  A working directory says
        nothing about other members of the session.
        """
        table: Dict[int, Process] = {}
        marked: Set[int] = set()
        inside: Set[int] = set()
        for pid in sorted(_list_pids(), reverse=True):
            is_marked = _is_marked(pid, self._attempt)
            process = read_process(pid)
            if process is None or process.state in _DEAD_STATES:
                continue
            table[pid] = process
            if is_marked:
                marked.add(pid)
            elif _is_inside(process, self._workspace):
                inside.add(pid)
        return table, marked, inside


def find_orphans(attempt: str, workspace: str = "") -> List[Process]:
    """Return the living processes of ``attempt``, except this process and its ancestors."""
    return OrphanSearch(attempt, workspace).find()


def kill_orphans(attempt: str, workspace: str = "", seconds: float = _KILL_TIMEOUT) -> List[int]:
    """Kill all processes of ``attempt``; return the ids of those alive after ``seconds``."""
    deadline = time.monotonic() + seconds
    search = OrphanSearch(attempt, workspace)
    while True:
        processes = _freeze(search)
        if not processes or time.monotonic() > deadline:
            return [process.pid for process in processes]
        _send_signals(search, processes, signal.SIGKILL)
        _wait_until_dead(processes, deadline)


def _is_orphaned(
    table: Dict[int, Process], session: int, marked: Set[int], ancestors: Set[int]
) -> bool:
    """Return whether a session with a marked member belongs to the attempt, not to a person."""
    if session <= 1 or any(table[pid].session_id == session for pid in ancestors if pid in table):
        return False
    leader = table.get(session)
    return leader is None or session in marked or not leader.has_terminal


def _add_descendants(table: Dict[int, Process], pids: Set[int]) -> Set[int]:
    below: Dict[int, List[int]] = {}
    for process in table.values():
        below.setdefault(process.parent_pid, []).append(process.pid)
    level = list(pids)
    while level:
        level = [pid for parent in level for pid in below.get(parent, ()) if pid not in pids]
        pids.update(level)
    return pids


def _list_ancestors(table: Dict[int, Process], pid: int) -> Set[int]:
    pids: Set[int] = set()
    while pid not in pids:
        pids.add(pid)
        pid = table[pid].parent_pid if pid in table else 0
    return pids


def _is_marked(pid: int, attempt: str) -> bool:
    try:
        with open("%s/%d/environ" % (process_tree.PROC, pid), "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return False  # it has exited, or belongs to another user
    return ("%s=%s" % (ATTEMPT_VARIABLE, attempt)).encode("ascii", "replace") in variables


def _is_inside(process: Process, folder: str) -> bool:
    """Return whether a process works in ``folder`` and has no terminal, unlike a person's shell."""
    if not folder:
        return False
    try:
        working_directory = os.readlink("%s/%d/cwd" % (process_tree.PROC, process.pid))
    except OSError:
        return False
    return not process.has_terminal and (working_directory + "/").startswith(folder + "/")


def _list_pids() -> List[int]:
    try:
        return [int(name) for name in os.listdir(process_tree.PROC) if name.isdigit()]
    except OSError:
        return []  # not Linux: orphans cannot be processes


def read_process(pid: int) -> Optional[Process]:
    """Return the process as shown by /proc; None if it has exited."""
    fields = process_tree.read_stat(pid)
    if len(fields) < 20:
        return None
    parent, group, session = map(int, fields[1:4])
    return Process(pid, fields[19], fields[0], parent, group, session, fields[4] != "0")


def _freeze(search: OrphanSearch) -> List[Process]:
    """Stop processes until no new one appears (a stopped process cannot fork); return all."""
    stopped: Set[Tuple[int, str]] = set()
    for _ in range(_MAX_FREEZE_ROUNDS):
        processes = search.find()
        new = [
            process for process in processes if (process.pid, process.start_ticks) not in stopped
        ]
        _send_signals(search, new, signal.SIGSTOP)
        stopped.update((process.pid, process.start_ticks) for process in new)
        if not new and all(process.state in _STOPPED_STATES for process in processes):
            return processes
        time.sleep(0.001)
    return processes


def _send_signals(search: OrphanSearch, targets: List[Process], number: int) -> None:
    """Send a signal to each process and to its group, so that a fork cannot escape."""
    for group in {process.group_id for process in targets} & search.groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
    for process in targets:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            _send_signal(process, number)


def _send_signal(target: Process, number: int) -> None:
    """Send a signal to a process, but not to a later one with the same process id."""
    # Available since Python 3.9 and Linux 5.3.
    open_pidfd = getattr(os, "pidfd_open", None)
    send_to_pidfd = getattr(signal, "pidfd_send_signal", None)
    try:
        descriptor = open_pidfd(target.pid) if open_pidfd else -1
    except ProcessLookupError:
        return
    except OSError:
        descriptor = -1
    try:
        if not _is_same(target):
            return
        if descriptor < 0 or send_to_pidfd is None:
            os.kill(target.pid, number)
        else:
            send_to_pidfd(descriptor, number)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _is_same(target: Process) -> bool:
    current = read_process(target.pid)
    return current is not None and current.start_ticks == target.start_ticks


def _wait_until_dead(targets: Iterable[Process], deadline: float) -> None:
    for process in targets:
        while time.monotonic() < deadline:
            current = read_process(process.pid)
            if (
                current is None
                or current.start_ticks != process.start_ticks
                or current.state in _DEAD_STATES
            ):
                break
            time.sleep(0.001)
