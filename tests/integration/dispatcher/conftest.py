"""A folder of a test's own with a dispatcher in it, or its API alone; nothing of them is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import job_hosts
from tests.helpers.connection_fixtures import assert_no_threads, threads
from tests.helpers.running_dispatcher import Pushed, Whole, settings_of

from . import api_server
from .api_server import Served


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before = threads()
    with job_hosts.state(tmp_path):
        yield tmp_path
    assert_no_threads(before)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Whole, Pushed]]:
    """One dispatcher with one host, for all tests that need no other; and what it watches."""
    folder = tmp_path_factory.mktemp("running")
    with job_hosts.state(folder):
        tree = Pushed(folder / "tree")
        tree.commit()
        with Whole(settings_of(folder, tree.path)) as whole:
            tree.told = whole.poke
            yield whole, tree
    assert_no_threads()


@pytest.fixture
def whole(running: tuple[Whole, Pushed]) -> Whole:
    """The dispatcher that runs."""
    return running[0]


@pytest.fixture
def main(running: tuple[Whole, Pushed]) -> Pushed:
    """Its repository, in which nothing is left of the test before."""
    running[1].clear()
    return running[1]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database, to be copied: migrating takes a while."""
    return api_server.database(tmp_path_factory.mktemp("empty"))


@pytest.fixture
def served(tmp_path: Path, empty: Path) -> Iterator[Served]:
    with api_server.serving(tmp_path, empty) as found:
        yield found
