"""Identities of processes: process id, start time and boot id.

Must not know what processes do.  A process id alone is reused sooner or later, and soon after a
reboot.
"""

import os
from typing import Optional

from ..protocol.job import Identity
from . import process_tree

#: States of /proc/PID/stat of a process that has ended.
_DEAD_STATES = frozenset("ZXx")
#: Indexes in the fields of /proc/PID/stat after the name: state, and start in ticks since boot.
_STATE_INDEX, _START_INDEX = 0, 19


def read_boot_id() -> str:
    """Return the id of this machine's current boot; empty if the system has none."""
    try:
        with open(process_tree.PROC + "/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def identify(pid: int) -> Optional[Identity]:
    """Return the identity of the living process ``pid``; None if there is none."""
    fields = process_tree.read_stat(pid)
    if len(fields) <= _START_INDEX:
        return _without_proc(pid)
    if fields[_STATE_INDEX] in _DEAD_STATES:
        return None
    return Identity(pid, fields[_START_INDEX], read_boot_id())


def _without_proc(pid: int) -> Optional[Identity]:
    """Return an identity with the process id alone, on systems other than Linux."""
    if os.path.isdir(process_tree.PROC + "/self"):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return Identity(pid, "", "")


def identify_self() -> Identity:
    """Return the identity of this process."""
    identity = identify(os.getpid())
    assert identity is not None
    return identity


def is_alive(identity: Identity) -> bool:
    """Return whether exactly this process is alive."""
    return identity.pid > 0 and identify(identity.pid) == identity
