"""Files that tests sent, written below the folder that the user named.

A path that a host sends is checked: nothing is written outside of the folder.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..errors import UsageError
from ..remote.files.manifest import FILE, ManifestEntry, validate_entry

#: Maximum number of files of one test; a host sends fewer.
_MAX_FILES = 10_000


class ArtifactFiles:
    """A folder for each test below ``folder``, with the files that the test wrote."""

    def __init__(self, folder: Path, limit: int, *trees: Path) -> None:
        """Create the folder.

        ``limit``: bytes of one test.  ``trees``: directories of tests; raises UsageError if
        ``folder`` contains one of them, or cannot be created.
        """
        self.folder = folder
        self._limit = limit
        self._sizes: dict[Path, int] = {}
        self._started_files: set[Path] = set()
        self._counts: dict[Path, int] = {}
        #: Errors of this machine, by the file that could not be written.
        self.write_errors: dict[Path, str] = {}
        if any(tree.resolve().is_relative_to(folder.resolve()) for tree in trees):
            raise UsageError(f"artifacts in {folder} could replace the tests; name another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write artifacts to {folder}: {error.strerror}") from error

    def get_folder(self, nodeid: str, attempt: int) -> Path:
        """Return ``DIR/tests/test_x.sh``, with ``.attempt-2`` for a second attempt."""
        parts = [part for part in nodeid.split("/") if part not in ("", ".", "..")]
        folder = self.folder.joinpath(*parts)
        return folder if attempt == 1 else folder.with_name(f"{folder.name}.attempt-{attempt}")

    def add(self, folder: Path, path: str, data: bytes) -> None:
        """Append ``data`` to a file of a test.

        Raises ValueError for an invalid path, and for more files or bytes than allowed.
        """
        if not isinstance(path, str):
            raise ValueError(f"the name of an artifact is not a string: {path!r}")
        validate_entry(ManifestEntry(path, FILE, 0, "0" * 64))
        if folder not in self._sizes:
            self._remove_old_files(folder)
        size = self._sizes[folder] = self._sizes.get(folder, 0) + len(data)
        if size > self._limit:
            raise ValueError(f"the artifacts of a test have more than {self._limit} bytes")
        target = folder / path
        if target not in self._started_files:
            self._counts[folder] = self._counts.get(folder, 0) + 1
            if self._counts[folder] > _MAX_FILES:
                raise ValueError(f"the artifacts of a test are more than {_MAX_FILES} files")
        if target not in self.write_errors:
            self._write(target, data)

    def has_received(self, folder: Path, path: str) -> bool:
        """Return whether this file was sent and written; ``path`` may be any value from a host."""
        target = folder / path if isinstance(path, str) else None
        return target in self._started_files and target not in self.write_errors

    def discard(self, folder: Path) -> None:
        """Discard the files of a test whose host was lost; the test runs again on another host."""
        if self._sizes.pop(folder, None) is not None:
            self._started_files = {
                path for path in self._started_files if not path.is_relative_to(folder)
            }

    def _remove_old_files(self, folder: Path) -> None:
        """Remove the files of an earlier run."""
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self, target: Path, data: bytes) -> None:
        mode = "ab" if target in self._started_files else "wb"
        self._started_files.add(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, mode) as file:
                file.write(data)
        except OSError as error:
            # A full disk here is not an error of the host; do not drop the connection.
            self.write_errors[target] = error.strerror or str(error)


def format_folder(folder: Path, here: Path) -> Path:
    """Return a folder of artifacts as a report names it, usually relative to ``here``."""
    # GitLab wants paths below the checkout, Jenkins absolute ones.
    if "JENKINS_URL" in os.environ:
        return folder.absolute()
    return Path(os.path.relpath(folder, here))
