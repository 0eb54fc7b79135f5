"""The durable queue of a host: its jobs, their attempts, what happened, who is to be told.

Owns every change of a job, as ``states.STATES`` has them: each is one transaction, can be
repeated, and depends on no clock (dates are arguments, and for people).  Must not know
processes, files of jobs, or how anything is run.
"""

import json
import os
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from ..execution import host_resources
from ..files import state_dirs
from ..protocol.job import Identity, JobTest, NewJob, is_uuid
from ..protocol.model import ERROR
from . import rows, sql, states
from .database import NAME, Database, Refused
from .rows import AttemptRow, JobRow, OutboxRow, WorkerRow
from .states import STATES, Event, How, State, Step

__all__ = [
    "SETTINGS",
    "STATES",
    "AttemptRow",
    "Event",
    "How",
    "JobRow",
    "OutboxRow",
    "Queue",
    "Refused",
    "State",
    "Step",
    "WorkerRow",
    "folder",
]

#: What a host bounds, unless it was told otherwise.
SETTINGS: Dict[str, int] = {
    # Jobs that wait.
    "waiting": 20_000,
    # Bytes of packages that were harvested.
    "kept_bytes": 4 << 30,
    # Bytes of builds and tests that no job refers to.
    "contents_bytes": 10 << 30,
    # 1: packages that nobody has harvested may go, too.
    "drop_unharvested": 0,
    # Seconds that a worker waits for more jobs before it leaves.
    "linger": 5,
}
#: Characters by which a job may be called.
_SHORTEST = 4
#: What is after all characters of UUIDs.
_AFTER = "g"
#: More than any number or date.
_MOST = (1 << 63) - 1
#: No priority of a person's is beyond.
_PRIORITY = 1_000_000

#: Bytes of a file that is read in a quarter of a second.
_SMALL = 64 << 20

#: Number of a test, its try, the outcome, the row of its Execution.
Record = Tuple[int, int, str, str]


def folder() -> str:
    """Where this host's jobs are: made, and nobody else's; OSError if that cannot be."""
    for base in state_dirs.folders():
        found = os.path.join(state_dirs.host_folder(base), "jobs")
        # Jobs that are there must not vanish behind an empty queue elsewhere.
        if os.path.lexists(os.path.join(found, NAME)):
            return found
    troubles: List[str] = []
    for base in state_dirs.folders():
        try:
            return _made(base)
        except OSError as error:
            troubles.append("%s: %s" % (base, error.strerror or error))
    raise OSError("no folder can hold the jobs of this host: %s" % "; ".join(troubles))


def _made(base: str) -> str:
    state_dirs.make_private(base)
    host_resources.Shared(state_dirs.host_folder(base)).close()
    found = os.path.join(state_dirs.host_folder(base), "jobs")
    state_dirs.make_private(found)
    _sync(found, os.path.dirname(base))
    return found


def _sync(folder: str, top: str) -> None:
    """What is in the queue survives a loss of power; so must the folders that it is in."""
    while True:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if folder in (top, os.path.dirname(folder)):
            return
        folder = os.path.dirname(folder)


