"""Store the result package of a job: the file by its digest, and its rows in one transaction.

A package comes from a host and is not trusted: it must be about the tests and the build that the
host was given.  Recording can be repeated; the rows of a package are written once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection

from shell_runner.errors import HostError
from shell_runner.remote.jobs.result_package_reader import Package

from .. import model
from ..builds import build_artifact
from ..builds.blob_store import BlobStore
from ..store import Store, changes, durations, results, stage_runs
from ..store import builds as build_rows
from . import package_rows
from .job_builder import JobBuilder, job_fingerprint


class ResultRecorder:
    """A recorder that verifies and stores the packages of jobs."""

    def __init__(
        self,
        store: Store,
        blobs: BlobStore,
        builder: JobBuilder,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._blobs, self._builder, self._clock = store, blobs, builder, clock

    def record(self, job: model.Job, package: Path) -> None:
        """Verify and store a package, with all its rows, in one transaction.

        The file is moved into the store.  Raises HostError if the package is invalid, or is about
        other tests or another build than the job.
        """
        with package_rows.open_verified(package, job.host, job.id) as opened:
            self._check(job, opened)
            found = package_rows.read_rows(opened, job.id)
            if self._is_build(job):
                _mark_lost_output(found, opened)
        blob = self._blobs.take(package)
        entry = results.PackageInfo(blob.digest, found.end_reason, self._clock(), found.detail)
        with self._store.write() as connection:
            outcome = results.record_package(
                connection, job.id, entry, found.results, found.cases, found.measurements
            )
            if outcome is results.HarvestOutcome.NEW and found.durations:
                _record_durations(connection, job, found.durations)

    def _is_build(self, job: model.Job) -> bool:
        with self._store.read() as connection:
            run = stage_runs.get(connection, job.stage_run)
        return run is not None and run.stage == model.BUILD

    def _check(self, job: model.Job, package: Package) -> None:
        """Raise HostError if the package is about other tests or another build than the job."""
        if job.state is model.JobState.LOST:
            return  # the package is kept as evidence and gives no tag
        expected = self._builder.take_fingerprint(job)
        manifest = package.manifest
        nodeids = [row[0] for row in manifest["tests"]]
        contents = manifest.get("content"), manifest.get("build")
        if expected and expected != job_fingerprint(*contents, nodeids):
            reason = f"the package of job {job.id} is about other tests, or another build"
            raise HostError(job.host, reason, "check the host; nothing was acknowledged")


def _mark_lost_output(rows: package_rows.PackageRows, package: Package) -> None:
    """Turn the result of a build whose output the host has lost into an infrastructure error."""
    reason = build_artifact.find_lost_output(package)
    if reason:
        rows.results = [
            row._replace(outcome="error", message=reason, infrastructure=True)
            for row in rows.results
        ]


def _record_durations(connection: Connection, job: model.Job, seconds: dict[str, float]) -> None:
    run = stage_runs.get(connection, job.stage_run)
    build = run and build_rows.get(connection, run.build)
    change = build and changes.get(connection, build.change)
    if run and change:
        durations.record(connection, change.source, run.stage, seconds)
