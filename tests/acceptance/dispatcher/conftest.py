"""Fixtures for tests of a dispatcher as an operator runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.store import open_store
from tests.helpers import job_hosts
from tests.helpers.crash_scenario import Scenario, wait_until_gone
from tests.helpers.dispatcher_processes import ForkServer


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database with the schema and no rows; a migration takes longer than a copy."""
    path = tmp_path_factory.mktemp("empty") / "dispatcher.db"
    open_store(path).close()
    return path


@pytest.fixture
def scenario(tmp_path: Path, fork_server: ForkServer, empty_database: Path) -> Iterator[Scenario]:
    """Provide a scenario without a dispatcher; check that no process is left at the end."""
    with job_hosts.isolate_state(tmp_path):
        result = Scenario(tmp_path, fork_server, empty_database)
        result.write_settings()
        yield result
        result.close()
    wait_until_gone(tmp_path)
