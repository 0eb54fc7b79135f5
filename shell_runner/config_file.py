"""The place of ``nosejobs.toml``; ``config`` reads it."""

from __future__ import annotations

from pathlib import Path

#: Name of the file.
CONFIG_FILE_NAME = "nosejobs.toml"


def find_root(start: Path) -> Path | None:
    """Return the nearest folder at or above ``start`` with a nosejobs.toml, or None."""
    for folder in (start, *start.parents):
        if (folder / CONFIG_FILE_NAME).is_file():
            return folder
    return None
