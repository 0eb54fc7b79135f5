"""Build the job of a row: its tests, settings and environment, and the trees that it needs.

A row makes the same job whenever it is prepared.  Must not know how a host is reached.
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
from shell_runner.errors import BadSpec, NosejobsError, UsageError
from shell_runner.hosts import spec as specs
from shell_runner.jobs.client import new_job
from shell_runner.remote import formats
from shell_runner.remote.protocol.job import Content, JobConfig, JobTest, NewJob
from shell_runner.shipping.tree_scan import SourceTree

from .. import model
from ..builds import artifact, pipeline_files
from ..builds.blob_store import Blob, BlobStore
from ..builds.checkouts import Checkout, CheckoutCache
from ..configuration import pipeline
from ..configuration.pipeline import Mode, Stage
from ..store import Store, changes, durations, hosts, jobs, stage_runs
from ..store import builds as build_rows

#: All built-in formats of output.
_FORMATS = tuple((module.NAME, "") for module in formats.builtin())
#: An address that a host may report: it is put into the environment of others, between commas.
_ADDRESS = re.compile(r"[A-Za-z0-9_.:%\[\]-]{1,255}")
#: Jobs whose fingerprints are remembered; others are prepared again to compare.
_MAX_FINGERPRINTS = 10_000


@dataclass(frozen=True)
class _Rows:
    """The rows that a job depends on."""

    job: model.Job
    run: model.StageRun
    build: model.Build
    change: model.Change
    source: str
    host: model.Host
    #: Hosts of all parts that run at the same time, its own among them, in order.
    peers: tuple[model.Host, ...] = ()
    seconds: dict[str, float] | None = None


class JobBuilder:
    """Prepares the jobs of rows."""

    def __init__(self, store: Store, trees: CheckoutCache, blobs: BlobStore) -> None:
        self._store, self._trees, self._blobs = store, trees, blobs
        #: Fingerprint of what its host was given, by job.
        self._fingerprints: dict[str, str] = {}
        self._lock = threading.Lock()

    def prepare(self, job: model.Job) -> tuple[NewJob, Sequence[SourceTree]]:
        """Return the job of a row, and the trees that its host needs.

        Raises UsageError if the job cannot be run at all.
        """
        new, trees = self._prepared(job)
        with self._lock:
            self._fingerprints[job.id] = job_fingerprint(
                new.tests, new.build, [each.nodeid for each in new.cases]
            )
            while len(self._fingerprints) > _MAX_FINGERPRINTS:
                del self._fingerprints[next(iter(self._fingerprints))]
        return new, trees

    def _prepared(self, job: model.Job) -> tuple[NewJob, Sequence[SourceTree]]:
        rows = self._rows(job)
        checkout = self._trees.get(rows.source, rows.change.revision, rows.build.tree_digest)
        tree = pipeline.from_data(rows.build.config or {})
        if rows.run.stage == model.BUILD:
            return _build_job(rows, tree, checkout)
        stage = tree.stage(rows.run.stage)
        if stage is None:
            raise UsageError(f"build {rows.build.id} has no stage {rows.run.stage}")
        return self._stage_job(rows, tree, stage, checkout)

    def _rows(self, job: model.Job) -> _Rows:
        with self._store.read() as connection:
            run = stage_runs.get(connection, job.stage_run)
            build = run and build_rows.get(connection, run.build)
            change = build and changes.get(connection, build.change)
            host = hosts.get(connection, job.host)
            if not (run and build and change and host):
                raise UsageError(f"job {job.id}: its host {job.host} is not there any more")
            names = {each.id: each.name for each in changes.sources(connection)}
            others = [j for j in jobs.of_run(connection, run.id) if j.attempt == job.attempt]
            known = {each.name: each for each in hosts.every(connection)}
            peers = tuple(known[each.host] for each in others if each.host in known)
            seconds = durations.known(connection, change.source, run.stage)
        return _Rows(job, run, build, change, names[change.source], host, peers, seconds)

    def _stage_job(
        self, rows: _Rows, tree: pipeline.Tree, stage: Stage, checkout: Checkout
    ) -> tuple[NewJob, Sequence[SourceTree]]:
        found = pipeline_files.stage_tests(checkout, stage, rows.host.labels, rows.host.name)
        cases = chosen(found, rows.run.selected_tests, rows.job.tests)
        if not cases:
            raise UsageError(f"{stage.name}: none of its tests is in the tree any more")
        content, trees = self._contents(rows, tree, checkout)
        settings = JobConfig(
            install=stage.install,
            environment=(*stage.environment, *_peer_environment(rows, stage)),
            slots=rows.host.slots,
            timeout=stage.job_timeout,
            retries=stage.retries,
            formats=_FORMATS,
        )
        cases = [_estimated(case, rows.seconds or {}) for case in cases]
        job = new_job(
            rows.job.id, checkout.content, content, settings, cases, _name(rows), (rows.source,)
        )
        return job, trees

    def _contents(
        self, rows: _Rows, tree: pipeline.Tree, checkout: Checkout
    ) -> tuple[Content, Sequence[SourceTree]]:
        """Return the build, and all trees that the host needs."""
        if tree.build is None:
            return checkout.content, (checkout.tree,)
        blob = Blob(rows.build.artifact_digest, rows.build.artifact_size)
        content, shipped = artifact.artifact_tree(self._blobs, blob, f"build-{rows.build.id}.tar")
        return content, (shipped, checkout.tree)

    def invalidate(self, job: model.Job) -> None:
        """Read all files of a job again, because what was shipped does not match its row.

        A checkout is written anew; a damaged artifact counts as missing from now on, and its
        job says so.
        """
        rows = self._rows(job)
        self._trees.forget(rows.source, rows.change.revision)
        if self._blobs.holds(rows.build.artifact_digest):
            self._blobs.verify(rows.build.artifact_digest)

    def take_fingerprint(self, job: model.Job) -> str:
        """Return the fingerprint of what the host of a job was given, and forget it.

        A job of an earlier process is prepared again.  Empty if that is impossible, because its
        tree is gone: then there is nothing to compare with.
        """
        with suppress(NosejobsError):
            if job.id not in self._fingerprints:
                self.prepare(job)
        return self._fingerprints.pop(job.id, "")


def job_fingerprint(tests: Any, build: Any, nodeids: Sequence[str]) -> str:
    """Return a digest of what a job is about.

    ``tests`` and ``build`` are the contents of a job, or of the manifest of its package.
    """
    both = (tests, build)
    found = [each[1] if isinstance(each, (list, tuple)) and each[1:] else "" for each in both]
    text = json.dumps([*found, *nodeids])
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def chosen(
    found: Sequence[JobTest], only: Sequence[str] | None, part: Sequence[str] | None
) -> list[JobTest]:
    """Select from a stage's tests those of a re-run (``only``) and of a shard, in its order."""
    cases = {case.nodeid: case for case in found if only is None or case.nodeid in set(only)}
    return list(cases.values()) if part is None else [cases[each] for each in part if each in cases]


