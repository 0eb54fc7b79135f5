"""Write the files of a revision into a folder, which is complete or absent.

A tree is not trusted: no path and no link in it may lead out of the folder, and nothing is written
through a link.  Must not know where the contents come from.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from shell_runner.remote.files.manifest import (
    FILE,
    LINK,
    BadManifestEntry,
    ManifestEntry,
    validate_entry,
)
from shell_runner.remote.files.symbolic_links import is_link_inside
from shell_runner.text import escape_unprintable, to_single_line

from ..configuration.settings import TEMPORARY_PREFIX
from .git_command import SourceError

#: Bytes that are read and written at a time.
CHUNK_SIZE = 1 << 20
#: Depth of nested folders, the same as in an archive.
_MAX_DEPTH = 256
#: Bytes of the target of a link (PATH_MAX of Linux).
_MAX_LINK_BYTES = 4095
#: Path components that are looked up to find out where all links of a tree lead.
_MAX_LINK_STEPS = 5_000_000
#: Characters of a text from a tree that are shown in one line.
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


#: Returns the contents of an entry, in chunks.
ReadEntry = Callable[[TreeEntry], Iterator[bytes]]


def parse_entry(row: bytes) -> TreeEntry:
    """Parse an entry of the output of ``git ls-tree -l -z``.

    Raises SourceError for a path that leads out of the tree, is nested too deeply, or has a part
    named ``.git``.
    """
    head, path = row.split(b"\t", 1)
    mode, _, name, size = head.split()
    parts = path.lower().split(b"/")
    if b".git" in parts:
        raise SourceError(f"{display_path(path)}: the name .git is not allowed in a tree")
    if len(parts) > _MAX_DEPTH:
        raise SourceError(
            f"{display_path(path)[:MAX_LINE_CHARS]}: more than {_MAX_DEPTH} folders deep"
        )
    check_entry(ManifestEntry(os.fsdecode(path), FILE, 0, "0" * 64))
    return TreeEntry(mode, name, int(size) if size.isdigit() else 0, path)


def check_entry(entry: ManifestEntry) -> None:
    """Raise SourceError if a path or the target of a link leads out of the tree."""
    try:
        validate_entry(entry)
    except BadManifestEntry as error:
        raise SourceError(
            f"its tree is refused: {to_single_line(str(error), MAX_LINE_CHARS)}"
        ) from None


def display_path(path: bytes) -> str:
    """Return a path as it can be shown on a terminal."""
    return escape_unprintable(os.fsdecode(path))


@contextlib.contextmanager
def write_atomically(folder: Path, what: str) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to ``folder`` at the end, or removed on an error.

    Raises SourceError, which names ``what`` was to be written, instead of OSError.
    """
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=folder.parent))
        try:
            yield part
            part.chmod(0o755)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        name = (
            os.fsdecode(error.filename or b"")
            .partition(f"/{TEMPORARY_PREFIX}")[2]
            .partition("/")[2]
        )
        where = f" ({to_single_line(name, MAX_LINE_CHARS)})" if name else ""
        raise SourceError(f"{what} cannot be written: {error.strerror}{where}") from error


def write_entries(root: bytes, entries: Sequence[TreeEntry], read: ReadEntry, what: str) -> None:
    """Write the entries of a tree below ``root``; ``what`` names the tree in errors.

    Links are written last, so that no file is written through a link.  Raises SourceError for a
    link that is too long or leads out of the tree.
    """
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
        check_entry(ManifestEntry(os.fsdecode(path), LINK, 0, os.fsdecode(target)))
    check_links(links, what)
    for path, target in links.items():
        write_link(root, path, target)


def write_file(root: bytes, path: bytes, mode: int, chunks: Iterable[bytes]) -> None:
    """Create the file ``path`` below ``root``; raise OSError if it exists."""
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(full, flags, 0o600), "wb") as file:
        for chunk in chunks:
            file.write(chunk)
        os.fchmod(file.fileno(), mode & 0o777)


def write_link(root: bytes, path: bytes, target: bytes) -> None:
    """Create the symbolic link ``path`` below ``root``."""
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    os.symlink(target, full)


def check_links(links: Mapping[bytes, bytes], what: str) -> None:
    """Raise SourceError if a link leads out of the tree through other links.

    ``links`` maps paths to targets; ``what`` names the tree in the error.
    """
    steps = 0

    def count_step() -> None:
        nonlocal steps
        steps += 1
        if steps > _MAX_LINK_STEPS:
            raise SourceError(f"{what}: its links lead through too many others")

    for path in links:
        # The path is resolved from the root, since a hostile tree may have a link as a folder.
        if not is_link_inside((), path, lambda parts: links.get(b"/".join(parts)), count_step):
            raise SourceError(f"{what}: the link {display_path(path)} leads out of the tree")
