"""Tests of hosts that die, stop or return during a run: each test is reported exactly once."""

from __future__ import annotations

import sys
import time

import pytest

from tests.helpers.single_host_run import wait_until_gone
from tests.helpers.sshd import Sshd

from .conftest import Project

COUNT = 200
#: Shell code that sets ``victim`` to the process id of the test's slot, or of its interpreter.
SLOT = "victim=$PPID"
HOST = "read -r _ _ _ victim _ </proc/$PPID/stat"


def make_signal_script(name: str, victim: str, number: str, once: bool = True) -> str:
    """Return a script that sends a signal in its first run, or in each if not ``once``."""
    guard = f'mkdir "$TEST_SRCDIR/{name}" 2>/dev/null || exit 0\n' if once else ""
    return f"{guard}{victim}\nkill -{number} $victim\nsleep 60"


def fill(project: Project, count: int = COUNT) -> None:
    for number in range(count):
        project.add(f"test_{number:03}", "sleep 0.01")


@pytest.mark.parametrize(
    ("victim", "number", "words"),
    [
        (HOST, "KILL", "the connection ended"),
        (HOST, "STOP", "has not answered for 1 s"),
        (SLOT, "STOP", ""),
    ],
    ids=["killed host", "stopped host", "stopped slot"],
)
def test_all_tests_are_reported_once(
    victim: str, number: str, words: str, project: Project
) -> None:
    fill(project)
    # The stopped slot is continued after a moment, and the test ends.
    text = make_signal_script("one", victim, number).replace("60", "0.1" if not words else "60")
    project.add("test_trouble", text)
    begin = time.monotonic()
    result = project.run(
        "--nosejobs=2*popen//id=a,2*popen//id=b", "--nosejobs-host-timeout=1",
        f"--junitxml={project.junit}",
    )  # fmt: skip
    assert time.monotonic() - begin < 20
    assert result.ret == 0
    assert result.parseoutcomes() == {"passed": COUNT + 1}
    assert project.junit.read_text().count("<testcase ") == COUNT + 1
    assert (project.root / "one").is_dir()
    shown = result.stdout.str()
    assert ("hosts lost" in shown) == bool(words)
    assert words in shown
    assert wait_until_gone(str(project.root), 5)


def test_a_slot_that_dies_takes_one_test_with_it(project: Project) -> None:
    fill(project)
    project.add("test_trouble", make_signal_script("one", SLOT, "KILL"))
    status, cases = project.cases("--nosejobs=2*popen//id=a,2*popen//id=b")
    assert status == 1
    assert len(cases) == COUNT + 1
    errors = {name: case for name, case in cases.items() if case.outcome != "passed"}
    assert list(errors) == ["test_trouble"]
    assert "SIGKILL" in errors["test_trouble"].message


def test_a_single_host_comes_back_and_ends_the_run(project: Project) -> None:
    fill(project, 20)
    project.add("test_trouble", make_signal_script("one", HOST, "KILL"))
    result = project.run("--nosejobs=2*popen//id=a", "-v", f"--junitxml={project.junit}")
    assert result.ret == 0
    assert result.parseoutcomes() == {"passed": 21}
    result.stdout.fnmatch_lines(
        ["host a: the connection ended", "  tests that were there: * to a",
         "  test_trouble to a", "  connected again later"]
    )  # fmt: skip
    text = project.junit.read_text()
    assert '<property name="lost_with" value="a"' in text
    assert text.count("lost_with") < 21


def test_a_test_that_takes_its_host_down_each_time_is_an_error_that_says_so(
    project: Project,
) -> None:
    fill(project, 20)
    project.add("test_trouble", make_signal_script("", HOST, "KILL", once=False))
    status, cases = project.cases("--nosejobs=2*popen//id=a,2*popen//id=b")
    assert status == 6
    assert len(cases) == 21
    assert cases["test_trouble"].outcome == "error"
    both = cases["test_trouble"].properties["lost_with"]
    assert both in ("a and b", "b and a")  # whichever was the first
    assert f"lost with {both}" in cases["test_trouble"].message
    assert {case.outcome for name, case in cases.items() if name != "test_trouble"} == {"passed"}


def test_a_host_that_cannot_come_back_does_not_delay_the_others(project: Project) -> None:
    fill(project, 20)
    project.add("test_trouble", make_signal_script("one", HOST, "KILL"))
    specs = []
    for name in "ab":
        python = project.root / f"python_{name}"
        specs.append(f"popen//id={name}//python={python}")
        # When it is started again, it sends nothing until its connection is closed.
        project.add(python.name, f'mkdir $0.up || exec cat\nexec {sys.executable} "$@"')
    begin = time.monotonic()
    result = project.run(f"--nosejobs={','.join(specs)}")
    assert time.monotonic() - begin < 15
    assert result.ret == 0
    assert result.parseoutcomes() == {"passed": 21}
    result.stdout.fnmatch_lines(["host [ab]: the connection ended"])
    result.stdout.no_fnmatch_line("*connected again*")
    assert wait_until_gone(str(project.root), 5)


