"""Tests of the reconciler without hosts: they write the packages, and kill it at each commit."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Set
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from dispatcher.builds.blob_store import BlobStore
from dispatcher.builds.checkout_cache import CheckoutCache
from dispatcher.builds.source_watcher import SourceWatcher
from dispatcher.configuration.settings import Pool, Settings, Source
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
from dispatcher.policy.revision_selection import Commit
from dispatcher.reconciler import user_actions
from dispatcher.reconciler.background_tasks import BackgroundTasks
from dispatcher.reconciler.reconcile_pass import PassResult
from dispatcher.reconciler.reconciler import Reconciler
from dispatcher.sources.git_command import SourceError
from dispatcher.sources.source import CommitRange
from dispatcher.store import (
    Store,
    api_queries,
    build_snapshots,
    builds,
    hosts,
    jobs,
    open_engine,
    results,
    stage_runs,
)
from dispatcher.store.api_queries import BuildDetail
from shell_runner.errors import HostError
from shell_runner.remote.protocol.model import Execution
from tests.helpers import job_hosts, package_factories
from tests.helpers.running_dispatcher import BUILD, stage_toml


class Killed(BaseException):
    """Raised instead of a commit, as if the process had been killed."""


class FakeSource:
    """A directory source whose revision the test sets."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.revision = folder, "1" * 40

    def heads(self) -> dict[str, str]:
        """Return the one branch."""
        return {"main": self.revision}

    def commits_between(self, before: str, revision: str) -> CommitRange:
        """Return one commit."""
        return CommitRange((Commit(revision, "ann", "more"),))

    def checkout(self, revision: str, folder: Path) -> None:
        """Copy the folder."""
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(self.folder, f"{folder}.part")
            Path(f"{folder}.part").rename(folder)


class CheckedReconciler(Reconciler):
    """A reconciler that checks in each pass that the rows it remembers are current."""

    def _read_rows(
        self, connection: Connection, marks: Mapping[int, set[Any]], touched: Set[int]
    ) -> list[BuildRows]:
        rows = super()._read_rows(connection, marks, touched)
        assert rows == build_snapshots.read_rows(connection, marks.keys() | touched)
        assert sorted(marks) == builds.list_active_ids(connection)
        return rows


class SteppedDispatcher:
    """A dispatcher that the test steps, and can kill at any commit."""

    def __init__(
        self, folder: Path, source: FakeSource, empty: Path, engine: Engine | None = None
    ) -> None:
        """Create the database; reuse an ``engine``, because it has compiled the statements."""
        self.folder, self.source = folder, source
        folder.mkdir()
        shutil.copy(empty, folder / "dispatcher.db")
        self.settings = Settings(folder, sources=(Source("here", git="unused"),))
        self.store: Store
        self.engine = engine or open_engine(folder / "dispatcher.db")
        self.start()
        with self.store.write() as connection:
            for name in ("h1", "h2"):
                hosts.configure(connection, Host(name, "popen", state=HostState.UP))

    def start(self) -> None:
        """Start a new process, which has only the rows and files of the last one."""
        self.store = Store(self.engine)
        self.trees = CheckoutCache(self.folder / "trees", {"here": self.source})
        self.blobs = BlobStore(self.folder / "blobs")
        self.builder = JobBuilder(self.store, self.trees, self.blobs)
        self.recorder = ResultRecorder(self.store, self.blobs, self.builder)
        self.last_result = PassResult()
        self.reconciler = CheckedReconciler(
            self.store, self.settings, self.trees, self.blobs, self._keep_result
        )
        self.watcher = SourceWatcher(self.store, self.settings.sources[0], self.source, self.trees)

    def _keep_result(self, result: PassResult) -> None:
        self.last_result = result

    def poll_and_step(self) -> None:
        """Poll the source, then run passes until nothing changes."""
        self.watcher.poll()
        self.reconciler.step()

    def planned_jobs(self) -> list[Job]:
        """Return the jobs that were not submitted, by stage run and part."""
        with self.store.read() as connection:
            planned = jobs.list_in_state(connection, JobState.PLANNED)
        return sorted(planned, key=lambda job: (job.stage_run, job.part))

    def complete_job(self, job: Job, exit: int = 0, end_reason: str = "completed") -> None:
        """Record a package of the job, as if a host had run it."""
        new, _ = self.builder.prepare(job)
        path = package_factories.write_job_package(
            self.folder / f"{job.id}.zip", new, exit, end_reason
        )
        self.recorder.record(job, path)

    def lose_job(self, job: Job) -> None:
        """Give up the job, as if its host had been unreachable for too long."""
        with self.store.write() as connection:
            assert jobs.apply_event(connection, job.id, JobEvent.LOSE, detail="no answer")
            hosts.mark_down(connection, job.host, "no answer")

    def run_to_end(self) -> None:
        """Complete all jobs until none is left."""
        self.poll_and_step()
        while planned := self.planned_jobs():
            for job in planned:
                self.complete_job(job)
            self.reconciler.step()

    def build_detail(self, build: int = 1) -> BuildDetail:
        """Return a build with all its rows."""
        with self.store.read() as connection:
            detail = api_queries.get_build_detail(connection, build)
        assert detail is not None
        return detail

    def run_states(self, build: int = 1) -> dict[str, str]:
        """Return the state of the newest run of each stage."""
        return {run.stage: str(run.state) for run in self.build_detail(build).view.runs}

    def run_details(self, build: int = 1) -> dict[str, str]:
        """Return the detail of the newest run of each stage."""
        return {run.stage: run.detail for run in self.build_detail(build).view.runs}


