"""Whoever fails, and whenever: the build comes to the same end, and all that happened is on record.

One test a row of the table in docs/failure.md.  A real repository, the command `nosejobs up` in a
process of its own, real hosts, kill -9.  Where a step can be seen from outside, it is held there
and the dispatcher is killed by us.  Where it is too short for that, the process runs with one
function wrapped, which kills it with SIGKILL (``tests.mortal.POINTS``): nothing else of it differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import desks
from tests.mortal import POINTS, Cradle
from tests.scene import Scene, check_queue, processes_of

pytestmark = pytest.mark.timeout(150)


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
    assert not processes_of(tmp_path)


def finish(scene: Scene) -> None:
    """A dispatcher that nothing happens to; how it ends, and what it leaves."""
    last = scene.up()
    scene.until_shipped()
    last.stop()
    scene.check_data()
    desks.await_worker()
    check_queue(scene.folder / "state")


@pytest.mark.parametrize("point", POINTS)
def test_killed(point: str, scene: Scene) -> None:
    scene.commit(noise=3 << 20 if point == "harvesting" else 0)
    scene.up(point).wait()
    assert scene.level in ("", "goop")
    finish(scene)
    scene.check()
    assert [len(scene.ran_jobs(stage)) for stage in ("build", "unit", "smoke")] == [1, 1, 1]
