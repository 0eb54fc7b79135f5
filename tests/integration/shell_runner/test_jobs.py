"""Tests of the client of jobs with a real session, queue and worker on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shell_runner.errors import HostError, JobRefused, UsageError
from shell_runner.hosts import spec as hosts
from shell_runner.jobs import package_download, results, session
from shell_runner.jobs.client import JobClient
from shell_runner.jobs.jobfile import JobDescription
from shell_runner.jobs.log_position import LogMismatch, LogPosition
from shell_runner.jobs.session import HostSession
from shell_runner.jobs.submission import prepare_submission
from shell_runner.remote.jobs import paths, queue, queue_location
from shell_runner.remote.jobs.result_package_reader import open_package
from shell_runner.remote.protocol.job import Content
from tests.helpers import job_hosts
from tests.helpers.job_hosts import POPEN, prepare_job, submit_job, write_script
from tests.helpers.sshd import Sshd
from tests.integration.shell_runner.test_old_pythons import interpreters, versions

pytestmark = pytest.mark.timeout(120)
START = LogPosition()


@pytest.fixture
def tests(tmp_path: Path) -> Path:
    write_script(tmp_path / "tests", "test_a.sh", "echo hello")
    write_script(tmp_path / "tests", "test_b.sh", "echo broken >&2; exit 3")
    return tmp_path / "tests"


def harvest_job(client: JobClient, id: str, path: Path) -> results.HarvestResult:
    return results.harvest(client, id, path, None, None, lambda done, total: None)[1]


# -- submit and harvest -------------------------------------------------------------------


def test_a_job_runs_and_is_harvested(client: JobClient, tests: Path, id: str, folder: Path) -> None:
    assert submit_job(client, tests, id).state in ("queued", "running")
    done = client.wait(id)
    assert (done.id, done.state, done.end_reason) == (id, "ready", "completed")
    assert (done.test_count, dict(done.outcomes)) == (2, {"passed": 1, "failed": 1})
    into, xml = folder / "into", folder / "j.xml"
    result = results.harvest(client, id, folder / "x.zip", into, xml, lambda done, total: None)[1]
    assert b"hello" in (into / "log.txt").read_bytes()
    assert 'name="test_b.sh"' in xml.read_text()
    assert [(test.nodeid, test.message) for test in result.failed] == [("test_b.sh", "exit 3")]
    assert (result.end_reason, result.exit_status) == ("completed", 1)
    assert result.outcomes == {"passed": 1, "failed": 1}
    assert client.acknowledge(id, done.package_digest).state == "harvested"


#: A program that makes 1 500 nested folders in each of the folders that it is given.
_NEST = f"""exec {sys.executable} -IS -c '
import os, sys
for folder in sys.argv[1:]:
    os.chdir(folder)
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    open("deep", "w").close()
' "$TEST_UNDECLARED_OUTPUTS_DIR" """


@pytest.mark.parametrize(
    "others",
    ["", '"$NOSEJOBS_PREFIX"/../outputs', '"$NOSEJOBS_PREFIX"/../tests "$NOSEJOBS_PREFIX"'],
)
def test_nested_folders_of_a_test_do_not_end_its_job(
    client: JobClient, tests: Path, id: str, folder: Path, others: str
) -> None:
    """In its outputs, and where it should not write: those that the runner reads later."""
    write_script(tests, "test_c.sh", "echo kept >$TEST_UNDECLARED_OUTPUTS_DIR/kept")
    write_script(tests, "test_deep.sh", _NEST + others)
    submit_job(client, tests, id, slots=1)
    done = client.wait(id)
    assert (done.end_reason, done.attempts) == ("completed", 1)
    assert dict(done.outcomes) == {"passed": 3, "failed": 1}
    results.harvest(client, id, folder / "x.zip", folder / "into", None, lambda done, total: None)
    kept = [path.read_text() for path in (folder / "into").rglob("kept")]
    assert kept == ["kept\n"]
    with open_package(str(folder / "x.zip")) as package:
        executions = [execution for *_, execution in package.read_executions()]
    assert [each.artifacts_omitted for each in executions] == [0, 0, 0, 1]
    client.acknowledge(id, done.package_digest)
    client.forget(id)
    assert os.listdir(paths.workspace_path(queue_location.find_queue_folder())) == []


