"""Tests of attempts: their phases, their loss, and their executions."""

from collections.abc import Iterator

import pytest

from shell_runner.remote.jobs.queue import AttemptPhase, EndReason, Queue, RequestRefused, State
from shell_runner.remote.protocol.job import JobConfig
from tests.helpers.queue_factories import (
    CODE,
    NEXT_WORKER,
    WORKER,
    bring_to_state,
    claim_job,
    expect_refusal,
    make_uuid,
    submit_job,
)


def test_an_attempt_has_a_number_and_its_worker(queue: Queue) -> None:
    submit_job(queue)
    job, first = claim_job(queue)
    assert (first.number, first.phase, first.worker, first.started_at) == (
        1,
        AttemptPhase.UNPACKING,
        WORKER,
        2.0,
    )
    queue.lose(first.id, "died", 3.0)
    again, second = claim_job(queue, NEXT_WORKER)
    assert again == job
    assert (second.number, second.worker) == (2, NEXT_WORKER)
    lost, running = queue.get_attempts(job.number)
    assert (lost.phase, lost.detail, lost.ended_at) == (AttemptPhase.LOST, "died", 3.0)
    assert running == second


def test_a_claim_can_be_repeated(queue: Queue) -> None:
    submit_job(queue)
    submit_job(queue)
    attempt = make_uuid()
    first = queue.claim(WORKER, CODE, attempt, 1.0)
    assert first == queue.claim(WORKER, CODE, attempt, 2.0)
    assert queue.count_jobs()[State.RUNNING] == 1
    queue.lose(attempt, "", 3.0)
    with expect_refusal("state"):
        queue.claim(WORKER, CODE, attempt, 4.0)


def test_phases_advance_and_can_be_repeated(queue: Queue) -> None:
    job = bring_to_state(queue, State.RUNNING)
    (attempt,) = queue.get_attempts(job.number)
    for step in (AttemptPhase.INSTALLING, AttemptPhase.TESTING, AttemptPhase.TESTING):
        queue.set_phase(attempt.id, step)
        assert queue.get_attempts(job.number)[0].phase == step
    for step in (
        AttemptPhase.UNPACKING,
        AttemptPhase.PACKAGING,
        AttemptPhase.ENDED,
        AttemptPhase.LOST,
    ):
        with expect_refusal("state"):
            queue.set_phase(attempt.id, step)
    queue.finish(attempt.id, EndReason.COMPLETED, "", 1.0)
    queue.set_phase(attempt.id, AttemptPhase.PACKAGING)
    with expect_refusal("state"):
        queue.set_phase(attempt.id, AttemptPhase.TESTING)
    with expect_refusal("unknown"):
        queue.set_phase(make_uuid(), AttemptPhase.TESTING)


def test_an_attempt_ends_when_its_package_is_there(queue: Queue) -> None:
    job = bring_to_state(queue, State.PACKAGING)
    (attempt,) = queue.get_attempts(job.number)
    assert (attempt.phase, attempt.ended_at) == (AttemptPhase.PACKAGING, 3.0)
    queue.record_package(job.number, "d", 1, 9.0)
    (attempt,) = queue.get_attempts(job.number)
    assert (attempt.phase, attempt.ended_at) == (AttemptPhase.ENDED, 3.0)


# -- lost ---------------------------------------------------------------------------


def test_a_lost_job_takes_its_old_place(queue: Queue) -> None:
    first, second, third = (submit_job(queue) for _ in range(3))
    urgent = submit_job(queue, priority=1)
    assert claim_job(queue)[0].id == urgent.id
    job, attempt = claim_job(queue)
    assert job.id == first.id
    assert queue.lose(attempt.id, "power", 3.0) == State.QUEUED
    assert queue.find(first.id) == first
    assert [claim_job(queue)[0].id for _ in range(3)] == [first.id, second.id, third.id]


