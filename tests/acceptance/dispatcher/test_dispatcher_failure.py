"""Tests of kills of a dispatcher at each step: the build has the same end, and rows show them.

There is a test for each row of the table in docs/failure.md, with a real repository, the command
`nosejobs up` in its own process, real hosts, and kill -9.  If a step can be held from outside, the
test kills the dispatcher there.  If it is too short, one function of the process is wrapped so that
it kills the process (``dispatcher_processes.CRASH_POINTS``); nothing else differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shell_runner.remote.jobs import worker_launcher
from shell_runner.remote.jobs.queue import Queue
from tests.helpers import job_hosts
from tests.helpers.crash_scenario import PIPELINE_TOML, Scenario, check_queue, wait_until_quiet
from tests.helpers.dispatcher_processes import CRASH_POINTS, DispatcherProcess
from tests.helpers.namespace_host import CONTINUE, KILL, STOP, NamespaceHost, issue_bundles
from tests.helpers.small_filesystem import SmallFilesystem

pytestmark = pytest.mark.timeout(150)


def finish(scenario: Scenario) -> None:
    """Run an undisturbed dispatcher to the end; check the rows and what it leaves."""
    last = scenario.start_dispatcher()
    scenario.wait_until_shipped()
    last.stop()
    scenario.check_data()
    job_hosts.await_worker()
    check_queue(scenario.folder / "state")


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_killed(point: str, scenario: Scenario) -> None:
    scenario.commit(noise=3 << 20 if point == "harvesting" else 0)
    scenario.start_dispatcher(point).wait()
    assert scenario.level in ("", "goop")
    finish(scenario)
    scenario.check_rows()
    assert [len(scenario.ran_jobs(stage)) for stage in ("build", "unit", "smoke")] == [1, 1, 1]


def test_killed_while_a_stage_runs(scenario: Scenario) -> None:
    scenario.commit(slow=True)
    first = scenario.start_dispatcher()
    scenario.wait_until("the test", scenario.begun_file.exists)
    scenario.wait_until("its row", lambda: scenario.jobs("unit")[0][2] == "submitted")
    first.kill()
    scenario.go_file.touch()
    finish(scenario)
    scenario.check_rows()
    assert len(scenario.ran_jobs("unit")) == 1


# -- hosts ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with the certificates of a fleet."""
    with issue_bundles(tmp_path_factory.mktemp("fleet")) as folder:
        yield folder


@pytest.fixture
def far(tmp_path: Path, fleet: Path) -> Iterator[NamespaceHost]:
    """Run a preferred host with an agent, in its own namespace of processes."""
    folder = tmp_path / "far"
    folder.mkdir()
    with NamespaceHost(folder, fleet) as host:
        yield host


def hosts(far: NamespaceHost, also_here: bool = True) -> str:
    """Return settings of hosts; the build runs on ``far``, so its first stage does, too."""
    here = '[hosts.here]\nspec = "popen"\n' if also_here else ""
    return f'[hosts.far]\nspec = "{far.spec}"\nlabels = ["build"]\n{here}'


def wait_until_running(scenario: Scenario) -> None:
    """Wait until the test of the first stage has started."""
    scenario.wait_until("the test", scenario.begun_file.exists)
    scenario.wait_until("its row", lambda: scenario.jobs("unit")[0][2] == "submitted")
    assert scenario.jobs("unit")[0][0] == "far"


def end(scenario: Scenario, dispatcher: DispatcherProcess, far: NamespaceHost) -> None:
    """Stop the dispatcher once all jobs are acknowledged; check that nothing is left."""
    far.wait_for("the end of its jobs", lambda: _states(far) == {"harvested"})
    dispatcher.stop()
    scenario.check_data()
    exit_when_idle(far)
    wait_until_quiet(far)
    check_queue(far.folder / "state")


def _states(far: NamespaceHost) -> set[str]:
    return {row[0] for row in far.query("SELECT state FROM job")}


def exit_when_idle(far: NamespaceHost) -> None:
    """Let an idle worker exit at once."""
    with Queue(str(far.queue_folder)) as queue:
        queue.set_setting("linger", 0)
    worker_launcher.wake_worker(str(far.queue_folder))