def test_a_job_runs_while_no_client_is_connected(tests: Path, id: str, folder: Path) -> None:
    os.mkfifo(folder / "gate")
    write_script(tests, "test_b.sh", f"cat {folder}/gate")
    with JobClient(POPEN) as client:
        submit_job(client, tests, id)
    (folder / "gate").write_text("open\n")  # waits for the test
    with JobClient(POPEN) as client:
        assert dict(client.wait(id).outcomes) == {"passed": 2}


def test_a_report_names_the_reasons(client: JobClient, tests: Path, id: str) -> None:
    submit_job(
        client, tests, id, environment=(("A", "1"),), secret="geheim", notify="http://[::1]:1/"
    )
    client.wait(id)
    report = client.get_job(id[:8])
    assert [(test.nodeid, test.outcome, test.message) for test in report.failed] == [
        ("test_b.sh", "failed", "exit 3")
    ]
    assert [(attempt.number, attempt.phase) for attempt in report.attempts] == [(1, "ended")]
    assert report.config["environment"] == [["A", "..."]]
    assert "geheim" not in repr(dataclasses.asdict(report))
    client.forget(id, force=True)  # and its pending notification with it


def test_the_same_contents_are_uploaded_once(client: JobClient, tests: Path, id: str) -> None:
    (tests / "data").write_bytes(os.urandom(300_000))
    ready = prepare_job(tests, id)
    _, (first,) = client.submit(ready.job, ready.trees)
    again = prepare_job(tests, str(uuid.uuid4()))
    _, (second,) = client.submit(again.job, again.trees)
    assert first.files == 3
    assert (second.files, second.wire_bytes < 200) == (0, True)


def test_a_repeated_submission_submits_once(client: JobClient, tests: Path, id: str) -> None:
    first = submit_job(client, tests, id)
    client.close()  # as if the answer was lost
    assert submit_job(client, tests, id).number == first.number
    with pytest.raises(JobRefused, match="another job with the UUID"):
        submit_job(client, tests, id, retries=1)
    assert len(client.list_jobs().jobs) == 1


def test_an_upload_continues_where_a_connection_broke(
    client: JobClient, tests: Path, id: str
) -> None:
    (tests / "data").write_bytes(os.urandom(6 << 20))
    ready = prepare_job(tests, id)
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done > 3 << 20 and not killed:
            killed.extend(job_hosts.list_interpreter_pids())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    _, brought = client.submit(ready.job, ready.trees, kill)
    assert killed
    assert sum(each.wire_bytes for each in brought) < 6 << 20, "not all of it was sent again"
    assert client.wait(id).end_reason == "completed"


def test_a_job_with_missing_contents_is_refused(client: JobClient, tests: Path, id: str) -> None:
    ready = prepare_job(tests, id)
    with pytest.raises(JobRefused, match="are not on this host"):
        client.submit(ready.job)
    gone = Content("archive", "a" * 64, 3, "a.zip")
    with pytest.raises(JobRefused, match=r"a\.zip are not on this host"):
        client.submit(ready.job._replace(build=gone), ready.trees)
    assert client.list_jobs().jobs == ()


def test_a_job_runs_from_archives(client: JobClient, tests: Path, id: str, folder: Path) -> None:
    packed = shutil.make_archive(str(folder / "t"), "gztar", tests)
    (folder / "build").mkdir()
    (folder / "build" / "tool").write_text("made")
    build = shutil.make_archive(str(folder / "b"), "zip", folder / "build")
    ready = prepare_job(Path(packed), id)
    assert ready.job.tests.kind == "archive"
    other = prepare_submission(JobDescription(Path(packed), Path(build)), POPEN, id)
    client.submit(other.job, other.trees)
    assert dict(client.wait(id).outcomes) == {"passed": 1, "failed": 1}


def test_an_impossible_job_is_refused_by_the_client(tests: Path, id: str, folder: Path) -> None:
    (folder / "x.zip").write_bytes(b"PK\3\4 no zip at all")
    (folder / "empty").mkdir()
    for path, message in (("x.zip", "x.zip: "), ("empty", "no tests were found")):
        with pytest.raises(UsageError, match=message):
            prepare_job(folder / path, id)
    (tests / "test_c.sh").write_text("#!/bin/sh\n")
    with pytest.raises(UsageError, match=r"cannot run:\n  test_c\.sh: "):
        prepare_job(tests, id)


