"""The folders in which a host keeps the state of a user, and the names of files in them.

Must not know what is kept there.
"""

import errno
import hashlib
import os
import stat
import tempfile
import urllib.parse
from typing import Iterator

#: Characters of a quoted name above which its file is called by a digest.
_MAX_NAME_CHARS = 200


def file_name(name: str) -> str:
    """A file name for any name, another one for each."""
    quoted = urllib.parse.quote(name.encode("utf-8", "surrogatepass"), safe="")
    if len(quoted) <= _MAX_NAME_CHARS:
        return quoted
    # No quoted name holds a "=".
    return "=" + hashlib.sha256(quoted.encode("ascii")).hexdigest()


def folders() -> Iterator[str]:
    """Where a user's state on this host may be kept, the best first."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    if os.path.isabs(base):
        yield os.path.realpath(os.path.join(base, "nosejobs"))
    yield os.path.join(tempfile.gettempdir(), ".nosejobs-state-%d" % os.getuid())


def host_folder(base: str) -> str:
    """Below ``base``, what is kept of this host: a home can be on a network and be many hosts'."""
    return os.path.join(base, "hosts", file_name(os.uname().nodename))


def make_private(folder: str) -> None:
    """Make it if need be; OSError if anybody else could have put something there."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EPERM, "belongs to somebody else", folder)
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.chmod(folder, 0o700)
