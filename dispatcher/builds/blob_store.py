"""A store of files by digest: result packages and the artifacts of builds.

Owns one folder.  A file is complete or absent, also after a power cut; one that is stored already
is not written again.  The database knows which files are still referred to.  Must not know what
is in them.
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

from ..configuration.settings import PART

_LOG = logging.getLogger(__name__)
#: Seconds that a blob stays though no row refers to it: the row may be about to be written.
_MIN_AGE = 3600.0
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
        """Return the path of a blob, which may not exist; ValueError if ``digest`` is none."""
        if not is_digest(digest):
            raise ValueError(f"not a digest: {digest!r}")
        return self.folder / digest[:2] / digest

    def holds(self, digest: str) -> bool:
        """Return whether the blob is stored."""
        return is_digest(digest) and self.path(digest).is_file()

    def verify(self, digest: str) -> bool:
        """Return whether a blob has its digest; if not, rename it, so that it is absent."""
        path = self.path(digest)
        with _name_folder_in_errors(self.folder), open(path, "rb") as file:
            sound = hashlib.file_digest(file, "sha256").hexdigest() == digest
        if not sound:
            _LOG.error("%s is damaged: it is set aside as %s%s", path, path.name, _DAMAGED_SUFFIX)
            os.replace(path, f"{path}{_DAMAGED_SUFFIX}")
        return sound

    def take(self, path: Path) -> Blob:
        """Move a file of the same file system into the store; NosejobsError if the disk is full."""
        with _name_folder_in_errors(self.folder), open(path, "rb") as file:
            digest, size = hashlib.file_digest(file, "sha256"), os.fstat(file.fileno()).st_size
            os.fsync(file.fileno())
        blob = Blob(digest.hexdigest(), size)
        self._place(path, blob)
        return blob

    @contextlib.contextmanager
    def temporary_file(self) -> Iterator[Path]:
        """Yield an empty file to write into and then to ``take``; it is removed otherwise."""
        with _name_folder_in_errors(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=PART, dir=self.folder)
            os.close(descriptor)
            try:
                yield Path(name)
            finally:
                Path(name).unlink(missing_ok=True)

    def _place(self, path: Path, blob: Blob) -> None:
        target = self.path(blob.digest)
        with _name_folder_in_errors(self.folder):
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if target.is_file():
                os.utime(target)  # somebody is about to refer to it
                path.unlink()
                return
            os.chmod(path, 0o600)
            os.replace(path, target)
            _sync(target.parent)
            _sync(self.folder)

    def recover(self) -> None:
        """Remove what a killed process left half written; call it only while nothing is stored."""
        with _name_folder_in_errors(self.folder):
            for path in self.folder.glob(f"{PART}*"):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def sweep(self, referred: Collection[str], now: float | None = None) -> list[str]:
        """Remove old blobs that are not in ``referred``, and return their digests.

        Recent ones stay, since a row that refers to them may be about to be written, and so do
        temporary files.
        """
        before = (time.time() if now is None else now) - _MIN_AGE
        found = []
        for path in self._all():
            with contextlib.suppress(FileNotFoundError):
                if path.name not in referred and path.stat().st_mtime < before:
                    path.unlink()
                    found.append(path.name)
        return sorted(found)

    def _all(self) -> Iterator[Path]:
        return (each for each in self.folder.glob("??/*") if is_digest(each.name))


@contextlib.contextmanager
def _name_folder_in_errors(folder: Path) -> Iterator[None]:
    """Raise OSError as NosejobsError whose message names the folder."""
    try:
        yield
    except OSError as error:
        raise NosejobsError(f"{folder}: {error.strerror or error}") from error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
