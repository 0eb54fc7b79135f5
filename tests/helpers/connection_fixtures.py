"""A dispatcher's rows, real hosts, and work that tells nothing but how its packages ended."""

from __future__ import annotations

import json
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Collection
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
from shell_runner.remote.jobs.package_reader import open_package
from shell_runner.remote.protocol.job import NewJob
from shell_runner.shipping.tree_scan import SourceTree
from tests.helpers import job_hosts

#: Seconds that anything may take on a machine with much to do.
PATIENCE = 60.0


class FakeWork:
    """Jobs of the tests in a folder; packages go into the database and are gone."""

    def __init__(self, store: Store, tests: Path) -> None:
        self.store, self.tests = store, tests
        #: UUIDs in the order in which they were prepared, and of packages that came.
        self.prepared: list[str] = []
        self.came: list[str] = []
        #: Called first, to be late, to raise, to die.
        self.before_prepare: Callable[[Job], None] = lambda job: None
        self.before_harvest: Callable[[Job], None] = lambda job: None
        self.outcomes: list[results.Harvest] = []

    def prepare(self, job: Job) -> tuple[NewJob, list[SourceTree]]:
        """All tests of the folder."""
        self.prepared.append(job.id)
        self.before_prepare(job)
        ready = job_hosts.prepared(self.tests, job.id)
        return ready.job, list(ready.trees)

    def invalidate(self, job: Job) -> None:
        """It is made anew each time."""

    def record(self, job: Job, package: Path) -> None:
        """Rows of what it says."""
        self.came.append(job.id)
        self.before_harvest(job)
        with open_package(str(package)) as found:
            manifest = found.manifest
            rows = [
                results.ResultRow(number, manifest["tests"][number][0], "passed", "", 0.1)
                for number, _, _ in found.executions()
            ]
        with zipfile.ZipFile(package) as archive:
            assert json.loads(archive.read("manifest.json"))["job"]["id"] == job.id
        digest = _digest(package)
        told = results.Package(digest, manifest["how"], time.time())
        with self.store.write() as connection:
            self.outcomes.append(results.harvested(connection, job.id, told, rows))


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


class Dispatcher:
    """Rows and links, without anybody who decides."""

    def __init__(self, folder: Path, tests: Path, **terms: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.settings = Settings(folder)
        self.store = open_store(folder / "dispatcher.db")
        self.work = FakeWork(self.store, tests)
        self.terms = HostTimeouts(**terms)
        self.links = self._links()
        self._started = False

    def _links(self) -> HostConnections:
        return HostConnections(self.store, self.settings, self.work, self.work, self.terms)

    def start(self) -> Self:
        """Open the hosts."""
        self._started = True
        self.links.start()
        return self

    def restart(self) -> None:
        """As after a stop: rows are all that is left."""
        self.links.close()
        self.links = self._links()
        self.links.start()

    def close(self) -> None:
        """Nothing stays."""
        self.links.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- rows ---------------------------------------------------------------------

    def add_host(self, name: str, spec: str = "popen", **fields: Any) -> None:
        """A host that nobody has seen yet."""
        fields = {"state": HostState.DOWN, **fields}
        with self.store.write() as connection:
            hosts.configure(connection, Host(name, spec, **fields))

    def add_run(self) -> int:
        """A stage run of a build of its own, that may be placed."""
        with self.store.write() as connection:
            source = changes.source(connection, "here", "git")
            change = changes.add(connection, Change(source, "main", uuid.uuid4().hex))
            build = builds.add(connection, change, 1.0)
            builds.move(connection, build, BuildEvent.BEGIN)
            run = stage_runs.add(connection, StageRun(0, build, "unit"))
            assert run is not None
            stage_runs.move(connection, run, StageEvent.READY)
            return run

    def plan(self, *names: str, run: int = 0) -> list[str]:
        """Jobs of a stage run on these hosts, in one transaction."""
        run = run or self.add_run()
        found = [
            Job(str(uuid.uuid4()), run, name, part, planned=time.time())
            for part, name in enumerate(names)
        ]
        with self.store.write() as connection:
            stage_runs.move(connection, run, StageEvent.PLACE, began=time.time())
            return jobs.plan(connection, found)

    def cancel(self, job: str) -> None:
        """Cancel its stage run."""
        with self.store.write() as connection:
            run = self.job(job).stage_run
            assert stage_runs.move(connection, run, StageEvent.CANCEL)

    def give_up(self, job: str) -> None:
        """As after the lease."""
        with self.store.write() as connection:
            assert jobs.move(connection, job, JobEvent.LOSE, detail="given up")

    def job(self, job: str) -> Job:
        """Its row."""
        with self.store.read() as connection:
            found = jobs.get(connection, job)
        assert found is not None
        return found

    def host(self, name: str) -> Host:
        """Its row."""
        with self.store.read() as connection:
            found = hosts.get(connection, name)
        assert found is not None
        return found

    def until(self, what: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Until rows are so; woken by each change."""
        deadline = time.monotonic() + seconds
        while True:
            seen = self.store.changed.now()
            if what():
                return
            left = deadline - time.monotonic()
            assert left > 0, "it does not come to that"
            self.store.changed.wait(seen, min(left, 0.2))

    def until_state(self, job: str, *states: JobState) -> Job:
        """The job in one of these states."""
        self.until(lambda: self.job(job).state in states)
        return self.job(job)

    def until_host(self, name: str, state: HostState) -> Host:
        """The host in that state."""
        self.until(lambda: self.host(name).state is state)
        return self.host(name)


def threads() -> set[str]:
    """Names of those that a link or a session leaves when it is not closed."""
    names = {thread.name for thread in threading.enumerate()}
    return {name for name in names if name.startswith(("connection", "pulse", "open"))}


def assert_no_threads(but: Collection[str] = ()) -> None:
    """One that opened a host ends a moment after the process that it waits for was killed.

    ``but``: those that are somebody else's.
    """
    deadline = time.monotonic() + PATIENCE / 4
    for thread in threading.enumerate():
        if thread.name.startswith("open"):
            thread.join(max(deadline - time.monotonic(), 0.0))
    assert threads() <= set(but)