def test_attempts_are_used_up(queue: Queue) -> None:
    job = submit_job(queue, config=JobConfig(attempts=2))
    ends = [queue.lose(claim_job(queue)[1].id, "power", 3.0) for _ in range(2)]
    assert ends == [State.QUEUED, State.PACKAGING]
    row = queue.find(job.id)
    assert (row.state, row.end_reason, row.detail) == (
        State.PACKAGING,
        EndReason.GAVE_UP,
        "power",
    )
    assert queue.record_package(row.number, "d", 1, 4.0).state == State.READY
    assert [each.phase for each in queue.get_attempts(job.number)] == [
        AttemptPhase.LOST,
        AttemptPhase.LOST,
    ]


def test_a_loss_can_be_repeated(queue: Queue) -> None:
    job = bring_to_state(queue, State.RUNNING)
    (first,) = queue.get_attempts(job.number)
    assert queue.lose(first.id, "a", 1.0) == queue.lose(first.id, "b", 2.0) == State.QUEUED
    _, second = claim_job(queue)
    # The loss of the first attempt does not change the second.
    assert queue.lose(first.id, "c", 3.0) == State.RUNNING
    assert queue.get_attempts(job.number)[0].detail == "a"
    assert queue.get_attempts(job.number)[1] == second


def test_an_attempt_that_dies_in_packaging_is_packaged_again(queue: Queue) -> None:
    job = bring_to_state(queue, State.PACKAGING)
    (attempt,) = queue.list_stale_attempts(NEXT_WORKER)
    assert queue.lose(attempt.id, "died", 9.0) == State.PACKAGING
    assert queue.list_packaging() == [job]
    assert queue.get_attempts(job.number) == [attempt]


def test_attempts_of_another_worker_are_stale(queue: Queue) -> None:
    bring_to_state(queue, State.READY)
    packaging = bring_to_state(queue, State.PACKAGING)
    running = bring_to_state(queue, State.RUNNING)
    submit_job(queue)
    assert queue.list_stale_attempts(WORKER) == []
    assert [each.job for each in queue.list_stale_attempts(NEXT_WORKER)] == [
        running.number,
        packaging.number,
    ]
    queue.lose(queue.list_stale_attempts(NEXT_WORKER)[0].id, "", 1.0)
    assert [each.job for each in queue.list_stale_attempts(NEXT_WORKER)] == [packaging.number]
    queue.record_package(packaging.number, "d", 1, 1.0)
    assert queue.list_stale_attempts(NEXT_WORKER) == []


# -- what happened --------------------------------------------------------------------


def test_the_first_execution_stays(queue: Queue) -> None:
    job = bring_to_state(queue, State.RUNNING)
    (attempt,) = queue.get_attempts(job.number)
    queue.record_executions(attempt.id, [(1, 1, "failed", "first"), (0, 1, "passed", "x")])
    queue.record_executions(attempt.id, [(1, 2, "passed", "again"), (1, 1, "passed", "second")])
    assert list(queue.read_executions(attempt.id)) == [
        (0, 1, "passed", "x"), (1, 1, "failed", "first"), (1, 2, "passed", "again"),
    ]  # fmt: skip
    assert queue.count_outcomes(attempt.id) == {"passed": 2}


def test_executions_come_in_order_however_many(queue: Queue) -> None:
    job = bring_to_state(queue, State.RUNNING)
    (attempt,) = queue.get_attempts(job.number)
    records = [(test, number, "failed", "{}") for test in range(40) for number in (1, 2, 3)]
    queue.record_executions(attempt.id, reversed(records))
    executions = queue.read_executions(attempt.id)
    assert next(executions) == records[0]
    # The queue can be written to between two rows.
    queue.record_executions(attempt.id, [(40, 1, "passed", "{}")])
    assert list(executions) == [*records[1:], (40, 1, "passed", "{}")]
    assert queue.count_outcomes(attempt.id) == {"failed": 40, "passed": 1}


