"""The starts of jobs: what they may say, what is lost, and what is kept of it."""

from collections.abc import Iterator

import pytest

from shell_runner.remote.jobs.queue import How, Queue, Refused, State, Step
from shell_runner.remote.protocol.job import JobConfig
from tests.helpers.queue_factories import (
    CODE,
    NEXT_WORKER,
    WORKER,
    brought,
    claimed,
    name,
    refused,
    submitted,
)


def test_an_attempt_has_a_number_and_its_worker(queue: Queue) -> None:
    submitted(queue)
    job, first = claimed(queue)
    assert (first.number, first.step, first.identity, first.began) == (
        1,
        Step.UNPACKING,
        WORKER,
        2.0,
    )
    queue.lose(first.id, "died", 3.0)
    again, second = claimed(queue, NEXT_WORKER)
    assert again == job
    assert (second.number, second.identity) == (2, NEXT_WORKER)
    lost, running = queue.attempts(job.number)
    assert (lost.step, lost.detail, lost.ended) == (Step.LOST, "died", 3.0)
    assert running == second


def test_a_claim_can_be_said_again(queue: Queue) -> None:
    submitted(queue)
    submitted(queue)
    attempt = name()
    first = queue.claim(WORKER, CODE, attempt, 1.0)
    assert first == queue.claim(WORKER, CODE, attempt, 2.0)
    assert queue.counts()[State.RUNNING] == 1
    queue.lose(attempt, "", 3.0)
    with refused("state"):
        queue.claim(WORKER, CODE, attempt, 4.0)


def test_steps_go_on_and_can_be_said_again(queue: Queue) -> None:
    job = brought(queue, State.RUNNING)
    (attempt,) = queue.attempts(job.number)
    for step in (Step.INSTALLING, Step.TESTING, Step.TESTING):
        queue.step(attempt.id, step)
        assert queue.attempts(job.number)[0].step == step
    for step in (Step.UNPACKING, Step.PACKAGING, Step.ENDED, Step.LOST):
        with refused("state"):
            queue.step(attempt.id, step)
    queue.finish(attempt.id, How.COMPLETED, "", 1.0)
    queue.step(attempt.id, Step.PACKAGING)
    with refused("state"):
        queue.step(attempt.id, Step.TESTING)
    with refused("unknown"):
        queue.step(name(), Step.TESTING)


def test_an_attempt_ends_when_its_package_is_there(queue: Queue) -> None:
    job = brought(queue, State.PACKAGING)
    (attempt,) = queue.attempts(job.number)
    assert (attempt.step, attempt.ended) == (Step.PACKAGING, 3.0)
    queue.packaged(job.number, "d", 1, 9.0)
    (attempt,) = queue.attempts(job.number)
    assert (attempt.step, attempt.ended) == (Step.ENDED, 3.0)


# -- lost ---------------------------------------------------------------------------


def test_a_lost_job_takes_its_old_place(queue: Queue) -> None:
    first, second, third = (submitted(queue) for _ in range(3))
    urgent = submitted(queue, priority=1)
    assert claimed(queue)[0].id == urgent.id
    job, attempt = claimed(queue)
    assert job.id == first.id
    assert queue.lose(attempt.id, "power", 3.0) == State.QUEUED
    assert queue.find(first.id) == first
    assert [claimed(queue)[0].id for _ in range(3)] == [first.id, second.id, third.id]


def test_attempts_are_used_up(queue: Queue) -> None:
    job = submitted(queue, config=JobConfig(attempts=2))
    ends = [queue.lose(claimed(queue)[1].id, "power", 3.0) for _ in range(2)]
    assert ends == [State.QUEUED, State.PACKAGING]
    found = queue.find(job.id)
    assert (found.state, found.how, found.detail) == (State.PACKAGING, How.GAVE_UP, "power")
    assert queue.packaged(found.number, "d", 1, 4.0).state == State.READY
    assert [each.step for each in queue.attempts(job.number)] == [Step.LOST, Step.LOST]


def test_a_loss_can_be_said_again(queue: Queue) -> None:
    job = brought(queue, State.RUNNING)
    (first,) = queue.attempts(job.number)
    assert queue.lose(first.id, "a", 1.0) == queue.lose(first.id, "b", 2.0) == State.QUEUED
    _, second = claimed(queue)
    # Said of the first one, it is not said of the second.
    assert queue.lose(first.id, "c", 3.0) == State.RUNNING
    assert queue.attempts(job.number)[0].detail == "a"
    assert queue.attempts(job.number)[1] == second


def test_what_dies_while_it_is_packaged_is_packaged_again(queue: Queue) -> None:
    job = brought(queue, State.PACKAGING)
    (attempt,) = queue.stale(NEXT_WORKER)
    assert queue.lose(attempt.id, "died", 9.0) == State.PACKAGING
    assert queue.packaging() == [job]
    assert queue.attempts(job.number) == [attempt]


