"""What a result package says: verified, judged, written as files that people and CI read.

Owns the way from a package to outcomes, an exit status, a folder and JUnit XML.  Nothing in a
package is believed: ``remote.package`` has verified its bytes, values are checked here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import HostError, UsageError
from ..remote.jobs.package_format import MANIFEST, BadPackage
from ..remote.jobs.package_reader import Package, open_package
from ..remote.jobs.paths import outputs_name
from ..remote.protocol.job import JobTest
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
from ..reporting.artifact_files import named
from ..reporting.report_text import whole
from ..text import to_single_line
from .client import JobClient
from .responses import FailedTest

#: Exit statuses, those of pytest: of a job whose tests all ran, and of one that had no chance.
PASSED_STATUS, FAILED_STATUS, INFRASTRUCTURE_STATUS = 0, 1, 6
#: How a job may have ended, and the least that its harvest exits with.
_STATUS = {
    "completed": PASSED_STATUS,
    # A build that cannot be installed has failed, and so have tests that take too long.
    "install-failed": FAILED_STATUS,
    "timed-out": FAILED_STATUS,
    "refused": INFRASTRUCTURE_STATUS,
    "cancelled": INFRASTRUCTURE_STATUS,
    "gave-up": INFRASTRUCTURE_STATUS,
}


@dataclass(frozen=True)
class Harvested:
    """What a job came to."""

    #: How it ended, and what a person needs to know of that.
    how: str
    detail: str
    #: Tests by outcome, as judged here.
    outcomes: dict[str, int]
    failed: tuple[FailedTest, ...]
    #: Those that passed after they had failed.
    flaky: tuple[str, ...]
    #: What a command that is about this job exits with.
    status: int


def harvest(
    client: JobClient,
    job: str,
    path: Path,
    into: Path | None,
    junitxml: Path | None,
    progress: Callable[[int, int], None],
) -> tuple[JobSummary, Harvested]:
    """Bring the package to ``path``, and make of it what is asked for; nothing is acknowledged."""
    check_places(path, into, junitxml)
    with ExitStack() as stack:
        verified: list[Package] = []

        def verify(part: Path) -> None:
            # It stays open, for to open it is to read all of it; it only gets another name.
            package = stack.enter_context(open_package(str(part)))
            _check(package, job)
            verified.append(package)

        try:
            found = client.download(job, path, verify, progress)
            return found, _use(verified[-1], client.spec.id, into, junitxml)
        except (BadPackage, _BadManifest) as error:
            raise _refused(client, job, error) from error


def check_places(path: Path, into: Path | None, junitxml: Path | None) -> None:
    """Raises UsageError for where nothing can be written; also before a job has ended."""
    if into is not None:
        _check_folder(into)
    for target in filter(None, (path, junitxml)):
        parent = target.absolute().parent
        # What is extracted makes its folder, and the report is written after that.
        if target is junitxml and into is not None and parent == into.absolute():
            continue
        if not parent.is_dir():
            raise UsageError(f"cannot write {target}: there is no folder {target.parent}")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise UsageError(f"cannot write {target}: {target.parent} is not writable")
    # A package is renamed to its name, which would be the end of a device.
    if path.exists() and not path.is_file():
        raise UsageError(f"cannot write {path}: it is there, and is no file")
    if junitxml is not None and junitxml.is_dir():
        raise UsageError(f"cannot write {junitxml}: it is a folder")


def _check_folder(into: Path) -> None:
    if into.is_dir() and any(into.iterdir()):
        raise UsageError(f"{into} is not empty: nothing is extracted into it")
    there = into.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"cannot extract into {into}: {there} is no folder that can be written to")


def _refused(client: JobClient, job: str, error: Exception) -> HostError:
    words = f"the package of job {job} is refused: {to_single_line(str(error))}"
    return HostError(client.spec.id, words, "look at the host; nothing was acknowledged")


class _BadManifest(ValueError):
    """What a manifest says cannot be."""


def tests_of(package: Package, job: str) -> list[JobTest]:
    """The tests of a package, if it is that of this job; raises BadPackage."""
    try:
        _check_job(package, job)
        return _tests(package.manifest)
    except _BadManifest as error:
        raise BadPackage(MANIFEST, str(error)) from error


def _check_job(package: Package, job: str) -> None:
    manifest = package.manifest
    if not isinstance(manifest.get("job"), dict) or manifest["job"].get("id") != job:
        raise _BadManifest("it is of another job")


def _check(package: Package, job: str) -> None:
    """It is that of this job, and each of its tests has a row."""
    _check_job(package, job)
    tests = _tests(package.manifest)
    seen = {number for number, _, _ in package.executions()}
    if seen != set(range(len(tests))):
        words = f"it has {len(tests)} tests, and says what happened to {len(seen)}"
        raise _BadManifest(words)


def _tests(manifest: dict[str, Any]) -> list[JobTest]:
    rows = manifest.get("tests")
    if not isinstance(rows, list):
        raise _BadManifest("it names no tests")
    found = []
    for number, row in enumerate(rows):
        try:
            case = JobTest(*row[: len(JobTest._fields)])
            test = Test(*map(_frozen, case.test[: len(Test._fields)]))
            case = case._replace(test=test, properties=_frozen(case.properties))
        except (TypeError, ValueError, KeyError) as error:
            raise _BadManifest(f"its test {number} cannot be read: {error}") from error
        texts = (case.nodeid, case.unmet, test.path, test.format, test.leftovers, *test.argv)
        pairs = all(len(pair) == 2 and _are_texts(pair) for pair in case.properties)
        sound = isinstance(test.timeout, (int, float)) and isinstance(
            case.retries, (int, type(None))
        )
        if test.id != number or not (_are_texts(texts) and pairs and sound):
            raise _BadManifest(f"its test {number} cannot be read")
        found.append(case)
    return found


def _are_texts(values: Sequence[Any]) -> bool:
    return all(isinstance(each, str) for each in values)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _use(package: Package, host: str, into: Path | None, junitxml: Path | None) -> Harvested:
    tests = _tests(package.manifest)
    executions: dict[int, list[Execution]] = {}
    for number, _, execution in package.executions():
        executions.setdefault(number, []).append(execution)
    if into is not None:
        package.extract(str(into))
    if junitxml is not None:
        from ..reporting import junit  # its parser takes a while to load

        telling = _telling(junit, package.manifest, into, _install(package))
        junit.write(junitxml, "pytest", host, tests, executions, telling)
    return _judged(package.manifest, tests, executions)


def _telling(junit: Any, manifest: dict[str, Any], into: Path | None, install: str) -> Any:
    """What a live run would have known: how often a test may run again, and where files are."""
    config = manifest.get("config")
    retries = config.get("retries") if isinstance(config, dict) else 0
    telling = junit.Telling(
        retries=retries if type(retries) is int else 0, instead=_began(manifest), err=install
    )
    return telling if into is None else replace(telling, files=_files(manifest, into))


def _began(manifest: dict[str, Any]) -> float:
    """When the attempt began, else when the job was handed in; for a report without any test."""
    for table, key in (("attempt", "began"), ("job", "submitted")):
        values = manifest.get(table)
        found = values.get(key) if isinstance(values, dict) else None
        if isinstance(found, (int, float)) and not isinstance(found, bool):
            return float(found)
    return 0.0


def _install(package: Package) -> str:
    """What the install command has printed, if it failed: it is why no test has run."""
    if package.manifest.get("how") != "install-failed":
        return ""
    execution = package.install()
    return "" if execution is None else whole(execution.out) + whole(execution.err)


def _files(manifest: dict[str, Any], into: Path) -> Callable[[JobTest, Execution], list[str]]:
    """Where the artefacts of an execution have been extracted to."""
    there = {member["name"] for member in manifest["members"]}

    def found(case: JobTest, execution: Execution) -> list[str]:
        folder = f"artefacts/{outputs_name(case.test.id, execution.attempt)}"
        # A row may claim any name.
        names = [name for name, _ in execution.artefacts if f"{folder}/{name}" in there]
        shown = named(into / folder, Path.cwd())
        return [str(shown / name) for name in names]

    return found


def _judged(
    manifest: dict[str, Any], tests: Sequence[JobTest], executions: dict[int, list[Execution]]
) -> Harvested:
    how = to_single_line(str(manifest.get("how")))
    status = _STATUS.get(how, INFRASTRUCTURE_STATUS)
    outcomes: dict[str, int] = {}
    failed, flaky = [], []
    for case in tests:
        last = executions[case.test.id][-1]
        result = judge(case.test, last)
        # As in a live run: what a host cannot run is skipped.
        outcome = SKIPPED if last.problem == Problem.UNMET else result.outcome
        assert outcome in OUTCOMES
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if outcome == PASSED and len(executions[case.test.id]) > 1:
            flaky.append(to_single_line(case.nodeid))
        if outcome in (FAILED, ERROR):
            lost = result.infrastructure and how == "completed"
            status = max(status, INFRASTRUCTURE_STATUS if lost else FAILED_STATUS)
            words = to_single_line(result.words)
            failed.append(FailedTest(to_single_line(case.nodeid), outcome, words))
    detail = to_single_line(str(manifest.get("detail")))
    return Harvested(how, detail, outcomes, tuple(failed), tuple(flaky), status)
