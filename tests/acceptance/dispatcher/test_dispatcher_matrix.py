"""Tests of failures of disk, database and clock, and of two dispatchers on one host.

There is a test for each row of the table in docs/failure.md.  They run a dispatcher without API in
this process, with real hosts, a real repository and a disk that is really full.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher.builds.blob_store import BlobStore
from dispatcher.model import BuildState, Decision, DecisionKind, JobState, StageState
from dispatcher.service import DATABASE_NAME, MIRRORS_NAME, Service
from dispatcher.store import StoreError, builds, changes, hosts, tags
from shell_runner.errors import NosejobsError
from shell_runner.remote.jobs import queue, queue_location
from tests.helpers import job_hosts
from tests.helpers.connection_fixtures import assert_no_threads
from tests.helpers.running_dispatcher import (
    BUILD,
    RunningDispatcher,
    SampleRepository,
    make_settings,
    stage_toml,
)
from tests.helpers.small_filesystem import SmallFilesystem

pytestmark = pytest.mark.timeout(120)
LEVELS = '[levels]\nship = ["unit"]\n'
DONE = JobState.ACKNOWLEDGED


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with job_hosts.isolate_state(tmp_path):
        yield tmp_path
    assert_no_threads()


@pytest.fixture
def tree(folder: Path) -> SampleRepository:
    repository = SampleRepository(folder / "tree", BUILD, ("unit",))
    repository.write_config(BUILD + stage_toml("unit") + LEVELS)
    return repository


@pytest.fixture
def data(folder: Path) -> Path:
    return folder / "data"


@pytest.fixture
def start(
    folder: Path, tree: SampleRepository, request: pytest.FixtureRequest
) -> Iterator[Callable[..., RunningDispatcher]]:
    """Return a function that starts a dispatcher, which runs until the end of the test."""
    timeouts = {"retry_delay": 0.1} if "fast_retries" in request.fixturenames else {}
    running: list[RunningDispatcher] = []

    def begin(where: Path = folder, of: SampleRepository = tree) -> RunningDispatcher:
        running.append(RunningDispatcher(make_settings(where, of.path), **timeouts))
        return running[-1].__enter__()

    yield begin
    for dispatcher in running:
        dispatcher.service.stop()


@pytest.fixture
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the delays before retries on a full disk; ``start`` does so for connections."""
    monkeypatch.setattr("dispatcher.builds.source_watcher.backoff", lambda failures: 0.1)
    monkeypatch.setattr("dispatcher.reconciler.background_tasks._TASK_RETRY_DELAY", 0.1)
    monkeypatch.setattr("dispatcher.reconciler.reconciler._FALLBACK_PASS_INTERVAL", 0.2)


def check_shipped(dispatcher: RunningDispatcher, revision: str) -> None:
    """Check that a build has the level ship, and that stages and tags are there once."""
    build = dispatcher.wait_for_level(revision, "ship")
    assert [(run.stage, run.number) for run in build.view.runs] == [("build", 1), ("unit", 1)]
    assert [job.attempt for job in build.jobs] == [1, 1]
    assert [tag.stage for tag in build.tags] == ["unit"]


# -- a full disk ------------------------------------------------------------------------


@pytest.fixture
def disk(data: Path) -> Iterator[SmallFilesystem]:
    data.mkdir()
    filesystem = SmallFilesystem(data, "16m")
    filesystem.mount()
    yield filesystem
    filesystem.unmount()


def partial_files(data: Path) -> list[str]:
    """Return the names of partial files."""
    signs = (".part", "tmp_")
    return [path.name for path in data.rglob("*") if any(sign in path.name for sign in signs)]


def source_error(dispatcher: RunningDispatcher) -> str:
    with dispatcher.store.read() as connection:
        (source,) = changes.list_sources(connection)
    return source.error


def test_disk_full_while_the_mirror_fetches(
    disk: SmallFilesystem,
    data: Path,
    tree: SampleRepository,
    start: Callable[..., RunningDispatcher],
    fast_retries: None,
) -> None:
    config = (tree.path / "nosejobs.toml").read_text()
    tree.write_config(stage_toml("unit", 'gate = "manual"'))
    first = tree.commit()
    dispatcher = start()
    dispatcher.wait_for_run(first, "unit", StageState.GATED)
    tree.write_config(config)
    (tree.path / "noise").write_bytes(os.urandom(1 << 20))
    second = tree.commit()
    disk.fill(leave=512 << 10)
    dispatcher.poke()
    while "No space left on device" not in source_error(dispatcher):
        dispatcher.store.changed.wait(dispatcher.store.changed.count(), 0.05)
    assert (data / MIRRORS_NAME / "here.git" / "refs").is_dir()
    disk.clear()
    check_shipped(dispatcher, second)  # though nobody pokes again
    assert source_error(dispatcher) == ""
    assert partial_files(data) == []


