"""What a result package says, as rows: results, cases, measurements, durations.

Owns the way from a verified package to rows, and from output to numbers.  Nothing in a package is
believed: its bytes were verified, its tests are checked here.  Must not know the database.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

from shell_runner.errors import HostError
from shell_runner.jobs.results import tests_of
from shell_runner.remote.jobs.package_format import EXECUTIONS, BadPackage
from shell_runner.remote.jobs.package_reader import Package, open_package
from shell_runner.remote.protocol.job import JobTest
from shell_runner.remote.protocol.model import SKIPPED, Case, Execution, ParsedOutput, Problem
from shell_runner.remote.protocol.verdict import judge
from shell_runner.text import strip_control_chars, to_single_line

from ..store.results import CaseRow, MeasurementRow, ResultRow

#: Where the log of the last attempt is.
LOG = "log.txt"
#: Of a log, what is shown of its end.
_TAIL, _LINES = 4000, 20
#: Numbers of one case, characters of a name.
_NUMBERS, _NAME = 200, 200
#: Cases and numbers of a job that are kept, the first ones: all of them are in memory for a while,
#: and tests of strangers print as many as they like.
_CASES, _ALL_NUMBERS = 1_000_000, 100_000
#: What TAP producers say in YAML of where and why a test failed: no measurement.
_DIAGNOSTICS = frozenset(
    [
        "actual", "at", "code", "column", "duration", "duration_ms", "exit", "exitcode",
        "exitstatus", "expected", "file", "found", "got", "level", "line", "offset",
        "received", "severity", "signal", "status", "tests", "timeout", "wanted",
    ]
)  # fmt: skip
_VALUE = re.compile(
    r"([+-]?(?:\d{1,300}(?:\.\d{0,300})?|\.\d{1,300})(?:[eE][+-]?\d{1,4})?)"
    r"[ _]?([A-Za-z%µ°][^\s#,;\"']{0,31})?",
    re.ASCII,
)
_LINE = re.compile(r"( *)([A-Za-z_][^:#\n]{0,199}?) *:(?: +(.*?))? *(?: #.*)?", re.ASCII)


@dataclass
class Found:
    """What a package says of its job."""

    #: How it ended, and what a person needs to know of that.
    how: str = ""
    detail: str = ""
    results: list[ResultRow] = field(default_factory=list)
    cases: list[CaseRow] = field(default_factory=list)
    measurements: list[MeasurementRow] = field(default_factory=list)
    #: Seconds of tests that came to an end of their own, by node id.
    durations: dict[str, float] = field(default_factory=dict)


@contextlib.contextmanager
def opened(path: Path, host: str, job: str) -> Iterator[Package]:
    """A verified package; HostError if it is none, or that of another job."""
    try:
        with open_package(str(path)) as package:
            tests_of(package, job)
            yield package
    except BadPackage as error:
        words = f"the package of job {job} is refused: {to_single_line(str(error))}"
        raise HostError(host, words, "look at the host; nothing was acknowledged") from error


def read(package: Package, job: str) -> Found:
    """All rows of a package; raises BadPackage."""
    tests = tests_of(package, job)
    manifest = package.manifest
    how, detail = (to_single_line(str(manifest.get(key))) for key in ("how", "detail"))
    found = Found(how, detail)
    for number, tries in _last(package, len(tests)):
        _add(found, tests[number], number, *tries)
    if len(found.cases) >= _CASES or len(found.measurements) >= _ALL_NUMBERS:
        words = f"the first {_CASES} cases and {_ALL_NUMBERS} numbers are kept"
        found.detail = f"{found.detail}; {words}" if found.detail else words
    return found


def _last(package: Package, count: int) -> Iterator[tuple[int, tuple[Execution, int]]]:
    """Of each test its last execution, and how many there were; one after the other."""
    expected = 0
    for number, tries in groupby(package.executions(), key=itemgetter(0)):
        if number != expected or number >= count:
            raise BadPackage(EXECUTIONS, f"test {number} where test {expected} of {count} is due")
        found = [execution for _, _, execution in tries]
        yield number, (found[-1], len(found))
        expected += 1
    if expected != count:
        raise BadPackage(EXECUTIONS, f"it says nothing of test {expected} of {count}")


def _add(found: Found, case: JobTest, number: int, last: Execution, tries: int) -> None:
    result = judge(case.test, last)
    # As in a live run: what a host cannot run is skipped.
    outcome = SKIPPED if last.problem == Problem.UNMET_REQUIREMENT else result.outcome
    nodeid, words, took = _line(case.nodeid), to_single_line(result.message), max(last.duration, 0.0)
    found.results.append(
        ResultRow(number, nodeid, outcome, words, took, tries, result.infrastructure)
    )
    if last.parsed is not None:
        _add_cases(found, number, last.parsed)
    if last.exit_status is not None and not last.timed_out:
        found.durations[nodeid] = took


def _line(text: str) -> str:
    """An id as it was sent; a host that has changed it cannot drive a terminal with it."""
    return text if text.isprintable() else to_single_line(text, 10_000)


def _add_cases(found: Found, test: int, parsed: ParsedOutput) -> None:
    for number, case in enumerate(parsed.cases[: _CASES - len(found.cases)]):
        name = f"{case.group} > {case.name}" if case.group else case.name
        message = strip_control_chars(case.message)
        found.cases.append(CaseRow(test, number, _line(name), case.outcome, message, case.duration))
        if case.properties or case.details:
            left = _ALL_NUMBERS - len(found.measurements)
            for name, (value, unit) in islice(numbers(case, parsed.format).items(), left):
                found.measurements.append(MeasurementRow(test, number, name, value, unit))


# -- numbers ----------------------------------------------------------------------


def numbers(case: Case, format: str) -> Mapping[str, tuple[float, str]]:
    """Value and unit by name: properties of JUnit that are numbers, and those in TAP's YAML."""
    found: dict[str, tuple[float, str]] = {}
    told = [*case.properties, *(_yaml(case.details) if format == "tap" else ())]
    for name, text in told[: 10 * _NUMBERS]:
        value = number(text)
        if value is not None and len(found) < _NUMBERS:
            found[_line(name)[:_NAME]] = value
    return found


def number(text: str) -> tuple[float, str] | None:
    """``12``, ``12.5 ms``, ``3e4 req/s``: the number and its unit; None for anything else."""
    match = _VALUE.fullmatch(text.strip().strip("\"'"))
    if match is None:
        return None
    value = float(match[1])
    return (value, match[2] or "") if math.isfinite(value) else None


def _yaml(text: str) -> Iterator[tuple[str, str]]:
    """Pairs of a block of plain mappings; what is nested is called ``outer.inner``."""
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        indent, name, value = len(match[1]), match[2].strip("\"'"), match[3]
        while above and above[-1][0] >= indent:
            above.pop()
        if value is None:
            above.append((indent, name))
        elif name.lower() not in _DIAGNOSTICS:
            yield ".".join([*(each for _, each in above), name]), value


# -- logs -------------------------------------------------------------------------


def tail(package: Package) -> str:
    """The last lines of the log, safe to be shown."""
    if LOG not in package.names() or package.size(LOG) > 64 << 20:
        return ""
    text = package.read(LOG)[-_TAIL:].decode("utf-8", "replace")
    return strip_control_chars("\n".join(text.splitlines()[-_LINES:]))
