"""The log of one attempt at a job, for people.

Responsible for the file and its maximum size. Must not know the queue or what is run.
"""

import contextlib
import os
from typing import List

from ..files.copy_tree import write_all

#: Bytes of a job's log; what comes after that is not kept.
_MAX_LOG_BYTES = 256 << 20


class JobLog:
    """Log of the install command, the tests and the job runner."""

    def __init__(self, path: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        self._left = _MAX_LOG_BYTES - os.fstat(self._descriptor).st_size
        #: The last write has failed, perhaps in the middle of a line.
        self._is_torn = False

    def write(self, name: str, lines: List[str]) -> None:
        """Append ``NAME | LINE`` for each line; on a full disk lines are dropped.

        The tests matter more than their output: no error is raised.
        """
        name = name.replace("\n", "?")
        text = "".join("%s | %s\n" % (name, line.replace("\n", " ")) for line in lines)
        data = text.encode("utf-8", "surrogateescape")
        if self._left <= 0:
            return
        self._left -= len(data)
        if self._left <= 0:
            data += b"nosejobs | the log ends here: it is full\n"
        if self._is_torn:
            data = b"\nnosejobs | lines are missing here: the disk was full\n" + data
        try:
            write_all(self._descriptor, data)
            self._is_torn = False
        except OSError:
            self._is_torn = True

    def note(self, message: str) -> None:
        """Append a message of the job runner."""
        self.write("nosejobs", message.splitlines() or [""])

    def close(self) -> None:
        """Sync the file to the disk and close it."""
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)
        os.close(self._descriptor)
