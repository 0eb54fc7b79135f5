"""The process that drains a host's queue: detached, alone, gone when there is nothing to do.

Owns the order of things: which job is next, who runs it, what happens when that dies.  Must not
know tests.  It does nothing itself that can take long or go wrong: a job has a process of its own
(``runner``), and so has each POST (``notify``).  All that must not be lost is a row of the queue.
"""

import contextlib
import ctypes
import errno
import os
import select
import signal
import sys
import time
import traceback
import uuid
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple

from ..files import disk_space, session_dirs
from ..processes import fifo, kill, orphans, process_identity, process_tree
from ..protocol.job import Identity
from ..protocol.verdict import exit_words, signal_name
from . import job_runner, package_builder, paths, retention, webhook, worker_launcher, worker_lock
from .queue import AttemptRow, How, JobRow, OutboxRow, Queue, Refused, State, Step

#: Seconds between two looks at the queue though nobody rings.
_LOOK = 30.0
_NEVER = float("inf")
#: Seconds until a package is tried again that could not be made.
_AGAIN = 30.0
#: Bytes of the log after which it is begun anew.
_LONG = 4 << 20
#: Seconds between two looks at all contents of the host, which may be many.
_SWEEP = 60.0
#: POSTs on their way at the same time.
_COURIERS = 4
#: Seconds that a POST may take in all.
_POST = 60
#: Seconds that a runner has to end, beside the grace of its tests, once it should.
_OVERTIME = 60.0
#: Seconds between two attempts to write to a full disk.
_FULL = 1.0
#: What passes: the disk is full, or somebody holds the queue.
_PASSES = (errno.ENOSPC, errno.EDQUOT, errno.EBUSY)
_PR_SET_PDEATHSIG = 1
#: What a child's exit status says: all is written; try again later.
_FINE, _LATER = 0, 3


class _Work(NamedTuple):
    """What the one child that works is at."""

    pid: int
    job: JobRow
    #: None: only its package is made.
    attempt: Optional[AttemptRow]


