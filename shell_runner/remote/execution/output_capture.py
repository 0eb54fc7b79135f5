"""Keeping the head and the tail of a stream of any size.

Owns the bytes of one output stream.  Memory is bounded by what is kept.
"""

from typing import BinaryIO, Optional

from ..protocol.model import Stream

#: Bytes of one stream that go into a file, at most.
_MOST_IN_FILE = 64 << 20


class Capture:
    """Keeps up to ``keep`` bytes: half from the start, half from the end.

    With a ``path``, output that is longer goes into that file, up to 64 MiB.
    """

    def __init__(self, keep: int, path: str = "") -> None:
        self._half = max(keep // 2, 1)
        self._head = bytearray()
        self._tail = bytearray()
        self._path = path
        self._file: Optional[BinaryIO] = None
        self.total = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._path and self.total + len(data) > 2 * self._half:
            self._spool(data)
        self.total += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail += data
            if len(self._tail) > 4 * self._half:
                del self._tail[: -self._half]

    def _spool(self, data: bytes) -> None:
        """Nothing has been dropped by the time that the file is opened."""
        try:
            if self._file is None:
                self._file = open(self._path, "xb")
                self._file.write(self._head + self._tail)
            room = _MOST_IN_FILE - self.total
            if room > 0:
                self._file.write(data[:room])
        except OSError:
            self._path = ""  # a full disk must not fail the test

    def close(self) -> None:
        """The file, if there is one, is complete."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                pass

    def stream(self) -> Stream:
        """What was kept, as text."""
        if not self.total:
            return _NOTHING
        tail = self._tail[-self._half :]
        head = self._head.decode("utf-8", "surrogateescape")
        if len(self._head) + len(tail) == self.total:
            whole = (self._head + tail).decode("utf-8", "surrogateescape")
            return Stream(whole, self.total)
        return Stream(head + tail.decode("utf-8", "surrogateescape"), self.total, len(head))


_NOTHING = Stream()
