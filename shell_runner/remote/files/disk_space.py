"""A disk that is full, in words: what has no room, and where to make some.

Owns the words alone.  Must not know queues or packages.
"""

import errno
import os

#: What passes once there is room again.
FULL = (errno.ENOSPC, errno.EDQUOT)
#: Bytes without which nothing that matters can be written.
_LITTLE = 256 << 10


def words(error: OSError, folder: str) -> str:
    """What went wrong with something below ``folder``, and what to do."""
    if error.errno in FULL:
        return "%s: %s; make room there" % (error.filename or folder, os.strerror(error.errno))
    if error.strerror is None:
        return str(error)
    place = error.filename or folder
    return "%s: %s" % (place, error.strerror) if place else error.strerror


def shortage(folder: str) -> str:
    """Why nothing can be written to ``folder``; empty if there is room."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return ""
    free = found.f_bavail * found.f_frsize
    if free < _LITTLE:
        return "the disk of %s is full (%d bytes are free); make room there" % (folder, free)
    if found.f_files and not found.f_favail:
        return "the disk of %s has no room for more files; make some" % folder
    return ""