def test_a_batch_is_recorded_completely_or_not_at_all(queue: Queue) -> None:
    job = bring_to_state(queue, State.RUNNING)
    (attempt,) = queue.get_attempts(job.number)

    def broken() -> Iterator[tuple[int, int, str, str]]:
        yield 0, 1, "passed", "{}"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        queue.record_executions(attempt.id, broken())
    assert list(queue.read_executions(attempt.id)) == []
    queue.record_executions(attempt.id, [(0, 1, "failed", "{}")])
    assert queue.count_outcomes(attempt.id) == {"failed": 1}


def test_results_of_a_lost_attempt_are_kept_out(queue: Queue) -> None:
    job = bring_to_state(queue, State.RUNNING)
    (lost,) = queue.get_attempts(job.number)
    queue.record_executions(lost.id, [(0, 1, "passed", "old")])
    queue.lose(lost.id, "", 1.0)
    _, attempt = claim_job(queue)
    late = (
        lambda: queue.record_executions(lost.id, [(1, 1, "passed", "late")]),
        lambda: queue.record_install(lost.id, "late"),
        lambda: queue.set_phase(lost.id, AttemptPhase.TESTING),
        lambda: queue.finish(lost.id, EndReason.COMPLETED, "late", 2.0),
    )
    for say in late:
        with pytest.raises(RequestRefused, match=f"attempt {lost.id} is lost") as caught:
            say()
        assert caught.value.kind == "state"
    assert list(queue.read_executions(lost.id)) == [(0, 1, "passed", "old")]
    assert queue.get_attempts(job.number)[1] == attempt
    assert queue.find(job.id).state == State.RUNNING


def test_nothing_is_recorded_once_a_job_has_ended(queue: Queue) -> None:
    job = bring_to_state(queue, State.PACKAGING)
    (attempt,) = queue.get_attempts(job.number)
    with expect_refusal("state"):
        queue.record_executions(attempt.id, [(0, 1, "passed", "{}")])
    with expect_refusal("unknown"):
        queue.record_executions(make_uuid(), [(0, 1, "passed", "{}")])


def test_the_install_command_is_remembered(queue: Queue) -> None:
    job = bring_to_state(queue, State.RUNNING)
    (attempt,) = queue.get_attempts(job.number)
    assert attempt.install is None
    queue.record_install(attempt.id, "[1]")
    assert queue.get_attempts(job.number)[0].install == "[1]"


def test_an_end_can_be_said_again_but_not_changed(queue: Queue) -> None:
    job = bring_to_state(queue, State.RUNNING)
    (attempt,) = queue.get_attempts(job.number)
    queue.finish(attempt.id, EndReason.TIMED_OUT, "late\udcff", 5.0)
    ended = queue.find(job.id)
    assert (ended.end_reason, ended.detail, ended.ended_at) == (
        EndReason.TIMED_OUT,
        "late\\udcff",
        5.0,
    )
    queue.finish(attempt.id, EndReason.TIMED_OUT, "other", 6.0)
    with expect_refusal("state"):
        queue.finish(attempt.id, EndReason.COMPLETED, "", 7.0)
    assert queue.find(job.id) == ended


def test_a_package_can_be_said_again_but_not_changed(queue: Queue) -> None:
    job = bring_to_state(queue, State.PACKAGING)
    queue.set_waiting_reason(job.number, "disk full")
    assert queue.find(job.id).waiting_reason == "disk full"
    ready = queue.record_package(job.number, "d", 5, 1.0)
    assert (ready.package_digest, ready.package_size, ready.waiting_reason) == ("d", 5, "")
    assert queue.record_package(job.number, "d", 5, 2.0) == ready
    with expect_refusal("state"):
        queue.record_package(job.number, "other", 5, 3.0)
    with expect_refusal("unknown"):
        queue.record_package(99, "d", 5, 3.0)
    assert queue.find(job.id) == ready
