"""Subunit version 2 on stdout.

Parses packets (the "Version 2" section of subunit's README) and turns the events of a test into a
case.  This module must not know which program wrote them.

A packet is: signature 0xb3, flags (16 bits, the version in the upper four), the packet's length,
the optional fields that the flags announce, and a CRC32.  Bytes between packets are other output
and are passed over; 0xb3 occurs there too, inside of a UTF-8 character.

A stream is subunit if a valid packet begins within its first bytes, or if it starts with a
signature: no text does.
"""

import re
import struct
import zlib
from typing import Dict, List, NamedTuple, Optional, Tuple, Union

from ..protocol.model import ERROR, FAILED, PASSED, SKIPPED, XFAILED, XPASSED, Case, ParsedOutput
from .bounds import (
    MAX_CASES,
    MAX_DETAILS_CHARS,
    MAX_MESSAGE_CHARS,
    MAX_PENDING_CHARS,
    CaseCollector,
    truncate,
)

NAME = "subunit"

#: Finds the signature and version 2, or a signature that the data end with.
_find_signature = re.compile(rb"\xb3(?:[\x20-\x2f]|\Z)").search
#: Maximum bytes of a packet, by the format's own rule.
_MAX_PACKET_BYTES = 4 * 1024 * 1024
#: The first packet must begin within this many bytes, else the stream is not subunit.
_MAX_PREFIX_BYTES = 64 * 1024
#: After this many packets with a wrong checksum the rest is not read: each may announce
#: four MiB, so reading all would not take linear time.
_MAX_CORRUPT = 64
_CHUNK_SIZE = 64 * 1024

_TEST_ID, _ROUTE, _TIMESTAMP, _TAGS = 0x0800, 0x0400, 0x0200, 0x0080
_FILE, _MIME = 0x0040, 0x0020
_IN_PROGRESS = 2
_OUTCOMES = {3: PASSED, 4: XPASSED, 5: SKIPPED, 6: FAILED, 7: XFAILED}


class _MalformedPacket(Exception):
    """The fields of a packet do not fit in it."""


class _Event(NamedTuple):
    """The contents of one packet."""

    test: str
    route: str
    status: int
    #: Nanoseconds since the epoch, or None.
    time_ns: Optional[int]
    file: str
    mime: str
    content: bytes


class _Test:
    """A test that is running, or that has sent attachments."""

    __slots__ = ("files", "has_begun", "held_bytes", "reason", "started_ns")

    def __init__(self) -> None:
        self.has_begun = False
        self.started_ns: Optional[int] = None
        #: (name, bytes) of the attachments that are text.
        self.files: List[Tuple[str, bytearray]] = []
        self.reason = bytearray()
        self.held_bytes = 0

    def attach(self, name: str, content: bytes) -> int:
        """Keep the beginning of an attachment.  Return the number of bytes kept."""
        if name == "reason":
            self.reason += content[: max(0, MAX_MESSAGE_CHARS - len(self.reason))]
            return 0
        kept = content[: max(0, MAX_DETAILS_CHARS - self.held_bytes)]
        if kept:
            if not self.files or self.files[-1][0] != name:
                self.files.append((name, bytearray()))
            self.files[-1][1].extend(kept)
            self.held_bytes += len(kept)
        return len(kept)

    def details(self) -> str:
        """Return the attachments as one text, each with its name if there are several."""
        texts = [(name, _decode_text(data).strip("\n")) for name, data in self.files]
        if len(texts) == 1:
            return texts[0][1]
        return "\n".join("%s:\n%s" % pair for pair in texts if pair[1])


