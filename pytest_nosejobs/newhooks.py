"""Specifications of the plugin's own hooks, for conftest files and other plugins."""

from __future__ import annotations

from types import ModuleType

import pytest


@pytest.hookspec
def pytest_nosejobs_formats(config: pytest.Config) -> list[ModuleType]:  # type: ignore[empty-body]
    """Return modules that read test cases from the output of programs.

    Each module uses the standard library only, in Python 3.8 syntax, and has the shape that
    ``shell_runner.remote.formats`` describes.  Its source is shipped to the hosts.  Formats of
    plugins are tried before the built-in ones; of two with the same ``NAME``, the first counts.

    :param config: The pytest config object; called once, in ``pytest_configure``.
    :returns: The modules, possibly none.
    :raises AttributeError: A module has no ``NAME``.
    :raises OSError: The source of a module cannot be read by ``inspect.getsource``.
    :raises TypeError: A module is built in or written in C, so that it has no source.

    These errors, and those of an implementation itself, end the session.
    """
