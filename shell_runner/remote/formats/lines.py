"""Lines of bounded length from bytes in chunks of any size, and JSON objects from lines.

Defines where a line ends, how it is decoded, and when a stream is one of JSON events.  This module
must not know a format.
"""

import json
from typing import Any, Dict, Iterator, List, Optional

from .bounds import MAX_LINE_BYTES, CaseCollector

#: Bytes kept of one line of JSON; it holds the whole output of a test, so more is kept of it.
MAX_JSON_LINE_BYTES = 256 * 1024


class LineSplitter:
    """Splits a stream at newlines; CRLF and a lone CR end a line too (TAP 14).

    ``limit``: bytes kept of a line.  What is kept depends on the line's bytes alone, never on the
    chunks.
    """

    __slots__ = ("_limit", "_partial")

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        #: The beginning of a line whose end has not come yet.
        self._partial = bytearray()

    def feed(self, data: bytes) -> Iterator[List[str]]:
        """Yield the lines that the data complete, many at a time."""
        # No slice is longer than the limit, so only the line that began
        # before a slice can be too long.
        for start in range(0, len(data), self._limit):
            chunk = data[start : start + self._limit]
            head, newline, rest = chunk.partition(b"\n")
            self._extend_partial(head)
            if newline:
                yield self._complete(rest)

    def finish(self) -> List[str]:
        """Return the last line, if the stream did not end with a newline."""
        last, self._partial = self._partial, bytearray()
        return _split_block(bytes(last)) if last else []

    def _extend_partial(self, head: bytes) -> None:
        free = self._limit - len(self._partial)
        if free > 0:
            self._partial += head[:free]

    def _complete(self, rest: bytes) -> List[str]:
        complete, _, partial = rest.rpartition(b"\n")
        # rpartition tells "no newline" and "newline first" apart by what it
        # leaves: in both cases nothing stands before, but only one has a line.
        has_more = len(partial) < len(rest)
        block = bytes(self._partial) + b"\n" + complete if has_more else bytes(self._partial)
        self._partial = bytearray(partial)
        return _split_block(block)


def _split_block(block: bytes) -> List[str]:
    # A newline ends any broken UTF-8 sequence, so decoding many lines at once
    # gives what decoding each would.
    text = block.decode("utf-8", "replace")
    if "\r" not in text:
        return text.split("\n")
    # The newline that ended the block belongs to a CR before it.
    text = (text + "\n").replace("\r\n", "\n").replace("\r", "\n")
    return text.split("\n")[:-1]


# Integers are read as floats: int() of a long run of digits is quadratic, and
# an error in newer Pythons.
_DECODER = json.JSONDecoder(parse_int=float)


def parse_json_object(line: str) -> Optional[Dict[str, Any]]:
    """Return the JSON object that is the whole line, or None.

    A line that was cut inside a string is completed, so that a test whose output is too long is
    still reported.
    """
    if not line.startswith("{"):
        return None
    value = _decode_object(line)
    if value is None and len(line) > MAX_JSON_LINE_BYTES // 4:
        # The cut may stand inside an escape, the longest being 12 characters.
        for cut in range(13):
            value = _decode_object(line[: len(line) - cut] + '"}')
            if value is not None:
                break
    return value


def _decode_object(text: str) -> Optional[Dict[str, Any]]:
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def get_text(event: Dict[str, Any], key: str) -> str:
    """Return the event's string under ``key``, or an empty text."""
    value = event.get(key)
    if not isinstance(value, str):
        return ""
    # JSON can escape half of a surrogate pair, which nothing can encode.
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def get_count(event: Dict[str, Any], key: str) -> Optional[int]:
    """Return the event's integer under ``key``, or None."""
    value = event.get(key)
    if not isinstance(value, float) or not value.is_integer() or abs(value) > 1e15:
        return None
    return int(value)


class JsonEventReader:
    """Reads one stream of JSON objects, one a line; a subclass defines the events."""

    def __init__(self, forced: bool = False) -> None:
        self.refused = False
        self._is_recognized = False
        self._forced = forced
        self._lines = LineSplitter(MAX_JSON_LINE_BYTES)
        self._collector = CaseCollector()
        self._problem = ""

    def feed(self, data: bytes) -> None:
        """Read the next bytes of the stream."""
        if self.refused:
            return
        for lines in self._lines.feed(data):
            for line in lines:
                self._handle_line(line)
            if self.refused:
                return

    def _finish(self) -> bool:
        """Read the last line.  Return whether the stream is of this format."""
        if not self.refused:
            for line in self._lines.finish():
                self._handle_line(line)
        return self._is_recognized or self._forced

    def _handle_line(self, line: str) -> None:
        if self.refused or not line.strip():
            return
        event = parse_json_object(line.strip())
        if event is not None and self._handle_event(event):
            self._is_recognized = True
        else:
            # Other programs may print between the events, but not before the first.
            self.refused = not (self._is_recognized or self._forced)

    def _handle_event(self, event: Dict[str, Any]) -> bool:
        """Interpret a JSON object.  Return False if it is not an event of the format."""
        raise NotImplementedError

    def _add_problem(self, message: str) -> None:
        """Record a problem; the first one counts."""
        self._problem = self._problem or message
