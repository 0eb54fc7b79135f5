"""The result package of a job, made of its rows and of what its last attempt left on the disk.

Owns what is in a package.  Must not know how it is written, or who runs tests.  The same rows make
the same package, however often it is made.
"""

import json
import os
import stat
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

from ..files import remove_tree as place
from ..protocol.job import JobTest, without_secrets
from ..protocol.model import Execution, Problem, Test
from . import package_writer, paths
from .package_format import EXECUTIONS, INSTALL, LIMITS, BadPackage, Member, execution_line, is_name
from .queue import AttemptRow, How, JobRow, Queue

__all__ = ["BadPackage", "pack", "why_absent"]

#: Number of a test, its try, its outcome, the row of its Execution.
_Row = Tuple[int, int, str, str]


#: Bytes of artefacts in one package, their number, and bytes of their names: less than what
#: whoever reads it would take, as rows and logs are in it, too.
_BYTES, _FILES, _NAMES = LIMITS.size // 2, 200_000, 16 << 20


def pack(queue: Queue, folder: str, job: JobRow) -> Tuple[str, int]:
    """Write the package; its SHA-256 and its bytes.  OSError says why that is not possible.

    BadPackage and ValueError: it never will be, as its rows are; see ``pack_little``.
    """
    spool = paths.package(folder, job.id) + ".spool"
    place.remove_tree(spool)
    os.mkdir(spool, 0o700)
    try:
        return _Gathering(queue, folder, job, spool).write()
    finally:
        place.remove_tree(spool)


def pack_little(queue: Queue, folder: str, job: JobRow, why: str) -> Tuple[str, int]:
    """A package that says only why there is no other: each test is an error of ours."""
    last = queue.attempts(job.number)[-1:]
    cases = enumerate(queue.tests(job.number))
    tests = [JobTest(each.nodeid, Test(number, each.test.path)) for number, each in cases]
    words = "what came of it cannot be packed: %s" % why
    lines = []
    for number in range(len(tests)):
        row = Execution(number, problem=Problem.NOT_RUN, detail=words)
        text = json.dumps(row, separators=(",", ":"))
        lines.append(execution_line(number, 1, text))
    manifest = {
        "job": {"id": job.id, "name": job.name},
        "how": str(job.how),
        "detail": words,
        "attempt": _attempt(last[0]) if last else None,
        "attempts": [],
        "config": {},
        "build": job.build,
        "content": job.tests,
        "host": None,
        "tests": tests,
    }
    member = Member(EXECUTIONS, b"".join(lines), None)
    return package_writer.write(paths.package(folder, job.id), manifest, [member])