@pytest.fixture
def source(tmp_path: Path) -> FakeSource:
    fake = FakeSource(tmp_path / "tree")
    for name in ("test_a.sh", "test_b.sh", "test_c.sh"):
        job_hosts.write_script(fake.folder / "tests/unit", name)
    job_hosts.write_script(fake.folder / "tests/smoke", "test_it.sh")
    config = BUILD + stage_toml("unit", "hosts = 2", 'mode = "shard"') + stage_toml("smoke")
    (fake.folder / "nosejobs.toml").write_text(config + '[levels]\ngood = ["unit", "smoke"]\n')
    return fake


@pytest.fixture
def dispatcher(tmp_path: Path, source: FakeSource, empty: Path) -> Iterator[SteppedDispatcher]:
    stepped = SteppedDispatcher(tmp_path / "data", source, empty)
    yield stepped
    stepped.store.close()


def write_config(dispatcher: SteppedDispatcher, *texts: str) -> None:
    (dispatcher.source.folder / "nosejobs.toml").write_text("".join(texts))


# -- killed ---------------------------------------------------------------------------


@contextmanager
def kill_at(
    dispatcher: SteppedDispatcher, monkeypatch: pytest.MonkeyPatch, moment: int
) -> Iterator[list[int]]:
    """Kill the process before a commit: files were written, rows were not.

    ``moment``: number of the transaction.  Yields the number of transactions so far.
    """
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
    outcomes, moment, count, engine = set(), 0, [1], None
    while moment <= count[0]:
        dispatcher = SteppedDispatcher(tmp_path / "data", source, empty, engine)
        engine = dispatcher.engine
        with kill_at(dispatcher, monkeypatch, moment) as count:
            try:
                dispatcher.run_to_end()
            except Killed:
                dispatcher.store.close()
                dispatcher.start()
                dispatcher.run_to_end()
        outcomes.add(_final_rows(dispatcher))
        dispatcher.store.close()
        shutil.rmtree(dispatcher.folder)
        moment += 1
    assert moment > 10
    assert len(outcomes) == 1
    ((level, runs, planned, tags, rows),) = outcomes
    assert level == "good"
    assert runs == (("build", 1, "passed"), ("unit", 1, "passed"), ("smoke", 1, "passed"))
    assert planned == (("build", 0, 1), ("smoke", 0, 1), ("unit", 0, 1), ("unit", 1, 1))
    assert tags == (("unit", 2), ("smoke", 1))
    assert rows == 5


