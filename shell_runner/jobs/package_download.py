"""The download of a result package, resumed where an earlier download stopped.

Responsible for the file that grows on this disk, its digest and its lock.  Must not know
connections: the caller reads the bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import HostError, UsageError
from ..remote.protocol.job_summary import JobSummary

#: Bytes that are requested at once.
_CHUNK_SIZE = 1 << 20

#: Returns bytes of the package, given offset and maximum size.
ReadPiece = Callable[[int, int], bytes]
#: Called with the bytes that have arrived, and with their total.
Progress = Callable[[int, int], None]


def download_package(
    host: str,
    job: JobSummary,
    path: Path,
    read_piece: ReadPiece,
    verify: Callable[[Path], None],
    progress: Progress,
) -> None:
    """Download the package of ``job`` to ``path``, by way of ``path.part``.

    A ``path.part`` of an earlier download is continued; a ``path`` that is the package already is
    not downloaded again.  ``verify`` raises for a file that is not a valid package; then nothing
    of it is kept.  Raises :exc:`HostError` if the package does not have the digest that the host
    names, and :exc:`UsageError` if the file cannot be written, the disk is too small, or another
    process downloads to it.
    """
    if path.exists() and _compute_digest(path) == job.package_digest:
        verify(path)
        return
    with _open_part(path) as (file, part):
        _fetch(host, job, file, path, read_piece, progress)
        try:
            verify(part)
        except BaseException:
            file.truncate(0)
            raise
        os.replace(part, path)


def _fetch(
    host: str, job: JobSummary, file: Any, path: Path, read_piece: ReadPiece, progress: Progress
) -> None:
    size = job.package_size
    received = _Received(file, size)
    resumed_at = received.size
    _check_disk_space(path, size - received.size)
    while True:
        while received.size < size:
            received.append(read_piece(received.size, min(_CHUNK_SIZE, size - received.size)))
            progress(received.size, size)
        if received.hash.hexdigest() == job.package_digest:
            file.flush()
            os.fsync(file.fileno())
            return
        if not resumed_at:
            file.truncate(0)
            message = f"the package of job {job.id} does not match its digest"
            raise HostError(host, message, "harvest it again; nothing was acknowledged")
        # The part that was resumed is of another package.
        received.clear()
        resumed_at = 0


class _Received:
    """The bytes of a package that are in the file, and their SHA-256."""

    def __init__(self, file: Any, max_size: int) -> None:
        """Read what an earlier download left; discard it if it is of a larger package."""
        self._file = file
        self.size = 0
        self.hash = hashlib.sha256()
        if os.fstat(file.fileno()).st_size > max_size:
            file.truncate(0)
        file.seek(0)
        while data := file.read(_CHUNK_SIZE):
            self._count(data)

    def append(self, data: bytes) -> None:
        """Write more bytes."""
        self._file.write(data)
        self._count(data)

    def _count(self, data: bytes) -> None:
        self.size += len(data)
        self.hash.update(data)

    def clear(self) -> None:
        """Start again with an empty file."""
        self._file.truncate(0)
        self._file.seek(0)
        self.size = 0
        self.hash = hashlib.sha256()


@contextlib.contextmanager
def _open_part(path: Path) -> Iterator[tuple[Any, Path]]:
    """Yield the file in which a package grows, locked, and its path."""
    part = path.with_name(f"{path.name}.part")
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise UsageError(f"cannot write {part}: {error.strerror}") from error
    with open(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"{part} is in use by another harvest") from error
        try:
            yield file, part
        finally:
            # A complete file has been renamed; an empty one is of no use.
            with contextlib.suppress(OSError):
                if not part.stat().st_size:
                    part.unlink()


def _check_disk_space(path: Path, size: int) -> None:
    """Raise :exc:`UsageError` unless ``size`` bytes fit on the disk."""
    disk = os.statvfs(path.parent)
    free = disk.f_bavail * disk.f_frsize
    if size > free:
        raise UsageError(f"{path}: the package needs {size} more bytes; {free} are free")


def _compute_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
