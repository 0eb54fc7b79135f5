"""The extraction of an untrusted archive: all of it into one folder, or nothing.

Passes the members of zip and tar archives to an ``ExtractionDirectory``.  The first bytes of an
archive determine its format, never its name.
"""

import calendar
import os
import stat
from typing import BinaryIO, Iterator, NamedTuple, Tuple

from . import tar_reader, zip_reader
from .decompress import open_source
from .extraction_directory import ExtractionDirectory, FileAttributes
from .limits import BadArchive, ExtractionBudget, Limits, decode_name

__all__ = ["BadArchive", "ExtractionSummary", "Limits", "check_archive", "extract_archive"]

DEFAULT_LIMITS = Limits()
#: First bytes of unsupported formats, for the error message.
_UNSUPPORTED_FORMATS = {
    b"(\xb5/\xfd": "compressed with zstd",
    b"7z\xbc\xaf'\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x1f\x9d": "compressed with compress",
    b"LZIP": "compressed with lzip",
}
#: Values of ``ZipEntry.system`` whose attributes contain a Unix mode: Unix and macOS.
_UNIX_SYSTEMS = (3, 19)
_FOLDER_MODE, _FILE_MODE = 0o755, 0o644
#: Types of files that are refused.  Invalid types are accepted: Maven's folders have all bits
#: set.
_REFUSED_TYPES = (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK)
#: Maximum bytes of a link's target in a zip archive.
_MAX_TARGET_BYTES = 4096


class ExtractionSummary(NamedTuple):
    """The number of extracted members and their sizes."""

    members: int
    #: Bytes of all files with their holes, and bytes that they take on the disk.
    size: int
    disk_bytes: int


def extract_archive(
    path: str, folder: str, name: str = "", limits: Limits = DEFAULT_LIMITS
) -> ExtractionSummary:
    """Extract the archive ``path`` into ``folder``, which exists and is empty.

    ``name`` is the name of the archive in error messages.  Raises BadArchive, which names the
    invalid member, or OSError (such as a full disk); the folder is empty then.
    """
    if os.listdir(folder):
        raise FileExistsError("%s is not empty: nothing is extracted into it" % folder)
    with open(path, "rb") as file:
        budget = ExtractionBudget(limits, os.fstat(file.fileno()).st_size)
        directory = ExtractionDirectory(folder, budget)
        try:
            _extract(file, directory, budget, name)
            directory.finish()
        except BaseException:
            directory.remove_all()
            raise
    return ExtractionSummary(budget.members, budget.size, budget.disk_bytes)


def check_archive(path: str, name: str = "", limits: Limits = DEFAULT_LIMITS) -> None:
    """Raise BadArchive if the file is not a supported archive or is truncated.

    Nothing is written.  Names of members and the checksums of a zip archive are not checked.
    """
    with open(path, "rb") as file:
        head = file.read(8)
        file.seek(0)
        if _is_zip(head):
            zip_reader.ZipReader(file, limits.members, limits.total_name_bytes).verify()
            return
        for _ in _read_tar(file, limits, _describe_unsupported(name, head)):
            pass


def _is_zip(head: bytes) -> bool:
    return head.startswith((zip_reader.LOCAL_MAGIC, zip_reader.END_MAGIC))


def _extract(
    file: BinaryIO, directory: ExtractionDirectory, budget: ExtractionBudget, name: str
) -> None:
    head = file.read(8)
    file.seek(0)
    if _is_zip(head):
        _extract_zip(file, directory, budget)
    else:
        _extract_tar(file, directory, budget, _describe_unsupported(name, head))


def _describe_unsupported(name: str, head: bytes) -> str:
    """Return the message for a file that is not a supported archive."""
    formats = [text for magic, text in _UNSUPPORTED_FORMATS.items() if head.startswith(magic)]
    actual = " (it is %s)" % formats[0] if formats else ""
    message = "%s is not a zip or tar archive%s; use zip, or tar (plain, gzip, bzip2 or xz)"
    return message % (name or "the file", actual)


# -- tar -----------------------------------------------------------------------