def test_a_build_is_sent_unfiltered(tests: Path, id: str, folder: Path) -> None:
    """Builds may contain files that git ignores and folders that a source tree does not ship."""
    build = folder / "build"
    (build / "venv").mkdir(parents=True)
    (build / "venv" / "x").write_text("")
    (build / ".gitignore").write_text("*")
    ready = prepare_submission(JobDescription(tests, build), POPEN, id)
    assert [entry.path for entry in ready.trees[0].entries] == [".gitignore", "venv/x"]


# -- list, cancel, forget, rerun ------------------------------------------------------------


def test_a_list_is_filtered_as_requested(client: JobClient, tests: Path) -> None:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    for number, id in enumerate(ids):
        ready = prepare_job(tests, id)
        labels = ("odd",) if number % 2 else ()
        client.submit(ready.job._replace(labels=labels, name=f"job {number}"), ready.trees)
    client.wait(ids[2])
    assert [job.name for job in client.list_jobs().jobs] == ["job 2", "job 1", "job 0"]
    assert [job.id for job in client.list_jobs(label="odd").jobs] == [ids[1]]
    assert [job.id for job in client.list_jobs(limit=1).jobs] == [ids[2]]
    assert client.list_jobs(states=["harvested"]).jobs == ()
    assert client.list_jobs().counts["ready"] == 3


def test_canceled_tests_are_accounted_for(
    client: JobClient, tests: Path, id: str, folder: Path
) -> None:
    os.mkfifo(folder / "gate")
    write_script(tests, "test_b.sh", f"echo here >{folder}/gate; exec sleep 1000")
    submit_job(client, tests, id)
    (folder / "gate").read_text()
    assert client.cancel(id).cancel_requested
    assert client.wait(id).end_reason == "canceled"
    result = harvest_job(client, id, folder / "x.zip")
    assert (result.outcomes["passed"], sum(result.outcomes.values())) == (1, 2)
    assert result.exit_status == 6


def test_nothing_is_left_of_a_forgotten_job(client: JobClient, tests: Path, id: str) -> None:
    submit_job(client, tests, id)
    client.wait(id)
    log = job_hosts.find_log_file()
    with pytest.raises(JobRefused, match="its package is not harvested"):
        client.forget(id)
    client.forget(id, force=True)
    with pytest.raises(JobRefused, match="this host has no job"):
        client.get_job(id)
    assert not log.exists()
    assert not Path(paths.package_path(queue_location.find_queue_folder(), id)).exists()


def test_failed_tests_run_again_in_the_same_contents(
    client: JobClient, tests: Path, id: str
) -> None:
    submit_job(client, tests, id, retries=1)
    client.wait(id)
    write_script(tests, "test_b.sh", "exit 0")  # has no effect: the contents are on the host
    new = str(uuid.uuid4())
    assert client.rerun(id, new, [], failed=True).test_count == 1
    assert dict(client.wait(new).outcomes) == {"failed": 1}
    assert client.get_job(new).config["retries"] == 1
    third = str(uuid.uuid4())
    assert client.rerun(id, third, ["*a.sh"], failed=False).test_count == 1
    assert dict(client.wait(third).outcomes) == {"passed": 1}
    with pytest.raises(JobRefused, match=r"no test 'test_x.sh'; did you mean 'test_[ab].sh'"):
        client.rerun(id, str(uuid.uuid4()), ["test_x.sh"], failed=False)
    with pytest.raises(JobRefused, match=r"no test of job .* has failed"):
        client.rerun(third, str(uuid.uuid4()), [], failed=True)


def test_limits_belong_to_the_host(client: JobClient, tests: Path, id: str) -> None:
    assert client.get_limits() == queue.SETTINGS
    assert client.set_limit("waiting", 0)["waiting"] == 0
    with pytest.raises(JobRefused, match="the limit of this host"):
        submit_job(client, tests, id)
    with pytest.raises(JobRefused, match="use one of: waiting, kept_bytes"):
        client.set_limit("wating", 0)


# -- logs ----------------------------------------------------------------------------


