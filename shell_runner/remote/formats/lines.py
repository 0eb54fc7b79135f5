"""From bytes in any chunks to lines of bounded length, and to JSON objects.

Owns where a line ends, how it is decoded, and when a stream is one of events at all.
Knows no format.
"""

import json
from typing import Any, Dict, Iterator, List, Optional

from .bounds import MAX_LINE, Collector

#: A line of JSON holds the whole output of a test, so more of it is kept.
MAX_JSON_LINE = 256 * 1024


class Lines:
    """Splits a stream at newlines; CRLF and a lone CR end a line too (TAP 14).

    What is kept of a line depends on its bytes alone, never on the chunks.
    """

    __slots__ = ("_begun", "_limit")

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._begun = bytearray()

    def feed(self, data: bytes) -> Iterator[List[str]]:
        """Yield the lines that the data complete, many at a time."""
        # No slice is longer than the limit, so only the line that was begun
        # before a slice can be too long.
        for start in range(0, len(data), self._limit):
            piece = data[start : start + self._limit]
            head, newline, rest = piece.partition(b"\n")
            self._extend(head)
            if newline:
                yield self._completed(rest)

    def end(self) -> List[str]:
        """The last line, if the stream did not end with a newline."""
        last, self._begun = self._begun, bytearray()
        return _split(bytes(last)) if last else []

    def _extend(self, head: bytes) -> None:
        room = self._limit - len(self._begun)
        if room > 0:
            self._begun += head[:room]

    def _completed(self, rest: bytes) -> List[str]:
        whole, _, begun = rest.rpartition(b"\n")
        # rpartition tells "no newline" and "newline first" apart by what it
        # leaves: in both cases nothing stands before, but only one has a line.
        has_more = len(begun) < len(rest)
        lines = bytes(self._begun) + b"\n" + whole if has_more else bytes(self._begun)
        self._begun = bytearray(begun)
        return _split(lines)


def _split(block: bytes) -> List[str]:
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


def json_object(line: str) -> Optional[Dict[str, Any]]:
    """The JSON object that is all of the line, or None.

    A line that was cut while a string was open is mended, so that a test whose
    output is too long is still a test.
    """
    if not line.startswith("{"):
        return None
    found = _decoded(line)
    if found is None and len(line) > MAX_JSON_LINE // 4:
        # The cut may stand inside an escape, the longest being 12 characters.
        for less in range(13):
            found = _decoded(line[: len(line) - less] + '"}')
            if found is not None:
                break
    return found


def _decoded(text: str) -> Optional[Dict[str, Any]]:
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def text_of(event: Dict[str, Any], key: str) -> str:
    """The event's string of that name, or "" when it has none."""
    value = event.get(key)
    if not isinstance(value, str):
        return ""
    # JSON can escape half of a surrogate pair, which nothing can encode.
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def count_of(event: Dict[str, Any], key: str) -> Optional[int]:
    """The event's whole number of that name, or None."""
    value = event.get(key)
    if not isinstance(value, float) or not value.is_integer() or abs(value) > 1e15:
        return None
    return int(value)


class EventReader:
    """Reads one stream of JSON objects, one a line; the format says what they mean."""

    def __init__(self, forced: bool = False) -> None:
        self.refused = False
        self._claimed = False
        self._forced = forced
        self._lines = Lines(MAX_JSON_LINE)
        self._kept = Collector()
        self._problem = ""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self.refused:
            return
        for lines in self._lines.feed(data):
            for line in lines:
                self._line(line)
            if self.refused:
                return

    def _end(self) -> bool:
        """Take what is left; whether the stream was of this format."""
        if not self.refused:
            for line in self._lines.end():
                self._line(line)
        return self._claimed or self._forced

    def _line(self, line: str) -> None:
        if self.refused or not line.strip():
            return
        event = json_object(line.strip())
        if event is not None and self._take(event):
            self._claimed = True
        else:
            # Others may print between the events, but not before the first.
            self.refused = not (self._claimed or self._forced)

    def _take(self, event: Dict[str, Any]) -> bool:
        """What the format makes of an object; False: it is not one of its events."""
        raise NotImplementedError

    def _trouble(self, why: str) -> None:
        self._problem = self._problem or why
