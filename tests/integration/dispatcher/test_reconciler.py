"""The loop without hosts: packages are made here, and it is killed wherever it can be."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Set
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from dispatcher.builds.blob_store import BlobStore
from dispatcher.builds.checkouts import CheckoutCache
from dispatcher.builds.source_watcher import SourceWatcher
from dispatcher.configuration.settings import Settings, Source
from dispatcher.hosts.job_builder import JobBuilder
from dispatcher.hosts.result_recorder import ResultRecorder
from dispatcher.model import (
    BuildEvent,
    BuildRows,
    BuildState,
    Host,
    HostState,
    Job,
    JobEvent,
    JobState,
    StageEvent,
    StageState,
)
from dispatcher.policy.change_detection import Commit
from dispatcher.reconciler import actions
from dispatcher.reconciler.background_tasks import BackgroundTasks
from dispatcher.reconciler.reconcile_pass import PassResult
from dispatcher.reconciler.reconciler import Reconciler
from dispatcher.sources.git_command import SourceError
from dispatcher.sources.source import CommitRange
from dispatcher.store import (
    Store,
    build_rows,
    builds,
    hosts,
    jobs,
    open_engine,
    results,
    stage_runs,
    views,
)
from dispatcher.store.views import BuildDetail
from shell_runner.errors import HostError
from tests.helpers import job_hosts, package_factories
from tests.helpers.running_dispatcher import BUILD, stage_toml


class Killed(BaseException):
    """The process ends here."""


class FakeSource:
    """A folder whose revisions are counted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.revision = folder, "1" * 40

    def heads(self) -> dict[str, str]:
        """One branch."""
        return {"main": self.revision}

    def between(self, before: str, revision: str) -> CommitRange:
        """One commit."""
        return CommitRange((Commit(revision, "ann", "more"),))

    def checkout(self, revision: str, folder: Path) -> None:
        """A copy."""
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(self.folder, f"{folder}.part")
            Path(f"{folder}.part").rename(folder)


class Checked(Reconciler):
    """What it remembers of the last look is what the rows say, at each look."""

    def _read_rows(
        self, connection: Connection, marks: Mapping[int, set[Any]], touched: Set[int]
    ) -> list[BuildRows]:
        found = super()._read_rows(connection, marks, touched)
        assert found == build_rows.read_rows(connection, marks.keys() | touched)
        assert sorted(marks) == builds.list_active_ids(connection)
        return found


class Bench:
    """A dispatcher that is stepped by hand, and may be killed at any commit."""

    def __init__(
        self, folder: Path, source: FakeSource, empty: Path, engine: Engine | None = None
    ) -> None:
        """``engine``: of a database that was there before, for the statements that it knows."""
        self.folder, self.source = folder, source
        folder.mkdir()
        shutil.copy(empty, folder / "dispatcher.db")
        self.settings = Settings(folder, sources=(Source("here", git="unused"),))
        self.store: Store
        self.engine = engine or open_engine(folder / "dispatcher.db")
        self.begin()
        with self.store.write() as connection:
            for name in ("h1", "h2"):
                hosts.configure(connection, Host(name, "popen", state=HostState.UP))

    def begin(self) -> None:
        """A new process: rows and files are all that is left."""
        self.store = Store(self.engine)
        self.trees = CheckoutCache(self.folder / "trees", {"here": self.source})
        self.blobs = BlobStore(self.folder / "blobs")
        self.builder = JobBuilder(self.store, self.trees, self.blobs)
        self.recorder = ResultRecorder(self.store, self.blobs, self.builder)
        self.told = PassResult()
        self.loop = Checked(self.store, self.settings, self.trees, self.blobs, self._tell)
        self.watch = SourceWatcher(self.store, self.settings.sources[0], self.source, self.trees)

    def _tell(self, result: PassResult) -> None:
        self.told = result

    def look(self) -> None:
        """At the source, then at all rows."""
        self.watch.poll()
        self.loop.step()

    def planned(self) -> list[Job]:
        """Jobs that no host has heard of."""
        with self.store.read() as connection:
            found = jobs.list_in_state(connection, JobState.PLANNED)
        return sorted(found, key=lambda job: (job.stage_run, job.part))

    def end(self, job: Job, exit: int = 0, how: str = "completed") -> None:
        """As if a host had run it."""
        new, _ = self.builder.prepare(job)
        path = package_factories.write_job_package(self.folder / f"{job.id}.zip", new, exit, how)
        self.recorder.record(job, path)

    def lose(self, job: Job) -> None:
        """As if its host was gone for too long."""
        with self.store.write() as connection:
            assert jobs.apply_event(connection, job.id, JobEvent.LOSE, detail="no answer")
            hosts.mark_down(connection, job.host, "no answer")

    def run(self) -> None:
        """Until nothing is left to be done."""
        self.look()
        while found := self.planned():
            for job in found:
                self.end(job)
            self.loop.step()

    def detail(self, build: int = 1) -> BuildDetail:
        """All of a build."""
        with self.store.read() as connection:
            found = views.get_build_detail(connection, build)
        assert found is not None
        return found

    def states(self, build: int = 1) -> dict[str, str]:
        """The newest run of each stage."""
        return {run.stage: str(run.state) for run in self.detail(build).view.runs}

    def details(self, build: int = 1) -> dict[str, str]:
        """And their words."""
        return {run.stage: run.detail for run in self.detail(build).view.runs}


