"""The files of a tree that go to a host, and their digests.

Owns the entries of a tree and their order; ``file_selection`` chooses the paths.  Must not know
hosts, nor how files are sent.
"""

from __future__ import annotations

import concurrent.futures
import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..remote.files.manifest import (
    FILE,
    HARD_LINK,
    LINK,
    BadManifestEntry,
    ManifestEntry,
    validate_entry,
)
from ..remote.files.path_limits import describe_path_excess
from . import scan_cache
from .file_selection import (
    RULES_ONLY,
    SECRET_REASON,
    Selection,
    is_secret,
    select_paths,
    walk_files,
)

#: Bytes from which on a file is hashed in a thread of its own.
_LARGE_FILE_SIZE = 1 << 20
#: Bytes of a file that is read at once.
_FIRST_READ_SIZE = 1 << 16
#: Bytes that are read at once of a larger one.
_CHUNK_SIZE = 1 << 20

#: Called with the number of bytes that are done, and with their total.
Progress = Callable[[int, int], None]


def ignore_progress(done: int, total: int) -> None:
    """Do nothing: the default of a ``progress`` parameter."""


@dataclass(frozen=True)
class SourceTree:
    """A tree as it is shipped: its files and links, sorted by path."""

    root: Path
    entries: tuple[ManifestEntry, ...]
    #: Files that are not shipped although they are part of the tree, each with the reason.
    skipped: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Total bytes of all files."""
        return sum(entry.size for entry in self.entries)


def scan(
    root: Path,
    tests: Iterable[str],
    selection: Selection = RULES_ONLY,
    progress: Progress = ignore_progress,
    all_files: bool = False,
) -> SourceTree:
    """Return the tree at ``root`` as it is shipped.

    ``tests`` are relative paths that are shipped in any case.  With ``all_files`` it is not a
    source tree: neither git nor the usual ignored folders are considered.  Raises
    :exc:`UsageError` for a file that cannot be read.
    """
    selected = select_paths(root, tests, selection, all_files)
    found = _read_entries(root, sorted(selected.wanted), selected.named, progress)
    entries = tuple(each for each in found if isinstance(each, ManifestEntry))
    left = [f"{path}: {SECRET_REASON}" for path in sorted(selected.secrets)]
    return SourceTree(root, entries, (*left, *(each for each in found if isinstance(each, str))))


def scan_all(root: Path) -> SourceTree:
    """Return the tree at ``root`` with all of its files and links as they are.

    Nothing is excluded, and nothing of earlier scans is believed: for trees that a program of ours
    wrote, in which everything was selected before.  Raises :exc:`OSError` for a file that cannot be
    read, and BadManifestEntry for one that cannot be shipped.
    """
    prefix, found = os.path.join(root, ""), {}
    for path in sorted(walk_files(root)):
        excess = describe_path_excess(path)
        if excess:
            raise BadManifestEntry(excess)
        found[path] = os.lstat(prefix + path)
    first = _find_hard_links(prefix, found)
    return SourceTree(
        root,
        tuple(
            validate_entry(
                ManifestEntry(path, HARD_LINK, 0, first[path])
                if path in first
                else _read_entry(prefix + path, path, attributes)
            )
            for path, attributes in found.items()
        ),
    )


def _read_entry(full: str, path: str, attributes: os.stat_result) -> ManifestEntry:
    if stat.S_ISLNK(attributes.st_mode):
        return ManifestEntry(path, LINK, 0, os.readlink(full))
    with open(full, "rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ManifestEntry(path, FILE, stat.S_IMODE(attributes.st_mode), digest, attributes.st_size)


def _find_hard_links(prefix: str, files: Mapping[str, os.stat_result]) -> dict[str, str]:
    """Return the hard links of a tree, each with the path of the first entry of the same file.

    ``files``: each file's ``stat``, that of its target for a symbolic link, which is no hard link.
    """
    first: dict[tuple[int, int], str] = {}
    links = {}
    for path, found in files.items():
        is_candidate = found.st_nlink > 1 and stat.S_ISREG(found.st_mode)
        if is_candidate and not os.path.islink(prefix + path):
            original = first.setdefault((found.st_dev, found.st_ino), path)
            if original != path:
                links[path] = original
    return links


def replace_hard_links(entries: Iterable[ManifestEntry]) -> Iterator[ManifestEntry]:
    """Yield the entries of a tree with files in the place of hard links."""
    files: dict[str, ManifestEntry] = {}
    for entry in entries:
        if entry.kind == HARD_LINK:
            yield files[entry.digest]._replace(path=entry.path)
        else:
            files[entry.path] = entry
            yield entry


def scan_archive(path: Path) -> SourceTree:
    """Return an archive as a tree of one file.

    Raises :exc:`UsageError` if it is not a file, or cannot be read.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise _make_shipping_error(os.fspath(path), error) from error
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"cannot ship {path}: neither a folder nor a file")
    digest, size = _hash_file(
        os.fspath(path), _HashingProgress(found.st_size, ignore_progress)
    ) or ("", 0)
    return SourceTree(
        path.parent, (validate_entry(ManifestEntry(path.name, FILE, 0o644, digest, size)),)
    )


#: A link, the reason why a file is not shipped, None for what is not a file, or a file's ``stat``.
_Examined = ManifestEntry | str | os.stat_result | None