def test_agent_and_worker_of_a_host_are_killed_while_a_stage_runs(
    scenario: Scenario, far: NamespaceHost
) -> None:
    scenario.write_settings(hosts(far, also_here=False))
    scenario.commit(slow=True)
    dispatcher = scenario.start_dispatcher()
    wait_until_running(scenario)
    assert far.send_signal(far.worker_pid, KILL)
    assert far.send_signal(far._agent, KILL)
    scenario.go_file.touch()
    far.start_agent()
    scenario.wait_until_shipped()
    end(scenario, dispatcher, far)
    scenario.check_rows()
    (job,) = set(scenario.ran_jobs("unit"))
    assert far.query(
        "SELECT attempt.number, phase FROM attempt JOIN job ON job.number = attempt.job "
        "WHERE job.id = ? ORDER BY attempt.number",
        job,
    ) == [(1, "lost"), (2, "ended")]


LEASE = 'lease = "3s"'


def wait_until_lost(scenario: Scenario) -> None:
    """Wait until the lease is over and the stage has a job on another host."""
    scenario.wait_until(
        "the loss", lambda: [job[2] for job in scenario.jobs("unit")][:1] == ["lost"]
    )
    scenario.wait_until("another one", lambda: len(scenario.jobs("unit")) == 2)


def test_a_host_is_gone_for_longer_than_the_lease(scenario: Scenario, far: NamespaceHost) -> None:
    scenario.write_settings(hosts(far), LEASE)
    scenario.commit(slow=True)
    dispatcher = scenario.start_dispatcher()
    wait_until_running(scenario)
    far.power_off()
    wait_until_lost(scenario)
    scenario.go_file.touch()
    scenario.wait_until_shipped()
    assert [job[0] for job in scenario.jobs("unit")] == ["far", "here"]
    far.boot()
    end(scenario, dispatcher, far)
    evidence = len(
        scenario.rows("SELECT id FROM job WHERE state = 'lost' AND package_digest != ''")
    )
    scenario.check_rows(lost={"unit": 1}, packages=evidence)


def test_a_partition_for_longer_than_the_lease_and_a_late_result(
    scenario: Scenario, far: NamespaceHost
) -> None:
    scenario.write_settings(hosts(far), LEASE)
    scenario.commit(slow=True)
    dispatcher = scenario.start_dispatcher()
    wait_until_running(scenario)
    old = scenario.ran_jobs("unit")
    doors = cut(far)
    wait_until_lost(scenario)
    scenario.go_file.touch()
    far.wait_for("its result", lambda: far.get_state(old[0]) == "ready")
    scenario.wait_until_shipped()
    for pid in doors:
        far.send_signal(pid, CONTINUE)
    end(scenario, dispatcher, far)
    scenario.check_rows(lost={"unit": 1}, packages=1)
    assert [job[0] for job in scenario.jobs("unit")] == ["far", "here"]
    assert len(set(scenario.ran_jobs("unit"))) == 2
    assert "after it was given up" in str(scenario.rows("SELECT detail, action FROM audit"))


def cut(far: NamespaceHost) -> list[int]:
    """Stop the agent of a host, so that it does not answer while its jobs run."""
    parents = {pid: parent for pid, parent, _ in far.list_processes()}
    works = {far.worker_pid}
    while more := {pid for pid, parent in parents.items() if parent in works} - works:
        works |= more
    doors = [pid for pid in parents if pid not in works]
    for pid in doors:
        far.send_signal(pid, STOP)
    return doors


# -- a full disk ------------------------------------------------------------------------


@pytest.fixture
def disk(scenario: Scenario) -> Iterator[SmallFilesystem]:
    """Put the data folder on a small file system."""
    scenario.data.mkdir()
    filesystem = SmallFilesystem(scenario.data, "12m")
    filesystem.mount()
    scenario.create_database()
    yield filesystem
    scenario.close()
    filesystem.unmount()


