"""Readers of logs are counted: each holds a thread while its host says nothing."""

from collections.abc import Generator

import pytest

from dispatcher.web import log_streams
from dispatcher.web.log_streams import Streams, TooMany
from shell_runner.jobs.log_position import LogChunk, LogPosition


def pieces() -> Generator[LogChunk, None, None]:
    yield LogChunk(LogPosition(), b"one")
    yield LogChunk(LogPosition(), b"two", True)


def test_so_many_logs_are_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_streams, "READ", 1)
    found = Streams()
    first = found.counted(pieces())
    assert next(first).data == b"one"
    with pytest.raises(TooMany):
        next(found.counted(pieces()))
    # Whoever reads no further makes room.
    first.close()
    assert [piece.data for piece in found.counted(pieces())] == [b"one", b"two"]
    assert next(found.counted(pieces())).data == b"one"