class Reader:
    """Reads one subunit stream."""

    def __init__(self, forced: bool = False) -> None:
        self.refused = False
        self._is_recognized = False
        self._forced = forced
        self._collector = CaseCollector()
        self._tests: Dict[Tuple[str, str], _Test] = {}
        self._problem = ""
        self._buffer = bytearray()
        #: No packet can be complete before the buffer holds this many bytes.
        self._needed_bytes = 1
        #: Number of bytes discarded from the buffer, and the last of them.
        self._discarded_bytes = 0
        self._last_discarded_byte = 0
        self._corrupt_count = 0
        self._held_bytes = 0

    def feed(self, data: bytes) -> None:
        """Read the next bytes of the stream."""
        for start in range(0, len(data), _CHUNK_SIZE):
            if self.refused or self._corrupt_count > _MAX_CORRUPT:
                return
            self._buffer += data[start : start + _CHUNK_SIZE]
            if len(self._buffer) >= self._needed_bytes:
                self._consume(False)

    def close(self) -> Optional[ParsedOutput]:
        """Return the cases, or None if the stream is not subunit."""
        if not self.refused and self._corrupt_count <= _MAX_CORRUPT:
            self._consume(True)
        if not (self._is_recognized or self._forced):
            return None
        self._end_unfinished()
        if not self._is_recognized:
            self._add_problem("no subunit packet in the output")
        return ParsedOutput(NAME, self._collector.cases, self._problem or self._collector.problem)

    # -- packets -------------------------------------------------------------------------

    def _consume(self, at_end: bool) -> None:
        at = 0
        while not self.refused and self._corrupt_count <= _MAX_CORRUPT:
            match = _find_signature(self._buffer, at)
            at = match.start() if match is not None else len(self._buffer)
            # A live match would keep the buffer from shrinking.
            match = None
            if at == len(self._buffer):
                self._needed_bytes = 1
                break
            used, self._needed_bytes = self._read_packet(at, at_end)
            if not used:
                break
            at += used
        self._discard(at)

    def _discard(self, count: int) -> None:
        if count:
            self._last_discarded_byte = self._buffer[count - 1]
            self._discarded_bytes += count
            del self._buffer[:count]
        if (
            not self._is_recognized
            and not self._forced
            and self._discarded_bytes > _MAX_PREFIX_BYTES
        ):
            self.refused = True
            self._buffer.clear()

    def _read_packet(self, at: int, at_end: bool) -> Tuple[int, int]:
        """Read a packet at ``at``.  Return the bytes consumed (0: none) and those needed next."""
        left = len(self._buffer) - at
        head = bytes(self._buffer[at : at + 7])
        length = _read_length(head)
        if length is None:
            # The header itself is not complete.
            if not at_end:
                return 0, len(head) + 1
            return (
                (1, 1)
                if len(head) == 1
                else self._skip_damaged_byte(at, "the last packet is cut short")
            )
        if not 7 < length <= _MAX_PACKET_BYTES:
            return self._skip_damaged_byte(at, "a packet with an impossible length")
        if left < length:
            if at_end:
                return self._skip_damaged_byte(at, "the last packet is cut short")
            return 0, length
        return self._handle_packet(at, length)

    def _handle_packet(self, at: int, length: int) -> Tuple[int, int]:
        packet = bytes(self._buffer[at : at + length])
        (checksum,) = struct.unpack(">I", packet[-4:])
        if zlib.crc32(packet[:-4]) != checksum:
            return self._skip_damaged_byte(at, "a packet with a wrong checksum")
        self._is_recognized = True
        try:
            self._handle_event(_parse_packet(packet))
        except _MalformedPacket:
            self._add_problem("a packet whose fields do not fit in it")
        return length, 1

    def _skip_damaged_byte(self, at: int, message: str) -> Tuple[int, int]:
        """Skip a byte that begins no valid packet: other output, or a damaged packet."""
        before = self._buffer[at - 1] if at else self._last_discarded_byte
        starts_stream = self._discarded_bytes + at == 0
        # After the lead byte of a UTF-8 character 0xb3 is part of a text.
        if starts_stream or before < 0x80 or self._is_recognized:
            self._is_recognized = self._is_recognized or starts_stream
            if self._is_recognized and not 0xC2 <= before <= 0xF4:
                self._add_problem(message)
        self._corrupt_count += 1
        if self._corrupt_count > _MAX_CORRUPT and self._is_recognized:
            self._add_problem("too many corrupted packets")
        return 1, 1

    def _add_problem(self, why: str) -> None:
        self._problem = self._problem or why

    # -- events --------------------------------------------------------------------------

    def _handle_event(self, event: _Event) -> None:
        if not event.test:
            return
        key = (event.route, event.test)
        test = self._tests.get(key)
        if test is None:
            if len(self._tests) >= MAX_CASES:
                self._add_problem("more than %d tests at once" % MAX_CASES)
                return
            test = self._tests[key] = _Test()
        self._add_attachment(test, event)
        if event.status == _IN_PROGRESS:
            test.has_begun, test.started_ns = True, event.time_ns
        elif event.status in _OUTCOMES:
            del self._tests[key]
            self._end(test, event)

    def _add_attachment(self, test: _Test, event: _Event) -> None:
        if not event.content or self._held_bytes > MAX_PENDING_CHARS:
            return
        if event.mime.startswith("text/") or event.mime in ("", "application/json"):
            self._held_bytes += test.attach(event.file, event.content)

    def _end(self, test: _Test, event: _Event) -> None:
        self._held_bytes -= test.held_bytes
        duration = None
        if (
            test.started_ns is not None
            and event.time_ns is not None
            and event.time_ns >= test.started_ns
        ):
            duration = (event.time_ns - test.started_ns) / 1e9
        message = _decode_text(test.reason).strip()
        self._collector.add(
            Case(truncate(event.test), _OUTCOMES[event.status], message, test.details(), duration)
        )

    def _end_unfinished(self) -> None:
        for (_route, name), test in self._tests.items():
            if test.has_begun:
                self._collector.add(
                    Case(truncate(name), ERROR, "the test did not end", test.details())
                )


