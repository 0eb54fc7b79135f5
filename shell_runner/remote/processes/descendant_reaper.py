"""Killing and reaping of the descendants of this process.

Must not know what they are.
"""

import functools
import os
import signal
import time
from typing import FrozenSet, List

from . import process_tree

#: Seconds after which processes that cannot be killed are left to the kernel.
_KILL_TIMEOUT = 5.0


def kill_all(lister: process_tree.DescendantLister, seconds: float = _KILL_TIMEOUT) -> bool:
    """Kill the processes of ``lister`` until none is left; return False if some are left.

    ``seconds``: time limit.
    """
    deadline = time.monotonic() + seconds
    while True:
        reap(lister.unrelated_pids)
        alive = [pid for pid in lister() if not process_tree.is_dead(pid)]
        if not alive or time.monotonic() > deadline:
            return not alive
        frozen = process_tree.freeze(lister, functools.partial(reap, lister.unrelated_pids))
        process_tree.signal_groups(frozen, signal.SIGKILL)
        time.sleep(0.002)


def reap(unrelated_pids: FrozenSet[int] = frozenset()) -> List[int]:
    """Reap dead children, except ``unrelated_pids``; return the process ids."""
    if not unrelated_pids:
        return _reap_any()
    children = process_tree.list_children(os.getpid())
    dead = [pid for pid in children if pid not in unrelated_pids and process_tree.is_dead(pid)]
    for pid in dead:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass
    return dead


def _reap_any() -> List[int]:
    pids: List[int] = []
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return pids
        if pid == 0:
            return pids
        pids.append(pid)
