"""The read-only part of a host's queue."""

from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple, TypeVar

from ..protocol.job import Identity, JobTest, NewJob
from ..protocol.model import ERROR
from . import rows, sql, states
from .database import Database, RequestRefused
from .rows import AttemptRow, JobRow, OutboxRow, WorkerRow
from .states import Event, State

#: Limits of a host, unless it has others.
SETTINGS: Dict[str, int] = {
    # Jobs that are queued.
    "waiting": 20_000,
    # Bytes of harvested packages.
    "kept_bytes": 4 << 30,
    # Bytes of builds and tests that no job refers to.
    "contents_bytes": 10 << 30,
    # 1: packages that no client has harvested may be removed, too.
    "drop_unharvested": 0,
    # Seconds that a worker waits for more jobs before it exits.
    "linger": 5,
}
#: Characters of a UUID that are needed at least to find its job.
_MIN_PREFIX_CHARS = 4
#: A text that sorts after all characters of a UUID.
_AFTER_UUID_CHARS = "g"
#: The largest integer that SQLite stores.
MAX_INTEGER = (1 << 63) - 1

#: Number of a test, its attempt, the outcome, the JSON of its Execution.
ExecutionRow = Tuple[int, int, str, str]

Q = TypeVar("Q", bound="QueueReader")


