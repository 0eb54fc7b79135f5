"""Lines of output while a test runs.

Owns the cutting into lines, and the bound on how many are worth sending.
"""

import time
from typing import Dict, List

#: Bytes of a line that are sent; what is longer comes in several.
_LONGEST = 4096
#: Bytes a second that are sent; nobody reads faster.
_RATE = 256 << 10


class Lines:
    """Whole lines of two streams, as text."""

    def __init__(self) -> None:
        self._parts: Dict[int, bytes] = {}
        self._second = 0
        self._spent = 0
        self._dropped = 0

    def feed(self, fd: int, data: bytes) -> List[str]:
        """The lines that ``data`` completes on stream ``fd``."""
        if self._is_over(len(data)):
            self._dropped += data.count(b"\n")
            self._parts.pop(fd, None)
            return []
        lines = (self._parts.pop(fd, b"") + data).split(b"\n")
        last = lines.pop()
        while len(last) > _LONGEST:
            lines.append(last[:_LONGEST])
            last = last[_LONGEST:]
        if last:
            self._parts[fd] = last
        return self._noted([_text(line) for line in lines])

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
        self._parts = {}
        return self._noted(lines)


def _text(line: bytes) -> str:
    return line[:_LONGEST].rstrip(b"\r").decode("utf-8", "surrogateescape")
