"""The content of a job's result package, from its rows and the files of its last attempt.

Must not know how a package is written, or how tests are run. The same rows make the same package,
however often it is built.
"""

import json
import os
import stat
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

from ..files.remove_tree import remove_tree
from ..protocol.job import JobTest, remove_secrets
from ..protocol.model import Execution, Problem, Test
from . import paths, result_package_writer
from .queue import AttemptRow, EndReason, JobRow, Queue
from .result_package_format import (
    EXECUTIONS,
    INSTALL,
    LIMITS,
    BadPackage,
    Member,
    encode_execution_line,
    is_member_name,
)

__all__ = ["BadPackage", "build_package", "make_absent_execution"]

#: Number of a test, its attempt, its outcome, the JSON of its Execution.
_Row = Tuple[int, int, str, str]


#: Limits of the artifacts in one package: their bytes, their number, and the bytes of their names.
#: They are below the limits of a reader, as rows and logs need room, too.
_MAX_ARTIFACT_BYTES, _MAX_ARTIFACT_FILES, _MAX_ARTIFACT_NAME_BYTES = (
    LIMITS.size // 2,
    200_000,
    16 << 20,
)


def build_package(queue: Queue, folder: str, job: JobRow) -> Tuple[str, int]:
    """Build the package of ``job``; return its SHA-256 in hex and its size in bytes.

    Raises :exc:`OSError` if it cannot be written now, and BadPackage or :exc:`ValueError` if these
    rows can never make a package; see :func:`build_error_package`.
    """
    spool = paths.package_path(folder, job.id) + ".spool"
    remove_tree(spool)
    os.mkdir(spool, 0o700)
    try:
        return _PackageBuilder(queue, folder, job, spool).write()
    finally:
        remove_tree(spool)


def build_error_package(queue: Queue, folder: str, job: JobRow, reason: str) -> Tuple[str, int]:
    """Build a package that says only why the results cannot be packed: each test is an error.

    Returns its SHA-256 in hex and its size in bytes.
    """
    last = queue.get_attempts(job.number)[-1:]
    cases = enumerate(queue.get_tests(job.number))
    tests = [JobTest(each.nodeid, Test(number, each.test.path)) for number, each in cases]
    detail = "its results cannot be packed: %s" % reason
    lines = []
    for number in range(len(tests)):
        row = Execution(number, problem=Problem.NOT_RUN, detail=detail)
        text = json.dumps(row, separators=(",", ":"))
        lines.append(encode_execution_line(number, 1, text))
    manifest = {
        "job": {"id": job.id, "name": job.name},
        "end_reason": str(job.end_reason),
        "detail": detail,
        "attempt": _encode_attempt(last[0]) if last else None,
        "attempts": [],
        "config": {},
        "build": job.build,
        "content": job.tests,
        "host": None,
        "tests": tests,
    }
    member = Member(EXECUTIONS, b"".join(lines), None)
    return result_package_writer.write_package(
        paths.package_path(folder, job.id), manifest, [member]
    )


