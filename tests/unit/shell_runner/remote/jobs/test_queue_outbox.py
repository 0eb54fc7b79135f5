"""Tests of notifications: which jobs send them, and when."""

import json
from pathlib import Path

import pytest

from shell_runner.remote.jobs.queue import EndReason, OutboxRow, Queue, State
from shell_runner.remote.protocol.job import JobConfig
from tests.helpers.queue_factories import CODE, WORKER, bring_to_state, claim_job, make_job

LONGEST = 300.0
CONFIG = JobConfig(notify="http://n/", secret="s3")


def due(queue: Queue, now: float) -> list[OutboxRow]:
    return queue.list_due_notifications(now, LONGEST)


def test_a_job_with_an_address_sends_one_notification(queue: Queue) -> None:
    job = bring_to_state(queue, State.PACKAGING, config=CONFIG, name="n", labels=("a",))
    bring_to_state(queue, State.READY)
    assert (due(queue, 1.0), queue.get_next_due()) == ([], None)
    for _ in range(2):
        queue.record_package(job.number, "d", 5, 1.0)
    (row,) = due(queue, 1.0)
    assert (row.job, row.url, row.secret, row.attempts, row.due_at) == (
        job.id,
        "http://n/",
        "s3",
        0,
        0,
    )
    body = json.loads(row.body)
    content = {
        key: body[key]
        for key in ("id", "name", "labels", "state", "end_reason", "package_digest", "package_size")
    }
    assert content == {
        "id": job.id, "name": "n", "labels": ["a"], "state": "ready", "end_reason": "completed",
        "package_digest": "d", "package_size": 5,
    }  # fmt: skip
    assert "s3" not in row.body


def test_a_run_that_has_failed_does_not_look_green(queue: Queue) -> None:
    """A test that never ran counts as an error, as in the package."""
    job = bring_to_state(queue, State.PACKAGING, config=CONFIG)
    (attempt,) = queue.get_attempts(job.number)
    with queue._db.write_transaction() as db:
        db.execute("INSERT INTO execution VALUES (?, 0, 1, 'passed', '[0]')", (attempt.id,))
        db.execute(
            "UPDATE job SET test_count = 3, end_reason = 'timed-out' WHERE number = ?",
            (job.number,),
        )
    queue.record_package(job.number, "d", 5, 1.0)
    body = json.loads(due(queue, 1.0)[0].body)
    assert (body["id"], body["end_reason"], body["test_count"]) == (job.id, "timed-out", 3)
    assert body["outcomes"] == {"passed": 1, "error": 2}
    assert queue.count_results(queue.find(job.id)) == body["outcomes"]


def test_a_job_without_an_address_sends_no_notification(queue: Queue) -> None:
    bring_to_state(queue, State.READY)
    assert due(queue, 1.0) == []


def test_a_failed_delivery_is_due_later(queue: Queue) -> None:
    bring_to_state(queue, State.READY, config=CONFIG)
    (row,) = due(queue, 1000.0)
    queue.record_delivery_failure(row.number, "connection refused", 1010.0)
    assert due(queue, 1009.0) == []
    assert queue.get_next_due() == 1010.0
    (row,) = due(queue, 1010.0)
    assert (row.attempts, row.error) == (1, "connection refused")
    queue.remove_notification(row.number)
    assert (due(queue, 9999.0), queue.get_next_due()) == ([], None)


def test_a_due_time_too_far_ahead_is_due_now(queue: Queue) -> None:
    bring_to_state(queue, State.READY, config=CONFIG)
    (row,) = due(queue, 10_000.0)
    queue.record_delivery_failure(row.number, "", 10_000.0 + LONGEST)
    assert due(queue, 10_000.0) == []
    # The clock is set back an hour.
    assert [each.number for each in due(queue, 10_000.0 - 3600)] == [row.number]


def test_the_clock_set_back_changes_no_order_and_no_state(queue: Queue) -> None:
    first = bring_to_state(queue, State.READY, config=CONFIG)
    queue.acknowledge(first, "d16e57", -3600.0)
    assert queue.find(first.id).state == State.HARVESTED
    second = bring_to_state(queue, State.READY, config=CONFIG)
    assert [row.job for row in due(queue, -3600.0)] == [first.id, second.id]


def test_a_full_outbox_keeps_the_worker(queue: Queue) -> None:
    bring_to_state(queue, State.READY, config=CONFIG)
    queue.register_worker(WORKER, "c", 1.0)
    assert not queue.deregister_if_idle(WORKER)
    queue.remove_notification(due(queue, 1.0)[0].number)
    assert queue.deregister_if_idle(WORKER)


def test_an_undeliverable_notification_is_shown_at_the_job(queue: Queue) -> None:
    job = bring_to_state(queue, State.READY, config=CONFIG)
    (row,) = due(queue, 1.0)
    queue.record_delivery_failure(row.number, "connection refused", 2.0)
    queue.abandon_notification(row.number)
    assert queue.find(job.id).waiting_reason == "cannot notify http://n/: connection refused"
    assert queue.get_next_due() is None


def test_a_notification_outlives_its_job(queue: Queue) -> None:
    job = bring_to_state(queue, State.READY, config=CONFIG)
    queue.forget(job, force=True)
    (row,) = due(queue, 1.0)
    assert row.job == job.id
    queue.abandon_notification(row.number)
    assert queue.get_next_due() is None


@pytest.mark.parametrize("ends", ["delivered", "given up", "forgotten"])
def test_a_secret_stays_in_no_file_once_it_is_of_no_use(
    queue: Queue, tmp_path: Path, ends: str
) -> None:
    def holders() -> list[str]:
        there = [each for each in tmp_path.rglob("*") if each.is_file()]
        return [each.name for each in there if b"hush-hush" in each.read_bytes()]

    config = CONFIG._replace(secret="hush-hush")
    job = bring_to_state(queue, State.READY, config=config)
    assert queue.find(job.id).config == CONFIG._replace(secret="")
    (row,) = due(queue, 1.0)
    assert row.secret == "hush-hush"
    assert holders()
    if ends == "forgotten":
        queue.forget(job, force=True)
    (queue.abandon_notification if ends == "given up" else queue.remove_notification)(row.number)
    assert holders() == []


def test_a_job_that_lost_its_secret_is_still_the_same_when_it_is_handed_in_again(
    queue: Queue,
) -> None:
    new = make_job(config=CONFIG)
    number = queue.submit(new, CODE, 1.0).number
    _, attempt = claim_job(queue)
    queue.finish(attempt.id, EndReason.COMPLETED, "", 3.0)
    queue.record_package(number, "d", 5, 4.0)
    assert queue.submit(new, CODE, 9.0).number == number
