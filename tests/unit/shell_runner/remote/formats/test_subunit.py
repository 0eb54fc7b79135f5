"""Tests of the cases in a stream of subunit packets."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from shell_runner.remote.formats import subunit

STREAM = (Path(__file__).parent / "samples" / "mixed.subunit").read_bytes()


def read(data, *, forced=False):
    reader = subunit.Reader(forced)
    reader.feed(data)
    return reader.close()


def packet(test, status, flags=0x2900, extra=b""):
    body = bytes([len(test)]) + test + extra
    size = len(body) + 8
    head = struct.pack(">BHB", 0xB3, flags | status, size)
    return head + body + struct.pack(">I", zlib.crc32(head + body))


def test_a_real_stream_reads_as_its_author_meant():
    parsed = read(STREAM)
    assert [(case.name, case.outcome) for case in parsed.cases] == [
        ("m.T.test_ok", "passed"), ("m.T.test_bad", "failed"), ("m.T.test_skip", "skipped"),
        ("m.T.test_xf", "xfailed"), ("m.T.test_xp", "xpassed"), ("m.T.test_hangs", "error"),
    ]  # fmt: skip
    passed, failed, skipped, *_, hanging = parsed.cases
    assert (passed.duration, failed.duration) == (0.25, 1.0)
    assert failed.details == "Traceback:\nAssertionError: 1 != 2"
    assert (skipped.message, hanging.message) == ("no net", "the test did not end")
    assert parsed.problem == ""


def test_text_between_packets_is_passed_over_wherever_it_holds_the_signature():
    noise = "\xf3 \xb3 printed\n".encode()
    parsed = read(noise + packet(b"a", 3) + noise * 9 + packet(b"b", 3) + noise)
    assert [case.name for case in parsed.cases] == ["a", "b"]
    assert parsed.problem == ""


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (packet(b"a", 3)[:-1] + b"x", "a packet with a wrong checksum"),
        (packet(b"a", 3) + packet(b"b", 3)[:-1], "the last packet is cut short"),
        (packet(b"a", 3) + packet(b"b", 3)[:3], "the last packet is cut short"),
        (packet(b"a", 3) + b"\xb3\x29\x03\x01", "a packet with an impossible length"),
        (packet(b"a", 3, extra=b"more"), "a packet whose fields do not fit in it"),
        (packet(b"a", 3, flags=0x2980, extra=b"\xff\xff\xff\xff"), "a packet whose fields"),
    ],
)
def test_a_damaged_packet_is_a_problem(data, problem):
    assert read(data).problem.startswith(problem)


def test_packets_after_a_damaged_one_still_count():
    bad = bytearray(packet(b"a", 3))
    bad[5] ^= 1
    parsed = read(bytes(bad) + packet(b"b", 6))
    assert [(case.name, case.outcome) for case in parsed.cases] == [("b", "failed")]
    assert parsed.problem


def test_endless_false_packets_are_given_up_on():
    parsed = read(packet(b"a", 3) + b"\xb3\x29\x08aaaa\n" * 20000)
    assert parsed.problem


def test_a_stream_without_a_packet_among_its_first_bytes_is_refused():
    reader = subunit.Reader()
    reader.feed(b"text\n" * 20000)
    assert reader.refused
    assert reader.close() is None


def test_only_bytes_of_attachments_that_are_text_are_details():
    def attach(mime, content):
        extra = bytes([len(mime)]) + mime + b"\x01f" + bytes([len(content)]) + content
        return packet(b"a", 0, flags=0x2960 | 0x0800, extra=extra)

    data = attach(b"text/plain", b"seen") + attach(b"image/png", b"\x89PNG") + packet(b"a", 6)
    (case,) = read(data).cases
    assert case.details == "seen"
