"""A word on what keeps the user waiting before the first test: trees that are read and sent.

Owns when a line is due and how it is drawn.  Must not know hosts beyond their names.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import IO

#: Seconds that pass without a word.
_PATIENCE = 1.0
#: Seconds between two lines: on a terminal, where one takes the place of the other; elsewhere.
_OFTEN, _RARELY = 1.0, 10.0
#: Hosts that are named; the rest is counted.
_MOST = 3


class Progress:
    """One line that changes, or a few that follow each other."""

    def __init__(self, stream: IO[str], width: int, quiet: bool = False) -> None:
        self._stream, self._width, self._quiet = stream, width, quiet
        self._rewrites = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._next = time.monotonic() + _PATIENCE
        self._shown = ""

    def show(self, words: str) -> None:
        """Called often; draws when it is time to."""
        now = time.monotonic()
        if self._quiet or not words or now < self._next or words == self._shown:
            return
        self._next = now + (_OFTEN if self._rewrites else _RARELY)
        self._shown = words
        line = f"nosejobs: {words}"
        self._stream.write(f"\r{line[: self._width - 1]}\x1b[K" if self._rewrites else f"{line}\n")
        self._stream.flush()

    def end(self) -> None:
        """Leave the terminal as it was."""
        if self._rewrites and self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
        self._shown = ""


def reading(done: int, total: int) -> str:
    """What a scan is busy with."""
    return f"reading {_amount(done, total)} of the tree"


def shipping(hosts: Mapping[str, tuple[int, int]]) -> str:
    """What hosts are busy with; an empty text if there are none."""
    words = [f"{name}: {_busy(*each)}" for name, each in list(hosts.items())[:_MOST]]
    if len(hosts) > _MOST:
        words.append(f"and {len(hosts) - _MOST} more hosts")
    return ", ".join(words)


def _busy(done: int, total: int) -> str:
    return f"shipping {_amount(done, total)}" if done < total else "unpacking"


def _amount(done: int, total: int) -> str:
    unit, name = (10**6, "MB") if total >= 10**7 else (1000, "kB")
    return f"{done // unit} of {total // unit} {name}"