class Worker:
    """The one worker of a queue; holds its lock."""

    def __init__(self, folder: str, code: str, lock: int) -> None:
        self._folder = folder
        self._code = code
        self._lock = lock
        self._me: Identity = process_identity.own()
        for made in (paths.work(folder), paths.logs(folder), paths.packages(folder)):
            os.makedirs(made, mode=0o700, exist_ok=True)
        self._queue = Queue(folder)
        self._work: Optional[_Work] = None
        #: Work that has ended, and how, until the queue knows it.
        self._ended: Optional[Tuple[_Work, str]] = None
        #: When a runner that should have ended long before is killed, and whether it was.
        self._deadline, self._is_late = _NEVER, False
        #: POSTs on their way: by process id the row's number.
        self._couriers: Dict[int, OutboxRow] = {}
        #: Jobs whose package could not be made, and when it is tried again.
        self._postponed: Dict[int, float] = {}
        self._died: Dict[int, int] = {}
        #: When all contents are looked at again.
        self._next_sweep = 0.0
        #: The disk was full when a job was to be started.
        self._full = False
        #: When the last work ended; 0: there was none yet.
        self._idle_since = 0.0
        #: Until when it waits for more though there is nothing to do.
        self._stays_until = 0.0
        self._bell = fifo.open_fifo(os.path.join(folder, worker_launcher.WORKER_FIFO))
        self._wake, self._wake_write = os.pipe()
        self._poller = select.poll()
        for descriptor in (self._bell, self._wake):
            self._poller.register(descriptor, select.POLLIN)
        _hear_children(self._wake, self._wake_write)

    def run(self) -> None:
        """Until queue and outbox are empty."""
        self._queue.enter(self._me, self._code, time.time())
        self._recover()
        while self._go_on():
            pass
        self._queue.close()

    def _go_on(self) -> bool:
        """A full disk is no reason to die: what runs would die with us."""
        try:
            return self._turn()
        except OSError as error:
            if error.errno not in _PASSES:
                raise
            _say("waits: %s" % error)
            time.sleep(_FULL)
            return True

    def _turn(self) -> bool:
        """One look at everything; False when there is nothing more to do."""
        self._reap()
        self._settle()
        self._queue.tidy()
        self._send_couriers()
        self._end_late()
        if self._work is None:
            if self._start_next():
                return True
            if self._may_leave() and self._queue.leave_if_idle(self._me):
                return False
        self._wait()
        return True

    def _may_leave(self) -> bool:
        """The next job of a burst shall not wait for another worker to come up."""
        lingers = self._queue.setting("linger") if self._idle_since else 0
        self._stays_until = self._idle_since + lingers
        return not self._couriers and time.monotonic() >= self._stays_until

    # -- what dead ones left ------------------------------------------------------

    def _recover(self) -> None:
        worker_lock.await_runner(self._folder)
        for attempt in self._queue.stale(self._me):
            stubborn = orphans.kill(attempt.id, paths.work(self._folder, attempt.id))
            if stubborn:
                _say("attempt %s: cannot kill %s" % (attempt.id, stubborn))
            if attempt.step != Step.PACKAGING:
                self._lose(attempt, "its worker died")
        retention.sweep(self._queue, self._folder)
        retention.sweep_code(self._queue, self._folder, self._code)
        session_dirs.sweep()

    def _lose(self, attempt: AttemptRow, words: str) -> None:
        _say("attempt %s is lost: %s" % (attempt.id, words))
        self._queue.lose(attempt.id, words, time.time())

    # -- work ---------------------------------------------------------------------

    def _start_next(self) -> bool:
        """Something is at work now."""
        now = time.monotonic()
        for job in self._queue.packaging():
            if self._postponed.get(job.number, 0.0) <= now:
                self._start(job, None)
                return True
        code = self._queue.next_code()
        if not code or self._is_full():
            return False
        if code != self._code and not self._lacks(code):
            self._become(code)
        return self._claim(code)

    def _is_full(self) -> bool:
        """Nothing is started on a full disk: all jobs that wait would fail, one by one."""
        words = disk_space.shortage(self._folder)
        if words and not self._full:
            _say("waits: %s" % words)
        self._full = bool(words)
        return self._full

    def _claim(self, code: str) -> bool:
        """The next job is ours, also one that nobody can run: it ends with words."""
        claimed = self._queue.claim(self._me, code, str(uuid.uuid4()), time.time())
        if claimed is None:
            return False
        job, attempt = claimed
        words = job.unreadable and "its row cannot be read: %s" % job.unreadable
        if code != self._code:
            words = "the code that runs it is not on this host: %s" % self._lacks(code)
        if words:
            self._queue.finish(attempt.id, How.REFUSED, words, time.time())
        else:
            self._start(job, attempt)
        return True

    def _lacks(self, code: str) -> str:
        """Why that code cannot be run; empty if it can."""
        try:
            worker_launcher.command("worker", self._folder, code)
        except worker_launcher.CannotStart as error:
            return str(error.strerror)
        return ""

    def _become(self, code: str) -> None:
        """Other code takes over: the same process, that holds the lock."""
        self._queue.close()
        lock = worker_lock.lock_argument(self._lock)
        command = worker_launcher.command("worker", self._folder, code, lock)
        signal.set_wakeup_fd(-1)
        os.execv(command[0], command)

    def _start(self, job: JobRow, attempt: Optional[AttemptRow]) -> None:
        folder, now = self._folder, time.monotonic()
        sweeps = now >= self._next_sweep
        if sweeps:
            self._next_sweep = now + _SWEEP
        pid = self._fork(lambda: _work(folder, job, attempt, sweeps))
        self._work = _Work(pid, job, attempt)
        self._deadline, self._is_late = _NEVER, False
        if attempt is not None and job.config.timeout:
            self._bound(job, job.config.timeout)

    def _bound(self, job: JobRow, seconds: float) -> None:
        """Its runner has to end by itself in that time, and a while."""
        late = time.monotonic() + seconds + job.config.grace + _OVERTIME
        self._deadline = min(self._deadline, late)

    def _end_late(self) -> None:
        """Neither its time nor a cancel has ended it: it hangs, or somebody has stopped it."""
        if self._work is None or time.monotonic() < self._deadline:
            return
        self._deadline = _NEVER
        if _state(self._queue, self._work.job) == State.RUNNING:
            self._is_late = True
            os.kill(self._work.pid, signal.SIGKILL)

    def _end_work(self, work: _Work, status: int) -> None:
        """The child has ended: nothing of it may stay."""
        self._work, self._ended = None, (work, _how(status))
        self._idle_since = time.monotonic()
        kill.kill_all(process_tree.Lister(os.getpid(), apart=self._couriers))

    def _settle(self) -> None:
        """What the child that has ended did not write is lost."""
        if self._ended is None:
            return
        work, how = self._ended
        state = _state(self._queue, work.job)
        if state == State.RUNNING and work.attempt is not None:
            if self._is_late and not self._queue.is_cancelled(work.job.number):
                words = "its runner did not end by itself"
                self._queue.finish(work.attempt.id, How.TIMED_OUT, words, time.time())
            else:
                self._lose(work.attempt, "its runner %s" % how)
        elif state == State.PACKAGING:
            self._postpone(work.job, how)
        self._ended = None

    def _postpone(self, job: JobRow, how: str) -> None:
        """Death may have come from outside: once more at once.  A full disk is not cured so."""
        _say("job %s: its package is not made: %s" % (job.id, how))
        self._died[job.number] = self._died.get(job.number, 0) + 1
        if self._died[job.number] > 1 or how == exit_words(_LATER):
            self._postponed[job.number] = time.monotonic() + _AGAIN

    # -- the outbox ---------------------------------------------------------------

    def _send_couriers(self) -> None:
        for row in self._queue.due(time.time(), webhook.LONGEST):
            if len(self._couriers) >= _COURIERS:
                return
            if row.number not in {each.number for each in self._couriers.values()}:
                self._couriers[self._fork_courier(row)] = row

    def _fork_courier(self, row: OutboxRow) -> int:
        folder = self._folder
        return self._fork(lambda: _deliver(folder, row))

    def _end_courier(self, row: OutboxRow, status: int) -> None:
        if status != 0:  # else it has written itself what came of it
            _write_failure(self._queue, row, "the courier %s" % _how(status))

    # -- processes ----------------------------------------------------------------

    def _fork(self, work: Callable[[], int]) -> int:
        """A child that dies with us."""
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _be_child(parent, (self._lock, self._bell, self._wake, self._wake_write), work)
        return pid

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._work is not None and pid == self._work.pid:
                self._end_work(self._work, status)
            elif pid in self._couriers:
                self._end_courier(self._couriers.pop(pid), status)

    def _wait(self) -> None:
        """For the end of a child, the bell, or a date."""
        events = self._poller.poll(self._patience() * 1000)
        heard = {descriptor for descriptor, _ in events}
        if self._wake in heard:
            _drain(self._wake)
        if self._bell in heard:
            fifo.drain(self._bell)
            self._postponed.clear()
            self._cancel()

    def _cancel(self) -> None:
        """The runner is a child that has not been reaped: its number is its own."""
        work = self._work
        if work is not None and self._queue.is_cancelled(work.job.number):
            self._bound(work.job, 0.0)
            # A test can stop its runner, which would not hear of it.
            for number in (signal.SIGCONT, signal.SIGUSR1):
                os.kill(work.pid, number)

    def _patience(self) -> float:
        left = [_FULL if self._full else _LOOK, self._deadline - time.monotonic()]
        if self._work is None:  # else its end is heard, and nothing is begun before
            left += [at - time.monotonic() for at in self._postponed.values()]
            stays = self._stays_until - time.monotonic()
            left += [stays] if stays > 0 else []
        due = self._queue.next_due()
        if due is not None:
            # Rows on their way are due, too: the end of their couriers will be heard.
            left.append(max(due - time.time(), 1.0 if self._couriers else 0.0))
        return max(min(left), 0.0)


