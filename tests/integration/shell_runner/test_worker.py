"""Tests of a worker that drains a queue: jobs end correctly, whichever process dies."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import socket
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shell_runner.remote.files.manifest import FILE, ManifestEntry
from shell_runner.remote.jobs import paths, webhook, worker_launcher
from shell_runner.remote.jobs.queue import AttemptPhase, EndReason, JobRow, State
from shell_runner.remote.processes import process_tree as processes
from shell_runner.remote.protocol.model import Problem
from tests.helpers.queue_host import TIMEOUT, QueueHost, WebhookReceiver, is_dead, kill


@pytest.fixture
def host(tmp_path: Path) -> Iterator[QueueHost]:
    with QueueHost(tmp_path / "jobs") as made:
        yield made


def make_zip(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o100755 << 16
            archive.writestr(info, text)
    return buffer.getvalue()


def wait_until(true: Callable[[], object]) -> None:
    """Wait until a condition holds that only the kernel or another process can make true."""
    deadline = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# -- jobs that end by themselves


def test_a_job_is_run_and_packed(host: QueueHost) -> None:
    job = host.submit({"test_a": "echo hello", "test_b": "exit 3", "test_c": "exit 77"})
    host.drain()
    package = host.package(job)
    assert package.exits() == {"test_a": 0, "test_b": 3, "test_c": 77}
    assert package.executions()[0, 1].stdout.text == "hello\n"
    assert "test_a | hello\n" in package.log
    assert package.manifest["end_reason"] == "completed"
    assert "secret" not in package.manifest["config"]
    assert os.listdir(paths.workspace_path(host.folder)) == []
    assert host.leftovers(job) == []
    with host.queue() as queue:
        assert queue.get_worker() is None
        attempt = queue.get_attempts(job.number)[0]
        assert queue.count_outcomes(attempt.id) == {"passed": 1, "failed": 1, "skipped": 1}


def test_jobs_run_by_priority_then_by_age(host: QueueHost) -> None:
    fifo = host.fifo.path
    jobs = [host.submit({"t": f"echo {n} >{fifo}"}, priority=int(n == 2)) for n in range(4)]
    host.drain()
    assert [host.fifo.read_line() for _ in jobs] == ["2", "0", "1", "3"]


def test_tests_use_files_that_the_install_command_made(host: QueueHost) -> None:
    build = host.tree({"lib/words": "built\n"})
    job = host.submit(
        {
            "test_tool": "tool",
            "test_build": 'cat "$NOSEJOBS_BUILD/lib/words" "$NOSEJOBS_BUILD/made"',
            "test_names": 'echo "$NOSEJOBS_JOB $NOSEJOBS_ATTEMPT $COLOUR"',
        },
        build=build,
        install="""
            mkdir "$NOSEJOBS_PREFIX/bin"
            printf '#!/bin/sh\necho tool $COLOUR\n' >"$NOSEJOBS_PREFIX/bin/tool"
            chmod +x "$NOSEJOBS_PREFIX/bin/tool"
            cat lib/words >made
            echo installed
        """,
        environment=(("COLOUR", "blue"),),
    )
    host.drain()
    package = host.package(job)
    outputs = [package.executions()[number, 1].stdout.text for number in range(3)]
    attempt = host.attempts(job)[0]
    assert outputs == ["tool blue\n", "built\nbuilt\n", f"{job.id} {attempt.id} blue\n"]
    assert "install | installed\n" in package.log
    assert "install.json" in package.files


@pytest.mark.parametrize(
    ("install", "message"),
    [
        ("echo broken; false; true", "exit 1"),
        ("sleep 60", "timed out after 0.3 s"),
        ("kill -SEGV $$", "killed by SIGSEGV"),
    ],
)
def test_no_test_runs_on_a_build_that_cannot_be_installed(
    host: QueueHost, install: str, message: str
) -> None:
    job = host.submit({"test_a": "true", "test_b": "true"}, install=install, install_timeout=0.3)
    host.drain()
    row = host.find(job)
    assert (row.end_reason, row.detail) == (EndReason.INSTALL_FAILED, message)
    executions = host.package(job).executions()
    assert {each.problem for each in executions.values()} == {Problem.NOT_RUN}
    assert executions[1, 1].detail == f"the install command failed: {message}"


def test_archives_are_unpacked(host: QueueHost) -> None:
    build = host.archive(make_zip({"bin/answer": "#!/bin/sh\necho 42\n"}))
    job = host.submit({"test_a": '"$NOSEJOBS_BUILD/bin/answer"'}, build=build)
    host.drain()
    assert host.package(job).executions()[0, 1].stdout.text == "42\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"nothing", "it.bin is not a zip"), (make_zip({"../../out": ""}), "out")],
    ids=["no-archive", "escape"],
)
def test_a_build_that_cannot_be_unpacked_is_refused(
    host: QueueHost, data: bytes, message: str
) -> None:
    job = host.submit({"test_a": "true"}, build=host.archive(data, "it.bin"))
    host.drain()
    row = host.find(job)
    assert row.end_reason == EndReason.REFUSED
    assert row.detail.startswith("the build cannot be unpacked: ")
    assert message in row.detail
    assert host.package(job).executions()[0, 1].problem == Problem.NOT_RUN


def test_contents_that_are_gone_refuse_the_job(host: QueueHost) -> None:
    job = host.submit({"test_a": "true"})
    os.unlink(host.store.path(job.tests.digest))
    host.drain()
    assert "is not on this host any more" in host.find(job).detail


def test_a_failed_test_runs_again(host: QueueHost) -> None:
    again = 'test "$(cat n 2>/dev/null)" = 11 || { printf 1 >>n; exit 1; }'
    job = host.submit(
        {"a/test": again, "b/test": again, "c/test": "exit 77"},
        retries=2,
        tests={"b/test": {"retries": 1}},
    )
    host.drain()
    executions = host.package(job).executions()
    exits = {key: each.exit_status for key, each in executions.items()}
    assert exits == {(0, 1): 1, (0, 2): 1, (0, 3): 0, (1, 1): 1, (1, 2): 1, (2, 1): 77}
    assert executions[0, 3].attempt == 3


def test_a_test_with_an_unmet_requirement_is_not_run(host: QueueHost) -> None:
    requirement = "requires docker"
    job = host.submit(
        {"test_a": "true", "test_b": "true"}, tests={"test_a": {"unmet": requirement}}
    )
    host.drain()
    executions = host.package(job).executions()
    assert (executions[0, 1].problem, executions[0, 1].detail) == (
        Problem.UNMET_REQUIREMENT,
        requirement,
    )
    assert executions[1, 1].exit_status == 0


def test_a_job_may_have_no_tests(host: QueueHost) -> None:
    job = host.submit({}, install="echo it is there")
    host.drain()
    assert host.find(job).end_reason == EndReason.COMPLETED
    assert host.package(job).executions() == {}


def test_longest_tests_run_first_and_serial_ones_before(host: QueueHost) -> None:
    fifo = host.fifo.path
    names = ["short", "long", "unknown", "alone"]
    tests = {
        "short": {"estimate": 0.1},
        "long": {"estimate": 9.0},
        "alone": {"serial": True, "estimate": 0.1},
    }
    host.submit({name: f"echo {name} >{fifo}" for name in names}, tests=tests, slots=1)
    host.drain()
    assert [host.fifo.read_line() for _ in names] == ["alone", "unknown", "long", "short"]


def test_artifacts_of_each_try_are_in_the_package(host: QueueHost) -> None:
    script = """
        cd "$TEST_UNDECLARED_OUTPUTS_DIR"
        mkdir deep; echo one >deep/file; head -c 600000 /dev/zero >large; ln -s /etc/passwd link
        test -e "$NOSEJOBS_BUILD/again" || { touch "$NOSEJOBS_BUILD/again"; exit 1; }
    """
    job = host.submit({"test_a": "true", "test_b": script}, retries=1)
    host.drain()
    files = host.package(job).files
    assert {name for name in files if name.startswith("artifacts/")} == {
        f"artifacts/{folder}/{name}"
        for folder in ("1", "1.attempt-2")
        for name in ("deep/file", "large")
    }
    assert files["artifacts/1/large"] == bytes(600000)


@pytest.mark.parametrize(
    ("keep", "script", "stays"),
    [
        ("never", "false", False),
        ("failed", "false", True),
        ("failed", "true", False),
    ],
)
def test_a_workspace_stays_if_the_job_wants_it(
    host: QueueHost, keep: str, script: str, stays: bool
) -> None:
    job = host.submit({"test_a": script}, keep_workspace=keep)
    host.drain()
    attempt = host.attempts(job)[0].id
    assert os.path.exists(paths.workspace_path(host.folder, attempt) + "/tests/test_a") == stays
    host.drain()  # a later worker cleans up what nobody wants
    assert os.path.exists(paths.workspace_path(host.folder, attempt)) == stays
    with host.queue() as queue:
        queue.forget(queue.find(job.id), force=True)
    host.drain()
    assert os.listdir(paths.workspace_path(host.folder)) == []


# -- jobs that are ended


def test_a_job_can_be_canceled_before_it_runs(host: QueueHost) -> None:
    job = host.submit({"test_a": "true"})
    host.cancel(job)
    host.drain()
    assert host.find(job).end_reason == EndReason.CANCELED
    assert host.attempts(job) == []
    assert host.package(job).executions()[0, 1].problem == Problem.CANCELED


@pytest.mark.parametrize("part", ["test", "install"])
def test_a_job_that_runs_can_be_canceled(host: QueueHost, part: str) -> None:
    command = f"setsid sleep 1000 & echo here >{host.fifo.path}; sleep 1000"
    script, install = (command, "") if part == "test" else ("true", command)
    job = host.submit({"test_a": script, "test_b": "true"}, install=install, slots=1)
    process = host.worker()
    assert host.fifo.read_line() == "here"
    host.cancel(job)
    assert process.wait(TIMEOUT) == 0
    assert host.find(job).end_reason == EndReason.CANCELED
    executions = host.package(job).executions()
    assert {each.problem for each in executions.values()} == {Problem.CANCELED}
    assert host.leftovers(job) == []


def test_the_time_of_a_job_is_bounded(host: QueueHost) -> None:
    job = host.submit({"test_a": "true", "test_b": "sleep 1000"}, timeout=1.0)
    host.drain()
    row = host.find(job)
    assert (row.end_reason, row.detail) == (EndReason.TIMED_OUT, "after 1 s")
    executions = host.package(job).executions()
    assert executions[0, 1].exit_status == 0
    assert executions[1, 1].problem == Problem.CANCELED


def test_a_stopped_runner_can_be_canceled(host: QueueHost) -> None:
    job = host.submit({"test_a": f"echo here >{host.fifo.path}; sleep 1000"})
    worker = host.worker()
    assert host.fifo.read_line() == "here"
    os.kill(host.runner(worker), signal.SIGSTOP)
    host.cancel(job)
    assert worker.wait(TIMEOUT) == 0
    assert host.find(job).end_reason == EndReason.CANCELED
    assert host.leftovers(job) == []


def install_impatient_code(host: QueueHost) -> str:
    """Install code that soon kills a runner that does not end."""
    source = Path(worker_launcher.__file__).with_name("worker.py").read_bytes()
    assert source.count(b"_RUNNER_END_TIMEOUT = 60.0") == 1
    return host.install(
        {
            "jobs/worker.py": source.replace(
                b"_RUNNER_END_TIMEOUT = 60.0", b"_RUNNER_END_TIMEOUT = 0.2"
            )
        }
    )


def test_a_runner_that_outlives_its_time_is_killed(host: QueueHost) -> None:
    script = f"echo here >{host.fifo.path}; sleep 1000"
    job = host.submit({"test_a": script}, code=install_impatient_code(host), timeout=1.0)
    worker = host.worker()
    assert host.fifo.read_line() == "here"
    os.kill(host.runner(worker), signal.SIGSTOP)
    assert worker.wait(TIMEOUT) == 0
    row = host.find(job)
    assert (row.end_reason, row.detail) == (
        EndReason.TIMED_OUT,
        "its runner did not end by itself",
    )
    assert host.package(job).executions()[0, 1].problem == Problem.CANCELED
    assert len(host.attempts(job)) == 1
    assert host.leftovers(job) == []


# -- processes that die


def make_escaping_script(fifo: Path) -> str:
    """Return a script that leaves a process in another session, and one without the attempt's
    marker.
    """
    return f"""
        test -e "$NOSEJOBS_BUILD/../../../again" && exit 0
        setsid sh -c 'echo $$ >{fifo}; exec sleep 1000' &
        env -i sh -c 'echo $$ >{fifo}; exec sleep 1000' &
        echo $$ >{fifo}
        sleep 1000
    """


def read_pids(host: QueueHost) -> list[int]:
    return [int(host.fifo.read_line()) for _ in range(3)]


def test_a_job_of_a_killed_worker_is_killed_and_runs_again(host: QueueHost) -> None:
    scripts = {"test_a": "true", "test_b": make_escaping_script(host.fifo.path), "test_c": "true"}
    tests = {name: {"estimate": 9.0 - number} for number, name in enumerate(scripts)}
    job = host.submit(scripts, slots=1, tests=tests)
    worker = host.worker()
    pids = read_pids(host)
    runner = host.runner(worker)
    worker.kill()
    worker.wait()
    Path(host.folder, "again").touch()
    host.drain()
    assert all(map(is_dead, [*pids, runner]))
    first, second = host.attempts(job)
    assert (first.phase, first.detail) == (AttemptPhase.LOST, "its worker died")
    assert second.phase == AttemptPhase.ENDED
    package = host.package(job)
    assert package.exits() == {"test_a": 0, "test_b": 0, "test_c": 0}
    assert package.manifest["attempt"]["number"] == 2
    assert list(package.executions("attempts/1/executions.jsonl")) == [(0, 1)]
    assert "attempts/1/log.txt" in package.files
    assert os.listdir(paths.workspace_path(host.folder)) == []


def test_a_new_worker_kills_processes_that_slots_have_left(host: QueueHost) -> None:
    """Worker, runner and slots all die at once, as the kernel may choose when memory is short."""
    job = host.submit({"test_a": make_escaping_script(host.fifo.path)}, slots=1)
    worker = host.worker()
    pids = read_pids(host)
    runner = host.runner(worker)
    above = [worker.pid, runner, *processes.list_children(runner)]
    assert len(above) == 3
    for pid in above:
        os.kill(pid, signal.SIGSTOP)
    for pid in above:
        kill(pid)
    worker.wait()
    assert not any(map(is_dead, pids))
    Path(host.folder, "again").touch()
    host.drain()
    assert all(map(is_dead, pids))
    assert host.package(job).manifest["attempt"]["number"] == 2


def test_a_killed_runner_costs_an_attempt_and_no_worker(host: QueueHost) -> None:
    job = host.submit({"test_a": make_escaping_script(host.fifo.path)}, slots=1)
    worker = host.worker()
    pids = read_pids(host)
    Path(host.folder, "again").touch()
    kill(host.runner(worker))
    assert worker.wait(TIMEOUT) == 0
    assert all(map(is_dead, pids))
    first, _ = host.attempts(job)
    assert first.detail == "its runner was killed by SIGKILL"
    assert host.package(job).exits() == {"test_a": 0}


def test_a_job_that_kills_its_runner_gives_up(host: QueueHost) -> None:
    script = "kill -9 $(awk '{print $4}' /proc/$(awk '{print $4}' /proc/$$/stat)/stat); sleep 9"
    job = host.submit({"test_a": script, "test_b": "true"}, slots=1, attempts=2)
    other = host.submit({"test_a": "true"})
    host.drain()
    assert host.find(job).end_reason == EndReason.GAVE_UP
    assert len(host.attempts(job)) == 2
    executions = host.package(job).executions()
    assert executions[0, 1].problem == Problem.HOST_LOST
    assert executions[0, 1].detail == "its runner was killed by SIGKILL"
    assert host.package(other).exits() == {"test_a": 0}


def test_a_killed_slot_costs_the_test_that_it_ran(host: QueueHost) -> None:
    job = host.submit(
        {"test_a": f"echo $PPID >{host.fifo.path}; sleep 1000", "test_b": "true"}, slots=1
    )
    worker = host.worker()
    kill(int(host.fifo.read_line()))
    assert worker.wait(TIMEOUT) == 0
    executions = host.package(job).executions()
    assert executions[0, 1].problem == Problem.SLOT_DIED
    assert executions[1, 1].exit_status == 0
    assert len(host.attempts(job)) == 1


def submit_slow_build(host: QueueHost) -> tuple[JobRow, Callable[[], int]]:
    """Submit a job with a build from a pipe; also return a wait until the runner reads it."""
    job = host.submit({"test_a": "true"}, build=host.archive(b""))
    assert job.build is not None
    path = host.store.path(job.build.digest)
    os.unlink(path)
    os.mkfifo(path)
    return job, lambda: os.open(path, os.O_WRONLY)


def test_a_worker_killed_while_unpacking_costs_an_attempt(host: QueueHost) -> None:
    job, reached = submit_slow_build(host)
    worker = host.worker()
    pipe = reached()
    worker.kill()
    worker.wait()
    os.close(pipe)
    path = host.store.path(job.build.digest if job.build else "")
    os.unlink(path)
    Path(path).write_bytes(b"")
    host.drain()
    assert [row.phase for row in host.attempts(job)] == [AttemptPhase.LOST, AttemptPhase.ENDED]
    assert host.find(job).end_reason == EndReason.REFUSED, "nothing is no archive"
    assert os.listdir(paths.workspace_path(host.folder)) == []


def test_a_job_can_be_canceled_while_it_is_unpacked(host: QueueHost) -> None:
    job, reached = submit_slow_build(host)
    worker = host.worker()
    pipe = reached()
    host.cancel(job)
    assert worker.wait(TIMEOUT) == 0
    os.close(pipe)
    assert host.find(job).end_reason == EndReason.CANCELED
    assert host.package(job).executions()[0, 1].problem == Problem.CANCELED


def test_a_worker_killed_while_packing_costs_nothing(host: QueueHost) -> None:
    job = host.submit({"test_a": "exit 4"})
    blocked = Path(paths.package_path(host.folder, job.id) + ".part")
    blocked.mkdir(parents=True)
    worker = host.worker()
    wait_until(lambda: host.find(job).waiting_reason)
    worker.kill()
    worker.wait()
    blocked.rmdir()
    host.drain()
    assert host.package(job).exits() == {"test_a": 4}
    assert len(host.attempts(job)) == 1


def test_a_package_in_the_making_is_made_again(host: QueueHost) -> None:
    """The next worker builds the same package from the same rows, and runs no test again."""
    scripts = {
        f"test_{n}": 'echo 1 >"$TEST_UNDECLARED_OUTPUTS_DIR/a"; exit $RANDOM' for n in range(5)
    }
    job = host.submit(scripts, install="echo x", keep_workspace="always")
    host.drain()
    before = host.find(job).package_digest
    path = paths.package_path(host.folder, job.id)
    os.unlink(path)
    with host.queue() as queue, queue._db.write_transaction() as db:
        db.execute("UPDATE job SET state = 'packaging', package_digest = ''")
        db.execute("UPDATE attempt SET phase = 'packaging', pid = 1")
    host.drain()
    assert host.find(job).package_digest == before
    assert len(host.attempts(job)) == 1


# -- troubles


def test_a_package_that_cannot_be_written_waits_and_blocks_no_job(host: QueueHost) -> None:
    job = host.submit({"test_a": "exit 4"})
    blocked = Path(paths.package_path(host.folder, job.id) + ".part")
    blocked.mkdir(parents=True)
    worker = host.worker()
    other = host.submit({"test_a": f"echo done >{host.fifo.path}"})
    worker_launcher.wake_worker(host.folder)
    assert host.fifo.read_line() == "done"
    wait_until(lambda: host.find(other).state == State.READY)
    row = host.find(job)
    assert row.state == State.PACKAGING
    assert "its package cannot be made" in row.waiting_reason
    blocked.rmdir()
    worker_launcher.wake_worker(host.folder)
    assert worker.wait(TIMEOUT) == 0
    assert host.package(job).exits() == {"test_a": 4}
    assert host.find(job).waiting_reason == ""


def test_a_worker_sleeps_while_a_package_waits_and_a_job_runs(host: QueueHost) -> None:
    source = Path(worker_launcher.__file__).with_name("worker.py").read_bytes()
    assert source.count(b"_PACKAGE_RETRY_DELAY = 30.0") == 1
    host.code = host.install(
        {
            "jobs/worker.py": source.replace(
                b"_PACKAGE_RETRY_DELAY = 30.0", b"_PACKAGE_RETRY_DELAY = 0.01"
            )
        }
    )
    job = host.submit({"test_a": "true"})
    blocked = Path(paths.package_path(host.folder, job.id) + ".part")
    blocked.mkdir(parents=True)
    other = host.submit({"test_a": f"echo here >{host.fifo.path}; sleep 1"})
    worker = host.worker()
    assert host.fifo.read_line() == "here"
    before = read_cpu_ticks(worker.pid)
    wait_until(lambda: host.find(other).end_reason == EndReason.COMPLETED)
    assert read_cpu_ticks(worker.pid) - before < 30
    blocked.rmdir()
    worker_launcher.wake_worker(host.folder)
    assert worker.wait(TIMEOUT) == 0


def read_cpu_ticks(pid: int) -> int:
    """Return the processor time of a process, without its children, in hundredths of a second."""
    user, system = processes.read_stat(pid)[11:13]
    return int(user) + int(system)


def test_of_two_workers_one_leaves(host: QueueHost) -> None:
    job = host.submit({"test_a": f"echo here >{host.fifo.path}; cat {host.fifo.path}.go"})
    os.mkfifo(f"{host.fifo.path}.go")
    workers = [host.worker(), host.worker(), host.worker()]
    assert host.fifo.read_line() == "here"
    wait_until(lambda: sum(each.poll() is None for each in workers) == 1)
    Path(f"{host.fifo.path}.go").write_text("")
    assert [each.wait(TIMEOUT) for each in workers] == [0, 0, 0]
    assert len(host.attempts(job)) == 1


def test_a_worker_that_starts_while_another_exits_finds_submitted_jobs(host: QueueHost) -> None:
    jobs = []
    for _ in range(4):
        jobs.append(host.submit({"test_a": "true"}))
        worker_launcher.wake_worker(host.folder)
        host.worker()
        wait_until(lambda: host.find(jobs[-1]).state == State.READY)
    assert all(len(host.attempts(job)) == 1 for job in jobs)


def test_code_of_another_version_takes_over(host: QueueHost) -> None:
    """The same process continues with the lock, so that no other worker comes in between."""
    source = Path(worker_launcher.__file__).with_name("webhook.py").read_bytes()
    other = host.install({"jobs/webhook.py": source + b"# changed\n"})
    jobs = [
        host.submit({"test_a": f"echo $NOSEJOBS_JOB >{host.fifo.path}"}, code=code)
        for code in (host.code, other, host.code)
    ]
    worker = host.worker()
    assert worker.wait(TIMEOUT) == 0
    assert [host.fifo.read_line() for _ in jobs] == [job.id for job in jobs]
    assert {row.worker.pid for job in jobs for row in host.attempts(job)} == {worker.pid}
    assert all(host.package(job).manifest["job"]["code"] == job.code for job in jobs)


def test_a_job_whose_code_is_gone_is_refused(host: QueueHost) -> None:
    job = host.submit({"test_a": "true"}, code="0" * 64)
    after = host.submit({"test_a": "true"})
    host.drain()
    row = host.find(job)
    assert row.end_reason == EndReason.REFUSED
    assert "the code that runs it is not on this host" in row.detail
    assert host.package(job).executions()[0, 1].problem == Problem.NOT_RUN
    assert host.package(after).exits() == {"test_a": 0}


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("job", "config = '{'", "its row cannot be read: config: "),
        ("test", "row = 'x'", "a test cannot be read: unreadable-0 ("),
    ],
)
def test_a_job_that_cannot_be_read_is_refused_and_blocks_no_job(
    host: QueueHost, table: str, change: str, message: str
) -> None:
    job = host.submit({"test_a": "true"})
    with host.queue() as queue, queue._db.write_transaction() as db:
        db.execute(f"UPDATE {table} SET {change}")
    after = host.submit({"test_a": "true"})
    host.drain()
    row = host.find(job)
    assert (row.end_reason, row.state) == (EndReason.REFUSED, State.READY)
    assert row.detail.startswith(message)
    assert host.package(job).executions()[0, 1].problem == Problem.NOT_RUN
    assert host.package(after).exits() == {"test_a": 0}


# -- notifications and removal


def test_a_notification_is_sent_until_it_is_accepted(host: QueueHost) -> None:
    receiver = WebhookReceiver([500, 503])
    try:
        job = host.submit({"test_a": "true"}, notify=receiver.url, secret="s3cret")
        host.drain()
    finally:
        receiver.close()
    bodies = {body for _, _, body in receiver.got}
    assert len(receiver.got) == 3
    assert len(bodies) == 1, "the same message each time"
    body = json.loads(bodies.pop())
    assert (body["id"], body["end_reason"]) == (job.id, "completed")
    assert body["package_digest"] == host.find(job).package_digest
    wanted = webhook.sign("s3cret", receiver.got[2][2])
    assert receiver.got[2][1]["X-Nosejobs-Signature"] == wanted
    with host.queue() as queue:
        assert queue.get_next_due() is None


def test_an_address_that_does_not_answer_blocks_no_job(host: QueueHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        first = host.submit({"test_a": "true"}, notify=url)
        second = host.submit({"test_a": f"echo here >{host.fifo.path}"})
        worker = host.worker()
        assert host.fifo.read_line() == "here"
        wait_until(lambda: host.find(second).state == State.READY)
        assert host.find(first).state == State.READY
        assert worker.poll() is None, "a notification is still pending"
        worker.kill()
        worker.wait()


def test_nothing_stays_in_the_folder_for_temporary_files(host: QueueHost) -> None:
    before = set(os.listdir(tempfile.gettempdir()))
    job = host.submit({"test_a": make_escaping_script(host.fifo.path)}, slots=1, install="true")
    worker = host.worker()
    read_pids(host)
    kill(host.runner(worker))
    worker.kill()
    worker.wait()
    Path(host.folder, "again").touch()
    host.drain()
    assert host.package(job).exits() == {"test_a": 0}
    assert set(os.listdir(tempfile.gettempdir())) == before


def test_a_sparse_build_stays_sparse(host: QueueHost) -> None:
    """The build is a tree with many bytes in few blocks."""
    large = 256 << 20
    checksum = hashlib.sha256()
    for _ in range(large >> 20):
        checksum.update(bytes(1 << 20))
    digest = checksum.hexdigest()
    path = Path(host.store.path(digest))
    path.parent.mkdir()
    with open(path, "wb") as file:
        file.truncate(large)
    build = host.entries([ManifestEntry("image", FILE, 0o644, digest, large)])
    job = host.submit({"test_a": 'du -k "$NOSEJOBS_BUILD/image"'}, build=build)
    host.drain()
    output = host.package(job).executions()[0, 1].stdout.text
    assert int(output.split()[0]) < 1024


def test_a_job_that_no_package_can_hold_ends_with_the_reason(host: QueueHost) -> None:
    job = host.submit({"test_a": "true", "test_b": "true"})
    with host.queue() as queue, queue._db.write_transaction() as db:
        # An older version with fewer checks may have accepted such a job.
        db.execute("UPDATE test SET row = replace(row, '30.0', 'NaN') WHERE number = 0")
    host.drain()
    package = host.package(job)
    assert {each.problem for each in package.executions().values()} == {Problem.NOT_RUN}
    assert "cannot be packed" in package.manifest["detail"]


def test_code_that_cannot_run_is_an_error_of_the_starter(host: QueueHost) -> None:
    code = host.install({"jobs/worker.py": b"import nothing_of_this_name\n"})
    with pytest.raises(worker_launcher.WorkerStartError, match=r"worker\.log"):
        worker_launcher.start_worker(host.folder, code)
    assert "nothing_of_this_name" in host.log()


def test_a_job_is_run_by_its_own_code_whatever_its_files_are_called(host: QueueHost) -> None:
    """A worker of one version becomes one of another by the stable name alone."""
    remote = Path(worker_launcher.__file__).parents[1]
    entry = (remote / "__main__.py").read_bytes()
    assert entry.count(b'"jobs.worker:main"') == 1
    code = host.install(
        {
            "__main__.py": entry.replace(b'"jobs.worker:main"', b'"jobs.renamed_worker:main"'),
            "jobs/renamed_worker.py": (remote / "jobs" / "worker.py").read_bytes()
            + b"log('renamed')\n",
            "jobs/worker.py": b"raise ImportError('its name is another one')\n",
        }
    )
    job = host.submit({"test_a": "echo other"}, code=code)
    host.drain()
    assert host.package(job).executions()[0, 1].stdout.text == "other\n"
    assert "renamed" in host.log()
    assert "its name is another one" not in host.log()


def test_a_launched_worker_lives_on_without_its_launcher(
    host: QueueHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    job = host.submit({"test_a": "echo launched"})
    worker_launcher.start_worker(host.folder, host.code)
    wait_until(lambda: host.find(job).state == State.READY)
    assert host.package(job).executions()[0, 1].stdout.text == "launched\n"
    with host.queue() as queue:
        wait_until(lambda: queue.get_worker() is None)


def test_code_that_is_not_here_cannot_be_started(host: QueueHost) -> None:
    with pytest.raises(worker_launcher.WorkerStartError, match="the code 0123456789ab is not in"):
        worker_launcher.start_worker(host.folder, "0123456789abcdef")
