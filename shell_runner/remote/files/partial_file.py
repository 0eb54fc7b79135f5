"""A large file on its way to a host, in pieces; what has come survives the connection.

Owns one file ``DIGEST.partial`` under a lock, or a private one where another session has
the lock.  Must not know who sends.
"""

import fcntl
import hashlib
import os
import tempfile
from typing import Optional, Tuple

_BLOCK = 1 << 16
_ZEROS = bytes(_BLOCK)
SUFFIX = ".partial"


class Partial:
    """The bytes of one file that have come so far."""

    def __init__(self, folder: str, digest: str) -> None:
        self.digest = digest
        self.path, self._descriptor = _claim(folder, digest)
        self.offset = os.fstat(self._descriptor).st_size
        #: Some of it came over an earlier connection.
        self.resumed = self.offset > 0
        self._seen: "Optional[hashlib._Hash]" = None

    def shorten(self, size: int) -> None:
        """Forget what is at ``size`` and beyond."""
        if size < self.offset:
            os.ftruncate(self._descriptor, size)
            self.offset = size
            self._seen = None

    def read_back(self) -> None:
        """Take what came over an earlier connection into the digest, which may last."""
        self._hash()

    def append(self, offset: int, data: bytes) -> None:
        """A piece that begins where the last one ended, or before that: sent anew from there."""
        if offset > self.offset:
            raise ValueError("a piece begins at %d instead of %d" % (offset, self.offset))
        self.shorten(offset)
        seen = self._hash()
        end = offset + len(data)
        _write_sparse(self._descriptor, data, offset)
        if os.fstat(self._descriptor).st_size < end:
            os.ftruncate(self._descriptor, end)
        seen.update(data)
        self.offset = end

    def finish(self, target: str) -> bool:
        """Put the whole file where it belongs; False, and it is gone, if it is another one."""
        if self._hash().hexdigest() == self.digest:
            os.replace(self.path, target)
            self.close()
            return True
        self.discard()
        return False

    def discard(self) -> None:
        """Remove what has come."""
        try:
            os.unlink(self.path)
        finally:
            self.close()

    def close(self) -> None:
        """Leave what has come for another connection; nobody looks for a private one."""
        if os.path.basename(self.path) != self.digest + SUFFIX and os.path.exists(self.path):
            os.unlink(self.path)
        os.close(self._descriptor)

    def _hash(self) -> "hashlib._Hash":
        if self._seen is None:
            self._seen = hashlib.sha256()
            at = 0
            while at < self.offset:
                data = os.pread(self._descriptor, min(1 << 20, self.offset - at), at)
                if not data:
                    raise ValueError("%s has become shorter" % self.path)
                self._seen.update(data)
                at += len(data)
        return self._seen


def _claim(folder: str, digest: str) -> Tuple[str, int]:
    """The file that may be continued, if nobody else does so now; else one of our own."""
    path = os.path.join(folder, digest + SUFFIX)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who had the lock until now may have given the file its final name.
        if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
            return path, descriptor
    except OSError:
        pass
    os.close(descriptor)
    descriptor, path = tempfile.mkstemp(dir=folder, prefix=digest + ".", suffix=SUFFIX)
    return path, descriptor


def _write_sparse(descriptor: int, data: bytes, offset: int) -> None:
    """Blocks of zeros become holes: the file is longer than what was written of it."""
    begin = 0
    for at in range(0, len(data), _BLOCK):
        if data[at] == 0 and data[at : at + _BLOCK] == _ZEROS:
            _write(descriptor, data[begin:at], offset + begin)
            begin = at + _BLOCK
    _write(descriptor, data[begin:], offset + begin)


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, offset)
        view = view[done:]
        offset += done
