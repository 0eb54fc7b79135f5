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
LIMIT = 16 << 20
#: The one channel of a connection: that of our remote_exec.
_CHANNEL = 1
_HEADER = struct.Struct("!bii")
_LENGTH = struct.Struct("!i")
#: Codes of frames.
_TERMINATE, _DATA, _CLOSE, _CLOSE_ERROR, _LAST = 2, 4, 5, 6, 7
#: Those without a payload, and their channel.
_EMPTY = {_TERMINATE: 0, _CLOSE: _CHANNEL, _LAST: _CHANNEL}
_NAMES = {0: "STATUS", 1: "RECONFIGURE", 3: "CHANNEL_EXEC"}
#: execnet's serialization of ``bytes``: opcode, length, the bytes, end.
_BYTES, _TEXT, _STOP = b"A", b"N", b"Q"
_PREFIX = 5
#: Characters of a remote traceback that a person gets to see.
_WORDS = 4000
#: Bytes of an error's payload.
_ERROR = 1 << 20


class Hostile(ValueError):
    """A host sent what no sound host sends."""


class Guard:
    """Passes on what is allowed of one connection's bytes."""

    def __init__(self, limit: int = LIMIT) -> None:
        """``limit``: bytes of one message."""
        self._limit = limit
        self._held = bytearray()
        #: Bytes of a payload that are still to come, its end mark not among them.
        self._left = 0
        self._in_payload = False
        self._started = False
        self._over = False
        #: Last line of the error that the host has told of; for who asks first.
        self.error = ""

    def feed(self, data: bytes) -> bytes:
        """The bytes that may go on to execnet; raises Hostile."""
        if self._over:
            return b""
        self._held += data
        return b"".join(self._take())

    def _take(self) -> Iterator[bytes]:
        if not self._started:
            if not self._held:
                return
            yield self._take_first()
        while self._held and not self._over:
            part = self._payload() if self._in_payload else self._frame()
            if not part:
                return
            yield part

    def _take_first(self) -> bytes:
        """execnet's bootstrap answers with one byte."""
        if self._held[:1] != b"1":
            text = strip_control_chars(bytes(self._held[:200]).decode("utf-8", "replace")).strip()
            raise Hostile(
                f"printed {text!r} before Python started: does its login shell print something?"
            )
        self._started = True
        del self._held[:1]
        return b"1"

    def _frame(self) -> bytes:
        """The beginning of a frame; empty if it has not come yet."""
        if len(self._held) < _HEADER.size:
            return b""
        code, channel, length = _HEADER.unpack_from(self._held)
        if code in _EMPTY:
            return self._empty(code, channel, length)
        if code not in (_DATA, _CLOSE_ERROR):
            raise Hostile(f"sent a frame that no host may send: {_NAMES.get(code, code)}")
        if channel != _CHANNEL:
            raise Hostile(f"sent a frame for channel {channel}, which is not open")
        return self._data(length) if code == _DATA else self._error(length)

    def _empty(self, code: int, channel: int, length: int) -> bytes:
        if length or channel != _EMPTY[code]:
            raise Hostile(f"sent a malformed frame: code {code}, channel {channel}, {length} bytes")
        self._over = code == _TERMINATE
        return self._cut(_HEADER.size)

    def _data(self, length: int) -> bytes:
        """Only ``bytes``: execnet builds no other value from what a host says."""
        if not 0 <= length - _PREFIX - 1 <= self._limit:
            raise Hostile(f"sent a message of {length} bytes; at most {self._limit} are allowed")
        start = _HEADER.size
        if len(self._held) < start + _PREFIX:
            return b""
        (size,) = _LENGTH.unpack_from(self._held, start + 1)
        if self._held[start : start + 1] != _BYTES or size != length - _PREFIX - 1:
            raise Hostile("sent a message that is not one string of bytes")
        self._in_payload, self._left = True, size
        return self._cut(start + _PREFIX)

    def _payload(self) -> bytes:
        if self._left:
            part = self._cut(min(self._left, len(self._held)))
            self._left -= len(part)
            return part
        if self._held[:1] != _STOP:
            raise Hostile("sent a message that goes on behind its end")
        self._in_payload = False
        return self._cut(1)

    def _error(self, length: int) -> bytes:
        """The text of an exception on the host, made harmless and packed anew."""
        if not 0 <= length <= _ERROR:
            raise Hostile(f"sent an error text of {length} bytes")
        whole = _HEADER.size + length
        if len(self._held) < whole:
            return b""
        payload = self._cut(whole)[_HEADER.size :]
        if payload[:1] != _TEXT or payload[-1:] != _STOP:
            raise Hostile("sent an error that is no text")
        text = strip_control_chars(payload[_PREFIX:-1].decode("utf-8", "replace"))
        self.error = " ".join(text.strip()[-_WORDS:].splitlines()[-1:])
        said = text[-_WORDS:].encode("utf-8", "replace")
        body = _TEXT + _LENGTH.pack(len(said)) + said + _STOP
        return _HEADER.pack(_CLOSE_ERROR, _CHANNEL, len(body)) + body

    def _cut(self, count: int) -> bytes:
        part = bytes(self._held[:count])
        del self._held[:count]
        return part
