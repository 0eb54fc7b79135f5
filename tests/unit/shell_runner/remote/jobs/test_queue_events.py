"""Tests with random events on jobs: the table of transitions holds, and no job is lost."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shell_runner.remote.jobs.queue import (
    TRANSITIONS,
    AttemptPhase,
    EndReason,
    Event,
    JobRow,
    Queue,
    RequestRefused,
    State,
)
from shell_runner.remote.protocol.job import Identity, JobConfig
from tests.helpers.queue_factories import CODE, make_job, make_uuid

PICK = st.integers(0, 100)
#: Phases of an attempt that is not over.
LIVING = (AttemptPhase.UNPACKING, AttemptPhase.INSTALLING, AttemptPhase.TESTING)
#: States of a job whose tests are over.
ENDED = (State.PACKAGING, State.READY, State.HARVESTED)


@dataclass
class ExpectedJob:
    """The expected state of a job, known without asking the queue."""

    number: int
    priority: int
    allowed: int
    state: State = State.QUEUED
    attempts: list[str] = field(default_factory=list)
    records: int = 0


class Host(RuleBasedStateMachine):
    """A queue and its users, some of which are dead, late, or act twice."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.queue = Queue(self.folder.name)
        # Without waiting for the disk the test is faster.
        self.queue._db.query("PRAGMA synchronous = OFF")
        self.worker = Identity(1, "1", "boot")
        self.seen: dict[str, ExpectedJob] = {}
        self.attempts: list[tuple[str, str]] = []
        self.notifications = 0

    def teardown(self) -> None:
        self.queue.close()
        self.folder.cleanup()

    def job(self, pick: int) -> JobRow:
        return self.queue.find(list(self.seen)[pick % len(self.seen)])

    def check_event(self, job: JobRow, event: Event, did: bool) -> State | None:
        """Return the state after an event, and check that the table allows it."""
        expected = self.seen[job.id]
        before = expected.state
        after = next((each.state for each in self.queue.list_jobs() if each.id == job.id), None)
        if not did:
            assert after == before
            return before
        allowed = TRANSITIONS[before, event]
        assert after in allowed or (not allowed and after is None), (before, event, after)
        if after is None:
            del self.seen[job.id]
        else:
            expected.state = after
        return after

    # -- events ---------------------------------------------------------------------

    @rule(priority=st.integers(-1, 1), allowed=st.integers(1, 3), notifies=st.booleans())
    def submit(self, priority: int, allowed: int, notifies: bool) -> None:
        config = JobConfig(attempts=allowed, notify="http://n" if notifies else "")
        job = make_job(1, config=config, priority=priority)
        row = self.queue.submit(job, CODE, 1.0)
        assert self.queue.submit(job, CODE, 2.0) == row
        self.seen[job.id] = ExpectedJob(row.number, priority, allowed)

    @rule()
    def claim(self) -> None:
        waiting = [each for each in self.seen.values() if each.state == State.QUEUED]
        attempt = make_uuid()
        claimed = self.queue.claim(self.worker, CODE, attempt, 1.0)
        assert (claimed is None) == (not waiting)
        if claimed is None:
            return
        job, row = claimed
        first = min(waiting, key=lambda each: (-each.priority, each.number))
        assert job.number == first.number
        first.attempts.append(attempt)
        assert row.number == len(first.attempts) <= first.allowed
        self.attempts.append((attempt, job.id))
        assert self.check_event(job, Event.CLAIM, True) == State.RUNNING

    @precondition(lambda self: self.attempts)
    @rule(pick=PICK, test=st.integers(0, 3))
    def record(self, pick: int, test: int) -> None:
        attempt, job = self.attempts[pick % len(self.attempts)]
        alive = self.alive(attempt, job)
        before = len(list(self.queue.read_executions(attempt)))
        assert (
            self.tried(lambda: self.queue.record_executions(attempt, [(test, 1, "passed", "{}")]))
            == alive
        )
        after = len(list(self.queue.read_executions(attempt)))
        assert (after in (before, before + 1)) if alive else after == before

    @precondition(lambda self: self.attempts)
    @rule(pick=PICK, how=st.sampled_from(EndReason))
    def finish(self, pick: int, how: EndReason) -> None:
        attempt, job = self.attempts[pick % len(self.attempts)]
        alive = self.alive(attempt, job)
        did = self.tried(lambda: self.queue.finish(attempt, how, "", 1.0))
        # A repeated call is accepted and changes nothing.
        assert did or not alive
        if job in self.seen:
            self.check_event(self.queue.find(job), Event.FINISH, alive)

    @precondition(lambda self: self.attempts)
    @rule(pick=PICK)
    def lose(self, pick: int) -> None:
        attempt, job = self.attempts[pick % len(self.attempts)]
        alive = self.alive(attempt, job)
        did = self.tried(lambda: self.queue.lose(attempt, "", 1.0))
        assert did == (job in self.seen)
        if did:
            row = self.queue.find(job)
            after = self.check_event(row, Event.LOSE, alive)
            expected = self.seen[job]
            if alive and not row.cancel_requested:
                used_up = len(expected.attempts) >= expected.allowed
                assert after == (State.PACKAGING if used_up else State.QUEUED)

    @rule()
    def restart(self) -> None:
        """Restart the machine: the next worker finds what the last one left."""
        self.queue.close()
        self.worker = self.worker._replace(boot_id=self.worker.boot_id + "'")
        self.queue.register_worker(self.worker, CODE, 1.0)
        for attempt in self.queue.list_stale_attempts(self.worker):
            row = next(each for each in self.queue.list_jobs() if each.number == attempt.job)
            self.queue.lose(attempt.id, "restart", 1.0)
            self.check_event(row, Event.LOSE, row.state == State.RUNNING)
        assert not any(each.state == State.RUNNING for each in self.seen.values())

    @precondition(lambda self: self.seen)
    @rule(pick=PICK)
    def package(self, pick: int) -> None:
        job = self.job(pick)
        did = self.tried(lambda: self.queue.record_package(job.number, job.id, 1, 1.0))
        assert did == (job.state in ENDED)
        changes = job.state == State.PACKAGING
        self.check_event(job, Event.PACKAGED, changes)
        self.notifications += bool(changes and job.config.notify)

    @precondition(lambda self: self.seen)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        job = self.job(pick)
        did = self.tried(lambda: self.queue.cancel(job, 1.0))
        assert did == (job.cancel_requested or job.state in (State.QUEUED, State.RUNNING))
        self.check_event(job, Event.CANCEL, did and not job.cancel_requested)

    @precondition(lambda self: self.seen)
    @rule(pick=PICK, right=st.booleans())
    def acknowledge(self, pick: int, right: bool) -> None:
        job = self.job(pick)
        did = self.tried(lambda: self.queue.acknowledge(job, job.id if right else "", 1.0))
        assert did == (right and job.state in (State.READY, State.HARVESTED))
        self.check_event(job, Event.ACKNOWLEDGE, did)

    @precondition(lambda self: self.seen)
    @rule(pick=PICK, force=st.booleans())
    def forget(self, pick: int, force: bool) -> None:
        job = self.job(pick)
        did = self.tried(lambda: self.queue.forget(job, force))
        assert did == (job.state == State.HARVESTED or (force and job.state == State.READY))
        self.check_event(job, Event.FORGET, did)

    def tried(self, say: Callable[[], object]) -> bool:
        try:
            say()
        except RequestRefused as refused:
            if refused.kind not in ("state", "differs", "unknown"):
                raise
            return False
        return True

    def alive(self, attempt: str, job: str) -> bool:
        expected = self.seen.get(job)
        return bool(
            expected and expected.state == State.RUNNING and expected.attempts[-1] == attempt
        )

    # -- what always holds ------------------------------------------------------------

    @invariant()
    def no_job_is_lost(self) -> None:
        states = {job.id: job.state for job in self.queue.list_jobs(limit=1000)}
        assert states == {key: seen.state for key, seen in self.seen.items()}
        counts = dict.fromkeys(State, 0)
        for state in states.values():
            counts[state] += 1
        assert self.queue.count_jobs() == counts

    @invariant()
    def no_job_has_two_living_attempts(self) -> None:
        for job in self.queue.list_jobs(limit=1000):
            attempts = self.queue.get_attempts(job.number)
            assert [each.id for each in attempts] == self.seen[job.id].attempts
            living = [each for each in attempts if each.phase in LIVING]
            assert len(living) == (job.state == State.RUNNING)
            assert living == attempts[len(attempts) - len(living) :]

    @invariant()
    def an_end_has_a_reason_and_no_other_state_has(self) -> None:
        for job in self.queue.list_jobs(limit=1000):
            assert (
                (job.end_reason is not None) == (job.ended_at is not None) == (job.state in ENDED)
            )
            assert bool(job.package_digest) == (job.state in (State.READY, State.HARVESTED))

    @invariant()
    def everybody_is_told_once(self) -> None:
        assert len(self.queue.list_due_notifications(1.0, 300.0)) == min(self.notifications, 100)


Host.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestHost = Host.TestCase
