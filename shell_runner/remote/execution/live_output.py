"""Lines of output that are sent while a test runs.

Responsible for splitting output into lines and for limiting its rate.
"""

import time
from typing import Dict, Iterator, List, Set

#: Maximum bytes of a line; a longer one is sent as several lines.
_MAX_LINE_BYTES = 4096
#: Maximum bytes per second that are sent; a person cannot read faster.
_MAX_BYTES_PER_SECOND = 256 << 10


class LineSplitter:
    """Splits two streams into lines of text and drops lines above the rate limit."""

    def __init__(self) -> None:
        self._unfinished: Dict[int, bytes] = {}
        #: Streams that are in the middle of a line whose beginning was dropped.
        self._cut_streams: Set[int] = set()
        self._second = 0
        self._second_bytes = 0
        self._dropped_count = 0

    def feed(self, fd: int, data: bytes) -> List[str]:
        """Return the lines that ``data`` completes on the stream ``fd``."""
        if self._exceeds_rate(len(data)):
            self._drop(fd, data)
            return []
        if fd in self._cut_streams:
            _, newline, data = data.partition(b"\n")
            if not newline:
                return []
            self._cut_streams.discard(fd)
            self._dropped_count += 1
        lines = (self._unfinished.pop(fd, b"") + data).split(b"\n")
        *pieces, last = _split_long_line(lines.pop())
        if last:
            self._unfinished[fd] = last
        complete = [_decode_line(piece) for line in lines for piece in _split_long_line(line)]
        return self._add_drop_notice(complete + [_decode_line(piece) for piece in pieces])

    def _drop(self, fd: int, data: bytes) -> None:
        self._dropped_count += data.count(b"\n")
        is_mid_line = self._unfinished.pop(fd, None) is not None or fd in self._cut_streams
        self._cut_streams.discard(fd)
        if not data.endswith(b"\n") and (data or is_mid_line):
            self._cut_streams.add(fd)

    def _exceeds_rate(self, size: int) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._second_bytes = second, 0
        self._second_bytes += size
        return self._second_bytes > _MAX_BYTES_PER_SECOND

    def _add_drop_notice(self, lines: List[str]) -> List[str]:
        if self._dropped_count:
            lines.insert(0, "[... %d lines are not shown ...]" % self._dropped_count)
            self._dropped_count = 0
        return lines

    def flush(self) -> List[str]:
        """Return the unfinished lines at the end of a test."""
        lines = [_decode_line(part) for part in self._unfinished.values()]
        self._dropped_count += len(self._cut_streams)
        self._unfinished = {}
        self._cut_streams = set()
        return self._add_drop_notice(lines)


def _split_long_line(line: bytes) -> Iterator[bytes]:
    """Split a long line; the result does not depend on the chunks in which it was read."""
    for start in range(0, max(len(line), 1), _MAX_LINE_BYTES):
        yield line[start : start + _MAX_LINE_BYTES]


def _decode_line(line: bytes) -> str:
    return line.rstrip(b"\r").decode("utf-8", "surrogateescape")
