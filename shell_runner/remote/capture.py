"""Keeping the head and the tail of a stream of any size.

Owns the bytes of one output stream.  Memory is bounded by what is kept.
"""

from .model import Stream


class Capture:
    """Keeps up to ``keep`` bytes: half from the start, half from the end."""

    def __init__(self, keep: int) -> None:
        self._half = max(keep // 2, 1)
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        self.total += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail += data
            if len(self._tail) > 4 * self._half:
                del self._tail[: -self._half]

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
