"""Tests of the states in which a user may find a host.

There is a test for each row of the table in docs/failure.md: a disk that is full or read-only, a
queue file that is damaged or newer, two versions, a clock that is set back, many jobs, and sparse
builds.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import statistics
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shell_runner.cli.job_output import format_attempt
from shell_runner.jobs.responses import AttemptReport
from shell_runner.remote.jobs import paths
from shell_runner.remote.jobs.queue import JobRow, Queue
from shell_runner.remote.processes import process_identity
from shell_runner.remote.protocol.model import Execution
from shell_runner.remote.sessions.job_session import JobSession
from tests.helpers import job_hosts
from tests.helpers.namespace_host import CHECKOUT, TIMEOUT, NamespaceHost, issue_bundles
from tests.helpers.peak_memory import measure_peak_memory
from tests.helpers.queue_host import QueueHost, WebhookReceiver
from tests.helpers.small_filesystem import SmallFilesystem

pytestmark = pytest.mark.timeout(180)

#: Bytes of the disk on which a host keeps its state.
DISK = 24 << 20


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder with the certificates of a fleet."""
    with issue_bundles(tmp_path_factory.mktemp("fleet")) as folder:
        yield folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallFilesystem]:
    filesystem = SmallFilesystem(tmp_path / "host" / "state", DISK)
    yield filesystem
    with contextlib.suppress(subprocess.CalledProcessError):
        filesystem.unmount()


@pytest.fixture
def machine(tmp_path: Path, fleet: Path, disk: SmallFilesystem) -> Iterator[NamespaceHost]:
    """Yield a running host with a small disk for its state, and its user."""
    (tmp_path / "host").mkdir()
    made = NamespaceHost(tmp_path / "host", fleet)
    disk.mount()
    with made:
        yield made


def tree(machine: NamespaceHost, **scripts: str) -> Path:
    """Write the tests ``NAME.sh``; return their folder."""
    folder = machine.folder / "tests"
    folder.mkdir(exist_ok=True)
    for name, text in scripts.items():
        path = folder / f"{name}.sh"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return folder


def make_gate_script(machine: NamespaceHost) -> str:
    """Return a script that creates the file ``begun`` and waits until ``go`` exists."""
    here = machine.folder
    return f"echo begun > {here}/begun; while [ ! -e {here}/go ]; do sleep 0.02; done"


def run_refused(machine: NamespaceHost, *words: object, status: int = 6) -> str:
    """Run a command that fails; return its message."""
    process = machine.start_command(*words)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == status, f"{words}: {process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err
    return err


def show_job(machine: NamespaceHost, job: str) -> dict[str, str]:
    """Return the lines of ``show`` by their titles."""
    rows = (line.partition(" ") for line in machine.run_command("show", job).splitlines())
    return {key: words.strip() for key, _, words in rows if key}


def harvest_outcomes(machine: NamespaceHost, job: str, status: int = 0) -> dict[str, int]:
    """Harvest a job; return the counts of outcomes in the JSON output."""
    result = json.loads(machine.run_command("harvest", "--wait", "--json", job, status=status))
    return dict(result["outcomes"])


# -- a full disk ----------------------------------------------------------------------


def test_full_disk_while_packaging(machine: NamespaceHost, disk: SmallFilesystem) -> None:
    noise = "head -c 3000000 /dev/urandom > $TEST_UNDECLARED_OUTPUTS_DIR/noise"
    job = machine.submit("--tests", tree(machine, test_a=noise, test_b=make_gate_script(machine)))
    done = "SELECT count(*) FROM execution"
    machine.wait_for("the artifact", lambda: machine.query(done) == [(1,)])
    disk.fill(leave=1 << 20)
    (machine.folder / "go").touch()
    waiting_reason = "SELECT waiting_reason FROM job"
    machine.wait_for("the trouble", lambda: machine.query(waiting_reason) != [("",)])
    shown = show_job(machine, job)
    assert shown["state"].startswith("completed, packaging: its package cannot be made: ")
    assert f"{machine.queue_folder}: No space left on device; make room there" in shown["state"]
    assert shown["tests"] == "2: 2 passed"
    assert "fix the problem above" in shown["next"]
    assert not list((machine.queue_folder / "packages").glob("*.zip"))
    disk.clear()
    assert harvest_outcomes(machine, job) == {"passed": 2}
    assert show_job(machine, job)["state"] == "completed, harvested"
    # The full disk did not make any test run twice.
    assert machine.query("SELECT count(*) FROM attempt") == [(1,)]


