"""The frame guard, which filters what a host sends to the controller's execnet.

Pure: bytes in, bytes out, no I/O.  execnet trusts its peer: a serialized list of six bytes makes it
allocate a gigabyte, it obeys RECONFIGURE, and a malformed message ends its receiver thread.  The
guard passes only the frames that a correct host sends on the one channel; anything else ends the
connection.  The contents of our own messages are checked where they are read.

Frames are those of execnet 2.x (``gateway_base.Message``): code, channel and length as ``!bii``,
then the payload.  Large payloads stream through; only the first bytes of a frame are held back
until they have been checked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ..text import strip_control_chars

#: Default maximum number of bytes of one payload.
MAX_PAYLOAD_BYTES = 16 << 20
#: The number of the only channel, which ``remote_exec`` opened.
_CHANNEL = 1
_HEADER = struct.Struct("!bii")
_LENGTH = struct.Struct("!i")
#: Codes of allowed frames.
_TERMINATE, _DATA, _CLOSE, _CLOSE_ERROR, _LAST_MESSAGE = 2, 4, 5, 6, 7
#: Frames without payload, and the channel of each.
_EMPTY_FRAME_CHANNELS = {_TERMINATE: 0, _CLOSE: _CHANNEL, _LAST_MESSAGE: _CHANNEL}
_FORBIDDEN_FRAME_NAMES = {0: "STATUS", 1: "RECONFIGURE", 3: "CHANNEL_EXEC"}
#: execnet's serialization of ``bytes``: opcode, length, the bytes, end.
_BYTES_OPCODE, _TEXT_OPCODE, _STOP_OPCODE = b"A", b"N", b"Q"
_VALUE_PREFIX_SIZE = 5
#: Characters of a remote traceback that are shown.
_MAX_ERROR_CHARS = 4000
#: Maximum number of bytes of the payload of an error.
_MAX_ERROR_BYTES = 1 << 20

#: The line of the proxy's error file that says that the guard ended the connection.
VIOLATION_LINE = "nosejobs-hostile\n"


class ProtocolViolation(ValueError):
    """A host sent what a correct host never sends."""


class FrameGuard:
    """A filter for the bytes of one connection."""

    def __init__(self, limit: int = MAX_PAYLOAD_BYTES) -> None:
        """``limit``: maximum number of bytes of one message."""
        self._limit = limit
        self._buffer = bytearray()
        #: Bytes of the payload that have not arrived, without its end mark.
        self._payload_left = 0
        self._in_payload = False
        self._has_started = False
        self._has_ended = False
        #: The last line of the error that the host reported; the reader resets it.
        self.error = ""

    def feed(self, data: bytes) -> bytes:
        """Return the bytes that may go on to execnet; raise :exc:`ProtocolViolation` for others."""
        if self._has_ended:
            return b""
        self._buffer += data
        return b"".join(self._pass_frames())

    def _pass_frames(self) -> Iterator[bytes]:
        if not self._has_started:
            if not self._buffer:
                return
            yield self._pass_start_byte()
        while self._buffer and not self._has_ended:
            part = self._pass_payload() if self._in_payload else self._pass_frame_start()
            if not part:
                return
            yield part

    def _pass_start_byte(self) -> bytes:
        """Pass the byte with which execnet's bootstrap answers."""
        if self._buffer[:1] != b"1":
            text = strip_control_chars(bytes(self._buffer[:200]).decode("utf-8", "replace")).strip()
            raise ProtocolViolation(
                f"printed {text!r} before Python started: does its login shell print something?"
            )
        self._has_started = True
        del self._buffer[:1]
        return b"1"

    def _pass_frame_start(self) -> bytes:
        """Return the start of a frame; empty if it has not arrived yet."""
        if len(self._buffer) < _HEADER.size:
            return b""
        code, channel, length = _HEADER.unpack_from(self._buffer)
        if code in _EMPTY_FRAME_CHANNELS:
            return self._pass_empty_frame(code, channel, length)
        if code not in (_DATA, _CLOSE_ERROR):
            raise ProtocolViolation(
                f"sent a forbidden frame: {_FORBIDDEN_FRAME_NAMES.get(code, code)}"
            )
        if channel != _CHANNEL:
            raise ProtocolViolation(f"sent a frame for channel {channel}, which is not open")
        return self._pass_data_start(length) if code == _DATA else self._pass_error(length)

    def _pass_empty_frame(self, code: int, channel: int, length: int) -> bytes:
        if length or channel != _EMPTY_FRAME_CHANNELS[code]:
            raise ProtocolViolation(
                f"sent a malformed frame: code {code}, channel {channel}, {length} bytes"
            )
        self._has_ended = code == _TERMINATE
        return self._take_bytes(_HEADER.size)

    def _pass_data_start(self, length: int) -> bytes:
        """Pass the start of a message that is ``bytes``, the only type that is allowed."""
        if not 0 <= length - _VALUE_PREFIX_SIZE - 1 <= self._limit:
            raise ProtocolViolation(
                f"sent a message of {length} bytes; at most {self._limit} are allowed"
            )
        start = _HEADER.size
        if len(self._buffer) < start + _VALUE_PREFIX_SIZE:
            return b""
        (size,) = _LENGTH.unpack_from(self._buffer, start + 1)
        if (
            self._buffer[start : start + 1] != _BYTES_OPCODE
            or size != length - _VALUE_PREFIX_SIZE - 1
        ):
            raise ProtocolViolation("sent a message that is not a byte string")
        self._in_payload, self._payload_left = True, size
        return self._take_bytes(start + _VALUE_PREFIX_SIZE)

    def _pass_payload(self) -> bytes:
        if self._payload_left:
            part = self._take_bytes(min(self._payload_left, len(self._buffer)))
            self._payload_left -= len(part)
            return part
        if self._buffer[:1] != _STOP_OPCODE:
            raise ProtocolViolation("sent a message without an end mark")
        self._in_payload = False
        return self._take_bytes(1)

    def _pass_error(self, length: int) -> bytes:
        """Pass the text of an exception on the host, without control characters."""
        if not 0 <= length <= _MAX_ERROR_BYTES:
            raise ProtocolViolation(f"sent an error text of {length} bytes")
        size = _HEADER.size + length
        if len(self._buffer) < size:
            return b""
        payload = self._take_bytes(size)[_HEADER.size :]
        if payload[:1] != _TEXT_OPCODE or payload[-1:] != _STOP_OPCODE:
            raise ProtocolViolation("sent an error that is not text")
        text = strip_control_chars(payload[_VALUE_PREFIX_SIZE:-1].decode("utf-8", "replace"))
        self.error = " ".join(text.strip()[-_MAX_ERROR_CHARS:].splitlines()[-1:])
        shown = text[-_MAX_ERROR_CHARS:].encode("utf-8", "replace")
        body = _TEXT_OPCODE + _LENGTH.pack(len(shown)) + shown + _STOP_OPCODE
        return _HEADER.pack(_CLOSE_ERROR, _CHANNEL, len(body)) + body

    def _take_bytes(self, count: int) -> bytes:
        part = bytes(self._buffer[:count])
        del self._buffer[:count]
        return part