def _read_length(head: bytes) -> Optional[int]:
    """Return the length that a packet's first bytes announce; None if they are too few."""
    if len(head) < 4:
        return None
    size = (head[3] >> 6) + 1
    if len(head) < 3 + size:
        return None
    return _read_number(head, 3)[0]


def _read_number(data: bytes, at: int) -> Tuple[int, int]:
    """Read a number of variable length (the top two bits).  Return it and its end."""
    if at >= len(data):
        raise _MalformedPacket()
    end = at + (data[at] >> 6) + 1
    if end > len(data):
        raise _MalformedPacket()
    value = int.from_bytes(data[at:end], "big")
    return value & ((1 << (8 * (end - at) - 2)) - 1), end


def _read_bytes(data: bytes, at: int) -> Tuple[bytes, int]:
    length, at = _read_number(data, at)
    if at + length > len(data):
        raise _MalformedPacket()
    return data[at : at + length], at + length


def _parse_packet(packet: bytes) -> _Event:
    """Parse a packet with a valid checksum.  Raises _MalformedPacket if its fields do not fit."""
    (flags,) = struct.unpack(">H", packet[1:3])
    body = packet[:-4]
    _, at = _read_number(body, 3)
    time_ns: Optional[int] = None
    if flags & _TIMESTAMP:
        if at + 4 > len(body):
            raise _MalformedPacket()
        (seconds,) = struct.unpack(">I", body[at : at + 4])
        nanos, at = _read_number(body, at + 4)
        time_ns = seconds * 10**9 + nanos
    test, at = _read_bytes(body, at) if flags & _TEST_ID else (b"", at)
    if flags & _TAGS:
        at = _skip_tags(body, at)
    mime, at = _read_bytes(body, at) if flags & _MIME else (b"", at)
    file, at = _read_bytes(body, at) if flags & _FILE else (b"", at)
    content, at = _read_bytes(body, at) if flags & _FILE else (b"", at)
    route, at = _read_bytes(body, at) if flags & _ROUTE else (b"", at)
    if at != len(body):
        raise _MalformedPacket()
    return _Event(
        _decode_text(test),
        _decode_text(route),
        flags & 7,
        time_ns,
        _decode_text(file),
        _decode_text(mime).lower(),
        content,
    )


def _skip_tags(body: bytes, at: int) -> int:
    count, at = _read_number(body, at)
    for _ in range(count):
        _, at = _read_bytes(body, at)
    return at


def _decode_text(data: Union[bytes, bytearray]) -> str:
    return data.decode("utf-8", "replace")
