"""The folder of this host's queue: finds it, or creates it with its parents.

Must not know what is in the queue.
"""

import os
from typing import List

from ..execution import resource_locks
from ..files import state_dirs
from .database import DATABASE_NAME


def find_queue_folder() -> str:
    """Return the folder of this host's queue, created if necessary and private to the user.

    Raises :exc:`OSError`, with all reasons, if no folder can be used.
    """
    for base in state_dirs.candidate_folders():
        folder = os.path.join(state_dirs.host_folder(base), "jobs")
        # An empty queue elsewhere must not hide existing jobs.
        if os.path.lexists(os.path.join(folder, DATABASE_NAME)):
            return folder
    errors: List[str] = []
    for base in state_dirs.candidate_folders():
        try:
            return _create_queue_folder(base)
        except OSError as error:
            errors.append("%s: %s" % (base, error.strerror or error))
    raise OSError("no folder can hold the jobs of this host: %s" % "; ".join(errors))


def _create_queue_folder(base: str) -> str:
    state_dirs.ensure_private_folder(base)
    resource_locks.SharedHostResources(state_dirs.host_folder(base)).close()
    folder = os.path.join(state_dirs.host_folder(base), "jobs")
    state_dirs.ensure_private_folder(folder)
    _sync_folders(folder, os.path.dirname(base))
    return folder


def _sync_folders(folder: str, top: str) -> None:
    """Sync ``folder`` and its parents up to ``top``: they must survive a loss of power, too."""
    while True:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if folder in (top, os.path.dirname(folder)):
            return
        folder = os.path.dirname(folder)
