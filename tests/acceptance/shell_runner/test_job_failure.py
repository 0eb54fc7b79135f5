"""Tests of kills of every process at every step: no job is lost, and every attempt is recorded.

There is a test for each cell of the table in docs/failure.md, with a real agent, kill -9, and
a host whose power is cut.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shell_runner.hosts.spec import parse_specs
from shell_runner.jobs.client import JobClient
from shell_runner.remote.files import state_dirs
from shell_runner.remote.jobs.queue import Queue
from tests.helpers.namespace_host import CONTINUE, KILL, STOP, TIMEOUT, NamespaceHost, issue_bundles

STEPS = (
    "submitted", "unpacking", "installing", "testing", "packaging", "harvesting", "unacknowledged",
)  # fmt: skip
VICTIMS = ("submitter", "worker", "agent", "slot", "reboot")
#: Cells without such a process: there is no slot during unpacking and packaging.
NOBODY = {("slot", "unpacking"), ("slot", "packaging")}
#: Cells in which the attempt of the job is lost, and another one follows.
LOST = {
    (victim, step)
    for victim in ("worker", "reboot")
    for step in ("unpacking", "installing", "testing")
} | {("slot", "installing")}
CELLS = [(victim, step) for victim in VICTIMS for step in STEPS if (victim, step) not in NOBODY]
TESTS = 6


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder with the certificates of a fleet."""
    with issue_bundles(tmp_path_factory.mktemp("fleet")) as folder:
        yield folder


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive that takes a moment to unpack."""
    path = tmp_path_factory.mktemp("build") / "build.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(6000):
            name = tarfile.TarInfo(f"lib/{number % 50}/file{number}.txt")
            name.size = 2000
            tar.addfile(name, io.BytesIO(b"x" * 2000))
    return path


@pytest.fixture
def machine(tmp_path: Path, fleet: Path) -> Iterator[NamespaceHost]:
    """Yield a running host, and its user."""
    with NamespaceHost(tmp_path, fleet) as host:
        # An idle worker exits at once; each test waits for that.
        folder = Path(state_dirs.host_folder(str(tmp_path / "state" / "nosejobs"))) / "jobs"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with Queue(str(folder)) as queue:
            queue.set_setting("linger", 0)
        yield host


@dataclass
class Scene:
    """A job that is brought to the step at which a process is killed."""

    machine: NamespaceHost
    archive: Path
    victim: str
    step: str

    def __post_init__(self) -> None:
        self.folder = self.machine.folder
        #: File outside of all workspaces to which each test and install command appends its name.
        self.ran = self.folder / "ran"
        #: File for which waiting programs of the host wait.
        self.go = self.folder / "go"
        self.client: subprocess.Popen[str] | None = None

    # -- jobs ---------------------------------------------------------------------

    def write_tests(self, name: str, slow: bool, artifacts: int) -> Path:
        """Write tests that record that they ran and leave artifacts; the last one waits if
        ``slow``.
        """
        folder = self.folder / name
        folder.mkdir()
        for number in range(TESTS):
            lines = ["#!/bin/sh", f'echo "$NOSEJOBS_ATTEMPT test_{number}.sh" >> {self.ran}']
            if artifacts:
                out = "$TEST_UNDECLARED_OUTPUTS_DIR"
                lines.append(f"head -c {artifacts} /dev/urandom > {out}/noise")
            if slow and number == TESTS - 1:
                # The process ends by itself if it is not killed.
                lines += [f"(setsid sleep {TIMEOUT} &)", f"echo begun > {self.folder}/begun"]
                lines.append(_await(self.go))
            path = folder / f"test_{number}.sh"
            path.write_text("\n".join([*lines, "echo fine"]) + "\n")
            path.chmod(0o755)
        return folder

    def submit_blocker(self) -> str:
        """Submit a job that keeps worker and slot busy until ``go`` exists; return its UUID."""
        install = f'echo "$NOSEJOBS_ATTEMPT block" >> {self.ran}; {_await(self.go)}'
        tests = self.write_tests("other", slow=False, artifacts=0)
        job = self.machine.submit("--tests", tests, "--install", install, "--name", "blocker")
        self.machine.wait_for("the blocker", lambda: "block" in self.read_record())
        return job

    def read_record(self) -> str:
        """Return the record of what ran."""
        return self.ran.read_text() if self.ran.exists() else ""

    def begin_job(self) -> str:
        """Submit the job of the test by a command that waits for its end; return its UUID."""
        slow = self.step == "testing"
        noise = 3 << 20 if self.step in ("packaging", "harvesting") else 1000
        arguments: list[object] = ["--tests", self.write_tests("tests", slow, noise), "--wait"]
        if self.step == "unpacking":
            arguments += ["--build", self.archive]
        if self.step == "installing":
            begun = f"echo begun > {self.folder}/begun"
            arguments += ["--install", f"{begun}; {_await(self.go)}"]
        self.client = self.machine.start_command(
            "submit", "--slots", 2, "--name", "scene", *arguments
        )
        return self._id()

    def _id(self) -> str:
        names = "SELECT id FROM job WHERE name = 'scene'"
        ids: list[str] = []

        def look() -> bool:
            try:
                ids[:] = [row[0] for row in self.machine.query(names)]
            except Exception:  # the queue is being made
                ids.clear()
            return bool(ids)

        self.machine.wait_for("the job", look)
        return ids[0]

    # -- bringing it to its step --------------------------------------------------

    def prepare(self) -> str:
        """Bring the job to its step, where it stays until ``proceed``; return its UUID."""
        return getattr(self, f"_at_{self.step}")()  # type: ignore[no-any-return]

    def _at_submitted(self) -> str:
        self.submit_blocker()
        job = self.begin_job()
        assert self.machine.get_state(job) == "queued"
        return job

    def _at_unpacking(self) -> str:
        return self._freeze("unpacking", "work/*/build/lib/*/*.txt")

    def _at_packaging(self) -> str:
        return self._freeze("packaging", "packages/*")

    def _freeze(self, step: str, sign: str) -> str:
        """Stop the runner while it is in the middle of a step."""
        job = self.begin_job()
        self.machine.wait_for(step, lambda: self.machine.get_phase(job) == step)
        self.machine.wait_for(sign, lambda: any(self.machine.queue_folder.glob(sign)))
        assert self.machine.send_signal(self.machine.runner_pid, STOP)
        assert self.machine.get_phase(job) == step
        return job

    def _at_installing(self) -> str:
        return self._wait_for_begin()

    def _at_testing(self) -> str:
        job = self._wait_for_begin()
        done = "SELECT count(*) FROM execution"
        self.machine.wait_for("the others", lambda: self.machine.query(done) == [(TESTS - 1,)])
        return job

    def _wait_for_begin(self) -> str:
        job = self.begin_job()
        self.machine.wait_for("its begin", (self.folder / "begun").exists)
        assert self.machine.get_phase(job) == self.step
        return job

    def _at_harvesting(self) -> str:
        job = self._complete_job()
        self.client = self.machine.start_command("harvest", job)
        self.machine.wait_for("the first bytes", lambda: self._size() > 0)
        self.client.send_signal(STOP)
        size = self.machine.query("SELECT package_size FROM job WHERE id = ?", job)[0][0]
        assert 0 < self._size() < size
        return job

    def _size(self) -> int:
        here = self.folder / "here"
        return max((path.stat().st_size for path in here.glob("*.part")), default=0)

    def _at_unacknowledged(self) -> str:
        job = self._complete_job()
        self.machine.run_command("harvest", job, "--no-ack")
        assert self.machine.get_state(job) == "ready"
        return job

    def _complete_job(self) -> str:
        """Complete the job, end its client, and keep worker and slot busy by another job."""
        job = self.begin_job()
        self.machine.wait_for("the package", lambda: self.machine.get_state(job) == "ready")
        self._end_client()
        self.submit_blocker()
        return job

    def _end_client(self) -> None:
        if self.client is not None:
            self.client.kill()
            self.client.communicate()
            for path in (self.folder / "here").iterdir():
                path.unlink()
        self.client = None

    # -- what happens -------------------------------------------------------------

    def kill(self) -> None:
        """Kill the victim as ``kill -9`` or a power cut does."""
        machine = self.machine
        if self.victim == "submitter":
            if self.client is not None:
                self.client.kill()
        elif self.victim == "reboot":
            machine.power_off()
            machine.boot()
        else:
            pid = {"worker": machine.worker_pid, "agent": machine._agent, "slot": 0}[self.victim]
            assert machine.send_signal(pid or machine.slot_pid, KILL)

    def proceed(self) -> None:
        """Let the waiting programs continue; start missing daemons as an init system does."""
        self.machine.start_agent()
        self.go.touch()
        for pid, _, arguments in self.machine.list_processes():
            if any("worker" in word for word in arguments):
                self.machine.send_signal(pid, CONTINUE)
        if self.client is not None:
            self.client.send_signal(CONTINUE)
            self.client.communicate(timeout=TIMEOUT)


def _await(path: Path) -> str:
    return f"while [ ! -e {path} ]; do sleep 0.02; done"


@pytest.mark.parametrize(("victim", "step"), CELLS, ids=lambda value: str(value))
def test_kill(victim: str, step: str, machine: NamespaceHost, archive: Path) -> None:
    scene = Scene(machine, archive, victim, step)
    job = scene.prepare()
    scene.kill()
    scene.proceed()
    # The request starts a worker if none is alive.
    digests = [_harvest(machine, job), _harvest_again(machine, job)]

    # Each download has the same package.
    assert (
        digests[0]
        == digests[1]
        == machine.query("SELECT package_digest FROM job WHERE id=?", job)[0][0]
    )
    assert machine.get_state(job) == "harvested"
    _check_package(machine, job, victim, step)
    _check_record(scene)
    # No job is lost: the other one is completed, too.
    machine.wait_for("the worker's leaving", lambda: not machine.list_other_processes())
    assert {row[0] for row in machine.query("SELECT state FROM job")} <= {"ready", "harvested"}
    assert machine.query("SELECT count(*) FROM worker") == [(0,)]


def _harvest(machine: NamespaceHost, job: str) -> str:
    """Harvest as a user does; return the digest of the package."""
    out = machine.folder / "1.zip"
    process = machine.start_command("harvest", job, "--wait", "--out", out)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode in (0, 1, 6), err
    assert _is_sound(out)
    return hashlib.sha256(out.read_bytes()).hexdigest()


def _harvest_again(machine: NamespaceHost, job: str) -> str:
    """Harvest again as a program does; return the digest of the package."""
    out = machine.folder / "2.zip"
    with JobClient(parse_specs([machine.spec], {})[0]) as client:
        client.download(job, out, lambda path: None)
    return hashlib.sha256(out.read_bytes()).hexdigest()


def _is_sound(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is None


def _check_package(machine: NamespaceHost, job: str, victim: str, step: str) -> None:
    with zipfile.ZipFile(machine.folder / "1.zip") as archive:
        manifest = json.loads(archive.read("manifest.json"))
        rows = [json.loads(line) for line in archive.read("executions.jsonl").splitlines()]
    # Every test is accounted for.
    assert [row[0] for row in rows] == list(range(TESTS))
    assert len(manifest["tests"]) == TESTS
    attempts = machine.query(
        "SELECT attempt.number, phase FROM attempt JOIN job ON job.number = attempt.job "
        "WHERE job.id = ? ORDER BY attempt.number",
        job,
    )
    lost = (victim, step) in LOST
    assert attempts == ([(1, "lost"), (2, "ended")] if lost else [(1, "ended")])
    assert manifest["end_reason"] == "completed"
    # A killed slot is an error of the test that it was running, and of no other test.
    problems = [row[2][8] for row in rows if row[2][5] != 0]
    assert problems == (["slot-died"] if (victim, step) == ("slot", "testing") else [])


def _check_record(scene: Scene) -> None:
    """Check that nothing ran twice in one attempt, and that the queue has each attempt."""
    ran = Counter(scene.read_record().splitlines())
    assert ran
    assert set(ran.values()) == {1}, ran
    known = {row[0] for row in scene.machine.query("SELECT id FROM attempt")}
    assert {line.split()[0] for line in ran} <= known


def test_every_cell_is_in_the_manual() -> None:
    """The table in docs/failure.md names this test for each cell, or says why there is none."""
    text = (Path(__file__).parents[3] / "docs" / "failure.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("| ")]
    for victim in VICTIMS:
        rows = [line for line in table if re.match(rf"\| {victim}\b", line)]
        (row,) = [line for line in rows if f"[{victim}-{STEPS[0]}]" in line]
        for step in STEPS:
            assert f"[{victim}-{step}]" in row or (victim, step) in NOBODY, (victim, step)
