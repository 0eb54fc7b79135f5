"""The one module that a gateway sends as source: fetches the rest and hands over.

Owns the check that a host can run us, and the cache of code zips.  It runs as the
source of a remote_exec, so that it imports nothing outside the standard library,
and must parse on any Python 3.
"""

import hashlib
import importlib
import io
import os
import shutil
import sys
import tempfile
import zipfile
from typing import Any, Iterable, Iterator, Optional

_NEEDED = ("ctypes", "fcntl", "json", "resource", "select", "zlib")
#: What hosts of jobs need beside that.
_NEEDED_FOR_JOBS = ("sqlite3", "ssl", "bz2", "lzma")


def complaint() -> str:
    """Why this interpreter cannot be a host; an empty text if it can."""
    if sys.version_info < (3, 8):
        return "Python >= 3.8 is needed, this is %s" % sys.version.split()[0]
    return lacks(_NEEDED)


def lacks(names: Iterable[str]) -> str:
    """Which of these modules are missing, in words; an empty text if none is."""
    missing = []
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        return "this Python lacks a part of its standard library: %s" % ", ".join(missing)
    return ""


def folders() -> Iterator[str]:
    """Where code may be kept, the best first."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(cache):
        yield os.path.join(cache, "nosejobs", "code")
    yield os.path.join(tempfile.gettempdir(), "nosejobs-code-%d" % os.getuid())


def is_ours(folder: str) -> bool:
    """Nobody else may have put code there."""
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return found.st_uid == os.getuid() and not found.st_mode & 0o022


def find(digest: str) -> Optional[str]:
    """The folder that holds the code of this digest, or None."""
    for folder in folders():
        path = os.path.join(folder, digest)
        if is_ours(folder) and is_ours(path):
            try:
                os.utime(path)  # what nobody uses for a month is removed
            except OSError:
                pass
            return path
    return None


def unpack(digest: str, data: bytes) -> str:
    """Unpack a zip into the first folder that takes it; its path."""
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError("the code that arrived has another digest")
    trouble = OSError("no folder can hold the code")
    for folder in folders():
        try:
            return _unpack(os.path.join(folder, digest), folder, data)
        except OSError as error:
            trouble = error
    raise trouble


def _unpack(path: str, folder: str, data: bytes) -> str:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if not is_ours(folder):
        raise OSError("%s can be written to by others" % folder)
    temporary = tempfile.mkdtemp(dir=folder)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(temporary)
    try:
        os.rename(temporary, path)
    except OSError:
        # Another session was faster; else the folder is not usable.
        shutil.rmtree(temporary, ignore_errors=True)
        if not is_ours(path):
            raise
    return path


def main(channel: Any) -> None:
    """Say what is wrong with this host, or fetch the code that it lacks and run it."""
    words = complaint()
    channel.send(words.encode("ascii", "replace"))
    if words:
        return
    # "DIGEST SESSION": the code to run, and the session that it is to answer.
    digest, session = channel.receive().decode("ascii").split(" ")
    words = lacks(_NEEDED_FOR_JOBS) if session == "jobs" else ""
    if words:
        channel.send(("cannot: " + words).encode("ascii", "replace"))
        return
    path = find(digest)
    channel.send(b"have" if path else b"need")
    if path is None:
        path = unpack(digest, channel.receive())
    sys.path.insert(0, path)
    importlib.import_module("nosejobs_host.__main__").session(session)(channel)


if __name__ == "__channelexec__":
    main(channel)  # type: ignore[name-defined] # noqa: F821
