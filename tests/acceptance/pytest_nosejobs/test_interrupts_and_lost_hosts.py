"""Tests of interrupted runs and lost hosts, and of the exit status."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.single_host_run import find_processes, wait_until_gone
from tests.helpers.sshd import Sshd

from .conftest import Project

#: Kills the gateway process of its slot when it runs for the first time.
KILLER = """
mkdir "$TEST_SRCDIR/once" 2>/dev/null || exit 0
read -r _ _ _ gateway _ </proc/$PPID/stat
kill -9 "$gateway"
sleep 60
"""


def start(project: Project, *arguments: str) -> subprocess.Popen[str]:
    """Start pytest in its own process group, as a shell does."""
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "pytest_nosejobs.plugin", *arguments],
        cwd=project.root,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "MARK": str(project.root)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


def await_files(folder: Path, pattern: str, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(folder.glob(pattern))) < count:
        assert time.monotonic() < deadline, "the tests did not start"
        time.sleep(0.02)


def test_ctrl_c_leaves_nothing_behind_on_any_host(
    project: Project, sshd: Sshd, scratch: Path
) -> None:
    for number in range(100):
        project.add(f"test_{number}", f"touch {project.root}/up.{number}; sleep 61 & sleep 60")
    before = set((scratch / "tmp").iterdir())
    process = start(project, f"--nosejobs=2*popen,{sshd.spec(slots=2)}")
    try:
        await_files(project.root, "up.*", 4)
        there = [str(path) for path in (sshd.folder / "tmp").glob("nosejobs-*")]
        assert len(find_processes(str(project.root))) > 4
        os.killpg(process.pid, signal.SIGINT)
        begin = time.monotonic()
        for marker in (str(project.root), *there):
            assert wait_until_gone(marker, 3 - (time.monotonic() - begin)), "something still runs"
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 2
    assert "KeyboardInterrupt" in output
    assert set((scratch / "tmp").iterdir()) <= before
    assert len(list(project.root.glob("up.*"))) == 4


def test_ctrl_c_leaves_nothing_behind_in_a_plain_run(project: Project) -> None:
    project.add("test_a", f"touch {project.root}/up.1; setsid sleep 61 & sleep 60")
    process = start(project)
    try:
        await_files(project.root, "up.*", 1)
        os.killpg(process.pid, signal.SIGINT)
        assert wait_until_gone(str(project.root), 3)
        process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 2


def test_a_controller_that_is_killed_leaves_nothing_behind(project: Project) -> None:
    for number in range(4):
        project.add(f"test_{number}", f"touch {project.root}/up.{number}; sleep 61 & sleep 60")
    process = start(project, "--nosejobs=2*popen")
    try:
        await_files(project.root, "up.*", 2)
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert wait_until_gone(str(project.root), 10)


def test_tests_of_a_lost_host_run_on_another(project: Project) -> None:
    project.add("test_killer", KILLER)
    for number in range(12):
        project.add(f"test_{number}", "sleep 0.1")
    result = project.run("--nosejobs=2*popen,popen", "-v")
    assert result.ret == 0
    assert result.parseoutcomes() == {"passed": 13}
    result.stdout.fnmatch_lines(["*hosts lost or missing*", "*host popen*: *connection*ended*"])
    assert "could not be run" not in result.stdout.str()


def make_single_use_spec(project: Project) -> str:
    """Return the spec of a host that cannot be opened a second time."""
    python = project.root / "python_once"
    project.add(python.name, f'mkdir {project.root}/opened && exec {sys.executable} "$@"')
    return f"popen//python={python}"


def test_without_a_host_left_every_test_is_an_error_and_none_is_missing(project: Project) -> None:
    project.add("test_0_good")
    project.add("test_killer", KILLER)
    for number in range(10):
        project.add(f"test_x{number}")
    begin = time.monotonic()
    status, cases = project.cases(
        f"--nosejobs={make_single_use_spec(project)}", "--nosejobs-host-timeout=2"
    )
    assert time.monotonic() - begin < 10
    assert status == 6
    assert len(cases) == 12
    passed = {name for name, case in cases.items() if case.outcome == "passed"}
    assert "test_0_good" in passed
    lost = [case for name, case in cases.items() if name not in passed]
    assert {case.outcome for case in lost} == {"error"}
    assert all("host lost" in case.message for case in lost)
    assert all("no host came back within 2 s" in case.message for case in lost)
    assert cases["test_killer"] in lost


def test_a_test_that_takes_two_hosts_down_is_given_up(project: Project) -> None:
    project.add("test_killer", KILLER.replace("|| exit 0", ""))
    project.add("test_other")
    status, cases = project.cases("--nosejobs=popen,popen,popen")
    assert status == 6
    assert cases["test_other"].outcome == "passed"
    assert cases["test_killer"].outcome == "error"
    assert "host lost" in cases["test_killer"].message


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 77", 0), ("exit 1", 1), ("exit 99", 1)]
)
def test_exit_statuses(project: Project, script: str, status: int) -> None:
    project.add("test_a", script)
    assert project.run("--nosejobs=popen").ret == status


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("2*poopen", "*'2[*]poopen'*"),
        ("0*popen", "*must be 1 to 1024, not '0'*"),
        ("popen//slot=1", "*did you mean 'slots'?*"),
        ("atuo", "*'4[*]popen', auto*"),
        ("", "*needs a host*"),
    ],
)
def test_a_bad_spec_is_a_usage_error(project: Project, spec: str, words: str) -> None:
    project.file("nosejobs.toml", "[hosts.build]\n")
    project.add("test_a", "touch ran")
    result = project.run(f"--nosejobs={spec}")
    assert result.ret == 4
    result.stderr.fnmatch_lines([words])
    assert not (project.root / "ran").exists()


def test_a_host_that_cannot_be_opened_stops_the_run_unless_it_may_be_missing(
    project: Project, sshd: Sshd
) -> None:
    project.add("test_a")
    spec = f"--nosejobs=popen,{sshd.spec('stranger')}"
    result = project.run(spec)
    assert result.ret == 6
    result.stdout.fnmatch_lines(["*host stranger: key refused*", "*try: ssh-copy-id*"])
    assert "passed" not in result.parseoutcomes()
    result = project.run(spec, "--nosejobs-allow-missing")
    assert result.ret == 0
    assert result.parseoutcomes() == {"passed": 1}
    result.stdout.fnmatch_lines(["*stranger: missing (key refused*"])


def test_no_host_at_all_stops_the_run_even_if_hosts_may_be_missing(
    project: Project, sshd: Sshd
) -> None:
    project.add("test_a")
    result = project.run(f"--nosejobs={sshd.spec('closed')}", "--nosejobs-allow-missing")
    assert result.ret == 6
    result.stdout.fnmatch_lines(["*host closed: Connection refused*"])
