"""One attempt at one job, in a process of its own: unpack, install, run the tests.

Owns the workspace of the attempt and the rows of what happened in it.  Must not know other jobs,
or what wakes the queue.  Programs are run by a slot pool, as those of a live session are.
"""

import contextlib
import errno
import json
import os
import signal
import time
from typing import Callable, Iterator, List, Optional, Tuple

from ..archives import extract
from ..execution import host_resources
from ..execution.slot_pool import SlotStartError
from ..files import blob_store, disk_space
from ..files import remove_tree as place
from ..processes import orphans
from ..protocol.host_facts import cores, facts
from ..protocol.job import ARCHIVE, Content, JobTest
from ..protocol.model import Execution, Problem, Setup, Test
from ..protocol.verdict import exit_words, is_worth_another, judge, seconds, signal_name
from . import paths as layout
from .job_log import JobLog
from .pool_run import PoolRun, TestOutcome
from .queue import AttemptRow, How, JobRow, Queue, Step

#: Slots at most, whatever a job wants.
_SLOTS = 512
#: Seconds that a timer can be set to.
_LONGEST = 1e8
#: Bytes of a stream that are kept at most: a row of two has to fit into a package.
_KEEP = 8 << 20
#: Seconds between two attempts to write to a full disk.
_FULL = 1.0
#: The parts of a workspace.
_PARTS = ("build", "tests", "prefix", "outputs")
#: Where a host without PATH looks for programs.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class AttemptFailed(Exception):
    """The attempt cannot go on, and no test is to blame."""


class JobRejected(Exception):
    """The job cannot be run as it is: its contents cannot be unpacked, or its tests not read."""


class _Stopped(Exception):
    """The job was cancelled, or its time is over, while nothing ran."""


