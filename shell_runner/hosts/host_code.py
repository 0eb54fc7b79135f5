"""The code that runs on hosts, as files of an archive.

Owns which files these are and what they are called there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .. import remote
from ..remote.entry_point import PACKAGE


def files() -> Iterator[tuple[str, bytes]]:
    """Name and contents of each, always in the same order."""
    folder = Path(remote.__file__).parent
    for path in sorted(each for each in folder.rglob("*") if each.suffix in (".py", ".sql")):
        yield f"{PACKAGE}/{path.relative_to(folder).as_posix()}", path.read_bytes()
