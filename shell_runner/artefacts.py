"""Files that tests sent back, in the folder that the user named.

Owns that folder.  What a host says of a path is checked: nothing is written elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from .errors import UsageError
from .remote.store import FILE, Entry, check


class Artefacts:
    """Below ``folder``, a folder for each test, and in it what it wrote."""

    def __init__(self, folder: Path, limit: int, tree: Path) -> None:
        """``limit``: bytes of one test; ``tree``: where the tests are.  Raises UsageError."""
        self.folder = folder
        self._limit = limit
        self._sizes: dict[Path, int] = {}
        self._begun: set[Path] = set()
        if tree.is_relative_to(folder):
            raise UsageError(f"artefacts in {folder} could replace the tests; name another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write artefacts to {folder}: {error.strerror}") from error

    def folder_of(self, nodeid: str, attempt: int) -> Path:
        """``DIR/tests/test_x.sh``; a later attempt has a folder of its own."""
        parts = [part for part in nodeid.split("/") if part not in ("", ".", "..")]
        folder = self.folder.joinpath(*parts)
        return folder if attempt == 1 else folder.with_name(f"{folder.name}.attempt-{attempt}")

    def add(self, folder: Path, path: str, data: bytes) -> None:
        """The next piece of a file; ValueError for what a sound host would not send."""
        check(Entry(path, FILE, 0, "0" * 64))
        size = self._sizes[folder] = self._sizes.get(folder, 0) + len(data)
        if size > self._limit:
            raise ValueError(f"more artefacts of a test than {self._limit} bytes")
        target = folder / path
        mode = "ab" if target in self._begun else "wb"
        self._begun.add(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, mode) as file:
            file.write(data)
