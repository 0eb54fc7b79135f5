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
from dispatcher.store.results import CaseRow, MeasurementRow, PackageInfo, ResultRow
from dispatcher.web.server import Server, create_app

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


class FakeService:
    """The part of a dispatcher that the API uses."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.store = store
        self.settings = settings.parse(SETTINGS, folder)
        self.poked: list[str] = []

    def poke(self, source: str) -> None:
        """Record the call."""
        self.poked.append(source)

    def package(self, digest: str) -> Path | None:
        """Return the path of a package, which is named after its digest."""
        path = self.settings.data / digest
        return path if path.is_file() else None


class RunningApi(NamedTuple):
    """A running API and what it uses."""

    url: str
    store: Store
    service: FakeService
    server: Server


def create_database(folder: Path) -> Path:
    """Return an empty database; creating it takes longer than copying it."""
    path = folder / "empty.db"
    open_store(path).close()
    return path


@contextmanager
def run_api(folder: Path, empty: Path) -> Iterator[RunningApi]:
    """Run the API over an empty database."""
    shutil.copy(empty, folder / "dispatcher.db")
    store = Store(open_engine(folder / "dispatcher.db"))
    service = FakeService(folder, store)
    service.settings.data.mkdir()
    server = Server(create_app(service, service.package, SECRET), "127.0.0.1", 0)
    server.start()
    try:
        yield RunningApi(server.url, store, service, server)
    finally:
        server.stop()
        store.close()


def uuid(number: int) -> str:
    """Return the UUID of the job with a number."""
    return f"00000000-0000-4000-8000-{number:012d}"


def add_build(
    connection: Connection, revision: str = "abcd" * 10, tree: str = TREE, **change: Any
) -> int:
    """Add a build of the source app whose stages have their first runs; return its number."""
    source = changes.ensure_source(connection, "app", "git")
    fields = {"author": "Ann", "subject": "more", **change}
    now = time.time()
    number = changes.add(connection, model.Change(source, "main", revision, seen_at=now, **fields))
    build = builds.add(connection, number, now)
    parsed = pipeline.parse(tree)
    builds.update_fields(connection, build, config=parsed.as_json, tree_digest="t1")
    assert builds.apply_event(
        connection, build, BuildEvent.REUSE, artifact_digest="d1", artifact_size=1200, ended_at=now
    )
    for stage in parsed.stages:
        digest = pipeline.stage_digest(stage)
        assert stage_runs.add(connection, StageRun(0, build, stage.name, config_digest=digest))
    return build


def newest_run(connection: Connection, build: int, stage: str) -> StageRun:
    """Return the newest run of a stage."""
    return [run for run in stage_runs.list_by_build(connection, build) if run.stage == stage][-1]


def start_stage(connection: Connection, build: int, stage: str, *names: str) -> list[str]:
    """Start a stage with a submitted job on each host; return the UUIDs."""
    run = newest_run(connection, build, stage)
    stage_runs.apply_event(connection, run.id, StageEvent.READY)
    assert stage_runs.apply_event(connection, run.id, StageEvent.PLACE, started_at=time.time())
    planned = [
        Job(uuid(run.id * 100 + part), run.id, name, part, planned_at=time.time())
        for part, name in enumerate(names)
    ]
    jobs.plan(connection, planned)
    for job in planned:
        assert jobs.apply_event(connection, job.id, JobEvent.ACCEPT, submitted_at=time.time())
    return [job.id for job in planned]


def finish_stage(
    connection: Connection, build: int, stage: str, *, failed: str = "", package: str = "p1"
) -> str:
    """Run a stage on host h1 up to its verdict; return the UUID of its job."""
    (job,) = start_stage(connection, build, stage, "h1")
    rows = [ResultRow(0, "test_a.sh", "passed", "exit 0", 0.5)]
    if failed:
        rows.append(ResultRow(1, failed, "failed", "exit 3", 0.25))
    cases = [CaseRow(0, 0, "adds", "passed")]
    numbers = [MeasurementRow(0, -1, "rate", 1234.5, "1/s")]
    package = PackageInfo(f"{package}-{job[-4:]}", "completed", time.time())
    assert results.record_package(connection, job, package, rows, cases, numbers) == "new"
    event = StageEvent.FAIL if failed else StageEvent.PASS
    run = newest_run(connection, build, stage)
    detail = "1 of 2 tests failed" if failed else ""
    assert stage_runs.apply_event(connection, run.id, event, detail=detail, ended_at=time.time())
    if not failed:
        add_tag(connection, build, run, job)
    return job


def add_tag(connection: Connection, build: int, run: StageRun, job: str) -> None:
    """Add the tag of a run that has passed."""
    tag = model.Tag(
        0, build, "d1", run.stage, run.config_digest, run.id, (job,), granted_at=time.time()
    )
    assert tags.grant_tag(connection, tag)


def harvest_job(connection: Connection, job: str, package: str) -> None:
    """Record a package with one test that has passed."""
    rows = [ResultRow(0, "test_a.sh", "passed", "exit 0", 0.5)]
    package = PackageInfo(package, "completed", time.time())
    assert results.record_package(connection, job, package, rows) == "new"


def add_host(connection: Connection, name: str = "h1", **more: Any) -> None:
    """Add a host that is up."""
    fields = {"spec": "popen", "labels": ("linux",), "last_seen_at": time.time(), **more}
    hosts.configure(connection, model.Host(name, **fields))