def _final_rows(dispatcher: SteppedDispatcher) -> tuple[object, ...]:
    detail = dispatcher.build_detail()
    stages = {run.id: run.stage for run in detail.view.runs}
    with dispatcher.store.read() as connection:
        rows = sum(len(results.list_by_job(connection, job.id)) for job in detail.jobs)
    return (
        detail.view.build.level,
        tuple((run.stage, run.number, str(run.state)) for run in detail.view.runs),
        tuple(sorted((stages[job.stage_run], job.part, job.attempt) for job in detail.jobs)),
        tuple((tag.stage, len(tag.jobs)) for tag in detail.tags),
        rows,
    )


def test_a_step_that_is_made_again_writes_nothing(dispatcher: SteppedDispatcher) -> None:
    dispatcher.poll_and_step()
    before = _dump(dispatcher)
    for _ in range(2):
        dispatcher.reconciler.step()
        dispatcher.watcher.poll()
        dispatcher.reconciler.step()
        dispatcher.store.close()
        dispatcher.start()
        dispatcher.reconciler.step()
    assert _dump(dispatcher) == before
    assert len(dispatcher.planned_jobs()) == 1


def _dump(dispatcher: SteppedDispatcher) -> list[str]:
    """Return the contents of the database, except the times of polls."""
    with closing(sqlite3.connect(dispatcher.folder / "dispatcher.db")) as connection:
        return [row for row in connection.iterdump() if not row.startswith('INSERT INTO "source"')]


# -- hosts ----------------------------------------------------------------------------


def test_a_tag_that_changes_nothing_else_is_remembered(dispatcher: SteppedDispatcher) -> None:
    write_config(dispatcher, stage_toml("unit", "needs = []"), stage_toml("smoke", "needs = []"))
    dispatcher.poll_and_step()
    runs = {run.stage: run for run in dispatcher.build_detail().view.runs}
    with dispatcher.store.write() as connection:
        assert stage_runs.apply_event(connection, runs["smoke"].id, StageEvent.PASS)
    dispatcher.reconciler.step()
    dispatcher.reconciler.step()
    assert [tag.stage for tag in dispatcher.build_detail().tags] == ["smoke"]


def test_a_build_whose_output_the_host_has_lost_runs_again_and_has_no_verdict(
    dispatcher: SteppedDispatcher,
) -> None:
    dispatcher.poll_and_step()
    (job,) = dispatcher.planned_jobs()
    new, _ = dispatcher.builder.prepare(job)
    execution = Execution(0, exit_status=0, artifacts=(("output.tar", 9),))
    path = package_factories.write_package(
        dispatcher.folder / "p.zip", job.id, new.cases, [(0, 1, execution)],
        content=new.tests, build=new.build,
    )  # fmt: skip
    dispatcher.recorder.record(job, path)
    with dispatcher.store.read() as connection:
        (row,) = results.list_by_job(connection, job.id)
    assert (row.outcome, row.infrastructure) == ("error", True)
    assert row.message.startswith("the host has lost the output of the build command")
    dispatcher.reconciler.step()
    (again,) = dispatcher.planned_jobs()
    assert (again.attempt, again.host) == (2, "h2")
    assert dispatcher.build_detail().view.build.state is BuildState.BUILDING
    dispatcher.complete_job(again)
    dispatcher.reconciler.step()
    assert dispatcher.build_detail().view.build.state is BuildState.BUILT


def test_a_stage_run_shows_why_its_job_waits(dispatcher: SteppedDispatcher) -> None:
    dispatcher.poll_and_step()
    (job,) = dispatcher.planned_jobs()
    for reason, detail in (("no room", "waiting: h1: no room"), ("", "")):
        with dispatcher.store.write() as connection:
            assert jobs.set_detail(connection, job.id, reason)
        dispatcher.reconciler.step()
        assert dispatcher.run_details()["build"] == detail


