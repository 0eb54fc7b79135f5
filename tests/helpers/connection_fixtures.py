"""A dispatcher's database and its connections to real hosts, without reconciler and policy."""

from __future__ import annotations

import json
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from dispatcher.configuration.settings import Settings
from dispatcher.hosts.connections import HostConnections
from dispatcher.hosts.job_steps import HostTimeouts
from dispatcher.model import (
    BuildEvent,
    Change,
    Host,
    HostState,
    Job,
    JobEvent,
    JobState,
    StageEvent,
    StageRun,
)
from dispatcher.store import Store, builds, changes, hosts, jobs, open_store, results, stage_runs
from shell_runner.remote.jobs.result_package_reader import open_package
from shell_runner.remote.protocol.job import NewJob
from shell_runner.shipping.tree_scan import SourceTree
from tests.helpers import job_hosts

#: Seconds to wait for any event, on a busy machine.
WAIT_TIMEOUT = 60.0


class FakeWork:
    """A builder of jobs from the tests in a folder, and a recorder that stores rows only."""

    def __init__(self, store: Store, tests: Path) -> None:
        self.store, self.tests = store, tests
        #: Ids of jobs in the order in which they were prepared, and of recorded packages.
        self.prepared: list[str] = []
        self.recorded: list[str] = []
        #: Called first, so that a test can delay, raise or kill.
        self.before_prepare: Callable[[Job], None] = lambda job: None
        self.before_record: Callable[[Job], None] = lambda job: None
        self.outcomes: list[results.HarvestOutcome] = []

    def prepare(self, job: Job) -> tuple[NewJob, list[SourceTree]]:
        """Return a job of all tests in the folder."""
        self.prepared.append(job.id)
        self.before_prepare(job)
        ready = job_hosts.prepare_job(self.tests, job.id)
        return ready.job, list(ready.trees)

    def invalidate(self, job: Job) -> None:
        """Do nothing: each job is read from the files again."""

    def record(self, job: Job, package: Path) -> None:
        """Write the rows of a package."""
        self.recorded.append(job.id)
        self.before_record(job)
        with open_package(str(package)) as opened:
            manifest = opened.manifest
            rows = [
                results.ResultRow(number, manifest["tests"][number][0], "passed", "", 0.1)
                for number, _, _ in opened.read_executions()
            ]
        with zipfile.ZipFile(package) as archive:
            assert json.loads(archive.read("manifest.json"))["job"]["id"] == job.id
        digest = _digest(package)
        entry = results.PackageInfo(digest, manifest["end_reason"], time.time())
        with self.store.write() as connection:
            self.outcomes.append(results.record_package(connection, job.id, entry, rows))


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


class ConnectionHarness:
    """A database and the connections to its hosts; the test decides what is planned."""

    def __init__(self, folder: Path, tests: Path, **timeouts: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.settings = Settings(folder)
        self.store = open_store(folder / "dispatcher.db")
        self.work = FakeWork(self.store, tests)
        self.timeouts = HostTimeouts(**timeouts)
        self.connections = self.new_connections()
        self._started = False

    def new_connections(self) -> HostConnections:
        """Return connections that are not started, as a new process has them."""
        return HostConnections(self.store, self.settings, self.work, self.work, self.timeouts)

    def set_timeouts(self, **timeouts: Any) -> None:
        """Replace timeouts; call it before ``start``."""
        self.timeouts = replace(self.timeouts, **timeouts)
        self.connections = self.new_connections()

    def start(self) -> Self:
        """Connect to the hosts."""
        self._started = True
        self.connections.start()
        return self

    def restart(self) -> None:
        """Replace the connections, as a new process does."""
        self.connections.close()
        self.connections = self.new_connections()
        self.connections.start()

    def close(self) -> None:
        """Close connections and database."""
        self.connections.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- rows ---------------------------------------------------------------------

    def add_host(self, name: str, spec: str = "popen", **fields: Any) -> None:
        """Write the row of a host that has not answered yet."""
        fields = {"state": HostState.DOWN, **fields}
        with self.store.write() as connection:
            hosts.configure(connection, Host(name, spec, **fields))

    def add_run(self) -> int:
        """Write a build and a stage run of it that can be placed, and return the run's id."""
        with self.store.write() as connection:
            source = changes.ensure_source(connection, "here", "git")
            change = changes.add(connection, Change(source, "main", uuid.uuid4().hex))
            build = builds.add(connection, change, 1.0)
            builds.apply_event(connection, build, BuildEvent.BEGIN)
            run = stage_runs.add(connection, StageRun(0, build, "unit"))
            assert run is not None
            stage_runs.apply_event(connection, run, StageEvent.READY)
            return run

    def plan(self, *names: str, run: int = 0) -> list[str]:
        """Plan a job on each of these hosts, all of one stage run, and return their ids."""
        run = run or self.add_run()
        rows = [
            Job(str(uuid.uuid4()), run, name, part, planned_at=time.time())
            for part, name in enumerate(names)
        ]
        with self.store.write() as connection:
            stage_runs.apply_event(connection, run, StageEvent.PLACE, started_at=time.time())
            return jobs.plan(connection, rows)

    def cancel(self, job: str) -> None:
        """Cancel the stage run of a job."""
        with self.store.write() as connection:
            run = self.job(job).stage_run
            assert stage_runs.apply_event(connection, run, StageEvent.CANCEL)

    def give_up(self, job: str) -> None:
        """Mark a job as lost, as after the lease."""
        with self.store.write() as connection:
            assert jobs.apply_event(connection, job, JobEvent.LOSE, detail="given up")

    def job(self, job: str) -> Job:
        """Return the row of a job."""
        with self.store.read() as connection:
            row = jobs.get(connection, job)
        assert row is not None
        return row

    def host(self, name: str) -> Host:
        """Return the row of a host."""
        with self.store.read() as connection:
            row = hosts.get(connection, name)
        assert row is not None
        return row

    def wait_until(self, condition: Callable[[], bool], seconds: float = WAIT_TIMEOUT) -> None:
        """Wait until ``condition`` is true; check it after each change of the rows."""
        deadline = time.monotonic() + seconds
        while True:
            change_count = self.store.changed.count()
            if condition():
                return
            left = deadline - time.monotonic()
            assert left > 0, "timeout"
            self.store.changed.wait(change_count, min(left, 0.2))

    def wait_for_state(self, job: str, *states: JobState) -> Job:
        """Wait until a job is in one of these states, and return its row."""
        self.wait_until(lambda: self.job(job).state in states)
        return self.job(job)

    def wait_for_host(self, name: str, state: HostState) -> Host:
        """Wait until a host is in this state, and return its row."""
        self.wait_until(lambda: self.host(name).state is state)
        return self.host(name)


def connection_threads() -> set[str]:
    """Return the names of the threads that a connection or session leaves if it is not closed."""
    names = {thread.name for thread in threading.enumerate()}
    return {name for name in names if name.startswith(("connection", "pulse", "open"))}


def assert_no_threads(ignored: Collection[str] = ()) -> None:
    """Check that no thread of a connection is left, except those in ``ignored``.

    A thread that opens a host ends a moment after the process that it waits for was killed.
    """
    deadline = time.monotonic() + WAIT_TIMEOUT / 4
    for thread in threading.enumerate():
        if thread.name.startswith("open"):
            thread.join(max(deadline - time.monotonic(), 0.0))
    assert connection_threads() <= set(ignored)
