"""Hosts in namespaces of their own, killed, stopped and cut off while hundreds of tests run.

Each time every test is reported exactly once, with the right outcome.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers.agent_fleet import AgentFleet, PytestRun, wait_until
from tests.helpers.single_host_run import write_program

COUNT = 240
#: Numbers of tests that fail; they must fail on another host, too, if the first one is lost.
FAILING = {number for number in range(COUNT) if number % 10 == 3}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentFleet]:
    with AgentFleet(tmp_path_factory.mktemp("fleet"), 3) as made:
        yield made


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    write_program(root / "pytest.ini", "[pytest]\nnosejobs_host_timeout = 4\n", 0o644)
    for number in range(COUNT):
        status = 5 if number in FAILING else 0
        script = root / f"d{number % 7}" / f"test_{number}.sh"
        write_program(script, f"#!/bin/sh\nsleep 0.1\nexit {status}\n")
    return root


def start(fleet: AgentFleet, tree: Path, *options: str, slots: int = 4) -> PytestRun:
    """Start a run of pytest; return it once tests run on all hosts."""
    session = PytestRun(tree, fleet.make_host_specs(slots), *options)
    for number in fleet.agents:
        wait_until(
            lambda number=number: len(fleet.list_slots(number)) >= slots, f"slots of h{number}"
        )
    time.sleep(0.3)
    return session


def check(session: PytestRun, lost: int = 0, error_status: int = 6) -> None:
    """Check that each test is reported once; up to ``lost`` tests may be errors."""
    status = session.wait()
    outcomes_by_name = session.outcomes()
    assert len(outcomes_by_name) == COUNT, session.output
    assert all(len(each) == 1 for each in outcomes_by_name.values()), session.output
    wrong = {
        name: outcomes
        for name, outcomes in outcomes_by_name.items()
        if outcomes != ["failure" if int(name[5:-3]) in FAILING else "passed"]
    }
    assert len(wrong) <= lost, (wrong, session.output)
    assert status == (error_status if wrong else 1), session.output


def restore_host(fleet: AgentFleet, number: int) -> None:
    """Restore network and agent of a host for the next test."""
    fleet.network.links[number].is_cut = False
    if fleet.agents[number].poll() is not None:
        fleet.agents.pop(number)
        fleet.start(number)


def kill_agent(fleet: AgentFleet) -> None:
    fleet.agents[1].kill()
    fleet.agents[1].wait()


def kill_interpreter(fleet: AgentFleet) -> None:
    fleet.list_interpreters(1)[0].kill()


def stop_agent(fleet: AgentFleet) -> None:
    fleet.agents[1].send_signal(signal.SIGSTOP)


def stop_interpreter(fleet: AgentFleet) -> None:
    fleet.list_interpreters(1)[0].suspend()


def cut_for_good(fleet: AgentFleet) -> None:
    fleet.network.links[1].is_cut = True


@pytest.mark.parametrize(
    "harm", [kill_agent, kill_interpreter, stop_agent, stop_interpreter, cut_for_good]
)
def test_a_lost_host_costs_no_test(
    fleet: AgentFleet, tree: Path, harm: Callable[[AgentFleet], None]
) -> None:
    session = start(fleet, tree)
    below = fleet.list_processes(1)
    harm(fleet)
    try:
        check(session)
        assert "h1" in session.output.split("hosts lost")[-1]
    finally:
        for process in below:
            if process.is_running():
                process.resume()
        fleet.agents[1].send_signal(signal.SIGCONT)
        restore_host(fleet, 1)
    wait_until(lambda: not any(map(is_alive, below)), "what the lost host ran is gone")


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def get_slot(fleet: AgentFleet) -> psutil.Process:
    """Return a slot of the second host; wait until it has one."""
    wait_until(lambda: bool(fleet.list_slots(1)), "the second host has slots")
    return fleet.list_slots(1)[0]


def test_a_killed_slot_takes_one_test_with_it(fleet: AgentFleet, tree: Path) -> None:
    session = start(fleet, tree)
    get_slot(fleet).kill()
    # The test is an error of its own: no host is lost.
    check(session, lost=1, error_status=1)


def test_a_stopped_slot_is_noticed(fleet: AgentFleet, tree: Path) -> None:
    session = start(fleet, tree, "--nosejobs-timeout=1")
    get_slot(fleet).suspend()
    check(session, lost=1, error_status=1)


def test_five_seconds_without_a_network_are_survived(fleet: AgentFleet, tree: Path) -> None:
    session = start(fleet, tree, "--nosejobs-host-timeout=10")
    fleet.network.links[1].is_cut = True
    heal = threading.Timer(5.0, restore_host, (fleet, 1))
    heal.start()
    check(session)
    heal.join()
    assert "hosts lost" not in session.output


def test_a_slow_and_lossy_network_changes_nothing(fleet: AgentFleet, tree: Path) -> None:
    for wire in fleet.network.links[1:]:
        wire.delay, wire.loss = 0.1, 0.01
    try:
        check(start(fleet, tree))
    finally:
        for wire in fleet.network.links[1:]:
            wire.delay = wire.loss = 0.0


def test_two_controllers_share_the_hosts(fleet: AgentFleet, tree: Path) -> None:
    first, second = (
        PytestRun(tree, fleet.make_host_specs(4), "-p", "no:cacheprovider") for _ in range(2)
    )
    check(first)
    check(second)


def test_with_no_host_left_every_test_is_an_error(fleet: AgentFleet, tree: Path) -> None:
    session = start(fleet, tree)
    for number in fleet.agents:
        fleet.agents[number].kill()
    try:
        assert session.wait() == 6, session.output
        outcomes_by_name = session.outcomes()
        assert len(outcomes_by_name) == COUNT
        assert all(len(each) == 1 for each in outcomes_by_name.values())
        assert ["error"] in outcomes_by_name.values()
    finally:
        for number in fleet.agents:
            fleet.agents[number].wait()
            restore_host(fleet, number)
