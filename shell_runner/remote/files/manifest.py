"""The entries of a tree that is shipped to a host: its files and symbolic links.

Must not depend on the file system or on where contents come from.  No validated entry leads out
of the tree that is created from it.
"""

from typing import NamedTuple

from .path_limits import describe_path_excess
from .symbolic_links import is_link_inside

FILE = "f"
LINK = "l"


class ManifestEntry(NamedTuple):
    """One file or symbolic link of a tree."""

    path: str
    kind: str
    #: Permission bits; 0 for a link.
    mode: int
    #: SHA-256 of the contents in hex; for a link, its target.
    digest: str
    size: int = 0


class BadManifestEntry(ValueError):
    """An entry of a manifest is invalid, or its path or link leads out of the tree."""


def validate_entry(entry: ManifestEntry) -> ManifestEntry:
    """Return the entry if it stays inside its tree; else raise BadManifestEntry."""
    excess = describe_path_excess(entry.path)
    if excess:
        raise BadManifestEntry(excess)
    parts = entry.path.split("/")
    if not entry.path or entry.path.startswith("/") or {"", ".", ".."} & set(parts):
        raise BadManifestEntry("path leads out of the tree: %r" % entry.path)
    if "\0" in entry.path:
        raise BadManifestEntry("path contains a NUL: %r" % entry.path)
    if entry.kind == LINK and not is_link_inside(
        [_encode(part) for part in parts[:-1]], _encode(entry.digest)
    ):
        raise BadManifestEntry("link leads out of the tree: %r -> %r" % (entry.path, entry.digest))
    if entry.kind not in (FILE, LINK):
        raise BadManifestEntry("neither file nor link: %r" % entry.path)
    if entry.kind == FILE and not is_digest(entry.digest):
        raise BadManifestEntry("not a digest: %r" % entry.digest)
    return entry


def is_digest(text: str) -> bool:
    """Return whether the text has the form of a digest and is safe as a part of a path."""
    return len(text) == 64 and text.isalnum()


def _encode(text: str) -> bytes:
    # JSON can contain surrogates that no file name has; they must not raise here.
    return text.encode("utf-8", "surrogatepass")
