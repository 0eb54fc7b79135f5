"""The format of the result package: names, limits, and the error for a violation.

Must not know how a package is written or read, or what a job is.
"""

from typing import Dict, NamedTuple, Optional

from ..archives import limits
from ..archives.extraction_directory import split_name
from ..archives.limits import BadArchive, ExtractionBudget

#: Version of the format; a reader refuses those that it does not know.
FORMAT = 1
MANIFEST = "manifest.json"
EXECUTIONS = "executions.jsonl"
INSTALL = "install.json"


class Limits(NamedTuple):
    """Limits of a package that is read."""

    members: int = 250_000
    #: Bytes of all members.
    size: int = 64 << 30
    #: Maximum bytes on the disk for each byte of the package, beyond bytes that are always allowed.
    ratio: int = 250
    free: int = 256 << 20
    #: Bytes of the manifest, and of one row.
    manifest: int = 64 << 20
    row: int = 128 << 20
    #: Values in the manifest, or in one row.
    values: int = 4_000_000
    #: Bytes that ``read`` returns.
    read: int = 256 << 20


LIMITS = Limits()


class Member(NamedTuple):
    """A member of a package that is written: bytes, or a file on the disk."""

    name: str
    data: Optional[bytes] = None
    path: Optional[str] = None


class BadPackage(Exception):
    """A package is refused because of ``member`` (empty: the whole package), for ``reason``."""

    def __init__(self, member: str, reason: str) -> None:
        super().__init__(member, reason)
        self.member = member
        self.reason = reason

    def __str__(self) -> str:
        return str(BadArchive(self.member, self.reason))


def is_member_name(name: str) -> bool:
    """Return whether a member can have this name."""
    try:
        return bool(MemberNames().add(name))
    except BadPackage:
        return False


def is_readable_size(text: str, share: int = 1) -> bool:
    """Return whether a reader accepts this JSON as a row, or as one of ``share`` parts of a
    manifest.

    Some room is left for the JSON around it.
    """
    size, values = (LIMITS.row, LIMITS.values) if share == 1 else (LIMITS.manifest, LIMITS.values)
    count = text.count(",") + text.count("[") + text.count("{")
    return len(text) < size // share - 1024 and count < values // share - 1024


def count_values(text: bytes) -> int:
    """Return the number of values in some JSON text; never too few."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def encode_execution_line(test: int, number: int, row: str) -> bytes:
    """Return a line of ``executions.jsonl``; ``row`` is the JSON of an Execution."""
    return b"[%d, %d, %s]\n" % (test, number, row.encode("utf-8"))


class MemberNames:
    """The names of the members: all are different, and none is a folder of another."""

    def __init__(self) -> None:
        self._seen: Dict[str, None] = {}
        self._account = ExtractionBudget(limits.Limits(depth=4096), 0)

    def add(self, name: str) -> bytes:
        """Add a name and return it as bytes; raise BadPackage if no member can have it."""
        try:
            raw = name.encode("utf-8", "surrogateescape")
            parts = split_name(raw, self._account)
        except UnicodeEncodeError:
            raise BadPackage(name, "its name cannot be a file name") from None
        except BadArchive as error:
            raise BadPackage(error.member, error.reason) from None
        if b"/".join(parts) != raw:
            raise BadPackage(name, "its name is not in canonical form")
        if name in self._seen:
            raise BadPackage(name, "this name occurs twice")
        self._seen[name] = None
        return raw

    def check_folders(self) -> None:
        """Raise BadPackage if a member lies where the folder of another one would be."""
        # Names below a folder follow it directly if "/" sorts before all other characters.
        last = "/"
        for name in sorted(self._seen, key=lambda name: name.replace("/", "\0")):
            if name.startswith(last + "/"):
                raise BadPackage(last, "a file where the folder of %r would be" % name)
            last = name
