"""Contents of files as they travel: compressed when it pays, nothing at all for zeros.

Owns the encodings and their bounds.  Must not know files.
"""

import zlib
from typing import Tuple

PLAIN, DEFLATED, ZEROS = "", "zlib", "zeros"

#: Bytes of contents that one frame may hold, however small it is on the wire.
MAX_BODY_BYTES = 16 << 20
#: Bytes that show whether the rest is worth compressing.
_SAMPLE = 1 << 16


def encode_body(data: bytes) -> Tuple[str, bytes]:
    """The name of an encoding, and ``data`` in it."""
    if data[:1] == b"\0" and data == bytes(len(data)):
        return ZEROS, b""
    sample = zlib.compress(data[:_SAMPLE], 1)
    if len(sample) > 0.9 * min(len(data), _SAMPLE):
        return PLAIN, data
    return DEFLATED, sample if len(data) <= _SAMPLE else zlib.compress(data, 1)


def decode_body(encoding: str, size: int, body: bytes) -> bytes:
    """What was encoded: exactly ``size`` bytes; ValueError for anything else.

    A frame cannot make more of itself than it announces, nor announce more than MOST.
    """
    if not 0 <= size <= MAX_BODY_BYTES:
        raise ValueError("a frame announces %r bytes, more than %d" % (size, MAX_BODY_BYTES))
    if encoding == ZEROS:
        return bytes(size)
    if encoding == DEFLATED:
        body = _inflate(size, body)
    elif encoding != PLAIN:
        raise ValueError("a frame is encoded as %r, which nobody knows" % encoding)
    if len(body) != size:
        raise ValueError("a frame announces %d bytes and holds %d" % (size, len(body)))
    return body


def _inflate(size: int, body: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(body, size + 1)
    except zlib.error as error:
        raise ValueError("a frame cannot be inflated: %s" % error) from None
    if len(data) > size or inflater.unconsumed_tail:
        raise ValueError("a frame inflates to more than the %d bytes that it announces" % size)
    if not inflater.eof:
        raise ValueError("a frame ends before its compressed contents do")
    return data