class Queue:
    """The queue in a folder, as one process sees it; not for two threads.

    Everything raises Refused for what cannot be, and OSError if the disk is full or broken.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._db = Database(folder)

    def close(self) -> None:
        """Nothing is lost without it."""
        self._db.close()

    def __enter__(self) -> "Queue":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- jobs -----------------------------------------------------------------------

    def submit(self, job: NewJob, code: str, now: float) -> JobRow:
        """Queue it; said again with the same values, the answer is the same."""
        _check(job)
        values, tests = rows.job_columns(job), rows.test_columns(job)
        with self._db.writing() as db:
            known = db.execute(sql.JOB_BY_ID, (job.id,)).fetchone()
            if known is not None:
                found = rows.job_row(known)
                self._require_same(db, found, values, tests)
                return found
            self._require_room(db)
            head = (job.id, code, now, len(tests))
            number = db.execute(sql.INSERT_JOB, head + values).lastrowid
            assert number is not None
            db.executemany(sql.INSERT_TEST, ((number, *test) for test in tests))
            return self._job(db, number)

    def refers(self, job: NewJob, code: str) -> bool:
        """Whether one of the last jobs has the same contents and code, which then are here."""
        _, _, _, build, tests, _ = rows.job_columns(job)
        with self._db.reading() as db:
            return bool(_count(db, sql.REFERS, code, build, tests))

    def find(self, text: str) -> JobRow:
        """The job of this UUID, or of the only one that begins with this text."""
        text = rows.clean(text.lower())
        if len(text) < _SHORTEST:
            words = "%r is too short: at least %d characters of a job's UUID are needed"
            raise Refused("bad", words % (text, _SHORTEST))
        with self._db.reading() as db:
            found = db.execute(sql.JOBS_BY_PREFIX, (text, text + _AFTER))
            jobs = [rows.job_row(columns) for columns in found]
        if not jobs:
            raise Refused("unknown", "no job of this host is called %r" % text)
        if len(jobs) > 1:
            some = ", ".join(job.id for job in jobs)
            raise Refused("ambiguous", "%r may be more than one job: %s" % (text, some))
        return jobs[0]

    def jobs(
        self, states: Sequence[State] = (), label: str = "", limit: int = 100, before: int = 0
    ) -> List[JobRow]:
        """Those in one of the states that have the label, the newest first.

        ``before``: the number of the last one that was seen, to go on from there.
        """
        part = rows.label_text(label) if label else ""
        rest = (before or _MOST, part, max(limit, 0))
        with self._db.reading() as db:
            if not states:
                return [rows.job_row(row) for row in db.execute(sql.JOBS, rest)]
            found = [
                rows.job_row(row)
                for state in set(states)
                for row in db.execute(sql.JOBS_IN_STATE, (str(state), *rest))
            ]
        return sorted(found, key=lambda job: -job.number)[:limit]

    def counts(self) -> Dict[State, int]:
        """How many are in each state."""
        found = dict(self._db.rows(sql.COUNTS))
        return {state: found.get(str(state), 0) for state in State}

    def states(self, jobs: Iterable[str]) -> Dict[str, Optional[State]]:
        """By UUID; None: no such job is here."""
        with self._db.reading() as db:
            found = {job: db.execute(sql.STATE_BY_ID, (job,)).fetchone() for job in jobs}
        return {job: State(row[0]) if row else None for job, row in found.items()}

    def ahead(self, job: JobRow) -> int:
        """How many have to end before this one starts."""
        if job.state != State.QUEUED:
            return 0
        with self._db.reading() as db:
            higher = _count(db, sql.AHEAD_BY_PRIORITY, job.priority)
            older = _count(db, sql.AHEAD_BY_NUMBER, job.priority, job.number)
            return higher + older + _count(db, sql.COUNT_IN_STATE, str(State.RUNNING))

    def cancel(self, job: JobRow, now: float) -> JobRow:
        """End it: at once if it waits; a running one is asked for its end."""
        with self._db.writing(rings=True) as db:
            job = self._job(db, job.number)
            if job.cancelled:
                return job
            db.execute(sql.SET_CANCELLED, (self._allowed(job, Event.CANCEL),))
            if job.state == State.QUEUED:
                self._end(db, job, How.CANCELLED, "while it waited", now)
            return self._job(db, job.number)

    def is_cancelled(self, number: int) -> bool:
        """Whether somebody has asked for the end of this job; also if it is gone."""
        found = self._db.rows(sql.IS_CANCELLED, (number,))
        return not found or bool(found[0][0])

    def trouble(self, number: int, words: str) -> None:
        """Why it does not get on, for people; empty: it does."""
        with self._db.writing() as db:
            db.execute(sql.SET_TROUBLE, (rows.clean(words), number))

    def packaging(self) -> List[JobRow]:
        """Those whose package is to be made, the oldest first."""
        with self._db.reading() as db:
            found = db.execute(sql.JOBS_OLDEST, (str(State.PACKAGING),))
            return [rows.job_row(row) for row in found]

    def packaged(self, number: int, digest: str, size: int, now: float) -> JobRow:
        """Its package is on the disk; whoever wants to be told will be."""
        with self._db.writing(rings=True) as db:
            job = self._job(db, number)
            if job.state in (State.READY, State.HARVESTED) and job.package == digest:
                return job
            self._allowed(job, Event.PACKAGED)
            db.execute(sql.SET_PACKAGE, (str(State.READY), digest, size, number))
            db.execute(sql.SET_ATTEMPT_PACKAGED, (number,))
            job = self._job(db, number)
            if job.config.notify:
                body = _body(job, _results(db, job), now)
                told = (job.id, job.config.notify, job.config.secret, body)
                db.execute(sql.INSERT_OUTBOX, told)
            if job.config.secret:
                config = db.execute(sql.JOB_VALUES, (number,)).fetchone()[-1]
                db.execute(sql.SET_CONFIG, (rows.without_secret(config), number))
            return self._job(db, number)

    def acknowledge(self, job: JobRow, digest: str, now: float) -> JobRow:
        """Somebody has the package of this digest."""
        with self._db.writing(rings=True) as db:
            job = self._job(db, job.number)
            self._allowed(job, Event.ACKNOWLEDGE)
            if digest != job.package:
                words = "job %s: its package is %s, not %s: harvest it again"
                raise Refused("differs", words % (job.id, job.package, digest))
            if job.state == State.READY:
                db.execute(sql.SET_HARVESTED, (str(State.HARVESTED), now, job.number))
            return self._job(db, job.number)

    def forget(self, job: JobRow, force: bool = False) -> JobRow:
        """Let it go, with all rows; its files are the caller's. What it was."""
        with self._db.writing(rings=True) as db:
            job = self._forgettable(db, job, force)
            db.execute(sql.DELETE_JOB, (job.number,))
        self._db.shrink()
        return job

    def require_forgettable(self, job: JobRow, force: bool = False) -> None:
        """Refused for what ``forget`` refuses; what may be forgotten now may be later, too."""
        with self._db.reading() as db:
            self._forgettable(db, job, force)

    def _forgettable(self, db: Any, job: JobRow, force: bool) -> JobRow:
        job = self._job(db, job.number)
        self._allowed(job, Event.FORGET)
        if job.state != State.HARVESTED and not force:
            words = "job %s: nobody has harvested its package: harvest it first, or use --force"
            raise Refused("state", words % job.id)
        return job

    def overdue(self) -> List[JobRow]:
        """Those that the bound of kept packages lets go: harvested ones first, then by age."""
        kept, losable = self.setting("kept_bytes"), [State.HARVESTED]
        if self.setting("drop_unharvested"):
            losable.append(State.READY)
        numbers = []
        with self._db.reading() as db:
            total = sum(_count(db, sql.BYTES_IN_STATE, str(state)) for state in losable)
            over = total - kept
            for state in losable:
                for number, size in db.execute(sql.SIZES_IN_STATE, (str(state),)):
                    if over <= 0:
                        break
                    over -= size
                    numbers.append(number)
            return [self._job(db, number) for number in numbers]

    def referred(self) -> Set[Tuple[str, str, int]]:
        """Kind, digest and size of all contents that jobs refer to."""
        found: Set[Tuple[str, str, int]] = set()
        with self._db.reading() as db:
            for build, tests in db.execute(sql.CONTENTS):
                found.update(content[:3] for content in rows.contents(build, tests))
        return found

    # -- tests, attempts, executions --------------------------------------------------

    def tests(self, number: int) -> List[JobTest]:
        """The tests of a job; the id of each is its place among them."""
        with self._db.reading() as db:
            return [rows.job_test(*row) for row in db.execute(sql.TESTS, (number,))]

    def attempts(self, number: int) -> List[AttemptRow]:
        """The starts of a job, the last one last."""
        with self._db.reading() as db:
            return [rows.attempt_row(row) for row in db.execute(sql.ATTEMPTS, (number,))]

    def executions(self, attempt_id: str) -> Iterator[Record]:
        """What happened in an attempt, by test and try; a few at a time are in memory."""
        place = (-1, -1)
        while True:
            found = self._db.rows(sql.EXECUTIONS, (attempt_id, *place))
            if not found:
                return
            for test, number, outcome, row in found:
                yield test, number, outcome, row
                place = (test, number)

    def outcomes(self, attempt_id: str) -> Dict[str, int]:
        """How many tests came to what, by the last try of each."""
        return dict(self._db.rows(sql.OUTCOMES, (attempt_id,)))

    def results(self, job: JobRow) -> Dict[str, int]:
        """The same of its last attempt; once it has ended, what did not run is an error."""
        with self._db.reading() as db:
            return _results(db, job)

    def next_code(self) -> str:
        """The digest of the code that the next queued job wants; empty: none waits."""
        found = self._db.rows(sql.NEXT)
        return str(found[0][1]) if found else ""

    def claim(
        self, identity: Identity, code: str, attempt_id: str, now: float
    ) -> Optional[Tuple[JobRow, AttemptRow]]:
        """Start the next job; None if there is none, or if it wants other code."""
        with self._db.writing(rings=True) as db:
            known = db.execute(sql.ATTEMPT, (attempt_id,)).fetchone()
            if known is not None:
                return self._claimed(db, rows.attempt_row(known))
            found = db.execute(sql.NEXT).fetchone()
            if found is None or found[1] != code:
                return None
            job = self._job(db, found[0])
            self._move(db, job, Event.CLAIM, State.RUNNING)
            count = _count(db, sql.LAST_NUMBER, job.number) + 1
            step = str(Step.UNPACKING)
            values = (attempt_id, job.number, count, step, *identity, now)
            db.execute(sql.INSERT_ATTEMPT, values)
            return self._job(db, job.number), self._attempt(db, attempt_id)

    def step(self, attempt_id: str, step: Step) -> None:
        """An attempt that runs has come to its next step."""
        with self._db.writing() as db:
            attempt = self._attempt(db, attempt_id)
            if attempt.step == step:
                return
            if not states.is_onward(attempt.step, step):
                raise _out_of_step(attempt, "go on to %s" % step)
            db.execute(sql.SET_STEP, (str(step), attempt_id))

    def installed(self, attempt_id: str, row_text: str) -> None:
        """What happened to the install command."""
        with self._db.writing() as db:
            self._require_running(db, attempt_id)
            db.execute(sql.SET_INSTALL, (row_text, attempt_id))

    def record(self, attempt_id: str, records: Iterable[Record]) -> None:
        """What happened to tests; what is there already stays as it is."""
        with self._db.writing() as db:
            self._require_running(db, attempt_id)
            values = ((attempt_id, *record) for record in records)
            db.executemany(sql.INSERT_EXECUTION, values)

    def finish(self, attempt_id: str, how: How, detail: str, now: float) -> None:
        """The attempt and its job have ended; the package is to be made."""
        with self._db.writing(rings=True) as db:
            attempt = self._attempt(db, attempt_id)
            job = self._job(db, attempt.job)
            if attempt.step in (Step.PACKAGING, Step.ENDED) and job.how == how:
                return
            self._require_running(db, attempt_id)
            self._allowed(job, Event.FINISH)
            self._end(db, job, how, detail, now)
            values = (str(Step.PACKAGING), rows.clean(detail), now, attempt_id)
            db.execute(sql.SET_ATTEMPT_END, values)

    def lose(self, attempt_id: str, detail: str, now: float) -> State:
        """Its worker or host died. Where the job is now: in its old place, or to be packaged.

        An attempt that died while it was packaged is not lost: all facts are rows.
        """
        with self._db.writing(rings=True) as db:
            attempt = self._attempt(db, attempt_id)
            job = self._job(db, attempt.job)
            if attempt.step not in states.STEPS:
                return job.state
            self._allowed(job, Event.LOSE)
            values = (str(Step.LOST), rows.clean(detail), now, attempt_id)
            db.execute(sql.SET_ATTEMPT_END, values)
            after = states.after_loss(attempt.number, job.config.attempts, job.cancelled)
            if after == State.PACKAGING:
                how = How.CANCELLED if job.cancelled else How.GAVE_UP
                self._end(db, job, how, detail, now)
            else:
                self._move(db, job, Event.LOSE, after)
            return after

    def stale(self, identity: Identity) -> List[AttemptRow]:
        """Attempts that have not ended and are another worker's.

        Those that were being packaged, too: something of theirs may still be at work.
        """
        with self._db.reading() as db:
            found = [
                rows.attempt_row(row)
                for state in (State.RUNNING, State.PACKAGING)
                for row in db.execute(sql.ATTEMPTS_OF_STATE, (str(state),))
            ]
        return [attempt for attempt in found if attempt.identity != identity]

    # -- the worker -----------------------------------------------------------------

    def enter(self, identity: Identity, code: str, now: float) -> None:
        """This process is the worker now; a damaged file is found here at the latest."""
        # A large file takes a while, which is worth it after a crash only.
        if self.worker() is not None or self._db.size() <= _SMALL:
            self._db.check()
        with self._db.writing() as db:
            db.execute(sql.SET_WORKER, (*identity, code, now))

    def worker(self) -> Optional[WorkerRow]:
        """Who was last at work, and has not left; it may be dead."""
        found = self._db.rows(sql.WORKER)
        return rows.worker_row(found[0]) if found else None

    def leave_if_idle(self, identity: Identity) -> bool:
        """Whether nothing is to be done, so that this worker is none any more."""
        with self._db.writing() as db:
            if any(_count(db, sql.COUNT_IN_STATE, str(state)) for state in states.UNFINISHED):
                return False
            if _count(db, sql.HAS_OUTBOX):
                return False
            db.execute(sql.DELETE_WORKER, identity)
            return True

    def tidy(self) -> None:
        """What the worker does so that nobody else has to; may take a moment."""
        self._db.tidy()

    # -- the outbox -----------------------------------------------------------------

    def due(self, now: float, longest: float) -> List[OutboxRow]:
        """Who is to be told now; the clock was set back if it is ``longest`` from now."""
        found = self._db.rows(sql.DUE, (now, now + longest))
        return [OutboxRow(*row) for row in found]

    def next_due(self) -> Optional[float]:
        """The first date of the outbox; None if it is empty."""
        found: Optional[float] = self._db.rows(sql.NEXT_DUE)[0][0]
        return found

    def untold(self, job: JobRow) -> Optional[Tuple[int, float, str]]:
        """Tries, date of the next one and trouble, if somebody is still to be told of its end."""
        found = self._db.rows(sql.OUTBOX_OF_JOB, (job.id,))
        return found[0] if found else None

    def delivered(self, number: int) -> None:
        """They know; nothing of the secret stays."""
        with self._db.writing() as db:
            db.execute(sql.DELETE_OUTBOX, (number,))
        self._db.wipe()

    def failed(self, number: int, words: str, due: float) -> None:
        """They could not be told; try again at that date."""
        with self._db.writing() as db:
            db.execute(sql.SET_FAILED, (rows.clean(words), due, number))

    def give_up(self, number: int) -> None:
        """They will not be told; the job says so."""
        with self._db.writing() as db:
            db.execute(sql.TROUBLE_OF_OUTBOX, (number,))
            db.execute(sql.DELETE_OUTBOX, (number,))
        self._db.wipe()

    # -- settings -------------------------------------------------------------------

    def setting(self, name: str) -> int:
        """What the host bounds."""
        default = _default(name)
        found = self._db.rows(sql.SETTING, (name,))
        return int(found[0][0]) if found else default

    def set_setting(self, name: str, value: int) -> None:
        """Bound it otherwise from now on."""
        _default(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
            raise Refused("bad", "%s cannot be %r" % (name, value))
        with self._db.writing() as db:
            db.execute(sql.SET_SETTING, (name, value))

    # -- within a transaction ---------------------------------------------------------

    def _job(self, db: Any, number: int) -> JobRow:
        found = db.execute(sql.JOB_BY_NUMBER, (number,)).fetchone()
        if found is None:
            raise Refused("unknown", "job number %d is gone" % number)
        return rows.job_row(found)

    def _attempt(self, db: Any, attempt_id: str) -> AttemptRow:
        found = db.execute(sql.ATTEMPT, (attempt_id,)).fetchone()
        if found is None:
            raise Refused("unknown", "there is no attempt %s" % attempt_id)
        return rows.attempt_row(found)

    def _allowed(self, job: JobRow, event: Event) -> int:
        """The number of the job, if its state knows this event."""
        if not states.allows(job.state, event):
            ended = " (%s)" % job.how if job.how else ""
            words = "job %s is %s%s: %s is not possible"
            raise Refused("state", words % (job.id, job.state, ended, event))
        return job.number

    def _move(self, db: Any, job: JobRow, event: Event, state: State) -> None:
        assert state in STATES[job.state, event]
        db.execute(sql.SET_STATE, (str(state), job.number))

    def _end(self, db: Any, job: JobRow, how: How, detail: str, now: float) -> None:
        values = (str(State.PACKAGING), str(how), rows.clean(detail), now, job.number)
        db.execute(sql.SET_END, values)

    def _require_running(self, db: Any, attempt_id: str) -> None:
        attempt = self._attempt(db, attempt_id)
        if attempt.step not in states.STEPS:
            raise _out_of_step(attempt, "have results")

    def _claimed(self, db: Any, attempt: AttemptRow) -> Tuple[JobRow, AttemptRow]:
        if attempt.step not in states.STEPS:
            raise _out_of_step(attempt, "start")
        return self._job(db, attempt.job), attempt

    def _require_same(
        self, db: Any, job: JobRow, values: Tuple[Any, ...], tests: List[Tuple[int, str]]
    ) -> None:
        # A job that has ended has no secret any more.
        ours = (values, (*values[:-1], rows.without_secret(values[-1])))
        same = db.execute(sql.JOB_VALUES, (job.number,)).fetchone() in ours
        if not same or db.execute(sql.TESTS, (job.number,)).fetchall() != tests:
            raise Refused("differs", "job %s is here already, and is another one" % job.id)

    def _require_room(self, db: Any) -> None:
        found = db.execute(sql.SETTING, ("waiting",)).fetchone()
        bound = found[0] if found else SETTINGS["waiting"]
        if _count(db, sql.COUNT_IN_STATE, str(State.QUEUED)) >= bound:
            words = "%d jobs wait already, the bound of this host (setting: waiting)"
            raise Refused("full", words % bound)


def _count(db: Any, statement: str, *values: object) -> int:
    return int(db.execute(statement, values).fetchone()[0])


def _default(name: str) -> int:
    if name not in SETTINGS:
        words = "there is no setting %r: there are %s" % (name, ", ".join(SETTINGS))
        raise Refused("bad", words)
    return SETTINGS[name]


def _out_of_step(attempt: AttemptRow, what: str) -> Refused:
    words = "attempt %s is %s: it cannot %s" % (attempt.id, attempt.step, what)
    return Refused("state", words)


def _check(job: NewJob) -> None:
    """Refused for what no row may have."""
    if not is_uuid(job.id):
        raise Refused("bad", "%r is no UUID of a job" % (job.id,))
    whole = isinstance(job.priority, int) and not isinstance(job.priority, bool)
    if not whole or not -_PRIORITY <= job.priority <= _PRIORITY:
        words = "the priority of a job is a whole number up to %d, not %r"
        raise Refused("bad", words % (_PRIORITY, job.priority))


def _results(db: Any, job: JobRow) -> Dict[str, int]:
    """How many tests came to what, as the package has it: each test is accounted for."""
    attempts = db.execute(sql.ATTEMPTS, (job.number,)).fetchall()
    last = rows.attempt_row(attempts[-1]).id if attempts else ""
    found = dict(db.execute(sql.OUTCOMES, (last,)))
    absent = job.count - sum(found.values())
    if job.how and absent > 0:
        found[ERROR] = found.get(ERROR, 0) + absent
    return found


def _body(job: JobRow, outcomes: Dict[str, int], now: float) -> str:
    """What is told: enough to ask this host, and that a run that has failed does not look green."""
    return json.dumps(
        {
            "id": job.id,
            # As it was called at first.
            "job": job.id,
            "name": job.name,
            "labels": job.labels,
            "host": os.uname().nodename,
            "state": job.state,
            "how": job.how,
            "detail": job.detail,
            "tests": job.count,
            "outcomes": outcomes,
            "package": job.package,
            "size": job.size,
            "ended": job.ended,
            "packaged": now,
        }
    )
