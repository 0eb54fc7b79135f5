"""Runs of pytest with this plugin, each in its own process, as ``python -m pytest``.

The processes are forked from one that has imported pytest and the plugins, since that takes longer
than most runs.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import io
import os
import pkgutil
import runpy
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fork_server import REPOSITORY_ROOT, ForkServer, serve

#: Beginnings of names of environment variables that are read once, before a process is forked.
_READ_AT_START = ("PYTHON", "LC_", "LANG", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")
#: Packages with modules that a run may import late.
_PACKAGES = (
    "pytest_nosejobs", "shell_runner.collection", "shell_runner.hosts", "shell_runner.reporting",
    "shell_runner.run", "shell_runner.shipping", "shell_runner.remote.execution",
    "shell_runner.remote.formats", "shell_runner.remote.protocol",
)  # fmt: skip


def run_pytest(
    folder: Path,
    *arguments: str | os.PathLike[str],
    all_plugins: bool = False,
    timeout: float = 120,
) -> pytest.RunResult:
    """Run ``python -m pytest`` in ``folder``, without input, and return its result.

    ``all_plugins``: with all plugins that are installed, not with this one alone.
    """
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    plugins = []
    if not all_plugins:
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        plugins = ["-p", "pytest_nosejobs.plugin"]
    base = tempfile.mkdtemp(prefix="runpytest-", dir=folder)
    words = [f"--basetemp={base}", *map(os.fspath, arguments)]
    start = time.monotonic()
    status, *texts = fork_pytest(folder, plugins, words, environment, timeout=timeout)
    duration = time.monotonic() - start
    print("pytest", *arguments, *texts, sep="\n")  # shown if the test fails
    codes = [code for code in pytest.ExitCode if code == status]
    out, error = (text.splitlines() for text in texts)
    return pytest.RunResult(codes[0] if codes else status, out, error, duration)


def fork_pytest(
    folder: Path,
    plugins: Sequence[str],
    arguments: Sequence[str],
    environment: Mapping[str, str],
    python: str = sys.executable,
    timeout: float = 120,
) -> tuple[int, str, str]:
    """Run pytest; return its exit status, its output, and its errors.

    ``plugins``: the first arguments, which load plugins.
    ``python``: the interpreter.  The output is also in the files ``stdout`` and ``stderr``.
    """
    read_at_start = {
        name: value
        for name, value in environment.items()
        if name.startswith(_READ_AT_START) and name != "PYTHONPATH"
    }
    server = _start_server(python, tuple(plugins), tuple(sorted(read_at_start.items())))
    files = [folder / "stdout", folder / "stderr"]
    for file in files:
        file.write_bytes(b"")
    words = [*plugins, *arguments]
    process = server.fork(folder, environment, words, out="stdout", error="stderr")
    status = process.wait_for_status(timeout)
    out, error = (file.read_text("utf-8", "surrogateescape") for file in files)
    return status, out, error


@functools.cache
def _start_server(
    python: str, plugins: tuple[str, ...], variables: tuple[tuple[str, str], ...]
) -> ForkServer:
    others = {
        name: value for name, value in os.environ.items() if not name.startswith(_READ_AT_START)
    }
    server = ForkServer(
        "tests.helpers.pytest_processes", *plugins, python=python,
        environment={**others, **dict(variables)},
    )  # fmt: skip
    atexit.register(server.close)
    return server


def _main() -> None:
    # The modules of the project are those that are installed, as for any run.
    sys.path.sort(key=str(REPOSITORY_ROOT).__eq__)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(folder)
        # Imports the plugins as pytest does, which rewrites their assertions.
        pytest.main([*sys.argv[1:], "--collect-only", "-p", "no:cacheprovider"])
        os.chdir("/")
    for package in _PACKAGES:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            importlib.import_module(f"{package}.{module.name}")
    for name in [each for each in sys.modules if each.partition(".")[0] == "tests"]:
        del sys.modules[name]  # a project may have a package with this name
    serve(_run_pytest)


def _run_pytest(request: Mapping[str, Any]) -> None:
    more = request["environment"].get("PYTHONPATH", "")
    sys.path[:0] = [request["folder"], *filter(None, more.split(os.pathsep))]
    sys.argv[1:] = request["arguments"]
    runpy.run_module("pytest", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
