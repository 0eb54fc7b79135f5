"""Subunit version 2 on stdout.

Owns the layout of a packet (the "Version 2" section of subunit's README) and what
the events of a test add up to.  Knows nothing of who wrote them.

A packet is: signature 0xb3, flags (16 bits, the version in the upper four), its
whole length, the optional fields that the flags announce, and a CRC32.  Bytes
between packets are someone's output and are passed over; 0xb3 occurs there too,
inside of a UTF-8 character.

The stream is claimed by a sound packet among its first bytes, or by starting with
a signature: no text does.
"""

import re
import struct
import zlib
from typing import Dict, List, NamedTuple, Optional, Tuple, Union

from ..protocol.model import ERROR, FAILED, PASSED, SKIPPED, XFAILED, XPASSED, Case, Parsed
from .bounds import MAX_CASES, MAX_DETAILS, MAX_HELD, MAX_MESSAGE, Collector, clip

NAME = "subunit"

#: The signature and version 2, or a signature that the data end with.
_CANDIDATE = re.compile(rb"\xb3(?:[\x20-\x2f]|\Z)").search
#: A packet may be this long, by the format's own rule.
_MAX_PACKET = 4 * 1024 * 1024
#: The first packet must begin within so many bytes, else this is not subunit.
_CLAIM_WITHIN = 64 * 1024
#: After so many packets with a wrong checksum the rest is not looked at: each
#: may claim four MiB, so looking at all would not be linear.
_MAX_CORRUPT = 64
_SLICE = 64 * 1024

_TEST_ID, _ROUTE, _TIMESTAMP, _TAGS = 0x0800, 0x0400, 0x0200, 0x0080
_FILE, _MIME = 0x0040, 0x0020
_IN_PROGRESS = 2
_OUTCOMES = {3: PASSED, 4: XPASSED, 5: SKIPPED, 6: FAILED, 7: XFAILED}


class _Malformed(Exception):
    """The fields of a packet do not fit in it."""


class _Event(NamedTuple):
    """What one packet says."""

    test: str
    route: str
    status: int
    #: Nanoseconds since the epoch.
    time: Optional[int]
    file: str
    mime: str
    content: bytes


class _Test:
    """A test that has begun and not ended."""

    __slots__ = ("begun", "files", "held", "reason", "started")

    def __init__(self) -> None:
        self.begun = False
        self.started: Optional[int] = None
        #: (name, bytes) of the attachments that are text.
        self.files: List[Tuple[str, bytearray]] = []
        self.reason = bytearray()
        self.held = 0

    def attach(self, name: str, content: bytes) -> int:
        """Keep the beginning of the attachments; return how much."""
        if name == "reason":
            self.reason += content[: max(0, MAX_MESSAGE - len(self.reason))]
            return 0
        kept = content[: max(0, MAX_DETAILS - self.held)]
        if kept:
            if not self.files or self.files[-1][0] != name:
                self.files.append((name, bytearray()))
            self.files[-1][1].extend(kept)
            self.held += len(kept)
        return len(kept)

    def details(self) -> str:
        texts = [(name, _text(data).strip("\n")) for name, data in self.files]
        if len(texts) == 1:
            return texts[0][1]
        return "\n".join("%s:\n%s" % pair for pair in texts if pair[1])


