"""The private folders of sessions, which are removed once their session has died.

Responsible for their names and locks.  Must not depend on their contents.
"""

import fcntl
import os
import tempfile
import time

from .remove_tree import remove_tree

_PREFIX = "nosejobs-"
#: Maximum seconds to wait for the lock of a dead owner.  The kernel closes the files of a killed
#: process one by one, so a slot can see its owner's death before the lock is free.
_OWNER_EXIT_TIMEOUT = 2.0


def create_session_folder() -> "tuple[str, int]":
    """Create a private folder for one session; return it and the descriptor of its lock.

    The folder belongs to the session while the descriptor is open.  Folders whose lock no process
    holds are removed first, since their owners have died.
    """
    remove_dead_sessions()
    parent = tempfile.gettempdir()
    # Rename it only once it is locked: another session may be removing folders of dead sessions.
    temporary = tempfile.mkdtemp(prefix="." + _PREFIX, dir=parent)
    descriptor = os.open(os.path.join(temporary, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    folder = os.path.join(parent, os.path.basename(temporary)[1:])
    os.rename(temporary, folder)
    return folder, descriptor


def remove_dead_sessions() -> None:
    """Remove the folders of sessions that have died."""
    parent = tempfile.gettempdir()
    for name in os.listdir(parent):
        if name.startswith(_PREFIX):
            _remove_if_unlocked(os.path.join(parent, name))


def remove_if_last_slot(folder: str) -> None:
    """Remove the session folder of a dead owner if no slot has a directory in it any more.

    Called by each slot after it has removed its own directory.
    """
    try:
        entries = os.listdir(folder)
    except OSError:
        return
    if not any(name.split(".")[0].isdigit() for name in entries):
        _remove_if_unlocked(folder, _OWNER_EXIT_TIMEOUT)


def _remove_if_unlocked(folder: str, timeout: float = 0.0) -> None:
    try:
        if os.lstat(folder).st_uid != os.getuid():
            return
        descriptor = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        _remove_empty(folder)
        return
    try:
        _acquire_lock(descriptor, timeout)
        remove_tree(folder)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _acquire_lock(descriptor: int, timeout: float) -> None:
    """Lock a file; raises BlockingIOError if it is locked for longer than ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)


def _remove_empty(folder: str) -> None:
    """Remove the empty folder that a slot has created again after another one removed it."""
    try:
        os.rmdir(folder)
    except OSError:
        pass
