"""The log of a job, wherever it is by now: on its host, or in its package here.

Owns the way from one to the other.  Must not know who reads it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from shell_runner.config import HostEntry
from shell_runner.errors import HostError, JobRefused, NosejobsError
from shell_runner.hosts import spec as specs
from shell_runner.jobs.client import JobClient
from shell_runner.jobs.log_position import LogChunk, LogMismatch, LogPosition
from shell_runner.remote.jobs.package_format import BadPackage
from shell_runner.remote.jobs.package_reader import open_package

from ..model import Job, JobState
from ..store import Store, hosts, jobs

_MEMBER = "log.txt"
_PIECE = 1 << 18
#: Seconds after which who follows hears that there is nothing new.
_LOOK = 15.0


class NoLog(NosejobsError):
    """There is no log of this job."""


class Logs:
    """Reads logs of jobs; each reader has a connection of its own to the host."""

    def __init__(self, store: Store, packages: Callable[[str], Path | None]) -> None:
        """``packages``: the file of a digest, if it is kept here."""
        self._store = store
        self._packages = packages

    def read(self, job: str, start: LogPosition, follow: bool) -> Generator[LogChunk, None, None]:
        """From a place on, as ``jobs.JobClient.log`` has it; raises NoLog, HostError.

        ``follow``: as it grows; pieces without data say that there is nothing new.
        """
        place = start
        while True:
            seen = self._store.changed.now()
            found = self._job(job)
            if found.package_digest:
                yield from self._stored(found, place)
                return
            if found.state is JobState.LOST:
                raise NoLog(f"job {job}: host {found.host} was lost with its log: {found.detail}")
            if found.state is not JobState.PLANNED:
                break
            if not follow:
                raise NoLog(f"job {job} has not been handed to {found.host} yet")
            yield LogChunk(place, b"")
            self._store.changed.wait(seen, _LOOK)
        yield from self._at_host(found, place, follow)

    def _job(self, job: str) -> Job:
        with self._store.read() as connection:
            found = jobs.get(connection, job)
        if found is None:
            raise NoLog(f"there is no job {job}")
        return found

    def _at_host(self, job: Job, place: LogPosition, follow: bool) -> Iterator[LogChunk]:
        """A host may forget its log as soon as the package is here: then it goes on here."""
        try:
            with JobClient(self._spec(job.host)) as client:
                for piece in client.log(job.id, place, follow):
                    yield piece
                    place = piece.position
        except (JobRefused, HostError) as error:
            found = self._job(job.id)
            if not found.package_digest or isinstance(error, LogMismatch):
                raise
            yield from self._stored(found, place)

    def _spec(self, name: str) -> specs.HostSpec:
        with self._store.read() as connection:
            host = hosts.get(connection, name)
        if host is None or not host.spec:
            raise NoLog(f"host {name} is gone, and has taken the log with it")
        return specs.parse([name], {name: HostEntry(name, host.spec)})[0]

    def _stored(self, job: Job, start: LogPosition) -> Iterator[LogChunk]:
        path = self._packages(job.package_digest)
        if path is None or job.removed_at is not None:
            raise NoLog(f"job {job.id}: its package was removed, because it is old")
        try:
            with open_package(str(path)) as package:
                attempt = max(_attempt(package.manifest), 1)
                data = package.read(_MEMBER) if _MEMBER in package.names() else b""
        except (BadPackage, OSError) as error:
            raise NoLog(f"job {job.id}: its package cannot be read: {error}") from error
        yield from _pieces(job, data, attempt, start)


def _attempt(manifest: dict[str, object]) -> int:
    found = manifest.get("attempt")
    number = found.get("number") if isinstance(found, dict) else found
    return number if isinstance(number, int) else 1


def _pieces(job: Job, data: bytes, attempt: int, start: LogPosition) -> Iterator[LogChunk]:
    offset, crc = 0, 0
    # An older attempt was read before: this one is read from its beginning.
    if start.attempt == attempt:
        offset, crc = start.offset, zlib.crc32(data[: start.offset])
        if offset > len(data) or crc != start.crc:
            words = f"the log of job {job.id} is not the one of which {offset} bytes were read"
            raise LogMismatch(job.host, words, "read it from its beginning")
    while True:
        piece = data[offset : offset + _PIECE]
        offset, crc = offset + len(piece), zlib.crc32(piece, crc)
        yield LogChunk(LogPosition(attempt, offset, crc), piece, offset >= len(data))
        if offset >= len(data):
            return
