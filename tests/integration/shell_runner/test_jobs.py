"""The client against a real desk, a real queue and a real worker on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import threading
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shell_runner.errors import HostError, JobRefused, UsageError
from shell_runner.hosts import spec as hosts
from shell_runner.jobs import client as jobs
from shell_runner.jobs import results, session
from shell_runner.jobs.client import JobClient
from shell_runner.jobs.jobfile import Description
from shell_runner.jobs.log_position import LogMismatch, LogPosition
from shell_runner.jobs.session import Session
from shell_runner.jobs.submission import prepare
from shell_runner.remote.jobs import paths, queue
from shell_runner.remote.jobs.package_reader import open_package
from shell_runner.remote.protocol.job import Content
from tests.helpers import job_hosts
from tests.helpers.job_hosts import POPEN, prepared, script, submit
from tests.helpers.sshd import Sshd
from tests.integration.shell_runner.test_old_pythons import interpreters, versions

pytestmark = pytest.mark.timeout(120)
START = LogPosition()


@pytest.fixture
def tests(tmp_path: Path) -> Path:
    script(tmp_path / "tests", "test_a.sh", "echo hello")
    script(tmp_path / "tests", "test_b.sh", "echo broken >&2; exit 3")
    return tmp_path / "tests"


def harvested(client: JobClient, id: str, path: Path) -> results.Harvested:
    return results.harvest(client, id, path, None, None, lambda done, total: None)[1]


# -- the whole way -------------------------------------------------------------------


def test_a_job_runs_and_is_harvested(client: JobClient, tests: Path, id: str, folder: Path) -> None:
    assert submit(client, tests, id).state in ("queued", "running")
    done = client.wait(id)
    assert (done.id, done.state, done.how) == (id, "ready", "completed")
    assert (done.count, dict(done.outcomes)) == (2, {"passed": 1, "failed": 1})
    into, xml = folder / "into", folder / "j.xml"
    found = results.harvest(client, id, folder / "x.zip", into, xml, lambda done, total: None)[1]
    assert b"hello" in (into / "log.txt").read_bytes()
    assert 'name="test_b.sh"' in xml.read_text()
    assert [(each.nodeid, each.words) for each in found.failed] == [("test_b.sh", "exit 3")]
    assert (found.how, found.outcomes, found.status) == ("completed", {"passed": 1, "failed": 1}, 1)
    assert client.acknowledge(id, done.package).state == "harvested"


def test_it_runs_when_nobody_is_connected(tests: Path, id: str, folder: Path) -> None:
    os.mkfifo(folder / "gate")
    script(tests, "test_b.sh", f"cat {folder}/gate")
    with JobClient(POPEN) as client:
        submit(client, tests, id)
    (folder / "gate").write_text("open\n")  # waits for the test
    with JobClient(POPEN) as client:
        assert dict(client.wait(id).outcomes) == {"passed": 2}


def test_a_report_says_why(client: JobClient, tests: Path, id: str) -> None:
    submit(client, tests, id, environment=(("A", "1"),), secret="geheim", notify="http://[::1]:1/")
    client.wait(id)
    report = client.job(id[:8])
    assert [(t.nodeid, t.outcome, t.words) for t in report.failed] == [
        ("test_b.sh", "failed", "exit 3")
    ]
    assert [(each.number, each.step) for each in report.attempts] == [(1, "ended")]
    assert report.config["environment"] == [["A", "..."]]
    assert "geheim" not in repr(dataclasses.asdict(report))
    client.forget(id, force=True)  # and with it the outbox has nobody to tell for long


def test_the_same_contents_travel_once(client: JobClient, tests: Path, id: str) -> None:
    (tests / "data").write_bytes(os.urandom(300_000))
    ready = prepared(tests, id)
    _, (first,) = client.submit(ready.job, ready.trees)
    again = prepared(tests, str(uuid.uuid4()))
    _, (second,) = client.submit(again.job, again.trees)
    assert first.files == 3
    assert (second.files, second.wire < 200) == (0, True)


def test_to_hand_in_again_is_to_hand_in_once(client: JobClient, tests: Path, id: str) -> None:
    first = submit(client, tests, id)
    client.close()  # the answer was lost, perhaps
    assert submit(client, tests, id).number == first.number
    with pytest.raises(JobRefused, match="is another one"):
        submit(client, tests, id, retries=1)
    assert len(client.jobs().jobs) == 1


def test_contents_go_on_where_a_connection_broke(client: JobClient, tests: Path, id: str) -> None:
    (tests / "data").write_bytes(os.urandom(6 << 20))
    ready = prepared(tests, id)
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done > 3 << 20 and not killed:
            killed.extend(job_hosts.pids())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    _, brought = client.submit(ready.job, ready.trees, kill)
    assert killed
    assert sum(each.wire for each in brought) < 6 << 20, "not all of it again"
    assert client.wait(id).how == "completed"


def test_contents_that_are_not_there_are_no_job(client: JobClient, tests: Path, id: str) -> None:
    ready = prepared(tests, id)
    with pytest.raises(JobRefused, match="are not on this host"):
        client.submit(ready.job)
    gone = Content("archive", "a" * 64, 3, "a.zip")
    with pytest.raises(JobRefused, match=r"a\.zip are not on this host"):
        client.submit(ready.job._replace(build=gone), ready.trees)
    assert client.jobs().jobs == ()


def test_archives_are_contents_too(client: JobClient, tests: Path, id: str, folder: Path) -> None:
    packed = shutil.make_archive(str(folder / "t"), "gztar", tests)
    (folder / "build").mkdir()
    (folder / "build" / "tool").write_text("made")
    build = shutil.make_archive(str(folder / "b"), "zip", folder / "build")
    ready = prepared(Path(packed), id)
    assert ready.job.tests.kind == "archive"
    other = prepare(Description(Path(packed), Path(build)), POPEN, id)
    client.submit(other.job, other.trees)
    assert dict(client.wait(id).outcomes) == {"passed": 1, "failed": 1}


def test_what_cannot_be_a_job_is_seen_here(tests: Path, id: str, folder: Path) -> None:
    (folder / "x.zip").write_bytes(b"PK\3\4 no zip at all")
    (folder / "empty").mkdir()
    for path, words in (("x.zip", "x.zip: "), ("empty", "no tests were found")):
        with pytest.raises(UsageError, match=words):
            prepared(folder / path, id)
    (tests / "test_c.sh").write_text("#!/bin/sh\n")
    with pytest.raises(UsageError, match=r"cannot run:\n  test_c\.sh: "):
        prepared(tests, id)


def test_a_build_is_sent_as_it_is(tests: Path, id: str, folder: Path) -> None:
    """Git ignores most builds, and some have folders that no source tree should have."""
    build = folder / "build"
    (build / "venv").mkdir(parents=True)
    (build / "venv" / "x").write_text("")
    (build / ".gitignore").write_text("*")
    ready = prepare(Description(tests, build), POPEN, id)
    assert [entry.path for entry in ready.trees[0].entries] == [".gitignore", "venv/x"]


# -- looking and changing ------------------------------------------------------------


def test_a_list_is_of_what_is_asked_for(client: JobClient, tests: Path) -> None:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    for number, id in enumerate(ids):
        ready = prepared(tests, id)
        labels = ("odd",) if number % 2 else ()
        client.submit(ready.job._replace(labels=labels, name=f"job {number}"), ready.trees)
    client.wait(ids[2])
    assert [job.name for job in client.jobs().jobs] == ["job 2", "job 1", "job 0"]
    assert [job.id for job in client.jobs(label="odd").jobs] == [ids[1]]
    assert [job.id for job in client.jobs(limit=1).jobs] == [ids[2]]
    assert client.jobs(states=["harvested"]).jobs == ()
    assert client.jobs().counts["ready"] == 3


def test_cancelled_tests_are_accounted_for(
    client: JobClient, tests: Path, id: str, folder: Path
) -> None:
    os.mkfifo(folder / "gate")
    script(tests, "test_b.sh", f"echo here >{folder}/gate; exec sleep 1000")
    submit(client, tests, id)
    (folder / "gate").read_text()
    assert client.cancel(id).cancelled
    assert client.wait(id).how == "cancelled"
    found = harvested(client, id, folder / "x.zip")
    assert (found.outcomes["passed"], sum(found.outcomes.values()), found.status) == (1, 2, 6)


def test_nothing_is_left_of_a_forgotten_job(client: JobClient, tests: Path, id: str) -> None:
    submit(client, tests, id)
    client.wait(id)
    log = job_hosts.log_file()
    with pytest.raises(JobRefused, match="nobody has harvested"):
        client.forget(id)
    client.forget(id, force=True)
    with pytest.raises(JobRefused, match="no job of this host"):
        client.job(id)
    assert not log.exists()
    assert not Path(paths.package(queue.folder(), id)).exists()


def test_failed_tests_run_again_in_the_same_contents(
    client: JobClient, tests: Path, id: str
) -> None:
    submit(client, tests, id, retries=1)
    client.wait(id)
    script(tests, "test_b.sh", "exit 0")  # nobody looks at it any more
    new = str(uuid.uuid4())
    assert client.rerun(id, new, [], failed=True).count == 1
    assert dict(client.wait(new).outcomes) == {"failed": 1}
    assert client.job(new).config["retries"] == 1
    third = str(uuid.uuid4())
    assert client.rerun(id, third, ["*a.sh"], failed=False).count == 1
    assert dict(client.wait(third).outcomes) == {"passed": 1}
    with pytest.raises(JobRefused, match=r"no test 'test_x.sh'; did you mean 'test_[ab].sh'"):
        client.rerun(id, str(uuid.uuid4()), ["test_x.sh"], failed=False)
    with pytest.raises(JobRefused, match=r"no test of job .* has failed"):
        client.rerun(third, str(uuid.uuid4()), [], failed=True)


def test_limits_are_the_hosts(client: JobClient, tests: Path, id: str) -> None:
    assert client.limits() == queue.SETTINGS
    assert client.set_limit("waiting", 0)["waiting"] == 0
    with pytest.raises(JobRefused, match="the bound of this host"):
        submit(client, tests, id)
    with pytest.raises(JobRefused, match="there are waiting, kept_bytes"):
        client.set_limit("wating", 0)


# -- logs ----------------------------------------------------------------------------


def read(client: JobClient, id: str, place: LogPosition = START, follow: bool = False) -> bytes:
    return b"".join(piece.data for piece in client.log(id, place, follow))


def test_a_log_is_followed_until_the_job_has_ended(
    client: JobClient, tests: Path, id: str, folder: Path
) -> None:
    os.mkfifo(folder / "gate")
    script(tests, "test_b.sh", f"echo first; cat {folder}/gate; echo last")
    submit(client, tests, id)
    seen = b""
    opened = False
    for piece in client.log(id, follow=True):
        seen += piece.data
        assert piece.position == LogPosition(piece.position.attempt, len(seen), zlib.crc32(seen))
        if b"first\n" in seen and not opened:
            assert b"last" not in seen
            (folder / "gate").write_text("now\n")
            opened = True
    assert b"test_b.sh | last\n" in seen
    assert seen == job_hosts.log_file().read_bytes()


def test_a_log_goes_on_over_a_new_connection(
    client: JobClient, tests: Path, id: str, folder: Path
) -> None:
    said: list[str] = []
    client._say = said.append
    os.mkfifo(folder / "gate")
    script(tests, "test_b.sh", f"echo first; cat {folder}/gate; echo last")
    submit(client, tests, id)
    seen = b""
    for piece in client.log(id, follow=True):
        seen += piece.data
        if b"first\n" in seen and not said:
            for pid in job_hosts.pids():
                os.kill(pid, signal.SIGKILL)
            said.append("killed")
            (folder / "gate").write_text("now\n")
    assert seen == job_hosts.log_file().read_bytes()
    assert "opening it again" in said[1]


def test_another_log_is_a_gap(client: JobClient, tests: Path, id: str) -> None:
    submit(client, tests, id)
    client.wait(id)
    whole = read(client, id)
    half = LogPosition(1, 20, zlib.crc32(whole[:20]))
    assert read(client, id, half) == whole[20:]
    log = job_hosts.log_file()
    log.write_bytes(b"X" + whole[1:])
    with pytest.raises(
        LogMismatch, match=r"20 bytes were read before \(the bytes before are others\)"
    ):
        read(client, id, half)
    log.write_bytes(whole[:10])
    with pytest.raises(LogMismatch, match="the log has 10 bytes, and you have 20"):
        read(client, id, half)
    log.unlink()
    assert read(client, id, half) == whole[20:]  # as the package has it
    with pytest.raises(JobRefused, match="has 1 attempt; there is no number 2"):
        read(client, id, LogPosition(2))


def test_the_log_of_a_second_attempt_follows(
    client: JobClient, tests: Path, id: str, folder: Path
) -> None:
    os.mkfifo(folder / "gate")
    script(tests, "test_b.sh", f"echo here; echo $NOSEJOBS_ATTEMPT >{folder}/gate; sleep 1000")
    submit(client, tests, id, attempts=2)
    seen: dict[int, bytes] = {}
    waiting = threading.Thread(target=kill_the_worker_when_told, args=(folder / "gate",))
    waiting.start()
    for piece in client.log(id, follow=True):
        seen[piece.position.attempt] = seen.get(piece.position.attempt, b"") + piece.data
        if b"here" in seen.get(2, b"") and waiting.is_alive() is False:
            client.cancel(id)
    assert seen[1] == job_hosts.log_file(1).read_bytes()
    assert seen[2] == job_hosts.log_file(2).read_bytes()


def kill_the_worker_when_told(gate: Path) -> None:
    gate.read_text()
    with queue.Queue(queue.folder()) as there:
        found = there.worker()
    assert found is not None
    os.kill(found.identity.pid, signal.SIGKILL)
    gate.read_text()


# -- harvest -------------------------------------------------------------------------


def test_a_harvest_can_be_repeated(client: JobClient, tests: Path, id: str, folder: Path) -> None:
    submit(client, tests, id)
    done = client.wait(id)
    path = folder / "x.zip"
    for _ in range(2):
        harvested(client, id, path)
        client.acknowledge(id, done.package)
        assert jobs._digest(path) == done.package
    assert list(folder.glob("*.part")) == []
    with open_package(str(path)) as package:
        assert package.manifest["job"]["id"] == id


@pytest.mark.parametrize("left", ["half", "other bytes", "too many", "all"])
def test_a_harvest_goes_on_where_it_was_left(
    client: JobClient, tests: Path, id: str, folder: Path, left: str
) -> None:
    submit(client, tests, id)
    done = client.wait(id)
    data = Path(paths.package(queue.folder(), id)).read_bytes()
    part = folder / "x.zip.part"
    half = len(data) // 2
    part.write_bytes(
        {"half": data[:half], "other bytes": b"X" * half, "too many": data * 2, "all": data}[left]
    )
    asked: list[int] = []
    fetch = JobClient._piece

    def piece(self: JobClient, job: jobs.Job, offset: int) -> bytes:
        asked.append(offset)
        return fetch(self, job, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobClient, "_piece", piece)
        harvested(client, id, folder / "x.zip")
    assert (folder / "x.zip").read_bytes() == data
    assert asked == {"half": [half], "other bytes": [half, 0], "too many": [0], "all": []}[left]
    assert jobs._digest(folder / "x.zip") == done.package


def test_a_spoilt_package_is_not_acknowledged(
    client: JobClient, tests: Path, id: str, folder: Path
) -> None:
    submit(client, tests, id)
    client.wait(id)
    path = Path(paths.package(queue.folder(), id))
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    with pytest.raises(HostError, match="does not have the digest"):
        harvested(client, id, folder / "x.zip")
    assert list(folder.glob("x.zip*")) == []
    with pytest.raises(JobRefused, match=r"its package is .* harvest it again"):
        client.acknowledge(id, "0" * 64)
    assert client.job(id).job.state == "ready"


def test_a_job_that_has_not_ended_has_no_package(
    client: JobClient, tests: Path, id: str, folder: Path
) -> None:
    os.mkfifo(folder / "gate")
    script(tests, "test_b.sh", f"cat {folder}/gate")
    submit(client, tests, id)
    with pytest.raises(JobRefused, match=r"no package yet\n  try: nosejobs job harvest --wait"):
        harvested(client, id, folder / "x.zip")
    (folder / "gate").write_text("now\n")
    client.wait(id)


@pytest.mark.parametrize("name", ["folder", "fifo"])
def test_a_package_takes_the_place_of_files_only(
    client: JobClient, id: str, folder: Path, name: str
) -> None:
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    with pytest.raises(UsageError, match=f"{name}: it is there, and is no file"):
        harvested(client, id, folder / name)


# -- trouble -------------------------------------------------------------------------


def test_a_stopped_host_is_lost(tests: Path, folder: Path) -> None:
    client = JobClient(POPEN, timeout=2.5)
    assert client.jobs().jobs == ()
    pids = job_hosts.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    with client:
        assert client.jobs().jobs == ()  # by another connection
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_queue_that_cannot_be_written_is_named(client: JobClient, tests: Path, id: str) -> None:
    folder = Path(queue.folder())
    (folder / "queue.db").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(JobRefused, match=r"queue\.db\.corrupt-"):
        client.jobs()
    submit(client, tests, id)
    assert client.wait(id).is_done


def test_a_job_whose_code_is_gone_holds_up_nobody(client: JobClient, tests: Path, id: str) -> None:
    submit(client, tests, id)
    client.wait(id)
    job_hosts.await_worker()
    lost, after = str(uuid.uuid4()), str(uuid.uuid4())
    with queue.Queue(queue.folder()) as there:
        there.submit(prepared(tests, lost).job, "0" * 64, 0.0)
    submit(client, tests, after)
    assert client.wait(lost).how == "refused"
    assert client.wait(after).how == "completed"


def test_whoever_looks_lets_a_stopped_worker_go_on(
    client: JobClient, tests: Path, id: str, folder: Path
) -> None:
    after = str(uuid.uuid4())
    submit(client, tests, after)
    client.wait(after)
    os.mkfifo(folder / "gate")
    script(tests, "test_a.sh", f"echo here >{folder}/gate; cat {folder}/gate")
    submit(client, tests, id)
    assert (folder / "gate").read_text() == "here\n"
    after = client.rerun(after, str(uuid.uuid4()), ["test_b.sh"], False).id
    with queue.Queue(queue.folder()) as there:
        worker = there.worker()
    assert worker is not None
    os.kill(worker.identity.pid, signal.SIGSTOP)
    (folder / "gate").write_text("now\n")
    assert client.wait(after).how == "completed"


def test_a_client_of_another_protocol_is_refused(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "PROTOCOL", 99)
        with pytest.raises(JobRefused, match="speaks version 1 of the job protocol, not 99"):
            JobClient(POPEN).jobs()


# -- other hosts ---------------------------------------------------------------------


@pytest.fixture
def own_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """What is killed here is nobody else's."""
    with Sshd(tmp_path_factory.mktemp("sshd")) as daemon:
        yield daemon


