"""Frames: the bytes of messages between controller and host, and between host and slot.

This module must not know what a message means, nor what transports it.

On the channel a frame is one ``bytes``: ``J`` and a JSON array of messages, or ``B``, the length
of a JSON header, the header and raw bytes (file contents).  A ``J`` frame of more than
``MAX_FRAME_BYTES`` is sent in parts: ``P`` and bytes, the last one ``E`` and bytes.  On a slot's
socket a frame is its length and a JSON message.  The encoding is JSON, not pickle or
marshal, because a host is not trusted: decoding must be safe for any input.
"""

import json
import struct
from typing import Any, Iterable, Iterator, List, Tuple, Union

#: A list that begins with the message's name.
Message = List[Any]
#: A JSON header and raw bytes.
Blob = Tuple[Any, bytes]

_LENGTH = struct.Struct(">I")
#: Bytes that a host may send before the controller gives more credit.
CREDIT_BYTES = 1 << 23
#: Bytes after which the messages of a host begin another frame; far fewer than its frame guard
#: passes.
MAX_FRAME_BYTES = 2 << 20
#: Maximum bytes and values of one message of a host.  Two hundred thousand cases have half of
#: that.  A host shortens longer results.
MAX_MESSAGE_BYTES, MAX_MESSAGE_VALUES = 32 << 20, 3_000_000
#: Maximum bytes of a frame on a slot's socket: a message, and what belongs to it.
_MAX_SLOT_FRAME_BYTES = MAX_MESSAGE_BYTES + (1 << 20)
#: Bytes and values that are left for the name of a message and the frame around it.
_MESSAGE_OVERHEAD = 1024


def pack_messages(messages: List[Message]) -> bytes:
    """Return a frame of several messages."""
    return b"J" + json.dumps(messages, separators=(",", ":")).encode("ascii")


def encode_json(value: Any) -> bytes:
    """Return a value as compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def pack_encoded_messages(messages: List[bytes]) -> bytes:
    """Return a frame of messages that are JSON already."""
    return b"J[" + b",".join(messages) + b"]"


def is_sendable(text: str, overhead: int = _MESSAGE_OVERHEAD) -> bool:
    """Return whether a host can send this JSON in a message: the receiver refuses larger ones.

    ``overhead``: bytes and values of the rest of the message.
    """
    if len(text) > MAX_MESSAGE_BYTES - overhead:
        return False
    return text.count(",") <= MAX_MESSAGE_VALUES - overhead


def split_messages(messages: Iterable[bytes]) -> Iterator[bytes]:
    """Yield frames of at most ``MAX_FRAME_BYTES`` of messages that are JSON already."""
    batch: List[bytes] = []
    size = overhead = len(b"J[]")
    for message in messages:
        if batch and size + len(message) + 1 > MAX_FRAME_BYTES:
            yield from _split_frame(pack_encoded_messages(batch))
            batch, size = [], overhead
        batch.append(message)
        size += len(message) + 1
    if batch:
        yield from _split_frame(pack_encoded_messages(batch))


def _split_frame(frame: bytes) -> Iterator[bytes]:
    """Yield ``frame`` itself, or its parts if it is too large."""
    if len(frame) <= MAX_FRAME_BYTES:
        yield frame
        return
    step = MAX_FRAME_BYTES - 1
    for start in range(0, len(frame), step):
        yield (b"P" if start + step < len(frame) else b"E") + frame[start : start + step]


class FrameJoiner:
    """Joins the parts of frames that a host has split."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def add(self, frame: bytes) -> bytes:
        """Return a whole frame; empty if further parts follow.  Raises ValueError if too long."""
        kind = frame[:1]
        if kind not in (b"P", b"E"):
            return frame
        if len(self._parts) + len(frame) - 1 > MAX_MESSAGE_BYTES:
            raise ValueError("a message has more than %d bytes" % MAX_MESSAGE_BYTES)
        self._parts += memoryview(frame)[1:]
        if kind == b"P":
            return b""
        whole = bytes(self._parts)
        self._parts = bytearray()
        return whole


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
    if text.count(b",") > MAX_MESSAGE_VALUES:
        raise ValueError("a frame holds more than %d values" % MAX_MESSAGE_VALUES)
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
    """Splits the bytes of a slot's socket into frames of limited size."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the frames that ``data`` completes, each without its length.

        Raises ValueError as soon as a frame is announced that is too long.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= 4:
            length = int(_LENGTH.unpack_from(buffer, start)[0])
            if length > _MAX_SLOT_FRAME_BYTES:
                raise ValueError("a frame of %d bytes" % length)
            end = start + 4 + length
            if end > len(buffer):
                break
            yield bytes(buffer[start + 4 : end])
            start = end
        del buffer[:start]
