"""The client of durable jobs: one host's queue, whatever happens to the connection.

Owns the requests, their repetition over a new connection where the old one broke, and packages
that grow on this disk.  Must not know command lines.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import CannotOpen, HostError, HostLost, JobRefused, UsageError
from ..hosts.heartbeat import backoff
from ..hosts.spec import HostSpec
from ..remote.protocol.fields import InvalidField
from ..remote.protocol.job import Content, JobConfig, JobTest, NewJob, is_uuid
from ..remote.protocol.job_summary import JobSummary
from ..shipping.tree_scan import SourceTree
from ..shipping.upload import Uploaded
from .log_position import LOG_START, LogChunk, LogMismatch, LogPosition
from .responses import (
    Listing,
    LogFacts,
    News,
    Report,
    job_of,
    limits_of,
    listing_of,
    log_facts_of,
    news_of,
    report_of,
)
from .session import TIMEOUT, Session

#: Seconds that a request waits on the host for news, before it is asked again.
_LOOK = 20.0
#: How often a lost host is opened for one request; for one that waits anyway: two minutes and
#: more, in which a machine boots.
_TRIES, _TRIES_WAITING = 4, 10
#: Bytes that are asked for at once.
_PIECE = 1 << 20

T = TypeVar("T")


# -- one host ---------------------------------------------------------------------


class JobClient:
    """The queue of one host; opens it when it is needed, and again when it was lost."""

    def __init__(
        self,
        spec: HostSpec,
        timeout: float = TIMEOUT,
        say: Callable[[str], None] = lambda words: None,
        open_session: Callable[[HostSpec, float], Session] = Session,
        tries: int = 0,
    ) -> None:
        """``say``: told in words what takes long or went wrong and is tried again.

        ``tries``: how often a lost host is opened for one request; 0: as it is worth it.
        """
        self.spec = spec
        self._timeout = timeout
        self._say = say
        self._open = open_session
        self._session: Session | None = None
        self._tries = tries
        #: Whether a new job may be at the host, even if nobody has said so.
        self.may_have_handed_in = False
        #: Interrupts so far, and up to which one ``news`` knows of them.
        self._nudges = self._heard = 0
        self._nudging = threading.Lock()

    def __enter__(self) -> JobClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, if there is one."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _with_session(self, request: Callable[[Session], T], waits: bool = False) -> T:
        """What can be asked again is asked again, over a new connection."""
        opened = False
        tries = self._tries or (_TRIES_WAITING if waits else _TRIES)
        for number in range(tries):
            try:
                if self._session is None:
                    self._session = self._open(self.spec, self._timeout)
                opened = True
                return request(self._session)
            except (HostLost, CannotOpen) as error:
                self.close()
                # A host that was never there is not waited for.
                if not opened or number == tries - 1:
                    raise
                self._say(f"{error}; opening it again")
                time.sleep(backoff(number))
            except HostError:
                self.close()
                raise
        raise AssertionError("unreachable")

    def _call(self, parse: Callable[[Any], T], request: str, /, **arguments: Any) -> T:
        return self._with_session(lambda s: s.read(parse, s.call(request, **arguments)))

    def _call_of(self, job: str, name: str, **arguments: Any) -> JobSummary:
        """A request that is answered with the job of which it is."""
        return self._call(_same(job, job_of), name, job=job, **arguments)

    # -- handing in ---------------------------------------------------------------

    def submit(
        self,
        job: NewJob,
        trees: Sequence[SourceTree] = (),
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[JobSummary, list[Uploaded]]:
        """Upload what the host lacks of ``trees``, then submit the job; safe to repeat."""

        def request(session: Session) -> tuple[JobSummary, list[Uploaded]]:
            uploaded = [session.upload(tree, progress) for tree in trees]
            self.may_have_handed_in = True
            answer = session.call("submit", job=_row(job))
            return session.read(_same(job.id, job_of), answer), uploaded

        return self._with_session(request)

    def rerun(
        self, job: str, id: str, tests: Sequence[str], failed: bool, secret: str = ""
    ) -> JobSummary:
        """A new job ``id``: some tests of ``job`` again, with the same contents and config.

        ``secret``: what its notification is signed with; the host has forgotten that of ``job``.
        """

        def request(session: Session) -> JobSummary:
            self.may_have_handed_in = True
            answer = session.call(
                "rerun", job=job, id=id, tests=tests, failed=failed, secret=secret
            )
            return session.read(_same(id, job_of), answer)

        return self._with_session(request)

    # -- looking ------------------------------------------------------------------

    def jobs(self, states: Sequence[str] = (), label: str = "", limit: int = 100) -> Listing:
        """The newest jobs."""
        return self._call(listing_of, "jobs", states=states, label=label, limit=limit)

    def job(self, job: str) -> Report:
        """All that is known of one job, by its UUID or the beginning of it."""

        def parse(value: Any) -> Report:
            report = report_of(value)
            if not report.job.id.startswith(job):
                raise InvalidField(f"job {report.job.id} where {job} was asked for")
            return report

        return self._call(parse, "job", job=job)

    def find(self, job: str) -> str:
        """The UUID that begins so."""
        return job if is_uuid(job) else self.job(job).job.id

    def wait(self, job: str) -> JobSummary:
        """The job, once it has ended and can be harvested."""
        trouble = ""
        while True:
            found = self._with_session(
                lambda s: s.read(_same(job, job_of), s.call("package", job=job, seconds=_LOOK)),
                waits=True,
            )
            if found.is_done:
                return found
            if found.trouble not in ("", trouble):
                self._say(f"{self.spec.id}: job {job}: {found.trouble}")
            trouble = found.trouble

    def open(self) -> Mapping[str, Any]:
        """Open the host, if it is not; what it says of itself."""
        return self._with_session(lambda session: session.facts)

    def news(
        self, seen: Mapping[str, str], seconds: float = _LOOK, no_worker: str | None = None
    ) -> News:
        """Jobs whose state is not the one that was seen of them, as soon as there is one.

        ``seen``: states by UUID; "gone": the host has no such job; anything else: never seen.
        Empty when the time is over, and at once when somebody interrupts, also if that was
        after the last call had ended.  ``no_worker``: what was said of why nobody runs them;
        other words are news, too.
        """
        heard = self._heard

        def parse(value: Any) -> News:
            found = news_of(value)
            if not seen.keys() >= {*found.gone, *(job.id for job in found.jobs)}:
                raise InvalidField("news of a job that was not asked for")
            return found

        def request(session: Session) -> News:
            # Whoever nudges after this look finds the session, and the desk compares numbers.
            if self._nudges > heard:
                return News(no_worker=no_worker or "")
            wait = {"seconds": seconds, "nudged": heard, "no_worker": no_worker}
            return session.read(parse, session.call("news", seen=dict(seen), **wait))

        found = self._with_session(request)
        self._heard = self._nudges
        return found

    def interrupt(self) -> None:
        """End ``news``, the one that waits or the next one; from any thread."""
        with self._nudging:
            self._nudges += 1
            session = self._session
            if session is not None:
                session.nudge(self._nudges)

    def abort(self) -> None:
        """From any thread: what is asked now ends with HostLost."""
        session = self._session
        if session is not None:
            session.abort()

    def log(
        self, job: str, start: LogPosition = LOG_START, follow: bool = False, attempt: int = 0
    ) -> Iterator[LogChunk]:
        """Yield the log of an attempt (0: the last one) from ``start`` on.

        ``follow``: go on as it grows, and with the logs of later attempts, until the job has
        ended.  A connection that breaks is opened again; raises :exc:`LogMismatch` if the log is
        another one then.
        """
        position = start if start.attempt else LogPosition(attempt)
        seen: list[Any] | None = None
        while True:
            found, data = self._log(job, position, seen, follow)
            seen = found.mark
            position = LogPosition(
                found.attempt, position.offset + len(data), zlib.crc32(data, position.crc)
            )
            more = bool(data) or (follow and not found.is_end)
            yield LogChunk(position, data, not more)
            if not more:
                return
            if follow and found.over and not data and found.attempt < found.attempts:
                position = LogPosition(found.attempt + 1)

    def _log(
        self, job: str, position: LogPosition, seen: Any, follow: bool
    ) -> tuple[LogFacts, bytes]:
        def request(session: Session) -> tuple[LogFacts, bytes]:
            value, data = session.fetch(
                "log", job=job, attempt=position.attempt, offset=position.offset,
                seconds=_LOOK if follow else 0.0, seen=seen, size=_PIECE,
            )  # fmt: skip
            found = session.read(log_facts_of, value)
            if len(data) > _PIECE or (position.attempt and found.attempt != position.attempt):
                raise session.odd("another piece of a log than was asked for")
            return found, data

        try:
            found, data = self._with_session(request, waits=follow)
        except JobRefused as error:
            if error.kind == "differs":
                raise self._log_mismatch(job, position, str(error)) from error
            raise
        if position.offset and found.crc != position.crc:
            raise self._log_mismatch(job, position, "the bytes before are others")
        return found, data

    def _log_mismatch(self, job: str, position: LogPosition, why: str) -> LogMismatch:
        words = f"the log of job {job}, attempt {position.attempt}, is not the one of which "
        words += f"{position.offset} bytes were read before ({why})"
        return LogMismatch(self.spec.id, words, f"nosejobs job logs {job}, from its beginning")

    # -- the package --------------------------------------------------------------

    def download(
        self,
        job: str,
        path: Path,
        verify: Callable[[Path], None],
        progress: Callable[[int, int], None] = lambda done, total: None,
        known: JobSummary | None = None,
    ) -> JobSummary:
        """The package of a job that has ended, whole and with the digest that the host says.

        Into ``path``, by ``path.part``, which goes on where it was left.  ``verify``: raises
        for a package that is none; then nothing of it stays.  ``known``: what the host has said
        of the job since it ended.
        """
        found = known or self._call_of(job, "package", seconds=0.0)
        if not found.is_done or not found.package:
            words = f"job {found.id} is {found.state}: there is no package yet"
            hint = f"nosejobs job harvest --wait {found.id}"
            raise JobRefused(self.spec.id, "state", words, hint)
        if path.exists() and _digest(path) == found.package:
            verify(path)
            return found
        with _part(path) as (part, name):
            self._fetch(found, part, path, progress)
            try:
                verify(name)
            except BaseException:
                part.truncate(0)
                raise
            os.replace(name, path)
        return found

    def _fetch(
        self, job: JobSummary, part: Any, path: Path, progress: Callable[[int, int], None]
    ) -> None:
        resumed = seen = _begun(part, job.size)
        _refuse_without_room(path, job.size - seen.size)
        while True:
            while seen.size < job.size:
                data = self._piece(job, seen.size)
                part.write(data)
                seen = seen.add(data)
                progress(seen.size, job.size)
            if seen.hash.hexdigest() == job.package:
                part.flush()
                os.fsync(part.fileno())
                return
            part.truncate(0)
            part.seek(0)
            if not resumed.size:
                words = f"the package of job {job.id} does not have the digest that it names"
                raise HostError(self.spec.id, words, "harvest it again; nothing was acknowledged")
            # What was there before is of another package.
            resumed = seen = _Seen(0, hashlib.sha256())

    def _piece(self, job: JobSummary, offset: int) -> bytes:
        size = min(_PIECE, job.size - offset)

        def request(session: Session) -> bytes:
            _, data = session.fetch("fetch", job=job.id, offset=offset, size=size)
            if len(data) > size or not data:
                raise session.odd(f"{len(data)} bytes of a package where {size} are asked for")
            return data

        return self._with_session(request)

    def acknowledge(self, job: str, digest: str) -> JobSummary:
        """The package is safe here: the host may let it go."""
        return self._call_of(job, "acknowledge", digest=digest)

    # -- changing -----------------------------------------------------------------

    def cancel(self, job: str) -> JobSummary:
        """The job is to end; what has run of it comes as a package like any other."""
        return self._call_of(job, "cancel")

    def forget(self, job: str, force: bool = False) -> JobSummary:
        """Nothing of the job stays on the host."""
        return self._call_of(job, "forget", force=force)

    def limits(self) -> Mapping[str, int]:
        """What the host's queue is bounded by."""
        return self._call(limits_of, "limits")

    def set_limit(self, name: str, value: int) -> Mapping[str, int]:
        """The same, after one has been changed."""
        return self._call(limits_of, "limit", name=name, value=value)


