"""Whoever fails, and whenever: the build comes to the same end, and all that happened is on record.

One test a row of the table in docs/failure.md.  A real repository, the command `nosejobs up` in a
process of its own, real hosts, kill -9.  Where a step can be seen from outside, it is held there
and the dispatcher is killed by us.  Where it is too short for that, the process runs with one
function wrapped, which kills it with SIGKILL (``tests.mortal.POINTS``): nothing else of it differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shell_runner.remote.jobs import worker_launcher
from shell_runner.remote.jobs.queue import Queue
from tests.helpers import job_hosts
from tests.helpers.crash_scenario import Scene, await_quiet, check_queue
from tests.helpers.dispatcher_processes import POINTS, Mortal
from tests.helpers.namespace_host import GO_ON, KILL, STOP, Machine, bundles
from tests.helpers.small_filesystem import Disk

pytestmark = pytest.mark.timeout(150)


def finish(scene: Scene) -> None:
    """A dispatcher that nothing happens to; how it ends, and what it leaves."""
    last = scene.up()
    scene.until_shipped()
    last.stop()
    scene.check_data()
    job_hosts.await_worker()
    check_queue(scene.folder / "state")


@pytest.mark.parametrize("point", POINTS)
def test_killed(point: str, scene: Scene) -> None:
    scene.commit(noise=3 << 20 if point == "harvesting" else 0)
    scene.up(point).wait()
    assert scene.level in ("", "goop")
    finish(scene)
    scene.check()
    assert [len(scene.ran_jobs(stage)) for stage in ("build", "unit", "smoke")] == [1, 1, 1]


def test_killed_while_a_stage_runs(scene: Scene) -> None:
    scene.commit(slow=True)
    first = scene.up()
    scene.until("the test", scene.begun.exists)
    scene.until("its row", lambda: scene.jobs("unit")[0][2] == "submitted")
    first.kill()
    scene.go.touch()
    finish(scene)
    scene.check()
    assert len(scene.ran_jobs("unit")) == 1


# -- hosts ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Certificates."""
    with bundles(tmp_path_factory.mktemp("fleet")) as folder:
        yield folder


@pytest.fixture
def far(tmp_path: Path, fleet: Path) -> Iterator[Machine]:
    """A host with an agent, which is preferred; its processes are its own."""
    folder = tmp_path / "far"
    folder.mkdir()
    with Machine(folder, fleet) as found:
        yield found


def hosts(far: Machine, also_here: bool = True) -> str:
    """The build is made there, so that its first stage goes there, too."""
    here = '[hosts.here]\nspec = "popen"\n' if also_here else ""
    return f'[hosts.far]\nspec = "{far.spec}"\nlabels = ["build"]\n{here}'


def until_it_runs_there(scene: Scene) -> None:
    """The first stage, which waits."""
    scene.until("the test", scene.begun.exists)
    scene.until("its row", lambda: scene.jobs("unit")[0][2] == "submitted")
    assert scene.jobs("unit")[0][0] == "far"


def end(scene: Scene, dispatcher: Mortal, far: Machine) -> None:
    """All of its jobs have ended and it knows that we do; nothing of us is left anywhere."""
    far.wait_for("the end of its jobs", lambda: _states(far) == {"harvested"})
    dispatcher.stop()
    scene.check_data()
    do_not_linger(far)
    await_quiet(far)
    check_queue(far.folder / "state")


def _states(far: Machine) -> set[str]:
    return {row[0] for row in far.rows("SELECT state FROM job")}


def do_not_linger(far: Machine) -> None:
    """A worker that has nothing to do leaves."""
    with Queue(str(far.jobs)) as queue:
        queue.set_setting("linger", 0)
    worker_launcher.ring(str(far.jobs))


def test_agent_and_worker_of_a_host_are_killed_while_a_stage_runs(
    scene: Scene, far: Machine
) -> None:
    scene.settle(hosts(far, also_here=False))
    scene.commit(slow=True)
    dispatcher = scene.up()
    until_it_runs_there(scene)
    assert far.send(far.worker, KILL)
    assert far.send(far._agent, KILL)
    scene.go.touch()
    far.agent()
    scene.until_shipped()
    end(scene, dispatcher, far)
    scene.check()
    (job,) = set(scene.ran_jobs("unit"))
    assert far.rows(
        "SELECT attempt.number, step FROM attempt JOIN job ON job.number = attempt.job "
        "WHERE job.id = ? ORDER BY attempt.number",
        job,
    ) == [(1, "lost"), (2, "ended")]


