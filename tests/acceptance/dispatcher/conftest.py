"""What an operator has: made anew for each test, and gone after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.store import open_store
from tests.helpers import job_hosts
from tests.helpers.crash_scenario import Scene, await_gone
from tests.helpers.dispatcher_processes import Cradle


@pytest.fixture(scope="session")
def cradle() -> Iterator[Cradle]:
    with Cradle() as found:
        yield found


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the schema and nothing else: migrating takes longer than a copy."""
    path = tmp_path_factory.mktemp("empty") / "dispatcher.db"
    open_store(path).close()
    return path


@pytest.fixture
def scene(tmp_path: Path, cradle: Cradle, empty: Path) -> Iterator[Scene]:
    """Everything is there but the dispatcher; at the end no process is left."""
    with job_hosts.state(tmp_path):
        found = Scene(tmp_path, cradle, empty)
        found.settle()
        yield found
        found.close()
    await_gone(tmp_path)
