"""The directory into which the members of an archive are extracted.

Responsible for creating files, folders and links inside one directory, which is empty at first,
and nowhere else.  Must not depend on archive formats.  Nothing is written through a link or over
an existing file, so the file system itself detects duplicate names (also where it ignores case).
Paths are bytes: the meaning of a name must not depend on the host's locale.
"""

import errno
import functools
import os
import re
import shutil
import stat
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence

from ..files.copy_tree import write_all
from ..files.symbolic_links import is_link_inside
from .limits import PIECE_BYTES, BadArchive, ExtractionBudget, decode_name

_ZEROS = bytes(PIECE_BYTES)
#: ``C:\\x`` and ``C:/x`` are absolute paths on Windows.
_WINDOWS_DRIVE = re.compile(rb"[A-Za-z]:([\\/]|$)")
#: Maximum bytes of a part of a path (NAME_MAX).
_MAX_PART_BYTES = 255
#: Maximum bytes of a link's target (PATH_MAX without the NUL).
_MAX_TARGET_BYTES = 4095
#: Maximum number of path parts that are looked up for all links of an archive.
_MAX_LINK_STEPS = 10_000_000
#: The latest valid modification time, in seconds since the epoch; later ones become 0.
_MAX_MTIME = float(1 << 34)
_LINK_LEADS_OUT = "the link leads out of the folder: to %r"
#: Errors that are the fault of the archive and not of the host, and their messages.
_ERROR_MESSAGES = {
    errno.EEXIST: "the archive contains this name twice",
    errno.ENAMETOOLONG: "its name is too long for this file system",
    errno.EILSEQ: "its name is invalid on this file system",
    errno.EINVAL: "its name is invalid on this file system",
    errno.EMLINK: "too many hard links to one file",
    errno.EFBIG: "too large for this file system",
}


class FileAttributes(NamedTuple):
    """The mode and the modification time of a file or folder."""

    mode: int
    #: Seconds since the epoch.
    modified: float


def split_name(name: bytes, budget: ExtractionBudget) -> List[bytes]:
    """Split a member's name into its parts; the result is empty for the directory itself.

    Raises BadArchive if the name is absolute, leads out of the directory, or exceeds a limit.
    """
    _check_name(name, budget)
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts or b".." in name.replace(b"\\", b"/").split(b"/"):
        raise BadArchive(decode_name(name), "its name leads out of the folder")
    if len(parts) > budget.limits.depth:
        raise BadArchive(decode_name(name), "it is more than %d folders deep" % budget.limits.depth)
    if any(len(part) > _MAX_PART_BYTES for part in parts):
        raise BadArchive(
            decode_name(name), "a part of its name is longer than %d bytes" % _MAX_PART_BYTES
        )
    return parts


def _check_name(name: bytes, budget: ExtractionBudget) -> None:
    if not name:
        raise BadArchive("", "a member has no name")
    if b"\0" in name:
        raise BadArchive(decode_name(name), "its name contains a NUL")
    if name.startswith((b"/", b"\\")) or _WINDOWS_DRIVE.match(name):
        raise BadArchive(decode_name(name), "its name is absolute")
    if len(name) > budget.limits.name_bytes:
        raise BadArchive(
            decode_name(name), "its name has more than %d bytes" % budget.limits.name_bytes
        )