class QueueReader:
    """The queue in a folder, for reading; not thread-safe.

    Every method raises :exc:`RequestRefused` for an impossible request and :exc:`OSError` if the
    disk is full or broken.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._db = Database(folder)

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        self._db.close()

    def __enter__(self: Q) -> Q:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- jobs -----------------------------------------------------------------------

    def has_recent_reference(self, job: NewJob, code: str) -> bool:
        """Return whether one of the last jobs has the same contents and code, so that they are on
        the disk.
        """
        _, _, _, build, tests, _ = rows.encode_job(job)
        with self._db.read_transaction() as db:
            return bool(count(db, sql.HAS_RECENT_REFERENCE, code, build, tests))

    def find(self, text: str) -> JobRow:
        """Return the job with this UUID, or the only one whose UUID begins with ``text``."""
        text = rows.escape_surrogates(text.lower())
        if len(text) < _MIN_PREFIX_CHARS:
            message = "%r is too short: give at least %d characters of a job's UUID"
            raise RequestRefused("bad", message % (text, _MIN_PREFIX_CHARS))
        with self._db.read_transaction() as db:
            matches = db.execute(sql.JOBS_BY_PREFIX, (text, text + _AFTER_UUID_CHARS))
            jobs = [rows.parse_job_row(columns) for columns in matches]
        if not jobs:
            message = "this host has no job %r; try: nosejobs job list"
            raise RequestRefused("unknown", message % text)
        if len(jobs) > 1:
            ids = ", ".join(job.id for job in jobs)
            raise RequestRefused("ambiguous", "%r matches more than one job: %s" % (text, ids))
        return jobs[0]

    def list_jobs(
        self, states: Sequence[State] = (), label: str = "", limit: int = 100, before: int = 0
    ) -> List[JobRow]:
        """Return jobs in any of ``states`` (empty: all) that have ``label``, newest first.

        ``before`` is the number of the last job of the previous page, 0 for the first page.
        """
        label_text = rows.encode_label(label) if label else ""
        values = (before or MAX_INTEGER, label_text, max(limit, 0))
        with self._db.read_transaction() as db:
            if not states:
                return [rows.parse_job_row(row) for row in db.execute(sql.JOBS, values)]
            jobs = [
                rows.parse_job_row(row)
                for state in set(states)
                for row in db.execute(sql.JOBS_IN_STATE, (str(state), *values))
            ]
        return sorted(jobs, key=lambda job: -job.number)[:limit]

    def count_jobs(self) -> Dict[State, int]:
        """Return the number of jobs in each state."""
        counts = dict(self._db.query(sql.COUNTS))
        return {state: counts.get(str(state), 0) for state in State}

    def get_states(self, jobs: Iterable[str]) -> Dict[str, Optional[State]]:
        """Return the state of each of ``jobs`` by UUID; None if the queue has no such job."""
        with self._db.read_transaction() as db:
            state_rows = {job: db.execute(sql.STATE_BY_ID, (job,)).fetchone() for job in jobs}
        return {job: State(row[0]) if row else None for job, row in state_rows.items()}

    def count_ahead(self, job: JobRow) -> int:
        """Return how many jobs have to end before a queued one starts; 0 if it is not queued."""
        if job.state != State.QUEUED:
            return 0
        with self._db.read_transaction() as db:
            higher = count(db, sql.AHEAD_BY_PRIORITY, job.priority)
            older = count(db, sql.AHEAD_BY_NUMBER, job.priority, job.number)
            return higher + older + count(db, sql.COUNT_IN_STATE, str(State.RUNNING))

    def is_cancel_requested(self, number: int) -> bool:
        """Return whether the job was requested to end, or is gone."""
        flags = self._db.query(sql.CANCEL_REQUESTED, (number,))
        return not flags or bool(flags[0][0])

    def list_packaging(self) -> List[JobRow]:
        """Return the jobs whose packages are to be built, oldest first."""
        with self._db.read_transaction() as db:
            jobs = db.execute(sql.JOBS_OLDEST, (str(State.PACKAGING),))
            return [rows.parse_job_row(row) for row in jobs]

    def check_forgettable(self, job: JobRow, force: bool = False) -> None:
        """Raise what ``forget`` would raise; a job that may be forgotten now may be later, too."""
        with self._db.read_transaction() as db:
            self._get_forgettable(db, job, force)

    def list_overdue(self) -> List[JobRow]:
        """Return the jobs whose packages exceed the limit ``kept_bytes``: harvested ones first,
        oldest first.
        """
        limit, removable = self.get_setting("kept_bytes"), [State.HARVESTED]
        if self.get_setting("drop_unharvested"):
            removable.append(State.READY)
        numbers = []
        with self._db.read_transaction() as db:
            total = sum(count(db, sql.BYTES_IN_STATE, str(state)) for state in removable)
            excess = total - limit
            for state in removable:
                for number, size in db.execute(sql.SIZES_IN_STATE, (str(state),)):
                    if excess <= 0:
                        break
                    excess -= size
                    numbers.append(number)
            return [self._get_job(db, number) for number in numbers]

    def get_referenced_contents(self) -> Set[Tuple[str, str, int]]:
        """Return kind, digest and size of all contents that jobs refer to."""
        contents: Set[Tuple[str, str, int]] = set()
        with self._db.read_transaction() as db:
            for build, tests in db.execute(sql.CONTENTS):
                contents.update(content[:3] for content in rows.parse_contents(build, tests))
        return contents

    # -- tests, attempts, executions --------------------------------------------------

    def get_tests(self, number: int) -> List[JobTest]:
        """Return the tests of a job; the id of each is its position."""
        with self._db.read_transaction() as db:
            return [rows.parse_job_test(*row) for row in db.execute(sql.TESTS, (number,))]

    def get_attempts(self, number: int) -> List[AttemptRow]:
        """Return the attempts of a job, oldest first."""
        with self._db.read_transaction() as db:
            return [rows.parse_attempt_row(row) for row in db.execute(sql.ATTEMPTS, (number,))]

    def read_executions(self, attempt_id: str) -> Iterator[ExecutionRow]:
        """Yield the executions of an attempt, by test and test attempt; few are in memory at a
        time.
        """
        position = (-1, -1)
        while True:
            executions = self._db.query(sql.EXECUTIONS, (attempt_id, *position))
            if not executions:
                return
            for test, test_attempt, outcome, row in executions:
                yield test, test_attempt, outcome, row
                position = (test, test_attempt)

    def count_outcomes(self, attempt_id: str) -> Dict[str, int]:
        """Return the number of tests by outcome, from the last execution of each test."""
        return dict(self._db.query(sql.OUTCOMES, (attempt_id,)))

    def count_results(self, job: JobRow) -> Dict[str, int]:
        """Return the number of tests by outcome in a job's last attempt.

        Once the job has ended, tests that did not run count as errors.
        """
        with self._db.read_transaction() as db:
            return count_results(db, job)

    def get_next_code(self) -> str:
        """Return the digest of the code that the next queued job needs; empty if there is none."""
        jobs = self._db.query(sql.NEXT_JOB)
        return str(jobs[0][1]) if jobs else ""

    def list_stale_attempts(self, worker: Identity) -> List[AttemptRow]:
        """Return the attempts of other workers that have not ended.

        Attempts in packaging are included, since processes of theirs may still be running.
        """
        with self._db.read_transaction() as db:
            attempts = [
                rows.parse_attempt_row(row)
                for state in (State.RUNNING, State.PACKAGING)
                for row in db.execute(sql.ATTEMPTS_OF_STATE, (str(state),))
            ]
        return [attempt for attempt in attempts if attempt.worker != worker]

    # -- worker, notifications, settings ----------------------------------------------

    def get_worker(self) -> Optional[WorkerRow]:
        """Return the registered worker, which may be dead, or None."""
        workers = self._db.query(sql.WORKER)
        return rows.parse_worker_row(workers[0]) if workers else None

    def list_due_notifications(self, now: float, max_delay: float) -> List[OutboxRow]:
        """Return the notifications to deliver now.

        A due time more than ``max_delay`` seconds ahead shows that the clock was set back: it is
        due now.
        """
        notifications = self._db.query(sql.DUE_NOTIFICATIONS, (now, now + max_delay))
        return [OutboxRow(*row) for row in notifications]

    def get_next_due(self) -> Optional[float]:
        """Return the earliest due time of a notification; None if none is pending."""
        due_at: Optional[float] = self._db.query(sql.NEXT_DUE)[0][0]
        return due_at

    def get_pending_notification(self, job: JobRow) -> Optional[Tuple[int, float, str]]:
        """Return attempts, due time and last error of a job's pending notification, or None."""
        notifications = self._db.query(sql.OUTBOX_OF_JOB, (job.id,))
        return notifications[0] if notifications else None

    def get_setting(self, name: str) -> int:
        """Return a limit of the host."""
        default = get_default(name)
        values = self._db.query(sql.SETTING, (name,))
        return int(values[0][0]) if values else default

    # -- within a transaction ---------------------------------------------------------

    def _get_job(self, db: Any, number: int) -> JobRow:
        columns = db.execute(sql.JOB_BY_NUMBER, (number,)).fetchone()
        if columns is None:
            raise RequestRefused("unknown", "job number %d is gone" % number)
        return rows.parse_job_row(columns)

    def _get_attempt(self, db: Any, attempt_id: str) -> AttemptRow:
        columns = db.execute(sql.ATTEMPT, (attempt_id,)).fetchone()
        if columns is None:
            raise RequestRefused("unknown", "there is no attempt %s" % attempt_id)
        return rows.parse_attempt_row(columns)

    def _check_event(self, job: JobRow, event: Event) -> int:
        """Return the number of the job; raise RequestRefused if ``event`` is impossible in its
        state.
        """
        if not states.is_allowed(job.state, event):
            ended = " (%s)" % job.end_reason if job.end_reason else ""
            message = "job %s is %s%s: %s is not possible"
            raise RequestRefused("state", message % (job.id, job.state, ended, event))
        return job.number

    def _get_forgettable(self, db: Any, job: JobRow, force: bool) -> JobRow:
        job = self._get_job(db, job.number)
        self._check_event(job, Event.FORGET)
        if job.state != State.HARVESTED and not force:
            message = "job %s: its package is not harvested; harvest it first, or use --force"
            raise RequestRefused("state", message % job.id)
        return job


def count(db: Any, statement: str, *values: object) -> int:
    """Return the number that ``statement`` selects."""
    return int(db.execute(statement, values).fetchone()[0])


def get_default(name: str) -> int:
    """Return the default of a setting; raise RequestRefused if there is none of this name."""
    if name not in SETTINGS:
        message = "unknown setting %r; the settings are %s" % (name, ", ".join(SETTINGS))
        raise RequestRefused("bad", message)
    return SETTINGS[name]


def count_results(db: Any, job: JobRow) -> Dict[str, int]:
    """Return the number of a job's tests by outcome, as in the package: every test is counted."""
    attempts = db.execute(sql.ATTEMPTS, (job.number,)).fetchall()
    last = rows.parse_attempt_row(attempts[-1]).id if attempts else ""
    outcomes = dict(db.execute(sql.OUTCOMES, (last,)))
    absent = job.test_count - sum(outcomes.values())
    if job.end_reason and absent > 0:
        outcomes[ERROR] = outcomes.get(ERROR, 0) + absent
    return outcomes