def test_a_job_outlives_an_ssh_login(own_sshd: Sshd, tests: Path, id: str, folder: Path) -> None:
    sshd = own_sshd
    """Over there is a bare Python, with a home of its own."""
    os.mkfifo(folder / "gate")
    script(tests, "test_b.sh", f"cat {folder}/gate")
    (spec,) = hosts.parse([sshd.spec()], {})
    ready = prepare(Description(tests), spec, id)
    with JobClient(spec) as client:
        client.submit(ready.job, ready.trees)
    (folder / "gate").write_text("open\n")
    with JobClient(spec) as client:
        client.wait(id)
        found = harvested(client, id, folder / "x.zip")
        client.forget(id, force=True)
    assert found.outcomes == {"passed": 2}
    (jobs_folder,) = (sshd.folder / "home").glob(".local/state/nosejobs/hosts/*/jobs")
    job_hosts.await_worker(str(jobs_folder))


@pytest.mark.parametrize("version", versions(good=True)[:1])
def test_the_oldest_python_is_good_enough(
    version: tuple[int, int], tests: Path, id: str, folder: Path
) -> None:
    (spec,) = hosts.parse([f"popen//python={interpreters()[version]}"], {})
    ready = prepare(Description(tests), spec, id)
    with JobClient(spec) as client:
        client.submit(ready.job, ready.trees)
        assert b"hello" in read(client, id, follow=True)
        client.wait(id)
        assert client.job(id).failed[0].words == "exit 3"
        assert harvested(client, id, folder / "x.zip").outcomes == {"passed": 1, "failed": 1}


@pytest.mark.parametrize("odd", [{"before": 10**30}, {"limit": "x"}, {"states": [5]}])
def test_an_odd_request_is_refused_and_the_next_one_served(
    folder: Path, odd: dict[str, Any]
) -> None:
    with contextlib.closing(Session(POPEN)) as session:
        for name, arguments in (("jobs", odd), ("job", {"job": None})):
            with pytest.raises(JobRefused) as caught:
                session.call(name, **arguments)
            assert caught.value.kind == "bad"
        assert session.call("jobs")["jobs"] == []
