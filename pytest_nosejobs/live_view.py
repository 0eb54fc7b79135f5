"""The live view: progress, counts and the test on each slot, redrawn on a terminal.

It imports rich, which takes a while, and must therefore be imported only when it is shown.
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
_DRAW_INTERVAL = 0.1
#: Maximum number of slots that are shown; the others are counted.
_MAX_SHOWN_SLOTS = 16


@dataclass
class _RunningTest:
    name: str
    started: float


class LiveView:
    """The last lines of a terminal while tests run."""

    def __init__(self, stream: IO[str], total: int) -> None:
        """``total``: the number of tests of the run."""
        self._console = Console(file=stream, highlight=False, markup=False)
        self._total = total
        self._finished: set[str] = set()
        self._counts: dict[str, int] = {}
        #: By host and slot.
        self._running: dict[tuple[str, int], _RunningTest] = {}
        self._started = time.monotonic()
        self._last_drawn = 0.0
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False,
            redirect_stderr=False,
        )  # fmt: skip

    def start(self) -> None:
        """Begin to draw."""
        self._live.start()
        self.draw_if_due()

    def stop(self) -> None:
        """Erase the view and print a summary line."""
        self._live.stop()
        self._console.print(self._summarize())

    def set_running(self, host: str, slot: int, name: str) -> None:
        """Show that a slot runs a test."""
        self._running[host, slot] = _RunningTest(name, time.monotonic())

    def set_finished(self, host: str, slot: int, name: str) -> None:
        """Count a test as finished; its slot is free unless it runs another one already."""
        self._finished.add(name)
        test = self._running.get((host, slot))
        if test is not None and test.name == name:
            del self._running[host, slot]

    def remove_host(self, host: str) -> None:
        """Remove all tests of a lost host."""
        self._running = {key: test for key, test in self._running.items() if key[0] != host}

    def count(self, category: str) -> None:
        """Count one more report of a category of pytest: passed, failed, ..."""
        if category:
            self._counts[category] = self._counts.get(category, 0) + 1

    def print_line(self, line: str, style: str = "") -> None:
        """Print a line that stays, above the view."""
        self._console.print(Text(line, style=style))

    def draw_if_due(self) -> None:
        """Draw, unless the last drawing is less than ``_DRAW_INTERVAL`` ago."""
        now = time.monotonic()
        if now - self._last_drawn >= _DRAW_INTERVAL:
            self._last_drawn = now
            self._live.update(self._draw(now), refresh=True)

    def _draw(self, now: float) -> Any:
        table = Table.grid(padding=(0, 2), expand=False)
        running = sorted(self._running.items(), key=lambda pair: pair[1].started)
        limit = max(min(_MAX_SHOWN_SLOTS, self._console.size.height - 4), 1)
        for (host, slot), test in running[:limit]:
            name = Text(test.name, no_wrap=True, overflow="ellipsis")
            table.add_row(Text(f"{host}/{slot}", "cyan"), f"{now - test.started:6.1f} s", name)
        more = len(running) - limit
        if more > 0:
            table.add_row("", "", f"and {more} more")
        bar = ProgressBar(self._total, len(self._finished), width=30)
        line = Table.grid(padding=(0, 2))
        line.add_row(bar, self._summarize())
        return Group(table, line)

    def _summarize(self) -> Text:
        text = Text(f"{len(self._finished)}/{self._total}")
        styles = {"passed": "green", "failed": "red", "error": "red", "skipped": "yellow"}
        for category, count in self._counts.items():
            text.append(f"  {count} {category}", styles.get(category, "yellow"))
        return text.append(f"  {time.monotonic() - self._started:.1f} s")