class _Gathering:
    def __init__(self, queue: Queue, folder: str, job: JobRow, spool: str) -> None:
        self._queue = queue
        self._folder = folder
        self._job = job
        self._spool = spool
        self._tests: List[JobTest] = queue.tests(job.number)
        attempts: List[AttemptRow] = queue.attempts(job.number)
        self._older, self._last = attempts[:-1], attempts[-1] if attempts else None

    def write(self) -> Tuple[str, int]:
        path = paths.package(self._folder, self._job.id)
        return package_writer.write(path, self._manifest(), self._members())

    def _manifest(self) -> Dict[str, Any]:
        job, last = self._job, self._last
        config = without_secrets(job.config)._asdict()
        del config["secret"]
        return {
            "job": {
                "id": job.id, "name": job.name, "labels": list(job.labels),
                "priority": job.priority, "code": job.code, "submitted": job.submitted,
            },
            "how": str(job.how),
            "detail": job.detail,
            "attempt": None if last is None else _attempt(last),
            "attempts": [_attempt(each) for each in self._older],
            "config": config,
            "build": job.build,
            "content": job.tests,
            "host": None if last is None else self._host(last),
            "tests": self._tests,
        }  # fmt: skip

    def _host(self, attempt: AttemptRow) -> Optional[Dict[str, Any]]:
        try:
            with open(paths.host(self._folder, attempt.id), "rb") as file:
                found: Dict[str, Any] = json.loads(file.read().decode("utf-8"))
            return found
        except (OSError, ValueError):
            return None  # lost with a machine that died; the rows are not

    def _members(self) -> Iterator[Member]:
        yield self._executions()
        if self._last is not None:
            yield from self._evidence(self._last, "")
            yield from self._artefacts(self._last)
        for attempt in self._older:
            folder = "attempts/%d/" % attempt.number
            rows = self._queue.executions(attempt.id)
            yield self._rows(folder + EXECUTIONS, rows)
            yield from self._evidence(attempt, folder)

    def _executions(self) -> Member:
        """All of the last attempt, and why there is nothing of the other tests."""
        rows = self._queue.executions(self._last.id) if self._last is not None else iter(())
        return self._rows(EXECUTIONS, _completed(self._job, self._tests, rows))

    def _rows(self, name: str, rows: Iterable[_Row]) -> Member:
        path = os.path.join(self._spool, name.replace("/", "-"))
        with open(path, "wb") as file:
            file.writelines(execution_line(each[0], each[1], each[3]) for each in rows)
        return Member(name, None, path)

    def _evidence(self, attempt: AttemptRow, folder: str) -> Iterator[Member]:
        if attempt.install:
            yield Member(folder + INSTALL, attempt.install.encode("ascii"), None)
        log = paths.log(self._folder, attempt.id)
        if os.path.exists(log):
            yield Member(folder + "log.txt", None, log)

    def _artefacts(self, attempt: AttemptRow) -> Iterator[Member]:
        """What the rows name, and is there whole."""
        files = total = names = 0
        for member, path, size in self._named_files(attempt):
            files, total, names = files + 1, total + size, names + len(member)
            if files > _FILES or total > _BYTES or names > _NAMES:
                return
            yield Member(member, None, path)

    def _named_files(self, attempt: AttemptRow) -> Iterator[Tuple[str, str, int]]:
        for number, count, _, text in self._queue.executions(attempt.id):
            folder = paths.outputs(self._folder, attempt.id, number, count)
            for name, size in Execution(*json.loads(text)).artefacts:
                path = os.path.join(folder, name)
                member = "artefacts/%s/%s" % (paths.outputs_name(number, count), name)
                if _is_whole(path, size) and is_name(member):
                    yield member, path, size


def _completed(job: JobRow, tests: List[JobTest], rows: Iterable[_Row]) -> Iterator[_Row]:
    """Rows in order of test and try; a test without one gets one that says why."""
    expected = 0
    for row in rows:
        yield from (_absent(job, number) for number in range(expected, row[0]))
        expected = row[0] + 1
        yield row
    yield from (_absent(job, number) for number in range(expected, len(tests)))


def _absent(job: JobRow, number: int) -> _Row:
    execution = why_absent(number, job.how, job.detail)
    return number, 1, "error", json.dumps(execution, separators=(",", ":"))


#: A slot that is stopped sends the log what came, and no row.
_IN_LOG = "; its output, if it had begun, is in log.txt"


def why_absent(number: int, how: Optional[How], detail: str) -> Execution:
    """The Execution of a test that did not come to its end, in a job that ended so."""
    behind = ": " + detail if detail else ""
    if how == How.INSTALL_FAILED:
        return Execution(
            number, problem=Problem.NOT_RUN, detail="the install command failed" + behind
        )
    if how == How.REFUSED:
        return Execution(number, problem=Problem.NOT_RUN, detail=detail)
    if how == How.CANCELLED:
        words = "with its job" + behind + _IN_LOG
        return Execution(number, problem=Problem.CANCELLED, detail=words)
    if how == How.TIMED_OUT:
        words = "the time of its job was over" + behind + _IN_LOG
        return Execution(number, problem=Problem.CANCELLED, detail=words)
    return Execution(number, problem=Problem.HOST_LOST, detail=detail)


def _attempt(attempt: AttemptRow) -> Dict[str, Any]:
    return {
        "id": attempt.id, "number": attempt.number, "detail": attempt.detail,
        "began": attempt.began, "ended": attempt.ended,
    }  # fmt: skip


def _is_whole(path: str, size: int) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size
