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


def load_formats(config: pytest.Config) -> OutputFormats:
    """Return the formats of all ``pytest_nosejobs_formats`` hooks.

    Raises what the hooks raise, AttributeError for a module without ``NAME``, and OSError or
    TypeError for one without source.
    """
    builtin = {module.__name__ for module in formats.load_builtin_formats()}
    sources: dict[str, str] = {}
    by_suffix: dict[str, str] = {}
    for modules in config.hook.pytest_nosejobs_formats(config=config):
        for module in modules:
            source = "" if module.__name__ in builtin else inspect.getsource(module)
            sources.setdefault(module.NAME, source)
            for suffix in formats.get_suffixes(module):
                by_suffix.setdefault(suffix, module.NAME)
    return OutputFormats(sources, by_suffix)
