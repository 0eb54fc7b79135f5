"""How messages become bytes: between controller and host, and between host and slot.

Owns framing only.  Must not know what a message means, nor who carries it.

On the channel a frame is one ``bytes``: ``J`` and a JSON array of messages, or
``B``, the length of a JSON header, the header and raw bytes (file contents).  On a
slot's socket a frame is its length and a JSON message.  JSON, not pickle or
marshal: what a host sends must not be able to hurt who reads it.
"""

import json
import struct
from typing import Any, Iterator, List, Tuple, Union

Message = List[Any]
Blob = Tuple[Any, bytes]

_LENGTH = struct.Struct(">I")
#: Bytes that a host may send before the controller gives more credit.
CREDIT_BYTES = 1 << 23
#: Values of one frame; those of a hundred thousand cases are a third of it.
_VALUES = 3_000_000


def pack_messages(messages: List[Message]) -> bytes:
    """A frame of several messages."""
    return b"J" + json.dumps(messages, separators=(",", ":")).encode("ascii")


def encode_json(value: Any) -> bytes:
    """The JSON of a value."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def pack_encoded_messages(messages: List[bytes]) -> bytes:
    """A frame of messages that are JSON already."""
    return b"J[" + b",".join(messages) + b"]"


def pack_blob(header: Any, body: bytes) -> bytes:
    """A frame of a JSON header and raw bytes."""
    head = json.dumps(header, separators=(",", ":")).encode("ascii")
    return b"B" + _LENGTH.pack(len(head)) + head + body


def unpack_frame(frame: bytes) -> Union[List[Message], Blob]:
    """The messages of a frame, or the (header, bytes) of a blob.

    Raises ValueError for anything else.
    """
    kind = frame[:1]
    if kind == b"J":
        return _messages(_loads(frame[1:]))
    if kind == b"B" and len(frame) >= 5:
        end = 5 + int(_LENGTH.unpack_from(frame, 1)[0])
        return _loads(frame[5:end]), frame[end:]
    raise ValueError("not a frame of nosejobs: %r" % frame[:20])


def _loads(text: bytes) -> Any:
    """Nothing that costs a hundred times its size: brackets nested or strung together."""
    if text.count(b",") > _VALUES:
        raise ValueError("a frame holds more than %d values" % _VALUES)
    try:
        return json.loads(text.decode("ascii"))
    except RecursionError:
        raise ValueError("a frame is nested too deeply") from None


def _messages(value: Any) -> List[Message]:
    if not isinstance(value, list):
        raise ValueError("a frame holds a list of messages")
    for message in value:
        if not (isinstance(message, list) and message and isinstance(message[0], str)):
            raise ValueError("a message is a list that opens with its name")
    return value


def frame_message(message: Any) -> bytes:
    """One message for a slot's socket."""
    return frame_encoded_message(json.dumps(message, separators=(",", ":")).encode("ascii"))


def frame_encoded_message(text: bytes) -> bytes:
    """One message that is JSON already, for a slot's socket."""
    return _LENGTH.pack(len(text)) + text


class FrameDecoder:
    """Takes bytes as they come, gives the frames that are complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that ``data`` completes, each without its length."""
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
