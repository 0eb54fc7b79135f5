"""The durable queue of a host: its jobs, attempts, executions and pending notifications.

Responsible for every change of a job, as ``states.TRANSITIONS`` allows: each is one transaction,
can be repeated, and depends on no clock (times are arguments and informative only). Must not know
processes, the files of jobs, or how anything is run.
"""

import json
import os
from typing import Any, Dict, Iterable, List, Optional, Tuple

from ..protocol.job import MAX_PRIORITY, Identity, NewJob, is_uuid
from . import rows, sql, states
from .database import RequestRefused
from .queue_reader import (
    MAX_INTEGER,
    SETTINGS,
    ExecutionRow,
    QueueReader,
    count,
    count_results,
    get_default,
)
from .rows import AttemptRow, JobRow, OutboxRow, WorkerRow
from .states import TRANSITIONS, AttemptPhase, EndReason, Event, State

__all__ = [
    "SETTINGS",
    "TRANSITIONS",
    "AttemptPhase",
    "AttemptRow",
    "EndReason",
    "Event",
    "JobRow",
    "OutboxRow",
    "Queue",
    "RequestRefused",
    "State",
    "WorkerRow",
]

#: Bytes of a file that is checked in a quarter of a second, and so always when a worker starts.
_ALWAYS_CHECKED_BYTES = 64 << 20


