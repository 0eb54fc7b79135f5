"""What a host may send to a controller's execnet: the frame guard.

Pure: bytes in, bytes out, no I/O.  execnet trusts its peer: a list of six bytes costs
it a gigabyte, RECONFIGURE is obeyed, an odd message kills the thread that receives.
So only those of its frames pass that a sound host sends, on our one channel; whatever
else comes ends that host.  What our own messages say is checked where they are read.

Frames are execnet's (2.x, ``gateway_base.Message``): a code, a channel and a length,
``!bii``, then the payload.  Large payloads stream through; only a frame's first bytes
are held back until they have been looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ..text import strip_control_chars

#: Bytes of one payload, if nothing else is said.
MAX_PAYLOAD_BYTES = 16 << 20
#: The one channel of a connection: that of our remote_exec.
_CHANNEL = 1
_HEADER = struct.Struct("!bii")
_LENGTH = struct.Struct("!i")
#: Codes of frames.
_TERMINATE, _DATA, _CLOSE, _CLOSE_ERROR, _LAST_MESSAGE = 2, 4, 5, 6, 7
#: Those without a payload, and their channel.
_EMPTY_FRAME_CHANNELS = {_TERMINATE: 0, _CLOSE: _CHANNEL, _LAST_MESSAGE: _CHANNEL}
_FORBIDDEN_FRAME_NAMES = {0: "STATUS", 1: "RECONFIGURE", 3: "CHANNEL_EXEC"}
#: execnet's serialization of ``bytes``: opcode, length, the bytes, end.
_BYTES_OPCODE, _TEXT_OPCODE, _STOP_OPCODE = b"A", b"N", b"Q"
_VALUE_PREFIX_SIZE = 5
#: Characters of a remote traceback that a person gets to see.
_MAX_ERROR_CHARS = 4000
#: Bytes of an error's payload.
_MAX_ERROR_BYTES = 1 << 20


class ProtocolViolation(ValueError):
    """A host sent what no sound host sends."""


class FrameGuard:
    """Passes on what is allowed of one connection's bytes."""

    def __init__(self, limit: int = MAX_PAYLOAD_BYTES) -> None:
        """``limit``: bytes of one message."""
        self._limit = limit
        self._buffer = bytearray()
        #: Bytes of a payload that are still to come, its end mark not among them.
        self._payload_left = 0
        self._in_payload = False
        self._has_started = False
        self._has_ended = False
        #: Last line of the error that the host has told of; for who asks first.
        self.error = ""

    def feed(self, data: bytes) -> bytes:
        """The bytes that may go on to execnet; raises ProtocolViolation."""
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
        """execnet's bootstrap answers with one byte."""
        if self._buffer[:1] != b"1":
            text = strip_control_chars(bytes(self._buffer[:200]).decode("utf-8", "replace")).strip()
            raise ProtocolViolation(
                f"printed {text!r} before Python started: does its login shell print something?"
            )
        self._has_started = True
        del self._buffer[:1]
        return b"1"

    def _pass_frame_start(self) -> bytes:
        """The beginning of a frame; empty if it has not come yet."""
        if len(self._buffer) < _HEADER.size:
            return b""
        code, channel, length = _HEADER.unpack_from(self._buffer)
        if code in _EMPTY_FRAME_CHANNELS:
            return self._pass_empty_frame(code, channel, length)
        if code not in (_DATA, _CLOSE_ERROR):
            raise ProtocolViolation(
                f"sent a frame that no host may send: {_FORBIDDEN_FRAME_NAMES.get(code, code)}"
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
        """Only ``bytes``: execnet builds no other value from what a host says."""
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
            raise ProtocolViolation("sent a message that is not one string of bytes")
        self._in_payload, self._payload_left = True, size
        return self._take_bytes(start + _VALUE_PREFIX_SIZE)

    def _pass_payload(self) -> bytes:
        if self._payload_left:
            part = self._take_bytes(min(self._payload_left, len(self._buffer)))
            self._payload_left -= len(part)
            return part
        if self._buffer[:1] != _STOP_OPCODE:
            raise ProtocolViolation("sent a message that goes on behind its end")
        self._in_payload = False
        return self._take_bytes(1)

    def _pass_error(self, length: int) -> bytes:
        """The text of an exception on the host, made harmless and packed anew."""
        if not 0 <= length <= _MAX_ERROR_BYTES:
            raise ProtocolViolation(f"sent an error text of {length} bytes")
        whole = _HEADER.size + length
        if len(self._buffer) < whole:
            return b""
        payload = self._take_bytes(whole)[_HEADER.size :]
        if payload[:1] != _TEXT_OPCODE or payload[-1:] != _STOP_OPCODE:
            raise ProtocolViolation("sent an error that is no text")
        text = strip_control_chars(payload[_VALUE_PREFIX_SIZE:-1].decode("utf-8", "replace"))
        self.error = " ".join(text.strip()[-_MAX_ERROR_CHARS:].splitlines()[-1:])
        said = text[-_MAX_ERROR_CHARS:].encode("utf-8", "replace")
        body = _TEXT_OPCODE + _LENGTH.pack(len(said)) + said + _STOP_OPCODE
        return _HEADER.pack(_CLOSE_ERROR, _CHANNEL, len(body)) + body

    def _take_bytes(self, count: int) -> bytes:
        part = bytes(self._buffer[:count])
        del self._buffer[:count]
        return part
