"""Tests of dispatchers that are killed at each commit, or stopped, with hosts of a pool.

They use the helpers of test_dispatcher_failure.py, whose crash points are named steps.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from shell_runner.remote.processes import process_identity
from shell_runner.remote.protocol.job import Identity
from tests.helpers import job_hosts
from tests.helpers.crash_scenario import Scenario, check_queue, wait_until_gone
from tests.helpers.dispatcher_processes import DispatcherProcess, ForkServer

pytestmark = pytest.mark.timeout(600)
#: Mode of each stage; each needs two hosts.
STAGES = {"both": "together", "parts": "shard", "all": "each"}
POOL = "[pools.here]\nmax_hosts = 2\n"


# -- each commit ------------------------------------------------------------------------


def finish(scenario: Scenario) -> None:
    """Run an undisturbed dispatcher to the end; check the rows and what it leaves."""
    last = scenario.start_dispatcher()
    scenario.wait_until_shipped()
    scenario.wait_until_up()
    last.stop()
    scenario.check_data()
    job_hosts.await_worker()
    check_queue(scenario.folder / "state")
    scenario.check_rows()
    assert [len(scenario.ran_jobs(stage)) for stage in ("build", "unit", "smoke")] == [1, 1, 1]


def has_died(scenario: Scenario, dispatcher: DispatcherProcess) -> bool:
    """Return whether the dispatcher has died before everything was done."""
    scenario.wait_until("the end", lambda: not dispatcher.is_alive or scenario.is_done)
    return not dispatcher.is_alive


def test_killed_again_and_again(scenario: Scenario) -> None:
    """Each dispatcher makes only a few commits."""
    scenario.commit()
    for moment in range(100):
        when = "before" if moment % 2 else "after"
        if not has_died(scenario, scenario.start_dispatcher(f"{when} {5 + moment % 3}")):
            break
    assert moment > 3
    scenario.close()
    finish(scenario)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_each_commit(
    when: str, tmp_path: Path, fork_server: ForkServer, empty_database: Path
) -> None:
    """The default step is 6; NOSEJOBS_SWEEP=1 tests a kill at each commit, which takes minutes."""
    step = int(os.environ.get("NOSEJOBS_SWEEP", "6"))
    for moment in range(1 if when == "before" else min(4, step), 200, step):
        folder = tmp_path / str(moment)
        folder.mkdir()
        with job_hosts.isolate_state(folder):
            scenario = Scenario(folder, fork_server, empty_database)
            scenario.write_settings()
            scenario.commit()
            died = has_died(scenario, scenario.start_dispatcher(f"{when} {moment}"))
            scenario.close()
            finish(scenario)
            scenario.close()
        wait_until_gone(folder)
        if not died:
            break
    assert moment > 15


# -- hosts of a pool --------------------------------------------------------------------


class Fleet(Scenario):
    """A scenario with stages on several hosts, which a pool brings up."""

    def write_config(self) -> None:
        """Write three stages without a build command."""
        stages = "".join(
            f'[stages.{name}]\ntests = ["tests/{name}"]\nhosts = 2\nmode = "{mode}"\n'
            for name, mode in STAGES.items()
        )
        self.tree.write_config(f"{stages}[levels]\nship = {list(STAGES)}\n")

    def write_tests(self, slow: str = "") -> None:
        """Write the tests; those of the stage ``slow`` wait for ``go_file``."""
        for stage in STAGES:
            may_go_on = f"-e {self.go_file} -o -e {self.go_file}.$NOSEJOBS_JOB"
            wait = [
                f"echo > {self.folder}/begun.$NOSEJOBS_JOB",
                f"until [ {may_go_on} ]; do sleep 0.02; done",
            ]
            lines = [self._line(stage), *(wait if stage == slow else [])]
            for name in ("test_a.sh", "test_b.sh")[: 2 if stage == "parts" else 1]:
                self.tree.write_test(stage, "\n".join(lines), name)
        self.revision = self.tree.commit()

    def begun_jobs(self) -> list[str]:
        """Return the UUIDs of jobs whose test has started."""
        return sorted(path.suffix[1:] for path in self.folder.glob("begun.*"))

    def agents(self) -> list[int]:
        """Return the process ids of running agents that have a row."""
        handles = self.rows("SELECT handle FROM host WHERE handle IS NOT NULL")
        identities = [json.loads(text) for (text,) in handles]
        kept = [Identity(each["pid"], each["start_ticks"], each["boot_id"]) for each in identities]
        return sorted(each.pid for each in kept if process_identity.is_alive(each))

    @property
    def is_without_hosts(self) -> bool:
        """Return whether no row and no folder of a host is left."""
        return not self.rows("SELECT name FROM host") and not self.folders()

    def folders(self) -> list[str]:
        """Return the names of the folders of hosts."""
        return os.listdir(self.data / "pools/local/hosts")

    def check_fleet(self) -> None:
        """Check that each stage and each part ran once, and each tag was granted once."""
        runs = self.rows("SELECT stage, number, state FROM stage_run ORDER BY id")
        assert runs == [(stage, 1, "passed") for stage in STAGES]
        job_rows = self.rows(
            "SELECT stage, part, attempt, job.state FROM job JOIN stage_run"
            " ON stage_run.id = job.stage_run"
        )
        assert sorted(job_rows) == sorted(
            (stage, part, 1, "acknowledged") for stage in STAGES for part in (0, 1)
        )
        tag_rows = self.rows(
            "SELECT action FROM audit WHERE action LIKE 'tag %' OR action LIKE 'level %'"
        )
        assert Counter(tag_rows) == Counter(
            [*((f"tag {stage}",) for stage in STAGES), ("level ship",)]
        )
        ran = Counter(self.record.read_text().splitlines())
        assert (len(ran), max(ran.values())) == (6, 1), ran


@pytest.fixture
def fleet(tmp_path: Path, fork_server: ForkServer, empty_database: Path) -> Iterator[Fleet]:
    with job_hosts.isolate_state(tmp_path):
        scenario = Fleet(tmp_path, fork_server, empty_database)
        scenario.write_settings(POOL)
        yield scenario
        scenario.close()
    wait_until_gone(tmp_path)


def close(fleet: Fleet, dispatcher: DispatcherProcess) -> None:
    """Stop the dispatcher, and check that nothing of its pool is left."""
    fleet.wait_until_shipped()
    fleet.wait_until_up()
    fleet.check_fleet()
    dispatcher.stop()
    fleet.check_data()
    assert not fleet.folders()


@pytest.mark.parametrize("stage", STAGES)
def test_killed_with_one_of_two_hosts_done(stage: str, fleet: Fleet) -> None:
    fleet.write_tests(stage)
    first = fleet.start_dispatcher()
    fleet.wait_until("both", lambda: len(fleet.begun_jobs()) == 2)
    done, _ = fleet.begun_jobs()
    Path(f"{fleet.go_file}.{done}").touch()
    state = "SELECT state FROM job WHERE id = ?"
    fleet.wait_until("its harvest", lambda: fleet.rows(state, done) == [("acknowledged",)])
    first.kill()
    agents = fleet.agents()
    assert len(agents) == 2
    fleet.go_file.touch()
    second = fleet.start_dispatcher()
    fleet.wait_until_shipped()
    assert fleet.agents() == agents
    close(fleet, second)


@pytest.mark.parametrize("moment", [3, 5, 6, 7, 8, 9, 10])
def test_killed_while_hosts_of_a_pool_come(moment: int, fleet: Fleet) -> None:
    fleet.write_tests()
    fleet.start_dispatcher(f"{'before' if moment % 2 else 'after'} {moment}").wait()
    last = fleet.start_dispatcher()
    fleet.wait_until_shipped()
    assert len(fleet.agents()) == 2
    assert len(fleet.folders()) == 2
    close(fleet, last)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_hosts_of_a_pool_go(when: str, fleet: Fleet) -> None:
    """The dispatcher is killed at each of the last commits, of which the first drain the hosts."""
    fleet.write_tests()
    first = fleet.start_dispatcher()
    fleet.wait_until_shipped()
    first.kill()
    fleet.write_settings(POOL + 'idle_timeout = "0.1s"\n')
    for moment in range(2, 7):
        dies = fleet.start_dispatcher(f"{when} {moment}")
        fleet.wait_until("it", lambda dies=dies: not dies.is_alive or fleet.is_without_hosts)
        dies.kill()
    last = fleet.start_dispatcher()
    fleet.wait_until("their end", lambda: fleet.is_without_hosts)
    close(fleet, last)  # no process is left: the fixture looks for them


# -- stopped ----------------------------------------------------------------------------


def test_stopped_for_longer_than_the_lease(fleet: Fleet) -> None:
    """An agent dies meanwhile; its host is missed from the time that the dispatcher continues."""
    fleet.write_settings(POOL, 'lease = "8s"')
    fleet.write_tests("both")
    dispatcher = fleet.start_dispatcher()
    fleet.wait_until("both", lambda: len(fleet.begun_jobs()) == 2)
    submitted = "SELECT id FROM job WHERE state = 'submitted'"
    fleet.wait_until("their rows", lambda: len(fleet.rows(submitted)) == 2)
    before = fleet.agents()
    dispatcher.send(signal.SIGSTOP)
    os.kill(before[0], signal.SIGKILL)
    time.sleep(10)
    dispatcher.send(signal.SIGCONT)
    fleet.wait_until("another agent", lambda: len(set(fleet.agents()) - set(before)) == 1)
    fleet.go_file.touch()
    close(fleet, dispatcher)