def _read_entries(
    root: Path, paths: list[str], named: set[str], progress: Progress
) -> list[ManifestEntry | str | None]:
    """Return entries, reasons why files are not shipped, and None for what is not a file."""
    began, prefix = time.time_ns(), os.path.join(root, "")
    found = {path: _examine(root, prefix + path, path, path in named) for path in paths}
    files = {path: each for path, each in found.items() if isinstance(each, os.stat_result)}
    links = _find_hard_links(prefix, files)
    contents = {path: each for path, each in files.items() if path not in links}
    read = _find_digests(root, contents, progress, began)
    for path, original in links.items():
        if original in read:
            found[path] = validate_entry(ManifestEntry(path, HARD_LINK, 0, original))
    return [_make_entry(path, each, read) for path, each in found.items()]


def _find_digests(
    root: Path, files: Mapping[str, os.stat_result], progress: Progress, began: int
) -> dict[str, tuple[str, int]]:
    """Return digest and size of each file; read only those changed since the last scan."""
    known, looks = (
        scan_cache.load(root),
        {path: scan_cache.make_stamp(found) for path, found in files.items()},
    )
    seen = {path: known[path] for path, now in looks.items() if known.get(path, [0])[0] == now}
    read = {path: (digest, now[0]) for path, (now, digest) in seen.items()}
    fresh = {path: found for path, found in files.items() if path not in seen}
    for path, digest, size in _hash_files(os.path.join(root, ""), fresh, progress):
        seen[path], read[path] = (looks[path], digest), (digest, size)
    if fresh or len(seen) < len(known):
        scan_cache.save(root, seen, began)
    else:
        scan_cache.mark_used(root)
    return read


def _make_entry(
    path: str, found: _Examined, read: Mapping[str, tuple[str, int]]
) -> ManifestEntry | str | None:
    if not isinstance(found, os.stat_result):
        return found
    if path not in read:
        return None  # it is gone again
    digest, size = read[path]
    return validate_entry(ManifestEntry(path, FILE, stat.S_IMODE(found.st_mode), digest, size))


def _examine(root: Path, full: str, path: str, named: bool) -> _Examined:
    """Examine one path.

    Returns None for what is not a file (a submodule, a socket, or gone), and the reason, as a
    string, for what must not be shipped.
    """
    excess = describe_path_excess(path)
    if excess:
        return excess
    try:
        found = os.lstat(full)
        if stat.S_ISLNK(found.st_mode):
            link = ManifestEntry(path, LINK, 0, os.readlink(full))
            if _is_inside(root, full, link):
                return link
            # A link out of the tree would dangle there: its target goes instead.
            found = os.stat(full)
            if stat.S_ISDIR(found.st_mode):
                return f"{path}: a link to a folder outside of the tree"
            if not named and is_secret(os.path.realpath(full)):
                return f"{path}: a link to what {SECRET_REASON}"
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return f"{path[:100]}...: its absolute path is too long for the file system"
        raise _make_shipping_error(full, error) from error
    return found if stat.S_ISREG(found.st_mode) else None


def _make_shipping_error(full: str, error: OSError) -> UsageError:
    return UsageError(f"cannot ship {full}: {error.strerror}")


class _HashingProgress:
    """Bytes read so far by several threads; without a lock it is approximate."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.done = 0
        self._total, self._progress = total, progress

    def report(self) -> None:
        self._progress(self.done, self._total)


def _hash_files(
    prefix: str, files: Mapping[str, os.stat_result], progress: Progress
) -> Iterator[tuple[str, str, int]]:
    """Yield path, digest and size of each file.

    Large files are hashed in threads, since hashing releases the GIL; small ones one by one.
    """
    count = _HashingProgress(sum(found.st_size for found in files.values()), progress)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        large = {
            path: pool.submit(_hash_file, prefix + path, count)
            for path, found in files.items()
            if found.st_size >= _LARGE_FILE_SIZE
        }
        for number, path in enumerate(path for path in files if path not in large):
            digest = _hash_file(prefix + path, count)
            if digest is not None:
                yield path, *digest
            if number % 256 == 255:
                count.report()
        for path, future in large.items():
            while future not in concurrent.futures.wait([future], 0.5).done:
                count.report()
            digest = future.result()
            if digest is not None:
                yield path, *digest


def _hash_file(full: str, count: _HashingProgress) -> tuple[str, int] | None:
    """Return the SHA-256 in hex and the number of bytes it covers; None if the file is gone."""
    try:
        # A file object would cost more than the reading of a small file.
        descriptor = os.open(full, os.O_RDONLY)
        try:
            data = os.read(descriptor, _FIRST_READ_SIZE)
            seen, size = hashlib.sha256(data), len(data)
            count.done += size
            while size >= _FIRST_READ_SIZE and data:
                data = os.read(descriptor, _CHUNK_SIZE)
                seen.update(data)
                size += len(data)
                count.done += len(data)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _make_shipping_error(full, error) from error
    return seen.hexdigest(), size


def _is_inside(root: Path, full: str, link: ManifestEntry) -> bool:
    try:
        validate_entry(link)
    except BadManifestEntry:
        return False
    return Path(os.path.realpath(full)).is_relative_to(os.path.realpath(root))
