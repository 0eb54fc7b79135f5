"""The upload of a tree to a host, which receives only what it lacks.

Owns the manifest and the order of the exchange.  Must not know gateways beyond "send this frame"
and "wait for the next message".
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..remote.files.cache_eviction import DEFAULT_LIMIT_BYTES
from ..remote.files.manifest import FILE, ManifestEntry
from ..remote.protocol import compression, frames
from . import scan_cache
from .tree_scan import Progress, SourceTree, ignore_progress

#: Bytes of file contents in one frame.
_FRAME_SIZE = 1 << 20
#: Average number of entries in one part of a manifest.
_ENTRIES_PER_PART = 256
#: Maximum number of small files in one frame.
_MAX_FILES_PER_FRAME = 2000

SendFrame = Callable[[bytes], None]
#: Waits for the message of this name and returns its arguments.
AwaitMessage = Callable[[str], list[Any]]


@dataclass(frozen=True)
class Shipped:
    """The outcome of :func:`ship`."""

    root: str
    #: Files that were sent, in whole or in part.
    files: int
    #: Bytes of these files, uncompressed.
    bytes: int
    #: Bytes of all frames that were sent.
    wire_bytes: int = 0


@dataclass
class _MissingFiles:
    """Entries of a tree that a host lacks, by their number in the manifest."""

    entries: dict[int, ManifestEntry]
    #: Bytes of a file that the host has already.
    offsets: dict[int, int]

    @property
    def size(self) -> int:
        """Bytes to send."""
        return sum(entry.size for entry in self.entries.values()) - sum(self.offsets.values())

    @property
    def has_large_files(self) -> bool:
        """Whether a file is sent in several pieces."""
        return any(entry.size >= _FRAME_SIZE for entry in self.entries.values())


def _manifest(entries: Sequence[ManifestEntry]) -> list[bytes]:
    """Encode a manifest in parts, the first of which lists the others.

    A changed file changes one part, so that the host knows most of them already.
    """
    parts: list[bytes] = []
    rows: list[ManifestEntry] = []
    for entry in entries:
        rows.append(entry)
        # A part ends after certain names, not after a number of entries: one more file does not
        # move the borders of the parts behind it.
        if not zlib.crc32(os.fsencode(entry.path)) % _ENTRIES_PER_PART:
            parts.append(frames.encode_json(rows))
            rows = []
    parts.append(frames.encode_json(rows))
    return [frames.encode_json([[_sha256(part), len(part)] for part in parts]), *parts]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _UploadExchange:
    """One upload to one host: the requests and their progress."""

    def __init__(
        self,
        tree: SourceTree,
        send: SendFrame,
        await_message: AwaitMessage,
        progress: Progress = ignore_progress,
    ) -> None:
        self.tree = tree
        self.wire_bytes = self.done = self.total = 0
        self._send, self._await, self._progress = send, await_message, progress
        self._manifest = _manifest(tree.entries)

    @property
    def manifest(self) -> tuple[str, int]:
        """Digest and size of the first part of the manifest, which identify the tree."""
        return _sha256(self._manifest[0]), len(self._manifest[0])

    def request_missing(self) -> _MissingFiles:
        """Ask what the host lacks, and send the parts of the manifest that it does not know."""
        answer = self._request_missing_once()
        for _ in range(2):  # the list of its parts, then those
            if answer[:1] == [None]:
                self._send_manifest(answer)
                answer = self._request_missing_once()
        return _parse_missing(self.tree.entries, answer)

    def _request_missing_once(self) -> list[Any]:
        part = self._manifest[0]
        self._send_message("tree", _sha256(part), len(part))
        return self._await("missing")

    def _send_manifest(self, answer: list[Any]) -> None:
        """Send parts of the manifest; the host stores them like files."""
        try:
            parts = [self._manifest[number] for number in set(answer[1])]
        except (TypeError, IndexError) as error:
            raise ValueError(f"the host asks for no part of the manifest: {error}") from error
        for data in parts:
            digest = _sha256(data)
            for at in range(0, len(data), _FRAME_SIZE):
                last = at + _FRAME_SIZE >= len(data)
                self._send_blob("piece", data[at : at + _FRAME_SIZE], digest, at, last)

    def unpack_tree(self, limit: int) -> str:
        """Tell the host to create the tree; return its root there."""
        self._add_progress(0)
        self._send_message("unpack", limit)
        (root,) = self._await("unpacked")
        return str(root)

    def _send_message(self, *message: Any) -> None:
        self._send_frame(frames.pack_messages([list(message)]))

    def _send_frame(self, frame: bytes) -> None:
        """Send a frame; block while the connection is full, so that nothing piles up here."""
        self._send(frame)
        self.wire_bytes += len(frame)

    def _send_blob(self, kind: str, data: bytes, *more: Any) -> None:
        encoding, body = compression.encode_body(data)
        self._send_frame(frames.pack_blob([kind, encoding, len(data), *more], body))

    def send_files(self, need: _MissingFiles) -> None:
        """Send the missing files: small ones share a frame, large ones go in pieces."""
        self.total += need.size
        self._add_progress(0)
        numbers: list[int] = []
        body = bytearray()
        for number, entry in need.entries.items():
            if entry.size >= _FRAME_SIZE:
                self._send_large_file(entry, need.offsets.get(number, 0))
                continue
            if len(body) + entry.size > _FRAME_SIZE or len(numbers) >= _MAX_FILES_PER_FRAME:
                self._send_small_files(numbers, bytes(body))
                numbers, body = [], bytearray()
            body += _read_small(self.tree.root, entry)
            numbers.append(number)
        if numbers:
            self._send_small_files(numbers, bytes(body))

    def _send_small_files(self, numbers: list[int], body: bytes) -> None:
        self._send_blob("files", body, numbers)
        self._add_progress(len(body))

    def _send_large_file(self, entry: ManifestEntry, offset: int) -> None:
        """Send a file up to its scanned size, even if it has grown; the host checks the digest."""
        with open(self.tree.root / entry.path, "rb", buffering=0) as file:
            file.seek(offset)
            while True:
                data = file.read(min(_FRAME_SIZE, entry.size - offset)) or b""
                last = offset + len(data) >= entry.size or not data
                self._send_blob("piece", data, entry.digest, offset, last)
                offset += len(data)
                self._add_progress(len(data))
                if last:
                    return

    def _add_progress(self, size: int) -> None:
        self.done += size
        self._progress(self.done, self.total)


def ship(
    tree: SourceTree,
    send: SendFrame,
    await_message: AwaitMessage,
    limit: int = DEFAULT_LIMIT_BYTES,
    progress: Progress = ignore_progress,
) -> Shipped:
    """Upload a tree to a host and let the host create it.

    ``limit``: bytes of files that the host may keep for later runs.
    """
    exchange = _UploadExchange(tree, send, await_message, progress)
    files = _send_missing(exchange)
    root = exchange.unpack_tree(limit)
    return Shipped(root, files, exchange.done, exchange.wire_bytes)


@dataclass(frozen=True)
class Uploaded:
    """A tree whose contents are all on a host."""

    #: Digest and size of the first part of its manifest.
    digest: str
    size: int
    #: Files that were sent, in whole or in part.
    files: int
    #: Bytes of all frames that were sent.
    wire_bytes: int


def identify_tree(tree: SourceTree) -> tuple[str, int]:
    """Return digest and size of the first part of a tree's manifest, which identify the tree."""
    first = _manifest(tree.entries)[0]
    return _sha256(first), len(first)