def test_a_lost_part_runs_again_on_another_host_and_its_late_package_does_not_count(
    dispatcher: SteppedDispatcher,
) -> None:
    dispatcher.poll_and_step()
    (build,) = dispatcher.planned_jobs()
    dispatcher.complete_job(build)
    dispatcher.reconciler.step()
    first, second = dispatcher.planned_jobs()
    dispatcher.lose_job(first)
    dispatcher.reconciler.step()
    assert dispatcher.planned_jobs() == [second]
    assert dispatcher.run_details()["unit"].startswith(
        "running again: h1 was lost: no answer; waiting: needs 1 host;"
    )
    before = _dump(dispatcher)
    dispatcher.reconciler.step()
    assert _dump(dispatcher) == before
    with dispatcher.store.write() as connection:
        hosts.configure(connection, Host("h3", "popen"))
    dispatcher.reconciler.step()
    (again,) = [job for job in dispatcher.planned_jobs() if job.id != second.id]
    assert (again.host, again.part, again.attempt, again.tests) == ("h3", 0, 2, first.tests)
    dispatcher.complete_job(first)
    for job in (second, again):
        dispatcher.complete_job(job)
    dispatcher.reconciler.step()
    assert dispatcher.run_states()["unit"] == "passed"
    with dispatcher.store.read() as connection:
        late = jobs.get(connection, first.id)
    assert late
    assert (late.state, len(late.package_digest)) == (JobState.LOST, 64)
    (tag,) = dispatcher.build_detail().tags
    assert set(tag.jobs) == {second.id, again.id}
    run = next(run for run in dispatcher.build_detail().view.runs if run.stage == "unit")
    assert run.hosts_lost == 1


def test_peers_of_a_lost_job_are_stopped_and_all_run_again(dispatcher: SteppedDispatcher) -> None:
    write_config(dispatcher, stage_toml("unit", "hosts = 2", 'mode = "together"'))
    dispatcher.poll_and_step()
    first, second = dispatcher.planned_jobs()
    new, _ = dispatcher.builder.prepare(second)
    environment = dict(new.config.environment)
    assert (environment["NOSEJOBS_PEERS"], environment["NOSEJOBS_PEER"]) == (
        "127.0.0.1,127.0.0.1",
        "1",
    )
    dispatcher.lose_job(first)
    dispatcher.reconciler.step()
    assert dispatcher.last_result.stop == {second.id}
    dispatcher.complete_job(second, end_reason="canceled")
    with dispatcher.store.write() as connection:
        hosts.record_contact(connection, "h1", 2.0)
    dispatcher.reconciler.step()
    assert [(job.part, job.attempt) for job in dispatcher.planned_jobs()] == [(0, 2), (1, 2)]
    assert dispatcher.last_result.stop == set()


def test_a_stage_that_waits_for_hosts_names_what_it_needs(dispatcher: SteppedDispatcher) -> None:
    write_config(dispatcher, stage_toml("unit", 'labels = ["gpu"]'))
    dispatcher.poll_and_step()
    assert dispatcher.run_states() == {"unit": "placing"}
    assert dispatcher.run_details()["unit"].startswith(
        "can never be placed: needs 1 host with label gpu, and there are none; the dispatcher has "
    )
    assert dispatcher.last_result.unplaced == []
    down = Host("h3", "popen", ("gpu",), state=HostState.DOWN, reason="not connected yet")
    with dispatcher.store.write() as connection:
        hosts.configure(connection, down)
    dispatcher.reconciler.step()
    assert dispatcher.run_details()["unit"].startswith(
        "needs 1 host with label gpu; none matches; h3 is down (not connected yet)"
    )
    assert [(each.missing, each.labels) for each in dispatcher.last_result.unplaced] == [
        (1, ("gpu",))
    ]
    with dispatcher.store.write() as connection:
        hosts.record_contact(connection, "h3", 2.0)
    dispatcher.reconciler.step()
    assert [job.host for job in dispatcher.planned_jobs()] == ["h3"]
    assert dispatcher.run_details() == {"unit": ""}


