"""Node ids as pytest prints them."""

from __future__ import annotations

import re
from pathlib import PurePosixPath


def get_program_id(nodeid: str) -> str:
    """Return the id of a program for the id of its only item; other ids as they are."""
    for found in re.finditer("::", nodeid):
        file, name = nodeid[: found.start()], nodeid[found.end() :]
        if not file.endswith(".py") and name == PurePosixPath(file).stem:
            return file
    return nodeid
