"""The private directories of a slot: TMPDIR, HOME and the outputs directory of its tests.

Responsible for creating them, for detecting whether a test has left anything in them, and for
cleaning them.  Must not depend on processes.
"""

import os
from typing import Dict, List, Tuple

from ..files.remove_tree import remove_tree

#: A modification time in nanoseconds that no directory gets by itself (1970-01-02): a directory
#: that still has it is unchanged.
_UNCHANGED_MTIME_NS = 86_400 * 10**9
#: The inode, mode, link count and ctime of an unchanged directory.
_Fingerprint = Tuple[int, int, int, int]


class ScratchDirectories:
    """Directories below ``base`` that are empty before each test.

    Creating and removing directories for each of ten thousand tiny tests would cost as much as
    some of the tests, so an unchanged directory is used again.  Its times show whether it is
    unchanged: creating or removing an entry changes the mtime, and the ctime cannot be set back.
    """

    def __init__(self, base: str, names: Tuple[str, ...]) -> None:
        self.base = base
        self.paths = {name: os.path.join(base, name) for name in names}
        self._fingerprints: Dict[str, _Fingerprint] = {}
        self._spare_count = 0
        os.makedirs(base, mode=0o700, exist_ok=True)

    def prepare(self) -> None:
        """Make sure that all directories exist, are empty and have mode 0700.

        Raises OSError if that is impossible.
        """
        for name in self.paths:
            if not self._is_unchanged(name):
                self._recreate(name)

    def list_entries(self, name: str) -> List[str]:
        """Return the names in a directory; cheap while it is unchanged."""
        if self._is_unchanged(name):
            return []
        try:
            if os.path.islink(self.paths[name]):  # the test has replaced its directory by a link
                return []
            return os.listdir(self.paths[name])
        except OSError:
            return []

    def _is_unchanged(self, name: str) -> bool:
        try:
            status = os.lstat(self.paths[name])
        except OSError:
            return False
        if status.st_mtime_ns != _UNCHANGED_MTIME_NS:
            return False
        return _fingerprint(status) == self._fingerprints.get(name)

    def _recreate(self, name: str) -> None:
        self._fingerprints.pop(name, None)
        path = self.paths[name]
        remove_tree(path)
        if os.path.lexists(path):
            # Something in it cannot be removed (a mount, a file of another user): use another.
            self._spare_count += 1
            path = self.paths[name] = os.path.join(self.base, "%s.%d" % (name, self._spare_count))
        os.makedirs(self.base, mode=0o700, exist_ok=True)  # a test may have removed all
        os.mkdir(path, 0o700)
        os.utime(path, ns=(_UNCHANGED_MTIME_NS, _UNCHANGED_MTIME_NS))
        self._fingerprints[name] = _fingerprint(os.lstat(path))


def _fingerprint(status: os.stat_result) -> _Fingerprint:
    return status.st_ino, status.st_mode, status.st_nlink, status.st_ctime_ns
