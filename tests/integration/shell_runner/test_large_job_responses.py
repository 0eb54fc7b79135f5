"""Tests of responses about jobs that are larger than a host may send at once.

The host is behind the frame guard, as all hosts but popen are.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from shell_runner.errors import JobRefused
from shell_runner.hosts import spec as hosts
from shell_runner.jobs import results
from shell_runner.jobs.client import JobClient
from shell_runner.remote.jobs import queue, queue_location
from shell_runner.remote.protocol.frames import MAX_MESSAGE_BYTES
from shell_runner.remote.protocol.job import MAX_LABELS, MAX_NAME_CHARS
from tests.helpers.job_hosts import prepare_job, submit_job, write_script
from tests.nasty.corpus import PROGRAMS

pytestmark = pytest.mark.timeout(120)
#: A character that JSON encodes with twelve bytes.
WIDE = "\U0001f600"


@pytest.fixture
def tests(tmp_path: Path) -> Path:
    write_script(tmp_path / "tests", "test_a.sh", "exit 1")
    return tmp_path / "tests"


@pytest.fixture
def guarded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobClient]:
    """Yield a client that reaches this machine by a command that stands for ssh."""
    # The limit of ssh's error file is not for the host, which sshd would start.
    script = 'ulimit -f unlimited\nfor last; do :; done\nexec sh -c "$last"'
    write_script(folder / "bin", "ssh", script)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    (spec,) = hosts.parse_specs([f"ssh=there//python={sys.executable}"], {})
    with JobClient(spec) as client:
        yield client


def queue_jobs(tests: Path, count: int) -> list[str]:
    """Queue jobs whose summaries have the maximum size; return their UUIDs."""
    labels = tuple(f"{number:02}" + WIDE * (MAX_NAME_CHARS - 2) for number in range(MAX_LABELS))
    ids = [str(uuid.uuid4()) for _ in range(count)]
    with queue.Queue(queue_location.find_queue_folder()) as there:
        for id in ids:
            job = prepare_job(tests, id).job._replace(name=WIDE * MAX_NAME_CHARS, labels=labels)
            # The code is missing, so that they end as refused.
            there.submit(job, "0" * 64, 0.0)
    return ids


def test_a_list_and_changes_of_more_bytes_than_a_message(guarded: JobClient, tests: Path) -> None:
    count = 2 + MAX_MESSAGE_BYTES // (MAX_LABELS * MAX_NAME_CHARS * 12)
    ids = queue_jobs(tests, count)
    listing = guarded.list_jobs(limit=1000)
    assert [job.id for job in listing.jobs] == ids[::-1]
    assert not listing.has_more
    assert [job.id for job in guarded.list_jobs(limit=count - 1).jobs] == ids[:0:-1]
    states, requests = dict.fromkeys(ids, "unknown"), 0
    while "unknown" in states.values():
        changes = guarded.await_changes(states, 20.0)
        states.update((job.id, job.state) for job in changes.jobs)
        requests += 1
        assert changes.jobs
    assert 1 < requests < count


@pytest.mark.parametrize("size", [1000, 20 << 20])
def test_the_details_of_a_job_with_a_large_description(
    guarded: JobClient, tests: Path, id: str, size: int
) -> None:
    """The description itself has no such limit; what is shown of it is cut."""
    ready = prepare_job(tests, id)
    (case,) = ready.job.cases
    pairs = tuple((f"A{number}", "x" * 900) for number in range(size // 1000))
    test = case.test._replace(env=pairs)
    names = tuple((f"{WIDE}{number}", "") for number in range(size // 1000))
    config = ready.job.config._replace(environment=names, install="#" + "y" * (size // 4))
    job = ready.job._replace(cases=(case._replace(test=test),), config=config)
    guarded.submit(job, ready.trees)
    guarded.wait(id)
    report = guarded.get_job(id)
    assert report.failed_count == 1
    assert [(test.nodeid, test.outcome) for test in report.failed] in (
        [("test_a.sh", "failed")],
        [("test_a.sh", "error")],  # a system limits the environment of a program
    )
    assert report.config["environment"][0] == [f"{WIDE}0", "..."]
    assert len(report.config["install"]) <= 2000
    guarded.forget(id, force=True)


def test_a_job_with_large_results(guarded: JobClient, tests: Path, id: str, folder: Path) -> None:
    """300 failing cases of 60 KB are more than the frame guard passes at once."""
    (tests / "test_large").write_text((PROGRAMS / "large_failures.py").read_text())
    (tests / "test_large").chmod(0o755)
    submit_job(guarded, tests, id)
    guarded.wait(id)
    report = guarded.get_job(id)
    assert [test.nodeid for test in report.failed] == ["test_a.sh", "test_large"]
    log = b"".join(chunk.data for chunk in guarded.read_log(id))
    assert b"test_large: failed" in log
    result = results.harvest(guarded, id, folder / "x.zip", None, folder / "j.xml", lambda *_: None)
    assert result[1].outcomes == {"failed": 2}
    assert (folder / "j.xml").stat().st_size > 16 << 20
    guarded.forget(id, force=True)


def test_a_refusal_does_not_repeat_a_large_request(guarded: JobClient, folder: Path) -> None:
    with pytest.raises(JobRefused, match=r"no job 'xxx") as caught:
        guarded.cancel("x" * (20 << 20))
    assert len(str(caught.value)) < 5000
    assert guarded.list_jobs().jobs == ()
