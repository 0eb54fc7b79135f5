"""Positions in the log of a job, from which a reader can go on over another connection.

Pure values; knows neither clients nor command lines.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import HostError, UsageError


@dataclass(frozen=True)
class LogPosition:
    """Up to where a log has been read: attempt, bytes, and the CRC-32 of these bytes.

    The checksum proves that the log is still the one that was read before.
    """

    #: From 1 on; 0: the last attempt.
    attempt: int = 0
    offset: int = 0
    crc: int = 0

    def __str__(self) -> str:
        return f"{self.attempt}:{self.offset}:{self.crc:08x}"


#: The beginning of the last attempt's log.
LOG_START = LogPosition()


def parse_log_position(text: str) -> LogPosition:
    """Parse ``2:4096:89abcdef``, the form that ``str`` gives.

    Raises :exc:`UsageError` for anything else.
    """
    try:
        attempt, offset, crc = text.split(":")
        position = LogPosition(int(attempt), int(offset), int(crc, 16))
    except ValueError:
        position = LogPosition(-1)
    if position.attempt < 1 or position.offset < 0 or not 0 <= position.crc < 1 << 32:
        raise UsageError(f"{text!r} is not a position in a log, such as 1:2048:89abcdef")
    return position


class LogMismatch(HostError):
    """A log is not the one that was read before."""


@dataclass(frozen=True)
class LogChunk:
    """Some bytes of a log, and the position behind them."""

    position: LogPosition
    data: bytes
    #: Nothing more will come.
    is_end: bool = False
