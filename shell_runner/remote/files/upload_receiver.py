"""The host's end of an upload: which files are missing, and the files that arrive.

The other end is ``shell_runner/shipping``.  Must not depend on sessions, slots or jobs.
"""

from typing import Any, List, Tuple

from ..protocol import compression
from .blob_store import BlobStore
from .manifest import ManifestEntry


class UploadReceiver:
    """The upload of one tree to ``store``."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self.entries: List[ManifestEntry] = []

    def find_missing(self, digest: str, size: int) -> Tuple[Any, ...]:
        """Return what is to be sent of the tree with this manifest.

        Parts of the manifest come first: ``(None, part_numbers)``; then ``(numbers, offsets)``
        of :meth:`BlobStore.find_missing`.
        """
        self.store.acquire()
        self.entries, parts = self.store.read_manifest(digest, size)
        return (None, parts) if parts else self.store.find_missing(self.entries)

    def receive(self, header: Any, body: bytes) -> None:
        """Store one message: ``files`` by their numbers in the manifest, or a ``piece`` of one."""
        kind, encoding, size, *rest = header
        data = compression.decode_body(encoding, size, body)
        if kind == "piece":
            digest, offset, last = rest
            self.store.append_piece(digest, offset, data, last)
            return
        at = 0
        for entry in map(self.entries.__getitem__, rest[0]):
            self.store.add(entry.digest, data[at : at + entry.size])
            at += entry.size
