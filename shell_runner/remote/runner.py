"""One attempt at one job, in a process of its own: unpack, install, run the tests.

Owns the workspace of the attempt and the rows of what happened in it.  Must not know other jobs,
or who wakes the queue.  To ``Serve`` this is a controller: it gives tests and takes Executions.
"""

import contextlib
import errno
import itertools
import json
import os
import signal
import time
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Set, Tuple

from . import disk, layout, manifest, package_format, place, remains, store, unpack
from .copying import write_all
from .job import ARCHIVE, Content, JobTest
from .machine import cores, facts
from .model import SKIPPED, Execution, Problem, Setup, Stream, Test, execution_from_row
from .queue import AttemptRow, How, JobRow, Queue, Step
from .serve import Serve
from .verdict import exit_words, is_worth_another, judge, seconds, signal_name
from .wire import CREDIT, pack
from .wire import unpack as decode

#: Tests that are given to Serve in one frame.
_CHUNK = 500
#: Bytes of a job's log; what comes after that is not kept.
_LOG = 256 << 20
#: Slots at most, whatever a job wants.
_SLOTS = 512
#: Seconds that a timer can be set to.
_LONGEST = 1e8
#: Bytes of a stream that are kept at most: a row of two has to fit into a package.
_KEEP = 8 << 20
#: Characters of each end of a stream in a row that would be too long.
_END = 256 << 10
#: Seconds between two attempts to write to a full disk.
_FULL = 1.0
#: The parts of a workspace.
_PARTS = ("build", "tests", "prefix", "outputs")
#: Where a host without PATH looks for programs.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Trouble(Exception):
    """The attempt cannot go on, and no test is to blame."""


class Refusal(Exception):
    """The job cannot be run as it is: its contents are not what can be unpacked."""


class _Stopped(Exception):
    """Somebody has asked for the end of the job while nothing ran."""


class Log:
    """What people read: lines of the install command, of the tests, and of ours."""

    def __init__(self, path: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        self._left = _LOG - os.fstat(self._descriptor).st_size
        self._is_torn = False

    def write(self, who: str, lines: List[str]) -> None:
        """``WHO | LINE``; on a full disk the tests matter more than their words."""
        name = who.replace("\n", "?")
        text = "".join("%s | %s\n" % (name, line.replace("\n", " ")) for line in lines)
        data = text.encode("utf-8", "surrogateescape")
        if self._left <= 0:
            return
        self._left -= len(data)
        if self._left <= 0:
            data += b"nosejobs | the log ends here: it is full\n"
        if self._is_torn:
            data = b"\nnosejobs | lines are missing here: the disk was full\n" + data
        try:
            write_all(self._descriptor, data)
            self._is_torn = False
        except OSError:
            self._is_torn = True

    def note(self, words: str) -> None:
        """A line of our own."""
        self.write("nosejobs", words.splitlines() or [""])

    def close(self) -> None:
        """All of it is on the disk."""
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)
        os.close(self._descriptor)


class Done(NamedTuple):
    """What came of one try of a test."""

    test: Test
    execution: Execution
    #: The JSON of its row.
    text: str

    @property
    def outcome(self) -> str:
        """As this host judges it: for lists, and to decide about another try."""
        # As in a live run: what a host cannot run is skipped.
        if self.execution.problem == Problem.UNMET:
            return SKIPPED
        return judge(self.test, self.execution).outcome