def read(client: JobClient, id: str, place: LogPosition = START, follow: bool = False) -> bytes:
    return b"".join(piece.data for piece in client.read_log(id, place, follow))


def test_a_log_is_followed_until_the_job_has_ended(
    client: JobClient, tests: Path, id: str, folder: Path
) -> None:
    os.mkfifo(folder / "gate")
    write_script(tests, "test_b.sh", f"echo first; cat {folder}/gate; echo last")
    submit_job(client, tests, id)
    log = b""
    opened = False
    for piece in client.read_log(id, follow=True):
        log += piece.data
        assert piece.position == LogPosition(piece.position.attempt, len(log), zlib.crc32(log))
        if b"first\n" in log and not opened:
            assert b"last" not in log
            (folder / "gate").write_text("now\n")
            opened = True
    assert b"test_b.sh | last\n" in log
    assert log == job_hosts.find_log_file().read_bytes()


def test_a_log_continues_over_a_new_connection(
    client: JobClient, tests: Path, id: str, folder: Path
) -> None:
    messages: list[str] = []
    client._show_message = messages.append
    os.mkfifo(folder / "gate")
    write_script(tests, "test_b.sh", f"echo first; cat {folder}/gate; echo last")
    submit_job(client, tests, id)
    log = b""
    for piece in client.read_log(id, follow=True):
        log += piece.data
        if b"first\n" in log and not messages:
            for pid in job_hosts.list_interpreter_pids():
                os.kill(pid, signal.SIGKILL)
            messages.append("killed")
            (folder / "gate").write_text("now\n")
    assert log == job_hosts.find_log_file().read_bytes()
    assert "reconnecting" in messages[1]


def test_another_log_is_a_mismatch(client: JobClient, tests: Path, id: str) -> None:
    submit_job(client, tests, id)
    client.wait(id)
    log_data = read(client, id)
    position = LogPosition(1, 20, zlib.crc32(log_data[:20]))
    assert read(client, id, position) == log_data[20:]
    log = job_hosts.find_log_file()
    log.write_bytes(b"X" + log_data[1:])
    with pytest.raises(LogMismatch, match=r"20 bytes were read before \(the bytes before differ\)"):
        read(client, id, position)
    log.write_bytes(log_data[:10])
    with pytest.raises(LogMismatch, match="the log has 10 bytes, less than the 20 read before"):
        read(client, id, position)
    log.unlink()
    assert read(client, id, position) == log_data[20:]  # from the package
    with pytest.raises(JobRefused, match="has 1 attempt; there is no attempt 2"):
        read(client, id, LogPosition(2))


def test_the_log_of_a_second_attempt_follows(
    client: JobClient, tests: Path, id: str, folder: Path
) -> None:
    os.mkfifo(folder / "gate")
    write_script(
        tests, "test_b.sh", f"echo here; echo $NOSEJOBS_ATTEMPT >{folder}/gate; sleep 1000"
    )
    submit_job(client, tests, id, attempts=2)
    logs: dict[int, bytes] = {}
    waiting = threading.Thread(target=kill_worker_on_request, args=(folder / "gate",))
    waiting.start()
    for piece in client.read_log(id, follow=True):
        logs[piece.position.attempt] = logs.get(piece.position.attempt, b"") + piece.data
        if b"here" in logs.get(2, b"") and waiting.is_alive() is False:
            client.cancel(id)
    assert logs[1] == job_hosts.find_log_file(1).read_bytes()
    assert logs[2] == job_hosts.find_log_file(2).read_bytes()


def kill_worker_on_request(gate: Path) -> None:
    gate.read_text()
    with queue.Queue(queue_location.find_queue_folder()) as there:
        worker = there.get_worker()
    assert worker is not None
    os.kill(worker.identity.pid, signal.SIGKILL)
    gate.read_text()


# -- harvest -------------------------------------------------------------------------


def test_a_harvest_can_be_repeated(client: JobClient, tests: Path, id: str, folder: Path) -> None:
    submit_job(client, tests, id)
    done = client.wait(id)
    path = folder / "x.zip"
    for _ in range(2):
        harvest_job(client, id, path)
        client.acknowledge(id, done.package_digest)
        assert package_download._compute_digest(path) == done.package_digest
    assert list(folder.glob("*.part")) == []
    with open_package(str(path)) as package:
        assert package.manifest["job"]["id"] == id