def _same(job: str, parse: Callable[[Any], JobSummary]) -> Callable[[Any], JobSummary]:
    def check(value: Any) -> JobSummary:
        found = parse(value)
        if found.id != job:
            raise InvalidField(f"job {found.id} where {job} was asked for")
        return found

    return check


def _row(job: NewJob) -> dict[str, Any]:
    """As it travels."""
    return {**job._asdict(), "config": job.config._asdict()}


@dataclass(frozen=True)
class _Seen:
    """What has come of a package."""

    size: int
    hash: Any

    def add(self, data: bytes) -> _Seen:
        self.hash.update(data)
        return _Seen(self.size + len(data), self.hash)


def _begun(part: Any, size: int) -> _Seen:
    """What an earlier harvest has left; nothing if it is of a larger package."""
    if os.fstat(part.fileno()).st_size > size:
        part.truncate(0)
    seen = _Seen(0, hashlib.sha256())
    part.seek(0)
    while data := part.read(_PIECE):
        seen = seen.add(data)
    return seen


@contextlib.contextmanager
def _part(path: Path) -> Iterator[tuple[Any, Path]]:
    """The file in which a package grows, ours alone."""
    name = path.with_name(f"{path.name}.part")
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise UsageError(f"cannot write {name}: {error.strerror}") from error
    with open(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"{name}: another harvest is at it") from error
        try:
            yield file, name
        finally:
            # What is complete has been renamed; an empty one is of no use.
            with contextlib.suppress(OSError):
                if not name.stat().st_size:
                    name.unlink()


def _refuse_without_room(path: Path, size: int) -> None:
    found = os.statvfs(path.parent)
    room = found.f_bavail * found.f_frsize
    if size > room:
        raise UsageError(f"{path}: the package needs {size} bytes more, the disk has {room}")


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def new_job(
    id: str,
    tests: Content,
    build: Content | None,
    config: JobConfig,
    cases: Sequence[JobTest],
    name: str = "",
    labels: Sequence[str] = (),
    priority: int = 0,
) -> NewJob:
    """A job whose tests are numbered in their order."""
    numbered = (
        case._replace(test=case.test._replace(id=number)) for number, case in enumerate(cases)
    )
    return NewJob(id, tests, build, config, tuple(numbered), name, tuple(labels), priority)
