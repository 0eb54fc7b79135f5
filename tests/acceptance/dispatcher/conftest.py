"""What an operator has: made anew for each test, and gone after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import desks
from tests.mortal import Cradle
from tests.scene import Scene, await_gone


@pytest.fixture(scope="module")
def cradle() -> Iterator[Cradle]:
    with Cradle() as found:
        yield found


@pytest.fixture
def scene(tmp_path: Path, cradle: Cradle) -> Iterator[Scene]:
    """Everything is there but the dispatcher; at the end no process is left."""
    with desks.state(tmp_path):
        found = Scene(tmp_path, cradle)
        found.settle()
        yield found
        found.close()
    await_gone(tmp_path)
