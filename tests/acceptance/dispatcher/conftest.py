"""What an operator has: made anew for each test, and gone after it."""

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
    with ForkServer() as found:
        yield found


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the schema and nothing else: migrating takes longer than a copy."""
    path = tmp_path_factory.mktemp("empty") / "dispatcher.db"
    open_store(path).close()
    return path


@pytest.fixture
def scenario(tmp_path: Path, fork_server: ForkServer, empty_database: Path) -> Iterator[Scenario]:
    """Everything is there but the dispatcher; at the end no process is left."""
    with job_hosts.isolate_state(tmp_path):
        found = Scenario(tmp_path, fork_server, empty_database)
        found.write_settings()
        yield found
        found.close()
    wait_until_gone(tmp_path)
