"""Frames: the bytes of messages between controller and host, and between host and slot.

This module must not know what a message means, nor what transports it.

On the channel a frame is one ``bytes``: ``J`` and a JSON array of messages, or ``B``, the length
of a JSON header, the header and raw bytes (file contents).  On a slot's socket a frame is its
length and a JSON message.  The encoding is JSON, not pickle or marshal, because a host is not
trusted: decoding must be safe for any input.
"""

import json
import struct
from typing import Any, Iterator, List, Tuple, Union

#: A list that begins with the message's name.
Message = List[Any]
#: A JSON header and raw bytes.
Blob = Tuple[Any, bytes]

_LENGTH = struct.Struct(">I")
#: Bytes that a host may send before the controller gives more credit.
CREDIT_BYTES = 1 << 23
#: Maximum number of values in one frame; a hundred thousand cases have a third of that.
_MAX_FRAME_VALUES = 3_000_000


def pack_messages(messages: List[Message]) -> bytes:
    """Return a frame of several messages."""
    return b"J" + json.dumps(messages, separators=(",", ":")).encode("ascii")


def encode_json(value: Any) -> bytes:
    """Return a value as compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def pack_encoded_messages(messages: List[bytes]) -> bytes:
    """Return a frame of messages that are JSON already."""
    return b"J[" + b",".join(messages) + b"]"


def pack_blob(header: Any, body: bytes) -> bytes:
    """Return a frame of a JSON header and raw bytes."""
    head = json.dumps(header, separators=(",", ":")).encode("ascii")
    return b"B" + _LENGTH.pack(len(head)) + head + body


def unpack_frame(frame: bytes) -> Union[List[Message], Blob]:
    """Return the messages of a ``J`` frame, or header and bytes of a ``B`` frame.

    Raises ValueError for an invalid frame.
    """
    kind = frame[:1]
    if kind == b"J":
        return _check_messages(_decode_json(frame[1:]))
    if kind == b"B" and len(frame) >= 5:
        end = 5 + int(_LENGTH.unpack_from(frame, 1)[0])
        return _decode_json(frame[5:end]), frame[end:]
    raise ValueError("not a nosejobs frame: %r" % frame[:20])


def _decode_json(text: bytes) -> Any:
    """Decode JSON; raises ValueError for input whose values need far more memory than its bytes."""
    if text.count(b",") > _MAX_FRAME_VALUES:
        raise ValueError("a frame holds more than %d values" % _MAX_FRAME_VALUES)
    try:
        return json.loads(text.decode("ascii"))
    except RecursionError:
        raise ValueError("a frame is nested too deeply") from None


def _check_messages(value: Any) -> List[Message]:
    if not isinstance(value, list):
        raise ValueError("a frame must hold a list of messages")
    for message in value:
        if not (isinstance(message, list) and message and isinstance(message[0], str)):
            raise ValueError("a message must be a list that begins with its name")
    return value


def frame_message(message: Any) -> bytes:
    """Return the frame of one message for a slot's socket."""
    return frame_encoded_message(json.dumps(message, separators=(",", ":")).encode("ascii"))


def frame_encoded_message(text: bytes) -> bytes:
    """Return the frame, for a slot's socket, of one message that is JSON already."""
    return _LENGTH.pack(len(text)) + text


class FrameDecoder:
    """Splits the bytes of a slot's socket into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the frames that ``data`` completes, each without its length."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= 4:
            end = start + 4 + int(_LENGTH.unpack_from(buffer, start)[0])
            if end > len(buffer):
                break
            yield bytes(buffer[start + 4 : end])
            start = end
        del buffer[:start]