LEASE = 'lease = "3s"'


def until_lost(scene: Scene) -> None:
    """The lease is over, and the stage has another job, elsewhere."""
    scene.until("the loss", lambda: [job[2] for job in scene.jobs("unit")][:1] == ["lost"])
    scene.until("another one", lambda: len(scene.jobs("unit")) == 2)


def test_a_host_is_gone_for_longer_than_the_lease(scene: Scene, far: Machine) -> None:
    scene.settle(hosts(far), LEASE)
    scene.commit(slow=True)
    dispatcher = scene.up()
    until_it_runs_there(scene)
    far.power_off()
    until_lost(scene)
    scene.go.touch()
    scene.until_shipped()
    assert [job[0] for job in scene.jobs("unit")] == ["far", "here"]
    far.boot()
    end(scene, dispatcher, far)
    evidence = len(scene.rows("SELECT id FROM job WHERE state = 'lost' AND package != ''"))
    scene.check(lost={"unit": 1}, packages=evidence)


def test_a_partition_for_longer_than_the_lease_and_a_late_result(
    scene: Scene, far: Machine
) -> None:
    scene.settle(hosts(far), LEASE)
    scene.commit(slow=True)
    dispatcher = scene.up()
    until_it_runs_there(scene)
    old = scene.ran_jobs("unit")
    doors = cut(far)
    until_lost(scene)
    scene.go.touch()
    far.wait_for("its result", lambda: far.state(old[0]) == "ready")
    scene.until_shipped()
    for pid in doors:
        far.send(pid, GO_ON)
    end(scene, dispatcher, far)
    scene.check(lost={"unit": 1}, packages=1)
    assert [job[0] for job in scene.jobs("unit")] == ["far", "here"]
    assert len(set(scene.ran_jobs("unit"))) == 2
    assert "after it was given up" in str(scene.rows("SELECT detail, what FROM audit"))


def cut(far: Machine) -> list[int]:
    """Nothing of it answers; what it works at goes on."""
    parents = {pid: parent for pid, parent, _ in far.processes()}
    works = {far.worker}
    while more := {pid for pid, parent in parents.items() if parent in works} - works:
        works |= more
    doors = [pid for pid in parents if pid not in works]
    for pid in doors:
        far.send(pid, STOP)
    return doors


# -- a full disk ------------------------------------------------------------------------


@pytest.fixture
def disk(scene: Scene) -> Iterator[Disk]:
    """The data folder is on one."""
    scene.data.mkdir()
    found = Disk(scene.data, "12m")
    found.mount()
    scene.fill()
    yield found
    scene.close()
    found.unmount()


def test_disk_full_while_a_package_comes(scene: Scene, disk: Disk) -> None:
    scene.commit(slow=True, noise=3 << 20)
    dispatcher = scene.up()
    scene.until("the test", scene.begun.exists)
    scene.until("its row", lambda: scene.jobs("unit")[0][2] == "submitted")
    disk.fill()
    scene.go.touch()
    scene.until("words of that", lambda: "No space" in scene.log or "disk" in scene.log)
    assert scene.level == "goop"
    disk.empty()
    scene.until_shipped()
    dispatcher.stop()
    scene.check_data()
    scene.check()
    job_hosts.await_worker()
    check_queue(scene.folder / "state")
    assert len(scene.ran_jobs("unit")) == 1


# -- the manual ------------------------------------------------------------------------


def test_every_row_is_in_the_manual(request: pytest.FixtureRequest) -> None:
    """The table in docs/failure.md names each test of this file, and nothing but them."""
    text = (Path(__file__).parents[3] / "docs" / "failure.md").read_text()
    part = text.partition("## The dispatcher: what fails, and when")[2].partition("\n## ")[0]
    linked = re.findall(rf'^\[(.+?)\]: .*/{Path(__file__).name} "(.+)"$', part, re.MULTILINE)
    assert set(re.findall(r"\| \[(.+?)\] \|", part)) == {name for name, _ in linked}
    own = {name for name, each in globals().items() if name.startswith("test_") and callable(each)}
    expected = own - {request.node.name, "test_killed"} | {
        f"test_killed[{each}]" for each in POINTS
    }
    assert {test for _, test in linked} == expected
