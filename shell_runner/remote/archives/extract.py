"""Unpacking an archive that somebody sent: all of it, inside one folder, or nothing.

Owns the ways from zip and tar members to a ``Landing``.  Which archive it is, its first
bytes say, never its name.
"""

import calendar
import os
import stat
from typing import BinaryIO, Iterator, NamedTuple, Tuple

from . import tar_reader, zip_reader
from .decompress import open_source
from .extraction_directory import Landing, Looks
from .limits import Account, BadArchive, Limits, show

__all__ = ["BadArchive", "Limits", "Summary", "look", "unpack"]

LIMITS = Limits()
#: First bytes of what people send instead.
_OTHERS = {
    b"(\xb5/\xfd": "compressed by zstd",
    b"7z\xbc\xaf'\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x1f\x9d": "compressed by compress",
    b"LZIP": "compressed by lzip",
}
#: Systems in whose zip members the attributes are a mode: Unix, OS X.
_UNIX = (3, 19)
_FOLDER_MODE, _FILE_MODE = 0o755, 0o644
#: Kinds that no member may be.  Others that are none at all occur: Maven's folders have all
#: bits set.
_REFUSED = (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK)
#: Bytes of a link's target, in a zip member.
_TARGET = 4096


class Summary(NamedTuple):
    """What has been unpacked."""

    members: int
    #: Bytes of all files as people see them, and bytes that are on the disk.
    size: int
    landed: int


def unpack(path: str, folder: str, name: str = "", limits: Limits = LIMITS) -> Summary:
    """Unpack the archive ``path`` into ``folder``, which exists and is empty.

    ``name``: what people call the archive.  Raises BadArchive, which names the member at
    fault, or OSError (a full disk); the folder is empty then.
    """
    if os.listdir(folder):
        raise FileExistsError("%s is not empty: nothing is unpacked into it" % folder)
    with open(path, "rb") as file:
        account = Account(limits, os.fstat(file.fileno()).st_size)
        landing = Landing(folder, account)
        try:
            _unpack(file, landing, account, name)
            landing.finish()
        except BaseException:
            landing.sweep()
            raise
    return Summary(account.members, account.size, account.landed)


def look(path: str, name: str = "", limits: Limits = LIMITS) -> None:
    """Raise BadArchive for what is no archive, or is not whole; nothing is written.

    What its members may be, and the sums of a zip's, ``unpack`` finds out.
    """
    with open(path, "rb") as file:
        head = file.read(8)
        file.seek(0)
        if _is_zip(head):
            zip_reader.Zip(file, limits.members, limits.names).check()
            return
        for _ in _members(file, limits, _who(name, head)):
            pass


def _is_zip(head: bytes) -> bool:
    return head.startswith((zip_reader.LOCAL_MAGIC, zip_reader.END_MAGIC))


def _unpack(file: BinaryIO, landing: Landing, account: Account, name: str) -> None:
    head = file.read(8)
    file.seek(0)
    if _is_zip(head):
        _unpack_zip(file, landing, account)
    else:
        _unpack_tar(file, landing, account, _who(name, head))


def _who(name: str, head: bytes) -> str:
    """What an archive is that we cannot read."""
    kinds = [words for magic, words in _OTHERS.items() if head.startswith(magic)]
    found = "%s: " % kinds[0] if kinds else ""
    return "%s%s is no zip, and no tar (plain, gzip, bzip2 or xz)" % (found, name or "it")


# Tar


def _members(
    file: BinaryIO, limits: Limits, words: str
) -> Iterator[Tuple[tar_reader.Member, Iterator[bytes]]]:
    source = open_source(file, limits.size)
    if not tar_reader.is_tar(source):
        raise BadArchive("", words)
    return tar_reader.Tar(source, limits).members()


def _unpack_tar(file: BinaryIO, landing: Landing, account: Account, words: str) -> None:
    for member, pieces in _members(file, account.limits, words):
        looks = Looks(member.mode, member.modified)
        if member.kind == tar_reader.FOLDER:
            landing.folder(member.name, looks)
        elif member.kind == tar_reader.LINK:
            landing.link(member.name, member.target)
        elif member.kind == tar_reader.HARD_LINK:
            landing.hard_link(member.name, member.target)
        else:
            landing.file(member.name, looks, member.size, pieces)


# Zip


def _unpack_zip(file: BinaryIO, landing: Landing, account: Account) -> None:
    archive = zip_reader.Zip(file, account.limits.members, account.limits.names)
    archive.check()
    for entry in archive.entries():
        _unpack_entry(archive, entry, landing)


def _unpack_entry(archive: zip_reader.Zip, entry: zip_reader.Entry, landing: Landing) -> None:
    name, mode = _checked_name(entry), _mode(entry)
    kind = stat.S_IFMT(mode)
    is_folder = name.endswith(b"/")
    if kind in _REFUSED:
        raise BadArchive(show(name), "a device, FIFO or socket; only files, folders and links")
    if (kind == stat.S_IFDIR and not is_folder) or (kind == stat.S_IFLNK and is_folder):
        raise BadArchive(show(name), "its name and its attributes disagree on what it is")
    if is_folder:
        if entry.size:
            raise BadArchive(show(name), "a folder with contents")
        for _ in archive.contents(entry):
            pass
        landing.folder(name, Looks(stat.S_IMODE(mode) or _FOLDER_MODE, _date(entry)))
    elif kind == stat.S_IFLNK:
        landing.link(name, _target(archive, entry))
    else:
        looks = Looks(stat.S_IMODE(mode) if mode else _FILE_MODE, _date(entry))
        landing.file(name, looks, entry.size, archive.contents(entry))


def _checked_name(entry: zip_reader.Entry) -> bytes:
    """What comes from Windows means a folder by a backslash and a drive by a colon."""
    name = entry.name
    if b"\\" in name:
        raise BadArchive(show(name), "its name has a backslash where zip wants a slash")
    if name[1:2] == b":" and name[:1].isalpha():
        raise BadArchive(show(name), "its name begins with a drive")
    return name


def _mode(entry: zip_reader.Entry) -> int:
    """Kind and permissions, 0 where the archive does not tell."""
    return entry.attributes >> 16 if entry.system in _UNIX else 0


def _target(archive: zip_reader.Zip, entry: zip_reader.Entry) -> bytes:
    if entry.size > _TARGET:
        raise BadArchive(show(entry.name), "a link to a name of %d bytes" % entry.size)
    return b"".join(archive.contents(entry))


def _date(entry: zip_reader.Entry) -> float:
    """MS-DOS knows no time zones, nor do we then: what counts is which file is newer."""
    day, time = entry.date
    year, month = (day >> 9) + 1980, max(1, min(12, day >> 5 & 15))
    clock = (time >> 11, time >> 5 & 63, (time & 31) * 2)
    return float(calendar.timegm((year, month, max(1, day & 31)) + clock))