def test_a_stage_that_can_never_be_placed_keeps_no_other_build_waiting(
    dispatcher: SteppedDispatcher,
) -> None:
    """A pool without hosts brings up one for the next build only when that has begun."""
    dispatcher.settings = replace(dispatcher.settings, pools=(Pool("here", max_hosts=2),))
    dispatcher.start()
    with dispatcher.store.write() as connection:
        for name in ("h1", "h2"):
            hosts.mark_down(connection, name, "no answer")
    write_config(dispatcher, stage_toml("unit", 'labels = ["gpu"]'))
    dispatcher.poll_and_step()
    assert dispatcher.run_details()["unit"].startswith("can never be placed")
    write_config(dispatcher, stage_toml("unit"))
    dispatcher.source.revision = "2" * 40
    dispatcher.poll_and_step()
    assert dispatcher.build_detail(2).view.build.state is BuildState.BUILT
    assert [each.missing for each in dispatcher.last_result.unplaced] == [1]


def test_a_build_command_is_lost_once_then_given_up(dispatcher: SteppedDispatcher) -> None:
    dispatcher.poll_and_step()
    for attempt in (1, 2):
        (job,) = dispatcher.planned_jobs()
        assert (job.attempt, job.host) == (attempt, f"h{attempt}")
        dispatcher.lose_job(job)
        dispatcher.reconciler.step()
    view = dispatcher.build_detail().view
    assert view.build.state is BuildState.FAILED
    assert view.build.detail.endswith("was lost: no answer; it was run again 1 time")
    assert [str(run.state) for run in view.runs] == ["error"]


# -- bursts, canceling, building again ------------------------------------------------


def test_newer_changes_supersede_new_builds_while_hosts_are_busy(
    dispatcher: SteppedDispatcher,
) -> None:
    write_config(dispatcher, stage_toml("unit"))
    for number in "12345678":
        dispatcher.source.revision = number * 40
        dispatcher.poll_and_step()
    states = {number: dispatcher.build_detail(number).view.build.state for number in range(1, 9)}
    begun = [number for number, state in states.items() if state is BuildState.BUILT]
    assert begun == [1, 2, 3, 4]
    assert [states[number] for number in (5, 6, 7)] == [BuildState.SUPERSEDED] * 3
    assert states[8] is BuildState.NEW
    dispatcher.run_to_end()
    assert dispatcher.run_states(8) == {"unit": "passed"}


def test_a_canceled_build_command_is_a_failed_build_that_can_be_built_again(
    dispatcher: SteppedDispatcher,
) -> None:
    dispatcher.poll_and_step()
    (run,) = dispatcher.build_detail().view.runs
    with dispatcher.store.write() as connection:
        fields = {"detail": "canceled by ann", "ended_at": 2.0}
        assert stage_runs.apply_event(connection, run.id, StageEvent.CANCEL, **fields)
    dispatcher.reconciler.step()
    build = dispatcher.build_detail().view.build
    assert (build.state, build.detail) == (BuildState.FAILED, "canceled by ann")
    with dispatcher.store.write() as connection:
        assert builds.apply_event(connection, 1, BuildEvent.BEGIN, ended_at=None)
        again = type(run)(0, 1, "build", 2, state=StageState.PLACING)
        assert stage_runs.add(connection, again)
    dispatcher.run_to_end()
    assert dispatcher.build_detail().view.build.level == "good"


# -- packages and trees ---------------------------------------------------------------


def test_a_package_that_is_another_jobs_is_refused(dispatcher: SteppedDispatcher) -> None:
    dispatcher.poll_and_step()
    (job,) = dispatcher.planned_jobs()
    new, _ = dispatcher.builder.prepare(job)
    other = new._replace(id="00000000-0000-4000-8000-000000000001")
    path = package_factories.write_job_package(dispatcher.folder / "other.zip", other)
    with pytest.raises(HostError, match=r"is refused: .*it belongs to another job"):
        dispatcher.recorder.record(job, path)
    with dispatcher.store.read() as connection:
        assert jobs.list_in_state(connection, JobState.PLANNED) == [job]
        assert results.list_by_job(connection, job.id) == []