def _estimated(case: JobTest, seconds: dict[str, float]) -> JobTest:
    return case._replace(test=case.test._replace(estimate=seconds.get(case.nodeid)))


def _build_job(
    rows: _Rows, tree: pipeline.Tree, checkout: Checkout
) -> tuple[NewJob, Sequence[SourceTree]]:
    if tree.build is None:
        raise UsageError(f"build {rows.build.id} has no build command")
    settings = JobConfig(
        environment=tree.build.environment,
        slots=1,
        artefacts=artifact.MAX_ARTIFACT_BYTES,
        merge=True,
    )
    case = artifact.build_test(tree.build)
    job = new_job(
        rows.job.id, checkout.content, None, settings, [case], _name(rows), (rows.source,)
    )
    return job, (checkout.tree,)


def _name(rows: _Rows) -> str:
    return f"{rows.run.stage} of build {rows.build.id}"


def _peer_environment(rows: _Rows, stage: Stage) -> tuple[tuple[str, str], ...]:
    """Return the environment that tells a test of a group which peers it has."""
    if stage.mode is not Mode.TOGETHER:
        return ()
    peers = ",".join(map(peer_address, rows.peers))
    return ("NOSEJOBS_PEERS", peers), ("NOSEJOBS_PEER", str(rows.job.part))


def peer_address(host: model.Host) -> str:
    """Return where other hosts reach a host: what it reports itself, else as we reach it."""
    said = host.facts.get("address")
    if isinstance(said, str) and _ADDRESS.fullmatch(said):
        return said
    try:
        (spec,) = specs.parse([host.name], {host.name: HostEntry(host.name, host.spec)})
    except BadSpec:
        return host.name
    if spec.kind == "popen":
        return "127.0.0.1"
    # ssh: options may follow.  Of an agent that dials out only its name is known.
    words = spec.address.split()
    return words[0].rpartition("@")[2] if words and not spec.listen else host.name