class Reader:
    """Reads one stream of packets."""

    def __init__(self, forced: bool = False) -> None:
        self.refused = False
        self._claimed = False
        self._forced = forced
        self._kept = Collector()
        self._tests: Dict[Tuple[str, str], _Test] = {}
        self._problem = ""
        self._buffer = bytearray()
        #: No packet can be complete before the buffer holds this much.
        self._need = 1
        #: Bytes before the buffer, and the last of them.
        self._passed = 0
        self._before = 0
        self._corrupt = 0
        self._held = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        for start in range(0, len(data), _SLICE):
            if self.refused or self._corrupt > _MAX_CORRUPT:
                return
            self._buffer += data[start : start + _SLICE]
            if len(self._buffer) >= self._need:
                self._consume(False)

    def close(self) -> Optional[Parsed]:
        """The cases, or None if this is not subunit."""
        if not self.refused and self._corrupt <= _MAX_CORRUPT:
            self._consume(True)
        if not (self._claimed or self._forced):
            return None
        self._end_unfinished()
        if not self._claimed:
            self._trouble("no subunit packet in the output")
        return Parsed(NAME, self._kept.cases, self._problem or self._kept.problem)

    # -- packets -------------------------------------------------------------------------

    def _consume(self, at_end: bool) -> None:
        at = 0
        while not self.refused and self._corrupt <= _MAX_CORRUPT:
            found = _CANDIDATE(self._buffer, at)
            at = found.start() if found is not None else len(self._buffer)
            # A match that is alive would keep the buffer from shrinking.
            found = None
            if at == len(self._buffer):
                self._need = 1
                break
            used, self._need = self._packet_at(at, at_end)
            if not used:
                break
            at += used
        self._forget(at)

    def _forget(self, count: int) -> None:
        if count:
            self._before = self._buffer[count - 1]
            self._passed += count
            del self._buffer[:count]
        if not self._claimed and not self._forced and self._passed > _CLAIM_WITHIN:
            self.refused = True
            self._buffer.clear()

    def _packet_at(self, at: int, at_end: bool) -> Tuple[int, int]:
        """(bytes that are done with, or 0; bytes needed from there to go on)."""
        left = len(self._buffer) - at
        head = bytes(self._buffer[at : at + 7])
        length = _length_in(head)
        if length is None:
            # The header itself is not complete.
            if not at_end:
                return 0, len(head) + 1
            return (1, 1) if len(head) == 1 else self._damaged(at, "the last packet is cut short")
        if not 7 < length <= _MAX_PACKET:
            return self._damaged(at, "a packet with an impossible length")
        if left < length:
            if at_end:
                return self._damaged(at, "the last packet is cut short")
            return 0, length
        return self._complete(at, length)

    def _complete(self, at: int, length: int) -> Tuple[int, int]:
        packet = bytes(self._buffer[at : at + length])
        (checksum,) = struct.unpack(">I", packet[-4:])
        if zlib.crc32(packet[:-4]) != checksum:
            return self._damaged(at, "a packet with a wrong checksum")
        self._claimed = True
        try:
            self._take(_event(packet))
        except _Malformed:
            self._trouble("a packet whose fields do not fit in it")
        return length, 1

    def _damaged(self, at: int, why: str) -> Tuple[int, int]:
        """Not a packet after all: output, or one that was damaged."""
        before = self._buffer[at - 1] if at else self._before
        starts_stream = self._passed + at == 0
        # After the lead byte of a UTF-8 character 0xb3 is part of a text.
        if starts_stream or before < 0x80 or self._claimed:
            self._claimed = self._claimed or starts_stream
            if self._claimed and not 0xC2 <= before <= 0xF4:
                self._trouble(why)
        self._corrupt += 1
        if self._corrupt > _MAX_CORRUPT and self._claimed:
            self._trouble("too many corrupted packets")
        return 1, 1

    def _trouble(self, why: str) -> None:
        self._problem = self._problem or why

    # -- events --------------------------------------------------------------------------

    def _take(self, event: _Event) -> None:
        if not event.test:
            return
        key = (event.route, event.test)
        test = self._tests.get(key)
        if test is None:
            if len(self._tests) >= MAX_CASES:
                self._trouble("more than %d tests at once" % MAX_CASES)
                return
            test = self._tests[key] = _Test()
        self._attach(test, event)
        if event.status == _IN_PROGRESS:
            test.begun, test.started = True, event.time
        elif event.status in _OUTCOMES:
            del self._tests[key]
            self._end(test, event)

    def _attach(self, test: _Test, event: _Event) -> None:
        if not event.content or self._held > MAX_HELD:
            return
        if event.mime.startswith("text/") or event.mime in ("", "application/json"):
            self._held += test.attach(event.file, event.content)

    def _end(self, test: _Test, event: _Event) -> None:
        self._held -= test.held
        duration = None
        if test.started is not None and event.time is not None and event.time >= test.started:
            duration = (event.time - test.started) / 1e9
        message = _text(test.reason).strip()
        self._kept.add(
            Case(clip(event.test), _OUTCOMES[event.status], message, test.details(), duration)
        )

    def _end_unfinished(self) -> None:
        for (_route, name), test in self._tests.items():
            if test.begun:
                self._kept.add(Case(clip(name), ERROR, "the test did not end", test.details()))


def _length_in(head: bytes) -> Optional[int]:
    """The length that a packet's first bytes announce; None if they are too few."""
    if len(head) < 4:
        return None
    size = (head[3] >> 6) + 1
    if len(head) < 3 + size:
        return None
    return _number(head, 3)[0]


def _number(data: bytes, at: int) -> Tuple[int, int]:
    """A number of variable length and where it ends: the top two bits say how long."""
    if at >= len(data):
        raise _Malformed()
    end = at + (data[at] >> 6) + 1
    if end > len(data):
        raise _Malformed()
    value = int.from_bytes(data[at:end], "big")
    return value & ((1 << (8 * (end - at) - 2)) - 1), end


def _bytes(data: bytes, at: int) -> Tuple[bytes, int]:
    length, at = _number(data, at)
    if at + length > len(data):
        raise _Malformed()
    return data[at : at + length], at + length


def _event(packet: bytes) -> _Event:
    """The fields of a sound packet, in the order in which they stand."""
    (flags,) = struct.unpack(">H", packet[1:3])
    body = packet[:-4]
    _, at = _number(body, 3)
    time: Optional[int] = None
    if flags & _TIMESTAMP:
        if at + 4 > len(body):
            raise _Malformed()
        (whole,) = struct.unpack(">I", body[at : at + 4])
        nanos, at = _number(body, at + 4)
        time = whole * 10**9 + nanos
    test, at = _bytes(body, at) if flags & _TEST_ID else (b"", at)
    if flags & _TAGS:
        at = _after_tags(body, at)
    mime, at = _bytes(body, at) if flags & _MIME else (b"", at)
    file, at = _bytes(body, at) if flags & _FILE else (b"", at)
    content, at = _bytes(body, at) if flags & _FILE else (b"", at)
    route, at = _bytes(body, at) if flags & _ROUTE else (b"", at)
    if at != len(body):
        raise _Malformed()
    return _Event(
        _text(test), _text(route), flags & 7, time, _text(file), _text(mime).lower(), content
    )


def _after_tags(body: bytes, at: int) -> int:
    count, at = _number(body, at)
    for _ in range(count):
        _, at = _bytes(body, at)
    return at


def _text(data: Union[bytes, bytearray]) -> str:
    return data.decode("utf-8", "replace")
