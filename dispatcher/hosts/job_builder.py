"""Build the job of a row: its tests, settings and environment, and the trees that it needs.

A row results in the same job whenever it is prepared.  Must not know how a host is reached.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from shell_runner.config import HostEntry
from shell_runner.errors import InvalidHostSpec, NosejobsError, UsageError
from shell_runner.hosts import spec as specs
from shell_runner.jobs.client import make_job
from shell_runner.remote import formats
from shell_runner.remote.protocol.job import Content, JobConfig, JobTest, NewJob
from shell_runner.remote.protocol.model import is_digest
from shell_runner.shipping.tree_scan import SourceTree

from .. import model
from ..builds import build_artifact, checkout_reader
from ..builds.blob_store import Blob, BlobStore
from ..builds.checkout_cache import Checkout, CheckoutCache
from ..configuration import pipeline
from ..configuration.pipeline import Mode, Stage
from ..store import Store, changes, durations, hosts, jobs, stage_runs
from ..store import builds as build_rows

#: Names of all built-in output formats, without options.
_FORMATS = tuple((name, "") for name in formats.BUILTIN_NAMES)
#: Addresses that are accepted from a host: they are passed to other hosts, separated by commas.
_ADDRESS = re.compile(r"[A-Za-z0-9_.:%\[\]-]{1,255}")
#: Fingerprints that are kept; without its fingerprint a job is prepared again to compare it.
_MAX_FINGERPRINTS = 10_000


@dataclass(frozen=True)
class _JobRows:
    """The rows that a job depends on."""

    job: model.Job
    run: model.StageRun
    build: model.Build
    change: model.Change
    source: str
    host: model.Host
    #: Hosts of all parts of this attempt of the stage, its own among them, in order.
    peers: tuple[model.Host, ...] = ()
    #: Seconds that each test usually takes, by node id.
    durations: dict[str, float] | None = None


class JobBuilder:
    """A builder of jobs from rows."""

    def __init__(self, store: Store, checkouts: CheckoutCache, blobs: BlobStore) -> None:
        self._store, self._checkouts, self._blobs = store, checkouts, blobs
        #: Fingerprint of the contents that a host was given, by job.
        self._fingerprints: dict[str, str] = {}
        self._lock = threading.Lock()

    def prepare(self, job: model.Job) -> tuple[NewJob, Sequence[SourceTree]]:
        """Return the job of a row, and the trees that its host needs.

        Raises UsageError if the job cannot be run at all.
        """
        new, trees = self._prepare(job)
        with self._lock:
            self._fingerprints[job.id] = job_fingerprint(
                new.tests, new.build, [each.nodeid for each in new.cases]
            )
            while len(self._fingerprints) > _MAX_FINGERPRINTS:
                del self._fingerprints[next(iter(self._fingerprints))]
        return new, trees

    def _prepare(self, job: model.Job) -> tuple[NewJob, Sequence[SourceTree]]:
        rows = self._read_rows(job)
        checkout = self._checkouts.get(rows.source, rows.change.revision, rows.build.tree_digest)
        config = pipeline.from_json(rows.build.config or {})
        if rows.run.stage == model.BUILD:
            return _make_build_job(rows, config, checkout)
        stage = config.stage(rows.run.stage)
        if stage is None:
            raise UsageError(f"build {rows.build.id} has no stage {rows.run.stage}")
        return self._make_stage_job(rows, config, stage, checkout)

    def _read_rows(self, job: model.Job) -> _JobRows:
        with self._store.read() as connection:
            run = stage_runs.get(connection, job.stage_run)
            build = run and build_rows.get(connection, run.build)
            change = build and changes.get(connection, build.change)
            host = hosts.get(connection, job.host)
            if not (run and build and change and host):
                reason = f"its host {job.host} or its build does not exist any more"
                raise UsageError(f"job {job.id}: {reason}")
            names = {each.id: each.name for each in changes.list_sources(connection)}
            others = [j for j in jobs.list_by_run(connection, run.id) if j.attempt == job.attempt]
            known = {each.name: each for each in hosts.list_all(connection)}
            peers = tuple(known[each.host] for each in others if each.host in known)
            seconds = durations.mean_seconds(connection, change.source, run.stage)
        return _JobRows(job, run, build, change, names[change.source], host, peers, seconds)

    def _make_stage_job(
        self, rows: _JobRows, config: pipeline.PipelineConfig, stage: Stage, checkout: Checkout
    ) -> tuple[NewJob, Sequence[SourceTree]]:
        tests = checkout_reader.stage_tests(checkout, stage, rows.host.labels, rows.host.name)
        cases = select_tests(tests, rows.run.selected_tests, rows.job.tests)
        if not cases:
            raise UsageError(f"stage {stage.name}: none of the selected tests is in the tree")
        content, trees = self._build_content(rows, config, checkout)
        settings = JobConfig(
            install=stage.install,
            environment=(*stage.environment, *_peer_environment(rows, stage)),
            slots=rows.host.slots,
            timeout=stage.job_timeout,
            retries=stage.retries,
            formats=_FORMATS,
        )
        cases = [_with_estimate(case, rows.durations or {}) for case in cases]
        job = make_job(
            rows.job.id, checkout.content, content, settings, cases, _job_name(rows), (rows.source,)
        )
        return job, trees

    def _build_content(
        self, rows: _JobRows, config: pipeline.PipelineConfig, checkout: Checkout
    ) -> tuple[Content, Sequence[SourceTree]]:
        """Return the build to install, and all trees that the host needs."""
        if config.build is None:
            return checkout.content, (checkout.tree,)
        blob = Blob(rows.build.artifact_digest, rows.build.artifact_size)
        content, tree = build_artifact.open_artifact(
            self._blobs, blob, f"build-{rows.build.id}.tar"
        )
        return content, (tree, checkout.tree)

    def invalidate(self, job: model.Job) -> None:
        """Read all files of a job again, because the shipped files did not match its row.

        A damaged checkout is written again.  A damaged artifact is treated as missing, so that
        the next ``prepare`` raises UsageError.
        """
        rows = self._read_rows(job)
        self._checkouts.forget(rows.source, rows.change.revision)
        if self._blobs.has(rows.build.artifact_digest):
            self._blobs.verify(rows.build.artifact_digest)

    def take_fingerprint(self, job: model.Job) -> str:
        """Return the fingerprint of a job as it was submitted, and forget it.

        A job of an earlier process is prepared again.  The result is empty if that is impossible
        because its tree is gone, so that there is nothing to compare with.
        """
        with suppress(NosejobsError):
            if job.id not in self._fingerprints:
                self.prepare(job)
        return self._fingerprints.pop(job.id, "")


def job_fingerprint(tests: Any, build: Any, nodeids: Sequence[str]) -> str:
    """Return a digest of the contents and the tests of a job.

    ``tests`` and ``build`` are values of ``Content``, or their form in a manifest: a list whose
    second element is the digest.
    """
    contents = (tests, build)
    digests = [
        content[1]
        if isinstance(content, (list, tuple)) and content[1:] and is_digest(content[1])
        else ""
        for content in contents
    ]
    text = json.dumps([*digests, *nodeids])
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def select_tests(
    tests: Sequence[JobTest], selected: Sequence[str] | None, shard: Sequence[str] | None
) -> list[JobTest]:
    """Select the tests of a job from those of its stage.

    ``selected``: node ids of a re-run; ``shard``: node ids of the job, in its order.  None: all.
    """
    wanted = None if selected is None else set(selected)
    cases = {case.nodeid: case for case in tests if wanted is None or case.nodeid in wanted}
    if shard is None:
        return list(cases.values())
    return [cases[nodeid] for nodeid in shard if nodeid in cases]


def _with_estimate(case: JobTest, seconds: dict[str, float]) -> JobTest:
    return case._replace(test=case.test._replace(estimate=seconds.get(case.nodeid)))


def _make_build_job(
    rows: _JobRows, config: pipeline.PipelineConfig, checkout: Checkout
) -> tuple[NewJob, Sequence[SourceTree]]:
    if config.build is None:
        raise UsageError(f"build {rows.build.id} has no build command")
    settings = JobConfig(
        environment=config.build.environment,
        slots=1,
        artifacts=build_artifact.MAX_ARTIFACT_BYTES,
        merge=True,
    )
    case = build_artifact.build_test(config.build)
    job = make_job(
        rows.job.id, checkout.content, None, settings, [case], _job_name(rows), (rows.source,)
    )
    return job, (checkout.tree,)


def _job_name(rows: _JobRows) -> str:
    return f"{rows.run.stage} of build {rows.build.id}"


def _peer_environment(rows: _JobRows, stage: Stage) -> tuple[tuple[str, str], ...]:
    """Return the variables that tell a test of a ``together`` stage the addresses of its peers."""
    if stage.mode is not Mode.TOGETHER:
        return ()
    peers = ",".join(map(peer_address, rows.peers))
    return ("NOSEJOBS_PEERS", peers), ("NOSEJOBS_PEER", str(rows.job.part))


def peer_address(host: model.Host) -> str:
    """Return the address by which other hosts reach a host.

    It is the one that the host reports, else the one in its spec.
    """
    reported = host.facts.get("address")
    if isinstance(reported, str) and _ADDRESS.fullmatch(reported):
        return reported
    try:
        (spec,) = specs.parse_specs([host.name], {host.name: HostEntry(host.name, host.spec)})
    except InvalidHostSpec:
        return host.name
    if spec.kind == "popen":
        return "127.0.0.1"
    # An ssh address may have options.  For an agent that connects to us only the name is known.
    parts = spec.address.split()
    return parts[0].rpartition("@")[2] if parts and not spec.listen else host.name