class Queue(QueueReader):
    """The queue in a folder, as one process sees it; not thread-safe.

    Every method raises :exc:`RequestRefused` for an impossible request and :exc:`OSError` if the
    disk is full or broken. Arguments ``now`` are seconds since the epoch.
    """

    # -- jobs -----------------------------------------------------------------------

    def submit(self, job: NewJob, code: str, now: float) -> JobRow:
        """Add ``job`` to the queue and return its row; ``code`` is the digest of the code that runs
        it.

        Submitting the same values again returns the same row. Raises RequestRefused of kind ``bad``
        (invalid values), ``differs`` (another job has this UUID) or ``full``.
        """
        _check_new_job(job)
        values, tests = rows.encode_job(job), rows.encode_tests(job)
        with self._db.write_transaction() as db:
            known = db.execute(sql.JOB_BY_ID, (job.id,)).fetchone()
            if known is not None:
                existing = rows.parse_job_row(known)
                self._check_same(db, existing, values, tests)
                return existing
            self._check_room(db)
            head = (job.id, code, now, len(tests))
            number = db.execute(sql.INSERT_JOB, head + values).lastrowid
            assert number is not None
            db.executemany(sql.INSERT_TEST, ((number, *test) for test in tests))
            return self._get_job(db, number)

    def cancel(self, job: JobRow, now: float) -> JobRow:
        """Cancel a job: a queued one ends at once, a running one is requested to end."""
        with self._db.write_transaction(notify=True) as db:
            job = self._get_job(db, job.number)
            if job.cancel_requested:
                return job
            db.execute(sql.SET_CANCEL_REQUESTED, (self._check_event(job, Event.CANCEL),))
            if job.state == State.QUEUED:
                self._end_job(db, job, EndReason.CANCELED, "while it waited", now)
            return self._get_job(db, job.number)

    def set_waiting_reason(self, number: int, message: str) -> None:
        """Record why a job makes no progress, for people; an empty ``message`` clears it."""
        with self._db.write_transaction() as db:
            db.execute(sql.SET_WAITING_REASON, (rows.escape_surrogates(message), number))

    def record_package(self, number: int, digest: str, size: int, now: float) -> JobRow:
        """Record that the package is on the disk, and queue the job's notification."""
        with self._db.write_transaction(notify=True) as db:
            job = self._get_job(db, number)
            if job.state in (State.READY, State.HARVESTED) and job.package_digest == digest:
                return job
            self._check_event(job, Event.PACKAGED)
            db.execute(sql.SET_PACKAGE, (str(State.READY), digest, size, number))
            db.execute(sql.SET_ATTEMPT_PACKAGED, (number,))
            job = self._get_job(db, number)
            if job.config.notify:
                body = _encode_notification(job, count_results(db, job), now)
                notification = (job.id, job.config.notify, job.config.secret, body)
                db.execute(sql.INSERT_OUTBOX, notification)
            if job.config.secret:
                config = db.execute(sql.JOB_VALUES, (number,)).fetchone()[-1]
                db.execute(sql.SET_CONFIG, (rows.remove_secret(config), number))
            return self._get_job(db, number)

    def acknowledge(self, job: JobRow, digest: str, now: float) -> JobRow:
        """Record that a client has received the package of this digest."""
        with self._db.write_transaction(notify=True) as db:
            job = self._get_job(db, job.number)
            self._check_event(job, Event.ACKNOWLEDGE)
            if digest != job.package_digest:
                message = "job %s: its package is %s, not %s; harvest it again"
                raise RequestRefused("differs", message % (job.id, job.package_digest, digest))
            if job.state == State.READY:
                db.execute(sql.SET_HARVESTED, (str(State.HARVESTED), now, job.number))
            return self._get_job(db, job.number)

    def forget(self, job: JobRow, force: bool = False) -> JobRow:
        """Delete a job with all its rows, and return its last row; the caller removes its files
        first.

        ``force``: also if no client has harvested it.
        """
        with self._db.write_transaction(notify=True) as db:
            job = self._get_forgettable(db, job, force)
            db.execute(sql.DELETE_JOB, (job.number,))
        self._db.release_free_pages()
        return job

    # -- attempts and executions ------------------------------------------------------

    def claim(
        self, worker: Identity, code: str, attempt_id: str, now: float
    ) -> Optional[Tuple[JobRow, AttemptRow]]:
        """Start the next job for ``worker``, as attempt ``attempt_id``.

        Returns None if no job is queued, or if the next one needs other code than ``code``.
        Claiming again with the same ``attempt_id`` returns the same rows.
        """
        with self._db.write_transaction(notify=True) as db:
            known = db.execute(sql.ATTEMPT, (attempt_id,)).fetchone()
            if known is not None:
                return self._get_claimed(db, rows.parse_attempt_row(known))
            next_job = db.execute(sql.NEXT_JOB).fetchone()
            if next_job is None or next_job[1] != code:
                return None
            job = self._get_job(db, next_job[0])
            self._set_state(db, job, Event.CLAIM, State.RUNNING)
            number = count(db, sql.LAST_ATTEMPT_NUMBER, job.number) + 1
            phase = str(AttemptPhase.UNPACKING)
            values = (attempt_id, job.number, number, phase, *worker, now)
            db.execute(sql.INSERT_ATTEMPT, values)
            return self._get_job(db, job.number), self._get_attempt(db, attempt_id)

    def set_phase(self, attempt_id: str, phase: AttemptPhase) -> None:
        """Record that a running attempt has reached its next phase."""
        with self._db.write_transaction() as db:
            attempt = self._get_attempt(db, attempt_id)
            if attempt.phase == phase:
                return
            if not states.is_phase_advance(attempt.phase, phase):
                raise _wrong_phase(attempt, "continue with %s" % phase)
            db.execute(sql.SET_PHASE, (str(phase), attempt_id))

    def record_install(self, attempt_id: str, row_text: str) -> None:
        """Record the JSON of the Execution of the install command."""
        with self._db.write_transaction() as db:
            self._check_running(db, attempt_id)
            db.execute(sql.SET_INSTALL, (row_text, attempt_id))

    def record_executions(self, attempt_id: str, records: Iterable[ExecutionRow]) -> None:
        """Record executions of tests; rows that exist already stay as they are."""
        with self._db.write_transaction() as db:
            self._check_running(db, attempt_id)
            values = ((attempt_id, *record) for record in records)
            db.executemany(sql.INSERT_EXECUTION, values)

    def finish(self, attempt_id: str, end_reason: EndReason, detail: str, now: float) -> None:
        """End a running attempt and its job, whose package is to be built next."""
        with self._db.write_transaction(notify=True) as db:
            attempt = self._get_attempt(db, attempt_id)
            job = self._get_job(db, attempt.job)
            if (
                attempt.phase in (AttemptPhase.PACKAGING, AttemptPhase.ENDED)
                and job.end_reason == end_reason
            ):
                return
            self._check_running(db, attempt_id)
            self._check_event(job, Event.FINISH)
            self._end_job(db, job, end_reason, detail, now)
            values = (str(AttemptPhase.PACKAGING), rows.escape_surrogates(detail), now, attempt_id)
            db.execute(sql.SET_ATTEMPT_END, values)

    def lose(self, attempt_id: str, detail: str, now: float) -> State:
        """Record that the worker or the host of an attempt died, and return the job's new state.

        The job is queued again in its old place, or ends if it has no attempt left. An attempt that
        died while its package was being built is not lost, since all facts are rows.
        """
        with self._db.write_transaction(notify=True) as db:
            attempt = self._get_attempt(db, attempt_id)
            job = self._get_job(db, attempt.job)
            if attempt.phase not in states.RUNNING_PHASES:
                return job.state
            self._check_event(job, Event.LOSE)
            values = (str(AttemptPhase.LOST), rows.escape_surrogates(detail), now, attempt_id)
            db.execute(sql.SET_ATTEMPT_END, values)
            new_state = states.state_after_loss(
                attempt.number, job.config.attempts, job.cancel_requested
            )
            if new_state == State.PACKAGING:
                end_reason = EndReason.CANCELED if job.cancel_requested else EndReason.GAVE_UP
                self._end_job(db, job, end_reason, detail, now)
            else:
                self._set_state(db, job, Event.LOSE, new_state)
            return new_state

    # -- worker, notifications, settings ----------------------------------------------

    def register_worker(self, worker: Identity, code: str, now: float) -> None:
        """Register the calling process as the worker; a damaged file is detected here at the
        latest.
        """
        # Checking a large file takes a while, which only a crash justifies.
        if self.get_worker() is not None or self._db.get_size() <= _ALWAYS_CHECKED_BYTES:
            self._db.check()
        with self._db.write_transaction() as db:
            db.execute(sql.SET_WORKER, (*worker, code, now))

    def deregister_if_idle(self, worker: Identity) -> bool:
        """Delete the worker's row if no job is unfinished and no notification is pending.

        Runs in one write transaction, so that a job submitted at the same moment either keeps the
        worker or finds none registered and starts one.

        Returns whether the row was deleted; the worker must exit if it was.
        """
        with self._db.write_transaction() as db:
            if any(count(db, sql.COUNT_IN_STATE, str(state)) for state in states.UNFINISHED_STATES):
                return False
            if count(db, sql.HAS_OUTBOX):
                return False
            db.execute(sql.DELETE_WORKER, worker)
            return True

    def checkpoint(self) -> None:
        """Copy a long write-ahead log into the file, so that no client has to wait for that."""
        self._db.checkpoint()

    def remove_notification(self, number: int) -> None:
        """Delete a notification that was delivered, and every trace of its secret."""
        with self._db.write_transaction() as db:
            db.execute(sql.DELETE_OUTBOX, (number,))
        self._db.truncate_log()

    def record_delivery_failure(self, number: int, error: str, due: float) -> None:
        """Record a failed delivery; the next attempt is due at ``due``."""
        with self._db.write_transaction() as db:
            db.execute(sql.SET_DELIVERY_FAILURE, (rows.escape_surrogates(error), due, number))

    def abandon_notification(self, number: int) -> None:
        """Delete a notification that could not be delivered, and record its error with the job."""
        with self._db.write_transaction() as db:
            db.execute(sql.COPY_ERROR_TO_JOB, (number,))
            db.execute(sql.DELETE_OUTBOX, (number,))
        self._db.truncate_log()

    def set_setting(self, name: str, value: int) -> None:
        """Change a limit of the host; raises RequestRefused for an unknown name or an invalid
        value.
        """
        get_default(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_INTEGER:
            raise RequestRefused(
                "bad", "%s must be an integer from 0 to %d, not %r" % (name, MAX_INTEGER, value)
            )
        with self._db.write_transaction() as db:
            db.execute(sql.SET_SETTING, (name, value))

    # -- within a transaction ---------------------------------------------------------

    def _set_state(self, db: Any, job: JobRow, event: Event, state: State) -> None:
        assert state in TRANSITIONS[job.state, event]
        db.execute(sql.SET_STATE, (str(state), job.number))

    def _end_job(
        self, db: Any, job: JobRow, end_reason: EndReason, detail: str, now: float
    ) -> None:
        values = (
            str(State.PACKAGING),
            str(end_reason),
            rows.escape_surrogates(detail),
            now,
            job.number,
        )
        db.execute(sql.SET_END, values)

    def _check_running(self, db: Any, attempt_id: str) -> None:
        attempt = self._get_attempt(db, attempt_id)
        if attempt.phase not in states.RUNNING_PHASES:
            raise _wrong_phase(attempt, "have results")

    def _get_claimed(self, db: Any, attempt: AttemptRow) -> Tuple[JobRow, AttemptRow]:
        if attempt.phase not in states.RUNNING_PHASES:
            raise _wrong_phase(attempt, "start")
        return self._get_job(db, attempt.job), attempt

    def _check_same(
        self, db: Any, job: JobRow, values: Tuple[Any, ...], tests: List[Tuple[int, str]]
    ) -> None:
        # The secret of an ended job was removed.
        expected = (values, (*values[:-1], rows.remove_secret(values[-1])))
        same = db.execute(sql.JOB_VALUES, (job.number,)).fetchone() in expected
        if not same or db.execute(sql.TESTS, (job.number,)).fetchall() != tests:
            raise RequestRefused(
                "differs", "another job with the UUID %s was submitted before" % job.id
            )

    def _check_room(self, db: Any) -> None:
        value = db.execute(sql.SETTING, ("waiting",)).fetchone()
        limit = value[0] if value else SETTINGS["waiting"]
        if count(db, sql.COUNT_IN_STATE, str(State.QUEUED)) >= limit:
            message = "%d jobs wait already, the limit of this host (setting: waiting)"
            raise RequestRefused("full", message % limit)


def _wrong_phase(attempt: AttemptRow, action: str) -> RequestRefused:
    """Return the refusal of an action that is impossible in the phase of ``attempt``."""
    message = "attempt %s is %s: it cannot %s" % (attempt.id, attempt.phase, action)
    return RequestRefused("state", message)


def _check_new_job(job: NewJob) -> None:
    """Raise RequestRefused for values that no row may have."""
    if not is_uuid(job.id):
        raise RequestRefused("bad", "%r is not a UUID" % (job.id,))
    is_whole = isinstance(job.priority, int) and not isinstance(job.priority, bool)
    if not is_whole or not -MAX_PRIORITY <= job.priority <= MAX_PRIORITY:
        message = "the priority of a job must be an integer from -%d to %d, not %r"
        raise RequestRefused("bad", message % (MAX_PRIORITY, MAX_PRIORITY, job.priority))


def _encode_notification(job: JobRow, outcomes: Dict[str, int], now: float) -> str:
    """Return the JSON body of a notification; a failed job must not look as if all tests passed."""
    return json.dumps(
        {
            "id": job.id,
            "name": job.name,
            "labels": job.labels,
            "host": os.uname().nodename,
            "state": job.state,
            "end_reason": job.end_reason,
            "detail": job.detail,
            "test_count": job.test_count,
            "outcomes": outcomes,
            "package_digest": job.package_digest,
            "package_size": job.package_size,
            "ended_at": job.ended_at,
            "packaged_at": now,
        }
    )
