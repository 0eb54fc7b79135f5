"""The agent as a zipapp, one file that any Python >= 3.8 runs.

The file contains the modules of ``remote/`` and nothing else.
"""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from pathlib import Path

from ..errors import UsageError
from ..remote import command_lines
from . import host_code

_SHEBANG = b"#!/usr/bin/env python3\n"

#: The zipapp's ``__main__.py``.  It must parse on any Python, so that it can report one that is too
#: old.  Its arguments are those of the agent, except for those of ``command_lines.build_command``.
_MAIN_SOURCE = f"""\
import sys

if sys.version_info < (3, 8):
    sys.exit("nosejobs-agent: Python >= 3.8 is needed, this is " + sys.version.split()[0])
arguments = sys.argv[2:]
if sys.argv[1:2] != ["{command_lines.ZIPAPP_OPTION}"]:
    arguments = ["agent"] + sys.argv[1:]
    for name in ("asyncio", "ctypes", "json", "select", "ssl", "subprocess"):
        try:
            __import__(name)
        except ImportError:
            sys.exit("nosejobs-agent: this Python lacks a part of its standard library: " + name)
from {command_lines.PACKAGE}.__main__ import main

sys.exit(main(arguments))
"""


def zipapp() -> bytes:
    """Return the zipapp; the same code gives the same bytes."""
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
    """Write the zipapp to ``path``, executable; a failure leaves ``path`` unchanged.

    Raises :exc:`UsageError` if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(zipapp())
        temporary.chmod(0o755)
        os.replace(temporary, path)
    except OSError as error:
        message = f"cannot write the agent to {path}: {error.strerror}"
        raise UsageError(f"{message}\n  try: a file in an existing folder") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
