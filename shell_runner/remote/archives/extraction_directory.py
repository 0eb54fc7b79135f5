"""Members of an archive on their way to the disk, and never out of one folder.

Owns a folder that is empty at first: names, files, folders, links.  Must not
know formats.  Nothing is ever written through a link nor over what is there, so the
file system itself tells names that are the same (also where case makes no difference).
Paths are bytes: what a name means must not depend on the host's locale.
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
from .limits import PIECE, Account, BadArchive, show

_ZEROS = bytes(PIECE)
#: ``C:\\x`` and ``C:/x`` are absolute for whoever made the archive.
_DRIVE = re.compile(rb"[A-Za-z]:([\\/]|$)")
#: Bytes of a part of a name, on all file systems that we know.
_PART = 255
#: Bytes of a link's target.
_TARGET = 4095
#: Parts of names that are looked up for all links of an archive.
_STEPS = 10_000_000
#: The latest date of a file: dates beyond it are no dates.
_LATEST = float(1 << 34)
#: What the file system says of a name that is at fault, and our words for it.
_FAULTS = {
    errno.EEXIST: "this name is there twice",
    errno.ENAMETOOLONG: "its name is too long here",
    errno.EILSEQ: "its name is none on this file system",
    errno.EINVAL: "its name is none on this file system",
    errno.EMLINK: "too many hard links to one file",
    errno.EFBIG: "too large for this file system",
}


class Looks(NamedTuple):
    """How a file or folder is to look."""

    mode: int
    #: Seconds since the epoch.
    modified: float


def parts_of(name: bytes, account: Account) -> List[bytes]:
    """The parts of a name that leads nowhere but down; empty for the folder itself."""
    _check_text(name, account)
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts or b".." in name.replace(b"\\", b"/").split(b"/"):
        raise BadArchive(show(name), "its name leads out of the folder")
    if len(parts) > account.limits.depth:
        raise BadArchive(show(name), "more than %d folders deep" % account.limits.depth)
    if any(len(part) > _PART for part in parts):
        raise BadArchive(show(name), "a part of its name is longer than %d bytes" % _PART)
    return parts


def _check_text(name: bytes, account: Account) -> None:
    if not name:
        raise BadArchive("", "a member has no name")
    if b"\0" in name:
        raise BadArchive(show(name), "its name holds a NUL")
    if name.startswith((b"/", b"\\")) or _DRIVE.match(name):
        raise BadArchive(show(name), "its name is absolute")
    if len(name) > account.limits.name:
        raise BadArchive(show(name), "its name has more than %d bytes" % account.limits.name)


class Landing:
    """A folder to which members of one archive come."""

    def __init__(self, folder: str, account: Account) -> None:
        self._root = os.fsencode(os.path.abspath(folder))
        self._account = account
        #: All folders; with the looks of those that the archive names.
        self._folders: Dict[bytes, Optional[Looks]] = {b"": None}
        self._links: List[bytes] = []
        self._steps = 0

    def folder(self, name: bytes, looks: Looks) -> None:
        """A folder, which may be there already because something lies in it."""
        parts = parts_of(name, self._account)
        path = b"/".join(parts)
        if self._folders.get(path) is not None:
            raise BadArchive(show(name), _FAULTS[errno.EEXIST])
        self._make(parts, name)
        self._folders[path] = looks

    def file(self, name: bytes, looks: Looks, size: int, pieces: Iterable[bytes]) -> None:
        """Make a regular file of ``size`` bytes from the pieces of its contents."""
        path = self._place(name)
        self._account.contents(name, size)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
            try:
                self._fill(name, descriptor, size, pieces)
                os.fchmod(descriptor, looks.mode & 0o755 | 0o400)
                _date(descriptor, looks)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _refusal(name, error) from None

    def _fill(self, name: bytes, descriptor: int, size: int, pieces: Iterable[bytes]) -> None:
        """Write the contents of a file; pieces of zeros become holes."""
        offset = end = 0
        for data in pieces:
            if not is_zeros(data):
                self._account.land(name, len(data))
                if offset != end:
                    os.lseek(descriptor, offset, os.SEEK_SET)
                write_all(descriptor, data)
                end = offset + len(data)
            offset += len(data)
        if end < size:
            os.ftruncate(descriptor, size)

    def link(self, name: bytes, target: bytes) -> None:
        """A symbolic link; where it leads to is known once all is here (``finish``)."""
        path = self._place(name)
        self._account.name(target)
        if not target or b"\0" in target or len(target) > _TARGET:
            raise BadArchive(show(name), "a link to no name that can be: %r" % target[:80])
        if target.startswith(b"/"):
            raise BadArchive(show(name), "a link out of the folder: to %r" % show(target))
        try:
            os.symlink(target, path)
        except OSError as error:
            raise _refusal(name, error) from None
        self._links.append(path)

    def hard_link(self, name: bytes, target: bytes) -> None:
        """A second name of a file, or of a link, that has come before."""
        path = self._place(name)
        self._account.name(target)
        source = self._find(name, target)
        try:
            if stat.S_ISLNK(os.lstat(source).st_mode):
                # The same text in another folder leads elsewhere: it is checked like any other.
                os.symlink(os.readlink(source), path)
                self._links.append(path)
            else:
                os.link(source, path, follow_symlinks=False)
        except OSError as error:
            raise _refusal(name, error) from None

    def _find(self, name: bytes, target: bytes) -> bytes:
        """Where a file is that has come already."""
        try:
            parts = parts_of(target, self._account)
        except BadArchive as error:
            words = "a hard link to %r: %s" % (show(target), error.why)
            raise BadArchive(show(name), words) from None
        known = parts and b"/".join(parts[:-1]) in self._folders
        source = os.path.join(self._root, *parts)
        try:
            mode = os.lstat(source).st_mode
        except OSError:
            mode = 0
        if not known or not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            words = "a hard link to what is not in the archive before it: %r" % show(target)
            raise BadArchive(show(name), words)
        return source

    def _place(self, name: bytes) -> bytes:
        """The path of a file or link, in a folder that is none by a link."""
        parts = parts_of(name, self._account)
        if not parts or name.endswith((b"/", b"/.")):
            raise BadArchive(show(name), "it is no folder and has the name of one")
        self._account.member(name)
        self._make(parts[:-1], name)
        return os.path.join(self._root, *parts)

    def _make(self, parts: Sequence[bytes], name: bytes) -> None:
        """All folders of a path."""
        if b"/".join(parts) in self._folders:
            return
        for count in range(1, len(parts) + 1):
            path = b"/".join(parts[:count])
            if path not in self._folders:
                self._account.member(path)
                self._make_one(os.path.join(self._root, path), name)
                self._folders[path] = None

    def _make_one(self, path: bytes, name: bytes) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                raise BadArchive(show(name), "a link is where its folder would be") from None
            if not stat.S_ISDIR(mode):
                raise BadArchive(show(name), "a file is where its folder would be") from None
        except OSError as error:
            raise _refusal(name, error) from None

    def finish(self) -> None:
        """All has come: links must stay inside; folders look as they should."""
        for path in self._links:
            name, target = path[len(self._root) + 1 :], os.readlink(path)
            count_step = functools.partial(self._count_step, name)
            if not is_link_inside(name.split(b"/")[:-1], target, self._read_link, count_step):
                raise BadArchive(show(name), "a link out of the folder: to %r" % show(target))
        for name, looks in self._folders.items():
            if name:
                path = os.path.join(self._root, name)
                # The owner can always clear it away again.
                os.chmod(path, (looks.mode if looks else 0o755) & 0o755 | 0o700)
                if looks:
                    _date(path, looks)

    def _count_step(self, name: bytes) -> None:
        self._steps += 1
        if self._steps > _STEPS:
            raise BadArchive(show(name), "the links of the archive are a maze")

    def _read_link(self, parts: List[bytes]) -> Optional[bytes]:
        try:
            return os.readlink(os.path.join(self._root, *parts))
        except OSError:
            return None

    def sweep(self) -> None:
        """Remove all that has come."""
        with os.scandir(self._root) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)


def is_zeros(data: bytes) -> bool:
    """Whether nothing is lost when a hole takes its place; True for no bytes at all."""
    if not data:
        return True
    if data[0] or data[-1]:
        return False
    return data == (_ZEROS if len(data) == PIECE else bytes(len(data)))


def _date(file: "bytes | int", looks: Looks) -> None:
    modified = looks.modified if 0 <= looks.modified < _LATEST else 0.0
    os.utime(file, (modified, modified))


def _refusal(name: bytes, error: OSError) -> Exception:
    """The archive's fault, or the host's (a full disk), which stays what it is."""
    words = _FAULTS.get(error.errno or 0)
    return BadArchive(show(name), words) if words else error
