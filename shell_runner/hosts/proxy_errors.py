"""The file through which a proxy tells the controller about its end.

Responsible for its lines, and for reading it while the proxy runs and after it was killed.  Must
not know execnet or how a host is reached.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
import threading
from pathlib import Path

from ..text import strip_control_chars
from .frame_guard import VIOLATION_LINE

#: The first line of the error file.
PID_LINE = re.compile(r"nosejobs-pid: (\d+)\n")
#: The line of the error file that says why the connection ended.
REASON_LINE = re.compile(r"nosejobs-reason: (.*)\n")
#: Bytes that are read from the start and from the end of a longer file.
_PART_BYTES = 32 << 10


class ErrorFile:
    """The temporary file to which the proxy and its ssh write their errors."""

    def __init__(self) -> None:
        self._descriptor, self.path = tempfile.mkstemp(prefix="nosejobs-ssh-")
        self._closing = threading.Lock()
        #: Its content when it was closed.
        self._final_text = ""

    def read(self) -> str:
        """Return what was written, safe to show and without the proxy's process id.

        ssh writes what the host and its shell print.
        """
        return strip_control_chars(PID_LINE.sub("", self._read_all(), count=1))

    def close_reason(self) -> str:
        """Return the proxy's words why the connection ended; empty if it gave none."""
        found = REASON_LINE.search(self.read())
        return found[1] if found else ""

    def was_ended_by_guard(self) -> bool:
        """Return whether the frame guard ended the connection."""
        return VIOLATION_LINE in self.read()

    def _read_all(self) -> str:
        with self._closing:
            if self._descriptor >= 0:
                data = os.pread(self._descriptor, 2 * _PART_BYTES, 0)
                size = os.fstat(self._descriptor).st_size
                if size > len(data):
                    # The proxy's reason is at the end, after all that ssh has written.
                    start = max(size - _PART_BYTES, 0)
                    data = (
                        data[:_PART_BYTES] + b"\n" + os.pread(self._descriptor, _PART_BYTES, start)
                    )
                self._final_text = data.decode("utf-8", "replace")
            return self._final_text

    def kill_writer(self) -> None:
        """Terminate the proxy: execnet cannot end an ssh that hangs in its handshake."""
        found = PID_LINE.search(self._read_all())
        if found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(found[1]), signal.SIGTERM)

    def unlink(self) -> None:
        """Remove the name, which would outlive a killed controller; the writer has it open."""
        Path(self.path).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove and close the file; may be called twice."""
        self.unlink()
        self._read_all()
        with self._closing:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
