"""Tests of the helper that measures peak memory."""

from __future__ import annotations

import sys

from tests.helpers.peak_memory import measure_peak_memory

#: Bytes that a small interpreter takes at most.
LITTLE = 40 << 20


def test_the_memory_of_the_test_run_is_not_that_of_the_command() -> None:
    """The peak of this process, which has started the command, must not count."""
    ballast = bytearray(LITTLE * 2)
    ballast[::4096] = bytes(len(ballast[::4096]))
    del ballast
    assert measure_peak_memory([sys.executable, "-S", "-c", ""]) < LITTLE


def test_the_memory_of_a_grandchild_counts() -> None:
    allocate = f"bytearray(b'x') * {LITTLE * 2}"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {allocate!r}])"
    assert measure_peak_memory([sys.executable, "-S", "-c", start]) > LITTLE * 2