class ExtractionDirectory:
    """The directory of one extraction."""

    def __init__(self, folder: str, budget: ExtractionBudget) -> None:
        self._root = os.fsencode(os.path.abspath(folder))
        self._budget = budget
        #: All folders, with the attributes of those that are members themselves.
        self._folders: Dict[bytes, Optional[FileAttributes]] = {b"": None}
        self._links: List[bytes] = []
        self._steps = 0

    def add_folder(self, name: bytes, attributes: FileAttributes) -> None:
        """Create a folder; it may exist already because a file in it came first."""
        parts = split_name(name, self._budget)
        path = b"/".join(parts)
        if self._folders.get(path) is not None:
            raise BadArchive(decode_name(name), _ERROR_MESSAGES[errno.EEXIST])
        self._create_folders(parts, name)
        self._folders[path] = attributes

    def add_file(
        self, name: bytes, attributes: FileAttributes, size: int, pieces: Iterable[bytes]
    ) -> None:
        """Create a regular file of ``size`` bytes from the pieces of its contents."""
        path = self._prepare_path(name)
        self._budget.add_file(name, size)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
            try:
                self._write_contents(name, descriptor, size, pieces)
                os.fchmod(descriptor, attributes.mode & 0o755 | 0o400)
                _set_mtime(descriptor, attributes)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _translate_error(name, error) from None

    def _write_contents(
        self, name: bytes, descriptor: int, size: int, pieces: Iterable[bytes]
    ) -> None:
        """Write the contents of a file, with holes for pieces of zeros."""
        offset = end = 0
        for data in pieces:
            if not is_zeros(data):
                self._budget.add_disk_bytes(name, len(data))
                if offset != end:
                    os.lseek(descriptor, offset, os.SEEK_SET)
                write_all(descriptor, data)
                end = offset + len(data)
            offset += len(data)
        if end < size:
            os.ftruncate(descriptor, size)

    def add_symlink(self, name: bytes, target: bytes) -> None:
        """Create a symbolic link; ``finish`` checks its target once all members exist."""
        path = self._prepare_path(name)
        self._budget.add_name(target)
        if not target or b"\0" in target or len(target) > _MAX_TARGET_BYTES:
            raise BadArchive(
                decode_name(name), "the target of the link is invalid: %r" % target[:80]
            )
        if target.startswith(b"/"):
            raise BadArchive(decode_name(name), _LINK_LEADS_OUT % decode_name(target))
        try:
            os.symlink(target, path)
        except OSError as error:
            raise _translate_error(name, error) from None
        self._links.append(path)

    def add_hard_link(self, name: bytes, target: bytes) -> None:
        """Create a second name of a file or link that exists already."""
        path = self._prepare_path(name)
        self._budget.add_name(target)
        source = self._find_link_source(name, target)
        try:
            if stat.S_ISLNK(os.lstat(source).st_mode):
                # The same target leads elsewhere from another folder: it must be checked again.
                os.symlink(os.readlink(source), path)
                self._links.append(path)
            else:
                os.link(source, path, follow_symlinks=False)
        except OSError as error:
            raise _translate_error(name, error) from None

    def _find_link_source(self, name: bytes, target: bytes) -> bytes:
        """Return the path of a file or link that exists already."""
        try:
            parts = split_name(target, self._budget)
        except BadArchive as error:
            message = "a hard link to %r: %s" % (decode_name(target), error.reason)
            raise BadArchive(decode_name(name), message) from None
        is_in_known_folder = parts and b"/".join(parts[:-1]) in self._folders
        source = os.path.join(self._root, *parts)
        try:
            mode = os.lstat(source).st_mode
        except OSError:
            mode = 0
        if not is_in_known_folder or not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            message = "a hard link to what is not in the archive before it: %r" % decode_name(
                target
            )
            raise BadArchive(decode_name(name), message)
        return source

    def _prepare_path(self, name: bytes) -> bytes:
        """Return the path for a new file or link; create its folders, none of them a link."""
        parts = split_name(name, self._budget)
        if not parts or name.endswith((b"/", b"/.")):
            raise BadArchive(decode_name(name), "it is not a folder but has the name of one")
        self._budget.add_member(name)
        self._create_folders(parts[:-1], name)
        return os.path.join(self._root, *parts)

    def _create_folders(self, parts: Sequence[bytes], name: bytes) -> None:
        """Create all folders of a path."""
        if b"/".join(parts) in self._folders:
            return
        for count in range(1, len(parts) + 1):
            path = b"/".join(parts[:count])
            if path not in self._folders:
                self._budget.add_member(path)
                self._create_folder(os.path.join(self._root, path), name)
                self._folders[path] = None

    def _create_folder(self, path: bytes, name: bytes) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                raise BadArchive(decode_name(name), "its folder is a link") from None
            if not stat.S_ISDIR(mode):
                raise BadArchive(decode_name(name), "its folder is a file") from None
        except OSError as error:
            raise _translate_error(name, error) from None

    def finish(self) -> None:
        """Check that links stay inside, and set the attributes of folders.

        Called once, after the last member.  Raises BadArchive.
        """
        for path in self._links:
            name, target = path[len(self._root) + 1 :], os.readlink(path)
            count_step = functools.partial(self._count_step, name)
            if not is_link_inside(name.split(b"/")[:-1], target, self._read_link, count_step):
                raise BadArchive(decode_name(name), _LINK_LEADS_OUT % decode_name(target))
        for name, attributes in self._folders.items():
            if name:
                path = os.path.join(self._root, name)
                # The owner must be able to remove it.
                os.chmod(path, (attributes.mode if attributes else 0o755) & 0o755 | 0o700)
                if attributes:
                    _set_mtime(path, attributes)

    def _count_step(self, name: bytes) -> None:
        self._steps += 1
        if self._steps > _MAX_LINK_STEPS:
            raise BadArchive(decode_name(name), "the links of the archive are too complex to check")

    def _read_link(self, parts: List[bytes]) -> Optional[bytes]:
        try:
            return os.readlink(os.path.join(self._root, *parts))
        except OSError:
            return None

    def remove_all(self) -> None:
        """Remove everything that was extracted."""
        with os.scandir(self._root) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)


def is_zeros(data: bytes) -> bool:
    """Return whether all bytes are zero, so that a hole can replace them."""
    if not data:
        return True
    if data[0] or data[-1]:
        return False
    return data == (_ZEROS if len(data) == PIECE_BYTES else bytes(len(data)))


def _set_mtime(file: "bytes | int", attributes: FileAttributes) -> None:
    modified = attributes.modified if 0 <= attributes.modified < _MAX_MTIME else 0.0
    os.utime(file, (modified, modified))


def _translate_error(name: bytes, error: OSError) -> Exception:
    """Return a BadArchive for an error that the archive causes; else ``error`` (a full disk)."""
    message = _ERROR_MESSAGES.get(error.errno or 0)
    return BadArchive(decode_name(name), message) if message else error