# -- in the children ----------------------------------------------------------------


def _be_child(parent: int, inherited: Tuple[int, ...], work: Callable[[], int]) -> None:
    """What a fork needs to be a process of its own; never returns."""
    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # it died before we asked for its death
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in inherited:
            os.close(descriptor)
        os.setsid()
        process_tree.become_subreaper()
        status = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _work(folder: str, job: JobRow, attempt: Optional[AttemptRow], sweeps: bool) -> int:
    """Run a job, if it has not been, and make its package; ``sweeps``: and look at all contents."""
    worker_lock.lock_runner(folder)
    queue = Queue(folder)
    if attempt is not None:
        try:
            job_runner.JobRunner(folder, queue, job, attempt).run()
        except job_runner.AttemptFailed as error:
            _say("job %s: %s" % (job.id, error))
            queue.lose(attempt.id, str(error), time.time())
    if _state(queue, job) != State.PACKAGING:
        return _FINE
    status = _package(queue, folder, queue.find(job.id))
    if sweeps and status == _FINE:
        retention.sweep_contents(queue, folder)
    return status


def _package(queue: Queue, folder: str, job: JobRow) -> int:
    attempts = queue.attempts(job.number)
    stays = retention.is_kept(queue, job, attempts)
    try:
        digest, size = _packed(queue, folder, job)
        queue.packaged(job.number, digest, size, time.time())
    except Exception as error:
        if not isinstance(error, (OSError, package_builder.BadPackage)):
            traceback.print_exc()
        why = disk_space.words(error, folder) if isinstance(error, OSError) else error
        words = "its package cannot be made: %s" % why
        _say("job %s: %s" % (job.id, words))
        # A disk that is full takes no row, either: whoever looks sees that it is full.
        with contextlib.suppress(OSError):
            queue.trouble(job.number, words)
        return _LATER
    # From here on somebody may have harvested and forgotten it.
    retention.clear_workspaces(folder, job, attempts, stays)
    retention.forget_overdue(queue, folder)
    return _FINE


