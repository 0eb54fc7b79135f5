"""Fixtures: a folder with a running dispatcher or its API; no thread or process may remain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import job_hosts
from tests.helpers.connection_fixtures import assert_no_threads, connection_threads
from tests.helpers.running_dispatcher import RunningDispatcher, SharedRepository, make_settings

from . import api_server
from .api_server import RunningApi


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before = connection_threads()
    with job_hosts.isolate_state(tmp_path):
        yield tmp_path
    assert_no_threads(before)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[RunningDispatcher, SharedRepository]]:
    """Yield a dispatcher with one host, and its repository, shared by the tests of a module."""
    folder = tmp_path_factory.mktemp("running")
    with job_hosts.isolate_state(folder):
        tree = SharedRepository(folder / "tree")
        tree.commit()
        with RunningDispatcher(make_settings(folder, tree.path)) as dispatcher:
            tree.on_commit = dispatcher.poke
            yield dispatcher, tree
    assert_no_threads()


@pytest.fixture
def dispatcher(running: tuple[RunningDispatcher, SharedRepository]) -> RunningDispatcher:
    """Return the shared dispatcher."""
    return running[0]


@pytest.fixture
def repository(running: tuple[RunningDispatcher, SharedRepository]) -> SharedRepository:
    """Return the repository of the shared dispatcher, without the files of the previous test."""
    running[1].clear()
    return running[1]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of an empty database; to copy it is faster than to create one."""
    return api_server.create_database(tmp_path_factory.mktemp("empty"))


@pytest.fixture
def api(tmp_path: Path, empty: Path) -> Iterator[RunningApi]:
    with api_server.run_api(tmp_path, empty) as running_api:
        yield running_api
