"""One virtual environment with all plugins of the table; a run loads only those that it names.

The other packages, such as pytest and nosejobs, are those of the environment of these tests.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.contract.plugins.plugin_table import PLUGINS, REQUIREMENTS


def provide_environment(folder: Path) -> Path:
    """Return the interpreter of the environment in ``folder``; create it if it does not exist."""
    folder.mkdir(exist_ok=True)
    python = folder / "venv/bin/python"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            _create(python)
            (folder / "ready").touch()
    return python


def _create(python: Path) -> None:
    """Create the environment; raises CalledProcessError, with the reason on standard error."""
    uv = shutil.which("uv")
    options = ["--without-pip"] if uv else []
    _run(sys.executable, "-m", "venv", "--clear", *options, str(python.parents[1]))
    names = [f"{plugin.name}=={plugin.version}" for plugin in PLUGINS]
    if uv:
        install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    else:
        quiet = ["--quiet", "--disable-pip-version-check", "--no-compile"]
        install = [str(python), "-m", "pip", "install", *quiet]
    _run(*install, "--no-deps", *names, *REQUIREMENTS)
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    below = sysconfig.get_paths()["purelib"]
    # A line that starts with "import" is run, so that this folder's own .pth files count, too.
    (site / "tests.pth").write_text(f"import site; site.addsitedir({below!r})\n")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=600)
