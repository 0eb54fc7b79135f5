"""Messages about full disks and other errors of the file system.

Must not depend on queues or packages.
"""

import errno
import os

#: Error numbers that mean that a disk or a quota is full.
FULL_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
#: Free bytes below which a disk counts as full.
_MIN_FREE_BYTES = 256 << 10


def describe_error(error: OSError, folder: str) -> str:
    """Return a message for an error with a file below ``folder``, with advice on a full disk."""
    if error.errno in FULL_DISK_ERRNOS:
        return "%s: %s; make room there" % (error.filename or folder, os.strerror(error.errno))
    if error.strerror is None:
        return str(error)
    path = error.filename or folder
    return "%s: %s" % (path, error.strerror) if path else error.strerror


def describe_shortage(*folders: str) -> str:
    """Return a message if the disk of one of ``folders`` is full; empty if all have room."""
    return next(filter(None, map(_describe_shortage, folders)), "")


def _describe_shortage(folder: str) -> str:
    try:
        status = os.statvfs(folder)
    except OSError:
        return ""
    if status.f_bavail * status.f_frsize < _MIN_FREE_BYTES:
        return "the disk of %s is full; make room there" % folder
    if status.f_files and not status.f_favail:
        return "the disk of %s has no free inodes; remove some files" % folder
    return ""
