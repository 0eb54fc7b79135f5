"""The text of a failure in the shape that pytest shows as a report's ``longrepr``.

It is one of pytest's own representations of exceptions, with a crash and a traceback, because other
plugins look for path, line and message there.
"""

from __future__ import annotations

from typing import Any

from _pytest._code.code import (
    ExceptionRepr,
    ReprEntryNative,
    ReprFileLocation,
    ReprTraceback,
)

from shell_runner.reporting.report_text import Failure
from shell_runner.text import make_readable

#: The key of the parts of a text in the serialized form of a report.
_PARTS = "nosejobs"


class Crash(ReprFileLocation):
    """The message in pytest's short summary and in JUnit XML, at the program's first line."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(path, 1, message)

    def __str__(self) -> str:
        """Return what ``--tb=line`` shows."""
        return f"{self.path}: {self.message}"


class FailureText(ExceptionRepr):
    """The text of a test that did not pass.  Its output is shown in pytest's own sections."""

    def __init__(self, failure: Failure, nodeid: str) -> None:
        self.failure = failure
        self.reprcrash = Crash(make_readable(nodeid), failure.message)
        self.sections = []

    @property
    def reprtraceback(self) -> ReprTraceback:  # type: ignore[override]
        """Return the lines as those of a traceback; few plugins need it."""
        entry = ReprEntryNative([f"{line}\n" for line in self.failure.lines])
        return ReprTraceback([entry], None, "native")

    def toterminal(self, tw: Any) -> None:
        """Write the text to pytest's TerminalWriter; pytest adds the captured output."""
        for number, line in enumerate(self.failure.lines):
            tw.line(line, red=number == 0, bold=number == 0)

    def __str__(self) -> str:
        return str(self.failure)


def add_parts(data: dict[str, Any], text: FailureText) -> None:
    """Add the parts of ``text`` to the serialized report, where pytest would lose the output."""
    failure = text.failure
    data["longrepr"][_PARTS] = {"lines": list(failure.lines), "output": failure.output}


def take_text(data: dict[str, Any]) -> FailureText | None:
    """Remove what ``add_parts`` has added, and return the text; None if there is none."""
    longrepr = data.get("longrepr")
    parts = longrepr.pop(_PARTS, None) if isinstance(longrepr, dict) else None
    if parts is None:
        return None
    return FailureText(
        Failure(parts["lines"], parts["output"]), data["longrepr"]["reprcrash"]["path"]
    )