def test_disk_full_while_a_build_is_stored(
    disk: SmallFilesystem,
    data: Path,
    folder: Path,
    tree: SampleRepository,
    start: Callable[..., RunningDispatcher],
    fast_retries: None,
) -> None:
    """At first there is no room for the package, later none for the artifact."""
    noise = f"head -c 3000000 /dev/urandom > noise; echo > {folder}/begun"
    wait = f"while [ ! -e {folder}/go ]; do sleep 0.02; done"
    command = f'[build]\ncommand = "{noise}; {wait}"\noutput = "noise"\n'
    tree.write_config(command + stage_toml("unit") + LEVELS)
    revision = tree.commit()
    dispatcher = start()
    wait_until(lambda: (folder / "begun").exists())
    disk.fill(leave=256 << 10)
    (folder / "go").touch()
    full = "No space left on device"
    build = dispatcher.wait_until(revision, lambda build: full in build.view.runs[0].detail)
    assert build.view.runs[0].detail.startswith("waiting: h1: ")
    disk.clear()
    disk.fill(leave=5 << 20)
    build = dispatcher.wait_until(revision, lambda build: "waiting: " in build.view.build.detail)
    assert full in build.view.build.detail
    disk.clear()
    check_shipped(dispatcher, revision)
    assert partial_files(data) == []


def wait_until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.01)


def test_disk_full_while_a_tree_is_written_and_while_the_database_commits(
    disk: SmallFilesystem,
    data: Path,
    tree: SampleRepository,
    start: Callable[..., RunningDispatcher],
    fast_retries: None,
) -> None:
    """The source is fetched when there is only room for its objects."""
    (tree.path / "zeros").write_bytes(bytes(4 << 20))
    revision = tree.commit()
    service = Service(make_settings(data.parent, tree.path))
    service.stop()
    disk.fill(leave=2 << 20)
    dispatcher = start()
    build = dispatcher.wait_until(revision, lambda build: bool(build.view.build.detail))
    message = f"waiting: revision {revision[:12]} cannot be written: No space left on device"
    assert build.view.build.state is BuildState.NEW
    assert build.view.build.detail.startswith(message)
    disk.fill()
    with pytest.raises(StoreError, match="disk is full"):
        write_much(dispatcher)
    disk.clear()
    check_shipped(dispatcher, revision)
    assert partial_files(data) == []


def write_much(dispatcher: RunningDispatcher) -> None:
    for _ in range(100):
        with dispatcher.store.write() as connection:
            builds.update_fields(connection, 1, detail=os.urandom(2000).hex())


def test_what_a_killed_dispatcher_was_writing_goes_at_the_next_start(
    data: Path, folder: Path, tree: SampleRepository
) -> None:
    mirror = data / MIRRORS_NAME / "here.git"
    left = [
        data / f"{DATABASE_NAME}.schema-0001.part-123",
        mirror / "packed-refs.lock",
        mirror / "refs/heads/feature/main.lock",
        mirror / "objects/pack/tmp_pack_abc",
        mirror / "objects/ab/tmp_obj_abc",
        data / "trees/here/.part-x/file",
        data / "blobs/.part-y",
    ]
    stays = [mirror / "refs/heads/main", mirror / "objects/pack/pack-1.pack", data / "blobs/ab/cd"]
    for path in (*left, *stays):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (data / "blobs/ab/cd").unlink()
    service = Service(make_settings(folder, tree.path))
    service._recover()
    service.stop()
    assert [path for path in left if path.exists()] == []
    assert all(path.exists() for path in stays[:2])


# -- the database -----------------------------------------------------------------------


@pytest.fixture
def stored(data: Path, folder: Path, tree: SampleRepository) -> Path:
    """Return the database of a stopped dispatcher, with a file that it refers to."""
    Service(make_settings(folder, tree.path)).stop()
    BlobStore(data / "blobs").take(tree.write_script("result", "echo"))
    return data / DATABASE_NAME


