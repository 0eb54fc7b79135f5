"""One attempt at one job, in a process of its own: unpack, install, run the tests.

Responsible for the attempt's workspace and the rows of its executions. Must not know other jobs or
how the worker schedules them. Programs run in a slot pool, as those of a live session do.
"""

import contextlib
import errno
import json
import os
import signal
import time
from typing import Callable, Iterator, List, Optional, Tuple

from ..archives import extract
from ..execution import resource_locks
from ..execution.slot_pool import SlotStartError
from ..files import blob_store, filesystem_errors
from ..files.path_limits import MAX_PATH_COMPONENTS
from ..files.remove_tree import remove_tree
from ..processes import orphans
from ..protocol.host_facts import collect_host_facts, count_cores
from ..protocol.job import ARCHIVE, Content, JobTest
from ..protocol.model import Execution, Problem, Setup, Test
from ..protocol.verdict import (
    format_exit_status,
    format_seconds,
    format_signal,
    is_retryable,
    judge,
)
from . import paths
from .job_log import JobLog
from .pool_run import PoolRun, TestOutcome
from .queue import AttemptPhase, AttemptRow, EndReason, JobRow, Queue

#: Maximum number of slots of a job.
_MAX_SLOTS = 512
#: Maximum seconds of a timer.
_MAX_TIMER_SECONDS = 1e8
#: Maximum bytes that are kept of a stream: a row with two streams must fit into a package.
_MAX_KEPT_OUTPUT_BYTES = 8 << 20
#: Seconds between two attempts to write to a full disk.
_FULL_DISK_RETRY_DELAY = 1.0
#: The folders of a workspace.
_WORKSPACE_FOLDERS = ("build", "tests", "prefix", "outputs")
#: PATH of programs if the host has none.
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class AttemptFailed(Exception):
    """The attempt cannot continue, and no test is the cause."""


class JobRejected(Exception):
    """The job cannot run: its contents cannot be unpacked, or its tests cannot be read."""


class _JobStopped(Exception):
    """The job was canceled, or its time limit was reached, while no program ran."""


