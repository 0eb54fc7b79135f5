"""The result of a job: its package is verified, judged, and written as files for people and CI.

Responsible for the way from a package to outcomes, an exit status, a folder and JUnit XML.  A
package is not trusted: ``result_package_reader`` verifies its bytes, and this module its values.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import HostError, UsageError
from ..junit_style import DEFAULT_STYLE, JunitStyle
from ..remote.jobs.paths import outputs_name
from ..remote.jobs.result_package_format import MANIFEST, BadPackage
from ..remote.jobs.result_package_reader import Package, open_package
from ..remote.protocol.job import BadJob, JobTest, parse_job_test
from ..remote.protocol.job_summary import JobSummary
from ..remote.protocol.model import (
    ERROR,
    FAILED,
    OUTCOMES,
    PASSED,
    SKIPPED,
    Execution,
    Problem,
    Test,
)
from ..remote.protocol.verdict import judge
from ..reporting.artifact_files import format_folder
from ..reporting.report_text import format_stream
from ..text import format_count, to_single_line
from .client import JobClient
from .responses import FailedTest

#: Exit statuses, as of pytest: all tests passed, some failed, some could not be run.
PASSED_STATUS, FAILED_STATUS, INFRASTRUCTURE_STATUS = 0, 1, 6
#: The minimum exit status of a harvest, by the end reason of the job.
_EXIT_STATUS_BY_END_REASON = {
    "completed": PASSED_STATUS,
    # A build that cannot be installed has failed, and so have tests that took too long.
    "install-failed": FAILED_STATUS,
    "timed-out": FAILED_STATUS,
    "refused": INFRASTRUCTURE_STATUS,
    "canceled": INFRASTRUCTURE_STATUS,
    "gave-up": INFRASTRUCTURE_STATUS,
}


@dataclass(frozen=True)
class HarvestResult:
    """The result of a job."""

    #: The end of the job, and the explanation for people.
    end_reason: str
    detail: str
    #: The number of tests by outcome, as judged here.
    outcomes: dict[str, int]
    failed: tuple[FailedTest, ...]
    #: Names of tests that passed after they had failed.
    flaky: tuple[str, ...]
    #: The exit status of a command about this job.
    exit_status: int


def harvest(
    client: JobClient,
    job: str,
    path: Path,
    into: Path | None,
    junitxml: Path | None,
    progress: Callable[[int, int], None],
    style: JunitStyle = DEFAULT_STYLE,
) -> tuple[JobSummary, HarvestResult]:
    """Download the package of a job to ``path`` and write its files; acknowledge nothing.

    ``into`` (a folder to extract into) and ``junitxml`` (a file) are optional.  Raises
    :exc:`UsageError` for a target that cannot be written, and :exc:`HostError` for an invalid
    package.
    """
    check_targets(path, into, junitxml)
    with ExitStack() as stack:
        verified: list[Package] = []

        def verify(part: Path) -> None:
            # It stays open, since opening reads all of it; later it only gets another name.
            package = stack.enter_context(open_package(str(part)))
            _check_package(package, job)
            verified.append(package)

        try:
            summary = client.download(job, path, verify, progress)
            return summary, _write_results(verified[-1], client.spec.id, into, junitxml, style)
        except (BadPackage, _InvalidManifest) as error:
            raise _make_package_error(client, job, error) from error


def check_targets(path: Path, into: Path | None, junitxml: Path | None) -> None:
    """Raise :exc:`UsageError` for a target that cannot be written, before a job is waited for."""
    if into is not None:
        _check_folder(into)
    for target in filter(None, (path, junitxml)):
        parent = target.absolute().parent
        # Extracting creates the folder, and the report is written after that.
        if target is junitxml and into is not None and parent == into.absolute():
            continue
        if not parent.is_dir():
            raise UsageError(f"cannot write {target}: the folder {target.parent} does not exist")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise UsageError(f"cannot write {target}: {target.parent} is not writable")
    # The package replaces the file of this name, which must not be a device.
    if path.exists() and not path.is_file():
        raise UsageError(f"cannot write {path}: it exists and is not a regular file")
    if junitxml is not None and junitxml.is_dir():
        raise UsageError(f"cannot write {junitxml}: it is a folder")


def _check_folder(into: Path) -> None:
    if into.is_dir() and any(into.iterdir()):
        raise UsageError(f"{into} is not empty; extract into a new or empty folder")
    existing = into.absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"cannot extract into {into}: {existing} is not a writable folder")


def _make_package_error(client: JobClient, job: str, error: Exception) -> HostError:
    message = f"the package of job {job} is refused: {to_single_line(str(error))}"
    return HostError(client.spec.id, message, "check the host; nothing was acknowledged")


class _InvalidManifest(ValueError):
    """The manifest of a package has an impossible value."""


def read_tests(package: Package, job: str) -> list[JobTest]:
    """Return the tests of the package of ``job``.

    Raises :exc:`BadPackage` if it is of another job or its manifest is invalid.
    """
    try:
        _check_job(package, job)
        return _parse_tests(package.manifest)
    except _InvalidManifest as error:
        raise BadPackage(MANIFEST, str(error)) from error


def _check_job(package: Package, job: str) -> None:
    """Raise :exc:`_InvalidManifest` unless it is of ``job`` and says how the job ended."""
    manifest = package.manifest
    if not isinstance(manifest.get("job"), dict) or manifest["job"].get("id") != job:
        raise _InvalidManifest("it belongs to another job")
    for key in ("end_reason", "detail"):
        if not isinstance(manifest.get(key), str):
            raise _InvalidManifest(f"its {key} is not a string")


def _check_package(package: Package, job: str) -> None:
    """Raise :exc:`_InvalidManifest` unless it is of ``job`` and has a row for each test."""
    _check_job(package, job)
    tests = _parse_tests(package.manifest)
    numbers = {number for number, _, _ in package.read_executions()}
    if numbers != set(range(len(tests))):
        message = f"it has {format_count(len(tests), 'test')}, but executions of {len(numbers)}"
        raise _InvalidManifest(message)


def _parse_tests(manifest: dict[str, Any]) -> list[JobTest]:
    rows = manifest.get("tests")
    if not isinstance(rows, list):
        raise _InvalidManifest("it has no list of tests")
    tests = []
    for number, row in enumerate(rows):
        try:
            case = parse_job_test(_drop_newer_fields(row))
        except BadJob as error:
            raise _InvalidManifest(f"its test {number} cannot be read: {error}") from error
        if case.test.id != number:
            raise _InvalidManifest(f"its test {number} has the number {case.test.id}")
        tests.append(case)
    return tests


def _drop_newer_fields(row: Any) -> Any:
    """Return the row of a test without the fields that a newer version has added."""
    if not isinstance(row, list) or len(row) < 2 or not isinstance(row[1], list):
        return row
    nodeid, test, *others = row[: len(JobTest._fields)]
    return [nodeid, test[: len(Test._fields)], *others]


def _write_results(
    package: Package, host: str, into: Path | None, junitxml: Path | None, style: JunitStyle
) -> HarvestResult:
    tests = _parse_tests(package.manifest)
    executions: dict[int, list[Execution]] = {}
    for number, _, execution in package.read_executions():
        executions.setdefault(number, []).append(execution)
    if into is not None:
        package.extract(str(into))
    if junitxml is not None:
        from ..reporting import junit  # its parser takes a while to load

        telling = _make_telling(junit, package.manifest, into, _read_install_output(package))
        junit.write_junit(
            junitxml, "pytest", host, tests, executions, replace(telling, style=style)
        )
    return _judge_tests(package.manifest, tests, executions)


def _make_telling(junit: Any, manifest: dict[str, Any], into: Path | None, install: str) -> Any:
    """Return what a report needs beside the executions, such as where artifacts are."""
    config = manifest.get("config")
    retries = config.get("retries") if isinstance(config, dict) else 0
    telling = junit.ReportOptions(
        retries=retries if type(retries) is int else 0,
        fallback_started_at=_find_start_time(manifest),
        system_err=install,
    )
    return (
        telling if into is None else replace(telling, files=_make_artifact_finder(manifest, into))
    )


def _find_start_time(manifest: dict[str, Any]) -> float:
    """Return when the attempt began, else when the job was submitted (seconds since the epoch)."""
    for table, key in (("attempt", "started_at"), ("job", "submitted_at")):
        values = manifest.get(table)
        seconds = values.get(key) if isinstance(values, dict) else None
        if isinstance(seconds, (int, float)) and not isinstance(seconds, bool):
            return float(seconds)
    return 0.0


def _read_install_output(package: Package) -> str:
    """Return the output of the install command if it failed, which is why no test has run."""
    if package.manifest.get("end_reason") != "install-failed":
        return ""
    execution = package.read_install()
    return (
        ""
        if execution is None
        else format_stream(execution.stdout) + format_stream(execution.stderr)
    )


def _make_artifact_finder(
    manifest: dict[str, Any], into: Path
) -> Callable[[JobTest, Execution], list[str]]:
    """Return a function that lists where the artifacts of an execution were extracted to."""
    members = {member["name"] for member in manifest["members"]}

    def list_artifacts(case: JobTest, execution: Execution) -> list[str]:
        folder = f"artifacts/{outputs_name(case.test.id, execution.attempt)}"
        # A row may claim any name.
        names = [name for name, _ in execution.artifacts if f"{folder}/{name}" in members]
        shown = format_folder(into / folder, Path.cwd())
        return [str(shown / name) for name in names]

    return list_artifacts


def _judge_tests(
    manifest: dict[str, Any], tests: Sequence[JobTest], executions: dict[int, list[Execution]]
) -> HarvestResult:
    end_reason = to_single_line(str(manifest.get("end_reason")))
    status = _EXIT_STATUS_BY_END_REASON.get(end_reason, INFRASTRUCTURE_STATUS)
    outcomes: dict[str, int] = {}
    failed, flaky = [], []
    for case in tests:
        last = executions[case.test.id][-1]
        result = judge(case.test, last)
        # As in a live run: what a host cannot run is skipped.
        outcome = SKIPPED if last.problem == Problem.UNMET_REQUIREMENT else result.outcome
        assert outcome in OUTCOMES
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if outcome == PASSED and len(executions[case.test.id]) > 1:
            flaky.append(to_single_line(case.nodeid))
        if outcome in (FAILED, ERROR):
            lost = result.infrastructure and end_reason == "completed"
            status = max(status, INFRASTRUCTURE_STATUS if lost else FAILED_STATUS)
            message = to_single_line(result.message)
            failed.append(FailedTest(to_single_line(case.nodeid), outcome, message))
    detail = to_single_line(str(manifest.get("detail")))
    return HarvestResult(end_reason, detail, outcomes, tuple(failed), tuple(flaky), status)
