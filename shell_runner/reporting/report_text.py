"""What people and JUnit XML are told of a test, whoever tells it.

Pure: values in, texts out.  Owns what a person reads of a failure, and the names and
properties of testcases.  Must not know pytest, nor XML beyond what it cannot hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..remote.protocol.model import Case, Execution, Stream, Test
from ..remote.protocol.verdict import judge, leftover_words
from ..text import format_count, readable

#: Lines of each stream that a failure shows.
_LINES = 50
#: Characters of one line that a failure shows.
_WIDTH = 2000
#: Artefacts that a failure names.
_FILES = 10

# -- output -----------------------------------------------------------------------


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


def _tails(execution: Execution) -> str:
    parts = []
    for name, stream in (("stdout", execution.out), ("stderr", execution.err)):
        if stream.total:
            parts.append(f"\n--- {name}\n{tail(stream)}")
    return "".join(parts)


# -- failures ---------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """What a text names that depends on who tells it, and where the test ran."""

    nodeid: str
    #: How it was executed, as a person would type it in its folder.
    command: str
    #: One line that runs it again.
    again: str
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


def of_failure(test: Test, execution: Execution, place: Place) -> Failure:
    """Of a program that did not pass."""
    lines = [judge(test, execution).words, "", *_where(execution, place)]
    if not (execution.out.total or execution.err.total) and not execution.problem:
        lines.append("output   none")
    return Failure([readable(line) for line in lines], _tails(execution))


def of_case(case: Case, execution: Execution, place: Place, output: bool) -> Failure:
    """Of a case that failed; ``output``: with that of its program."""
    first = readable(case.message).strip().split("\n")[0] or "not ok"
    lines = [first, ""]
    details = readable(case.details).rstrip("\n")
    if details and details != first:
        lines += [*details.split("\n"), ""]
    lines += [readable(line) for line in _where(execution, place)]
    return Failure(lines, _tails(execution) if output else "")


def _where(execution: Execution, place: Place) -> list[str]:
    lines = [f"command  {place.command}"]
    if place.host:
        lines.append(f"host     {place.host}, slot {execution.slot}")
    lines.append(f"took     {execution.duration:.2f} s")
    if execution.leftovers:
        lines.append(f"left     {leftover_words(execution.leftovers)}")
    lines += _wrote(execution, place)
    lines.append(f"again    {place.again}")
    return lines


def _wrote(execution: Execution, place: Place) -> list[str]:
    """The first of its artefacts; how many, if they are in no place yet."""
    count = len(execution.artefacts)
    left = f", {execution.artefacts_left} over the limit" if execution.artefacts_left else ""
    if not place.files and count:
        return [f"wrote    {format_count(count, 'file')}{left}"]
    lines = [f"wrote    {path}" for path in place.files[:_FILES]]
    more = max(count - _FILES, 0)
    return [*lines, f"         and {more} more{left}"] if more or left else lines


def skip_reason(execution: Execution) -> str:
    """What the output said, else the last line of a skipping program, else its exit."""
    parsed = execution.parsed
    if parsed is not None and parsed.skip_all:
        return readable(parsed.skip_all)
    for stream in (execution.out, execution.err):
        lines = readable(stream.text[-_WIDTH:]).strip().splitlines()
        if lines:
            return lines[-1].strip()
    return "exit 77"


def skip_reason_of_case(case: Case) -> str:
    """Why a program skipped one of its cases."""
    return readable(case.message) or "no reason given"


def unmet_words(labels: Sequence[str], missing: Sequence[str], hosts: Sequence[str]) -> str:
    """``requires docker: no host of this run has it (hosts: a, b)``."""
    if len(labels) == 1:
        what = "it"
    else:
        what = ", ".join(missing) if len(missing) < len(labels) else "all of them"
    where = f" (hosts: {', '.join(hosts)})" if hosts else ""
    return f"requires {', '.join(labels)}: no host of this run has {what}{where}"


def flaky_words(earlier: int, attempts: int) -> str:
    """Of a test that has passed after ``earlier`` failures."""
    return f"passed on attempt {earlier + 1} of {attempts}"


# -- testcases --------------------------------------------------------------------


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


def case_properties(case: Case) -> list[tuple[str, str]]:
    """Those that a program gave one of its cases."""
    return [(readable(key), readable(text)) for key, text in case.properties]


def named_cases(cases: Sequence[Case]) -> Iterator[tuple[Case, tuple[str, str]]]:
    """The cases of a program, each with a group and a name that no other of them has."""
    seen: dict[tuple[str, str], int] = {}
    for case in cases:
        yield case, _unique(_names(case), seen)


def _names(case: Case) -> tuple[str, str]:
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


def unclaimed(execution: Execution, cases: Sequence[Case]) -> float:
    """Seconds of a program that none of its cases claims."""
    return max(execution.duration - sum(case.duration or 0.0 for case in cases), 0.0)


def in_junit(nodeid: str, case: tuple[str, str] | None = None) -> tuple[str, str]:
    """Class and name: ``tests/net/test_ping.sh`` is ``test_ping.sh`` of ``tests.net``.

    A case (its group and name) is of the class of its program.
    """
    folder, _, name = nodeid.rpartition("/")
    if case:
        group, name = case
        folder = f"{nodeid}.{group}" if group else nodeid
    return readable(folder.replace("/", ".")) or ".", readable(name)


def attachments(files: Sequence[str]) -> str:
    """The convention that GitLab and the attachments plugin of Jenkins read."""
    return "\n".join(f"[[ATTACHMENT|{_one_line(path)}]]" for path in files)


def _one_line(path: str) -> str:
    """A name with a line break cannot be attached, but must not fake another entry."""
    return readable(path).replace("\n", "\\n").replace("\t", "\\t")
