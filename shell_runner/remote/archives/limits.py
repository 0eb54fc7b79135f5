"""What reading and writing of archives have in common: bounds, the account, the refusal.

Owns the words with which an archive is refused.  Must not know formats nor files.
"""

from typing import NamedTuple

#: Bytes of one piece of contents; zeros of this size become holes.
PIECE = 1 << 16
#: Bytes of the file system's blocks: a file of one byte takes as many.
_BLOCK = 4096
#: Characters of a member's name that a refusal shows.
_SHOWN = 200


class BadArchive(Exception):
    """An archive is refused: ``member`` is to blame (empty: all of it), and ``why``."""

    def __init__(self, member: str, why: str) -> None:
        super().__init__(member, why)
        self.member = member
        self.why = why

    def __str__(self) -> str:
        name = self.member if len(self.member) <= _SHOWN else self.member[:_SHOWN] + "..."
        return "%r: %s" % (name, self.why) if name else self.why


class Limits(NamedTuple):
    """What an archive may ask of a disk; a real build comes near to none of it."""

    #: Files, links and folders, those too that no member names but others lie in.
    members: int = 1_000_000
    #: Bytes of all files, holes included, and bytes of the archive once it is inflated.
    size: int = 64 << 30
    #: Bytes on the disk (no holes) for each byte of the archive; sources and binaries come
    #: to 3 to 20, logs to 100, and what deflate makes of one byte repeated to 1000.
    ratio: int = 250
    #: Bytes on the disk that any archive may take, whatever its size.
    free: int = 256 << 20
    #: Bytes of all names and targets of links.
    names: int = 256 << 20
    #: Bytes of one name.
    name: int = 4096
    #: Folders above one member.
    depth: int = 256
    #: Bytes of one extended header (tar).
    header: int = 4 << 20


class Account:
    """What an archive has asked for so far, against its limits."""

    def __init__(self, limits: Limits, archive: int) -> None:
        """``archive``: its bytes."""
        self.limits = limits
        self.members = self.names = self.size = self.landed = 0
        self._most = limits.free + limits.ratio * archive

    def member(self, name: bytes) -> None:
        """One more file, link or folder."""
        self.members += 1
        if self.members > self.limits.members:
            raise BadArchive(show(name), "more than %d members" % self.limits.members)
        self.name(name)

    def name(self, name: bytes) -> None:
        """One more name to remember."""
        self.names += len(name)
        if self.names > self.limits.names:
            raise BadArchive(show(name), "more than %d bytes of names" % self.limits.names)

    def contents(self, name: bytes, size: int) -> None:
        """One more file, of ``size`` bytes as people see them."""
        self.size += size
        if size < 0 or self.size > self.limits.size:
            words = "it makes %d bytes of files, and %d is the limit"
            raise BadArchive(show(name), words % (self.size, self.limits.size))

    def land(self, name: bytes, count: int) -> None:
        """Bytes that take room on the disk."""
        self.landed += (count + _BLOCK - 1) // _BLOCK * _BLOCK
        if self.landed > self._most:
            words = "it takes more than %d bytes of the disk: %d for each byte of the archive"
            raise BadArchive(show(name), words % (self._most, self.limits.ratio) + " is the limit")


def show(name: bytes) -> str:
    """A name as text; undecodable bytes are surrogates."""
    return name.decode("utf-8", "surrogateescape")
