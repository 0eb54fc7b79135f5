"""Files that are kept by their digest: result packages, artefacts of builds.

Owns one folder.  A file is there whole or not at all, also after a power cut; one that is there
already is not written again.  Which of them somebody still refers to, rows say.  Must not know
what is in them.
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
from shell_runner.remote.manifest import is_digest

from .settings import PART

_LOG = logging.getLogger(__name__)
#: Seconds that a file stays which no row refers to: one is being written that will.
_FRESH = 3600.0
#: What is added to the name of one that is not what its name says.
_DAMAGED = ".damaged"


class Kept(NamedTuple):
    """A file that is kept."""

    #: SHA-256, in hex.
    digest: str
    size: int


class Blobs:
    """A folder of files, each called by its digest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: str) -> Path:
        """Where the file of this digest is, or would be."""
        if not is_digest(digest):
            raise ValueError(f"not a digest: {digest!r}")
        return self.folder / digest[:2] / digest

    def holds(self, digest: str) -> bool:
        """Whether it is here."""
        return is_digest(digest) and self.path(digest).is_file()

    def verify(self, digest: str) -> bool:
        """Whether it is what its name says; if not, it is set aside: it is not here any more."""
        path = self.path(digest)
        with _told(self.folder), open(path, "rb") as file:
            sound = hashlib.file_digest(file, "sha256").hexdigest() == digest
        if not sound:
            _LOG.error("%s is damaged: it is set aside as %s%s", path, path.name, _DAMAGED)
            os.replace(path, f"{path}{_DAMAGED}")
        return sound

    def take(self, path: Path) -> Kept:
        """Keep a file of this disk, which is moved away; raises NosejobsError (a full disk)."""
        with _told(self.folder), open(path, "rb") as file:
            digest, size = hashlib.file_digest(file, "sha256"), os.fstat(file.fileno()).st_size
            os.fsync(file.fileno())
        kept = Kept(digest.hexdigest(), size)
        self._place(path, kept)
        return kept

    @contextlib.contextmanager
    def part(self) -> Iterator[Path]:
        """An empty file of ours to write into, and then to ``take``; nothing of it stays."""
        with _told(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=PART, dir=self.folder)
            os.close(descriptor)
            try:
                yield Path(name)
            finally:
                Path(name).unlink(missing_ok=True)

    def _place(self, path: Path, kept: Kept) -> None:
        target = self.path(kept.digest)
        with _told(self.folder):
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
        """Remove what was being written when its process died; nobody writes now."""
        with _told(self.folder):
            for path in self.folder.glob(f"{PART}*"):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def sweep(self, referred: Collection[str], now: float | None = None) -> list[str]:
        """Remove what nobody refers to and nobody is about to; the digests.

        What is not whole belongs to who writes it.
        """
        before = (time.time() if now is None else now) - _FRESH
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
def _told(folder: Path) -> Iterator[None]:
    """Trouble with the disk says where."""
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
