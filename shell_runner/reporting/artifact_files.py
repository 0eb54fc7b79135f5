"""Files that tests sent back, in the folder that the user named.

Owns that folder.  What a host says of a path is checked: nothing is written elsewhere.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..errors import UsageError
from ..remote.files.manifest import FILE, ManifestEntry, validate_entry

#: Files of one test; more than any sound host sends.
_FILES = 10_000


class ArtifactFiles:
    """Below ``folder``, a folder for each test, and in it what it wrote."""

    def __init__(self, folder: Path, limit: int, *trees: Path) -> None:
        """``limit``: bytes of one test; ``trees``: where the tests are.  Raises UsageError."""
        self.folder = folder
        self._limit = limit
        self._sizes: dict[Path, int] = {}
        self._begun: set[Path] = set()
        self._counts: dict[Path, int] = {}
        #: Files that this machine could not write, and why.
        self.write_errors: dict[Path, str] = {}
        if any(tree.resolve().is_relative_to(folder.resolve()) for tree in trees):
            raise UsageError(f"artefacts in {folder} could replace the tests; name another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write artefacts to {folder}: {error.strerror}") from error

    def get_folder(self, nodeid: str, attempt: int) -> Path:
        """``DIR/tests/test_x.sh``; a later attempt has a folder of its own."""
        parts = [part for part in nodeid.split("/") if part not in ("", ".", "..")]
        folder = self.folder.joinpath(*parts)
        return folder if attempt == 1 else folder.with_name(f"{folder.name}.attempt-{attempt}")

    def add(self, folder: Path, path: str, data: bytes) -> None:
        """The next piece of a file; ValueError for what a sound host would not send."""
        if not isinstance(path, str):
            raise ValueError(f"the name of an artefact is no text: {path!r}")
        validate_entry(ManifestEntry(path, FILE, 0, "0" * 64))
        if folder not in self._sizes:
            self._forget(folder)
        size = self._sizes[folder] = self._sizes.get(folder, 0) + len(data)
        if size > self._limit:
            raise ValueError(f"more artefacts of a test than {self._limit} bytes")
        target = folder / path
        if target not in self._begun:
            self._counts[folder] = self._counts.get(folder, 0) + 1
            if self._counts[folder] > _FILES:
                raise ValueError(f"more artefacts of a test than {_FILES} files")
        if target not in self.write_errors:
            self._write(target, data)

    def has_received(self, folder: Path, path: str) -> bool:
        """Whether this file has come and is there; a host may claim any name."""
        target = folder / path if isinstance(path, str) else None
        return target in self._begun and target not in self.write_errors

    def discard(self, folder: Path) -> None:
        """What has come so far is of a host that was lost: the test runs again elsewhere."""
        if self._sizes.pop(folder, None) is not None:
            self._begun = {path for path in self._begun if not path.is_relative_to(folder)}

    def _forget(self, folder: Path) -> None:
        """An earlier run's files are not this run's."""
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self, target: Path, data: bytes) -> None:
        mode = "ab" if target in self._begun else "wb"
        self._begun.add(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, mode) as file:
                file.write(data)
        except OSError as error:
            # A full disk here is no fault of the host, and no reason to lose it.
            self.write_errors[target] = error.strerror or str(error)


def format_folder(folder: Path, here: Path) -> Path:
    """As whoever reads a report wants a folder of artefacts called."""
    # GitLab wants paths below the checkout, Jenkins absolute ones.
    if "JENKINS_URL" in os.environ:
        return folder.absolute()
    return Path(os.path.relpath(folder, here))
