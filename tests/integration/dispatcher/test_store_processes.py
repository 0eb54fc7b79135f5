"""Several processes on one database: no update is lost, nothing is done twice."""

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
from dispatcher.store import notes, open_store
store = open_store(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with store.write() as connection:
        now = int(notes.get(connection, "count") or b"0")
        notes.put(connection, "count", b"%d" % (now + 1))
    print(now + 1, flush=True)
"""

HARVEST = """
import sys
from dispatcher.store import open_store, results
from dispatcher.store.results import CaseRow, Package, ResultRow
store = open_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for job in sys.argv[2:]:
    tests = [ResultRow(number, f"t{number}", "passed", "exit 0", 0.1) for number in range(10)]
    cases = (CaseRow(number % 10, number, "case", "passed") for number in range(5000))
    with store.write() as connection:
        package = Package("p" + job, "completed", 1.0)
        done = results.harvested(connection, job, package, tests, cases)
    print(job, done, flush=True)
"""


def start(script: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def rest(child: "subprocess.Popen[str]") -> str:
    """What it printed until its end, beyond what was read before."""
    with child:
        assert child.stdout
        return child.stdout.read()


def uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dispatcher.db"


def add_jobs(store: Store, count: int) -> list[str]:
    """Submitted jobs of one stage run."""
    with store.write() as connection:
        source = changes.ensure_source(connection, "here", "git")
        build = builds.add(connection, changes.add(connection, Change(source, "main", "r")), 1.0)
        builds.apply_event(connection, build, BuildEvent.REUSE)
        run = stage_runs.add(connection, StageRun(0, build, "unit"))
        assert run is not None
        stage_runs.apply_event(connection, run, StageEvent.READY)
        stage_runs.apply_event(connection, run, StageEvent.PLACE)
        found = jobs.plan(connection, [Job(uuid(part), run, "h", part) for part in range(count)])
        for job in found:
            jobs.apply_event(connection, job, JobEvent.ACCEPT)
    return found


def test_processes_lose_no_update_and_start_at_the_same_time(path: Path) -> None:
    """The file is not even there when they start: both migrate it."""
    counters = [start(COUNT, path, 50) for _ in range(3)]
    told = [each.communicate(timeout=60)[0].split() for each in counters]
    assert [each.returncode for each in counters] == [0, 0, 0]
    assert sorted(int(number) for lines in told for number in lines) == list(range(1, 151))


def test_what_was_committed_before_a_kill_is_there(path: Path) -> None:
    counters = [start(COUNT, path, 100_000) for _ in range(2)]
    told = []
    for each in counters:
        assert each.stdout
        told += [int(each.stdout.readline()) for _ in range(20)]
        each.kill()
        told += map(int, rest(each).split("\n")[:-1])
    store = open_store(path)
    with store.write() as connection:  # no lock of the dead is left
        count = int(key_values.get(connection, "count") or b"0")
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    store.close()
    assert len(told) == len(set(told))
    # One that was committed, but not told of, for each of the two at most.
    assert max(told) <= count <= len(told) + 2


def test_a_harvest_that_is_killed_is_whole_or_not_there(path: Path) -> None:
    store = open_store(path)
    found = add_jobs(store, 60)
    child = start(HARVEST, path, *found)
    assert child.stdin
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    child.stdin.write("\n")
    child.stdin.flush()
    told = [child.stdout.readline().split() for _ in range(3)]
    os.kill(child.pid, signal.SIGKILL)
    told += [line.split() for line in rest(child).splitlines()]
    done = [job for job, outcome in told if outcome == "new"]
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
    assert len(done) < len(found)
    # Whoever comes next goes on where it ended; what is there is not done again.
    with store.write() as connection:
        tests = [results.ResultRow(0, "t", "passed", "exit 0", 0.1)]
        again = [
            results.record_package(
                connection, job, results.PackageInfo(f"p{job}", "completed", 1.0), tests
            )
            for job in found
        ]
    store.close()
    assert again.count(results.HarvestOutcome.REPEATED) == len(counted)
    assert again.count(results.HarvestOutcome.NEW) == len(found) - len(counted)


def test_two_harvesters_of_one_package_make_it_rows_once(path: Path) -> None:
    store = open_store(path)
    found = add_jobs(store, 8)
    children = [start(HARVEST, path, *found) for _ in range(2)]
    for each in children:
        assert each.stdout
        assert each.stdout.readline() == "ready\n"
    told = []
    for each in children:
        assert each.stdin
        each.stdin.write("\n")
        each.stdin.flush()
    for each in children:
        told += [tuple(line.split()) for line in each.communicate(timeout=60)[0].splitlines()]
    assert sorted(told) == sorted((job, end) for job in found for end in ("new", "repeated"))
    with store.read() as connection:
        assert len(results.list_cases(connection, found[0], 3)) == 500
    store.close()
