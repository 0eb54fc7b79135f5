"""The artifacts of a test: files that it leaves in its outputs directory.

Responsible for selecting files and reading them in pieces.  No link is followed, only regular
files are taken, and the bytes, the number and the depth of the files of one test are limited.
Must not depend on channels or messages.
"""

import os
import stat
from typing import Iterable, Iterator, List, NamedTuple, Optional, Tuple

from ..files.path_limits import MAX_PATH_COMPONENTS, describe_path_excess

#: Maximum bytes of one piece.
_MAX_PIECE_BYTES = 1 << 18
#: Maximum number of files of one test, and bytes of their paths together; the others are only
#: counted.  The result of the test names the files, and its size is limited.
_MAX_FILES = 10_000
_MAX_PATH_BYTES = 1 << 20


class SelectedArtifacts(NamedTuple):
    """The files of one test that are sent back."""

    files: Tuple[Tuple[str, int], ...]
    #: Number of files over a limit, which are not sent; a folder that is nested too deeply, or
    #: that cannot be read, counts as one.
    omitted_count: int


def select_artifacts(folder: str, limit: int) -> SelectedArtifacts:
    """Select regular files below ``folder`` in order of name, up to ``limit`` bytes in total."""
    files: List[Tuple[str, int]] = []
    omitted_count = total = path_bytes = 0
    if os.path.islink(folder):  # the test has replaced its directory by a link
        return SelectedArtifacts((), 0)
    for path, size in _list_regular_files(folder):
        if size is None or total + size > limit or len(files) >= _MAX_FILES:
            omitted_count += 1
            continue
        path_bytes += len(os.fsencode(path))
        if path_bytes > _MAX_PATH_BYTES:
            omitted_count += 1
            continue
        total += size
        files.append((path, size))
    return SelectedArtifacts(tuple(files), omitted_count)


def _list_regular_files(folder: str) -> Iterator[Tuple[str, Optional[int]]]:
    """Yield path and size of each file; None is the size of what cannot be sent."""
    unread: List[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=unread.append):
        folders.sort()
        if parent.count("/") - folder.count("/") >= MAX_PATH_COMPONENTS - 1:
            yield from ((name, None) for name in folders)
            folders.clear()
        for name in sorted(names):
            path = os.path.join(parent, name)
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                continue
            except OSError:  # its absolute path is too long
                yield name, None
                continue
            if stat.S_ISREG(status.st_mode):
                relative = os.path.relpath(path, folder)
                yield relative, None if describe_path_excess(relative) else status.st_size
    yield from (("", None) for error in unread if not isinstance(error, FileNotFoundError))


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
