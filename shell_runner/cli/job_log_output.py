"""The log of a job as the command line prints it, as bytes or as text that is safe to show."""

from __future__ import annotations

import codecs
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from ..errors import HostError, UsageError
from ..jobs.client import JobClient
from ..jobs.log_position import LogMismatch, LogPosition
from ..text import strip_control_chars
from .console import print_message
from .job_output import format_state, short_id


def write_raw(data: bytes, is_end: bool) -> None:
    """Write bytes to standard output unchanged, including terminal escapes."""
    _write(sys.stdout, data)


def _write(stream: TextIO, data: bytes) -> None:
    """Write all of ``data``; an unbuffered stream may take only a part of it at a time."""
    stream.flush()
    view = memoryview(data)
    while view:
        view = view[stream.buffer.write(view) :]
    stream.buffer.flush()


class TextWriter:
    """A writer of bytes as text that cannot control a terminal."""

    def __init__(self, err: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._err = err

    def __call__(self, data: bytes, is_end: bool) -> None:
        stream = sys.stderr if self._err else sys.stdout
        text = strip_control_chars(self._decoder.decode(data, is_end))
        _write(stream, text.encode(stream.encoding, "backslashreplace"))


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Delay Ctrl-C to the end of the block, so that position and output stay consistent."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def print_log(
    client: JobClient,
    id: str,
    position: LogPosition,
    follow: bool,
    show: Callable[[bytes, bool], None],
    alone: bool = True,
) -> None:
    """Print the log of a job; with ``follow`` until the job has ended.

    ``show`` receives bytes, and whether they are the last ones.  If ``alone``, also print what a
    queued job waits for, and how to continue after an interrupt.
    """
    start = position
    if follow and alone:
        report = client.get_job(id)
        if report.job.state == "queued":
            print_message(f"{client.spec.id}: {format_state(report.job, report.jobs_ahead)}")
    try:
        for chunk in client.read_log(id, position, follow):
            if chunk.position.attempt > 1 and chunk.position.attempt != position.attempt and follow:
                print_message(f"-- attempt {chunk.position.attempt} --")
            with _interrupts_deferred():
                show(chunk.data, chunk.is_end)
                position = chunk.position
    except LogMismatch as error:
        if position == start:
            raise UsageError(f"--from {start}: {error}") from error
        raise
    except (KeyboardInterrupt, HostError):
        if position.attempt and alone:
            print_message(f"to continue: nosejobs job logs -f {short_id(id)} --from {position}")
        raise