@pytest.fixture
def source(tmp_path: Path) -> FakeSource:
    found = FakeSource(tmp_path / "tree")
    for name in ("test_a.sh", "test_b.sh", "test_c.sh"):
        job_hosts.script(found.folder / "tests/unit", name)
    job_hosts.script(found.folder / "tests/smoke", "test_it.sh")
    config = BUILD + stage_toml("unit", "hosts = 2", 'mode = "shard"') + stage_toml("smoke")
    (found.folder / "nosejobs.toml").write_text(config + '[levels]\ngood = ["unit", "smoke"]\n')
    return found


@pytest.fixture
def bench(tmp_path: Path, source: FakeSource, empty: Path) -> Iterator[Bench]:
    found = Bench(tmp_path / "data", source, empty)
    yield found
    found.store.close()


def config(bench: Bench, *texts: str) -> None:
    (bench.source.folder / "nosejobs.toml").write_text("".join(texts))


# -- killed ---------------------------------------------------------------------------


@contextmanager
def killed_at(bench: Bench, monkeypatch: pytest.MonkeyPatch, moment: int) -> Iterator[list[int]]:
    """Killed when all but the commit of a transaction is done: files are there, rows are not."""
    count = [0]
    write = Store.write

    def tick() -> None:
        count[0] += 1
        if count[0] == moment:
            raise Killed

    @contextmanager
    def counted(self: Store, **more: bool) -> Iterator[object]:
        with write(self, **more) as connection:
            yield connection
            tick()

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", counted)
        yield count


