"""A Result becomes pytest's reports.

Owns what a person reads of a failure.  Whoever runs a test, the texts come from here.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from shell_runner.remote.model import (
    ERROR,
    FAILED,
    PASSED,
    SKIPPED,
    XFAILED,
    XPASSED,
    Case,
    Execution,
    Stream,
    Test,
)
from shell_runner.remote.verdict import is_told_by_cases, judge, leftover_words

if TYPE_CHECKING:
    from .collect import ShellItem

#: Lines of each stream that a failure shows.
_LINES = 50
#: Characters of one line that a failure shows.
_WIDTH = 2000

#: Artefacts that a failure names.
_FILES = 10

_SGR = re.compile(r"\x1b\[[0-9;:]*m")
_BAD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]+")


def readable(text: str) -> str:
    """Text for people and XML: no colours, control characters and broken bytes made visible."""
    if text.isascii() and text.isprintable():
        return text
    text = _SGR.sub("", text).replace("\r\n", "\n")
    return _BAD.sub(_visible, text)


def typed(*words: str) -> str:
    """A command as a person can type it: what cannot be typed in ``$'...'`` of a shell."""
    return " ".join(shlex.quote(word) if word.isprintable() else _escaped(word) for word in words)


def _escaped(word: str) -> str:
    parts = [
        chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}"
        for byte in os.fsencode(word)
    ]
    return "$'" + "".join(parts) + "'"


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

    def __str__(self) -> str:
        """What ``--tb=line`` shows."""
        return f"{self.path}: {self.message}"


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
    lines = [result.words, "", *_where(test, item, execution, host)]
    if not (execution.out.total or execution.err.total) and not execution.problem:
        lines.append("output   none")
    lines = [readable(line) for line in lines]
    return FailureText(lines, Crash(lines[0], path), _output(execution))


def _where(test: Test, item: ShellItem, execution: Execution, host: str) -> list[str]:
    lines = [f"command  {item.plugin.command_of(item)}"]
    if host:
        lines.append(f"host     {host}, slot {execution.slot}")
    lines.append(f"took     {execution.duration:.2f} s")
    if execution.leftovers:
        lines.append(f"left     {leftover_words(execution.leftovers)}")
    for path in item.plugin.files_of(item, execution)[:_FILES] if execution.artefacts else ():
        lines.append(f"wrote    {path}")
    more = max(len(execution.artefacts) - _FILES, 0)
    if more or execution.artefacts_left:
        left = f", {execution.artefacts_left} over the limit" if execution.artefacts_left else ""
        lines.append(f"         and {more} more{left}")
    lines.append(f"again    {item.plugin.rerun_of(item)}")
    return lines


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
    """The reports of a test that has run: of each of its cases, and of itself if need be."""
    if execution.parsed is not None and execution.parsed.cases:
        yield from case_reports(item, test, execution, host)
        if is_told_by_cases(test, execution):
            return
    shared = _Shared(item, execution, host)
    verdict = _verdict_report(shared, test)
    if verdict.when == "call":
        yield shared.report("setup", "passed")
    yield verdict
    # JUnit's writer takes the output from the last report.
    yield shared.report("teardown", "passed", None, verdict.sections)


def case_reports(
    item: ShellItem, test: Test, execution: Execution, host: str
) -> Iterator[pytest.TestReport]:
    """Three reports for each case; time that no case claims goes to the set-up of the first."""
    assert execution.parsed is not None
    cases = execution.parsed.cases
    unclaimed = max(execution.duration - sum(case.duration or 0.0 for case in cases), 0.0)
    output: Sequence[tuple[str, str]] = sections(execution, short=True)
    seen: dict[tuple[str, str], int] = {}
    for number, case in enumerate(cases):
        shared = _Shared(item, execution, host, case, _unique(case_names(case), seen))
        shared.files = [] if number else shared.files
        yield shared.report("setup", "passed", took=unclaimed)
        unclaimed = 0.0
        shown: Sequence[tuple[str, str]] = ()
        if case.outcome in (FAILED, ERROR):  # once is enough
            shown, output = output, ()
        yield _case_report(shared, test, case, shown)
        yield shared.report("teardown", "passed", None, shown)


def case_names(case: Case) -> tuple[str, str]:
    """Group and name of a case, each in one line."""
    group, name = (" ".join(readable(text).split()) for text in (case.group, case.name))
    return group, name or "(nameless)"


def _unique(names: tuple[str, str], seen: dict[tuple[str, str], int]) -> tuple[str, str]:
    """The second ``a`` is ``a #2``, or the next that is free."""
    group, name = found = names
    while found in seen:
        seen[names] += 1
        found = (group, f"{name} #{seen[names]}")
    seen[found] = 1
    return found


def _case_report(
    shared: _Shared, test: Test, case: Case, output: Sequence[tuple[str, str]]
) -> pytest.TestReport:
    took = case.duration or 0.0
    if case.outcome == SKIPPED:
        reason = f"Skipped: {readable(case.message) or 'no reason given'}"
        return shared.report("call", "skipped", skipped_at(shared.item, reason), took=took)
    if case.outcome in (FAILED, ERROR):
        # The sections are for the terminal; JUnit XML has the output in the text.
        text = of_case(test, case, shared, _output(shared.execution) if output else "")
        return shared.report("call", "failed", text, output, took=took)
    outcome = "skipped" if case.outcome == XFAILED else "passed"
    made = shared.report("call", outcome, None, took=took)
    if case.outcome in (XFAILED, XPASSED):
        made.wasxfail = f"reason: {readable(case.message)}"
    return made


