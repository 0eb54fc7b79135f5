"""A faster collector for folders with thousands of programs.

It takes the place of ``pytest.Dir`` and yields the same nodes in the same order.  Pytest calls a
dozen hooks for each file, which costs more than making an item of it.  This collector skips them
for files that no other plugin takes, and only if every implementation of those hooks is known:
an option, a conftest file or a plugin that could decide about files brings pytest's own way back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from _pytest.pathlib import scandir

#: Modules whose implementations of these hooks are known, by hook.
_KNOWN_MODULES = {
    "pytest_collect_directory": ("_pytest.main", "_pytest.python"),
    # That of Hypothesis is for one folder, and folders are always offered to it.
    "pytest_ignore_collect": ("_pytest.main", "_hypothesis_pytestplugin"),
    "pytest_collect_file": ("_pytest.python", "_pytest.doctest"),
}
#: Suffixes of files that pytest's own plugins take.
_PYTEST_SUFFIXES = (".py", ".txt", ".rst")
#: Attributes by which a conftest file ignores files.
_IGNORE_ATTRIBUTES = ("collect_ignore", "collect_ignore_glob")
#: Options by which a user ignores files, or takes others.
_IGNORE_OPTIONS = ("ignore", "ignore_glob", "doctestglob")


class ProgramCollector(Protocol):
    """Makes items of programs."""

    def collect_unnamed(self, path: str, parent: pytest.Collector) -> Any:
        """Return an item or a collector; None if the file is not a test."""


class Dir(pytest.Dir):  # type: ignore[misc]
    """A folder without ``__init__.py``.

    Its name is pytest's own, because ``--collect-only`` shows it.
    """

    programs: ProgramCollector

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Yield the nodes that ``pytest.Dir`` would yield."""
        programs = self.programs if is_fast(self) else None
        named = _list_named_files(self.config.args) if programs is not None else ()
        for entry in scandir(self.path):
            if entry.is_dir():
                yield from self._collect_folder(Path(entry.path))
            elif not entry.is_file():
                continue
            elif programs is None or entry.name.endswith(_PYTEST_SUFFIXES) or entry.name in named:
                yield from self._collect_file(Path(entry.path))
            else:
                node = programs.collect_unnamed(entry.path, self)
                if node is not None:
                    yield node

    def _is_ignored(self, path: Path) -> bool:
        ihook = self.ihook
        return bool(ihook.pytest_ignore_collect(collection_path=path, config=self.config))

    def _collect_folder(self, path: Path) -> Iterator[pytest.Collector]:
        is_named = self.session.isinitpath(path, with_parents=True)
        if is_named or not self._is_ignored(path):
            node = self.ihook.pytest_collect_directory(path=path, parent=self)
            if node is not None:
                yield node

    def _collect_file(self, path: Path) -> Iterator[pytest.Item | pytest.Collector]:
        if self.session.isinitpath(path) or not self._is_ignored(path):
            yield from self.ihook.pytest_collect_file(file_path=path, parent=self)


def _list_named_files(args: Iterable[str]) -> set[str]:
    """Return the file names that the command line may mean, in whatever folder."""
    return {os.path.basename(arg.partition("::")[0].partition("[")[0]) for arg in args}


def create_directory(
    path: Path, parent: pytest.Collector, programs: ProgramCollector
) -> Dir | None:
    """Return the collector of the folder ``path``; None to leave it to other plugins."""
    has_other_hooks = not _are_all_known(parent.config, "pytest_collect_directory")
    if has_other_hooks or (path / "__init__.py").is_file():
        return None
    made: Any = Dir.from_parent(parent, path=path)
    node: Dir = made
    node.programs = programs
    return node


def is_fast(folder: pytest.Collector) -> bool:
    """Return whether no other plugin decides about files of ``folder`` but by their suffix."""
    config = folder.config
    if any(config.getoption(name, None) for name in _IGNORE_OPTIONS):
        return False
    for plugin in config.pluginmanager.get_plugins():
        if any(hasattr(plugin, name) for name in _IGNORE_ATTRIBUTES):
            return False
    return all(_are_all_known(config, name) for name in _KNOWN_MODULES)


def _are_all_known(config: pytest.Config, hook: str) -> bool:
    """Return whether only known modules implement ``hook``.

    Conftest files of any folder count: not every pytest can tell them apart by folder here.
    """
    known = (*_KNOWN_MODULES[hook], f"{__package__}.plugin")
    implementations = getattr(config.pluginmanager.hook, hook).get_hookimpls()
    return all(each.function.__module__ in known for each in implementations)