@pytest.mark.parametrize("begins", [False, True])
def test_a_package_of_other_tests_or_another_build_is_refused(
    dispatcher: SteppedDispatcher, begins: bool
) -> None:
    """The package names its job; ``begins``: another process submitted the job."""
    dispatcher.poll_and_step()
    dispatcher.complete_job(dispatcher.planned_jobs()[0])
    dispatcher.reconciler.step()
    job = dispatcher.planned_jobs()[0]
    new, _ = dispatcher.builder.prepare(job)
    assert new.build is not None
    (case, *rest) = new.cases
    contradictions = (
        new._replace(cases=()),
        new._replace(cases=(case._replace(nodeid="tests/unit/test_z.sh"), *rest)),
        new._replace(build=new.build._replace(digest="0" * 64)),
        new._replace(tests=new.tests._replace(digest="0" * 64)),
    )
    if begins:
        dispatcher.start()
    for number, other in enumerate(contradictions):
        path = package_factories.write_job_package(dispatcher.folder / f"{number}.zip", other)
        with pytest.raises(HostError, match="is about other tests, or another build"):
            dispatcher.recorder.record(job, path)
    assert not dispatcher.build_detail().tags
    dispatcher.complete_job(job)


def test_a_package_that_comes_twice_counts_once(dispatcher: SteppedDispatcher) -> None:
    dispatcher.poll_and_step()
    (job,) = dispatcher.planned_jobs()
    dispatcher.complete_job(job)
    dispatcher.complete_job(job)
    with dispatcher.store.read() as connection:
        assert len(results.list_by_job(connection, job.id)) == 1


def test_a_tree_left_incomplete_by_a_crash_is_written_again(dispatcher: SteppedDispatcher) -> None:
    dispatcher.poll_and_step()
    revision = dispatcher.source.revision
    (dispatcher.trees.path("here", revision) / "app").write_bytes(b"")
    dispatcher.start()
    (job,) = dispatcher.planned_jobs()
    new, _ = dispatcher.builder.prepare(job)
    assert new.tests.digest == dispatcher.build_detail().view.build.tree_digest


def test_a_task_with_a_temporary_error_is_retried(
    dispatcher: SteppedDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(28, "No space left on device")

    def checkout(revision: str, folder: Path) -> None:
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(dispatcher.source, "checkout", checkout)
        dispatcher.watcher.poll()
        dispatcher.reconciler.step()
    build = dispatcher.build_detail().view.build
    assert (build.state, build.detail) == (
        BuildState.NEW,
        "waiting: OSError: [Errno 28] No space left on device",
    )
    monkeypatch.setattr("dispatcher.reconciler.background_tasks.time.monotonic", lambda: 1e12)
    dispatcher.reconciler.step()
    assert dispatcher.build_detail().view.build.state is BuildState.BUILDING


def test_results_are_kept_only_while_a_decision_needs_them(dispatcher: SteppedDispatcher) -> None:
    tasks = dispatcher.reconciler._tasks
    dispatcher.poll_and_step()
    dispatcher.reconciler.step()
    assert {task.stage.name for task in tasks.results()} == {"unit", "smoke"}
    dispatcher.run_to_end()
    assert dispatcher.build_detail().view.build.level == "good"
    assert tasks.results() == {}


def test_a_task_that_is_requested_twice_runs_once() -> None:
    tasks, calls = BackgroundTasks(lambda: None), []
    for _ in range(2):
        assert tasks.request("a", lambda: calls.append(1) or "there") is None
    assert tasks.run_requested() == 1
    assert tasks.request("a", lambda: "else") == "there"
    assert (tasks.run_requested(), calls) == (0, [1])


def test_a_build_of_a_tree_that_cannot_be_written_fails_each_time_it_is_requested(
    dispatcher: SteppedDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(revision: str, folder: Path) -> None:
        raise SourceError("the link x leads out of the tree")

    monkeypatch.setattr(dispatcher.source, "checkout", refuse)
    dispatcher.poll_and_step()
    with dispatcher.store.write() as connection:
        user_actions.rerun(connection, 1, "build", user_actions.Attribution("ann"))
    dispatcher.reconciler.step()
    assert dispatcher.build_detail().view.build.state is BuildState.FAILED
    assert dispatcher.run_states() == {"build": "failed"}
    with dispatcher.store.read() as connection:
        assert builds.list_active_ids(connection) == []
