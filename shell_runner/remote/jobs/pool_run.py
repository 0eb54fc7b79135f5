"""One run of a job's programs in a slot pool: its install command, or its tests.

Responsible for the pool and its folder, collects the outcome of each program, and writes the
artifacts of programs into the workspace. Must not know the queue, retries or the log.
"""

import contextlib
import itertools
import json
import os
import time
from typing import Callable, List, NamedTuple, Optional, Set, Tuple

from ..execution import resource_locks
from ..execution.artifacts import ArtifactPiece
from ..execution.result_limits import shorten_to_fit
from ..execution.slot_pool import SlotPool
from ..files import filesystem_errors, manifest, session_dirs
from ..files.copy_tree import write_all
from ..files.remove_tree import remove_tree
from ..protocol.model import (
    SKIPPED,
    Execution,
    Problem,
    Setup,
    Test,
    execution_from_row,
)
from ..protocol.verdict import judge
from .result_package_format import is_readable_size

#: Seconds between two attempts to write to a full disk.
_FULL_DISK_RETRY_DELAY = 1.0


class TestOutcome(NamedTuple):
    """The outcome of one attempt at a test."""

    test: Test
    execution: Execution
    #: The JSON of the execution.
    row: str

    @property
    def outcome(self) -> str:
        """Return the outcome as this host judges it: for lists, and to decide about another
        attempt.
        """
        # As in a live run: a test whose requirements the host does not meet is skipped.
        if self.execution.problem == Problem.UNMET_REQUIREMENT:
            return SKIPPED
        return judge(self.test, self.execution).outcome


#: This is not a class of tests, whatever pytest concludes from its name.
TestOutcome.__test__ = False  # type: ignore[attr-defined]


