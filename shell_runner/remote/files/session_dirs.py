"""The private folders of sessions: one each, removed once its session has died.

Owns their names and locks.  Must not know what is in them.
"""

import fcntl
import os
import tempfile
import time

from .remove_tree import remove_tree

_PREFIX = "nosejobs-"
#: Seconds: the kernel closes what a killed process had open one by one, and so a slot
#: hears of its owner's death before the lock is free.
_OWNER_EXIT_TIMEOUT = 2.0


def work_folder() -> "tuple[str, int]":
    """A fresh private folder for one session, and the descriptor that keeps it ours.

    Folders whose owner has died (nobody holds their lock) are removed first.
    """
    sweep()
    parent = tempfile.gettempdir()
    # It gets its name only when it is locked: another session may be sweeping.
    nameless = tempfile.mkdtemp(prefix="." + _PREFIX, dir=parent)
    descriptor = os.open(os.path.join(nameless, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    folder = os.path.join(parent, os.path.basename(nameless)[1:])
    os.rename(nameless, folder)
    return folder, descriptor


def sweep() -> None:
    """Remove the folders of sessions that have died."""
    parent = tempfile.gettempdir()
    for name in os.listdir(parent):
        if name.startswith(_PREFIX):
            _sweep(os.path.join(parent, name))


def forsake(folder: str) -> None:
    """For a slot whose owner is dead and whose own part is gone: the last one removes all."""
    try:
        parts = os.listdir(folder)
    except OSError:
        return
    if not any(name.isdigit() for name in parts):
        _sweep(folder, _OWNER_EXIT_TIMEOUT)


def _sweep(folder: str, timeout: float = 0.0) -> None:
    try:
        if os.lstat(folder).st_uid != os.getuid():
            return
        descriptor = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        _remove_empty(folder)
        return
    try:
        _lock(descriptor, timeout)
        remove_tree(folder)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _lock(descriptor: int, timeout: float) -> None:
    """BlockingIOError if somebody has it for longer than ``timeout`` seconds."""
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
    """A slot that came up just when another one swept has made the folder anew."""
    try:
        os.rmdir(folder)
    except OSError:
        pass
