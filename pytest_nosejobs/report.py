"""A Result becomes pytest's reports.

Owns what a person reads of a failure.  Whoever runs a test, the texts come from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from shell_runner.remote.model import ERROR, PASSED, SKIPPED, Execution, Stream, Test
from shell_runner.remote.verdict import judge, leftover_words

if TYPE_CHECKING:
    from .collect import ShellItem

#: Lines of each stream that a failure shows.
_LINES = 50
#: Characters of one line that a failure shows.
_WIDTH = 2000

_SGR = re.compile(r"\x1b\[[0-9;:]*m")
_BAD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]+")


def readable(text: str) -> str:
    """Text for people and XML: no colours, control characters and broken bytes made visible."""
    text = _SGR.sub("", text).replace("\r\n", "\n")
    return _BAD.sub(_visible, text)


def _visible(found: re.Match[str]) -> str:
    return found[0].translate(_VISIBLE)


class _Visible(dict[int, str]):
    """What is shown for a code point; each is worked out once."""

    def __missing__(self, code: int) -> str:
        byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code  # was not UTF-8
        self[code] = f"\\x{byte:02x}" if byte < 0x100 else f"\\u{byte:04x}"
        return self[code]


_VISIBLE = _Visible()


def whole(stream: Stream) -> str:
    """All that was kept of a stream, with a line where bytes are missing."""
    if stream.cut_at < 0:
        return readable(stream.text)
    kept = len(stream.text.encode("utf-8", "surrogateescape"))
    gap = f"\n[... {stream.total - kept:,} bytes are not shown ...]\n"
    return readable(stream.text[: stream.cut_at]) + gap + readable(stream.text[stream.cut_at :])


def tail(stream: Stream) -> str:
    """The last lines of a stream."""
    text = stream.text if stream.cut_at < 0 else stream.text[stream.cut_at :]
    text = text[-_LINES * _WIDTH :]
    lines = text.splitlines(keepends=True)
    shown = [_shorten(line) for line in lines[-_LINES:]]
    before = len(lines) - len(shown)
    if stream.cut_at >= 0 or len(text) < len(stream.text):
        note = f"[... the end of {stream.total:,} bytes ...]\n"
    else:
        note = f"[... {before:,} lines before ...]\n" if before else ""
    return note + readable("".join(shown))


def _shorten(line: str) -> str:
    if len(line) <= _WIDTH:
        return line
    return f"[... {len(line) - _WIDTH:,} characters ...]{line[-_WIDTH:]}"


@dataclass(frozen=True)
class Crash:
    """What pytest shows in its short summary and as JUnit's message."""

    message: str
    path: str
    lineno: int = 0


class FailureText:
    """What is shown of a test that did not pass; output comes as pytest's own sections."""

    def __init__(self, lines: list[str], crash: Crash, output: str) -> None:
        self.lines = lines
        self.reprcrash = crash
        self.output = output

    def toterminal(self, writer: Any) -> None:
        """For the terminal, where pytest adds the captured output."""
        for number, line in enumerate(self.lines):
            writer.line(line, red=number == 0, bold=number == 0)

    def __str__(self) -> str:
        return "\n".join([*self.lines, self.output]).rstrip("\n")


def of_failure(test: Test, execution: Execution, item: ShellItem, host: str = "") -> FailureText:
    """What a person needs to know first."""
    result = judge(test, execution)
    path = readable(item.nodeid)
    lines = [result.words, "", f"command  {item.plugin.command_of(item)}"]
    if host:
        lines.append(f"host     {host}, slot {execution.slot}")
    lines.append(f"took     {execution.duration:.2f} s")
    if execution.leftovers:
        lines.append(f"left     {leftover_words(execution.leftovers)}")
    lines.append(f"again    {item.plugin.rerun_of(item)}")
    if not (execution.out.total or execution.err.total) and not execution.problem:
        lines.append("output   none")
    lines = [readable(line) for line in lines]
    return FailureText(lines, Crash(lines[0], path), _output(execution))


def _output(execution: Execution) -> str:
    parts = []
    for name, stream in (("stdout", execution.out), ("stderr", execution.err)):
        if stream.total:
            parts.append(f"\n--- {name}\n{tail(stream)}")
    return "".join(parts)


