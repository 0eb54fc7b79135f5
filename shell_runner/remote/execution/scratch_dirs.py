"""The private directories of a slot: TMPDIR and HOME of the test that runs in it.

Owns making them, telling whether a test left anything there, and making them
clean again.  Must not know processes.
"""

import os
from typing import Dict, List, Tuple

from ..files.remove_tree import remove_tree

#: A modification time that nothing gets by itself: a directory that still has it is untouched.
_UNTOUCHED_NS = 86_400 * 10**9
#: What a directory looks like while nobody has touched it: inode, mode, links, ctime.
_Mark = Tuple[int, int, int, int]


class ScratchDirectories:
    """Directories below ``base``, clean before each test.

    Making and removing directories for each of ten thousand tiny tests costs as
    much as running some of them, so an untouched directory serves again.  That it
    is untouched is read off its times: any entry made in it or taken from it moves
    its mtime, and its ctime cannot be set back.
    """

    def __init__(self, base: str, names: Tuple[str, ...]) -> None:
        self.base = base
        self.paths = {name: os.path.join(base, name) for name in names}
        self._marks: Dict[str, _Mark] = {}
        self._spares = 0
        os.makedirs(base, mode=0o700, exist_ok=True)

    def prepare(self) -> None:
        """All directories exist, empty, with mode 0700.  OSError if that is impossible."""
        for name in self.paths:
            if not self._is_untouched(name):
                self._renew(name)

    def entries(self, name: str) -> List[str]:
        """What is in a directory now; cheap while it is untouched."""
        if self._is_untouched(name):
            return []
        try:
            if os.path.islink(self.paths[name]):  # the test's own doing: it leads elsewhere
                return []
            return os.listdir(self.paths[name])
        except OSError:
            return []

    def _is_untouched(self, name: str) -> bool:
        try:
            now = os.lstat(self.paths[name])
        except OSError:
            return False
        return now.st_mtime_ns == _UNTOUCHED_NS and _mark(now) == self._marks.get(name)

    def _renew(self, name: str) -> None:
        self._marks.pop(name, None)
        path = self.paths[name]
        remove_tree(path)
        if os.path.lexists(path):
            # Something in it cannot be removed (a mount, another user's file): go elsewhere.
            self._spares += 1
            path = self.paths[name] = os.path.join(self.base, "%s.%d" % (name, self._spares))
        os.makedirs(self.base, mode=0o700, exist_ok=True)  # a test may have removed all
        os.mkdir(path, 0o700)
        os.utime(path, ns=(_UNTOUCHED_NS, _UNTOUCHED_NS))
        self._marks[name] = _mark(os.lstat(path))


def _mark(now: os.stat_result) -> _Mark:
    return now.st_ino, now.st_mode, now.st_nlink, now.st_ctime_ns
