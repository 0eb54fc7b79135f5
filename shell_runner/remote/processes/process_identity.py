"""Which process is meant: a number, when it started, and since which boot.

Owns the reading of /proc for that.  Must not know what processes do.  A process id alone is
given to another process sooner or later, and after a reboot soon.
"""

import os
from typing import Optional

from ..protocol.job import Identity
from . import process_tree

#: States of a process that has ended.
_DEAD = frozenset("ZXx")
#: Fields of /proc/PID/stat behind the name: the state, and ticks from boot to start (field 22).
_STATE, _START = 0, 19


def boot() -> str:
    """The name of this boot of this machine; empty where the system has none."""
    try:
        with open(process_tree.PROC + "/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def of(pid: int) -> Optional[Identity]:
    """The process that has this number now; None if there is none that lives."""
    fields = process_tree.stat(pid)
    if len(fields) <= _START:
        return _without_proc(pid)
    if fields[_STATE] in _DEAD:
        return None
    return Identity(pid, fields[_START], boot())


def _without_proc(pid: int) -> Optional[Identity]:
    """Elsewhere than on Linux a number is all that can be had cheaply."""
    if os.path.isdir(process_tree.PROC + "/self"):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return Identity(pid, "", "")


def own() -> Identity:
    """This process."""
    found = of(os.getpid())
    assert found is not None
    return found


def is_alive(identity: Identity) -> bool:
    """Whether that very process lives."""
    return identity.pid > 0 and of(identity.pid) == identity
