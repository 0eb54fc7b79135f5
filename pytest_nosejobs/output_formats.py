"""The output formats of a session: those of plugins and the built-in ones."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from shell_runner.remote import formats


@dataclass(frozen=True)
class OutputFormats:
    """The formats by which hosts read cases from output."""

    #: Source text by format name, in the order of trying; empty if the host has the format.
    sources: Mapping[str, str]
    #: Format names that are known before a program runs, by file suffix.
    by_suffix: Mapping[str, str]


def load_formats(config: pytest.Config, is_configuring: bool) -> OutputFormats:
    """Return the formats of all ``pytest_nosejobs_formats`` hooks.

    The built-in formats come after those of plugins, which may replace them by name.  After
    ``pytest_configure`` the hooks are not called: they are those of conftest files in folders that
    happen to be collected before the first program.

    Raises what the hooks raise, AttributeError for a module without ``NAME``, and OSError or
    TypeError for one without source.
    """
    sources: dict[str, str] = {}
    by_suffix: dict[str, str] = {}
    for modules in config.hook.pytest_nosejobs_formats(config=config) if is_configuring else ():
        for module in modules:
            if module.NAME not in sources:
                sources[module.NAME] = inspect.getsource(module)
            for suffix in formats.get_suffixes(module):
                by_suffix.setdefault(suffix, module.NAME)
    for name in formats.BUILTIN_NAMES:
        sources.setdefault(name, "")
    for suffix, name in formats.BUILTIN_SUFFIXES.items():
        by_suffix.setdefault(suffix, name)
    return OutputFormats(sources, by_suffix)
