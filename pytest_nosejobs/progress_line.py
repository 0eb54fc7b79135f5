"""A progress line for what happens before the first test: reading and shipping the tree.

It decides when to write and how.  It knows hosts by their names only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import IO

#: Seconds before the first line; what takes less needs none.
_FIRST_DELAY = 1.0
#: Seconds between two lines on a terminal, where one replaces the other.
_TERMINAL_INTERVAL = 1.0
#: Seconds between two lines elsewhere.
_PLAIN_INTERVAL = 10.0
#: Maximum number of hosts that are named; the others are counted.
_MAX_LISTED_HOSTS = 3


class ProgressLine:
    """One line that is rewritten on a terminal; elsewhere, a few lines in a row."""

    def __init__(self, stream: IO[str], width: int, quiet: bool = False) -> None:
        """``width``: columns of the terminal.  ``quiet``: write nothing."""
        self._stream, self._width, self._quiet = stream, width, quiet
        self._rewrites = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._next = time.monotonic() + _FIRST_DELAY
        self._shown = ""

    def show(self, message: str) -> None:
        """Write ``message`` if it is new and the time for another line has come."""
        now = time.monotonic()
        if self._quiet or not message or now < self._next or message == self._shown:
            return
        self._next = now + (_TERMINAL_INTERVAL if self._rewrites else _PLAIN_INTERVAL)
        self._shown = message
        line = f"nosejobs: {message}"
        self._stream.write(f"\r{line[: self._width - 1]}\x1b[K" if self._rewrites else f"{line}\n")
        self._stream.flush()

    def end(self) -> None:
        """Erase the line on a terminal; may be called more than once."""
        if self._rewrites and self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
        self._shown = ""


def describe_reading(done: int, total: int) -> str:
    """Return the progress of reading the tree; both values in bytes."""
    return f"reading {_describe_bytes(done, total)} of the tree"


def describe_shipping(hosts: Mapping[str, tuple[int, int]]) -> str:
    """Return the progress of shipping; empty if ``hosts`` is.

    ``hosts``: bytes that were sent, and bytes in all, by the name of the host.
    """
    parts = [f"{name}: {_describe_host(*each)}" for name, each in hosts.items()]
    if len(parts) > _MAX_LISTED_HOSTS:
        parts[_MAX_LISTED_HOSTS:] = [f"and {len(parts) - _MAX_LISTED_HOSTS} more hosts"]
    return ", ".join(parts)


def _describe_host(done: int, total: int) -> str:
    return f"shipping {_describe_bytes(done, total)}" if done < total else "unpacking"


def _describe_bytes(done: int, total: int) -> str:
    unit, name = (10**6, "MB") if total >= 10**7 else (1000, "kB")
    return f"{done // unit} of {total // unit} {name}"
