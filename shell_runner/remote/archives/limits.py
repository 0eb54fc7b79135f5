"""The limits of archives, and the error that is raised for an invalid one.

Must not depend on formats or files.
"""

from typing import NamedTuple

#: Bytes of one piece of contents; a piece of zeros becomes a hole.
PIECE_BYTES = 1 << 16
#: Bytes of a block of the file system: the disk space of a file of one byte.
_BLOCK = 4096
#: Maximum characters of a member's name in an error message.
_MAX_SHOWN_CHARS = 200


class BadArchive(Exception):
    """An archive is refused because of ``reason``; ``member`` is its invalid member, or empty."""

    def __init__(self, member: str, reason: str) -> None:
        super().__init__(member, reason)
        self.member = member
        self.reason = reason

    def __str__(self) -> str:
        name = self.member
        if len(name) > _MAX_SHOWN_CHARS:
            name = name[:_MAX_SHOWN_CHARS] + "..."
        return "%r: %s" % (name, self.reason) if name else self.reason


class Limits(NamedTuple):
    """The limits of one archive; a real build stays far below all of them."""

    #: Number of files, links and folders, including folders that are not members themselves.
    members: int = 1_000_000
    #: Bytes of all files with their holes, and bytes of the decompressed archive.
    size: int = 64 << 30
    #: Bytes on the disk (without holes) for each byte of the archive.  Sources and binaries have
    #: a ratio of 3 to 20, logs of 100, and one repeated byte of 1000 (deflate).
    ratio: int = 250
    #: Bytes on the disk that an archive may take in addition, whatever its size.
    base_disk_bytes: int = 256 << 20
    #: Bytes of all names and link targets together.
    total_name_bytes: int = 256 << 20
    #: Bytes of one name.
    name_bytes: int = 4096
    #: Number of folders above one member.
    depth: int = 256
    #: Bytes of one extended header (tar).
    header_bytes: int = 4 << 20
    #: Bytes of headers and padding (tar) for each byte of the archive.  Many empty files with
    #: numbers as names have a ratio of 400 (xz), and with long ones of 1300.
    overhead_ratio: int = 2000
    #: Bytes of headers and padding that an archive may have in addition, whatever its size.
    base_overhead: int = 8 << 20


class ExtractionBudget:
    """The resources that an archive has used so far, checked against its limits.

    All methods raise BadArchive for the member ``name`` if a limit is exceeded.
    """

    def __init__(self, limits: Limits, archive_bytes: int) -> None:
        """Start a budget for an archive file of ``archive_bytes`` bytes."""
        self.limits = limits
        self.members = self.names = self.size = self.disk_bytes = 0
        self._max_disk_bytes = limits.base_disk_bytes + limits.ratio * archive_bytes

    def add_member(self, name: bytes) -> None:
        """Count one file, link or folder."""
        self.members += 1
        if self.members > self.limits.members:
            raise BadArchive(decode_name(name), "more than %d members" % self.limits.members)
        self.add_name(name)

    def add_name(self, name: bytes) -> None:
        """Count one name or link target."""
        self.names += len(name)
        if self.names > self.limits.total_name_bytes:
            raise BadArchive(
                decode_name(name), "more than %d bytes of names" % self.limits.total_name_bytes
            )

    def add_file(self, name: bytes, size: int) -> None:
        """Count one file of ``size`` bytes with its holes."""
        self.size += size
        if size < 0 or self.size > self.limits.size:
            message = "the files have %d bytes; the limit is %d"
            raise BadArchive(decode_name(name), message % (self.size, self.limits.size))

    def add_disk_bytes(self, name: bytes, count: int) -> None:
        """Count ``count`` bytes that are written to the disk."""
        self.disk_bytes += (count + _BLOCK - 1) // _BLOCK * _BLOCK
        if self.disk_bytes > self._max_disk_bytes:
            message = "it takes more than %d bytes of the disk (limit: %d for each archive byte)"
            raise BadArchive(decode_name(name), message % (self._max_disk_bytes, self.limits.ratio))


def decode_name(name: bytes) -> str:
    """Decode a name; undecodable bytes become surrogates."""
    return name.decode("utf-8", "surrogateescape")
