"""What people and JUnit XML are told of a test, whoever tells it.

Pure: values in, texts out.  Owns what a person reads of a failure, and the names and
properties of testcases.  Must not know pytest, nor XML beyond what it cannot hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..remote.protocol.model import Case, Execution, CapturedStream, Test
from ..remote.protocol.verdict import judge, format_leftovers
from ..text import format_count, make_readable

#: Lines of each stream that a failure shows.
_LINES = 50
#: Characters of one line that a failure shows.
_WIDTH = 2000
#: Artefacts that a failure names.
_FILES = 10

# -- output -----------------------------------------------------------------------


def format_stream(stream: CapturedStream) -> str:
    """All that was kept of a stream, with a line where bytes are missing."""
    if stream.cut_index < 0:
        return make_readable(stream.text)
    kept = len(stream.text.encode("utf-8", "surrogateescape"))
    gap = f"\n[... {stream.total_bytes - kept:,} bytes are not shown ...]\n"
    return make_readable(stream.text[: stream.cut_index]) + gap + make_readable(stream.text[stream.cut_index :])


def format_tail(stream: CapturedStream) -> str:
    """The last lines of a stream."""
    text = stream.text if stream.cut_index < 0 else stream.text[stream.cut_index :]
    text = text[-_LINES * _WIDTH :]
    lines = text.splitlines(keepends=True)
    shown = [_shorten(line) for line in lines[-_LINES:]]
    before = len(lines) - len(shown)
    if stream.cut_index >= 0 or len(text) < len(stream.text):
        note = f"[... the end of {stream.total_bytes:,} bytes ...]\n"
    else:
        note = f"[... {before:,} lines before ...]\n" if before else ""
    return note + make_readable("".join(shown))


def _shorten(line: str) -> str:
    if len(line) <= _WIDTH:
        return line
    return f"[... {len(line) - _WIDTH:,} characters ...]{line[-_WIDTH:]}"


def _tails(execution: Execution) -> str:
    parts = []
    for name, stream in (("stdout", execution.stdout), ("stderr", execution.stderr)):
        if stream.total_bytes:
            parts.append(f"\n--- {name}\n{format_tail(stream)}")
    return "".join(parts)


# -- failures ---------------------------------------------------------------------


@dataclass(frozen=True)
class FailureContext:
    """What a text names that depends on who tells it, and where the test ran."""

    nodeid: str
    #: How it was executed, as a person would type it in its folder.
    command: str
    #: One line that runs it again.
    rerun_command: str
    #: Empty: not told.
    host: str = ""
    #: Where its artefacts are now.
    files: Sequence[str] = ()


@dataclass(frozen=True)
class Failure:
    """What is told of a test, or a case, that did not pass."""

    lines: Sequence[str]
    #: The ends of its output, with headings; may be empty.
    output: str = ""

    @property
    def message(self) -> str:
        """What a person needs to know first."""
        return self.lines[0]

    def __str__(self) -> str:
        return "\n".join([*self.lines, self.output]).rstrip("\n")


def describe_failure(test: Test, execution: Execution, place: FailureContext) -> Failure:
    """Of a program that did not pass."""
    lines = [judge(test, execution).message, "", *_where(execution, place)]
    if not (execution.stdout.total_bytes or execution.stderr.total_bytes) and not execution.problem:
        lines.append("output   none")
    return Failure([make_readable(line) for line in lines], _tails(execution))


def describe_case_failure(case: Case, execution: Execution, place: FailureContext, output: bool) -> Failure:
    """Of a case that failed; ``output``: with that of its program."""
    first = make_readable(case.message).strip().split("\n")[0] or "not ok"
    lines = [first, ""]
    details = make_readable(case.details).rstrip("\n")
    if details and details != first:
        lines += [*details.split("\n"), ""]
    lines += [make_readable(line) for line in _where(execution, place)]
    return Failure(lines, _tails(execution) if output else "")


def _where(execution: Execution, place: FailureContext) -> list[str]:
    lines = [f"command  {place.command}"]
    if place.host:
        lines.append(f"host     {place.host}, slot {execution.slot}")
    lines.append(f"took     {execution.duration:.2f} s")
    if execution.leftovers:
        lines.append(f"left     {format_leftovers(execution.leftovers)}")
    lines += _wrote(execution, place)
    lines.append(f"again    {place.rerun_command}")
    return lines


def _wrote(execution: Execution, place: FailureContext) -> list[str]:
    """The first of its artefacts; how many, if they are in no place yet."""
    count = len(execution.artefacts)
    left = f", {execution.artefacts_omitted} over the limit" if execution.artefacts_omitted else ""
    if not place.files and count:
        return [f"wrote    {format_count(count, 'file')}{left}"]
    lines = [f"wrote    {path}" for path in place.files[:_FILES]]
    more = max(count - _FILES, 0)
    return [*lines, f"         and {more} more{left}"] if more or left else lines


def skip_reason(execution: Execution) -> str:
    """What the output said, else the last line of a skipping program, else its exit."""
    parsed = execution.parsed
    if parsed is not None and parsed.skip_all:
        return make_readable(parsed.skip_all)
    for stream in (execution.stdout, execution.stderr):
        lines = make_readable(stream.text[-_WIDTH:]).strip().splitlines()
        if lines:
            return lines[-1].strip()
    return "exit 77"


def case_skip_reason(case: Case) -> str:
    """Why a program skipped one of its cases."""
    return make_readable(case.message) or "no reason given"


def unmet_message(labels: Sequence[str], missing: Sequence[str], hosts: Sequence[str]) -> str:
    """``requires docker: no host of this run has it (hosts: a, b)``."""
    if len(labels) == 1:
        what = "it"
    else:
        what = ", ".join(missing) if len(missing) < len(labels) else "all of them"
    where = f" (hosts: {', '.join(hosts)})" if hosts else ""
    return f"requires {', '.join(labels)}: no host of this run has {what}{where}"


def flaky_message(earlier: int, attempts: int) -> str:
    """Of a test that has passed after ``earlier`` failures."""
    return f"passed on attempt {earlier + 1} of {attempts}"


# -- testcases --------------------------------------------------------------------


def execution_properties(execution: Execution, host: str) -> list[tuple[str, object]]:
    """JUnit's properties of one test."""
    found: list[tuple[str, object]] = [
        ("host", host),
        ("slot", execution.slot),
        ("attempt", execution.attempt),
    ]
    if execution.exit_status is not None:
        found.append(("exit_status", execution.exit_status))
    if execution.signal is not None:
        found.append(("signal", execution.signal))
    if execution.leftovers:
        found.append(("leftovers", make_readable(format_leftovers(execution.leftovers))))
    return found


