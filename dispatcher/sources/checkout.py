"""Write the files of a revision into a folder, which is complete or not there.

Whatever is in a tree was written by a stranger: no path and no link of it leads out of the
folder, and nothing is written through a link.  Must not know where the contents come from.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from shell_runner.remote.files.manifest import FILE, LINK, BadEntry, Entry, check
from shell_runner.text import printable, to_single_line

from ..configuration.settings import PART
from .git_command import SourceError

#: Bytes that are read and written at a time.
CHUNK_SIZE = 1 << 20
#: Nested folders, as many as in an archive.
_MAX_DEPTH = 256
#: Bytes of the target of a link (PATH_MAX).
_MAX_LINK_BYTES = 4095
#: Links that Linux follows on the way to one file.
_MAX_HOPS = 40
#: Path components that are followed to find out where all links of a tree lead.
_MAX_STEPS = 5_000_000
#: Characters of one line of text for people.
MAX_LINE_CHARS = 300


class TreeEntry(NamedTuple):
    """A file, link or submodule of a revision, as ``git ls-tree`` lists it."""

    mode: bytes
    object: bytes
    size: int
    path: bytes

    @property
    def is_link(self) -> bool:
        return self.mode == b"120000"

    @property
    def is_submodule(self) -> bool:
        return self.mode == b"160000"


#: Yields the contents of an entry in chunks.
ReadEntry = Callable[[TreeEntry], Iterator[bytes]]


def parse_entry(row: bytes) -> TreeEntry:
    """Parse a line of ``git ls-tree -l -z``.

    Raises SourceError for a path that leads out of the tree, is nested too deeply, or would make
    a repository of a folder.
    """
    head, path = row.split(b"\t", 1)
    mode, _, name, size = head.split()
    parts = path.lower().split(b"/")
    if b".git" in parts:
        raise SourceError(f"{display_path(path)}: nothing of a tree may be called .git")
    if len(parts) > _MAX_DEPTH:
        raise SourceError(
            f"{display_path(path)[:MAX_LINE_CHARS]}: more than {_MAX_DEPTH} folders deep"
        )
    check_entry(Entry(os.fsdecode(path), FILE, 0, "0" * 64))
    return TreeEntry(mode, name, int(size) if size.isdigit() else 0, path)


def check_entry(entry: Entry) -> None:
    """Raise SourceError if a path or the target of a link leads out of the tree."""
    try:
        check(entry)
    except BadEntry as error:
        raise SourceError(
            f"its tree is refused: {to_single_line(str(error), MAX_LINE_CHARS)}"
        ) from None


def display_path(path: bytes) -> str:
    """Return a path as it can be shown on a terminal."""
    return printable(os.fsdecode(path))


@contextlib.contextmanager
def write_atomically(folder: Path, what: str) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to ``folder`` at the end.

    After an error nothing is left of it.  OSError becomes SourceError, whose message names
    ``what`` was to be written.
    """
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=PART, dir=folder.parent))
        try:
            yield part
            part.chmod(0o755)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        name = os.fsdecode(error.filename or b"").partition(f"/{PART}")[2].partition("/")[2]
        where = f" ({to_single_line(name, MAX_LINE_CHARS)})" if name else ""
        raise SourceError(f"{what} cannot be written: {error.strerror}{where}") from error


def write_entries(root: bytes, entries: Sequence[TreeEntry], read: ReadEntry, what: str) -> None:
    """Write files first and links last, so that nothing is ever written through a link."""
    links: dict[bytes, bytes] = {}
    for entry in entries:
        if entry.is_submodule:
            os.makedirs(os.path.join(root, entry.path))
        elif entry.is_link:
            if entry.size > _MAX_LINK_BYTES:
                raise SourceError(f"{what}: the link {display_path(entry.path)} is too long")
            links[entry.path] = b"".join(read(entry))
        else:
            write_file(root, entry.path, 0o755 if entry.mode == b"100755" else 0o644, read(entry))
    for path, target in links.items():
        check_entry(Entry(os.fsdecode(path), LINK, 0, os.fsdecode(target)))
        write_link(root, path, target)
    check_links(links, what)


def write_file(root: bytes, path: bytes, mode: int, pieces: Iterable[bytes]) -> None:
    """Create the file ``path`` below ``root``; it must not exist."""
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(full, flags, 0o600), "wb") as file:
        for piece in pieces:
            file.write(piece)
        os.fchmod(file.fileno(), mode & 0o777)


def write_link(root: bytes, path: bytes, target: bytes) -> None:
    """Create the symbolic link ``path`` below ``root``."""
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    os.symlink(target, full)


def check_links(links: Mapping[bytes, bytes], what: str) -> None:
    """Raise SourceError if a link leads out of the tree through other links.

    ``links`` maps paths to targets, each of which alone was found to stay inside.
    """
    steps = 0
    for path in links:
        steps += _count_steps(path, links, what)
        if steps > _MAX_STEPS:
            raise SourceError(f"{what}: its links lead through too many others")


def _count_steps(path: bytes, links: Mapping[bytes, bytes], what: str) -> int:
    """Return the number of steps to where a link leads.

    A link that Linux would not follow to its end leads nowhere, and is allowed.
    """
    here: list[bytes] = []
    left, steps, hops = path.split(b"/")[::-1], 0, 0
    while left and hops <= _MAX_HOPS:
        part, steps = left.pop(), steps + 1
        if part == b".." and not here:
            raise SourceError(f"{what}: the link {display_path(path)} leads out of the tree")
        if part == b"..":
            here.pop()
        elif part not in (b"", b"."):
            here.append(part)
            target = links.get(b"/".join(here))
            if target is not None:
                hops += 1
                here.pop()
                left += target.split(b"/")[::-1]
    return steps
