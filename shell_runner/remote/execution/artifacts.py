"""What a test leaves in its outputs directory, on its way back.

Owns the choice of files and their sending in pieces.  No link is followed, nothing but
regular files is taken, and the bytes of one test are bounded.  Must not know channels or messages.
"""

import os
import stat
from typing import Iterable, Iterator, List, NamedTuple, Tuple

#: Bytes of one piece.
_PIECE = 1 << 18
#: Files of one test, at most; more are counted only.
_MOST = 10_000


class Chosen(NamedTuple):
    """The files of one test that go back, and how many do not."""

    files: Tuple[Tuple[str, int], ...]
    left: int


def choose(folder: str, limit: int) -> Chosen:
    """Regular files below ``folder``, in order of name, of ``limit`` bytes in all."""
    files: List[Tuple[str, int]] = []
    left = total = 0
    if os.path.islink(folder):  # the test has put a link where its directory was
        return Chosen((), 0)
    for path, size in _regular_files(folder):
        if total + size > limit or len(files) >= _MOST:
            left += 1
            continue
        total += size
        files.append((path, size))
    return Chosen(tuple(files), left)


def _regular_files(folder: str) -> Iterator[Tuple[str, int]]:
    for here, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(here, name)
            try:
                found = os.lstat(path)
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode):
                yield os.path.relpath(path, folder), found.st_size


class Piece(NamedTuple):
    """A part of a file."""

    #: Relative to the outputs directory.
    path: str
    data: bytes
    is_last: bool


def pieces(folder: str, files: Iterable[Tuple[str, int]]) -> Iterator[Piece]:
    """Yield the contents of ``files`` in ``folder``, each given by its path and its size."""
    for path, size in files:
        try:
            # Between the choice and now it may have become a link or a pipe.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(os.path.join(folder, path), flags)
        except OSError:
            continue
        with open(descriptor, "rb") as file:
            left = size
            while True:
                data = file.read(min(_PIECE, left))
                left -= len(data)
                last = not data or left == 0
                yield Piece(path, data, last)
                if last:
                    break
