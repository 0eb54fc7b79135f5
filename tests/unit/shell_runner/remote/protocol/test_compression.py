"""Tests of encodings of file contents: compressed if useful, never larger than announced."""

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shell_runner.remote.protocol.compression import (
    DEFLATED,
    MAX_BODY_BYTES,
    PLAIN,
    ZEROS,
    decode_body,
    encode_body,
)

NOISE = random.Random(1).randbytes(1 << 20)


def make_bomb(size: int) -> bytes:
    """Return the beginning of a stream that inflates to ``size`` zeros; its end is missing.

    A block that was flushed does not refer to an earlier one, so that it can be repeated.
    """
    deflater = zlib.compressobj()
    first, block = (
        deflater.compress(bytes(1 << 20)) + deflater.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    return first + block * ((size >> 20) - 1)


@given(st.binary() | st.integers(0, 1 << 18).map(lambda n: b"ab" * n) | st.just(bytes(1 << 18)))
def test_encoded_data_decode_to_the_same(data: bytes) -> None:
    encoding, body = encode_body(data)
    assert decode_body(encoding, len(data), body) == data
    assert len(body) <= len(data)


@pytest.mark.parametrize(
    ("data", "encoding", "max_bytes"),
    [
        (b"line of text\n" * 90_000, DEFLATED, 20_000),
        (NOISE, PLAIN, len(NOISE)),
        (bytes(1 << 20), ZEROS, 0),
        (bytes(1 << 20) + b"1", DEFLATED, 10_000),
        (NOISE[: 1 << 16] + bytes(1 << 20), PLAIN, (1 << 16) + (1 << 20)),
        (b"", PLAIN, 0),
    ],
    ids=["text", "noise", "zeros", "nearly zeros", "noise at first", "nothing"],
)
def test_an_encoding_is_chosen_by_the_beginning(data: bytes, encoding: str, max_bytes: int) -> None:
    chosen, body = encode_body(data)
    assert chosen == encoding
    assert len(body) <= max_bytes


@pytest.mark.parametrize(
    ("encoding", "size", "body", "message"),
    [
        (DEFLATED, 1000, zlib.compress(bytes(1001)), "more than the 1000"),
        (DEFLATED, 1000, make_bomb(1 << 30), "more than the 1000"),
        (DEFLATED, 1001, zlib.compress(bytes(1000)), "announces 1001 bytes and holds 1000"),
        (DEFLATED, 1000, zlib.compress(bytes(1000))[:-5], "ends before"),
        (DEFLATED, 1000, b"nonsense", "cannot be inflated"),
        (DEFLATED, MAX_BODY_BYTES + 1, b"", "announces"),
        (ZEROS, MAX_BODY_BYTES + 1, b"", "announces"),
        (ZEROS, -1, b"", "announces"),
        (PLAIN, 2, b"1", "announces 2 bytes and holds 1"),
        ("brotli", 1, b"1", "'brotli'"),
    ],
)
def test_bombs_and_nonsense_are_refused(
    encoding: str, size: int, body: bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        decode_body(encoding, size, body)