def test_killed_at_any_commit_it_comes_to_the_same_end(
    tmp_path: Path, source: FakeSource, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, moment, count, engine = set(), 0, [1], None
    while moment <= count[0]:
        bench = Bench(tmp_path / "data", source, empty, engine)
        engine = bench.engine
        with killed_at(bench, monkeypatch, moment) as count:
            try:
                bench.run()
            except Killed:
                bench.store.close()
                bench.begin()
                bench.run()
        ends.add(_end(bench))
        bench.store.close()
        shutil.rmtree(bench.folder)
        moment += 1
    assert moment > 10
    assert len(ends) == 1
    ((level, runs, planned, tags, rows),) = ends
    assert level == "good"
    assert runs == (("build", 1, "passed"), ("unit", 1, "passed"), ("smoke", 1, "passed"))
    assert planned == (("build", 0, 1), ("smoke", 0, 1), ("unit", 0, 1), ("unit", 1, 1))
    assert tags == (("unit", 2), ("smoke", 1))
    assert rows == 5


def _end(bench: Bench) -> tuple[object, ...]:
    found = bench.detail()
    stages = {run.id: run.stage for run in found.view.runs}
    with bench.store.read() as connection:
        rows = sum(len(results.list_by_job(connection, job.id)) for job in found.jobs)
    return (
        found.view.build.level,
        tuple((run.stage, run.number, str(run.state)) for run in found.view.runs),
        tuple(sorted((stages[job.stage_run], job.part, job.attempt) for job in found.jobs)),
        tuple((tag.stage, len(tag.jobs)) for tag in found.tags),
        rows,
    )


def test_a_step_that_is_made_again_writes_nothing(bench: Bench) -> None:
    bench.look()
    before = _dump(bench)
    for _ in range(2):
        bench.loop.step()
        bench.watch.poll()
        bench.loop.step()
        bench.store.close()
        bench.begin()
        bench.loop.step()
    assert _dump(bench) == before
    assert len(bench.planned()) == 1


def _dump(bench: Bench) -> list[str]:
    """All of the database, but for when a source was looked at."""
    with closing(sqlite3.connect(bench.folder / "dispatcher.db")) as connection:
        return [row for row in connection.iterdump() if not row.startswith('INSERT INTO "source"')]


# -- hosts ----------------------------------------------------------------------------


def test_a_tag_that_changes_nothing_else_is_remembered(bench: Bench) -> None:
    config(bench, stage_toml("unit", "needs = []"), stage_toml("smoke", "needs = []"))
    bench.look()
    runs = {run.stage: run for run in bench.detail().view.runs}
    with bench.store.write() as connection:
        assert stage_runs.apply_event(connection, runs["smoke"].id, StageEvent.PASS)
    bench.loop.step()
    bench.loop.step()
    assert [tag.stage for tag in bench.detail().tags] == ["smoke"]


def test_why_a_job_does_not_go_on_is_what_its_stage_says(bench: Bench) -> None:
    bench.look()
    (job,) = bench.planned()
    for words, told in (("no room", "waiting: h1: no room"), ("", "")):
        with bench.store.write() as connection:
            assert jobs.set_detail(connection, job.id, words)
        bench.loop.step()
        assert bench.details()["build"] == told


def test_a_lost_part_goes_again_on_another_host_and_a_late_package_is_evidence(
    bench: Bench,
) -> None:
    bench.look()
    (build,) = bench.planned()
    bench.end(build)
    bench.loop.step()
    first, second = bench.planned()
    bench.lose(first)
    bench.loop.step()
    assert bench.planned() == [second]
    assert bench.details()["unit"].startswith(
        "running again: h1 was lost: no answer; waiting: 1 host;"
    )
    before = _dump(bench)
    bench.loop.step()
    assert _dump(bench) == before
    with bench.store.write() as connection:
        hosts.configure(connection, Host("h3", "popen"))
    bench.loop.step()
    (again,) = [job for job in bench.planned() if job.id != second.id]
    assert (again.host, again.part, again.attempt, again.tests) == ("h3", 0, 2, first.tests)
    bench.end(first)
    for job in (second, again):
        bench.end(job)
    bench.loop.step()
    assert bench.states()["unit"] == "passed"
    with bench.store.read() as connection:
        late = jobs.get(connection, first.id)
    assert late
    assert (late.state, len(late.package_digest)) == (JobState.LOST, 64)
    (tag,) = bench.detail().tags
    assert set(tag.jobs) == {second.id, again.id}
    run = next(run for run in bench.detail().view.runs if run.stage == "unit")
    assert run.hosts_lost == 1


def test_peers_of_a_lost_one_are_told_to_end_and_all_go_again(bench: Bench) -> None:
    config(bench, stage_toml("unit", "hosts = 2", 'mode = "together"'))
    bench.look()
    first, second = bench.planned()
    new, _ = bench.builder.prepare(second)
    told = dict(new.config.environment)
    assert (told["NOSEJOBS_PEERS"], told["NOSEJOBS_PEER"]) == ("127.0.0.1,127.0.0.1", "1")
    bench.lose(first)
    bench.loop.step()
    assert bench.told.stop == {second.id}
    bench.end(second, how="cancelled")
    with bench.store.write() as connection:
        hosts.record_contact(connection, "h1", 2.0)
    bench.loop.step()
    assert [(job.part, job.attempt) for job in bench.planned()] == [(0, 2), (1, 2)]
    assert bench.told.stop == set()


def test_a_stage_waits_for_hosts_and_says_for_which(bench: Bench) -> None:
    config(bench, stage_toml("unit", 'labels = ["gpu"]'))
    bench.look()
    assert bench.states() == {"unit": "placing"}
    assert bench.details()["unit"].startswith("1 host with label gpu; none fits")
    assert [(each.missing, each.labels) for each in bench.told.unplaced] == [(1, ("gpu",))]
    with bench.store.write() as connection:
        hosts.configure(connection, Host("h3", "popen", ("gpu",)))
    bench.loop.step()
    assert [job.host for job in bench.planned()] == ["h3"]
    assert bench.details() == {"unit": ""}


def test_a_build_command_is_lost_once_then_given_up(bench: Bench) -> None:
    bench.look()
    for attempt in (1, 2):
        (job,) = bench.planned()
        assert (job.attempt, job.host) == (attempt, f"h{attempt}")
        bench.lose(job)
        bench.loop.step()
    found = bench.detail().view
    assert found.build.state is BuildState.FAILED
    assert found.build.detail.endswith("was lost: no answer; it was run again 1 time")
    assert [str(run.state) for run in found.runs] == ["error"]


# -- bursts, cancelling, building again ------------------------------------------------


def test_newer_changes_come_first_while_hosts_are_busy(bench: Bench) -> None:
    config(bench, stage_toml("unit"))
    for number in "12345678":
        bench.source.revision = number * 40
        bench.look()
    states = {number: bench.detail(number).view.build.state for number in range(1, 9)}
    begun = [number for number, state in states.items() if state is BuildState.BUILT]
    assert begun == [1, 2, 3, 4]
    assert [states[number] for number in (5, 6, 7)] == [BuildState.SUPERSEDED] * 3
    assert states[8] is BuildState.NEW
    bench.run()
    assert bench.states(8) == {"unit": "passed"}


def test_a_cancelled_build_command_is_a_failed_build_that_can_be_built_again(
    bench: Bench,
) -> None:
    bench.look()
    (run,) = bench.detail().view.runs
    with bench.store.write() as connection:
        fields = {"detail": "cancelled by ann", "ended_at": 2.0}
        assert stage_runs.apply_event(connection, run.id, StageEvent.CANCEL, **fields)
    bench.loop.step()
    found = bench.detail().view.build
    assert (found.state, found.detail) == (BuildState.FAILED, "cancelled by ann")
    with bench.store.write() as connection:
        assert builds.apply_event(connection, 1, BuildEvent.BEGIN, ended_at=None)
        again = type(run)(0, 1, "build", 2, state=StageState.PLACING)
        assert stage_runs.add(connection, again)
    bench.run()
    assert bench.detail().view.build.level == "good"


# -- packages and trees ---------------------------------------------------------------


def test_a_package_that_is_another_jobs_is_refused(bench: Bench) -> None:
    bench.look()
    (job,) = bench.planned()
    new, _ = bench.builder.prepare(job)
    other = new._replace(id="00000000-0000-4000-8000-000000000001")
    path = package_factories.write_job_package(bench.folder / "other.zip", other)
    with pytest.raises(HostError, match=r"is refused: .*it belongs to another job"):
        bench.recorder.record(job, path)
    with bench.store.read() as connection:
        assert jobs.list_in_state(connection, JobState.PLANNED) == [job]
        assert results.list_by_job(connection, job.id) == []


@pytest.mark.parametrize("begins", [False, True])
def test_a_package_of_other_tests_or_another_build_is_refused(bench: Bench, begins: bool) -> None:
    """Of its job, as it says; also if another process has handed that in."""
    bench.look()
    bench.end(bench.planned()[0])
    bench.loop.step()
    job = bench.planned()[0]
    new, _ = bench.builder.prepare(job)
    assert new.build is not None
    (case, *rest) = new.cases
    liars = (
        new._replace(cases=()),
        new._replace(cases=(case._replace(nodeid="tests/unit/test_z.sh"), *rest)),
        new._replace(build=new.build._replace(digest="0" * 64)),
        new._replace(tests=new.tests._replace(digest="0" * 64)),
    )
    if begins:
        bench.begin()
    for number, other in enumerate(liars):
        path = package_factories.write_job_package(bench.folder / f"{number}.zip", other)
        with pytest.raises(HostError, match="is about other tests, or another build"):
            bench.recorder.record(job, path)
    assert not bench.detail().tags
    bench.end(job)


def test_a_package_that_comes_twice_counts_once(bench: Bench) -> None:
    bench.look()
    (job,) = bench.planned()
    bench.end(job)
    bench.end(job)
    with bench.store.read() as connection:
        assert len(results.list_by_job(connection, job.id)) == 1


def test_a_tree_that_a_dead_machine_left_is_made_anew(bench: Bench) -> None:
    bench.look()
    revision = bench.source.revision
    (bench.trees.path("here", revision) / "app").write_bytes(b"")
    bench.begin()
    (job,) = bench.planned()
    new, _ = bench.builder.prepare(job)
    assert new.tests.digest == bench.detail().view.build.tree_digest


def test_trouble_that_passes_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(28, "No space left on device")

    def checkout(revision: str, folder: Path) -> None:
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(bench.source, "checkout", checkout)
        bench.watch.poll()
        bench.loop.step()
    found = bench.detail().view.build
    assert (found.state, found.detail) == (
        BuildState.NEW,
        "waiting: OSError: [Errno 28] No space left on device",
    )
    monkeypatch.setattr("dispatcher.reconciler.background_tasks.time.monotonic", lambda: 1e12)
    bench.loop.step()
    assert bench.detail().view.build.state is BuildState.BUILDING


def test_what_is_asked_twice_is_found_out_once() -> None:
    tasks, found = BackgroundTasks(lambda: None), []
    for _ in range(2):
        assert tasks.request("a", lambda: found.append(1) or "there") is None
    assert tasks.run_requested() == 1
    assert tasks.request("a", lambda: "else") == "there"
    assert (tasks.run_requested(), found) == (0, [1])


def test_a_build_of_a_tree_that_nobody_can_have_ends_as_often_as_it_is_asked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(revision: str, folder: Path) -> None:
        raise SourceError("the link x leads out of the tree")

    monkeypatch.setattr(bench.source, "checkout", refuse)
    bench.look()
    with bench.store.write() as connection:
        actions.rerun(connection, 1, "build", actions.Attribution("ann"))
    bench.loop.step()
    assert bench.detail().view.build.state is BuildState.FAILED
    assert bench.states() == {"build": "failed"}
    with bench.store.read() as connection:
        assert builds.list_active_ids(connection) == []
