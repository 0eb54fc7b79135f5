"""Code of hosts as it is on one that was used before: unpacked, and compiled.

A host of a test's own would unpack it and compile it again, which takes longer than what most
tests are about.  All share the same files by links: whoever changes one writes a new one in its
place.
"""

from __future__ import annotations

import compileall
import functools
import os
import shutil
import tempfile
from pathlib import Path

from shell_runner.hosts import gateway, host_code


@functools.cache
def _compiled() -> Path:
    """Once in a process."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    for name, contents in host_code.files():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
    compileall.compile_dir(str(folder), quiet=2)
    return folder


def put(place: Path) -> None:
    """Where the code of this checkout is to be; nobody else can write there."""
    os.makedirs(place.parent, mode=0o700, exist_ok=True)
    shutil.copytree(_compiled(), place, copy_function=_link)


def _link(source: str, target: str) -> None:
    """As a copy, but cheaper, where that can be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def cache(folder: Path) -> None:
    """Into a host's cache folder (XDG_CACHE_HOME)."""
    put(folder / "nosejobs" / "code" / gateway.pack_host_code()[0])


def queue(folder: Path) -> None:
    """Into the folder of a host's queue."""
    put(folder / "code" / gateway.pack_host_code()[0])
