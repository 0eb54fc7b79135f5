"""Texts about results, for people and for JUnit XML: failures, names, properties.

Pure: values in, texts out.  This module must not know pytest, nor XML beyond the characters that
XML cannot hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..remote.protocol.model import XPASSED, CapturedStream, Case, Execution, Test
from ..remote.protocol.verdict import format_leftovers, judge
from ..text import format_count, make_readable

#: Last lines of each stream that a failure shows.
_MAX_LINES = 50
#: Characters of one line that a failure shows.
_MAX_LINE_CHARS = 2000
#: Lines of an output that is the reason of a skip as a whole.
_MAX_REASON_LINES = 5
#: Artifacts that a failure names.
_MAX_FILES = 10

# -- output -----------------------------------------------------------------------


def format_stream(stream: CapturedStream) -> str:
    """Return all that was kept of a stream, with a line where bytes are missing."""
    if stream.cut_index < 0:
        return make_readable(stream.text)
    kept = len(stream.text.encode("utf-8", "surrogateescape"))
    gap = f"\n[... {stream.total_bytes - kept:,} bytes are not shown ...]\n"
    return (
        make_readable(stream.text[: stream.cut_index])
        + gap
        + make_readable(stream.text[stream.cut_index :])
    )


def format_tail(stream: CapturedStream) -> str:
    """Return the last lines of a stream."""
    text = stream.text if stream.cut_index < 0 else stream.text[stream.cut_index :]
    text = text[-_MAX_LINES * _MAX_LINE_CHARS :]
    lines = text.splitlines(keepends=True)
    shown = [_shorten(line) for line in lines[-_MAX_LINES:]]
    before = len(lines) - len(shown)
    if stream.cut_index >= 0 or len(text) < len(stream.text):
        note = f"[... the end of {stream.total_bytes:,} bytes ...]\n"
    else:
        note = f"[... {before:,} lines before ...]\n" if before else ""
    return note + make_readable("".join(shown))


def _shorten(line: str) -> str:
    if len(line) <= _MAX_LINE_CHARS:
        return line
    return f"[... {len(line) - _MAX_LINE_CHARS:,} characters ...]{line[-_MAX_LINE_CHARS:]}"


def _format_tails(execution: Execution) -> str:
    parts = []
    for name, stream in (("stdout", execution.stdout), ("stderr", execution.stderr)):
        if stream.total_bytes:
            parts.append(f"\n--- {name}\n{format_tail(stream)}")
    return "".join(parts)


# -- failures ---------------------------------------------------------------------


@dataclass(frozen=True)
class FailureContext:
    """The parts of a failure text that depend on its writer and on the host of the test."""

    nodeid: str
    #: Command that executes the test, as typed in the test's directory.
    command: str
    #: Command that reruns the test, in one line.
    rerun_command: str
    #: Name of the host; empty: not shown.
    host: str = ""
    #: Paths of the artifacts.
    files: Sequence[str] = ()


@dataclass(frozen=True)
class Failure:
    """The description of a test, or a case, that did not pass."""

    #: The first line is the message.
    lines: Sequence[str]
    #: The last lines of its output, with headings; may be empty.
    output: str = ""

    @property
    def message(self) -> str:
        """Return the first line."""
        return self.lines[0]

    def __str__(self) -> str:
        return "\n".join([*self.lines, self.output]).rstrip("\n")


def describe_failure(test: Test, execution: Execution, context: FailureContext) -> Failure:
    """Return the description of a program that did not pass."""
    lines = [judge(test, execution).message, "", *_context_lines(execution, context)]
    if not (execution.stdout.total_bytes or execution.stderr.total_bytes) and not execution.problem:
        lines.append("output   none")
    return Failure([make_readable(line) for line in lines], _format_tails(execution))


def describe_case_failure(
    case: Case, execution: Execution, context: FailureContext, with_output: bool
) -> Failure:
    """Return the description of a case that failed.

    ``with_output``: include the last lines of the program's output.
    """
    first = make_readable(case.message).strip().split("\n")[0] or "not ok"
    lines = [first, ""]
    details = make_readable(case.details).rstrip("\n")
    if details and details != first:
        lines += [*details.split("\n"), ""]
    lines += [make_readable(line) for line in _context_lines(execution, context)]
    return Failure(lines, _format_tails(execution) if with_output else "")


def _context_lines(execution: Execution, context: FailureContext) -> list[str]:
    lines = [f"command  {context.command}"]
    if context.host:
        lines.append(f"host     {context.host}, slot {execution.slot}")
    lines.append(f"took     {execution.duration:.2f} s")
    if execution.leftovers:
        lines.append(f"left     {format_leftovers(execution.leftovers)}")
    lines += _artifact_lines(execution, context)
    lines.append(f"rerun    {context.rerun_command}")
    return lines


def _artifact_lines(execution: Execution, context: FailureContext) -> list[str]:
    """Return the lines that list artifacts, or count them if their paths are not known."""
    count, omitted = len(execution.artifacts), execution.artifacts_omitted
    if not context.files and count:
        lines = [f"wrote    {format_count(count, 'file')}"]
    else:
        lines = [f"wrote    {path}" for path in context.files[:_MAX_FILES]]
        if count > _MAX_FILES:
            lines.append(f"         and {count - _MAX_FILES} more")
    if omitted:
        subject = "1 file or folder" if omitted == 1 else f"{omitted} files or folders"
        verb = "was" if omitted == 1 else "were"
        lines.append(f"omitted  {subject} over the limits {verb} not copied")
    return lines


def skip_reason(execution: Execution) -> str:
    """Return the reason of a skip: from TAP, else from the output, else the exit status.

    A short output is the reason as a whole, since a reason can have several lines; the reason
    in a long one is its last line.
    """
    parsed = execution.parsed
    if parsed is not None and parsed.skip_all:
        return make_readable(parsed.skip_all)
    for stream in (execution.stdout, execution.stderr):
        lines = make_readable(stream.text[-_MAX_LINE_CHARS:]).strip().splitlines()
        if lines:
            return "\n".join(lines if len(lines) <= _MAX_REASON_LINES else lines[-1:]).strip()
    return "exit 77"


def case_skip_reason(case: Case) -> str:
    """Return the reason why a program skipped one of its cases."""
    return make_readable(case.message) or "no reason given"


def unmet_message(labels: Sequence[str], missing: Sequence[str], hosts: Sequence[str]) -> str:
    """Return ``requires docker: no host of this run has it (hosts: a, b)``."""
    if len(labels) == 1:
        lacking = "it"
    else:
        lacking = ", ".join(missing) if len(missing) < len(labels) else "all of them"
    suffix = f" (hosts: {', '.join(hosts)})" if hosts else ""
    return f"requires {', '.join(labels)}: no host of this run has {lacking}{suffix}"


def flaky_message(earlier: int, attempts: int) -> str:
    """Return ``passed on attempt 2 of 3`` for a test that passed after ``earlier`` failures."""
    return f"passed on attempt {earlier + 1} of {attempts}"


# -- testcases --------------------------------------------------------------------


def execution_properties(execution: Execution, host: str) -> list[tuple[str, object]]:
    """Return the JUnit properties of an execution on ``host``."""
    properties: list[tuple[str, object]] = [
        ("host", host),
        ("slot", execution.slot),
        ("attempt", execution.attempt),
    ]
    if execution.exit_status is not None:
        properties.append(("exit_status", execution.exit_status))
    if execution.signal is not None:
        properties.append(("signal", execution.signal))
    if execution.leftovers:
        properties.append(("leftovers", make_readable(format_leftovers(execution.leftovers))))
    return properties


def case_properties(case: Case) -> list[tuple[str, str]]:
    """Return the JUnit properties of a case: those that its program gave it, and ``xpassed``.

    JUnit XML has no element for a case that passed although it was expected to fail.
    """
    properties = [(make_readable(key), make_readable(text)) for key, text in case.properties]
    if case.outcome == XPASSED:
        properties.append(("xpassed", make_readable(case.message) or "no reason given"))
    return properties


def name_cases(cases: Sequence[Case]) -> Iterator[tuple[Case, tuple[str, str]]]:
    """Yield the cases of a program, each with a unique pair of group and name."""
    seen: dict[tuple[str, str], int] = {}
    for case in cases:
        yield case, _unique(_names(case), seen)


def _names(case: Case) -> tuple[str, str]:
    """Return group and name of a case, each in one line."""
    group, name = (" ".join(make_readable(text).split()) for text in (case.group, case.name))
    return group, name or "(nameless)"


def _unique(names: tuple[str, str], seen: dict[tuple[str, str], int]) -> tuple[str, str]:
    """Return unique names: the second ``a`` becomes ``a #2``, or the next free number."""
    group, name = unique = names
    while unique in seen:
        seen[names] += 1
        unique = (group, f"{name} #{seen[names]}")
    seen[unique] = 1
    return unique


