"""Encodings of file contents in frames: compressed if that pays, empty for zeros.

Defines the encodings and their limits.  This module must not know files.
"""

import zlib
from typing import Tuple

#: Names of the encodings.
PLAIN, DEFLATED, ZEROS = "", "zlib", "zeros"

#: Maximum bytes of contents in one frame, before compression.
MAX_BODY_BYTES = 16 << 20
#: Bytes that are compressed first, to see whether the rest is worth it.
_SAMPLE_BYTES = 1 << 16


def encode_body(data: bytes) -> Tuple[str, bytes]:
    """Return the name of an encoding, and ``data`` in this encoding."""
    if data[:1] == b"\0" and data == bytes(len(data)):
        return ZEROS, b""
    sample = zlib.compress(data[:_SAMPLE_BYTES], 1)
    if len(sample) > 0.9 * min(len(data), _SAMPLE_BYTES):
        return PLAIN, data
    return DEFLATED, sample if len(data) <= _SAMPLE_BYTES else zlib.compress(data, 1)


def decode_body(encoding: str, size: int, body: bytes) -> bytes:
    """Return the decoded contents, which have exactly ``size`` bytes.

    Raises ValueError for an unknown encoding, an invalid body, or a size above MAX_BODY_BYTES.
    No more than ``size`` bytes are decompressed.
    """
    if not 0 <= size <= MAX_BODY_BYTES:
        raise ValueError("a frame announces %r bytes, more than %d" % (size, MAX_BODY_BYTES))
    if encoding == ZEROS:
        return bytes(size)
    if encoding == DEFLATED:
        body = _inflate(size, body)
    elif encoding != PLAIN:
        raise ValueError("a frame has the unknown encoding %r" % encoding)
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
