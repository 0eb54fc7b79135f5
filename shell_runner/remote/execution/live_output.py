"""Lines of output while a test runs.

Owns the cutting into lines, and the bound on how many are worth sending.
"""

import time
from typing import Dict, Iterator, List, Set

#: Bytes of a line that are sent; what is longer comes in several.
_LONGEST = 4096
#: Bytes a second that are sent; nobody reads faster.
_RATE = 256 << 10


class Lines:
    """Whole lines of two streams, as text."""

    def __init__(self) -> None:
        self._parts: Dict[int, bytes] = {}
        #: Streams in the middle of a line whose beginning was not sent.
        self._torn: Set[int] = set()
        self._second = 0
        self._spent = 0
        self._dropped = 0

    def feed(self, fd: int, data: bytes) -> List[str]:
        """The lines that ``data`` completes on stream ``fd``."""
        if self._is_over(len(data)):
            self._drop(fd, data)
            return []
        if fd in self._torn:
            _, newline, data = data.partition(b"\n")
            if not newline:
                return []
            self._torn.discard(fd)
            self._dropped += 1
        lines = (self._parts.pop(fd, b"") + data).split(b"\n")
        *pieces, last = _pieces(lines.pop())
        if last:
            self._parts[fd] = last
        whole = [_text(piece) for line in lines for piece in _pieces(line)]
        return self._noted(whole + [_text(piece) for piece in pieces])

    def _drop(self, fd: int, data: bytes) -> None:
        self._dropped += data.count(b"\n")
        begun = self._parts.pop(fd, None) is not None or fd in self._torn
        self._torn.discard(fd)
        if not data.endswith(b"\n") and (data or begun):
            self._torn.add(fd)

    def _is_over(self, size: int) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._spent = second, 0
        self._spent += size
        return self._spent > _RATE

    def _noted(self, lines: List[str]) -> List[str]:
        if self._dropped:
            lines.insert(0, "[... %d lines are not shown ...]" % self._dropped)
            self._dropped = 0
        return lines

    def rest(self) -> List[str]:
        """What is left at the end of a test: unfinished lines."""
        lines = [_text(part) for part in self._parts.values()]
        self._dropped += len(self._torn)
        self._parts = {}
        self._torn = set()
        return self._noted(lines)


def _pieces(line: bytes) -> Iterator[bytes]:
    """The line in pieces that are sent as lines; always the same ones, in however many chunks."""
    for start in range(0, max(len(line), 1), _LONGEST):
        yield line[start : start + _LONGEST]


def _text(line: bytes) -> str:
    return line.rstrip(b"\r").decode("utf-8", "surrogateescape")