def _packed(queue: Queue, folder: str, job: JobRow) -> Tuple[str, int]:
    """A job whose rows make no package must not be here for ever."""
    try:
        return package_builder.pack(queue, folder, job)
    except (package_builder.BadPackage, TypeError, ValueError) as error:
        _say("job %s: %s" % (job.id, error))
        return package_builder.pack_little(queue, folder, job, str(error))


def _deliver(folder: str, row: OutboxRow) -> int:
    """One POST, and the row of what came of it."""
    signal.alarm(_POST)
    words = webhook.post(row.url, row.secret, row.body)
    signal.alarm(0)
    with Queue(folder) as queue:
        if words:
            _write_failure(queue, row, words)
        else:
            queue.delivered(row.number)
    return 0


def _write_failure(queue: Queue, row: OutboxRow, words: str) -> None:
    tries = row.tries + 1
    queue.failed(row.number, words, time.time() + webhook.backoff(tries))
    if tries >= webhook.TRIES:
        _say("job %s: nobody at %s could be told: %s" % (row.job, row.url, words))
        queue.give_up(row.number)


# -- coming and going ---------------------------------------------------------------


def _hear_children(read: int, write: int) -> None:
    for descriptor in (read, write):
        os.set_blocking(descriptor, False)
    # Only a handler, even an empty one, makes the signal reach the pipe.
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)


def _drain(descriptor: int) -> None:
    try:
        os.read(descriptor, 4096)
    except BlockingIOError:
        pass


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return "was killed by %s" % signal_name(os.WTERMSIG(status))
    return exit_words(os.WEXITSTATUS(status))


def _say(words: str) -> None:
    """A line of the worker's log, which is begun anew when it is long."""
    if os.fstat(2).st_size > _LONG:
        os.ftruncate(2, 0)
    sys.stderr.write("%s %s\n" % (time.strftime("%Y-%m-%d %H:%M:%S"), words))
    sys.stderr.flush()


def _state(queue: Queue, job: JobRow) -> Optional[State]:
    """None: it is forgotten."""
    try:
        return queue.find(job.id).state
    except Refused as refused:
        if refused.kind != "unknown":
            raise
        return None


def _detach() -> None:
    """Out of whoever started us, as far as that was not done."""
    try:
        os.setsid()
    except PermissionError:
        pass  # leads a session already
    os.chdir("/")
    os.umask(0o077)
    for name in (orphans.MARKER, worker_launcher.BEHIND):
        os.environ.pop(name, None)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    process_tree.become_subreaper()


def launch(argv: Sequence[str]) -> None:
    """Run a worker in a process that does not end with the caller's.

    ``argv`` is the queue's folder and the digest of the code.  Code that cannot be run here has
    failed before: all of it is imported by now, and the caller waits for this process.
    """
    folder, code = argv[0], argv[1]
    worker_launcher.log_to(folder)
    if os.fork():
        os._exit(0)
    try:
        os.setsid()
        scope = worker_launcher.scope_command()
        if scope:
            os.execvp(scope[0], scope + worker_launcher.command("worker", folder, code))
        main((folder, code))
    finally:
        os._exit(1)


def main(argv: Sequence[str]) -> None:
    """The worker process: its folder, the digest of its code, perhaps a lock that it has."""
    folder, code, *rest = argv
    worker_launcher.log_to(folder)
    _detach()
    status = 1
    try:
        lock = worker_lock.inherited(rest)
        if lock is None:
            lock = worker_lock.acquire(folder)
        if lock is not None:
            Worker(folder, code, lock).run()
        status = 0
    except Refused as refused:
        _say(refused.words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        # Of a queue that was set aside no other worker knows which processes are its jobs'.
        kill.kill_all(process_tree.Lister(os.getpid()))
        os._exit(status)
