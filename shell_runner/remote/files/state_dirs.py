"""The folders in which a host keeps the state of a user, and the names of files in them.

Must not depend on what is stored there.
"""

import errno
import hashlib
import os
import stat
import tempfile
import urllib.parse
from typing import Iterator

#: Maximum characters of a quoted name; the file of a longer one is named by a digest.
_MAX_NAME_CHARS = 200


def encode_file_name(name: str) -> str:
    """Return a safe and unique file name for any text."""
    quoted = urllib.parse.quote(name.encode("utf-8", "surrogatepass"), safe="")
    if len(quoted) <= _MAX_NAME_CHARS:
        return quoted
    # No quoted name contains a "=".
    return "=" + hashlib.sha256(quoted.encode("ascii")).hexdigest()


def candidate_folders() -> Iterator[str]:
    """Yield the folders that can hold a user's state on this host, the best first."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    if os.path.isabs(base):
        yield os.path.realpath(os.path.join(base, "nosejobs"))
    yield os.path.join(tempfile.gettempdir(), ".nosejobs-state-%d" % os.getuid())


def host_folder(base: str) -> str:
    """Return the folder of this host below ``base``, since hosts can share a home directory."""
    return os.path.join(base, "hosts", encode_file_name(os.uname().nodename))


def ensure_private_folder(folder: str) -> None:
    """Create a folder that only this user can access; it may exist.

    Raises OSError if it belongs to another user or is not a directory.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.lstat(folder)
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EPERM, "belongs to another user", folder)
    if stat.S_IMODE(status.st_mode) & 0o077:
        os.chmod(folder, 0o700)
