"""The writer of result packages: the same manifest and members make the same bytes.

Must not know queues, jobs or hosts.
"""

import hashlib
import io
import json
import os
import stat
import zipfile
import zlib
from typing import Any, BinaryIO, Dict, Iterable, Iterator, List, Optional, Tuple

from ..archives.extraction_directory import is_zeros
from ..archives.limits import PIECE_BYTES
from ..archives.zip_reader import UTF8, is_utf8
from .result_package_format import (
    FORMAT,
    LIMITS,
    MANIFEST,
    BadPackage,
    Member,
    MemberNames,
    count_values,
)

#: The first date that zip supports: nothing in a package depends on a clock.
_DATE = (1980, 1, 1, 0, 0, 0)
_MODE = stat.S_IFREG | 0o644
_UNIX = 3
#: Maximum compression ratio of a member; others are stored, so that no package that is written
#: here exceeds the reader's limit of the ratio.
_MAX_RATIO = 200
#: Bytes from which on a member has the fields of zip64.  zipfile wants to know before it writes
#: whether more than 2 GiB will come, and deflate can add to a size.
_ZIP64_SIZE = 0x7FF00000


def write_package(
    path: str, manifest: Dict[str, Any], members: Iterable[Member]
) -> Tuple[str, int]:
    """Write the package ``path``; return its SHA-256 in hex and its size in bytes.

    The same manifest and members, in the same order, make the same bytes. The file exists
    completely or not at all. ``manifest`` gets ``format`` and ``members``.

    Raises BadPackage for members that no reader would accept, OSError for a full disk.
    """
    part = path + ".part"
    try:
        with _HoleFile(io.FileIO(part, "w+")) as file:
            os.fchmod(file.fileno(), 0o600)
            with zipfile.ZipFile(file, "w") as archive:
                writer = _Writer(file, archive)
                for member in members:
                    writer.add(member)
                writer.finish(manifest)
            file.flush()
            os.fsync(file.fileno())
            result = _digest(file)
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.unlink(part)
        raise
    _sync_folder(os.path.dirname(os.path.abspath(path)))
    return result


def _digest(file: BinaryIO) -> Tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    file.seek(0)
    while True:
        data = file.read(1 << 20)
        if not data:
            return digest.hexdigest(), size
        digest.update(data)
        size += len(data)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _HoleFile(io.BufferedRandom):
    """A file in which pieces of zeros become holes; other data must follow them."""

    def write(self, data: Any) -> int:
        if len(data) == PIECE_BYTES and is_zeros(data):
            self.seek(PIECE_BYTES, os.SEEK_CUR)
            return PIECE_BYTES
        return super().write(data)


class _Info(zipfile.ZipInfo):
    """A member whose header contains only its name, sizes and CRC."""

    def __init__(self, raw: bytes, method: int) -> None:
        super().__init__(raw.decode("utf-8", "surrogateescape"), _DATE)
        self.compress_type = method
        self.create_system = _UNIX
        self.external_attr = _MODE << 16
        self._raw = raw

    def _encodeFilenameFlags(self) -> Tuple[bytes, int]:
        # zipfile has no other way to write names that are not UTF-8.
        is_text = not self._raw.isascii() and is_utf8(self._raw)
        return self._raw, self.flag_bits | (UTF8 if is_text else 0)


class _Writer:
    """The writer of the members of one package."""

    def __init__(self, file: BinaryIO, archive: zipfile.ZipFile) -> None:
        self._file = file
        self._archive = archive
        self._names = MemberNames()
        #: Their rows in the manifest.
        self._rows: List[Dict[str, Any]] = []

    def add(self, member: Member) -> None:
        """Write a member."""
        if member.name == MANIFEST:
            raise BadPackage(member.name, "the manifest is written automatically")
        if len(self._rows) >= LIMITS.members - 1:
            raise BadPackage(member.name, "more than %d members" % LIMITS.members)
        self._add(member)

    def _add(self, member: Member) -> None:
        raw = self._names.add(member.name)
        with _Contents(member) as contents:
            method = zipfile.ZIP_DEFLATED if contents.is_compressible() else zipfile.ZIP_STORED
            info, digest = self._write(_Info(raw, method), contents)
            if method == zipfile.ZIP_DEFLATED and info.compress_size * _MAX_RATIO < info.file_size:
                self._drop(info)
                info, digest = self._write(_Info(raw, zipfile.ZIP_STORED), contents)
        self._rows.append({"name": info.filename, "sha256": digest, "size": info.file_size})

    def _write(self, info: _Info, contents: "_Contents") -> Tuple[_Info, str]:
        digest = hashlib.sha256()
        is_large = contents.size >= _ZIP64_SIZE
        with self._archive.open(info, "w", force_zip64=is_large) as file:
            for piece in contents.pieces():
                digest.update(piece)
                file.write(piece)
        return info, digest.hexdigest()

    def _drop(self, info: _Info) -> None:
        """Remove the member that was written last, so that the next one takes its place."""
        archive: Any = self._archive  # its methods cannot do this
        archive.filelist.pop()
        del archive.NameToInfo[info.filename]
        archive.start_dir = info.header_offset
        self._file.seek(info.header_offset)
        self._file.truncate()

    def finish(self, manifest: Dict[str, Any]) -> None:
        """Write the manifest, as the last member."""
        self._names.check_folders()
        complete = dict(manifest, format=FORMAT, members=self._rows)
        text = json.dumps(complete, sort_keys=True, allow_nan=False)
        data = text.encode("ascii")
        if len(data) > LIMITS.manifest or count_values(data) > LIMITS.values:
            raise BadPackage(MANIFEST, "too large for readers: too many members or tests")
        self._add(Member(MANIFEST, data))


class _Contents:
    """The content of a member, which can be read twice."""

    def __init__(self, member: Member) -> None:
        if (member.data is None) == (member.path is None):
            raise ValueError("%r: a member is bytes, or a file" % member.name)
        self._member = member
        self._file: Optional[BinaryIO] = None
        self.size = len(member.data or b"")

    def __enter__(self) -> "_Contents":
        if self._member.path is not None:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._file = open(os.open(self._member.path, flags), "rb")
            status = os.fstat(self._file.fileno())
            if not stat.S_ISREG(status.st_mode):
                self._file.close()
                raise BadPackage(self._member.name, "%s is not a file" % self._member.path)
            self.size = status.st_size
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes that the member had when it was opened, and nothing that was appended
        later.
        """
        if self._file is None:
            data = memoryview(self._member.data or b"")
            for at in range(0, len(data), PIECE_BYTES):
                yield bytes(data[at : at + PIECE_BYTES])
            return
        self._file.seek(0)
        left = self.size
        while left:
            piece = self._file.read(min(PIECE_BYTES, left))
            if not piece:
                return
            left -= len(piece)
            yield piece

    def is_compressible(self) -> bool:
        """Return whether compression shrinks the member, unlike data that is compressed already."""
        sample = next(self.pieces(), b"")
        return len(zlib.compress(sample, 1)) < 0.9 * len(sample)