class Feed:
    """What ``Serve`` takes for a channel; the controller at its other end is this process."""

    def __init__(self, setup: Setup, tests: List[Test], outputs: Callable[[int, int], str]) -> None:
        self._setup = setup
        self._tests = {test.id: test for test in tests}
        self._outputs = outputs
        self._open = set(self._tests)
        self._owed = 0
        self._receive: Callable[[Optional[bytes]], None] = lambda _: None
        self._is_stopped = False
        self._begun: Set[str] = set()
        #: Called with what came of tests, in batches; says which run again.
        self.on_done: Callable[[List[Done]], List[Test]] = lambda _: []
        #: Called with lines of one test, as many as came at once.
        self.on_lines: Callable[[int, List[str]], None] = lambda *_: None
        self.on_note: Callable[[str], None] = lambda _: None

    # -- the channel ------------------------------------------------------------

    def setcallback(self, callback: Callable[[Optional[bytes]], None], endmarker: None) -> None:
        """Serve listens: now it hears what is to be done."""
        self._receive = callback
        if self._is_stopped:
            self._say("stop")
            return
        self._say("open", self._setup)
        tests = list(self._tests.values())
        for start in range(0, len(tests), _CHUNK):
            self._say("run", tests[start : start + _CHUNK])

    def send(self, frame: bytes) -> None:
        """Called by Serve, in its own loop."""
        if frame[:1] == b"B":
            header, body = decode(frame)
            self._take_piece(header, body)  # type: ignore[arg-type]
        else:
            self._take_messages(json.loads(frame[1:].decode("ascii")))
        self._owed += len(frame)
        if self._owed > CREDIT // 4:
            self._say("credit", self._owed)
            self._owed = 0

    def _say(self, *message: Any) -> None:
        self._receive(pack([list(message)]))

    def stop(self) -> None:
        """End what runs; nothing more is started.  May be called by a signal's handler."""
        self._is_stopped = True
        self._say("stop")

    # -- what Serve says --------------------------------------------------------

    def _take_messages(self, messages: List[List[Any]]) -> None:
        done: List[Done] = []
        for number, lines in itertools.groupby(messages, _speaker):
            if number is not None:
                self.on_lines(number, [line[2] for line in lines])
        for name, *arguments in messages:
            if name == "done":
                done += self._done(arguments[0])
            elif name == "waiting":
                self.on_note("waits for %s that other runs have" % " ".join(arguments).strip())
            elif name == "trouble":
                raise Trouble(str(arguments[0]))
        if done:
            self._settle(done)

    def _done(self, row: List[Any]) -> List[Done]:
        """An answer counts once."""
        test = self._tests.get(row[0])
        if test is None or test.id not in self._open or row[1] != test.attempt:
            return []
        try:
            execution = execution_from_row(row)
        except ValueError as error:
            execution = Execution(
                test.id, test.attempt, problem=Problem.SLOT_DIED, detail="it sent %s" % error
            )
        return [Done(test, *fitting(execution))]

    def _settle(self, done: List[Done]) -> None:
        again = self.on_done(done)
        self._open -= {each.test.id for each in done}
        for test in again:
            self._tests[test.id] = test
            self._open.add(test.id)
        if again:
            self._say("run", again)
        if not self._open:
            self.stop()

    def _take_piece(self, header: List[Any], body: bytes) -> None:
        """A piece of a file that a test left; nothing is written but below its own folder."""
        _, number, attempt, path, _ = header
        manifest.check(manifest.Entry(path, manifest.FILE, 0, "0" * 64))
        target = os.path.join(self._outputs(number, attempt), path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        flags |= os.O_APPEND if target in self._begun else os.O_TRUNC
        try:
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            descriptor = os.open(target, flags, 0o600)
        except OSError as error:
            self._complain(target, error)
            return
        self._begun.add(target)
        try:
            self._keep(descriptor, body)
        except OSError as error:
            self._complain(target, error)
        finally:
            os.close(descriptor)

    def _keep(self, descriptor: int, body: bytes) -> None:
        """A full disk is waited for, as for rows; not by a job that is to end."""
        begin = os.fstat(descriptor).st_size
        while True:
            try:
                write_all(descriptor, body)
                return
            except OSError as error:
                os.ftruncate(descriptor, begin)
                if error.errno not in disk.FULL or self._is_stopped:
                    raise
                time.sleep(_FULL)

    def _complain(self, target: str, error: OSError) -> None:
        self.on_note("artefact %s: %s" % (os.path.basename(target), error.strerror))


class Runner:
    """One attempt."""

    def __init__(self, folder: str, queue: Queue, job: JobRow, attempt: AttemptRow) -> None:
        self._folder = folder
        self._queue = queue
        self._job = job
        self._config = job.config
        self._attempt = attempt
        self._work = layout.work(folder, attempt.id)
        self._cases: List[JobTest] = queue.tests(job.number)
        self._log = Log(layout.log(folder, attempt.id))
        self._feed: Optional[Feed] = None
        self._may_raise = False
        self._end: Optional[How] = None
        #: Nothing more runs in the workspace.
        self._is_over = False

    def run(self) -> None:
        """From unpacking to the word how it ended.  Raises Trouble."""
        os.environ[remains.MARKER] = self._attempt.id
        self._listen()
        try:
            how, detail = self._run()
        except _Stopped:
            how, detail = self._stopped()
        except Refusal as error:
            how, detail = How.REFUSED, str(error)
        except OSError as error:
            if error.errno in disk.FULL:
                self._drop()  # else no attempt at any job would have room
            raise Trouble(disk.words(error, self._work)) from error
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
        """Called between any two steps of this process, Serve's loop included."""
        self._end = self._end or how
        if self._feed is not None:
            self._feed.stop()
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
                if error.errno not in (*disk.FULL, errno.EBUSY):
                    raise Trouble(disk.words(error, self._folder)) from error
                if self._is_over and error.errno in disk.FULL and self._drop():
                    self._log.note("its workspace is removed: the disk is full")
                    continue
                self._log.note("waits: %s" % disk.words(error, self._folder))
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
        """Raises Refusal, which names what is at fault."""
        if content is None:
            return
        target = os.path.join(self._work, part)
        there = store.Store(layout.contents(self._folder))
        there.begin()
        try:
            self._fill(there, content, target)
        except (ValueError, unpack.BadArchive) as error:
            raise Refusal("the %s cannot be unpacked: %s" % (part, error)) from error
        finally:
            there.end()

    def _fill(self, there: store.Store, content: Content, target: str) -> None:
        if not there.holds(content.digest, content.size):
            raise ValueError("%s is not on this host any more" % content.digest[:12])
        if content.kind == ARCHIVE:
            unpack.unpack(there.path(content.digest), target, content.name)
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
        found: List[Done] = []
        feed = Feed(setup._replace(slots=1, artefacts=0, formats=()), [test], self._outputs)
        feed.on_done = lambda done: found.extend(done) or []  # type: ignore[func-returns-value]
        feed.on_lines = lambda _, lines: self._log.write("install", lines)
        self._serve(feed)
        if not found:
            return "it was stopped"
        done = found[0]
        words = install_words(test, done.execution)
        self._is_over = bool(words)
        self._persist(lambda: self._queue.installed(self._attempt.id, done.text))
        if done.execution.problem == Problem.SLOT_DIED:
            raise Trouble("while it installed, " + judge(test, done.execution).words)
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
        env[remains.MARKER] = self._attempt.id
        env["NOSEJOBS_BUILD"] = os.path.join(self._work, "build")
        env["NOSEJOBS_PREFIX"] = prefix
        return tuple(env.items())

    def _outputs(self, test: int, number: int) -> str:
        return layout.outputs(self._folder, self._attempt.id, test, number)

    def _serve(self, feed: Feed) -> None:
        feed.on_note = self._log.note
        session = Serve(feed, forks=True)
        self._feed = feed
        try:
            self._check()
            session.serve()
        except _Stopped:
            pass
        finally:
            self._feed = None
            session.close()

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
        feed = Feed(setup, tests, self._outputs)
        feed.on_done = self._take_done
        feed.on_lines = self._take_lines
        self._serve(feed)

    def _take_lines(self, number: int, lines: List[str]) -> None:
        self._log.write(self._cases[number].nodeid, lines)

    def _take_done(self, done: List[Done]) -> List[Test]:
        self._record(done)
        again = [each.test for each in done if self._again(each)]
        return [test._replace(attempt=test.attempt + 1) for test in again]

    def _record(self, done: List[Done]) -> None:
        """One transaction for all that came at once."""
        if not done:
            return
        rows = [(each.test.id, each.test.attempt, each.outcome, each.text) for each in done]
        self._persist(lambda: self._queue.record(self._attempt.id, rows))
        for each in done:
            result = judge(each.test, each.execution)
            words = "%s (%s)" % (result.outcome, result.words)
            self._log.note("%s: %s" % (self._cases[each.test.id].nodeid.replace("\n", "?"), words))

    def _again(self, done: Done) -> bool:
        """The test itself has failed, and has a try left; as a controller decides it."""
        case = self._cases[done.test.id]
        retries = self._config.retries if case.retries is None else case.retries
        if self._end or done.test.attempt > retries:
            return False
        return is_worth_another(done.test, done.execution)


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
            raise Refusal("a test cannot be read: %s (%s)" % (case.nodeid, dict(case.properties)))


def _speaker(message: List[Any]) -> Optional[int]:
    """The test of which a message is a line."""
    return int(message[1]) if message[0] == "line" else None


def fitting(execution: Execution) -> Tuple[Execution, str]:
    """It and its row, less what no reader of a package takes: a job has other tests, too."""
    text = _row(execution)
    if not package_format.fits(text) and execution.parsed is not None:
        words = "%d results are more than a package can hold; none is kept"
        problem = words % len(execution.parsed.cases)
        parsed = execution.parsed._replace(cases=[], problem=problem)
        execution = execution._replace(parsed=parsed)
        text = _row(execution)
    if not package_format.fits(text):
        execution = execution._replace(out=_shortened(execution.out), err=_shortened(execution.err))
        text = _row(execution)
    return execution, text


def _row(execution: Execution) -> str:
    return json.dumps(execution, separators=(",", ":"))


def _shortened(stream: Stream) -> Stream:
    """Its two ends."""
    text, middle = stream.text, stream.cut_at
    if len(text) <= 2 * _END:
        return stream
    if middle < 0:
        middle = len(text) // 2
    head, tail = text[: min(middle, _END)], text[max(middle, len(text) - _END) :]
    return stream._replace(text=head + tail, cut_at=len(head))


def _longest_first(test: Test) -> Tuple[bool, bool, float]:
    """Those alone on the host, then those of which nothing is known, then by their time."""
    return not test.serial, test.estimate is not None, -(test.estimate or 0.0)


def _unmet(number: int, case: JobTest) -> Done:
    test = case.test._replace(id=number, attempt=1)
    execution = Execution(number, problem=Problem.UNMET, detail=case.unmet)
    return Done(test, execution, json.dumps(execution, separators=(",", ":")))


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
