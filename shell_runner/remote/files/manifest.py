"""The entries of a tree that is shipped to a host: its files and symbolic links.

Must not know where contents come from, or the file system.  No entry that was checked leads out
of the tree that is made of it.
"""

from typing import NamedTuple

from .symbolic_links import is_link_inside

FILE = "f"
LINK = "l"


class Entry(NamedTuple):
    """One file or symbolic link of a tree."""

    path: str
    kind: str
    #: Permission bits; 0 for a link.
    mode: int
    #: SHA-256 of the contents in hex; for a link, what it points to.
    digest: str
    size: int = 0


class BadEntry(ValueError):
    """A manifest names a path that leads out of its tree."""


def check(entry: Entry) -> Entry:
    """Return the entry if it stays inside its tree; else raise BadEntry."""
    parts = entry.path.split("/")
    if not entry.path or entry.path.startswith("/") or {"", ".", ".."} & set(parts):
        raise BadEntry("path leads out of the tree: %r" % entry.path)
    if "\0" in entry.path:
        raise BadEntry("path holds a NUL: %r" % entry.path)
    if entry.kind == LINK and not is_link_inside(
        [_encode(part) for part in parts[:-1]], _encode(entry.digest)
    ):
        raise BadEntry("link leads out of the tree: %r -> %r" % (entry.path, entry.digest))
    if entry.kind not in (FILE, LINK):
        raise BadEntry("neither file nor link: %r" % entry.path)
    if entry.kind == FILE and not is_digest(entry.digest):
        raise BadEntry("not a digest: %r" % entry.digest)
    return entry


def is_digest(text: str) -> bool:
    """Return whether the text may be a part of a path as a digest."""
    return len(text) == 64 and text.isalnum()


def _encode(text: str) -> bytes:
    # JSON can hold surrogates that no name of a file has; they must not raise here.
    return text.encode("utf-8", "surrogatepass")
