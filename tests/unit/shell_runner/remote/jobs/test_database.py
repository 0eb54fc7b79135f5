"""Tests of the file of a queue that is damaged, newer, full, removed or elsewhere."""

import errno
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shell_runner.remote.jobs import database
from shell_runner.remote.jobs.queue import Queue, RequestRefused, State
from tests.helpers.queue_factories import CODE, WORKER, make_content, make_job, submit_job

PAGE = 4096
#: Suffixes of the files that SQLite creates beside a database.
_BESIDE = ("-wal", "-shm")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Make a folder with the queue of some jobs, which no process uses, and with files of jobs."""
    with Queue(str(tmp_path)) as queue:
        for number in range(50):
            submit_job(queue, name=str(number), tests=make_content("a"))
    for name in ("contents", "packages"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one").write_text(name)
    return tmp_path


def used(queue: Queue) -> None:
    """Use the queue as a worker and a client do first."""
    queue.register_worker(WORKER, CODE, 1.0)
    submit_job(queue)
    queue.list_jobs()


def refusal(folder: Path, use: Callable[[Queue], None] = used) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught, Queue(str(folder)) as queue:
        use(queue)
    return caught.value


def set_aside(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.glob("queue.db.corrupt-*")
        if path.suffix != ".notice" and path.suffix[-4:] not in ("-wal", "-shm")
    ]


# -- damaged ------------------------------------------------------------------------


def garbled(path: Path) -> None:
    path.write_bytes(b"this was a database" * 1000)


def without_header(path: Path) -> None:
    path.write_bytes(bytes(100) + path.read_bytes()[100:])


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_short(path: Path) -> None:
    os.truncate(path, 50)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def zeroed(path: Path) -> None:
    """Zero a page in the middle of the table of jobs."""
    with path.open("r+b") as file:
        file.seek(find_page(path))
        file.write(bytes(PAGE))


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(find_page(path))
        file.write(random.Random(1).randbytes(PAGE))


def find_page(path: Path) -> int:
    """Return the offset of a page of the table of jobs."""
    return path.read_bytes().index(b"install_timeout") // PAGE * PAGE


@pytest.mark.parametrize(
    "damage", [garbled, without_header, truncated, cut_short, emptied, zeroed, overwritten]
)
def test_a_damaged_file_is_set_aside(folder: Path, damage: Callable[[Path], None]) -> None:
    path = folder / "queue.db"
    damage(path)
    before = path.read_bytes()
    refused = refusal(folder)
    (place,) = set_aside(folder)
    assert refused.kind == "corrupt"
    assert f"{path} was damaged" in refused.message
    assert f"has been renamed to {place}; contents and packages stay" in refused.message
    assert place.read_bytes()[: len(before)] == before
    assert (folder / "contents" / "one").read_text() == "contents"
    assert (folder / "packages" / "one").read_text() == "packages"
    with Queue(str(folder)) as queue:
        used(queue)
        assert sum(queue.count_jobs().values()) == 1


@pytest.mark.parametrize("damage", [truncated, zeroed, overwritten])
def test_damage_is_found_in_use(folder: Path, damage: Callable[[Path], None]) -> None:
    def use(queue: Queue) -> None:
        queue._db.query("PRAGMA wal_checkpoint(TRUNCATE)")
        damage(folder / "queue.db")
        queue._db.query("PRAGMA cache_size = 1")
        for job in range(1, 51):
            queue.get_tests(job)
            queue.is_cancel_requested(job)
        queue.list_jobs(limit=1000)

    assert refusal(folder, use).kind == "corrupt"
    assert len(set_aside(folder)) == 1
    with Queue(str(folder)) as queue:
        assert queue.list_jobs() == []


def test_the_queue_goes_on_with_a_new_file(folder: Path) -> None:
    with Queue(str(folder)) as queue:
        queue._db.close()
        garbled(folder / "queue.db")
        with pytest.raises(RequestRefused, match="damaged"):
            queue.list_jobs()
        job = submit_job(queue)
        assert queue.list_jobs() == [job]


def test_two_files_that_are_set_aside_at_once_have_two_names(folder: Path) -> None:
    for _ in range(3):
        garbled(folder / "queue.db")
        assert refusal(folder).kind == "corrupt"
        with Queue(str(folder)):
            pass
    assert len(set_aside(folder)) == 3


def test_the_log_goes_with_the_file(folder: Path) -> None:
    """SQLite would apply the old write-ahead log to a new file."""
    garbled(folder / "queue.db")
    (folder / "queue.db-wal").write_bytes(b"log")
    with pytest.raises(RequestRefused) as caught:
        Queue(str(folder))
    (place,) = set_aside(folder)
    assert str(place) in caught.value.message
    assert not (folder / "queue.db-wal").exists()


def test_no_process_writes_into_a_file_that_was_set_aside(folder: Path) -> None:
    with Queue(str(folder)) as late, Queue(str(folder)) as other:
        late.list_jobs()
        with pytest.raises(RequestRefused), other._db.read_transaction():
            raise sqlite3.DatabaseError("database disk image is malformed")
        job = submit_job(other)
        with pytest.raises(RequestRefused, match="set aside or removed meanwhile") as caught:
            submit_job(late)
        assert caught.value.kind == "corrupt"
        assert late.list_jobs() == [job]


def test_closing_a_file_that_was_set_aside_keeps_the_new_log(folder: Path) -> None:
    late, other = Queue(str(folder)), Queue(str(folder))
    late.list_jobs()
    with pytest.raises(RequestRefused), other._db.read_transaction():
        raise sqlite3.DatabaseError("database disk image is malformed")
    job = submit_job(other)
    late.close()
    assert (folder / "queue.db-wal").stat().st_size > 0
    with Queue(str(folder)) as third:
        assert third.list_jobs() == other.list_jobs() == [job]
    other.close()


def test_a_removed_file_is_an_error_and_no_crash(folder: Path) -> None:
    with Queue(str(folder)) as queue:
        (folder / "queue.db").unlink()
        with pytest.raises(RequestRefused, match="removed meanwhile"):
            submit_job(queue)


def test_a_database_of_something_else_is_set_aside(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "queue.db")
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    assert "the database of another program" in refusal(tmp_path).message
    assert len(set_aside(tmp_path)) == 1


def test_a_queue_without_a_table_is_set_aside(folder: Path) -> None:
    other = sqlite3.connect(folder / "queue.db")
    other.execute("DROP TABLE outbox")
    other.close()
    assert "it has no table outbox" in refusal(folder).message
    assert len(set_aside(folder)) == 1


def test_an_empty_file_is_a_queue_that_was_never_made(tmp_path: Path) -> None:
    (tmp_path / "queue.db").touch()
    (tmp_path / "packages").mkdir()
    with Queue(str(tmp_path)) as queue:
        used(queue)
    assert set_aside(tmp_path) == []


def test_a_large_file_is_read_after_a_crash_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[object] = []
    monkeypatch.setattr("shell_runner.remote.jobs.queue._ALWAYS_CHECKED_BYTES", 0)
    monkeypatch.setattr(database.Database, "check", lambda self: checks.append(self))
    with Queue(str(folder)) as queue:
        queue.register_worker(WORKER, CODE, 1.0)
        assert len(checks) == 0
        # The worker was not deregistered, so it may have crashed.
        queue.register_worker(WORKER, CODE, 1.0)
        assert len(checks) == 1


# -- newer --------------------------------------------------------------------------


def made_newer(folder: Path) -> None:
    other = sqlite3.connect(folder / "queue.db")
    other.execute("CREATE TABLE new (x)")
    other.execute("PRAGMA user_version = 7")
    other.close()


def test_a_newer_schema_is_refused_by_its_number(folder: Path) -> None:
    made_newer(folder)
    refused = refusal(folder)
    assert refused.kind == "newer"
    assert (
        f"{folder}/queue.db has schema version 7, this nosejobs supports up to 1" in refused.message
    )
    assert set_aside(folder) == []


def test_a_schema_that_becomes_newer_is_not_written_to(folder: Path) -> None:
    with Queue(str(folder)) as queue:
        job = queue.list_jobs(limit=1)[0]
        made_newer(folder)
        with pytest.raises(RequestRefused, match="version 7") as caught:
            queue.cancel(job, 1.0)
        assert caught.value.kind == "newer"
        assert queue.find(job.id) == job


def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 7, 17))
    with pytest.raises(RequestRefused, match=r"jobs need SQLite >= 3\.22\.0"):
        Queue(str(tmp_path))


# -- the disk -----------------------------------------------------------------------


def test_a_full_disk_is_an_error_that_says_so(folder: Path) -> None:
    with Queue(str(folder)) as queue:
        before = queue.count_jobs()
        (pages,) = queue._db.query("PRAGMA page_count")[0]
        queue._db.query(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OSError, match=r"queue of jobs cannot be used .*full") as caught:
            queue.submit(make_job(500), CODE, 1.0)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, f"{folder}/queue.db")
        assert queue.count_jobs() == before
        queue._db.query(f"PRAGMA max_page_count = {pages * 10}")
        submit_job(queue)


def test_waiting_too_long_for_a_lock_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY_TIMEOUT", 0.0)
    with Queue(str(folder)) as queue, Queue(str(folder)) as other:
        with other._db.write_transaction(), pytest.raises(OSError, match="locked") as caught:
            submit_job(queue)
        assert caught.value.errno == errno.EBUSY
        submit_job(queue)


def test_a_folder_that_is_none_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "queue.db").mkdir()
    for name in ("missing", "file", "taken"):
        with pytest.raises(
            RequestRefused, match=f"{tmp_path}/{name}/queue.db cannot be written"
        ) as caught:
            Queue(str(tmp_path / name))
        assert caught.value.kind == "read-only"


def test_free_pages_are_returned_to_the_disk(tmp_path: Path) -> None:
    with Queue(str(tmp_path)) as queue:
        job = queue.submit(make_job(20_000), CODE, 1.0)
        queue.cancel(job, 1.0)
        queue.record_package(job.number, "d", 1, 1.0)
        queue._db.query("PRAGMA wal_checkpoint(TRUNCATE)")
        before = queue._db.get_size()
        queue.forget(job, force=True)
        queue._db.query("PRAGMA wal_checkpoint(TRUNCATE)")
        assert queue._db.get_size() < before / 4


# -- processes ------------------------------------------------------------------------


def test_a_fork_carries_no_connection_along(folder: Path) -> None:
    with Queue(str(folder)) as queue:
        before = queue.count_jobs()[State.QUEUED]
        child = os.fork()
        if not child:
            try:
                submit_job(queue)
                queue.close()
            finally:
                os._exit(0 if queue.list_jobs(limit=1)[0].name == "" else 1)
        assert queue._db._db is None
        submit_job(queue)
        assert os.waitpid(child, 0)[1] == 0
        assert queue.count_jobs()[State.QUEUED] == before + 2
    assert not (folder / "queue.db-wal").exists()
