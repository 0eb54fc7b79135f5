"""Folders with thousands of programs.

Owns the walk over one folder, in the place of ``pytest.Dir``: the same nodes in the same
order.  pytest asks a dozen hooks about each file, at more than the cost of making an item
of it.  Here they are not asked about files that are nobody else's, and only if all who
would be asked are known: an option, a conftest file or a plugin that could have a say in
it makes the walk pytest's own again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from _pytest.pathlib import scandir

#: Who may be there: what these make of a file is known.
_KNOWN = {
    "pytest_collect_directory": ("_pytest.main", "_pytest.python"),
    "pytest_ignore_collect": ("_pytest.main",),
    "pytest_collect_file": ("_pytest.python", "_pytest.doctest"),
}
#: Suffixes of files that others take.
_OTHERS = (".py", ".txt", ".rst")
_IGNORING = ("collect_ignore", "collect_ignore_glob")


class Programs(Protocol):
    """Makes items of programs."""

    def program(self, path: str, parent: pytest.Collector) -> Any:
        """An item or a collector; None for a file that is no test."""


class Dir(pytest.Directory):
    """A folder without ``__init__.py``; of the name that a person knows from pytest."""

    programs: Programs

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """As ``pytest.Dir``."""
        programs = self.programs if is_ours(self) else None
        named = self.session.isinitpath(self.path, with_parents=True)
        for entry in scandir(self.path):
            if entry.is_dir():
                yield from self._folder(Path(entry.path))
            elif not entry.is_file():
                continue
            elif (
                programs is None
                or entry.name.endswith(_OTHERS)
                or (named and self.session.isinitpath(entry.path))
            ):
                yield from self._file(Path(entry.path))
            else:
                node = programs.program(entry.path, self)
                if node is not None:
                    yield node

    def _is_ignored(self, path: Path) -> bool:
        ihook = self.ihook
        return bool(ihook.pytest_ignore_collect(collection_path=path, config=self.config))

    def _folder(self, path: Path) -> Iterator[pytest.Collector]:
        is_named = self.session.isinitpath(path, with_parents=True)
        if is_named or not self._is_ignored(path):
            node = self.ihook.pytest_collect_directory(path=path, parent=self)
            if node is not None:
                yield node

    def _file(self, path: Path) -> Iterator[pytest.Item | pytest.Collector]:
        if self.session.isinitpath(path) or not self._is_ignored(path):
            yield from self.ihook.pytest_collect_file(file_path=path, parent=self)


def create(path: Path, parent: pytest.Collector, programs: Programs) -> Dir | None:
    """The collector of a folder, unless it is another's."""
    is_others = not _all_known(parent.config, "pytest_collect_directory")
    if is_others or (path / "__init__.py").is_file():
        return None
    node: Dir = Dir.from_parent(parent, path=path)
    node.programs = programs
    return node


def is_ours(folder: pytest.Collector) -> bool:
    """Nobody but us takes or refuses a file of that folder by anything but its suffix."""
    config = folder.config
    asked = ("ignore", "ignore_glob", "doctestglob")
    if any(config.getoption(name, None) for name in asked):
        return False
    for plugin in config.pluginmanager.get_plugins():
        if any(hasattr(plugin, name) for name in _IGNORING):
            return False
    return all(_all_known(config, name) for name in _KNOWN)


def _all_known(config: pytest.Config, hook: str) -> bool:
    """Those of conftest files of any folder included: not every pytest tells them apart here."""
    known = (*_KNOWN[hook], f"{__package__}.plugin")
    found = getattr(config.pluginmanager.hook, hook).get_hookimpls()
    return all(each.function.__module__ in known for each in found)
