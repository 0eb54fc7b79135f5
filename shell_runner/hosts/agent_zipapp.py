"""The agent as one file that a bare Python >= 3.8 runs.

Owns what is in the zipapp.  The file holds the modules of ``remote/`` and nothing else.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

from ..remote import entry_point
from . import host_code

_SHEBANG = b"#!/usr/bin/env python3\n"

#: Must parse on any Python, to say what is wrong with it.  All arguments are the agent's, but for
#: those of ``entry_point.command``.
_MAIN_SOURCE = f"""\
import sys

if sys.version_info < (3, 8):
    sys.exit("nosejobs-agent: Python >= 3.8 is needed, this is " + sys.version.split()[0])
words = sys.argv[2:]
if sys.argv[1:2] != ["{entry_point.ZIPAPP_OPTION}"]:
    words = ["agent"] + sys.argv[1:]
    for name in ("asyncio", "ctypes", "json", "select", "ssl", "subprocess"):
        try:
            __import__(name)
        except ImportError:
            sys.exit("nosejobs-agent: this Python lacks a part of its standard library: " + name)
from {entry_point.PACKAGE}.__main__ import main

sys.exit(main(words))
"""


def zipapp() -> bytes:
    """The program; the same bytes for the same code."""
    buffer = io.BytesIO(_SHEBANG)
    buffer.seek(0, os.SEEK_END)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        _add_file(archive, "__main__.py", _MAIN_SOURCE.encode("ascii"))
        for name, data in host_code.files():
            _add_file(archive, name, data)
    return buffer.getvalue()


def _add_file(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


def write(path: Path) -> None:
    """Write the program to ``path``, executable, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(zipapp())
        temporary.chmod(0o755)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
