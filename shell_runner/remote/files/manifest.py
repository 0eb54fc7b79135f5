"""The entries of a tree that is shipped to a host: its files, symbolic links and hard links.

Must not depend on the file system or on where contents come from.  No validated entry leads out
of the tree that is created from it.
"""

from typing import NamedTuple, Sequence, Set

from ..protocol.model import is_digest as is_digest
from .path_limits import describe_path_excess
from .symbolic_links import is_link_inside

FILE = "f"
LINK = "l"
#: A further name of a file that is an earlier entry.
HARD_LINK = "h"
#: Parts of a path that are not names: it begins or ends with a slash, is empty, or leads elsewhere.
_FORBIDDEN_PARTS = frozenset(["", ".", ".."])


class ManifestEntry(NamedTuple):
    """One file, symbolic link or hard link of a tree."""

    path: str
    kind: str
    #: Permission bits; 0 for a link.
    mode: int
    #: SHA-256 of the contents in hex; for a symbolic link, its target; for a hard link, the path of
    #: the file in the tree.
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
    if not _FORBIDDEN_PARTS.isdisjoint(parts):
        raise BadManifestEntry("path leads out of the tree: %r" % entry.path)
    if "\0" in entry.path:
        raise BadManifestEntry("path contains a NUL: %r" % entry.path)
    if entry.kind == LINK and not is_link_inside(
        [_encode(part) for part in parts[:-1]], _encode(entry.digest)
    ):
        raise BadManifestEntry("link leads out of the tree: %r -> %r" % (entry.path, entry.digest))
    if entry.kind not in (FILE, LINK, HARD_LINK):
        raise BadManifestEntry("neither file nor link: %r" % entry.path)
    if entry.kind == FILE and not is_digest(entry.digest):
        raise BadManifestEntry("not a digest: %r" % entry.digest)
    return entry


def check_hard_links(entries: Sequence[ManifestEntry]) -> None:
    """Raise BadManifestEntry if a hard link is not one to a file that is an earlier entry."""
    files: Set[str] = set()
    for entry in entries:
        if entry.kind == FILE:
            files.add(entry.path)
        elif entry.kind == HARD_LINK and entry.digest not in files:
            raise BadManifestEntry(
                "hard link to what is not a file before it: %r -> %r" % (entry.path, entry.digest)
            )


def _encode(text: str) -> bytes:
    # JSON can contain surrogates that no file name has; they must not raise here.
    return text.encode("utf-8", "surrogatepass")
