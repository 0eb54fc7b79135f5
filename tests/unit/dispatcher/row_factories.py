"""Factories of rows for tests of the database."""

from sqlalchemy import Connection

from dispatcher import model
from dispatcher.model import BuildEvent, Change, Job, JobEvent, StageEvent, StageRun
from dispatcher.store import builds, changes, jobs, stage_runs


def uuid(number: int) -> str:
    """Return the UUID of a job by number."""
    return f"00000000-0000-4000-8000-{number:012d}"


def add_build(connection: Connection, revision: str = "abc", branch: str = "main") -> int:
    """Add a new build of a new change in the source ``here``; return its id."""
    source = changes.ensure_source(connection, "here", "git")
    change = changes.add(connection, Change(source, branch, revision, seen_at=1.0))
    return builds.add(connection, change, 1.0)


def add_built(connection: Connection, digest: str = "d1", inputs: str = "i1") -> int:
    """Add a build that has an artifact; return its id."""
    build = add_build(connection)
    builds.update_fields(connection, build, inputs_digest=inputs)
    assert builds.apply_event(connection, build, BuildEvent.BEGIN)
    assert builds.apply_event(
        connection, build, BuildEvent.FINISH, artifact_digest=digest, ended_at=2.0
    )
    return build


def add_run(connection: Connection, build: int, stage: str = "unit", number: int = 1) -> int:
    """Add a waiting stage run; return its id."""
    run = stage_runs.add(connection, StageRun(0, build, stage, number))
    assert run is not None
    return run


def add_jobs(connection: Connection, run: int, *hosts: str, attempt: int = 1) -> list[str]:
    """Place a stage run with submitted jobs on hosts; return their UUIDs."""
    stage_runs.apply_event(connection, run, StageEvent.READY)
    assert stage_runs.apply_event(connection, run, StageEvent.PLACE, started_at=3.0)
    first = run * 1000 + attempt * 100
    planned = [
        Job(uuid(first + part), run, host, part, attempt, planned_at=3.0)
        for part, host in enumerate(hosts)
    ]
    assert jobs.plan(connection, planned) == [job.id for job in planned]
    for job in planned:
        assert jobs.apply_event(connection, job.id, JobEvent.ACCEPT, submitted_at=4.0)
    return [job.id for job in planned]


def add_all(connection: Connection) -> tuple[int, int, str]:
    """Add a build, a stage run and a job; return their ids."""
    build = add_built(connection)
    run = add_run(connection, build)
    (job,) = add_jobs(connection, run, "h1")
    return build, run, job


def give_up(connection: Connection, run: int, job: str) -> None:
    """Mark a job as lost, and its stage run as waiting for another host."""
    assert jobs.apply_event(connection, job, JobEvent.LOSE)
    assert stage_runs.apply_event(connection, run, model.StageEvent.PLACE_AGAIN)