class JobRunner:
    """One attempt at a job."""

    def __init__(self, folder: str, queue: Queue, job: JobRow, attempt: AttemptRow) -> None:
        self._folder = folder
        self._queue = queue
        self._job = job
        self._config = job.config
        self._attempt = attempt
        self._work = layout.work(folder, attempt.id)
        self._cases: List[JobTest] = queue.tests(job.number)
        self._log = JobLog(layout.log(folder, attempt.id))
        self._pool_run: Optional[PoolRun] = None
        self._may_raise = False
        self._end: Optional[How] = None
        #: Nothing more runs in the workspace.
        self._is_over = False

    def run(self) -> None:
        """From unpacking to the word how it ended.  Raises AttemptFailed."""
        os.environ[orphans.MARKER] = self._attempt.id
        self._listen()
        try:
            how, detail = self._run()
        except _Stopped:
            how, detail = self._stopped()
        except JobRejected as error:
            how, detail = How.REFUSED, str(error)
        except OSError as error:
            if error.errno in disk_space.FULL:
                self._drop()  # else no attempt at any job would have room
            raise AttemptFailed(disk_space.words(error, self._work)) from error
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._is_over = True
        self._log.note("%s%s" % (how, ": " + detail if detail else ""))
        self._log.close()
        _on_disk(self._work)
        now = time.time()
        self._persist(lambda: self._queue.finish(self._attempt.id, how, detail, now))

    def _run(self) -> Tuple[How, str]:
        self._log.note("attempt %d of job %s" % (self._attempt.number, self._job.id))
        _refuse_unreadable(self._cases)
        self._make_room()
        self._step(Step.UNPACKING)
        with self._interruptible():
            self._unpack(self._job.build, "build")
            self._unpack(self._job.tests, "tests")
        if self._config.install:
            self._step(Step.INSTALLING)
            words = self._install()
            self._check()
            if words:
                return How.INSTALL_FAILED, words
        self._step(Step.TESTING)
        self._test()
        return self._stopped() if self._end else (How.COMPLETED, "")

    # -- the end, before its time -------------------------------------------------

    def _listen(self) -> None:
        """SIGUSR1: it was cancelled, perhaps before we listened.  SIGALRM: its time is over."""
        signal.signal(signal.SIGUSR1, lambda *_: self._stop(How.CANCELLED))
        signal.signal(signal.SIGALRM, lambda *_: self._stop(How.TIMED_OUT))
        if self._config.timeout:
            signal.setitimer(signal.ITIMER_REAL, min(self._config.timeout, _LONGEST))
        if self._queue.is_cancelled(self._job.number):
            self._end = How.CANCELLED

    def _stop(self, how: How) -> None:
        """End the job; called by a signal handler, between any two steps of this process."""
        self._end = self._end or how
        if self._pool_run is not None:
            self._pool_run.stop()
        elif self._may_raise:
            self._may_raise = False
            raise _Stopped()

    def _check(self) -> None:
        if self._end:
            raise _Stopped()

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """What can be left at any point, as its workspace goes anyway."""
        self._may_raise = True
        try:
            self._check()
            yield
        finally:
            self._may_raise = False

    def _stopped(self) -> Tuple[How, str]:
        if self._end == How.TIMED_OUT:
            return How.TIMED_OUT, "after %s" % seconds(self._config.timeout)
        return How.CANCELLED, ""

    # -- rows ---------------------------------------------------------------------

    def _step(self, step: Step) -> None:
        self._check()
        self._persist(lambda: self._queue.step(self._attempt.id, step))

    def _persist(self, write: Callable[[], object]) -> None:
        """A full disk is waited for: what has happened must not be lost."""
        while True:
            try:
                write()
                return
            except OSError as error:
                if error.errno not in (*disk_space.FULL, errno.EBUSY):
                    raise AttemptFailed(disk_space.words(error, self._folder)) from error
                if self._is_over and error.errno in disk_space.FULL and self._drop():
                    self._log.note("its workspace is removed: the disk is full")
                    continue
                self._log.note("waits: %s" % disk_space.words(error, self._folder))
                time.sleep(_FULL)

    def _drop(self) -> bool:
        """Give back what the job itself has taken of a full disk; whether there was something."""
        paths = [os.path.join(self._work, part) for part in _PARTS if part != "outputs"]
        found = any(os.path.isdir(path) and os.listdir(path) for path in paths)
        for path in paths:
            place.remove_tree(path)
        return found

    # -- the workspace ------------------------------------------------------------

    def _make_room(self) -> None:
        for part in _PARTS:
            os.makedirs(os.path.join(self._work, part), mode=0o700, exist_ok=True)
        path = layout.host(self._folder, self._attempt.id)
        with open(path, "w", opener=_private) as file:
            json.dump(facts()._asdict(), file)

    def _unpack(self, content: Optional[Content], part: str) -> None:
        """Raises JobRejected, which names what is at fault."""
        if content is None:
            return
        target = os.path.join(self._work, part)
        there = blob_store.Store(layout.contents(self._folder))
        there.begin()
        try:
            self._fill(there, content, target)
        except (ValueError, extract.BadArchive) as error:
            raise JobRejected("the %s cannot be unpacked: %s" % (part, error)) from error
        finally:
            there.end()

    def _fill(self, there: blob_store.Store, content: Content, target: str) -> None:
        if not there.holds(content.digest, content.size):
            raise ValueError("%s is not on this host any more" % content.digest[:12])
        if content.kind == ARCHIVE:
            extract.unpack(there.path(content.digest), target, content.name)
            return
        entries, missing = there.manifest(content.digest, content.size)
        lacking = [] if missing else there.missing(entries)[0]
        if missing or lacking:
            raise ValueError("parts of %s are not on this host any more" % content.digest[:12])
        there.unpack(entries, target)

    # -- programs -----------------------------------------------------------------

    def _install(self) -> str:
        """Run the install command as a test is run; what was wrong, or nothing."""
        script = os.path.join(self._work, "install.sh")
        with open(script, "w", opener=_private, encoding="utf-8", errors="surrogateescape") as file:
            file.write(self._config.install + "\n")
        self._log.note("installs")
        test = Test(
            0, "../install.sh", timeout=self._config.install_timeout, argv=("/bin/sh", "-e"),
            cwd="root",
        )  # fmt: skip
        # Without a build it prepares the tests.
        setup = self._setup(os.path.join(self._work, "build" if self._job.build else "tests"))
        setup = setup._replace(slots=1, artefacts=0, formats=())
        outcomes: List[TestOutcome] = []

        def take(batch: List[TestOutcome]) -> List[Test]:
            outcomes.extend(batch)
            return []

        self._run_pool(setup, [test], take, lambda _, lines: self._log.write("install", lines))
        if not outcomes:
            return "it was stopped"
        outcome = outcomes[0]
        words = install_words(test, outcome.execution)
        self._is_over = bool(words)
        self._persist(lambda: self._queue.installed(self._attempt.id, outcome.row))
        if outcome.execution.problem == Problem.SLOT_DIED:
            raise AttemptFailed("while it installed, " + judge(test, outcome.execution).words)
        return words

    def _setup(self, root: str) -> Setup:
        config = self._config
        return Setup(
            root, slots=min(config.slots, _SLOTS), grace=config.grace,
            keep=min(config.keep_output, _KEEP),
            pass_env=config.pass_env, env=self._environment(), merge=config.merge,
            formats=config.formats, artefacts=config.artefacts, live=True, shared=True,
        )  # fmt: skip

    def _environment(self) -> Tuple[Tuple[str, str], ...]:
        env = dict(self._config.environment)
        prefix = os.path.join(self._work, "prefix")
        env["PATH"] = prefix + "/bin:" + (env.get("PATH") or os.environ.get("PATH") or _PATH)
        env["NOSEJOBS_JOB"] = self._job.id
        env[orphans.MARKER] = self._attempt.id
        env["NOSEJOBS_BUILD"] = os.path.join(self._work, "build")
        env["NOSEJOBS_PREFIX"] = prefix
        return tuple(env.items())

    def _outputs(self, test: int, number: int) -> str:
        return layout.outputs(self._folder, self._attempt.id, test, number)

    def _run_pool(
        self,
        setup: Setup,
        tests: List[Test],
        on_outcomes: Callable[[List[TestOutcome]], List[Test]],
        on_lines: Callable[[int, List[str]], None],
    ) -> None:
        """Run tests in a slot pool, until all have ended or the job is to end."""
        run = PoolRun(setup, tests, self._outputs, on_outcomes, on_lines, self._log.note)
        self._pool_run = run
        try:
            self._check()
            run.run(_shared_resources())
        except SlotStartError as error:
            raise AttemptFailed(str(error)) from error
        except _Stopped:
            pass
        finally:
            self._pool_run = None

    # -- the tests ----------------------------------------------------------------

    def _test(self) -> None:
        self._record([_unmet(n, case) for n, case in enumerate(self._cases) if case.unmet])
        able = [(n, case) for n, case in enumerate(self._cases) if not case.unmet]
        tests = [case.test._replace(id=number, attempt=1) for number, case in able]
        if not tests:
            return
        tests.sort(key=_longest_first)
        setup = self._setup(os.path.join(self._work, "tests"))
        # What is never given a test takes time and memory, too.
        setup = setup._replace(slots=min(setup.slots or cores(), len(tests)))
        self._run_pool(setup, tests, self._take_outcomes, self._take_lines)

    def _take_lines(self, number: int, lines: List[str]) -> None:
        self._log.write(self._cases[number].nodeid, lines)

    def _take_outcomes(self, outcomes: List[TestOutcome]) -> List[Test]:
        self._record(outcomes)
        again = [outcome.test for outcome in outcomes if self._runs_again(outcome)]
        return [test._replace(attempt=test.attempt + 1) for test in again]

    def _record(self, outcomes: List[TestOutcome]) -> None:
        """Write all that came at once in one transaction."""
        if not outcomes:
            return
        rows = [(each.test.id, each.test.attempt, each.outcome, each.row) for each in outcomes]
        self._persist(lambda: self._queue.record(self._attempt.id, rows))
        for outcome in outcomes:
            result = judge(outcome.test, outcome.execution)
            words = "%s (%s)" % (result.outcome, result.words)
            name = self._cases[outcome.test.id].nodeid.replace("\n", "?")
            self._log.note("%s: %s" % (name, words))

    def _runs_again(self, outcome: TestOutcome) -> bool:
        """Return whether the test itself has failed and has a try left, as in a live run."""
        case = self._cases[outcome.test.id]
        retries = self._config.retries if case.retries is None else case.retries
        if self._end or outcome.test.attempt > retries:
            return False
        return is_worth_another(outcome.test, outcome.execution)


