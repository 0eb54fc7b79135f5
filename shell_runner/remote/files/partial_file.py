"""A large file that arrives in pieces; the received part outlasts the connection.

Responsible for one file ``DIGEST.partial`` under a lock, or for a private file if another session
has the lock.  Must not depend on the sender.
"""

import fcntl
import hashlib
import os
import tempfile
from typing import Optional, Tuple

_HOLE_BYTES = 1 << 16
_ZEROS = bytes(_HOLE_BYTES)
PARTIAL_SUFFIX = ".partial"


class PartialFile:
    """The received bytes of one file."""

    def __init__(self, folder: str, digest: str) -> None:
        self.digest = digest
        self.path, self._descriptor = _open_locked(folder, digest)
        self.offset = os.fstat(self._descriptor).st_size
        self._hasher: "Optional[hashlib._Hash]" = None

    def truncate(self, size: int) -> None:
        """Discard the bytes from ``size`` on."""
        if size < self.offset:
            os.ftruncate(self._descriptor, size)
            self.offset = size
            self._hasher = None

    def hash_existing(self) -> None:
        """Hash the bytes that an earlier connection has received, which may take long."""
        self._current_hasher()

    def append(self, offset: int, data: bytes) -> None:
        """Add a piece that begins at the end of the received bytes, or before it.

        Received bytes from ``offset`` on are replaced.  Raises ValueError for a gap.
        """
        if offset > self.offset:
            raise ValueError("a piece begins at %d instead of %d" % (offset, self.offset))
        self.truncate(offset)
        hasher = self._current_hasher()
        end = offset + len(data)
        _write_sparse(self._descriptor, data, offset)
        if os.fstat(self._descriptor).st_size < end:
            os.ftruncate(self._descriptor, end)
        hasher.update(data)
        self.offset = end

    def finish(self, target: str) -> bool:
        """Move the complete file to ``target``; if its digest is wrong, remove it.

        Return whether the digest is right.
        """
        if self._current_hasher().hexdigest() == self.digest:
            os.replace(self.path, target)
            self.close()
            return True
        self.discard()
        return False

    def discard(self) -> None:
        """Remove the received bytes."""
        try:
            os.unlink(self.path)
        finally:
            self.close()

    def close(self) -> None:
        """Keep the file for another connection, but remove a private one, which none can find."""
        is_private = os.path.basename(self.path) != self.digest + PARTIAL_SUFFIX
        if is_private and os.path.exists(self.path):
            os.unlink(self.path)
        os.close(self._descriptor)

    def _current_hasher(self) -> "hashlib._Hash":
        if self._hasher is None:
            self._hasher = hashlib.sha256()
            position = 0
            while position < self.offset:
                data = os.pread(self._descriptor, min(1 << 20, self.offset - position), position)
                if not data:
                    raise ValueError("%s has become shorter" % self.path)
                self._hasher.update(data)
                position += len(data)
        return self._hasher


def _open_locked(folder: str, digest: str) -> Tuple[str, int]:
    """Open and lock the shared partial file; open a private one if it is locked.

    Return the path and the descriptor.
    """
    path = os.path.join(folder, digest + PARTIAL_SUFFIX)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The previous holder of the lock may have moved the file to its final name.
        if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
            return path, descriptor
    except OSError:
        pass
    os.close(descriptor)
    descriptor, path = tempfile.mkstemp(dir=folder, prefix=digest + ".", suffix=PARTIAL_SUFFIX)
    return path, descriptor


def _write_sparse(descriptor: int, data: bytes, offset: int) -> None:
    """Write ``data`` but leave blocks of zeros as holes; the caller extends the file."""
    begin = 0
    for at in range(0, len(data), _HOLE_BYTES):
        if data[at] == 0 and data[at : at + _HOLE_BYTES] == _ZEROS:
            _write_at(descriptor, data[begin:at], offset + begin)
            begin = at + _HOLE_BYTES
    _write_at(descriptor, data[begin:], offset + begin)


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written