def test_full_disk_while_executions_are_written_and_at_submit(
    machine: NamespaceHost, disk: SmallFilesystem
) -> None:
    tests = tree(
        machine, test_a="echo a", test_b=f"{make_gate_script(machine)}; echo b >&2; exit 3"
    )
    job = machine.submit("--tests", tests)
    waiting = machine.submit("--tests", tests)
    machine.wait_for("the test", (machine.folder / "begun").exists)
    disk.fill()
    (machine.folder / "go").touch()
    log = next((machine.queue_folder / "logs").glob("*.log"))
    shown = show_job(machine, job)
    assert f"the disk of {machine.queue_folder} is full" in shown["state"]
    assert "fix the problem above" in shown["next"]
    # Neither small jobs nor large ones are accepted; the message names reason and folder.
    (tests / "data").write_bytes(os.urandom(1 << 20))
    message = run_refused(machine, "submit", "--tests", tests)
    assert f"{machine.queue_folder}: No space left on device; make room there" in message
    assert machine.query("SELECT count(*) FROM job") == [(2,)]
    assert machine.get_state(waiting) == "queued"
    disk.clear()
    assert harvest_outcomes(machine, job, status=1) == {"failed": 1, "passed": 1}
    assert harvest_outcomes(machine, waiting, status=1) == {"failed": 1, "passed": 1}
    assert harvest_outcomes(machine, machine.submit("--tests", tests), 1) == {
        "failed": 1,
        "passed": 1,
    }
    assert machine.query("SELECT count(*) FROM attempt") == [(3,)]
    assert "test_b.sh: failed" in log.read_text()


