"""A store of files by digest, for result packages and the artifacts of builds.

Owns one folder.  A file is complete or absent, also after a power failure, and is written once.
The database knows which files are still referred to.  Must not know what is in them.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from shell_runner.errors import NosejobsError
from shell_runner.remote.files.manifest import is_digest

from ..configuration.settings import TEMPORARY_PREFIX

_LOG = logging.getLogger(__name__)
#: Seconds that a blob stays without a row that refers to it: the row may be about to be written.
_MIN_SWEEP_AGE = 3600.0
#: Suffix of a file whose contents do not have the digest of its name.
_DAMAGED_SUFFIX = ".damaged"


class Blob(NamedTuple):
    """A stored file."""

    #: SHA-256, in hex.
    digest: str
    size: int


class BlobStore:
    """A folder of files, each named by its SHA-256 digest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: str) -> Path:
        """Return the path of a blob, which may not exist.

        Raises ValueError if ``digest`` is not a SHA-256 digest in hex.
        """
        if not is_digest(digest):
            raise ValueError(f"not a digest: {digest!r}")
        return self.folder / digest[:2] / digest

    def has(self, digest: str) -> bool:
        """Return whether the blob is stored."""
        return is_digest(digest) and self.path(digest).is_file()

    def verify(self, digest: str) -> bool:
        """Return whether the contents of a blob have its digest; if not, rename it.

        A renamed blob counts as absent.  Raises NosejobsError if it cannot be read.
        """
        path = self.path(digest)
        with _name_folder_in_errors(self.folder), open(path, "rb") as file:
            is_valid = hashlib.file_digest(file, "sha256").hexdigest() == digest
        if not is_valid:
            _LOG.error("%s is damaged; renamed to %s%s", path, path.name, _DAMAGED_SUFFIX)
            os.replace(path, f"{path}{_DAMAGED_SUFFIX}")
        return is_valid

    def take(self, path: Path) -> Blob:
        """Move a file of the same file system into the store.

        Raises NosejobsError if the disk is full or fails.
        """
        with _name_folder_in_errors(self.folder), open(path, "rb") as file:
            digest, size = hashlib.file_digest(file, "sha256"), os.fstat(file.fileno()).st_size
            os.fsync(file.fileno())
        blob = Blob(digest.hexdigest(), size)
        self._move(path, blob)
        return blob

    @contextlib.contextmanager
    def temporary_file(self) -> Iterator[Path]:
        """Yield an empty file for the caller to write and to ``take``; remove it at the end."""
        with _name_folder_in_errors(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=self.folder)
            os.close(descriptor)
            try:
                yield Path(name)
            finally:
                Path(name).unlink(missing_ok=True)

    def _move(self, path: Path, blob: Blob) -> None:
        target = self.path(blob.digest)
        with _name_folder_in_errors(self.folder):
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if target.is_file():
                os.utime(target)  # a row is about to refer to it
                path.unlink()
                return
            os.chmod(path, 0o600)
            os.replace(path, target)
            _sync(target.parent)
            _sync(self.folder)

    def recover(self) -> None:
        """Remove the temporary files of a killed process.

        Call it only while no other thread uses the store.
        """
        with _name_folder_in_errors(self.folder):
            for path in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def sweep(self, referred: Collection[str], now: float | None = None) -> list[str]:
        """Remove old blobs whose digest is not in ``referred``, and return their digests.

        Recent blobs stay, since a row that refers to them may be about to be written; temporary
        files stay, too.  ``now``: seconds since the epoch, by default the present time.
        """
        before = (time.time() if now is None else now) - _MIN_SWEEP_AGE
        removed = []
        for path in self._all():
            with contextlib.suppress(FileNotFoundError):
                if path.name not in referred and path.stat().st_mtime < before:
                    path.unlink()
                    removed.append(path.name)
        return sorted(removed)

    def _all(self) -> Iterator[Path]:
        return (each for each in self.folder.glob("??/*") if is_digest(each.name))


@contextlib.contextmanager
def _name_folder_in_errors(folder: Path) -> Iterator[None]:
    """Turn OSError into a NosejobsError whose message names the folder."""
    try:
        yield
    except OSError as error:
        raise NosejobsError(f"{folder}: {error.strerror or error}") from error


def _sync(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