class ArtifactWriter:
    """Writes the artifacts of tests, each below the folder of its test and attempt."""

    def __init__(
        self,
        folder: Callable[[int, int], str],
        on_note: Callable[[str], None],
        is_stopped: Callable[[], bool],
    ) -> None:
        """Prepare writing.

        ``folder`` maps the number and the attempt of a test to its folder. ``on_note`` takes a
        message for the log. Once ``is_stopped`` returns True, a full disk is no longer waited for.
        """
        self._folder = folder
        self._on_note = on_note
        self._is_stopped = is_stopped
        self._begun: Set[str] = set()

    def write(self, test: Test, piece: ArtifactPiece) -> None:
        """Append a piece to its file.

        Raises BadEntry if the path leads out of the test's folder. If the file cannot be written,
        the error is only noted.
        """
        manifest.validate_entry(manifest.ManifestEntry(piece.path, manifest.FILE, 0, "0" * 64))
        target = os.path.join(self._folder(test.id, test.attempt), piece.path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        flags |= os.O_APPEND if target in self._begun else os.O_TRUNC

        def create() -> int:
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            return os.open(target, flags, 0o600)

        try:
            descriptor = self._await_room(create)
        except OSError as error:
            self._note_failure(target, error)
            return
        self._begun.add(target)
        try:
            self._append(descriptor, piece.data)
        except OSError as error:
            self._note_failure(target, error)
        finally:
            os.close(descriptor)

    def _append(self, descriptor: int, data: bytes) -> None:
        """Write all of ``data``, or nothing of it."""
        size = os.fstat(descriptor).st_size

        def append() -> int:
            try:
                write_all(descriptor, data)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
            return size + len(data)

        self._await_room(append)

    def _await_room(self, write: Callable[[], int]) -> int:
        """Return ``write()``; repeat it while the disk is full, unless the job is to end."""
        while True:
            try:
                return write()
            except OSError as error:
                if error.errno not in filesystem_errors.FULL_DISK_ERRNOS or self._is_stopped():
                    raise
                time.sleep(_FULL_DISK_RETRY_DELAY)

    def _note_failure(self, target: str, error: OSError) -> None:
        self._on_note("artifact %s: %s" % (os.path.basename(target), error.strerror))


class PoolRun:
    """One run of programs in a slot pool of its own, and the listener of that pool."""

    def __init__(
        self,
        setup: Setup,
        tests: List[Test],
        output_folder: Callable[[int, int], str],
        on_outcomes: Callable[[List[TestOutcome]], List[Test]],
        on_lines: Callable[[int, List[str]], None],
        on_note: Callable[[str], None],
    ) -> None:
        """Prepare a run.

        ``on_outcomes`` takes batches of outcomes and returns the tests to run again. ``on_lines``
        takes consecutive lines of one test, ``on_note`` a message for the log. ``output_folder``
        maps the number and the attempt of a test to the folder of its artifacts.
        """
        self._setup = setup
        self._tests = tests
        self._on_outcomes = on_outcomes
        self._on_lines = on_lines
        self._on_note = on_note
        self._artifacts = ArtifactWriter(output_folder, on_note, lambda: self.is_stopped)
        #: Tests without a result so far, by number.
        self._open = {test.id: test for test in tests}
        self._lines: List[Tuple[int, str]] = []
        self._outcomes: List[TestOutcome] = []
        self._pool: Optional[SlotPool] = None
        self._wake_write: Optional[int] = None
        self.is_stopped = False

    def run(self, resources: resource_locks.HostResources) -> None:
        """Run all tests, unless stopped; ``resources`` are closed at the end.

        Raises SlotStartError if slots cannot be started.
        """
        folder, lock = session_dirs.create_session_folder()
        wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        pool = self._pool = SlotPool(self, folder, wake_read, forks=True)
        try:
            if not self.is_stopped:
                pool.start(self._setup, resources)
                pool.add(self._tests)
            else:
                resources.close()
            while not self.is_stopped:
                pool.process(pool.wait())
        finally:
            pool.close()
            os.chdir("/")
            remove_tree(folder)
            wake_write, self._wake_write = self._wake_write, None  # a signal may call stop now
            for descriptor in (wake_read, wake_write, lock):
                os.close(descriptor)

    def stop(self) -> None:
        """End all running tests and start no more; may be called by a signal handler."""
        self.is_stopped = True
        if self._wake_write is not None:
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"x")

    # -- what the pool reports ----------------------------------------------------

    def on_running(self, test: Test, slot: int) -> None:
        """Ignore that a test has been started."""

    def on_returned(self, numbers: List[int]) -> None:
        """Ignore tests that were given back: a job withdraws none."""

    def on_output(self, test: Test, line: str) -> None:
        """Collect a line until the next flush."""
        self._lines.append((test.id, line))

    def on_artifact(self, test: Test, piece: ArtifactPiece) -> None:
        """Write a piece of a file at once."""
        self._artifacts.write(test, piece)

    def on_result(self, test: Test, row: bytes) -> None:
        """Collect a result until the next flush; each attempt counts once."""
        values = json.loads(row.decode("ascii"))
        if test.id not in self._open or values[:2] != [test.id, self._open[test.id].attempt]:
            return
        test = self._open.pop(test.id)
        try:
            execution = execution_from_row(values)
        except ValueError as error:
            detail = "it sent %s" % error
            execution = Execution(test.id, test.attempt, problem=Problem.SLOT_DIED, detail=detail)
        self._outcomes.append(TestOutcome(test, *shorten_to_fit(execution, is_readable_size)))

    def on_waiting(self, refusal: resource_locks.UnavailableResource) -> None:
        """Note that tests wait for resources that other runs hold."""
        self._flush_lines()
        self._on_note("waits for %s that other runs hold" % " ".join(refusal).strip())

    def flush(self) -> None:
        """Pass on what was collected, all outcomes at once; stop after the last one."""
        self._flush_lines()
        if not self._outcomes:
            return
        outcomes, self._outcomes = self._outcomes, []
        repeated = self._on_outcomes(outcomes)
        self._open.update((test.id, test) for test in repeated)
        if repeated and self._pool is not None:
            self._pool.add(repeated)
        if not self._open:
            self.stop()

    def _flush_lines(self) -> None:
        lines, self._lines = self._lines, []
        for number, group in itertools.groupby(lines, lambda row: row[0]):
            self._on_lines(number, [line for _, line in group])
