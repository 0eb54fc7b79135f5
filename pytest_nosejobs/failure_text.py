"""The text of a failure in the shape that pytest shows as a report's ``longrepr``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shell_runner.reporting.report_text import Failure
from shell_runner.text import make_readable


@dataclass(frozen=True)
class Crash:
    """The message in pytest's short summary and in JUnit XML."""

    message: str
    path: str
    lineno: int = 0

    def __str__(self) -> str:
        """Return what ``--tb=line`` shows."""
        return f"{self.path}: {self.message}"


class FailureText:
    """The text of a test that did not pass.  Its output is shown in pytest's own sections."""

    def __init__(self, failure: Failure, nodeid: str) -> None:
        self.failure = failure
        self.reprcrash = Crash(failure.message, make_readable(nodeid))

    def toterminal(self, writer: Any) -> None:
        """Write the text to pytest's TerminalWriter; pytest adds the captured output."""
        for number, line in enumerate(self.failure.lines):
            writer.line(line, red=number == 0, bold=number == 0)

    def __str__(self) -> str:
        return str(self.failure)
