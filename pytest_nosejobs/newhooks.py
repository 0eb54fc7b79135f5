"""Our own hooks, for conftest files and plugins."""

from __future__ import annotations

from types import ModuleType

import pytest


@pytest.hookspec
def pytest_nosejobs_formats(config: pytest.Config) -> list[ModuleType]:  # type: ignore[empty-body]
    """Modules that read cases off the output of programs.

    Each is one module of the standard library's means only, and of the shape that
    ``shell_runner.remote.formats`` describes.  Its source is shipped to hosts.
    The formats of plugins are asked before the built-in ones.
    """
