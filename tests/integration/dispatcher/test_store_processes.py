"""Tests of several processes on one database: no update is lost, and none is made twice."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher.model import BuildEvent, Change, Job, JobEvent, StageEvent, StageRun
from dispatcher.store import (
    Store,
    builds,
    changes,
    jobs,
    key_values,
    open_store,
    results,
    stage_runs,
)

COUNT = """
import sys
from dispatcher.store import key_values, open_store
store = open_store(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with store.write() as connection:
        now = int(key_values.get(connection, "count") or b"0")
        key_values.put(connection, "count", b"%d" % (now + 1))
    print(now + 1, flush=True)
"""

HARVEST = """
import sys
from dispatcher.store import open_store, results
from dispatcher.store.results import CaseRow, PackageInfo, ResultRow
store = open_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for job in sys.argv[2:]:
    tests = [ResultRow(number, f"t{number}", "passed", "exit 0", 0.1) for number in range(10)]
    cases = (CaseRow(number % 10, number, "case", "passed") for number in range(5000))
    with store.write() as connection:
        package = PackageInfo("p" + job, "completed", 1.0)
        outcome = results.record_package(connection, job, package, tests, cases)
    print(job, outcome, flush=True)
"""


def start(script: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def remaining_output(child: "subprocess.Popen[str]") -> str:
    """Return what the process prints from now on until its end."""
    with child:
        assert child.stdout
        return child.stdout.read()


def uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dispatcher.db"


def add_jobs(store: Store, count: int) -> list[str]:
    """Add submitted jobs of one stage run, and return their UUIDs."""
    with store.write() as connection:
        source = changes.ensure_source(connection, "here", "git")
        build = builds.add(connection, changes.add(connection, Change(source, "main", "r")), 1.0)
        builds.apply_event(connection, build, BuildEvent.REUSE)
        run = stage_runs.add(connection, StageRun(0, build, "unit"))
        assert run is not None
        stage_runs.apply_event(connection, run, StageEvent.READY)
        stage_runs.apply_event(connection, run, StageEvent.PLACE)
        job_ids = jobs.plan(connection, [Job(uuid(part), run, "h", part) for part in range(count)])
        for job in job_ids:
            jobs.apply_event(connection, job, JobEvent.ACCEPT)
    return job_ids


def test_processes_lose_no_update_and_start_at_the_same_time(path: Path) -> None:
    """The file does not exist when the processes start, so all of them migrate it."""
    counters = [start(COUNT, path, 50) for _ in range(3)]
    outputs = [each.communicate(timeout=60)[0].split() for each in counters]
    assert [each.returncode for each in counters] == [0, 0, 0]
    assert sorted(int(number) for lines in outputs for number in lines) == list(range(1, 151))


def test_what_was_committed_before_a_kill_is_there(path: Path) -> None:
    counters = [start(COUNT, path, 100_000) for _ in range(2)]
    numbers = []
    for counter in counters:
        assert counter.stdout
        numbers += [int(counter.stdout.readline()) for _ in range(20)]
        counter.kill()
        numbers += map(int, remaining_output(counter).split("\n")[:-1])
    store = open_store(path)
    with store.write() as connection:  # the killed processes hold no lock
        count = int(key_values.get(connection, "count") or b"0")
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    store.close()
    assert len(numbers) == len(set(numbers))
    # Each process can have committed one number that it had not printed yet.
    assert max(numbers) <= count <= len(numbers) + 2


def test_a_harvest_that_is_killed_is_whole_or_not_there(path: Path) -> None:
    store = open_store(path)
    job_ids = add_jobs(store, 60)
    child = start(HARVEST, path, *job_ids)
    assert child.stdin
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    child.stdin.write("\n")
    child.stdin.flush()
    lines = [child.stdout.readline().split() for _ in range(3)]
    os.kill(child.pid, signal.SIGKILL)
    lines += [line.split() for line in remaining_output(child).splitlines()]
    done = [job for job, outcome in lines if outcome == "new"]
    with closing(sqlite3.connect(path)) as connection:
        counted = dict(
            connection.execute(
                "SELECT job, count(*) FROM result JOIN case_result ON result = id GROUP BY job"
            )
        )
        states = dict(connection.execute("SELECT id, state FROM job WHERE package_digest != ''"))
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert set(counted.values()) == {5000}
    assert set(states.values()) == {"harvested"}
    assert counted.keys() == states.keys()
    assert set(done) <= counted.keys()
    assert len(done) < len(job_ids)
    # The next process records what is missing, and repeats nothing.
    with store.write() as connection:
        tests = [results.ResultRow(0, "t", "passed", "exit 0", 0.1)]
        again = [
            results.record_package(
                connection, job, results.PackageInfo(f"p{job}", "completed", 1.0), tests
            )
            for job in job_ids
        ]
    store.close()
    assert again.count(results.HarvestOutcome.REPEATED) == len(counted)
    assert again.count(results.HarvestOutcome.NEW) == len(job_ids) - len(counted)


def test_two_harvesters_of_one_package_make_it_rows_once(path: Path) -> None:
    store = open_store(path)
    job_ids = add_jobs(store, 8)
    children = [start(HARVEST, path, *job_ids) for _ in range(2)]
    for child in children:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
    lines = []
    for child in children:
        assert child.stdin
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        lines += [tuple(line.split()) for line in child.communicate(timeout=60)[0].splitlines()]
    assert sorted(lines) == sorted((job, end) for job in job_ids for end in ("new", "repeated"))
    with store.read() as connection:
        assert len(results.list_cases(connection, job_ids[0], 3)) == 500
    store.close()