class JobRunner:
    """The runner of one attempt at a job."""

    def __init__(self, folder: str, queue: Queue, job: JobRow, attempt: AttemptRow) -> None:
        self._folder = folder
        self._queue = queue
        self._job = job
        self._config = job.config
        self._attempt = attempt
        self._workspace = paths.workspace_path(folder, attempt.id)
        self._tests: List[JobTest] = queue.get_tests(job.number)
        self._log = JobLog(paths.log_path(folder, attempt.id))
        self._pool_run: Optional[PoolRun] = None
        self._may_raise = False
        self._end_reason: Optional[EndReason] = None
        #: Whether no program runs in the workspace any more.
        self._is_over = False

    def run(self) -> None:
        """Run the attempt, from unpacking to recording why it ended.

        Raises :exc:`AttemptFailed` if it cannot continue.
        """
        os.environ[orphans.ATTEMPT_VARIABLE] = self._attempt.id
        self._install_signal_handlers()
        try:
            end_reason, detail = self._run()
        except _JobStopped:
            end_reason, detail = self._stop_result()
        except JobRejected as error:
            end_reason, detail = EndReason.REFUSED, str(error)
        except OSError as error:
            if error.errno in filesystem_errors.FULL_DISK_ERRNOS:
                self._free_workspace()  # otherwise no attempt at any job would have room
            raise AttemptFailed(filesystem_errors.describe_error(error, self._workspace)) from error
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._is_over = True
        self._log.note("%s%s" % (end_reason, ": " + detail if detail else ""))
        self._log.close()
        _sync_outputs(self._workspace)
        now = time.time()
        self._persist(lambda: self._queue.finish(self._attempt.id, end_reason, detail, now))

    def _run(self) -> Tuple[EndReason, str]:
        self._log.note("attempt %d of job %s" % (self._attempt.number, self._job.id))
        _check_tests_readable(self._tests)
        self._create_workspace()
        self._set_phase(AttemptPhase.UNPACKING)
        with self._interruptible():
            self._unpack(self._job.build, "build")
            self._unpack(self._job.tests, "tests")
        if self._config.install:
            self._set_phase(AttemptPhase.INSTALLING)
            error = self._install()
            self._raise_if_stopped()
            if error:
                return EndReason.INSTALL_FAILED, error
        self._set_phase(AttemptPhase.TESTING)
        self._run_tests()
        return self._stop_result() if self._end_reason else (EndReason.COMPLETED, "")

    # -- the end, before its time -------------------------------------------------

    def _install_signal_handlers(self) -> None:
        """Handle SIGUSR1 (cancel) and SIGALRM (time limit); notice a cancel that came before."""
        signal.signal(signal.SIGUSR1, lambda *_: self._stop(EndReason.CANCELED))
        signal.signal(signal.SIGALRM, lambda *_: self._stop(EndReason.TIMED_OUT))
        if self._config.timeout:
            signal.setitimer(signal.ITIMER_REAL, min(self._config.timeout, _MAX_TIMER_SECONDS))
        if self._queue.is_cancel_requested(self._job.number):
            self._end_reason = EndReason.CANCELED

    def _stop(self, end_reason: EndReason) -> None:
        """End the job; called by a signal handler, at any point of this process."""
        self._end_reason = self._end_reason or end_reason
        if self._pool_run is not None:
            self._pool_run.stop()
        elif self._may_raise:
            self._may_raise = False
            raise _JobStopped()

    def _raise_if_stopped(self) -> None:
        if self._end_reason:
            raise _JobStopped()

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Allow signals to raise in a block that may stop anywhere: its workspace is removed."""
        self._may_raise = True
        try:
            self._raise_if_stopped()
            yield
        finally:
            self._may_raise = False

    def _stop_result(self) -> Tuple[EndReason, str]:
        if self._end_reason == EndReason.TIMED_OUT:
            return EndReason.TIMED_OUT, "after %s" % format_seconds(self._config.timeout)
        return EndReason.CANCELED, ""

    # -- rows ---------------------------------------------------------------------

    def _set_phase(self, phase: AttemptPhase) -> None:
        self._raise_if_stopped()
        self._persist(lambda: self._queue.set_phase(self._attempt.id, phase))

    def _persist(self, write: Callable[[], object]) -> None:
        """Call ``write`` until it succeeds: wait for a full disk, since no result may be lost."""
        while True:
            try:
                write()
                return
            except OSError as error:
                if error.errno not in (*filesystem_errors.FULL_DISK_ERRNOS, errno.EBUSY):
                    raise AttemptFailed(
                        filesystem_errors.describe_error(error, self._folder)
                    ) from error
                if (
                    self._is_over
                    and error.errno in filesystem_errors.FULL_DISK_ERRNOS
                    and self._free_workspace()
                ):
                    self._log.note("its workspace is removed: the disk is full")
                    continue
                self._log.note("waits: %s" % filesystem_errors.describe_error(error, self._folder))
                time.sleep(_FULL_DISK_RETRY_DELAY)

    def _free_workspace(self) -> bool:
        """Remove what the job itself put on a full disk; return whether there was anything."""
        folders = [os.path.join(self._workspace, name) for name in _WORKSPACE_FOLDERS]
        folders.remove(os.path.join(self._workspace, "outputs"))
        has_files = any(os.path.isdir(folder) and os.listdir(folder) for folder in folders)
        for folder in folders:
            remove_tree(folder)
        return has_files

    # -- the workspace ------------------------------------------------------------

    def _create_workspace(self) -> None:
        for part in _WORKSPACE_FOLDERS:
            os.makedirs(os.path.join(self._workspace, part), mode=0o700, exist_ok=True)
        path = paths.host_facts_path(self._folder, self._attempt.id)
        with open(path, "w", opener=_open_private) as file:
            json.dump(collect_host_facts()._asdict(), file)

    def _unpack(self, content: Optional[Content], part: str) -> None:
        """Unpack a content into folder ``part``; raises JobRejected, which names the cause."""
        if content is None:
            return
        target = os.path.join(self._workspace, part)
        store = blob_store.BlobStore(paths.contents_path(self._folder))
        store.acquire()
        try:
            self._unpack_content(store, content, target)
        except (ValueError, extract.BadArchive) as error:
            raise JobRejected("the %s cannot be unpacked: %s" % (part, error)) from error
        finally:
            store.release()

    def _unpack_content(self, store: blob_store.BlobStore, content: Content, target: str) -> None:
        if not store.has_blob(content.digest, content.size):
            raise ValueError("%s is not on this host any more" % content.digest[:12])
        if content.kind == ARCHIVE:
            extract.extract_archive(store.path(content.digest), target, content.name)
            return
        entries, missing = store.read_manifest(content.digest, content.size)
        lacking = [] if missing else store.find_missing(entries)[0]
        if missing or lacking:
            raise ValueError("parts of %s are not on this host any more" % content.digest[:12])
        store.create_tree(entries, target)

    # -- programs -----------------------------------------------------------------

    def _install(self) -> str:
        """Run the install command as a test is run; return the error, empty on success."""
        script = os.path.join(self._workspace, "install.sh")
        with open(
            script, "w", opener=_open_private, encoding="utf-8", errors="surrogateescape"
        ) as file:
            file.write(self._config.install + "\n")
        self._log.note("running the install command")
        test = Test(
            0, "../install.sh", timeout=self._config.install_timeout, argv=("/bin/sh", "-e"),
            cwd="root",
        )  # fmt: skip
        # Without a build it prepares the tests.
        setup = self._make_setup(
            os.path.join(self._workspace, "build" if self._job.build else "tests")
        )
        setup = setup._replace(slots=1, artifacts_limit=0, formats=())
        outcomes: List[TestOutcome] = []

        def take(batch: List[TestOutcome]) -> List[Test]:
            outcomes.extend(batch)
            return []

        self._run_pool(setup, [test], take, lambda _, lines: self._log.write("install", lines))
        if not outcomes:
            return "it was stopped"
        outcome = outcomes[0]
        error = explain_install_failure(test, outcome.execution)
        self._is_over = bool(error)
        self._persist(lambda: self._queue.record_install(self._attempt.id, outcome.row))
        if outcome.execution.problem == Problem.SLOT_DIED:
            raise AttemptFailed("during installation, " + judge(test, outcome.execution).message)
        return error

    def _make_setup(self, root: str) -> Setup:
        config = self._config
        return Setup(
            root, slots=min(config.slots, _MAX_SLOTS), grace=config.grace,
            output_limit=min(config.keep_output, _MAX_KEPT_OUTPUT_BYTES),
            pass_env=config.pass_env, env=self._make_environment(), merge_output=config.merge,
            formats=config.formats, artifacts_limit=config.artifacts,
            live_output=True, shared_resources=True,
        )  # fmt: skip

    def _make_environment(self) -> Tuple[Tuple[str, str], ...]:
        env = dict(self._config.environment)
        prefix = os.path.join(self._workspace, "prefix")
        env["PATH"] = (
            prefix + "/bin:" + (env.get("PATH") or os.environ.get("PATH") or _DEFAULT_PATH)
        )
        env["NOSEJOBS_JOB"] = self._job.id
        env[orphans.ATTEMPT_VARIABLE] = self._attempt.id
        env["NOSEJOBS_BUILD"] = os.path.join(self._workspace, "build")
        env["NOSEJOBS_PREFIX"] = prefix
        return tuple(env.items())

    def _outputs_path(self, test: int, number: int) -> str:
        return paths.outputs_path(self._folder, self._attempt.id, test, number)

    def _run_pool(
        self,
        setup: Setup,
        tests: List[Test],
        on_outcomes: Callable[[List[TestOutcome]], List[Test]],
        on_lines: Callable[[int, List[str]], None],
    ) -> None:
        """Run tests in a slot pool, until all have ended or the job is to end."""
        run = PoolRun(setup, tests, self._outputs_path, on_outcomes, on_lines, self._log.note)
        self._pool_run = run
        try:
            self._raise_if_stopped()
            run.run(_open_shared_resources())
        except SlotStartError as error:
            raise AttemptFailed(str(error)) from error
        except _JobStopped:
            pass
        finally:
            self._pool_run = None

    # -- the tests ----------------------------------------------------------------

    def _run_tests(self) -> None:
        self._record([_unmet_outcome(n, case) for n, case in enumerate(self._tests) if case.unmet])
        runnable = [(n, case) for n, case in enumerate(self._tests) if not case.unmet]
        tests = [case.test._replace(id=number, attempt=1) for number, case in runnable]
        if not tests:
            return
        tests.sort(key=_start_order_key)
        setup = self._make_setup(os.path.join(self._workspace, "tests"))
        # Idle slots would cost time and memory, too.
        setup = setup._replace(slots=min(setup.slots or count_cores(), len(tests)))
        self._run_pool(setup, tests, self._take_outcomes, self._take_lines)

    def _take_lines(self, number: int, lines: List[str]) -> None:
        self._log.write(self._tests[number].nodeid, lines)

    def _take_outcomes(self, outcomes: List[TestOutcome]) -> List[Test]:
        self._record(outcomes)
        repeated = [outcome.test for outcome in outcomes if self._runs_again(outcome)]
        return [test._replace(attempt=test.attempt + 1) for test in repeated]

    def _record(self, outcomes: List[TestOutcome]) -> None:
        """Record a batch of outcomes in one transaction, and log them."""
        if not outcomes:
            return
        rows = [(each.test.id, each.test.attempt, each.outcome, each.row) for each in outcomes]
        self._persist(lambda: self._queue.record_executions(self._attempt.id, rows))
        for outcome in outcomes:
            result = judge(outcome.test, outcome.execution)
            message = "%s (%s)" % (result.outcome, result.message)
            name = self._tests[outcome.test.id].nodeid.replace("\n", "?")
            self._log.note("%s: %s" % (name, message))

    def _runs_again(self, outcome: TestOutcome) -> bool:
        """Return whether the test itself failed and may run again, as in a live run."""
        case = self._tests[outcome.test.id]
        retries = self._config.retries if case.retries is None else case.retries
        if self._end_reason or outcome.test.attempt > retries:
            return False
        return is_retryable(outcome.test, outcome.execution)


def explain_install_failure(test: Test, execution: Execution) -> str:
    """Return the error of an install command; empty on success. Only its exit status counts."""
    if execution.problem:
        return judge(test, execution).message
    if execution.timed_out:
        return "timed out after %s" % format_seconds(test.timeout)
    if execution.signal is not None:
        return "killed by %s" % format_signal(execution.signal)
    return format_exit_status(execution.exit_status) if execution.exit_status else ""


def _check_tests_readable(cases: List[JobTest]) -> None:
    """Raise JobRejected if any test cannot be read: a partial run would not answer the request."""
    for case in cases:
        if not case.test.path:
            raise JobRejected(
                "a test cannot be read: %s (%s)" % (case.nodeid, dict(case.properties))
            )


def _start_order_key(test: Test) -> Tuple[bool, bool, float]:
    """Return the sort key: serial tests first, then unknown durations, then the longest."""
    return not test.serial, test.estimate is not None, -(test.estimate or 0.0)


def _open_shared_resources() -> resource_locks.HostResources:
    try:
        return resource_locks.open_shared_resources()
    except OSError as error:
        raise AttemptFailed(str(error)) from error


def _unmet_outcome(number: int, case: JobTest) -> TestOutcome:
    test = case.test._replace(id=number, attempt=1)
    execution = Execution(number, problem=Problem.UNMET_REQUIREMENT, detail=case.unmet)
    return TestOutcome(test, execution, json.dumps(execution, separators=(",", ":")))


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _sync_outputs(folder: str) -> None:
    """Sync artifacts to the disk, so that the package is the same even if the machine dies now.

    A test can have made deeper folders there than it can have artifacts.
    """
    root = os.path.join(folder, "outputs")
    for parent, folders, names in os.walk(root):
        if parent.count("/") - root.count("/") >= MAX_PATH_COMPONENTS:
            folders.clear()
        for name in names:
            with contextlib.suppress(OSError):
                descriptor = os.open(os.path.join(parent, name), os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
