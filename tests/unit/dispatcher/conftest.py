"""Fixtures: a database for each test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.store import Store, open_engine, open_store


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of an empty database; to copy it is faster than to create one."""
    path = tmp_path_factory.mktemp("empty") / "dispatcher.db"
    open_store(path).close()
    return path


@pytest.fixture
def store(tmp_path: Path, empty: Path) -> Iterator[Store]:
    """Open an empty database."""
    path = tmp_path / "dispatcher.db"
    shutil.copy(empty, path)
    opened = Store(open_engine(path))
    yield opened
    opened.close()
