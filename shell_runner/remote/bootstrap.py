"""The first code on a host: checks the interpreter, fetches the package and starts a session.

A gateway sends this module alone, as the source of a remote_exec.  It must not import anything
outside the standard library and must parse on any Python 3, so that it can report a Python that is
too old.  Owns the cache of unpacked code.
"""

import importlib
import os
import sys
from typing import Any, Iterable, Iterator, Optional

#: Modules that every host needs.
_REQUIRED_MODULES = ("ctypes", "fcntl", "json", "resource", "select", "zlib")
#: Modules that a host of durable jobs needs in addition.
_JOB_MODULES = ("sqlite3", "ssl", "bz2", "lzma")


def describe_unsupported_python() -> str:
    """Return why this interpreter cannot run a host; empty if it can."""
    if sys.version_info < (3, 8):
        return "Python >= 3.8 is needed, this is %s" % sys.version.split()[0]
    return describe_missing_modules(_REQUIRED_MODULES)


def describe_missing_modules(names: Iterable[str]) -> str:
    """Return an error message that lists the missing modules; empty if none is missing."""
    missing = []
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        return "this Python lacks standard library modules: %s" % ", ".join(missing)
    return ""


def list_cache_folders() -> Iterator[str]:
    """Yield the folders in which code may be cached, in order of preference."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(cache):
        yield os.path.join(cache, "nosejobs", "code")
    import tempfile

    yield os.path.join(tempfile.gettempdir(), "nosejobs-code-%d" % os.getuid())


def is_private(folder: str) -> bool:
    """Return whether this user owns ``folder`` and no other user can write to it."""
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def find_code(digest: str) -> Optional[str]:
    """Return the folder that holds the code with this SHA-256 digest; None if there is none."""
    for folder in list_cache_folders():
        path = os.path.join(folder, digest)
        if is_private(folder) and is_private(path):
            try:
                os.utime(path)  # code that was not used for a month is removed
            except OSError:
                pass
            return path
    return None


def unpack_code(digest: str, data: bytes) -> str:
    """Unpack a zip into the first usable cache folder; return the path of the code.

    Raises ValueError if ``data`` does not have this digest, OSError if no folder is usable.
    """
    import hashlib  # most hosts have the code already, and start sooner without these modules

    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError("the received code does not match its digest")
    last_error = OSError("no cache folder for the code")
    for folder in list_cache_folders():
        try:
            return _unpack(os.path.join(folder, digest), folder, data)
        except OSError as error:
            last_error = error
    raise last_error


def _unpack(path: str, folder: str, data: bytes) -> str:
    import io
    import shutil
    import tempfile
    import zipfile

    os.makedirs(folder, mode=0o700, exist_ok=True)
    if not is_private(folder):
        raise OSError("%s is writable by other users" % folder)
    temporary = tempfile.mkdtemp(dir=folder)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(temporary)
    try:
        os.rename(temporary, path)
    except OSError:
        # Another session has unpacked it first, or the folder is not usable.
        shutil.rmtree(temporary, ignore_errors=True)
        if not is_private(path):
            raise
    return path


def main(channel: Any) -> None:
    """Report why this host is unusable, or fetch the code if it is missing and run a session."""
    error = describe_unsupported_python()
    channel.send(error.encode("ascii", "replace"))
    if error:
        return
    # "DIGEST SESSION": the digest of the code to run, and the name of the session to start.
    digest, session = channel.receive().decode("ascii").split(" ")
    error = describe_missing_modules(_JOB_MODULES) if session == "jobs" else ""
    if error:
        channel.send(("cannot: " + error).encode("ascii", "replace"))
        return
    path = find_code(digest)
    channel.send(b"have" if path else b"need")
    if path is None:
        path = unpack_code(digest, channel.receive())
    sys.path.insert(0, path)
    importlib.import_module("nosejobs_host.__main__").load_session(session)(channel)


if __name__ == "__channelexec__":
    main(channel)  # type: ignore[name-defined] # noqa: F821
