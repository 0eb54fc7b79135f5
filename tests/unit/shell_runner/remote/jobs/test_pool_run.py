"""Tests of how the run of a job's tests handles the reports of its slot pool."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from shell_runner.remote.execution.artifacts import ArtifactPiece
from shell_runner.remote.execution.resource_locks import (
    LOCK,
    SLOTS,
    HostResources,
    UnavailableResource,
)
from shell_runner.remote.execution.result_limits import shorten_to_fit
from shell_runner.remote.execution.slot_pool import SlotStartError
from shell_runner.remote.files.manifest import BadManifestEntry
from shell_runner.remote.jobs import pool_run, result_package_format, result_package_reader
from shell_runner.remote.jobs.pool_run import PoolRun, TestOutcome
from shell_runner.remote.protocol import model, verdict
from shell_runner.remote.protocol.frames import encode_json
from shell_runner.remote.protocol.model import Execution, Problem, Setup, Test


class Pool:
    """A fake slot pool: ``process`` reports what a test has put into ``reports``."""

    def __init__(self, listener: PoolRun, *_: Any, **__: Any) -> None:
        self.listener = listener
        self.calls: list[str] = []
        self.added: list[Test] = []
        self.reports: list[list[Execution]] = []
        self.turns = 0

    def start(self, *_: Any) -> None:
        self.calls.append("start")

    def add(self, tests: list[Test]) -> None:
        self.calls.append("add")
        self.added += tests

    def wait(self) -> list[Any]:
        return []

    def process(self, _: Any) -> None:
        self.turns += 1
        for execution in self.reports.pop(0):
            report(self.listener, execution)
        self.listener.flush()

    def close(self) -> None:
        self.calls.append("close")


def report(run: PoolRun, execution: Execution) -> None:
    run.on_result(Test(execution.id, "x"), encode_json(execution))


class Run:
    """A PoolRun of two tests that records what it passes on."""

    def __init__(self, folder: Path) -> None:
        self.outcomes: list[TestOutcome] = []
        self.batches: list[int] = []
        self.notes: list[str] = []
        self.lines: list[tuple[int, list[str]]] = []
        self.folder = folder
        self.run = PoolRun(
            Setup("/"),
            [Test(number, f"test_{number}") for number in range(2)],
            lambda test, number: f"{folder}/{test}.{number}",
            self._take,
            lambda number, lines: self.lines.append((number, lines)),
            self.notes.append,
        )

    def _take(self, outcomes: list[TestOutcome]) -> list[Test]:
        self.outcomes += outcomes
        self.batches.append(len(outcomes))
        again = [
            each.test for each in outcomes if each.execution.exit_status and each.test.attempt == 1
        ]
        return [test._replace(attempt=2) for test in again]

    def report(self, *executions: Execution) -> None:
        for execution in executions:
            report(self.run, execution)
        self.run.flush()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.fixture
def pools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Pool]:
    """Replace slot pools by fakes, and return those that are made."""
    made: list[Pool] = []

    def make(*arguments: Any, **keywords: Any) -> Pool:
        made.append(Pool(*arguments, **keywords))
        made[0].reports = [[Execution(0, exit_status=0)], [], [Execution(1, exit_status=0)], []]
        return made[0]

    monkeypatch.setattr(pool_run, "SlotPool", make)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return made


def test_a_run_lasts_until_the_last_result(run: Run, pools: list[Pool]) -> None:
    run.run.run(HostResources())
    assert pools[0].calls == ["start", "add", "close"]
    assert [test.path for test in pools[0].added] == ["test_0", "test_1"]
    assert pools[0].turns == 3
    assert list(run.folder.iterdir()) == []


def test_a_stop_before_the_start_starts_nothing(run: Run, pools: list[Pool]) -> None:
    run.run.stop()
    run.run.run(HostResources())
    assert pools[0].calls == ["close"]


def test_a_stop_ends_the_run(run: Run, pools: list[Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "wait", lambda pool: run.run.stop() or [])
    run.run.run(HostResources())
    assert pools[0].turns == 1
    assert [each.test.id for each in run.outcomes] == [0]
    run.run.stop()  # a signal may still come


def test_slots_that_cannot_start_end_the_run(
    run: Run, pools: list[Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise SlotStartError("a slot cannot be started: exit 1")

    monkeypatch.setattr(Pool, "process", fail)
    with pytest.raises(SlotStartError, match="a slot cannot be started"):
        run.run.run(HostResources())
    assert pools[0].calls == ["start", "add", "close"]
    assert list(run.folder.iterdir()) == []


def test_the_run_is_over_with_the_last_result(run: Run) -> None:
    run.report(Execution(0, exit_status=0))
    assert not run.run.is_stopped
    run.report(Execution(1, exit_status=0))
    assert run.run.is_stopped


def test_results_that_come_together_are_one_batch(run: Run) -> None:
    run.report()
    run.report(Execution(0, exit_status=0), Execution(1, exit_status=0))
    assert run.batches == [2]


def test_an_answer_counts_once(run: Run) -> None:
    run.report(
        Execution(0, exit_status=0), Execution(7, exit_status=0), Execution(0, exit_status=2)
    )
    run.report(Execution(0, exit_status=1), Execution(1, attempt=2, exit_status=0))
    assert [(each.test.id, each.execution.exit_status) for each in run.outcomes] == [(0, 0)]


def test_a_test_that_runs_again_is_awaited(run: Run, pools: list[Pool]) -> None:
    run.run._pool = pool = Pool(run.run)  # type: ignore[assignment]
    run.report(Execution(0, exit_status=1), Execution(1, exit_status=0))
    assert [test[:2] for test in pool.added] == [(0, "test_0")]
    run.report(Execution(0, attempt=1, exit_status=0))
    assert len(run.outcomes) == 2, "the first try is over"
    assert not run.run.is_stopped
    run.report(Execution(0, attempt=2, exit_status=1))
    assert run.run.is_stopped


def test_an_invalid_execution_is_an_error_of_the_slot(run: Run) -> None:
    row = json.loads(json.dumps(Execution(0, exit_status=0)))
    row[11] = ["out", 1, 99]
    run.run.on_result(Test(0, "x"), encode_json(row))
    run.run.flush()
    assert run.outcomes[0].execution.problem == Problem.SLOT_DIED
    assert run.outcomes[0].outcome == "error"


def test_lines_of_one_test_are_passed_on_together_and_before_its_result(run: Run) -> None:
    for number, line in ((0, "a"), (0, "b"), (1, "c"), (0, "d")):
        run.run.on_output(Test(number, "x"), line)
    assert run.lines == []
    run.run.flush()
    assert run.lines == [(0, ["a", "b"]), (1, ["c"]), (0, ["d"])]
    run.run.flush()
    assert len(run.lines) == 3


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (UnavailableResource(LOCK, "gpu"), "waits for lock gpu that other runs hold"),
        (UnavailableResource(SLOTS), "waits for slots that other runs hold"),
    ],
)
def test_the_log_says_which_resource_a_job_waits_for(
    run: Run, refusal: UnavailableResource, message: str
) -> None:
    run.run.on_waiting(refusal)
    assert run.notes == [message]


def many_cases() -> Execution:
    cases = [model.Case("", "passed")] * 1_000_000
    return Execution(0, exit_status=0, parsed=model.ParsedOutput("tap", cases))


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        (many_cases(), "its 1000000 cases are too large for a result; none is kept"),
        (
            Execution(
                0, exit_status=1, stdout=model.CapturedStream("[1,2],\n" * 1_000_000, 7_000_000)
            ),
            "exit 1",
        ),
        (
            Execution(
                0, exit_status=1, stderr=model.CapturedStream("," * 8_000_000, 9_000_000, 500_000)
            ),
            "exit 1",
        ),
    ],
)
def test_an_execution_is_shortened_until_a_package_can_hold_it(
    execution: Execution, message: str
) -> None:
    shortened, text = shorten_to_fit(execution, result_package_format.is_readable_size)
    restored = result_package_reader._parse_execution(
        result_package_reader._parse_json(text.encode(), result_package_format.LIMITS)
    )
    assert restored == shortened
    assert (shortened.exit_status, shortened.stdout.total_bytes) == (
        execution.exit_status,
        execution.stdout.total_bytes,
    )
    assert verdict.judge(Test(0, "test_a"), shortened).message == message
    for now, before in ((shortened.stdout, execution.stdout), (shortened.stderr, execution.stderr)):
        if now != before:
            assert before.text.startswith(now.text[: now.cut_index])
            assert before.text.endswith(now.text[now.cut_index :])
            assert len(now.text) == 512 << 10


def test_an_execution_that_fits_stays_unchanged() -> None:
    streams = [model.CapturedStream("\0" * n, n) for n in (1 << 20, 8 << 20)]
    execution = Execution(0, exit_status=0, stdout=streams[0], stderr=streams[1])
    assert shorten_to_fit(execution, result_package_format.is_readable_size)[0] is execution


def piece(run: Run, path: str, data: bytes, is_last: bool = True) -> None:
    run.run.on_artifact(Test(0, "x"), ArtifactPiece(path, data, is_last))


def test_artifacts_come_in_pieces(run: Run) -> None:
    for data, is_last in ((b"one ", False), (b"two", True)):
        piece(run, "deep/er/file", data, is_last)
    assert (run.folder / "0.1/deep/er/file").read_bytes() == b"one two"


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "", "a//b", "a\0b"])
def test_no_artifact_leads_out_of_its_folder(run: Run, path: str) -> None:
    with pytest.raises(BadManifestEntry):
        piece(run, path, b"x")
    assert list(run.folder.rglob("*")) == []


def test_no_link_is_written_through(run: Run) -> None:
    (run.folder / "0.1").mkdir()
    (run.folder / "0.1/link").symlink_to(run.folder / "target")
    piece(run, "link", b"x")
    assert not (run.folder / "target").exists()
    assert run.notes[0].startswith("artifact link: ")


@pytest.mark.parametrize("call", ["makedirs", "open", "write"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_an_artifact_waits_for_room_whichever_call_finds_the_disk_full(
    run: Run, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    monkeypatch.setattr(pool_run, "_FULL_DISK_RETRY_DELAY", 0.0)
    failures = [OSError(code, os.strerror(code)) for _ in range(3)]
    original = getattr(os, call)

    def fail(*arguments: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return original(*arguments, **more)

    monkeypatch.setattr(os, call, fail)
    piece(run, "a/b", b"one", is_last=False)
    piece(run, "a/b", b"two")
    assert not failures
    assert (run.folder / "0.1/a/b").read_bytes() == b"onetwo"
    assert run.notes == []
