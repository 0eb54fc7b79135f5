"""Tests that orphans of an attempt are found and killed, and no other processes."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from shell_runner.remote.processes import orphans

#: Starts a child as its arguments say, prints its process id, and exits at the end of input.
PARENT = """
import os, subprocess, sys
env = {} if sys.argv[1] == "clean" else None
child = subprocess.Popen(["sleep", "1000"], env=env, start_new_session=sys.argv[2] == "apart",
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=sys.argv[3])
print(child.pid, flush=True)
sys.stdin.read()
"""
#: Starts processes in sessions of their own while the search runs.
STORM = """
import os, time
print(os.getpid(), flush=True)
for _ in range(25):
    if os.fork() == 0:
        os.setsid()
        break
    time.sleep(0.002)
time.sleep(1000)
"""


class Attempt:
    """The processes of one attempt."""

    def __init__(self, folder: Path) -> None:
        self.id = str(uuid.uuid4())
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, code: str, *arguments: str) -> int:
        """Start a marked process in its own session; return the number that it prints."""
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, text=True,
            stdout=subprocess.PIPE, env={**os.environ, orphans.ATTEMPT_VARIABLE: self.id},
            start_new_session=True,
        )  # fmt: skip
        self.processes.append(process)
        assert process.stdout is not None
        return int(process.stdout.readline())

    def find(self) -> set[int]:
        return {process.pid for process in orphans.find_orphans(self.id, str(self.folder))}

    def end(self) -> None:
        orphans.kill_orphans(self.id, str(self.folder))
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def attempt(tmp_path: Path) -> Iterator[Attempt]:
    made = Attempt(tmp_path)
    yield made
    made.end()


@pytest.mark.parametrize("environment", ["marked", "clean"])
@pytest.mark.parametrize("session", ["apart", "same"])
def test_children_are_found_whatever_their_environment(
    attempt: Attempt, environment: str, session: str
) -> None:
    child = attempt.start(PARENT, environment, session, "/")
    assert attempt.find() == {child, attempt.processes[0].pid}
    assert orphans.kill_orphans(attempt.id) == []
    assert attempt.find() == set()
    assert orphans.read_process(child) is None or orphans.read_process(child).state == "Z"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("environment", "session", "inside"),
    [("marked", "apart", False), ("marked", "same", False), ("clean", "apart", True)],
)
def test_orphans_are_found_by_marker_or_working_directory(
    attempt: Attempt, environment: str, session: str, inside: bool
) -> None:
    child = attempt.start(PARENT, environment, session, str(attempt.folder) if inside else "/")
    attempt.processes[0].communicate("")
    assert attempt.find() == {child}


def test_members_of_a_marked_session_are_found_without_their_parent(attempt: Attempt) -> None:
    child = attempt.start(PARENT, "clean", "same", "/")
    leader = attempt.processes[0]
    os.kill(leader.pid, signal.SIGSTOP)
    assert attempt.find() == {child, leader.pid}


def test_processes_that_fork_all_the_time_are_killed(attempt: Attempt) -> None:
    attempt.start(STORM)
    assert orphans.kill_orphans(attempt.id) == []
    assert attempt.find() == set()


def test_a_working_directory_says_nothing_of_others_in_the_session(
    attempt: Attempt, tmp_path: Path
) -> None:
    other = Attempt(tmp_path / "other")
    try:
        child = other.start(PARENT, "marked", "same", str(attempt.folder))
        assert attempt.find() == {child}
    finally:
        other.end()


def test_other_processes_are_spared(attempt: Attempt, tmp_path: Path) -> None:
    """Processes of another attempt and ancestors are spared, although ancestors have the marker."""
    other = Attempt(tmp_path / "other")
    try:
        child = other.start(PARENT, "marked", "same", "/")
        code = "import sys; from shell_runner.remote.processes import orphans\n"
        code += "print(len(orphans.kill_orphans(sys.argv[1])))"
        assert attempt.start(code, attempt.id) == 0
        assert attempt.processes[0].wait(20) == 0
        assert other.find() == {child, other.processes[0].pid}
    finally:
        other.end()