def case_properties(case: Case) -> list[tuple[str, str]]:
    """Those that a program gave one of its cases."""
    return [(make_readable(key), make_readable(text)) for key, text in case.properties]


def name_cases(cases: Sequence[Case]) -> Iterator[tuple[Case, tuple[str, str]]]:
    """The cases of a program, each with a group and a name that no other of them has."""
    seen: dict[tuple[str, str], int] = {}
    for case in cases:
        yield case, _unique(_names(case), seen)


def _names(case: Case) -> tuple[str, str]:
    """Group and name of a case, each in one line."""
    group, name = (" ".join(make_readable(text).split()) for text in (case.group, case.name))
    return group, name or "(nameless)"


def _unique(names: tuple[str, str], seen: dict[tuple[str, str], int]) -> tuple[str, str]:
    """The second ``a`` is ``a #2``, or the next that is free."""
    group, name = found = names
    while found in seen:
        seen[names] += 1
        found = (group, f"{name} #{seen[names]}")
    seen[found] = 1
    return found


def unclaimed_duration(execution: Execution, cases: Sequence[Case]) -> float:
    """Seconds of a program that none of its cases claims."""
    return max(execution.duration - sum(case.duration or 0.0 for case in cases), 0.0)


def junit_names(nodeid: str, case: tuple[str, str] | None = None) -> tuple[str, str]:
    """Class and name: ``tests/net/test_ping.sh`` is ``test_ping.sh`` of ``tests.net``.

    A case (its group and name) is of the class of its program.
    """
    folder, _, name = nodeid.rpartition("/")
    if case:
        group, name = case
        folder = f"{nodeid}.{group}" if group else nodeid
    return make_readable(folder.replace("/", ".")) or ".", make_readable(name)


def format_attachments(files: Sequence[str]) -> str:
    """The convention that GitLab and the attachments plugin of Jenkins read."""
    return "\n".join(f"[[ATTACHMENT|{_one_line(path)}]]" for path in files)


def _one_line(path: str) -> str:
    """A name with a line break cannot be attached, but must not fake another entry."""
    return make_readable(path).replace("\n", "\\n").replace("\t", "\\t")