def test_stale_is_what_another_worker_has_left(queue: Queue) -> None:
    brought(queue, State.READY)
    packaging = brought(queue, State.PACKAGING)
    running = brought(queue, State.RUNNING)
    submitted(queue)
    assert queue.stale(WORKER) == []
    assert [each.job for each in queue.stale(NEXT_WORKER)] == [running.number, packaging.number]
    queue.lose(queue.stale(NEXT_WORKER)[0].id, "", 1.0)
    assert [each.job for each in queue.stale(NEXT_WORKER)] == [packaging.number]
    queue.packaged(packaging.number, "d", 1, 1.0)
    assert queue.stale(NEXT_WORKER) == []


# -- what happened --------------------------------------------------------------------


def test_the_first_execution_stays(queue: Queue) -> None:
    job = brought(queue, State.RUNNING)
    (attempt,) = queue.attempts(job.number)
    queue.record(attempt.id, [(1, 1, "failed", "first"), (0, 1, "passed", "x")])
    queue.record(attempt.id, [(1, 2, "passed", "again"), (1, 1, "passed", "second")])
    assert list(queue.executions(attempt.id)) == [
        (0, 1, "passed", "x"), (1, 1, "failed", "first"), (1, 2, "passed", "again"),
    ]  # fmt: skip
    assert queue.outcomes(attempt.id) == {"passed": 2}


def test_executions_come_in_order_however_many(queue: Queue) -> None:
    job = brought(queue, State.RUNNING)
    (attempt,) = queue.attempts(job.number)
    records = [(test, number, "failed", "{}") for test in range(40) for number in (1, 2, 3)]
    queue.record(attempt.id, reversed(records))
    found = queue.executions(attempt.id)
    assert next(found) == records[0]
    # Nothing is kept open between two of them.
    queue.record(attempt.id, [(40, 1, "passed", "{}")])
    assert list(found) == [*records[1:], (40, 1, "passed", "{}")]
    assert queue.outcomes(attempt.id) == {"failed": 40, "passed": 1}


def test_a_batch_is_recorded_as_a_whole_or_not(queue: Queue) -> None:
    job = brought(queue, State.RUNNING)
    (attempt,) = queue.attempts(job.number)

    def broken() -> Iterator[tuple[int, int, str, str]]:
        yield 0, 1, "passed", "{}"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        queue.record(attempt.id, broken())
    assert list(queue.executions(attempt.id)) == []
    queue.record(attempt.id, [(0, 1, "failed", "{}")])
    assert queue.outcomes(attempt.id) == {"failed": 1}


def test_results_of_a_lost_attempt_are_kept_out(queue: Queue) -> None:
    job = brought(queue, State.RUNNING)
    (lost,) = queue.attempts(job.number)
    queue.record(lost.id, [(0, 1, "passed", "old")])
    queue.lose(lost.id, "", 1.0)
    _, attempt = claimed(queue)
    late = (
        lambda: queue.record(lost.id, [(1, 1, "passed", "late")]),
        lambda: queue.installed(lost.id, "late"),
        lambda: queue.step(lost.id, Step.TESTING),
        lambda: queue.finish(lost.id, How.COMPLETED, "late", 2.0),
    )
    for say in late:
        with pytest.raises(Refused, match=f"attempt {lost.id} is lost") as caught:
            say()
        assert caught.value.kind == "state"
    assert list(queue.executions(lost.id)) == [(0, 1, "passed", "old")]
    assert queue.attempts(job.number)[1] == attempt
    assert queue.find(job.id).state == State.RUNNING


def test_nothing_is_recorded_once_a_job_has_ended(queue: Queue) -> None:
    job = brought(queue, State.PACKAGING)
    (attempt,) = queue.attempts(job.number)
    with refused("state"):
        queue.record(attempt.id, [(0, 1, "passed", "{}")])
    with refused("unknown"):
        queue.record(name(), [(0, 1, "passed", "{}")])


def test_the_install_command_is_remembered(queue: Queue) -> None:
    job = brought(queue, State.RUNNING)
    (attempt,) = queue.attempts(job.number)
    assert attempt.install is None
    queue.installed(attempt.id, "[1]")
    assert queue.attempts(job.number)[0].install == "[1]"


def test_an_end_can_be_said_again_but_not_changed(queue: Queue) -> None:
    job = brought(queue, State.RUNNING)
    (attempt,) = queue.attempts(job.number)
    queue.finish(attempt.id, How.TIMED_OUT, "late\udcff", 5.0)
    ended = queue.find(job.id)
    assert (ended.how, ended.detail, ended.ended) == (How.TIMED_OUT, "late\\udcff", 5.0)
    queue.finish(attempt.id, How.TIMED_OUT, "other", 6.0)
    with refused("state"):
        queue.finish(attempt.id, How.COMPLETED, "", 7.0)
    assert queue.find(job.id) == ended


def test_a_package_can_be_said_again_but_not_changed(queue: Queue) -> None:
    job = brought(queue, State.PACKAGING)
    queue.trouble(job.number, "disk full")
    assert queue.find(job.id).trouble == "disk full"
    ready = queue.packaged(job.number, "d", 5, 1.0)
    assert (ready.package, ready.size, ready.trouble) == ("d", 5, "")
    assert queue.packaged(job.number, "d", 5, 2.0) == ready
    with refused("state"):
        queue.packaged(job.number, "other", 5, 3.0)
    with refused("unknown"):
        queue.packaged(99, "d", 5, 3.0)
    assert queue.find(job.id) == ready
