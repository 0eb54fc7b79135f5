"""Tests of the client's record of submitted jobs and their hosts."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from shell_runner.errors import UsageError
from shell_runner.hosts.spec import HostSpec
from shell_runner.jobs import submitted_jobs
from shell_runner.jobs.submitted_jobs import SubmittedJob

A = "aaaa1111-0000-4000-8000-000000000000"
B = "aaaa2222-0000-4000-8000-000000000000"
HOST = HostSpec("h1", "agent", 2, "h1", labels=("x", "y"), port=7422, name="host")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "nosejobs" / "submitted"


def test_what_was_recorded_is_found_by_the_beginning_of_its_name() -> None:
    now = time.time()
    submitted_jobs.add(SubmittedJob(A, HOST, now, "night"))
    submitted_jobs.add(SubmittedJob(B, HOST, now + 1))
    assert submitted_jobs.find("aaaa1") == SubmittedJob(A, HOST, now, "night")
    assert submitted_jobs.find(B) == SubmittedJob(B, HOST, now + 1)
    assert submitted_jobs.find("bbbb") is None
    assert [record.id for record in submitted_jobs.list_all()] == [B, A]
    with pytest.raises(UsageError, match=f"several jobs begin with 'aaaa': {A}, {B}"):
        submitted_jobs.find("aaaa")
    submitted_jobs.remove(A)
    submitted_jobs.remove(A)
    assert submitted_jobs.find("aaaa") == SubmittedJob(B, HOST, now + 1)


def test_nothing_is_recorded_at_first() -> None:
    assert submitted_jobs.find("aaaa") is None
    assert submitted_jobs.list_all() == []


def test_files_of_a_host_are_found_from_other_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.pem").write_text("")
    submitted_jobs.add(SubmittedJob(A, replace(HOST, credentials="my.pem"), time.time()))
    submitted = submitted_jobs.find(A)
    assert submitted is not None
    assert submitted.host.credentials == str(tmp_path / "my.pem")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"host": {}, "submitted_at": 1, "name": ""}', "\xff"]
)
def test_a_spoilt_record_is_none(folder: Path, text: str) -> None:
    submitted_jobs.add(SubmittedJob(A, HOST, 1.0))
    (folder / f"{A}.json").write_text(text)
    assert submitted_jobs.find(A) is None
    assert submitted_jobs.list_all() == []


def test_a_year_is_enough(folder: Path) -> None:
    submitted_jobs.add(SubmittedJob(A, HOST, time.time() - 400 * 86_400))
    assert submitted_jobs.list_all() == []
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "nosejobs").write_text("a file is in the way")
    with pytest.raises(UsageError, match=r"cannot write .*submitted"):
        submitted_jobs.add(SubmittedJob(A, HOST, 1.0))
