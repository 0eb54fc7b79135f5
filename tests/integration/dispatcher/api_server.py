"""A database with rows in it, and the API over it, on a free port."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection

from dispatcher import model
from dispatcher.configuration import pipeline, settings
from dispatcher.model import BuildEvent, Job, JobEvent, StageEvent, StageRun
from dispatcher.store import (
    Store,
    builds,
    changes,
    hosts,
    jobs,
    open_engine,
    open_store,
    results,
    stage_runs,
    tags,
)
from dispatcher.store.results import CaseRow, MeasurementRow, Package, ResultRow
from dispatcher.web.app import Server, create

SECRET = "s" * 64
TREE = """
[stages.unit]
[stages.smoke]
gate = "manual"
[stages.regression]
[levels]
published = ["unit", "smoke"]
ship = ["unit", "smoke", "regression", "audit"]
[stages.audit]
needs = []
"""
SETTINGS = """
[sources.app]
git = "/srv/app.git"
[hosts.h1]
spec = "popen"
"""


class Service:
    """What stands behind the API, as far as it is asked."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.store = store
        self.settings = settings.parse(SETTINGS, folder)
        self.poked: list[str] = []

    def poke(self, source: str) -> None:
        """Remember it."""
        self.poked.append(source)

    def package(self, digest: str) -> Path | None:
        """A file named after it."""
        path = self.settings.data / digest
        return path if path.is_file() else None


class Served(NamedTuple):
    """A running one."""

    url: str
    store: Store
    service: Service
    server: Server


def database(folder: Path) -> Path:
    """An empty one; the first takes longer than its copies."""
    path = folder / "empty.db"
    open_store(path).close()
    return path


@contextmanager
def serving(folder: Path, empty: Path) -> Iterator[Served]:
    """The API over an empty database."""
    shutil.copy(empty, folder / "dispatcher.db")
    store = Store(open_engine(folder / "dispatcher.db"))
    service = Service(folder, store)
    service.settings.data.mkdir()
    server = Server(create(service, service.package, SECRET), "127.0.0.1", 0)
    server.start()
    try:
        yield Served(server.url, store, service, server)
    finally:
        server.stop()
        store.close()


def uuid(number: int) -> str:
    """The UUID of a test's job."""
    return f"00000000-0000-4000-8000-{number:012d}"


def add_build(
    connection: Connection, revision: str = "abcd" * 10, tree: str = TREE, **change: Any
) -> int:
    """A build in the source app whose stages have their first runs."""
    source = changes.source(connection, "app", "git")
    told = {"author": "Ann", "subject": "more", **change}
    now = time.time()
    number = changes.add(connection, model.Change(source, "main", revision, seen=now, **told))
    build = builds.add(connection, number, now)
    parsed = pipeline.parse(tree)
    builds.describe(connection, build, config=parsed.data, tree="t1")
    assert builds.move(connection, build, BuildEvent.REUSE, digest="d1", size=1200, ended=now)
    for stage in parsed.stages:
        digest = pipeline.stage_digest(stage)
        assert stage_runs.add(connection, StageRun(0, build, stage.name, config=digest))
    return build


def run_of(connection: Connection, build: int, stage: str) -> StageRun:
    """The last run of a stage."""
    return [run for run in stage_runs.of_build(connection, build) if run.stage == stage][-1]


def begin(connection: Connection, build: int, stage: str, *names: str) -> list[str]:
    """A run with a submitted job on each host; the UUIDs."""
    run = run_of(connection, build, stage)
    stage_runs.move(connection, run.id, StageEvent.READY)
    assert stage_runs.move(connection, run.id, StageEvent.PLACE, began=time.time())
    planned = [
        Job(uuid(run.id * 100 + part), run.id, name, part, planned=time.time())
        for part, name in enumerate(names)
    ]
    jobs.plan(connection, planned)
    for job in planned:
        assert jobs.move(connection, job.id, JobEvent.ACCEPT, submitted=time.time())
    return [job.id for job in planned]


def finish(
    connection: Connection, build: int, stage: str, *, failed: str = "", package: str = "p1"
) -> str:
    """A run of a stage on host h1, from its beginning to its verdict; the UUID of its job."""
    (job,) = begin(connection, build, stage, "h1")
    rows = [ResultRow(0, "test_a.sh", "passed", "exit 0", 0.5)]
    if failed:
        rows.append(ResultRow(1, failed, "failed", "exit 3", 0.25))
    cases = [CaseRow(0, 0, "adds", "passed")]
    numbers = [MeasurementRow(0, -1, "rate", 1234.5, "1/s")]
    found = Package(f"{package}-{job[-4:]}", "completed", time.time())
    assert results.harvested(connection, job, found, rows, cases, numbers) == "new"
    event = StageEvent.FAIL if failed else StageEvent.PASS
    run = run_of(connection, build, stage)
    detail = "1 of 2 tests failed" if failed else ""
    assert stage_runs.move(connection, run.id, event, detail=detail, ended=time.time())
    if not failed:
        give(connection, build, run, job)
    return job


def give(connection: Connection, build: int, run: StageRun, job: str) -> None:
    """The tag of a run that has passed."""
    tag = model.Tag(0, build, "d1", run.stage, run.config, run.id, (job,), given=time.time())
    assert tags.give_tag(connection, tag)


def harvest(connection: Connection, job: str, package: str) -> None:
    """A package with one test that has passed."""
    rows = [ResultRow(0, "test_a.sh", "passed", "exit 0", 0.5)]
    found = Package(package, "completed", time.time())
    assert results.harvested(connection, job, found, rows) == "new"


def add_host(connection: Connection, name: str = "h1", **more: Any) -> None:
    """A host that is up."""
    told = {"spec": "popen", "labels": ("linux",), "seen": time.time(), **more}
    hosts.configure(connection, model.Host(name, **told))