def test_a_job_that_needs_more_than_the_disk_has(
    machine: NamespaceHost, disk: SmallFilesystem
) -> None:
    """The space is free again for the next job, without a manual clean-up."""
    tests = tree(machine, test_a="true")
    build = machine.folder / "build"
    build.mkdir()
    (build / "large").write_bytes(os.urandom(DISK * 2 // 3))
    installing = machine.submit("--tests", tests, "--install", f"head -c {2 * DISK} /dev/zero >x")
    unpacking = machine.submit("--tests", tests, "--build", build, "--attempts", 2)
    after = machine.submit("--tests", tests)
    assert harvest_outcomes(machine, after) == {"passed": 1}
    assert harvest_outcomes(machine, installing, status=1) == {"error": 1}
    shown = show_job(machine, installing)
    assert (shown["state"], shown["reason"]) == (
        "install-failed, harvested",
        "the install command failed: exit 1",
    )
    assert harvest_outcomes(machine, unpacking, status=6) == {"error": 1}
    shown = show_job(machine, unpacking)
    assert shown["state"] == "gave-up, harvested"
    assert "No space left on device" in shown["reason"]
    assert os.listdir(machine.queue_folder / "work") == []


def test_a_disk_that_was_always_full(machine: NamespaceHost, disk: SmallFilesystem) -> None:
    disk.fill()
    tests = tree(machine, test_a="true")
    for command in (("submit", "--tests", tests), ("list",)):
        assert "No space left on device; make room there" in run_refused(machine, *command)
    disk.clear()
    assert harvest_outcomes(machine, machine.submit("--tests", tests)) == {"passed": 1}


# -- a disk that cannot be written to ---------------------------------------------------


def test_read_only_state(machine: NamespaceHost, disk: SmallFilesystem) -> None:
    tests = tree(machine, test_a="true")
    job = machine.submit("--tests", tests)
    machine.wait_for("its end", lambda: machine.get_state(job) == "ready")
    machine.wait_for("the worker's leaving", lambda: not machine.list_other_processes())
    disk.set_writable(False)
    for command in (("submit", "--tests", tests), ("list",), ("harvest", job)):
        message = run_refused(machine, *command)
        assert str(machine.queue_folder) in message
        assert "Read-only file system" in message
    disk.set_writable(True)
    assert harvest_outcomes(machine, job) == {"passed": 1}
    disk.set_writable(False)
    machine.power_off()
    machine.boot()  # an agent comes up all the same
    assert "Read-only file system" in run_refused(machine, "list")


# -- a queue file that is none ------------------------------------------------------------


def write_garbage(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite_page(path: Path) -> None:
    """Overwrite one page of the table of jobs."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'job'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with open(path, "r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)


def test_a_damaged_queue(machine: NamespaceHost) -> None:
    """The file is renamed, one command reports its new name, and the queue can be used again."""
    tests = tree(machine, test_a="true")
    for count, damage in enumerate((write_garbage, truncate, overwrite_page), 1):
        job = machine.submit("--tests", tests)
        machine.wait_for("its end", lambda job=job: machine.get_state(job) == "ready")
        machine.wait_for("the worker's leaving", lambda: not machine.list_other_processes())
        before = list_contents(machine)
        damage(machine.queue_folder / "queue.db")
        message = run_refused(machine, "list")
        (place,) = re.findall(r"renamed to (\S+);", message)
        assert "contents and packages stay in" in message
        assert f"{machine.queue_folder}/queue.db was damaged" in message
        assert Path(place).exists()
        assert len(list_damaged_files(machine)) == count
        assert list_contents(machine) >= before
        assert (machine.queue_folder / "packages" / f"{job}.zip").exists()
    machine.run_command("list")  # once is enough
    assert harvest_outcomes(machine, machine.submit("--tests", tests)) == {"passed": 1}


def test_damage_that_a_worker_has_found_is_told_to_the_next_user(machine: NamespaceHost) -> None:
    """The worker exits and kills the test; the job is not in the new queue."""
    tests = tree(machine, test_a=f"setsid sleep 1000 & {make_gate_script(machine)}")
    machine.submit("--tests", tests)
    machine.wait_for("the test", (machine.folder / "begun").exists)
    write_garbage(machine.queue_folder / "queue.db")
    write_garbage(machine.queue_folder / "queue.db-wal")
    (machine.folder / "go").touch()
    machine.wait_for("its leaving", lambda: not machine.list_other_processes())
    assert len(list_damaged_files(machine)) == 1
    message = run_refused(machine, "submit", "--tests", tests)
    assert f"renamed to {list_damaged_files(machine)[0]};" in message
    assert harvest_outcomes(machine, machine.submit("--tests", tests)) == {"passed": 1}


def list_damaged_files(machine: NamespaceHost) -> list[Path]:
    files = machine.queue_folder.glob("queue.db.corrupt-*")
    return [path for path in files if path.name.endswith("Z") or path.name[-2] == "."]


def list_contents(machine: NamespaceHost) -> set[str]:
    """Return the paths of contents and packages of all jobs."""
    files = [*machine.queue_folder.glob("contents/**/*"), *machine.queue_folder.glob("packages/*")]
    return {str(path) for path in files}


def test_a_queue_of_a_newer_schema(machine: NamespaceHost) -> None:
    tests = tree(machine, test_a="true")
    machine.submit("--tests", tests)
    machine.wait_for("the worker's leaving", lambda: not machine.list_other_processes())

    def set_version(number: int) -> None:
        with contextlib.closing(sqlite3.connect(machine.queue_folder / "queue.db")) as db:
            db.execute(f"PRAGMA user_version = {number}")

    set_version(99)
    for command in (("submit", "--tests", tests), ("list",)):
        message = run_refused(machine, *command, status=2)
        assert "queue.db has schema version 99, this nosejobs supports up to 1" in message
        assert "use a newer nosejobs" in message
    machine.power_off()
    machine.boot()
    assert "version 99" in run_refused(machine, "list", status=2)
    assert not list_damaged_files(machine)
    set_version(1)
    assert harvest_outcomes(machine, machine.submit("--tests", tests)) == {"passed": 1}


# -- two of one kind, and a clock --------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path) -> Iterator[QueueHost]:
    """Yield a queue with real workers."""
    with QueueHost(tmp_path / "jobs") as made:
        yield made


def extend_module(name: str, more: str) -> dict[str, bytes]:
    """Return a module of the host's code with ``more`` appended, by its name."""
    text = (Path(paths.__file__).parents[1] / name).read_bytes()
    return {name: text + more.encode()}


def test_two_versions_of_the_code(host: QueueHost) -> None:
    """One worker runs the jobs in order, each by its own version, even if two are started."""
    newer = (
        "\n_old = collect_host_facts\n"
        "def collect_host_facts(): return _old()._replace(note='newer')\n"
    )
    other = host.install(extend_module("protocol/host_facts.py", newer))
    script = f'echo "$NOSEJOBS_JOB" >{host.fifo.path}'
    jobs = [host.submit({"t": script}, code=code) for code in (host.code, other) * 2]
    workers = [host.worker(), host.worker()]
    assert [host.fifo.read_line() for _ in jobs] == [job.id for job in jobs]
    assert [each.wait(TIMEOUT) for each in workers] == [0, 0]
    notes = [host.package(job).manifest["host"]["note"] for job in jobs]
    assert notes == ["", "newer", "", "newer"]
    attempts = [host.attempts(job) for job in jobs]
    assert [len(each) for each in attempts] == [1, 1, 1, 1]
    assert len({each[0].worker for each in attempts}) == 1


def test_clock_set_back(host: QueueHost, tmp_path: Path) -> None:
    """The clock goes back an hour while a test runs and a notification of a job is pending."""
    earlier = f"""
import os as _os
_time = time.time
time.time = lambda: _time() - 3600 * _os.path.exists({str(tmp_path / "back")!r})
"""
    code = host.install(extend_module("jobs/worker.py", earlier))
    receiver = WebhookReceiver([500, 500, 500])
    try:
        first = host.submit({"t": "true"}, code=code, notify=receiver.url)
        script = f"echo here >{host.fifo.path}; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done"
        second = host.submit({"t": script, "u": "true"}, code=code, slots=1)
        third = host.submit({"t": "true"}, code=code)
        worker = host.worker()
        assert host.fifo.read_line() == "here"
        postpone(host, seconds=200)
        (tmp_path / "back").touch()
        (tmp_path / "go").touch()
        assert worker.wait(TIMEOUT) == 0
    finally:
        receiver.close()
    # With the time of the clock the notifications would wait for an hour.
    assert receiver.got
    for job in (first, second, third):
        package = host.package(job)
        assert set(package.exits().values()) == {0}
        assert all(0 <= each.duration < TIMEOUT for each in package.executions().values())
        assert len(host.attempts(job)) == 1
    began, ended = (getattr(host.attempts(second)[0], name) for name in ("started_at", "ended_at"))
    assert ended < began
    assert "took 0.0 s" in format_attempt(AttemptReport("", 1, "ended", "", began, ended))


def postpone(host: QueueHost, seconds: float) -> None:
    """Set the due time of notifications that failed to ``seconds`` from now."""
    deadline = time.monotonic() + TIMEOUT
    statement = "UPDATE outbox SET due_at = ? WHERE attempts > 0"
    while time.monotonic() < deadline:
        with host.queue() as queue, queue._db.write_transaction() as db:
            if db.execute(statement, (time.time() + seconds,)).rowcount:
                return
    raise AssertionError("nobody was tried to be told")


# -- many, and large -----------------------------------------------------------------------


def test_ten_thousand_jobs(tmp_path: Path) -> None:
    """Submitting another job and listing jobs take less than 50 ms each."""
    with QueueHost(tmp_path / "jobs") as host:
        first = host.submit({"a": "true", "b": "true"})
        with host.queue() as queue:
            queue.register_worker(
                process_identity.identify_self(), host.code, time.time()
            )  # nobody else is started
            insert_copies(queue, first, 10_000)
        session = JobSession(None, host.folder, paths.code_path(host.folder, host.code))
        submits, lists = [], []
        for number in range(60):
            new = {**make_submission(host, first), "id": str(uuid.uuid4()), "name": f"job {number}"}
            submits.append(measure_seconds(lambda new=new: session._handlers["submit"](job=new)))
            lists.append(measure_seconds(lambda: session._handlers["jobs"](limit=50)))
        assert session._handlers["jobs"]()["counts"]["queued"] == 10_061
        for name, times in (("submit", submits), ("list", lists)):
            print(name, *(f"{1000 * each:.1f}" for each in sorted(times)), "ms")
            assert statistics.median(times) < 0.05, name


def insert_copies(queue: Queue, job: JobRow, count: int) -> None:
    """Insert ``count`` copies of a job in one transaction."""
    with queue._db.write_transaction() as db:
        columns = (
            "code, submitted_at, test_count, state, name, labels, priority, build, tests, config"
        )
        for _ in range(count):
            db.execute(
                f"INSERT INTO job (id, {columns}) SELECT ?, {columns} FROM job WHERE number = ?",
                (str(uuid.uuid4()), job.number),
            )
        db.execute(
            "INSERT INTO test SELECT job.number, test.number, test.row FROM job, test"
            " WHERE test.job = ? AND job.number > ?",
            (job.number, job.number),
        )


def make_submission(host: QueueHost, job: JobRow) -> dict[str, Any]:
    """Return a job as a client submits it."""
    with host.queue() as queue:
        cases = queue.get_tests(job.number)
    return {
        "tests": job.tests, "build": None, "config": job.config._asdict(), "cases": cases,
        "labels": [], "priority": 0,
    }  # fmt: skip


def measure_seconds(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


#: Bytes of a sparse file, and of disk and memory that shipping and unpacking it may use.
LARGE, LITTLE_DISK, LITTLE_MEMORY = 2 << 30, 64 << 20, 400 << 20


@pytest.mark.timeout(600)  # it packs and unpacks 2 GiB three times
def test_a_sparse_build(tmp_path: Path) -> None:
    """A build of 2 GiB with holes needs little memory and disk, as folder, tar file and tar.gz."""
    with job_hosts.isolate_state(tmp_path):
        build = tmp_path / "build"
        build.mkdir()
        with open(build / "image", "wb") as file:
            file.write(b"begin")
            file.seek(LARGE - 3)
            file.write(b"end")
        packed = f"tar -c -C {build} image"
        with_holes = f"{packed} | cp --sparse=always /dev/stdin {tmp_path}/b.tar"
        for command in (with_holes, f"{packed} | gzip -1 > {tmp_path}/b.tgz"):
            subprocess.run(command, shell=True, check=True)
        # Peak memory of the runner, which is the slot's parent and has unpacked the build.
        runner = "$(awk '{print $4}' /proc/$PPID/stat)"
        lines = [
            'stat -c "%s %b" $NOSEJOBS_BUILD/image', 'tail -c 3 $NOSEJOBS_BUILD/image',
            f"grep VmHWM /proc/{runner}/status",
        ]  # fmt: skip
        job_hosts.write_script(tmp_path / "tests", "test_a.sh", "; echo; ".join(lines))
        for what in (build, tmp_path / "b.tar", tmp_path / "b.tgz"):
            memory = submit_and_harvest(tmp_path, what)
            with zipfile.ZipFile(tmp_path / f"{what.name}.zip") as package:
                row = json.loads(package.read("executions.jsonl"))[2]
            size, blocks, end, _, most, _ = Execution(*row).stdout[0].split()
            assert (int(size), end) == (LARGE, "end"), what
            assert int(blocks) * 512 < LITTLE_DISK, what
            assert max(memory, int(most) << 10) < LITTLE_MEMORY, (what, memory, most)
        taken = subprocess.run(["du", "-sk", tmp_path], capture_output=True, text=True, check=True)
        assert int(taken.stdout.split()[0]) << 10 < 2 * LITTLE_DISK


def submit_and_harvest(home: Path, build: Path) -> int:
    """Submit and harvest; return the peak memory in bytes of the command and its children."""
    command = [
        sys.executable, "-m", "shell_runner.cli.main", "job", "submit", "--host", "popen",
        "--tests", home / "tests", "--build", build, "--wait", "--out", home / f"{build.name}.zip",
    ]  # fmt: skip
    return measure_peak_memory(command, PYTHONPATH=str(CHECKOUT))


# -- a Python that lacks something -----------------------------------------------------------


def test_a_python_without_sqlite(tmp_path: Path) -> None:
    """Some Python interpreters are built without it; only live runs are possible there."""
    (tmp_path / "lame").mkdir()
    (tmp_path / "lame" / "sqlite3.py").write_text("raise ImportError('_sqlite3')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}/lame:{CHECKOUT}"}
    environment["XDG_STATE_HOME"] = environment["XDG_CACHE_HOME"] = str(tmp_path)
    command = [sys.executable, "-m", "shell_runner.cli.main", "job", "list", "--host", "popen"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 6, done.stderr
    assert "host popen: " in done.stderr
    assert "this Python lacks standard library modules: sqlite3" in done.stderr
    assert "Traceback" not in done.stderr


# -- the manual --------------------------------------------------------------------------------


def test_every_state_in_the_manual_has_its_test() -> None:
    """The table in docs/failure.md names only tests that exist, and all tests of this file."""
    docs = CHECKOUT / "docs"
    text = (docs / "failure.md").read_text()
    links = re.findall(r'^\[([\w-]+)\]: (\S+) "(\w+)"$', text, re.MULTILINE)
    table = "".join(line for line in text.splitlines(True) if line.startswith("| "))
    assert links
    for name, path, test in links:
        assert f"[{name}]" in table
        assert f"def {test}(" in (docs / path).read_text(), test
    here = set(re.findall(r"^def (test_\w+)", Path(__file__).read_text(), re.MULTILINE))
    here -= {"test_every_state_in_the_manual_has_its_test"}
    assert here <= {test for _, _, test in links}