def sections(execution: Execution, short: bool) -> list[tuple[str, str]]:
    """pytest's sections of captured output: ends only for a failure, else all that was kept."""
    show = tail if short else whole
    return [
        (f"Captured {name} call", show(stream))
        for name, stream in (("stdout", execution.out), ("stderr", execution.err))
        if stream.total
    ]


def properties(execution: Execution, host: str) -> list[tuple[str, object]]:
    """JUnit's properties of one test."""
    found: list[tuple[str, object]] = [
        ("host", host),
        ("slot", execution.slot),
        ("attempt", execution.attempt),
    ]
    if execution.exit is not None:
        found.append(("exit_status", execution.exit))
    if execution.signal is not None:
        found.append(("signal", execution.signal))
    if execution.leftovers:
        found.append(("leftovers", readable(leftover_words(execution.leftovers))))
    return found


def reports(
    item: ShellItem, test: Test, execution: Execution, host: str
) -> Iterator[pytest.TestReport]:
    """The three reports of a test that a host has run: setup, call, teardown."""
    verdict = verdict_report(item, test, execution, host)
    shared = _Shared(item, execution, host)
    if verdict.when == "call":
        yield shared.report("setup", "passed")
    yield verdict
    # JUnit XML takes the output from the last report.
    yield shared.report("teardown", "passed", None, verdict.sections)


def verdict_report(
    item: ShellItem, test: Test, execution: Execution, host: str
) -> pytest.TestReport:
    """The report that tells the outcome; an error is pytest's failed setup."""
    outcome = judge(test, execution).outcome
    shared = _Shared(item, execution, host)
    if outcome == PASSED:
        return shared.report("call", "passed", None, sections(execution, short=False))
    if outcome == SKIPPED:
        reason = (str(item.path), None, skip_reason(execution))
        return shared.report("call", "skipped", reason, sections(execution, short=False))
    text = of_failure(test, execution, item, host)
    when = "setup" if outcome == ERROR else "call"
    return shared.report(when, "failed", text, sections(execution, short=True))


def skip_reports(item: ShellItem, reason: tuple[str, None, str]) -> Iterator[pytest.TestReport]:
    """The reports of a test that a mark skips, without its having run."""
    shared = _Shared(item, Execution(0), "")
    yield shared.report("setup", "skipped", reason)
    yield shared.report("teardown", "passed")


def name_in_junit(xml: Any, report: pytest.TestReport) -> None:
    """``tests/net/test_ping.sh`` is ``test_ping.sh`` of the class ``tests.net``.

    pytest takes the last ``::`` part of a node id for the name, and so would leave the
    class of a program empty, which viewers show as a nameless root.
    """
    folder, _, name = report.nodeid.rpartition("/")
    reporter = xml.node_reporter(report)
    reporter.add_attribute("classname", readable(folder.replace("/", ".")) or ".")
    reporter.add_attribute("name", readable(name))


def skip_reason(execution: Execution) -> str:
    """The last line that a skipping program said, else its exit."""
    for stream in (execution.out, execution.err):
        lines = readable(stream.text[-_WIDTH:]).strip().splitlines()
        if lines:
            return f"Skipped: {lines[-1].strip()}"
    return "Skipped: exit 77"


class _Shared:
    """What the reports of one test have in common."""

    def __init__(self, item: ShellItem, execution: Execution, host: str) -> None:
        self.item = item
        self.execution = execution
        self.host = host
        self.properties = [*item.user_properties, *(properties(execution, host) if host else ())]
        self.keywords = item.plugin.keywords_of(item)

    def report(
        self, when: Any, outcome: Any, longrepr: Any = None, found: Sequence[tuple[str, str]] = ()
    ) -> pytest.TestReport:
        """One report; only the one with the verdict has a duration."""
        execution = self.execution
        took = execution.duration if when == "call" or longrepr is not None else 0.0
        return pytest.TestReport(
            self.item.nodeid,
            self.item.location,
            self.keywords,
            outcome,
            longrepr,
            when,
            found,
            took,
            execution.started,
            execution.started + took,
            self.properties,
            nosejobs_host=self.host,
        )