@pytest.mark.parametrize("left", ["half", "other bytes", "too many", "all"])
def test_a_harvest_continues_where_it_was_interrupted(
    client: JobClient, tests: Path, id: str, folder: Path, left: str
) -> None:
    submit_job(client, tests, id)
    done = client.wait(id)
    data = Path(paths.package_path(queue_location.find_queue_folder(), id)).read_bytes()
    part = folder / "x.zip.part"
    half = len(data) // 2
    part.write_bytes(
        {"half": data[:half], "other bytes": b"X" * half, "too many": data * 2, "all": data}[left]
    )
    offsets: list[int] = []
    fetch = JobClient._read_package

    def read_package(self: JobClient, job: str, offset: int, size: int) -> bytes:
        offsets.append(offset)
        return fetch(self, job, offset, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobClient, "_read_package", read_package)
        harvest_job(client, id, folder / "x.zip")
    assert (folder / "x.zip").read_bytes() == data
    assert offsets == {"half": [half], "other bytes": [half, 0], "too many": [0], "all": []}[left]
    assert package_download._compute_digest(folder / "x.zip") == done.package_digest


def test_a_damaged_package_is_not_acknowledged(
    client: JobClient, tests: Path, id: str, folder: Path
) -> None:
    submit_job(client, tests, id)
    client.wait(id)
    path = Path(paths.package_path(queue_location.find_queue_folder(), id))
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    with pytest.raises(HostError, match="does not match its digest"):
        harvest_job(client, id, folder / "x.zip")
    assert list(folder.glob("x.zip*")) == []
    with pytest.raises(JobRefused, match=r"its package is .* harvest it again"):
        client.acknowledge(id, "0" * 64)
    assert client.get_job(id).job.state == "ready"


def test_a_job_that_has_not_ended_has_no_package(
    client: JobClient, tests: Path, id: str, folder: Path
) -> None:
    os.mkfifo(folder / "gate")
    write_script(tests, "test_b.sh", f"cat {folder}/gate")
    submit_job(client, tests, id)
    with pytest.raises(JobRefused, match=r"no package yet\n  try: nosejobs job harvest --wait"):
        harvest_job(client, id, folder / "x.zip")
    (folder / "gate").write_text("now\n")
    client.wait(id)


@pytest.mark.parametrize("name", ["folder", "fifo"])
def test_a_package_replaces_only_files(client: JobClient, id: str, folder: Path, name: str) -> None:
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    with pytest.raises(UsageError, match=f"{name}: it exists and is not a regular file"):
        harvest_job(client, id, folder / name)


def test_an_upload_waits_for_a_host_that_reads_nothing(tests: Path, id: str, folder: Path) -> None:
    """Bytes that the host has not read wait in the file, not in memory."""
    (tests / "data").write_bytes(os.urandom(32 << 20))
    ready = prepare_job(tests, id)
    amounts: list[int] = []
    at_stop: list[int] = []
    at_most: list[int] = []

    def stop(done: int, total: int) -> None:
        amounts.append(done)
        if done > 3 << 20 and not at_stop:
            at_stop.append(done)
            pids = job_hosts.list_interpreter_pids()
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            threading.Thread(target=resume, args=(pids,)).start()

    def resume(pids: list[int]) -> None:
        amount = 0
        while amounts[-1] != amount:
            amount = amounts[-1]
            time.sleep(1)
        at_most.append(amount)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    with JobClient(POPEN, timeout=60) as client:
        client.submit(ready.job, ready.trees, stop)
        assert client.wait(id).end_reason == "completed"
    assert at_most[0] - at_stop[0] <= 4 << 20 < amounts[-1] - at_stop[0]


# -- failures -------------------------------------------------------------------------


def test_a_stopped_host_is_lost(tests: Path, folder: Path) -> None:
    client = JobClient(POPEN, timeout=2.5)
    assert client.list_jobs().jobs == ()
    pids = job_hosts.list_interpreter_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    with client:
        assert client.list_jobs().jobs == ()  # over another connection
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_queue_that_cannot_be_written_is_named(client: JobClient, tests: Path, id: str) -> None:
    folder = Path(queue_location.find_queue_folder())
    (folder / "queue.db").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(JobRefused, match=r"queue\.db\.corrupt-"):
        client.list_jobs()
    submit_job(client, tests, id)
    assert client.wait(id).is_done


