"""Fixture: an empty queue for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shell_runner.remote.jobs.queue import Queue


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with Queue(str(tmp_path)) as made:
        yield made