def upload(
    tree: SourceTree,
    send: SendFrame,
    await_message: AwaitMessage,
    progress: Progress = ignore_progress,
) -> Uploaded:
    """Upload the contents of a tree; a job creates it later, by the digest of its manifest."""
    exchange = _UploadExchange(tree, send, await_message, progress)
    files = _send_missing(exchange)
    digest, size = exchange.manifest
    return Uploaded(digest, size, files, exchange.wire_bytes)


def _send_missing(exchange: _UploadExchange) -> int:
    """Send the manifest and the missing contents; return the number of files sent."""
    need = exchange.request_missing()
    exchange.send_files(need)
    if need.has_large_files:
        _verify_complete(exchange)
    return len(need.entries)


def _verify_complete(exchange: _UploadExchange) -> None:
    """Check that the host has everything: a file sent in two connections may have changed."""
    again = exchange.request_missing()
    exchange.send_files(again)
    changed = exchange.request_missing().entries if again.entries else {}
    for entry in changed.values():
        raise _make_changed_error(exchange.tree.root, entry)


def _parse_missing(entries: Sequence[ManifestEntry], answer: list[Any]) -> _MissingFiles:
    """Validate the host's answer; raises :exc:`ValueError`."""
    try:
        (numbers, rows) = answer if len(answer) == 2 else (None, [])
        found = {number: entries[number] for number in numbers if number >= 0}
        offsets = {number: offset for number, offset in rows if number in found}
        if any(entry.kind != FILE for entry in found.values()):
            raise ValueError("the host asks for a link")
        if not all(0 <= offset <= found[number].size for number, offset in offsets.items()):
            raise ValueError("the host asks for the rest of a file from beyond its end")
    except (TypeError, IndexError) as error:
        raise ValueError(f"the host does not say which files it lacks: {error}") from error
    return _MissingFiles(found, offsets)


def _read_small(root: Path, entry: ManifestEntry) -> bytes:
    """Read a file up to its scanned size: one that has grown since (our own log?) does no harm."""
    descriptor = os.open(os.path.join(root, entry.path), os.O_RDONLY)
    try:
        data = os.read(descriptor, entry.size)
    finally:
        os.close(descriptor)
    if _sha256(data) != entry.digest:
        raise _make_changed_error(root, entry)
    return data


def _make_changed_error(root: Path, entry: ManifestEntry) -> UsageError:
    """Return the error for a changed file, and make the next scan read everything.

    The file may also have changed before the scan without a difference in its ``stat``.
    """
    scan_cache.invalidate(root)
    return UsageError(f"{entry.path} was changed while it was being shipped")
