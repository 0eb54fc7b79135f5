"""Convert a result package to rows: results, cases, measurements and durations.

Owns the way from a verified package to rows, and from output to measurements.  A package comes
from a host and is not trusted: its bytes were verified, and its tests are checked here.  Must not
know the database.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

from shell_runner.errors import HostError
from shell_runner.jobs.results import read_tests
from shell_runner.remote.jobs.result_package_format import EXECUTIONS, BadPackage
from shell_runner.remote.jobs.result_package_reader import Package, open_package
from shell_runner.remote.protocol.job import JobTest
from shell_runner.remote.protocol.model import SKIPPED, Case, Execution, ParsedOutput, Problem
from shell_runner.remote.protocol.verdict import judge
from shell_runner.text import attempt_reasons, strip_control_chars, to_single_line

from ..store.results import CaseRow, MeasurementRow, ResultRow

#: Name of the member with the log of the last attempt.
LOG_MEMBER = "log.txt"
#: Bytes and lines of the end of a log that is shown.
_MAX_TAIL_BYTES, _MAX_TAIL_LINES = 4000, 20
#: Bytes of a log of which the end is shown; it is read as a whole.
_MAX_LOG_BYTES = 64 << 20
#: Measurements of one case that are stored.
_MAX_CASE_MEASUREMENTS = 200
#: Characters of the name of a measurement.
_MAX_NAME_CHARS = 200
#: Cases of a job that are stored, the first ones: all of them are in memory for a while, and an
#: untrusted test may print any number.
_MAX_CASES = 1_000_000
#: Measurements of a job that are stored, the first ones.
_MAX_MEASUREMENTS = 100_000
#: Keys under which TAP producers write in YAML where and why a test failed: no measurements.
_DIAGNOSTIC_KEYS = frozenset(
    [
        "actual", "at", "code", "column", "duration", "duration_ms", "exit", "exitcode",
        "exitstatus", "expected", "file", "found", "got", "level", "line", "offset",
        "received", "severity", "signal", "status", "tests", "timeout", "wanted",
    ]
)  # fmt: skip
_NUMBER_WITH_UNIT = re.compile(
    r"([+-]?(?:\d{1,300}(?:\.\d{0,300})?|\.\d{1,300})(?:[eE][+-]?\d{1,4})?)"
    r"[ _]?([A-Za-z%µ°][^\s#,;\"']{0,31})?",
    re.ASCII,
)
_YAML_LINE = re.compile(r"( *)([A-Za-z_][^:#\n]{0,199}?) *:(?: +(.*?))? *(?: #.*)?", re.ASCII)


@dataclass
class PackageRows:
    """The contents of a package, as rows."""

    #: The reason why the job ended, and an explanation for people.
    end_reason: str = ""
    detail: str = ""
    results: list[ResultRow] = field(default_factory=list)
    cases: list[CaseRow] = field(default_factory=list)
    measurements: list[MeasurementRow] = field(default_factory=list)
    #: Seconds that each test took that ended by itself, by node id.
    durations: dict[str, float] = field(default_factory=dict)


@contextlib.contextmanager
def open_verified(path: Path, host: str, job: str) -> Iterator[Package]:
    """Open a package; raise HostError if it is invalid, or is not that of ``job``."""
    try:
        with open_package(str(path)) as package:
            read_tests(package, job)
            yield package
    except BadPackage as error:
        message = f"the package of job {job} is refused: {to_single_line(str(error))}"
        raise HostError(host, message, "check the host; nothing was acknowledged") from error


def read_rows(package: Package, job: str) -> PackageRows:
    """Return all rows of the package of ``job``.

    Raises BadPackage if it does not have an execution of each test, in order.
    """
    tests = read_tests(package, job)
    manifest = package.manifest
    end_reason = to_single_line(str(manifest.get("end_reason")))
    rows = PackageRows(end_reason, to_single_line(str(manifest.get("detail"))))
    for number, attempts in _executions_by_test(package, len(tests)):
        _add_result(rows, tests[number], number, attempts)
    if len(rows.cases) >= _MAX_CASES or len(rows.measurements) >= _MAX_MEASUREMENTS:
        limit = f"only the first {_MAX_CASES} cases and {_MAX_MEASUREMENTS} measurements are stored"
        rows.detail = f"{rows.detail}; {limit}" if rows.detail else limit
    return rows


def _executions_by_test(package: Package, count: int) -> Iterator[tuple[int, list[Execution]]]:
    """Yield the number of each test, and its executions, the last one last."""
    expected = 0
    for number, attempts in groupby(package.read_executions(), key=itemgetter(0)):
        if number != expected or number >= count:
            raise BadPackage(EXECUTIONS, f"test {number}, expected test {expected} of {count}")
        executions = [execution for _, _, execution in attempts]
        yield number, executions
        expected += 1
    if expected != count:
        raise BadPackage(EXECUTIONS, f"test {expected} of {count} is missing")


def _add_result(
    rows: PackageRows, case: JobTest, number: int, executions: Sequence[Execution]
) -> None:
    last = executions[-1]
    result = judge(case.test, last)
    earlier = [judge(case.test, execution) for execution in executions[:-1]]
    reasons = "\n".join(attempt_reasons((each.outcome, each.message) for each in earlier))
    # As in a live run, a test whose host does not meet its requirements is skipped.
    outcome = SKIPPED if last.problem == Problem.UNMET_REQUIREMENT else result.outcome
    nodeid, message = _to_printable(case.nodeid), to_single_line(result.message)
    duration = max(last.duration, 0.0)
    fields = (nodeid, outcome, message, duration, len(executions), result.infrastructure, reasons)
    rows.results.append(ResultRow(number, *fields))
    if last.parsed is not None:
        _add_cases(rows, number, last.parsed)
    if last.exit_status is not None and not last.timed_out:
        rows.durations[nodeid] = duration


def _to_printable(text: str) -> str:
    """Return a text of a host as one line that cannot control a terminal."""
    return text if text.isprintable() else to_single_line(text, 10_000)


def _add_cases(rows: PackageRows, test: int, parsed: ParsedOutput) -> None:
    for number, case in enumerate(parsed.cases[: _MAX_CASES - len(rows.cases)]):
        name = f"{case.group} > {case.name}" if case.group else case.name
        message = strip_control_chars(case.message)
        rows.cases.append(
            CaseRow(test, number, _to_printable(name), case.outcome, message, case.duration)
        )
        if case.properties or case.details:
            left = _MAX_MEASUREMENTS - len(rows.measurements)
            for name, (value, unit) in islice(read_measurements(case, parsed.format).items(), left):
                rows.measurements.append(MeasurementRow(test, number, name, value, unit))


# -- measurements ----------------------------------------------------------------------


def read_measurements(case: Case, format: str) -> Mapping[str, tuple[float, str]]:
    """Return value and unit by name, from the properties of a JUnit case or the YAML of TAP.

    ``format`` is the format of the output.  Texts that are no number are left out.
    """
    measurements: dict[str, tuple[float, str]] = {}
    texts = [*case.properties, *(_parse_yaml(case.details) if format == "tap" else ())]
    for name, text in texts[: 10 * _MAX_CASE_MEASUREMENTS]:
        value = parse_number(text)
        if value is not None and len(measurements) < _MAX_CASE_MEASUREMENTS:
            number, unit = value
            measurements[_to_printable(name)[:_MAX_NAME_CHARS]] = number, _to_printable(unit)
    return measurements


def parse_number(text: str) -> tuple[float, str] | None:
    """Return number and unit of a text as ``12``, ``12.5 ms``, ``3e4 req/s``; None for others."""
    match = _NUMBER_WITH_UNIT.fullmatch(text.strip().strip("\"'"))
    if match is None:
        return None
    value = float(match[1])
    return (value, match[2] or "") if math.isfinite(value) else None


def _parse_yaml(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of each entry of plain mappings; nested names are ``outer.inner``."""
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        match = _YAML_LINE.fullmatch(line)
        if match is None:
            continue
        indent, name, value = len(match[1]), match[2].strip("\"'"), match[3]
        while parents and parents[-1][0] >= indent:
            parents.pop()
        if value is None:
            parents.append((indent, name))
        elif name.lower() not in _DIAGNOSTIC_KEYS:
            yield ".".join([*(each for _, each in parents), name]), value


# -- logs -------------------------------------------------------------------------


def log_tail(package: Package) -> str:
    """Return the last lines of the log without control characters; empty if there is no log."""
    if LOG_MEMBER not in package.list_members() or package.get_size(LOG_MEMBER) > _MAX_LOG_BYTES:
        return ""
    text = package.read(LOG_MEMBER)[-_MAX_TAIL_BYTES:].decode("utf-8", "replace")
    return strip_control_chars("\n".join(text.splitlines()[-_MAX_TAIL_LINES:]))
