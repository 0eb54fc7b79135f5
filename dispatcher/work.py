"""What jobs are about: from a job's row to what its host is handed, and from its package to rows.

Owns both ways, for whoever speaks with hosts.  Each can be gone again: a row is the same job
whenever it is prepared, and a package goes into the database once.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from shell_runner import hosts as specs
from shell_runner.config import HostEntry
from shell_runner.errors import BadSpec, HostError, NosejobsError, UsageError
from shell_runner.jobs import new_job
from shell_runner.remote import formats
from shell_runner.remote.job import Content, JobConfig, JobTest, NewJob
from shell_runner.remote.package import Package
from shell_runner.shipping import Tree

from . import artifact, builds, config, harvest, model
from .checkouts import Checkout, CheckoutCache
from .config import Mode, Stage
from .evidence import Blob, BlobStore
from .store import Store, changes, durations, hosts, jobs, results, stage_runs
from .store import builds as build_rows

#: As all readers of output are that come with us.
_FORMATS = tuple((module.NAME, "") for module in formats.builtin())
#: What a host may say that others reach it by: it stands in their environment, between commas.
_ADDRESS = re.compile(r"[A-Za-z0-9_.:%\[\]-]{1,255}")
#: Jobs of which is remembered what their hosts were handed; of others it is found out again.
_MANY = 10_000


@dataclass(frozen=True)
class _Rows:
    """All that a job depends on."""

    job: model.Job
    run: model.StageRun
    build: model.Build
    change: model.Change
    source: str
    host: model.Host
    #: Those that run at the same time, itself among them, in order.
    peers: tuple[model.Host, ...] = ()
    seconds: dict[str, float] | None = None


class Work:
    """Prepares the jobs of rows, and takes their packages."""

    def __init__(
        self,
        store: Store,
        trees: CheckoutCache,
        blobs: BlobStore,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._trees, self._blobs, self._clock = store, trees, blobs, clock
        #: By job, what names all that its host was handed.
        self._handed: dict[str, str] = {}
        self._lock = threading.Lock()

    # -- what a host is handed ----------------------------------------------------

    def prepare(self, job: model.Job) -> tuple[NewJob, Sequence[Tree]]:
        """The job of a row, and what has to be on its host; UsageError: it cannot be run at all."""
        new, trees = self._prepared(job)
        with self._lock:
            self._handed[job.id] = _named(new.tests, new.build, [each.nodeid for each in new.cases])
            while len(self._handed) > _MANY:
                del self._handed[next(iter(self._handed))]
        return new, trees

    def _prepared(self, job: model.Job) -> tuple[NewJob, Sequence[Tree]]:
        rows = self._rows(job)
        checkout = self._trees.get(rows.source, rows.change.revision, rows.build.tree)
        tree = config.from_data(rows.build.config or {})
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
        self, rows: _Rows, tree: config.Tree, stage: Stage, checkout: Checkout
    ) -> tuple[NewJob, Sequence[Tree]]:
        found = builds.stage_tests(checkout, stage, rows.host.labels, rows.host.name)
        cases = chosen(found, rows.run.only, rows.job.tests)
        if not cases:
            raise UsageError(f"{stage.name}: none of its tests is in the tree any more")
        content, trees = self._contents(rows, tree, checkout)
        settings = JobConfig(
            install=stage.install,
            environment=(*stage.environment, *_told(rows, stage)),
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
        self, rows: _Rows, tree: config.Tree, checkout: Checkout
    ) -> tuple[Content, Sequence[Tree]]:
        """The build, and all that has to be on the host."""
        if tree.build is None:
            return checkout.content, (checkout.tree,)
        blob = Blob(rows.build.digest, rows.build.size)
        content, shipped = artifact.artifact_tree(self._blobs, blob, f"build-{rows.build.id}.tar")
        return content, (shipped, checkout.tree)

    def mistrust(self, job: model.Job) -> None:
        """What was shipped for it is not what its row says: look at the files again.

        A tree is made anew then; an artefact is missing from now on, and its job says so.
        """
        rows = self._rows(job)
        self._trees.forget(rows.source, rows.change.revision)
        if self._blobs.holds(rows.build.digest):
            self._blobs.verify(rows.build.digest)

    # -- what comes back ----------------------------------------------------------

    def harvested(self, job: model.Job, package: Path) -> None:
        """Verify and keep a package, with all rows of it, in one transaction.

        The file is moved away.  HostError: it cannot be believed.
        """
        with harvest.opened(package, job.host, job.id) as opened:
            self._check(job, opened)
            found = harvest.read(opened, job.id)
        kept = self._blobs.take(package)
        entry = results.Package(kept.digest, found.how, self._clock(), found.detail)
        with self._store.write() as connection:
            outcome = results.harvested(
                connection, job.id, entry, found.results, found.cases, found.measurements
            )
            if outcome is results.Harvest.NEW and found.durations:
                self._learn(connection, job, found.durations)

    def _check(self, job: model.Job, package: Package) -> None:
        """A tag would stand on tests, or on a build, that the host was never asked for."""
        if job.state is model.JobState.LOST:
            return  # evidence, and no verdict
        with suppress(NosejobsError):  # a tree that cannot be had any more: nothing to compare with
            if job.id not in self._handed:
                self.prepare(job)
        wanted = self._handed.pop(job.id, "")
        manifest = package.manifest
        tests = [row[0] for row in manifest["tests"]]
        if wanted and wanted != _named(manifest.get("content"), manifest.get("build"), tests):
            words = f"the package of job {job.id} is about other tests, or another build"
            raise HostError(job.host, words, "look at the host; nothing was acknowledged")

    @staticmethod
    def _learn(connection: Connection, job: model.Job, seconds: dict[str, float]) -> None:
        run = stage_runs.get(connection, job.stage_run)
        build = run and build_rows.get(connection, run.build)
        change = build and changes.get(connection, build.change)
        if run and change:
            durations.learn(connection, change.source, run.stage, seconds)


def _named(tests: Any, build: Any, nodeids: Sequence[str]) -> str:
    """Names what a job is about, by the contents and tests of a job or of a manifest."""
    both = (tests, build)
    found = [each[1] if isinstance(each, (list, tuple)) and each[1:] else "" for each in both]
    text = json.dumps([*found, *nodeids])
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def chosen(
    found: Sequence[JobTest], only: Sequence[str] | None, part: Sequence[str] | None
) -> list[JobTest]:
    """Of a stage's tests those of a re-run (``only``) and of a shard, in the order of the shard."""
    cases = {case.nodeid: case for case in found if only is None or case.nodeid in set(only)}
    return list(cases.values()) if part is None else [cases[each] for each in part if each in cases]


def _estimated(case: JobTest, seconds: dict[str, float]) -> JobTest:
    return case._replace(test=case.test._replace(estimate=seconds.get(case.nodeid)))


def _build_job(rows: _Rows, tree: config.Tree, checkout: Checkout) -> tuple[NewJob, Sequence[Tree]]:
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


def _told(rows: _Rows, stage: Stage) -> tuple[tuple[str, str], ...]:
    """What a test that works together with others has to know of them."""
    if stage.mode is not Mode.TOGETHER:
        return ()
    peers = ",".join(map(address_of, rows.peers))
    return ("NOSEJOBS_PEERS", peers), ("NOSEJOBS_PEER", str(rows.job.part))


def address_of(host: model.Host) -> str:
    """Where other hosts reach it: what it says itself, else as we reach it."""
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
