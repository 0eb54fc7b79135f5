"""Tests of a queue that several processes use at once, some of which are killed."""

import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from shell_runner.remote.jobs.queue import Queue, RequestRefused, State
from tests.helpers.queue_factories import CODE, WORKER, claim_job, submit_job

ROOT = Path(__file__).parents[3]

#: Submits jobs, claims any job, and prints both; the arguments are the folder and a number.
CLAIM = """\
import sys
from tests.helpers.queue_factories import *
queue = Queue(sys.argv[1])
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    print("submitted", submit_job(queue, count=1).id)
    print("claimed", claim_job(queue)[0].id)
"""
#: Submits jobs until it is killed and prints their ids; every third job is run and forgotten.
SUBMIT = """\
import sys
from tests.helpers.queue_factories import *
queue = Queue(sys.argv[1])
while True:
    for state in (State.QUEUED, State.QUEUED, State.READY):
        job = submit_job(queue, count=20, priority=9 * (state == State.READY))
        print(job.id, flush=True)
        if state == State.READY:
            attempt = claim_job(queue)[1].id
            queue.record_executions(attempt, [(n, 1, "passed", "x" * 1000) for n in range(20)])
            queue.finish(attempt, EndReason.COMPLETED, "", 1.0)
            queue.forget(queue.record_package(job.number, "d", 1, 1.0), True)
            print(job.id, flush=True)
"""
#: Opens a queue that does not exist yet, at the same time as other processes.
OPEN = """\
import sys
from tests.helpers.queue_factories import *
sys.stdin.readline()
print("submitted", submit_job(Queue(sys.argv[1])).id)
"""


class Programs:
    """Child processes, all of which are killed at the end of the test."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def start(self, program: str, *arguments: object) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.started.append(process)
        return process


@pytest.fixture
def programs() -> Iterator[Programs]:
    made = Programs()
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


def find_ids(process: "subprocess.Popen[str]", word: str, lines: str) -> list[str]:
    assert process.returncode == 0
    return [line.split()[1] for line in lines.splitlines() if line.startswith(word)]


def test_no_job_is_claimed_twice(tmp_path: Path, programs: Programs) -> None:
    with Queue(str(tmp_path)) as queue:
        waiting = [submit_job(queue).id for _ in range(5)]
    started = [programs.start(CLAIM, tmp_path, 40) for _ in range(4)]
    outputs = [(process, process.communicate("\n", timeout=60)[0]) for process in started]
    submits = [each for process, lines in outputs for each in find_ids(process, "submitted", lines)]
    claims = Counter(
        each for process, lines in outputs for each in find_ids(process, "claimed", lines)
    )
    assert len(submits) == sum(claims.values()) == 160
    assert set(claims.values()) == {1}
    # The oldest jobs were claimed first, so that the last ones are left.
    with Queue(str(tmp_path)) as queue:
        left = [job.id for job in queue.list_jobs([State.QUEUED])]
        assert len(left) == 5
        assert set(claims) | set(left) == {*submits, *waiting}
        assert all(len(queue.get_attempts(number)) == 1 for number in range(1, 161))


def test_a_queue_is_made_once_by_many(tmp_path: Path, programs: Programs) -> None:
    started = [programs.start(OPEN, tmp_path) for _ in range(6)]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [(process, process.communicate(timeout=60)[0]) for process in started]
    submits = [each for process, lines in outputs for each in find_ids(process, "submitted", lines)]
    with Queue(str(tmp_path)) as queue:
        assert {job.id for job in queue.list_jobs()} == set(submits)
        assert len(submits) == 6


@pytest.mark.parametrize("lines", [1, 2, 7, 40, 111])
def test_acknowledged_submits_survive_a_kill(
    tmp_path: Path, programs: Programs, lines: int
) -> None:
    process = programs.start(SUBMIT, tmp_path)
    assert process.stdout is not None
    outputs = [process.stdout.readline().strip() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    outputs += process.stdout.read().split()
    assert process.wait() == -signal.SIGKILL
    with Queue(str(tmp_path)) as queue:
        queue.register_worker(WORKER, CODE, 1.0)
        there = {job.id: job for job in queue.list_jobs(limit=1000)}
        gone = {each for each, count in Counter(outputs).items() if count == 2}
        # One may have been on its way, or out, when there was nobody to answer.
        assert set(outputs) - gone <= set(there) | set(outputs[-1:])
        assert len(set(there) - set(outputs)) <= 1
        assert not gone & set(there)
        assert all(len(queue.get_tests(job.number)) == 20 for job in there.values())
        assert all(queue.find(each[:13]).id == each for each in there)
    other = sqlite3.connect(tmp_path / "queue.db")
    assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert other.execute("PRAGMA foreign_key_check").fetchall() == []
    other.close()


def test_others_go_on_beside_one_that_was_killed(tmp_path: Path, programs: Programs) -> None:
    with Queue(str(tmp_path)) as queue:
        process = programs.start(SUBMIT, tmp_path)
        assert process.stdout is not None
        ours = []
        for _ in range(20):
            process.stdout.readline()
            ours.append(submit_job(queue).id)
        process.kill()
        ours.append(submit_job(queue).id)
        assert {job.id for job in queue.list_jobs(limit=1000)} >= set(ours)
        queue._db.check()


# -- a folder that cannot be written to -------------------------------------------------


def open_as_other_user(folder: Path) -> str:
    """Return what the queue answers to a user who is not root, since root can write anywhere."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            if os.getuid() == 0:
                os.setuid(pwd.getpwnam("nobody").pw_uid)
            Queue(str(folder))
        except RequestRefused as refused:
            os.write(writer, f"{refused.kind} {refused.message}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        message = file.read()
    os.waitpid(child, 0)
    return message


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Path]:
    """Make a folder that other users can enter and read."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="nosejobs-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("there", [False, True], ids=["none-yet", "queue-there"])
def test_a_read_only_folder_is_refused_with_its_path(foreign: Path, there: bool) -> None:
    jobs = foreign / "jobs"
    jobs.mkdir()
    if there:
        with Queue(str(jobs)) as queue:
            submit_job(queue)
        for path in jobs.iterdir():
            path.chmod(0o444)
    jobs.chmod(0o555)
    message = open_as_other_user(jobs)
    assert message.startswith(f"read-only {jobs}/queue.db cannot be written to (")
    jobs.chmod(0o700)
    for path in jobs.iterdir():
        path.chmod(0o600)
    if there:
        with Queue(str(jobs)) as queue:
            assert claim_job(queue)


def test_no_queue_is_made_where_the_file_system_is_full(tmp_path: Path) -> None:
    """A limit of file sizes imitates a full disk for a test that is not root."""
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from shell_runner.remote.jobs.queue import Queue\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "try: Queue(sys.argv[1])\n"
        "except OSError as error: print(error.filename)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == f"{tmp_path}/queue.db\n", done.stderr
    with Queue(str(tmp_path)) as queue:
        assert queue.find(submit_job(queue).id)