def unclaimed_duration(execution: Execution, cases: Sequence[Case]) -> float:
    """Return the seconds of a program that are not part of the durations of its cases."""
    return max(execution.duration - sum(case.duration or 0.0 for case in cases), 0.0)


def junit_names(
    nodeid: str, case: tuple[str, str] | None = None, prefix: str = ""
) -> tuple[str, str]:
    """Return class and name: ``tests.net``, ``test_ping.sh`` for ``tests/net/test_ping.sh``.

    The class of a case (``case``: its group and name) is its program and its group.  ``prefix``:
    in front of the class, as with pytest's ``--junit-prefix``.
    """
    folder, _, name = nodeid.rpartition("/")
    group = ""
    if case:
        folder, (group, name) = nodeid, case
    classname = ".".join(filter(None, (prefix, folder.replace("/", "."), group)))
    return make_readable(classname) or ".", make_readable(name)


def suite_property_name(nodeid: str, case: tuple[str, str] | None, name: str) -> str:
    """Return the name of a property of a program, or of a case, in the testsuite.

    It is ``tests/net/test_ping.sh: host`` or ``words.t::group > case: build``.
    """
    owner = f"{nodeid}::{' > '.join(filter(None, case))}" if case else nodeid
    return make_readable(f"{owner}: {name}")


def format_attachments(files: Sequence[str]) -> str:
    """Return the attachment lines that GitLab and the attachments plugin of Jenkins read."""
    return "\n".join(f"[[ATTACHMENT|{_one_line(path)}]]" for path in files)


def _one_line(path: str) -> str:
    """Escape line breaks: such a file cannot be attached, and must not add another entry."""
    return make_readable(path).replace("\n", "\\n").replace("\t", "\\t")