def test_disk_full_while_a_package_comes(scenario: Scenario, disk: SmallFilesystem) -> None:
    scenario.commit(slow=True, noise=3 << 20)
    dispatcher = scenario.start_dispatcher()
    scenario.wait_until("the test", scenario.begun_file.exists)
    scenario.wait_until("its row", lambda: scenario.jobs("unit")[0][2] == "submitted")
    disk.fill()
    scenario.go_file.touch()
    scenario.wait_until(
        "words of that", lambda: "No space" in scenario.log or "disk" in scenario.log
    )
    assert scenario.level == "goop"
    disk.clear()
    scenario.wait_until_shipped()
    dispatcher.stop()
    scenario.check_data()
    scenario.check_rows()
    job_hosts.await_worker()
    check_queue(scenario.folder / "state")
    assert len(scenario.ran_jobs("unit")) == 1


@pytest.mark.parametrize(
    ("place", "leave"), [("data", 1 << 20), ("data", 0), ("state", 0), ("tmp", 0)]
)
def test_disk_full_while_a_build_is_made(scenario: Scenario, place: str, leave: int) -> None:
    """No room for its package, for any row, for results on the host, and to pack its output."""
    disk = SmallFilesystem(scenario.folder / place, "24m")
    disk.folder.mkdir(exist_ok=True)
    disk.mount()
    try:
        if place == "data":
            scenario.create_database()
        _make_build_on_full_disk(scenario, disk, leave)
        job_hosts.await_worker()
        check_queue(scenario.folder / "state")
    finally:
        scenario.close()
        disk.unmount()


def _make_build_on_full_disk(scenario: Scenario, disk: SmallFilesystem, leave: int) -> None:
    wait = f"echo > {scenario.begun_file}; while [ ! -e {scenario.go_file} ]; do sleep 0.02; done"
    end = f"cp app dist/; head -c 3000000 /dev/urandom >dist/noise; {wait}"
    config = PIPELINE_TOML.format(ran=scenario.record)
    scenario.tree.write_config(config.replace("cp app dist/", end))
    scenario.commit()
    dispatcher = scenario.start_dispatcher()
    scenario.wait_until("the build", scenario.begun_file.exists)
    scenario.wait_until("its row", lambda: scenario.jobs("build")[0][2] == "submitted")
    disk.fill(leave)
    scenario.go_file.touch()
    try:
        scenario.wait_until("words of that", lambda: _names_full_disk(scenario, disk.folder))
        if disk.folder.name == "tmp":
            scenario.wait_until("its retry", lambda: len(scenario.jobs("build")) == 2)
        assert scenario.rows("SELECT state FROM build") == [("building",)]
    finally:
        disk.clear()
    scenario.wait_until_shipped()
    dispatcher.stop()
    scenario.check_data()
    assert "Traceback" not in scenario.log
    if disk.folder.name != "tmp":
        scenario.check_rows()
        return
    # The first attempt could not pack the output; the second one has waited for room.
    assert [job[1:3] for job in scenario.jobs("build")] == [
        (1, "acknowledged"),
        (2, "acknowledged"),
    ]
    outcomes = scenario.rows("SELECT outcome, infrastructure FROM result ORDER BY id LIMIT 2")
    assert outcomes == [("error", 1), ("passed", 0)]


def _names_full_disk(scenario: Scenario, folder: Path) -> bool:
    """Return whether a row or the log says that the disk of ``folder`` is full."""
    details = scenario.rows("SELECT detail FROM build UNION SELECT detail FROM stage_run")
    texts = [text for (text,) in details if text.startswith("waiting: ")]
    if folder.name == "data":  # the rows are there, too
        texts += scenario.log.splitlines()
    return any(
        str(folder) in text and re.search("No space left|disk .*is full", text) for text in texts
    )


# -- the manual ------------------------------------------------------------------------


def test_every_row_is_in_the_manual(request: pytest.FixtureRequest) -> None:
    """The table in docs/failure.md names exactly the tests of this file."""
    text = (Path(__file__).parents[3] / "docs" / "failure.md").read_text()
    part = text.partition("## The dispatcher: killed at each step")[2].partition("\n## ")[0]
    linked = re.findall(rf'^\[(.+?)\]: .*/{Path(__file__).name} "(.+)"$', part, re.MULTILINE)
    assert set(re.findall(r"\| \[(.+?)\] \|", part)) == {name for name, _ in linked}
    own = {name for name, each in globals().items() if name.startswith("test_") and callable(each)}
    expected = own - {request.node.name, "test_killed"} | {
        f"test_killed[{each}]" for each in CRASH_POINTS
    }
    assert {test for _, test in linked} == expected
