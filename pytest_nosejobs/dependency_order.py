"""The order that pytest-dependency needs: a test with ``depends`` comes after those before it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from . import other_plugins

_MARKER = "dependency"


class DependencyOrder:
    """Tells when the tests are reported on which another one may depend.

    Tests with the marker keep their order as far as necessary: one that depends on others waits
    until all marked tests before it are reported.  All others run at any time.
    """

    def __init__(self, config: pytest.Config, items: Sequence[pytest.Item]) -> None:
        """``items``: all items of the session, in order."""
        self._marked: list[pytest.Item] = []
        if other_plugins.has_dependencies(config):
            are_all_marked = bool(config.getini("automark_dependency"))
            self._marked = [each for each in items if are_all_marked or _has_marker(each)]
        self._positions = {item: number for number, item in enumerate(self._marked)}
        self._reported: set[pytest.Item] = set()
        self._first_unreported = 0

    def is_ready(self, item: pytest.Item) -> bool:
        """Return whether all tests are reported on which ``item`` may depend."""
        if item not in self._positions or not _has_dependencies(item):
            return True
        return self._positions[item] <= self._first_unreported

    def note_reported(self, item: pytest.Item) -> None:
        """Note that the outcome of ``item`` is known."""
        self._reported.add(item)
        first = self._first_unreported
        while first < len(self._marked) and self._marked[first] in self._reported:
            first += 1
        self._first_unreported = first


def _has_marker(item: pytest.Item) -> bool:
    return item.get_closest_marker(_MARKER) is not None


def _has_dependencies(item: pytest.Item) -> bool:
    marker = item.get_closest_marker(_MARKER)
    return marker is not None and bool(marker.kwargs.get("depends"))