def of_case(test: Test, case: Case, shared: _Shared, output: str) -> FailureText:
    """What a person needs to know first of a case that failed."""
    first = readable(case.message).strip().split("\n")[0] or "not ok"
    lines = [first, ""]
    details = readable(case.details).rstrip("\n")
    if details and details != first:
        lines += [*details.split("\n"), ""]
    lines += _where(test, shared.item, shared.execution, shared.host)
    return FailureText(lines, Crash(first, readable(shared.item.nodeid)), output)


def attempt_reports(
    item: ShellItem, test: Test, execution: Execution, host: str
) -> Iterator[pytest.TestReport]:
    """Of an attempt that another one follows; only the last of them is shown."""
    verdict = verdict_report(item, test, execution, host)
    if verdict.when == "call":
        yield _Shared(item, execution, host).report("setup", "passed")
    yield verdict


def verdict_report(
    item: ShellItem, test: Test, execution: Execution, host: str
) -> pytest.TestReport:
    """The report that tells the outcome; an error is pytest's failed setup."""
    return _verdict_report(_Shared(item, execution, host), test)


def _verdict_report(shared: _Shared, test: Test) -> pytest.TestReport:
    item, execution, host = shared.item, shared.execution, shared.host
    outcome = judge(test, execution).outcome
    if outcome == PASSED:
        return shared.report("call", "passed", None, sections(execution, short=False))
    if outcome == SKIPPED:
        reason = skipped_at(item, skip_reason(execution))
        return shared.report("call", "skipped", reason, sections(execution, short=False))
    text = of_failure(test, execution, item, host)
    when = "setup" if outcome == ERROR else "call"
    return shared.report(when, "failed", text, sections(execution, short=True))


def skipped_at(item: ShellItem, words: str) -> tuple[str, int, str]:
    """Where and why, as pytest has it: a program is skipped at its first line."""
    return str(item.path), 1, words


def skip_reports(item: ShellItem, reason: tuple[str, int, str]) -> Iterator[pytest.TestReport]:
    """The reports of a test that a mark skips, without its having run."""
    shared = _Shared(item, Execution(0), "")
    yield shared.report("setup", "skipped", reason)
    yield shared.report("teardown", "passed")


def belongs_to(made: Any, item: ShellItem) -> None:
    """A report that pytest has made of our item gets the names that ours have."""
    made.nosejobs_host = ""
    made.nosejobs_case = None
    made.nosejobs_nodeid = made.nosejobs_program = item.nodeid
    made.nosejobs_files = []


def name_in_junit(xml: Any, report: pytest.TestReport) -> None:
    """``tests/net/test_ping.sh`` is ``test_ping.sh`` of the class ``tests.net``.

    pytest takes the last ``::`` part of a node id for the name, and so would leave the
    class of a program empty, which viewers show as a nameless root.  A case is of the
    class of its program.
    """
    program, case = report.nosejobs_program, report.nosejobs_case
    folder, _, name = program.rpartition("/")
    if case:
        group, name = case
        folder = f"{program}.{group}" if group else program
    reporter = xml.node_reporter(report)
    reporter.add_attribute("classname", readable(folder.replace("/", ".")) or ".")
    reporter.add_attribute("name", readable(name))


def attach_in_junit(xml: Any, report: pytest.TestReport) -> None:
    """The convention that GitLab and the attachments plugin of Jenkins read."""
    if report.nosejobs_files:
        element = ElementTree.Element("system-out")
        element.text = "\n".join(
            f"[[ATTACHMENT|{_one_line(path)}]]" for path in report.nosejobs_files
        )
        xml.node_reporter(report).append(element)


def _one_line(path: str) -> str:
    """A name with a line break cannot be attached, but must not fake another entry."""
    return readable(path).replace("\n", "\\n").replace("\t", "\\t")


def skip_reason(execution: Execution) -> str:
    """What the output said, else the last line of a skipping program, else its exit."""
    parsed = execution.parsed
    if parsed is not None and parsed.skip_all:
        return f"Skipped: {readable(parsed.skip_all)}"
    for stream in (execution.out, execution.err):
        lines = readable(stream.text[-_WIDTH:]).strip().splitlines()
        if lines:
            return f"Skipped: {lines[-1].strip()}"
    return "Skipped: exit 77"


class _Shared:
    """What the reports of one test, or of one of its cases, have in common."""

    def __init__(
        self,
        item: ShellItem,
        execution: Execution,
        host: str,
        case: Case | None = None,
        names: tuple[str, str] | None = None,
    ) -> None:
        """``names``: group and name of the case, unique within its program."""
        self.item = item
        self.execution = execution
        self.host = host
        self.case = names
        self.files = item.plugin.files_of(item, execution) if execution.artefacts else []
        name = " > ".join(filter(None, names or ()))
        self.nodeid = f"{item.nodeid}::{name}" if name else item.nodeid
        self.location = (item.nodeid, None, f"./{self.nodeid}")
        self.properties = [*item.user_properties, *(properties(execution, host) if host else ())]
        if case:
            self.properties += [(readable(key), readable(text)) for key, text in case.properties]
        self.keywords = item.plugin.keywords_of(item)

    def report(
        self,
        when: Any,
        outcome: Any,
        longrepr: Any = None,
        found: Sequence[tuple[str, str]] = (),
        took: float | None = None,
    ) -> pytest.TestReport:
        """One report; unless told otherwise, only the one with the verdict has a duration."""
        execution = self.execution
        if took is None:
            verdict = when == "call" or longrepr is not None
            took = execution.duration if verdict else 0.0
        return pytest.TestReport(
            self.nodeid,
            self.location,
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
            nosejobs_case=self.case,
            nosejobs_nodeid=self.nodeid,
            nosejobs_program=self.item.nodeid,
            nosejobs_files=self.files,
            **self.item.attempts_before(),
        )
