"""The cache of earlier scans of a tree: digests of files by their ``stat``.

Responsible for one small file per tree in the controller's cache folder.  Must not know manifests.
A digest is only stored if the file had not changed for a while before it was read: two changes
within the resolution of the clock cannot be told apart by ``stat``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..remote.files.blob_store import cache_folder

#: Size, mtime, ctime (both in ns), inode, mode.
FileStamp = tuple[int, int, int, int, int]
#: Stamp and digest by path.
KnownDigests = dict[str, tuple[FileStamp, str]]

_FORMAT_VERSION = 1
#: Nanoseconds before a scan; a file that changed in them is not stored.
_RACY_PERIOD = 2 * 10**9
#: Seconds after which the cache of a tree that is not scanned any more is removed.
_MAX_UNUSED_AGE = 30 * 86_400.0


def make_stamp(found: os.stat_result) -> FileStamp:
    """Return the properties of a file of which at least one changes when the file does."""
    return (
        found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_mode,
    )  # fmt: skip


def load(root: Path) -> KnownDigests:
    """Return the stored digests of the tree at ``root``; none if they cannot be read."""
    try:
        data = json.loads(_cache_path(root).read_bytes())
        if data["version"] != _FORMAT_VERSION:
            return {}
        return {path: ((s, m, c, i, o), d) for path, (s, m, c, i, o, d) in data["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def save(root: Path, files: Mapping[str, tuple[FileStamp, str]], began: int) -> None:
    """Store the digests of a scan that began at ``began`` (ns); errors of the disk are ignored."""
    rows = {
        path: (*seen, digest)
        for path, (seen, digest) in files.items()
        if max(seen[1], seen[2]) < began - _RACY_PERIOD
    }
    with contextlib.suppress(OSError):
        _write_atomically(
            _cache_path(root), {"version": _FORMAT_VERSION, "root": os.fspath(root), "files": rows}
        )
        _remove_unused(_cache_folder())


def mark_used(root: Path) -> None:
    """Mark the cache of a tree as used."""
    with contextlib.suppress(OSError):
        os.utime(_cache_path(root))


def invalidate(root: Path) -> None:
    """Remove the cache of a tree, which has proved wrong."""
    with contextlib.suppress(OSError):
        _cache_path(root).unlink()


def _cache_folder() -> Path:
    return Path(cache_folder(), "scan")


def _cache_path(root: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()
    return _cache_folder() / f"{name[:32]}.json"


def _write_atomically(path: Path, data: Any) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".json")
    try:
        with open(descriptor, "wb") as file:
            file.write(json.dumps(data, separators=(",", ":")).encode("ascii"))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _remove_unused(folder: Path) -> None:
    before = time.time() - _MAX_UNUSED_AGE
    old: Iterable[os.DirEntry[str]] = list(os.scandir(folder))
    for entry in old:
        if entry.stat(follow_symlinks=False).st_mtime < before:
            os.unlink(entry.path)
