"""Contents on their way into a host's store: what is missing, and what comes.

Owns the host's part of the exchange of ``shipping``.  Must not know sessions, slots or jobs.
"""

from typing import Any, List, Tuple

from ..protocol import compression
from .blob_store import Store
from .manifest import Entry


class Intake:
    """The tree that is being brought to ``store``."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.entries: List[Entry] = []

    def missing(self, digest: str, size: int) -> Tuple[Any, ...]:
        """What is to be sent of the tree with this manifest, the manifest's own parts first."""
        self.store.begin()
        self.entries, parts = self.store.manifest(digest, size)
        return (None, parts) if parts else self.store.missing(self.entries)

    def take(self, header: Any, body: bytes) -> None:
        """``files`` by their numbers in the manifest, or a ``piece`` of one by its digest."""
        kind, encoding, size, *rest = header
        data = compression.decode(encoding, size, body)
        if kind == "piece":
            digest, offset, last = rest
            self.store.append(digest, offset, data, last)
            return
        at = 0
        for entry in map(self.entries.__getitem__, rest[0]):
            self.store.add(entry.digest, data[at : at + entry.size])
            at += entry.size