class _PackageBuilder:
    """The manifest and the members of one package."""

    def __init__(self, queue: Queue, folder: str, job: JobRow, spool: str) -> None:
        self._queue = queue
        self._folder = folder
        self._job = job
        self._spool = spool
        self._tests: List[JobTest] = queue.get_tests(job.number)
        attempts: List[AttemptRow] = queue.get_attempts(job.number)
        self._older, self._last = attempts[:-1], attempts[-1] if attempts else None

    def write(self) -> Tuple[str, int]:
        path = paths.package_path(self._folder, self._job.id)
        return result_package_writer.write_package(path, self._manifest(), self._members())

    def _manifest(self) -> Dict[str, Any]:
        job, last = self._job, self._last
        config = remove_secrets(job.config)._asdict()
        del config["secret"]
        return {
            "job": {
                "id": job.id, "name": job.name, "labels": list(job.labels),
                "priority": job.priority, "code": job.code, "submitted_at": job.submitted_at,
            },
            "end_reason": str(job.end_reason),
            "detail": job.detail,
            "attempt": None if last is None else _encode_attempt(last),
            "attempts": [_encode_attempt(each) for each in self._older],
            "config": config,
            "build": job.build,
            "content": job.tests,
            "host": None if last is None else self._host(last),
            "tests": self._tests,
        }  # fmt: skip

    def _host(self, attempt: AttemptRow) -> Optional[Dict[str, Any]]:
        try:
            with open(paths.host_facts_path(self._folder, attempt.id), "rb") as file:
                facts: Dict[str, Any] = json.loads(file.read().decode("utf-8"))
            return facts
        except (OSError, ValueError):
            return None  # lost when the machine died, unlike the rows

    def _members(self) -> Iterator[Member]:
        yield self._executions()
        if self._last is not None:
            yield from self._evidence(self._last, "")
            yield from self._artifacts(self._last)
        for attempt in self._older:
            folder = "attempts/%d/" % attempt.number
            rows = self._queue.read_executions(attempt.id)
            yield self._rows(folder + EXECUTIONS, rows)
            yield from self._evidence(attempt, folder)

    def _executions(self) -> Member:
        """Return the executions of the last attempt, and an error for each test without one."""
        rows = self._queue.read_executions(self._last.id) if self._last is not None else iter(())
        return self._rows(EXECUTIONS, _fill_gaps(self._job, self._tests, rows))

    def _rows(self, name: str, rows: Iterable[_Row]) -> Member:
        path = os.path.join(self._spool, name.replace("/", "-"))
        with open(path, "wb") as file:
            file.writelines(encode_execution_line(each[0], each[1], each[3]) for each in rows)
        return Member(name, None, path)

    def _evidence(self, attempt: AttemptRow, folder: str) -> Iterator[Member]:
        if attempt.install:
            yield Member(folder + INSTALL, attempt.install.encode("ascii"), None)
        log = paths.log_path(self._folder, attempt.id)
        if os.path.exists(log):
            yield Member(folder + "log.txt", None, log)

    def _artifacts(self, attempt: AttemptRow) -> Iterator[Member]:
        """Yield the artifacts that the rows name and that are complete on the disk."""
        files = total = names = 0
        for member, path, size in self._named_files(attempt):
            files, total, names = files + 1, total + size, names + len(member)
            if (
                files > _MAX_ARTIFACT_FILES
                or total > _MAX_ARTIFACT_BYTES
                or names > _MAX_ARTIFACT_NAME_BYTES
            ):
                return
            yield Member(member, None, path)

    def _named_files(self, attempt: AttemptRow) -> Iterator[Tuple[str, str, int]]:
        for number, count, _, text in self._queue.read_executions(attempt.id):
            folder = paths.outputs_path(self._folder, attempt.id, number, count)
            for name, size in Execution(*json.loads(text)).artifacts:
                path = os.path.join(folder, name)
                member = "artifacts/%s/%s" % (paths.outputs_name(number, count), name)
                if _is_complete(path, size) and is_member_name(member):
                    yield member, path, size


def _fill_gaps(job: JobRow, tests: List[JobTest], rows: Iterable[_Row]) -> Iterator[_Row]:
    """Yield rows in order of test and attempt; a test without a row gets one that says why."""
    expected = 0
    for row in rows:
        yield from (_absent_row(job, number) for number in range(expected, row[0]))
        expected = row[0] + 1
        yield row
    yield from (_absent_row(job, number) for number in range(expected, len(tests)))


def _absent_row(job: JobRow, number: int) -> _Row:
    execution = make_absent_execution(number, job.end_reason, job.detail)
    return number, 1, "error", json.dumps(execution, separators=(",", ":"))


#: A slot that is stopped sends output to the log, but no Execution.
_IN_LOG = "; if it had started, its output is in log.txt"


def make_absent_execution(number: int, end_reason: Optional[EndReason], detail: str) -> Execution:
    """Return the Execution of a test that did not run to its end, by the end reason of its job."""
    suffix = ": " + detail if detail else ""
    if end_reason == EndReason.INSTALL_FAILED:
        return Execution(
            number, problem=Problem.NOT_RUN, detail="the install command failed" + suffix
        )
    if end_reason == EndReason.REFUSED:
        return Execution(number, problem=Problem.NOT_RUN, detail=detail)
    if end_reason == EndReason.CANCELED:
        detail = "with its job" + suffix + _IN_LOG
        return Execution(number, problem=Problem.CANCELED, detail=detail)
    if end_reason == EndReason.TIMED_OUT:
        detail = "its job reached its time limit" + suffix + _IN_LOG
        return Execution(number, problem=Problem.CANCELED, detail=detail)
    return Execution(number, problem=Problem.HOST_LOST, detail=detail)


def _encode_attempt(attempt: AttemptRow) -> Dict[str, Any]:
    return {
        "id": attempt.id, "number": attempt.number, "detail": attempt.detail,
        "started_at": attempt.started_at, "ended_at": attempt.ended_at,
    }  # fmt: skip


def _is_complete(path: str, size: int) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size
