"""Read the log of a job from its host, or from its result package once that is stored here.

Owns the change from one to the other while a log is followed.  Must not know who reads it.
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
from shell_runner.remote.jobs.result_package_format import BadPackage
from shell_runner.remote.jobs.result_package_reader import open_package

from ..model import Job, JobState
from ..store import Store, hosts, jobs
from .package_rows import LOG_MEMBER

#: Bytes of a stored log that are returned at a time.
_CHUNK_SIZE = 1 << 18
#: Seconds between two empty chunks to a reader that waits for a job to be submitted.
_KEEP_ALIVE_INTERVAL = 15.0


class LogUnavailable(NosejobsError):
    """The log of a job does not exist, or cannot be read."""


class JobLogReader:
    """A reader of the logs of jobs.  Each call of ``read`` has its own connection to the host."""

    def __init__(self, store: Store, packages: Callable[[str], Path | None]) -> None:
        """``packages`` returns the file of a digest, or None if it is not stored."""
        self._store = store
        self._packages = packages

    def read(self, job: str, start: LogPosition, follow: bool) -> Generator[LogChunk, None, None]:
        """Yield the log of a job in chunks, from ``start`` on.

        ``follow``: wait for more until the job has ended; chunks without data mean that there is
        nothing new.

        Raises LogUnavailable if there is no log, HostError if the host fails, and LogMismatch if
        the log is another one than the one that was read before ``start``.
        """
        position = start
        while True:
            seen = self._store.changed.count()
            row = self._get_job(job)
            if row.package_digest:
                yield from self._read_stored(row, position)
                return
            if row.state is JobState.LOST:
                reason = f"host {row.host} was lost with the log: {row.detail}"
                raise LogUnavailable(f"job {job}: {reason}")
            if row.state is not JobState.PLANNED:
                break
            if not follow:
                raise LogUnavailable(f"job {job} has not been submitted to {row.host} yet")
            yield LogChunk(position, b"")
            self._store.changed.wait(seen, _KEEP_ALIVE_INTERVAL)
        yield from self._read_from_host(row, position, follow)

    def _get_job(self, job: str) -> Job:
        with self._store.read() as connection:
            row = jobs.get(connection, job)
        if row is None:
            raise LogUnavailable(f"there is no job {job}")
        return row

    def _read_from_host(self, job: Job, position: LogPosition, follow: bool) -> Iterator[LogChunk]:
        """Read from the host, and continue from the package once the host has deleted the log."""
        try:
            with JobClient(self._get_spec(job.host)) as client:
                for chunk in client.read_log(job.id, position, follow):
                    yield chunk
                    position = chunk.position
        except (JobRefused, HostError) as error:
            row = self._get_job(job.id)
            if not row.package_digest or isinstance(error, LogMismatch):
                raise
            yield from self._read_stored(row, position)

    def _get_spec(self, name: str) -> specs.HostSpec:
        with self._store.read() as connection:
            host = hosts.get(connection, name)
        if host is None or not host.spec:
            raise LogUnavailable(f"host {name} does not exist any more, and the log was not stored")
        return specs.parse_specs([name], {name: HostEntry(name, host.spec)})[0]

    def _read_stored(self, job: Job, start: LogPosition) -> Iterator[LogChunk]:
        path = self._packages(job.package_digest)
        if path is None or job.removed_at is not None:
            raise LogUnavailable(
                f"job {job.id}: its package was removed, as it is older than the retention time"
            )
        try:
            with open_package(str(path)) as package:
                attempt = max(_attempt_number(package.manifest), 1)
                data = package.read(LOG_MEMBER) if LOG_MEMBER in package.list_members() else b""
        except (BadPackage, OSError) as error:
            raise LogUnavailable(f"job {job.id}: its package cannot be read: {error}") from error
        yield from _split_stored(job, data, attempt, start)


def _attempt_number(manifest: dict[str, object]) -> int:
    attempt = manifest.get("attempt")
    number = attempt.get("number") if isinstance(attempt, dict) else attempt
    return number if isinstance(number, int) else 1


def _split_stored(job: Job, data: bytes, attempt: int, start: LogPosition) -> Iterator[LogChunk]:
    offset, crc = 0, 0
    # If an older attempt was read before, this one is read from its beginning.
    if start.attempt == attempt:
        offset, crc = start.offset, zlib.crc32(data[: start.offset])
        if offset > len(data) or crc != start.crc:
            message = f"the log of job {job.id} is not the one of which {offset} bytes were read"
            raise LogMismatch(job.host, message, "read it from its beginning")
    while True:
        chunk = data[offset : offset + _CHUNK_SIZE]
        offset, crc = offset + len(chunk), zlib.crc32(chunk, crc)
        yield LogChunk(LogPosition(attempt, offset, crc), chunk, offset >= len(data))
        if offset >= len(data):
            return
