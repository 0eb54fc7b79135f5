"""The code that runs on hosts, as files of an archive: which files, and their names there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .. import remote
from ..remote.command_lines import PACKAGE


def files() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the contents of each file, always in the same order."""
    folder = Path(remote.__file__).parent
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".sql")):
        yield f"{PACKAGE}/{path.relative_to(folder).as_posix()}", path.read_bytes()
