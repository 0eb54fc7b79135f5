"""The head and the tail of an output stream of any size.

Responsible for the captured bytes of one stream.  Memory is limited by the number of bytes kept.
"""

from typing import BinaryIO, Optional

from ..protocol.model import CapturedStream

#: Maximum bytes of one stream that are written to a file.
_MAX_FILE_BYTES = 64 << 20


class OutputCapture:
    """Keeps up to ``limit`` bytes of a stream: half from the start, half from the end.

    With a ``path``, longer output is also written to that file, up to 64 MiB.
    """

    def __init__(self, limit: int, path: str = "") -> None:
        self._half = max(limit // 2, 1)
        self._head = bytearray()
        self._tail = bytearray()
        self._path = path
        self._file: Optional[BinaryIO] = None
        self.total = 0

    def add(self, data: bytes) -> None:
        """Add the next bytes of the stream."""
        if self._path and self.total + len(data) > 2 * self._half:
            self._write_overflow(data)
        self.total += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail += data
            if len(self._tail) > 4 * self._half:
                del self._tail[: -self._half]

    def _write_overflow(self, data: bytes) -> None:
        """Write to the file; it is opened before any byte has been dropped."""
        try:
            if self._file is None:
                self._file = open(self._path, "xb")
                self._file.write(self._head + self._tail)
            room = _MAX_FILE_BYTES - self.total
            if room > 0:
                self._file.write(data[:room])
        except OSError:
            self._path = ""  # a full disk must not fail the test

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                pass

    def to_stream(self) -> CapturedStream:
        """Return the kept bytes as text; undecodable bytes become surrogates."""
        if not self.total:
            return _EMPTY_STREAM
        tail = self._tail[-self._half :]
        head = self._head.decode("utf-8", "surrogateescape")
        if len(self._head) + len(tail) == self.total:
            text = (self._head + tail).decode("utf-8", "surrogateescape")
            return CapturedStream(text, self.total)
        return CapturedStream(head + tail.decode("utf-8", "surrogateescape"), self.total, len(head))


_EMPTY_STREAM = CapturedStream()
