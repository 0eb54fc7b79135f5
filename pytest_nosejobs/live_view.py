"""What a person sees while tests run: lines of output, or a view of the slots.

Owns the drawing.  The view is for terminals; elsewhere pytest's own progress serves.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import IO, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

#: Seconds between two drawings.
_EVERY = 0.1
#: Slots that are shown; the rest is counted.
_MOST = 16


@dataclass
class _Busy:
    name: str
    since: float


class View:
    """Progress, counts, and what each slot is busy with."""

    def __init__(self, stream: IO[str], total: int) -> None:
        self._console = Console(file=stream, highlight=False, markup=False)
        self._total = total
        self._done: set[str] = set()
        self._counts: dict[str, int] = {}
        self._busy: dict[tuple[str, int], _Busy] = {}
        self._begin = time.monotonic()
        self._drawn = 0.0
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False,
            redirect_stderr=False,
        )  # fmt: skip

    def start(self) -> None:
        """Take the last lines of the terminal."""
        self._live.start()
        self.tick()

    def stop(self) -> None:
        """Give them back."""
        self._live.stop()
        self._console.print(self._summary())

    def running(self, host: str, slot: int, name: str) -> None:
        """A slot is busy with a test for more than a moment."""
        self._busy[host, slot] = _Busy(name, time.monotonic())

    def finished(self, host: str, slot: int, name: str) -> None:
        """A slot has come to the end of a test."""
        self._done.add(name)
        busy = self._busy.get((host, slot))
        if busy is not None and busy.name == name:
            del self._busy[host, slot]

    def forget(self, host: str) -> None:
        """A host is lost, and nothing runs there any more."""
        self._busy = {place: test for place, test in self._busy.items() if place[0] != host}

    def count(self, category: str) -> None:
        """One more of what pytest counts: passed, failed, ..."""
        if category:
            self._counts[category] = self._counts.get(category, 0) + 1

    def say(self, line: str, style: str = "") -> None:
        """A line that stays, above the view."""
        self._console.print(Text(line, style=style))

    def tick(self) -> None:
        """Draw, if it is time to."""
        now = time.monotonic()
        if now - self._drawn >= _EVERY:
            self._drawn = now
            self._live.update(self._draw(now), refresh=True)

    def _draw(self, now: float) -> Any:
        table = Table.grid(padding=(0, 2), expand=False)
        busy = sorted(self._busy.items(), key=lambda pair: pair[1].since)
        most = max(min(_MOST, self._console.size.height - 4), 1)
        for (host, slot), test in busy[:most]:
            name = Text(test.name, no_wrap=True, overflow="ellipsis")
            table.add_row(Text(f"{host}/{slot}", "cyan"), f"{now - test.since:6.1f} s", name)
        more = len(busy) - most
        if more > 0:
            table.add_row("", "", f"and {more} more")
        bar = ProgressBar(self._total, len(self._done), width=30)
        line = Table.grid(padding=(0, 2))
        line.add_row(bar, self._summary())
        return Group(table, line)

    def _summary(self) -> Text:
        text = Text(f"{len(self._done)}/{self._total}")
        styles = {"passed": "green", "failed": "red", "error": "red", "skipped": "yellow"}
        for category, count in self._counts.items():
            text.append(f"  {count} {category}", styles.get(category, "yellow"))
        return text.append(f"  {time.monotonic() - self._begin:.1f} s")
