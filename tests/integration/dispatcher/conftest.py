"""A folder of a test's own with a dispatcher in it, or its API alone; nothing of them is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import desks
from tests.links import assert_no_threads
from tests.whole import Tree, Whole, settings_of

from . import serving
from .serving import Served


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with desks.state(tmp_path):
        yield tmp_path
    assert_no_threads()


@pytest.fixture
def tree(folder: Path) -> Tree:
    """Without a build command and without stages, so far."""
    return Tree(folder / "tree")


@pytest.fixture
def start(folder: Path, tree: Tree) -> Iterator[Callable[..., Whole]]:
    """Dispatchers, one after the other."""
    running: list[Whole] = []

    def begin(**changes: str) -> Whole:
        running.append(Whole(settings_of(folder, tree.path, **changes)))
        return running[-1].__enter__()

    yield begin
    for each in running:
        each.service.stop()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database, to be copied: migrating takes a while."""
    return serving.database(tmp_path_factory.mktemp("empty"))


@pytest.fixture
def served(tmp_path: Path, empty: Path) -> Iterator[Served]:
    with serving.serving(tmp_path, empty) as found:
        yield found