def refusal(folder: Path, tree: SampleRepository) -> str:
    with pytest.raises(NosejobsError) as raised:
        Service(make_settings(folder, tree.path))
    return str(raised.value)


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(9000))


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _page(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(os.urandom(4096))


@pytest.mark.parametrize("harm", [_garbage, _truncated, _page])
def test_a_damaged_database_is_refused_and_left_as_it_is(
    stored: Path, folder: Path, tree: SampleRepository, harm: Callable[[Path], None]
) -> None:
    harm(stored)
    before = stored.read_bytes()
    message = refusal(folder, tree)
    assert message.startswith(f"database {stored} is damaged: ")
    assert "try: restore a backup" in message
    assert stored.read_bytes() == before


def test_a_newer_database_is_refused_by_its_version(
    stored: Path, folder: Path, tree: SampleRepository
) -> None:
    with closing(sqlite3.connect(stored)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert f"database {stored} has schema 9999, which is newer" in refusal(folder, tree)


@pytest.mark.parametrize("harm", [Path.unlink, Path.write_bytes])
def test_without_its_database_no_result_is_swept(
    stored: Path, folder: Path, tree: SampleRepository, harm: Callable[..., object]
) -> None:
    harm(stored, *([b""] if harm is Path.write_bytes else []))
    (blob,) = (folder / "data/blobs").glob("??/*")
    os.utime(blob, (0, 0))
    message = refusal(folder, tree)
    assert f"but {folder}/data/blobs has files of it" in message
    (folder / "data/blobs").rename(folder / "old")
    Service(make_settings(folder, tree.path)).stop()
    assert len(list((folder / "old").glob("??/*"))) == 1


# -- what it keeps ----------------------------------------------------------------------


def test_a_damaged_artifact_is_no_fault_of_a_host_and_is_built_anew(
    folder: Path,
    tree: SampleRepository,
    start: Callable[..., RunningDispatcher],
    fast_retries: None,
) -> None:
    inputs = BUILD + 'inputs = ["app"]\n'
    gated = stage_toml("unit", 'gate = "manual"', 'lost = "never"')
    tree.write_config(inputs + gated + LEVELS)
    first = tree.commit()
    dispatcher = start()
    build = dispatcher.wait_for_run(first, "unit", StageState.GATED).build
    artifact = dispatcher.find(first).view.build.artifact_digest  # type: ignore[union-attr]
    path = dispatcher.service.blobs.path(artifact)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with dispatcher.store.write() as connection:
        tags.record_decision(connection, Decision(build, "unit", DecisionKind.APPROVED, "ann", ""))
    run = dispatcher.wait_for_run(first, "unit", StageState.ERROR)
    assert f"the artifact {artifact[:12]} is no longer stored; build it again" in run.detail
    assert path.with_name(f"{path.name}.damaged").is_file()
    with dispatcher.store.read() as connection:
        assert [(host.consecutive_failures, host.state) for host in hosts.list_all(connection)] == [
            (0, "up")
        ]
    tree.write_config(inputs + stage_toml("unit") + LEVELS)
    second = tree.commit()
    dispatcher.poke()
    check_shipped(dispatcher, second)  # though its inputs are those of the first one
    assert dispatcher.service.blobs.verify(artifact)


# -- where and when ---------------------------------------------------------------------


def test_data_that_was_moved_and_a_clock_that_jumps(
    folder: Path, data: Path, tree: SampleRepository, start: Callable[..., RunningDispatcher],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The clock goes back an hour during the test of the next build, then forward a day."""
    first = tree.commit()
    with RunningDispatcher(make_settings(folder, tree.path)) as dispatcher:
        check_shipped(dispatcher, first)
    moved = folder / "elsewhere"
    moved.mkdir()
    shutil.move(data, moved / "data")
    real, jump = time.time, -3600.0
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    tree.write_test(
        "unit", f"echo > {folder}/begun; while [ ! -e {folder}/go ]; do sleep 0.02; done"
    )
    second = tree.commit()
    dispatcher = start(moved)
    wait_until((folder / "begun").exists)
    jump = 86_400.0
    (folder / "go").touch()
    check_shipped(dispatcher, second)
    assert dispatcher.find(first).view.build.level == "ship"  # type: ignore[union-attr]


def test_two_dispatchers_on_one_host_and_one_that_was_lost(
    folder: Path, data: Path, tree: SampleRepository
) -> None:
    """Each dispatcher has its own jobs; those of the lost one end, and stay on the host."""
    tree.write_test(
        "unit", f"echo > {folder}/begun; while [ ! -e {folder}/go ]; do sleep 0.02; done"
    )
    lost = tree.commit()
    with RunningDispatcher(make_settings(folder, tree.path)) as first:
        wait_until((folder / "begun").exists)
        (orphan,) = first.jobs(first.wait_for_run(lost, "unit", StageState.RUNNING))
    shutil.rmtree(data)
    (folder / "two").mkdir()
    other = SampleRepository(folder / "other", BUILD, ("unit",))
    other.write_config(BUILD + stage_toml("unit") + LEVELS)
    revision = other.commit()
    with RunningDispatcher(make_settings(folder / "two", other.path)) as second:
        (folder / "go").touch()
        check_shipped(second, revision)
        second.wait_until(revision, lambda found: {job.state for job in found.jobs} == {DONE})
    with queue.Queue(queue_location.find_queue_folder()) as there:
        assert there.get_states([orphan.id]) == {orphan.id: "ready"}
        assert there.count_jobs()[queue.State.READY] == 1
        assert there.count_jobs()[queue.State.HARVESTED] == 3


# -- the manual ------------------------------------------------------------------------


def test_every_row_is_in_the_manual(request: pytest.FixtureRequest) -> None:
    """The table in docs/failure.md names exactly the tests of this file."""
    text = (Path(__file__).parents[3] / "docs" / "failure.md").read_text()
    linked = set(re.findall(rf'^\[.+?\]: .*/{Path(__file__).name} "(.+)"$', text, re.MULTILINE))
    own = {name for name, each in globals().items() if name.startswith("test_") and callable(each)}
    assert linked == own - {request.node.name}
