"""The code for hosts, unpacked and compiled as on a host that was used before.

A new host of a test would unpack and compile the code again, which takes longer than most tests.
All hosts share the same files by hard links; a program that changes a file replaces it.
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
def _compile() -> Path:
    """Return a folder with the compiled code, created once per process."""
    folder = Path(tempfile.mkdtemp(prefix="host-code-"))
    for name, contents in host_code.files():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
    compileall.compile_dir(str(folder), quiet=2)
    return folder


def install(folder: Path) -> None:
    """Install the code into ``folder``, which only the user can write to."""
    os.makedirs(folder.parent, mode=0o700, exist_ok=True)
    shutil.copytree(_compile(), folder, copy_function=_link)


def _link(source: str, target: str) -> None:
    """Create a hard link, or a copy where that is not possible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def install_in_cache(folder: Path) -> None:
    """Install the code in the cache folder of a host (``XDG_CACHE_HOME``)."""
    install(folder / "nosejobs" / "code" / gateway.pack_host_code()[0])


def install_in_queue(folder: Path) -> None:
    """Install the code in the folder of the queue of a host."""
    install(folder / "code" / gateway.pack_host_code()[0])
