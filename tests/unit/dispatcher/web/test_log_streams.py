"""Tests of the limit of logs that are read at the same time, since each occupies a thread."""

from collections.abc import Generator

import pytest

from dispatcher.web import log_streams
from dispatcher.web.log_streams import LogStreams, TooManyReaders
from shell_runner.jobs.log_position import LogChunk, LogPosition


def log_chunks() -> Generator[LogChunk, None, None]:
    yield LogChunk(LogPosition(), b"one")
    yield LogChunk(LogPosition(), b"two", True)


def test_the_number_of_logs_that_are_read_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_streams, "MAX_READ_LOGS", 1)
    streams = LogStreams()
    first = streams.limit_readers(log_chunks())
    assert next(first).data == b"one"
    with pytest.raises(TooManyReaders):
        next(streams.limit_readers(log_chunks()))
    # A closed reader makes room for another one.
    first.close()
    assert [chunk.data for chunk in streams.limit_readers(log_chunks())] == [b"one", b"two"]
    assert next(streams.limit_readers(log_chunks())).data == b"one"
