"""Tests of what a host removes, and of what it never removes."""

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shell_runner.remote.files import cache_eviction
from shell_runner.remote.jobs import file_cleanup, paths
from shell_runner.remote.jobs.queue import EndReason, JobRow, RequestRefused
from shell_runner.remote.protocol.job import Identity
from tests.helpers.queue_host import QueueHost


@pytest.fixture
def host(tmp_path: Path) -> Iterator[QueueHost]:
    with QueueHost(tmp_path / "jobs") as made:
        for folder in (paths.workspace_path, paths.logs_path, paths.packages_path):
            os.makedirs(folder(made.folder))
        yield made


def ended(host: QueueHost, *, harvested: bool = True, size: int = 1000) -> JobRow:
    """Submit and run a job that leaves all kinds of files."""
    job = host.submit({"test_a": "true"})
    attempt = f"{job.number:08}-0000-0000-0000-000000000000"
    with host.queue() as queue:
        queue.claim(Identity(1, "1", ""), host.code, attempt, 0.0)
        queue.finish(attempt, EndReason.COMPLETED, "", 0.0)
        queue.record_package(job.number, "0" * 64, size, 0.0)
        if harvested:
            queue.acknowledge(job, "0" * 64, 0.0)
    os.makedirs(paths.workspace_path(host.folder, attempt) + "/tests")
    for path in files(host, attempt, job.id):
        Path(path).write_text("")
    return host.find(job)


def files(host: QueueHost, attempt: str, job: str) -> list[str]:
    return [
        paths.log_path(host.folder, attempt),
        paths.host_facts_path(host.folder, attempt),
        paths.kept_marker_path(host.folder, attempt),
        paths.package_path(host.folder, job),
    ]


def everything(host: QueueHost) -> set[str]:
    folders = (paths.workspace_path, paths.logs_path, paths.packages_path)
    return {name for folder in folders for name in os.listdir(folder(host.folder))}


def test_a_death_while_forgetting_leaves_no_file_without_a_row(
    host: QueueHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ended(host)

    def die(*_: object) -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    with host.queue() as queue:
        monkeypatch.setattr(queue, "forget", die)
        with pytest.raises(OSError, match="full"):
            file_cleanup.forget_job(queue, host.folder, job, force=False)
        assert everything(host) == set()
        assert [each.id for each in queue.list_jobs()] == [job.id]
        monkeypatch.undo()
        file_cleanup.forget_job(queue, host.folder, job, force=False)
        assert queue.list_jobs() == []


def test_a_job_that_may_not_be_forgotten_keeps_its_files(host: QueueHost) -> None:
    job = ended(host, harvested=False)
    before = everything(host)
    with host.queue() as queue, pytest.raises(RequestRefused, match="is not harvested"):
        file_cleanup.forget_job(queue, host.folder, job, force=False)
    assert everything(host) == before


def test_the_oldest_harvested_packages_go_with_all_their_files(host: QueueHost) -> None:
    jobs = [ended(host), ended(host, harvested=False), ended(host), ended(host)]
    with host.queue() as queue:
        queue.set_setting("kept_bytes", 1500)
        file_cleanup.forget_overdue_jobs(queue, host.folder)
        left = {job.id for job in queue.list_jobs()}
    assert left == {jobs[1].id, jobs[3].id}
    names = everything(host)
    assert {job.id for job in jobs if f"{job.id}.zip" in names} == left
    assert len(names) == 2 * 5


def test_a_workspace_that_is_not_kept_is_removed(host: QueueHost) -> None:
    kept = ended(host)
    attempt = host.attempts(kept)[0].id
    Path(paths.kept_marker_path(host.folder, attempt)).write_text(kept.id)
    for name in ("0-dead", "1-forgotten"):
        os.mkdir(paths.workspace_path(host.folder, name))
    Path(paths.kept_marker_path(host.folder, "1-forgotten")).write_text(
        "ffffffff-0000-0000-0000-000000000000"
    )
    with host.queue() as queue:
        file_cleanup.remove_unused_workspaces(queue, host.folder)
    assert set(os.listdir(paths.workspace_path(host.folder))) == {attempt, f"{attempt}.kept"}


def blobs(host: QueueHost) -> set[str]:
    folder = Path(paths.contents_path(host.folder), cache_eviction.BLOBS_FOLDER)
    return {path.parent.name + path.name for path in folder.rglob("*") if path.is_file()}


def add(host: QueueHost, data: bytes, age: float) -> str:
    digest = hashlib.sha256(data).hexdigest()
    host.store.add(digest, data)
    then = time.time() - age
    os.utime(host.store.path(digest), (then, then))
    return digest


def test_contents_that_jobs_need_are_never_swept(host: QueueHost) -> None:
    host.submit({"test_a": "true"}, build=host.archive(b"a build"))
    needed = blobs(host)
    assert len(needed) == 4, "a build, a script, a manifest and its part"
    for path in map(host.store.path, needed):
        os.utime(path, (1, 1))
    old, new = add(host, b"1" * 5000, 900), add(host, b"2" * 5000, 10)
    with host.queue() as queue:
        queue.set_setting("contents_bytes", 8192)
        assert file_cleanup.evict_contents(queue, host.folder) == 1
        assert blobs(host) == needed | {new}
        assert old not in blobs(host)
        queue.set_setting("contents_bytes", 0)
        file_cleanup.evict_contents(queue, host.folder)
    assert blobs(host) == needed


def test_contents_are_not_swept_while_some_arrive(host: QueueHost) -> None:
    digest = add(host, b"1" * 5000, 900)
    host.store.acquire()
    with host.queue() as queue:
        queue.set_setting("contents_bytes", 0)
        assert file_cleanup.evict_contents(queue, host.folder) == 0
        host.store.release()
        assert blobs(host) == {digest}
        assert file_cleanup.evict_contents(queue, host.folder) == 1


def test_old_code_goes_unless_a_job_waits_for_it(host: QueueHost) -> None:
    wanted, old = host.install({"x.py": b"1"}), host.install({"x.py": b"2"})
    fresh = host.install({"x.py": b"3"})
    for digest in (wanted, old, host.code):
        os.utime(paths.code_path(host.folder, digest), (1, 1))
    with host.queue() as queue:
        for _ in range(3):
            host.submit({}, code=wanted)
        file_cleanup.remove_unused_code(queue, host.folder, host.code)
    assert set(os.listdir(paths.code_path(host.folder))) == {wanted, fresh, host.code}
