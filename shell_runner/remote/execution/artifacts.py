"""The artifacts of a test: files that it leaves in its outputs directory.

Responsible for selecting files and reading them in pieces.  No link is followed, only regular
files are taken, and the bytes of one test are limited.  Must not depend on channels or messages.
"""

import os
import stat
from typing import Iterable, Iterator, List, NamedTuple, Tuple

#: Maximum bytes of one piece.
_MAX_PIECE_BYTES = 1 << 18
#: Maximum number of files of one test; the others are only counted.
_MAX_FILES = 10_000


class SelectedArtifacts(NamedTuple):
    """The files of one test that are sent back, and the number of those that are not."""

    files: Tuple[Tuple[str, int], ...]
    omitted_count: int


def select_artifacts(folder: str, limit: int) -> SelectedArtifacts:
    """Select regular files below ``folder`` in order of name, up to ``limit`` bytes in total."""
    files: List[Tuple[str, int]] = []
    omitted_count = total = 0
    if os.path.islink(folder):  # the test has replaced its directory by a link
        return SelectedArtifacts((), 0)
    for path, size in _list_regular_files(folder):
        if total + size > limit or len(files) >= _MAX_FILES:
            omitted_count += 1
            continue
        total += size
        files.append((path, size))
    return SelectedArtifacts(tuple(files), omitted_count)


def _list_regular_files(folder: str) -> Iterator[Tuple[str, int]]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            try:
                status = os.lstat(path)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                yield os.path.relpath(path, folder), status.st_size


class ArtifactPiece(NamedTuple):
    """A part of an artifact."""

    #: The path of the file, relative to the outputs directory.
    path: str
    data: bytes
    is_last: bool


def read_pieces(folder: str, files: Iterable[Tuple[str, int]]) -> Iterator[ArtifactPiece]:
    """Yield the contents of ``files`` in ``folder``; each has a path and a size.

    A file that has vanished or cannot be opened is skipped.
    """
    for path, size in files:
        try:
            # Since the selection the file may have been replaced by a link or a pipe.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(os.path.join(folder, path), flags)
        except OSError:
            continue
        with open(descriptor, "rb") as file:
            remaining = size
            while True:
                data = file.read(min(_MAX_PIECE_BYTES, remaining))
                remaining -= len(data)
                is_last = not data or remaining == 0
                yield ArtifactPiece(path, data, is_last)
                if is_last:
                    break