def install_words(test: Test, execution: Execution) -> str:
    """What went wrong with an install command; empty if nothing: only its status counts."""
    if execution.problem:
        return judge(test, execution).words
    if execution.timed_out:
        return "timed out after %s" % seconds(test.timeout)
    if execution.signal is not None:
        return "killed by %s" % signal_name(execution.signal)
    return exit_words(execution.exit) if execution.exit else ""


def _refuse_unreadable(cases: List[JobTest]) -> None:
    """Some of the tests are no answer to who has asked for all."""
    for case in cases:
        if not case.test.path:
            raise JobRejected(
                "a test cannot be read: %s (%s)" % (case.nodeid, dict(case.properties))
            )


def _longest_first(test: Test) -> Tuple[bool, bool, float]:
    """Those alone on the host, then those of which nothing is known, then by their time."""
    return not test.serial, test.estimate is not None, -(test.estimate or 0.0)


def _shared_resources() -> host_resources.Capacity:
    try:
        return host_resources.shared()
    except OSError as error:
        raise AttemptFailed(str(error)) from error


def _unmet(number: int, case: JobTest) -> TestOutcome:
    test = case.test._replace(id=number, attempt=1)
    execution = Execution(number, problem=Problem.UNMET, detail=case.unmet)
    return TestOutcome(test, execution, json.dumps(execution, separators=(",", ":")))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _on_disk(folder: str) -> None:
    """What tests left goes into the package: the same also if the machine dies now."""
    for here, _, names in os.walk(os.path.join(folder, "outputs")):
        for name in names:
            with contextlib.suppress(OSError):
                descriptor = os.open(os.path.join(here, name), os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