def test_a_job_whose_code_is_missing_does_not_block_others(
    client: JobClient, tests: Path, id: str
) -> None:
    submit_job(client, tests, id)
    client.wait(id)
    job_hosts.await_worker()
    lost, after = str(uuid.uuid4()), str(uuid.uuid4())
    with queue.Queue(queue_location.find_queue_folder()) as there:
        there.submit(prepare_job(tests, lost).job, "0" * 64, 0.0)
    submit_job(client, tests, after)
    assert client.wait(lost).end_reason == "refused"
    assert client.wait(after).end_reason == "completed"


def test_a_request_continues_a_stopped_worker(
    client: JobClient, tests: Path, id: str, folder: Path
) -> None:
    after = str(uuid.uuid4())
    submit_job(client, tests, after)
    client.wait(after)
    os.mkfifo(folder / "gate")
    write_script(tests, "test_a.sh", f"echo here >{folder}/gate; cat {folder}/gate")
    submit_job(client, tests, id)
    assert (folder / "gate").read_text() == "here\n"
    after = client.rerun(after, str(uuid.uuid4()), ["test_b.sh"], False).id
    with queue.Queue(queue_location.find_queue_folder()) as there:
        worker = there.get_worker()
    assert worker is not None
    os.kill(worker.identity.pid, signal.SIGSTOP)
    (folder / "gate").write_text("now\n")
    assert client.wait(after).end_reason == "completed"


def test_a_client_of_another_protocol_is_refused(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "PROTOCOL_VERSION", 99)
        with pytest.raises(JobRefused, match="speaks version 1 of the job protocol, not 99"):
            JobClient(POPEN).list_jobs()


# -- other hosts ---------------------------------------------------------------------


@pytest.fixture
def own_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """Yield an sshd whose processes no other test uses."""
    with Sshd(tmp_path_factory.mktemp("sshd")) as daemon:
        yield daemon


def test_a_job_outlives_an_ssh_login(own_sshd: Sshd, tests: Path, id: str, folder: Path) -> None:
    """The host has a bare Python and its own home."""
    sshd = own_sshd
    os.mkfifo(folder / "gate")
    write_script(tests, "test_b.sh", f"cat {folder}/gate")
    (spec,) = hosts.parse_specs([sshd.spec()], {})
    ready = prepare_submission(JobDescription(tests), spec, id)
    with JobClient(spec) as client:
        client.submit(ready.job, ready.trees)
    (folder / "gate").write_text("open\n")
    with JobClient(spec) as client:
        client.wait(id)
        result = harvest_job(client, id, folder / "x.zip")
        client.forget(id, force=True)
    assert result.outcomes == {"passed": 2}
    (jobs_folder,) = (sshd.folder / "home").glob(".local/state/nosejobs/hosts/*/jobs")
    job_hosts.await_worker(str(jobs_folder))


@pytest.mark.parametrize("version", versions(good=True)[:1])
def test_a_job_runs_on_the_oldest_python(
    version: tuple[int, int], tests: Path, id: str, folder: Path
) -> None:
    (spec,) = hosts.parse_specs([f"popen//python={interpreters()[version]}"], {})
    ready = prepare_submission(JobDescription(tests), spec, id)
    with JobClient(spec) as client:
        client.submit(ready.job, ready.trees)
        assert b"hello" in read(client, id, follow=True)
        client.wait(id)
        assert client.get_job(id).failed[0].message == "exit 3"
        assert harvest_job(client, id, folder / "x.zip").outcomes == {"passed": 1, "failed": 1}


@pytest.mark.parametrize("odd", [{"before": 10**30}, {"limit": "x"}, {"states": [5]}])
def test_an_invalid_request_is_refused_and_the_next_one_served(
    folder: Path, odd: dict[str, Any]
) -> None:
    with contextlib.closing(HostSession(POPEN)) as session:
        for name, arguments in (("jobs", odd), ("job", {"job": None})):
            with pytest.raises(JobRefused) as caught:
                session.call(name, **arguments)
            assert caught.value.kind == "bad"
        assert session.call("jobs")["jobs"] == []