def test_a_host_over_ssh_that_stops_and_wakes_later_is_not_listened_to(
    project: Project, sshd: Sshd
) -> None:
    fill(project, 20)
    # The interpreter continues after its connection is closed, and ends all processes.
    wake = make_signal_script("one", HOST, "STOP").replace(
        "sleep 60", "sleep 3; kill -CONT $victim; sleep 60"
    )
    project.add("test_trouble", f"# nosejobs: requires=far\n{wake}")
    result = project.run(
        f"--nosejobs={sshd.spec(slots=1)}//id=far//labels=far,popen//id=near", "-v",
        "--nosejobs-host-timeout=1.5", "--nosejobs-max-lost=1",
    )  # fmt: skip
    assert result.ret == 6
    assert result.parseoutcomes() == {"passed": 20, "errors": 1}
    result.stdout.fnmatch_lines(
        ["*nosejobs: host far: has not answered for 1.5 s", "host far: has not answered*"]
    )
    result.stdout.fnmatch_lines(["*test_trouble - host lost: lost with far"])
    assert wait_until_gone(str(sshd.folder / "tmp" / "nosejobs-"), 10)


def test_a_host_over_ssh_comes_back_with_its_tree(project: Project, sshd: Sshd) -> None:
    project.add(
        "test_trouble", make_signal_script("one", HOST, "KILL").replace("$TEST_SRCDIR", "$PLACE")
    )
    project.ini("nosejobs_pass_env = PLACE")
    project.add("data", "echo fine")
    project.add("test_data", "[ $(./data) = fine ]")
    python = project.root / "python_there"
    project.add(python.name, f'export PLACE={project.root}\nexec {sys.executable} "$@"')
    spec = f"{sshd.spec(slots=1)}//id=far//python={python}"
    result = project.run(f"--nosejobs={spec}", f"--junitxml={project.junit}")
    assert result.ret == 0
    assert result.parseoutcomes() == {"passed": 2}
    assert 'name="lost_with" value="far"' in project.junit.read_text()
    result.stdout.fnmatch_lines(["host far: the connection ended", "  connected again later"])


def test_a_host_that_dies_while_others_are_collected_is_no_missing_host(project: Project) -> None:
    fill(project, 5)
    project.file(
        "conftest.py",
        "import os, signal, time\n"
        "def pytest_collection_finish(session):\n"
        "    fleet = session.config.pluginmanager.get_plugin('nosejobs-session').remote_run.fleet\n"
        "    host = fleet.hosts[0]\n"
        "    while host.facts is None: time.sleep(0.01)\n"
        "    os.kill(host._gateway._gateway._io.popen.pid, signal.SIGKILL)\n"
        "    while host.error is None: time.sleep(0.01)\n",
    )
    result = project.run("--nosejobs=popen//id=a,popen//id=b")
    assert result.ret == 0
    assert result.parseoutcomes() == {"passed": 5}
    result.stdout.fnmatch_lines(["host a: the connection ended"])


def test_x_ends_all_hosts_at_once(project: Project) -> None:
    for number in range(6):
        project.add(f"test_{number}", "sleep 60")
    project.add("test_fails", "sleep 0.5; exit 1")
    begin = time.monotonic()
    result = project.run("--nosejobs=3*popen//id=a,4*popen//id=b", "-x")
    assert time.monotonic() - begin < 15
    assert result.ret == 1
    assert result.parseoutcomes()["failed"] == 1
    assert wait_until_gone(str(project.root), 3)


def test_x_does_not_wait_for_a_host_that_has_stopped(project: Project) -> None:
    project.add("test_stop", make_signal_script("one", HOST, "STOP"))
    project.add("test_fails", "while [ ! -d one ]; do sleep 0.02; done; exit 1")
    begin = time.monotonic()
    result = project.run("--nosejobs=popen//id=a,popen//id=b", "-x")
    assert time.monotonic() - begin < 30  # far below the timeout of a test
    assert result.ret == 1
    assert wait_until_gone(str(project.root), 5)


@pytest.mark.parametrize("where", ["option", "ini"])
def test_a_host_timeout_must_make_sense(where: str, project: Project) -> None:
    project.add("test_a")
    if where == "ini":
        project.ini("nosejobs_host_timeout = 0.1")
        result = project.run("--nosejobs=popen")
    else:
        result = project.run("--nosejobs=popen", "--nosejobs-host-timeout=0")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*host-timeout must be 0.5 to 86400*"])