def _read_tar(
    file: BinaryIO, limits: Limits, unsupported: str
) -> Iterator[Tuple[tar_reader.TarMember, Iterator[bytes]]]:
    source = open_source(file, limits.size)
    if not tar_reader.is_tar(source):
        raise BadArchive("", unsupported)
    return tar_reader.TarReader(source, limits, os.fstat(file.fileno()).st_size).members()


def _extract_tar(
    file: BinaryIO, directory: ExtractionDirectory, budget: ExtractionBudget, unsupported: str
) -> None:
    for member, pieces in _read_tar(file, budget.limits, unsupported):
        attributes = FileAttributes(member.mode, member.modified)
        if member.kind == tar_reader.FOLDER:
            directory.add_folder(member.name, attributes)
        elif member.kind == tar_reader.LINK:
            directory.add_symlink(member.name, member.target)
        elif member.kind == tar_reader.HARD_LINK:
            directory.add_hard_link(member.name, member.target)
        else:
            directory.add_file(member.name, attributes, member.size, pieces)


# -- zip -----------------------------------------------------------------------


def _extract_zip(file: BinaryIO, directory: ExtractionDirectory, budget: ExtractionBudget) -> None:
    archive = zip_reader.ZipReader(file, budget.limits.members, budget.limits.total_name_bytes)
    archive.verify()
    for entry in archive.entries():
        _extract_zip_entry(archive, entry, directory)


def _extract_zip_entry(
    archive: zip_reader.ZipReader, entry: zip_reader.ZipEntry, directory: ExtractionDirectory
) -> None:
    name, mode = _check_name(entry), _unix_mode(entry)
    kind = stat.S_IFMT(mode)
    is_folder = name.endswith(b"/")
    if kind in _REFUSED_TYPES:
        raise BadArchive(
            decode_name(name), "a device, FIFO or socket; only files, folders and links"
        )
    if (kind == stat.S_IFDIR and not is_folder) or (kind == stat.S_IFLNK and is_folder):
        raise BadArchive(decode_name(name), "its name and its attributes disagree on its type")
    if is_folder:
        if entry.size:
            raise BadArchive(decode_name(name), "a folder with contents")
        for _ in archive.read_contents(entry):
            pass
        directory.add_folder(
            name, FileAttributes(stat.S_IMODE(mode) or _FOLDER_MODE, _modification_time(entry))
        )
    elif kind == stat.S_IFLNK:
        directory.add_symlink(name, _read_target(archive, entry))
    else:
        attributes = FileAttributes(
            stat.S_IMODE(mode) if mode else _FILE_MODE, _modification_time(entry)
        )
        directory.add_file(name, attributes, entry.size, archive.read_contents(entry))


def _check_name(entry: zip_reader.ZipEntry) -> bytes:
    """Return the name; raises BadArchive for a backslash or a drive of Windows."""
    name = entry.name
    if b"\\" in name:
        raise BadArchive(decode_name(name), "its name has a backslash; zip requires a slash")
    if name[1:2] == b":" and name[:1].isalpha():
        raise BadArchive(decode_name(name), "its name starts with a drive")
    return name


def _unix_mode(entry: zip_reader.ZipEntry) -> int:
    """Return the Unix mode, type and permissions; 0 if the archive has none."""
    return entry.attributes >> 16 if entry.system in _UNIX_SYSTEMS else 0


def _read_target(archive: zip_reader.ZipReader, entry: zip_reader.ZipEntry) -> bytes:
    if entry.size > _MAX_TARGET_BYTES:
        raise BadArchive(
            decode_name(entry.name), "the target of the link has %d bytes" % entry.size
        )
    return b"".join(archive.read_contents(entry))


def _modification_time(entry: zip_reader.ZipEntry) -> float:
    """Return the modification time; the format has no time zone, so UTC is assumed."""
    date, time = entry.date
    year, month = (date >> 9) + 1980, max(1, min(12, date >> 5 & 15))
    clock = (time >> 11, time >> 5 & 63, (time & 31) * 2)
    return float(calendar.timegm((year, month, max(1, date & 31)) + clock))
