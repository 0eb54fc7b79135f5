"""A slot: the process that runs one test at a time on a host.

Responsible for the processes of a test, from the spawn until none is left, and for capturing
their output.  The slot is single-threaded, a child subreaper and the leader of its own session.
Must not depend on scheduling, shipping or verdicts.

A test has ended when its program has exited, not when its pipes are closed: a child process can
hold them open.  Processes that outlive the program are stopped, named and killed; the next test
starts when wait(2) reports that the slot has no child.  The pipes belong to the slot and serve
all its tests.
"""

import collections
import json
import os
import resource
import select
import signal
import socket
import time
from typing import Any, Deque, Dict, List, Optional, Sequence

from ..files.copy_tree import copy_tree
from ..files.session_dirs import remove_if_last_slot
from ..formats.case_names import remove_tree_path
from ..formats.output_parser import OutputParser, SessionFormats
from ..processes import process_tree
from ..protocol.frames import FrameDecoder, frame_encoded_message, frame_message, is_sendable
from ..protocol.model import Execution, ParsedOutput, Problem, Setup, Test
from .artifacts import select_artifacts
from .environment import build_session_environment, build_test_environment
from .live_output import LineSplitter
from .output_capture import OutputCapture
from .result_limits import shorten_to_fit
from .scratch_dirs import ScratchDirectories
from .slot_state import READ_BYTES, InheritedState, open_output_pipe
from .spawn import ProgramStartError, SpawnContext, start_test

#: Seconds after which a test that still runs is reported as running.
_RUNNING_REPORT_DELAY = 0.1
#: Seconds that the children of an exited program get to exit by themselves.
_CHILD_EXIT_TIMEOUT = 0.1
#: Seconds between SIGTERM and SIGKILL when the slot is told to stop.
_STOP_GRACE = 0.5
#: Seconds after SIGKILL until a process counts as impossible to kill.
_KILL_TIMEOUT = 10.0
#: Signals that a slot ignores, since a test may send them to its parent.  A slot ends when it is
#: told to, or when its control socket is closed.
_IGNORED_SIGNALS = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGALRM,
    signal.SIGUSR1, signal.SIGUSR2, signal.SIGVTALRM, signal.SIGPROF, signal.SIGTSTP,
)  # fmt: skip


class _RunningTest:
    """The state of the running test."""

    def __init__(
        self, test: Test, output_limit: int, parser: OutputParser, overflow_files: Dict[str, str]
    ) -> None:
        self.test = test
        self.pid = 0
        self.parser = parser
        #: Wait status and resource usage of the program; None while it runs.
        self.status: Optional[int] = None
        self.usage: Optional[resource.struct_rusage] = None
        self.timed_out = False
        #: Wall clock time of the start, and the duration in seconds.
        self.started = self.duration = 0.0
        self.out = OutputCapture(output_limit, overflow_files.get("out", ""))
        self.err = OutputCapture(output_limit, overflow_files.get("err", ""))

    def to_execution(
        self, slot: int, is_stopping: bool, leftovers: List[str], parsed: Optional[ParsedOutput]
    ) -> Execution:
        """Return the Execution of an ended test; ``parsed`` are the cases that it named."""
        test, status, usage = self.test, self.status, self.usage
        is_canceled = not self.timed_out and (status is None or is_stopping)
        exit_status = (
            os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None
        )
        signaled = status is not None and os.WIFSIGNALED(status)
        return Execution(
            test.id, test.attempt, slot, self.started, self.duration,
            exit_status=exit_status,
            signal=os.WTERMSIG(status) if status is not None and signaled else None,
            timed_out=self.timed_out,
            problem=Problem.CANCELED if is_canceled else "",
            stdout=self.out.to_stream(), stderr=self.err.to_stream(), leftovers=tuple(leftovers),
            max_rss=usage.ru_maxrss if usage else 0,
            cpu_seconds=usage.ru_utime + usage.ru_stime if usage else 0.0,
            parsed=parsed,
        )  # fmt: skip


class ControlClosed(Exception):
    """The control socket is closed: the process that assigns tests has died."""


class Slot:
    """Runs the tests that arrive on the socket ``control`` and sends back their Executions."""

    def __init__(self, number: int, control: socket.socket, setup: Setup, base: str) -> None:
        self.number = number
        self.setup = setup
        self.control = control
        self.scratch = ScratchDirectories(base, ("tmp", "home", "out"))
        self.formats = SessionFormats(setup.formats)
        self._line_splitter = LineSplitter()
        self.environment = build_session_environment(os.environ, setup)
        self.queue: Deque[Test] = collections.deque()
        self.is_stopping = False
        self.is_broken = False
        self._frame_decoder = FrameDecoder()
        self._running: Optional[_RunningTest] = None
        self._poller = select.poll()
        #: Polls the output pipes only.
        self._output_poller = select.poll()
        self._is_childless = True
        self._out_pipe = open_output_pipe()
        self._err_pipe = self._out_pipe if setup.merge_output else open_output_pipe()
        for pipe in {self._out_pipe, self._err_pipe}:
            for poller in (self._poller, self._output_poller):
                poller.register(pipe.read, select.POLLIN)
        self._inherited = InheritedState((self._out_pipe, self._err_pipe))
        self._wake_fd = _watch_children(self._poller)
        self._poller.register(control, select.POLLIN)

    # -- one test ---------------------------------------------------------------

    def run(self, test: Test) -> Execution:
        """Run one test to its end and return its Execution."""
        parser = self.formats.new_parser(test.output_format)
        run = self._running = _RunningTest(
            test, self.setup.output_limit, parser, self._overflow_files()
        )
        run.started, begin = time.time(), time.monotonic()
        try:
            root = self._prepare_directories(test)
            # Restart the clock: removing the files of an earlier test is not this test's time.
            run.started, begin = time.time(), time.monotonic()
            self._start_program(test, root, run)
        except ProgramStartError as error:
            return Execution(
                test.id, test.attempt, self.number, run.started, time.monotonic() - begin,
                problem=error.problem, detail=error.detail,
            )  # fmt: skip
        self._wait_for_exit(test, run, begin)
        run.duration = time.monotonic() - begin
        leftovers = self._kill_leftovers(run)
        self._drain_output()
        for line in self._line_splitter.flush() if self.setup.live_output else ():
            self.control.sendall(frame_message(["line", test.id, line]))
        if test.isolation == "copy":
            self.scratch.remove_entry("tree")
        parsed = parser.close(self.scratch.paths["out"], self.scratch.list_entries("out"))
        parsed = remove_tree_path(parsed, root)
        execution = run.to_execution(self.number, self.is_stopping, leftovers, parsed)
        return self._set_artifacts_aside(execution, run)

    def _set_artifacts_aside(self, execution: Execution, run: _RunningTest) -> Execution:
        """Move the artifacts of the test to a folder from which the slot pool sends them."""
        run.out.close()
        run.err.close()
        if not self.setup.artifacts_limit or not self.scratch.list_entries("out"):
            return execution
        selected = select_artifacts(self.scratch.paths["out"], self.setup.artifacts_limit)
        if selected.files:
            suffix = "-artifacts-%d-%d" % (execution.id, execution.attempt)
            folder = self.scratch.move_aside("out", suffix)
            if folder is None:
                return execution._replace(artifacts_omitted=len(selected.files))
            self.control.sendall(frame_message(["artifacts", execution.id, folder, selected.files]))
        return execution._replace(
            artifacts=selected.files, artifacts_omitted=selected.omitted_count
        )

    def _overflow_files(self) -> Dict[str, str]:
        """Return the files for output beyond the kept size; empty if no artifacts are wanted."""
        if not self.setup.artifacts_limit:
            return {}
        folder = self.scratch.paths["out"]
        return {"out": folder + "/stdout.txt", "err": folder + "/stderr.txt"}

    def _prepare_directories(self, test: Test) -> str:
        """Create the directories of the test; return the root of its tree.

        Raises ProgramStartError.
        """
        try:
            self.scratch.prepare()
            if test.isolation != "copy":
                return self.setup.root
            root = os.path.join(self.scratch.base, "tree")
            self.scratch.remove_entry("tree")
            copy_tree(self.setup.root, root)
            return root
        except OSError as error:
            raise ProgramStartError(Problem.NOT_STARTED, str(error)) from None
        except RecursionError:
            detail = "the tree %s has too many nested folders to be copied" % self.setup.root
            raise ProgramStartError(Problem.NOT_STARTED, detail) from None

    def _start_program(self, test: Test, root: str, run: _RunningTest) -> None:
        path = os.path.join(root, test.path)
        try:
            os.chdir(root if test.cwd == "root" else os.path.dirname(path))
        except FileNotFoundError:
            raise ProgramStartError(Problem.NO_SUCH_FILE, path) from None
        except OSError as error:
            raise ProgramStartError(Problem.NOT_STARTED, str(error)) from None
        scratch = self.scratch.paths
        env = build_test_environment(self.environment, os.environ, test, scratch)
        if test.isolation == "copy":
            env["TEST_SRCDIR"] = root
        self._is_childless = False
        context = SpawnContext(env, self._out_pipe.write, self._err_pipe.write, test.limits)
        run.pid = start_test(test, path, root, context)

    def _wait_for_exit(self, test: Test, run: _RunningTest, begin: float) -> None:
        """Wait until the program exits, its timeout is over, or the slot is told to stop."""
        deadline = begin + test.timeout
        self._poll_once(min(_RUNNING_REPORT_DELAY, test.timeout))
        if run.status is None and not self.is_stopping:
            self._report_running(test)
        while run.status is None and not self.is_stopping:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                run.timed_out = True
                return
            self._poll_once(min(remaining, 1.0))

    def _report_running(self, test: Test) -> None:
        """Report that the test is running, unless that could block and delay the timeout."""
        if select.select([], [self.control], [], 0)[1]:
            self.control.sendall(frame_message(["running", test.id, time.time()]))

    def _kill_leftovers(self, run: _RunningTest) -> List[str]:
        """Kill all remaining processes of the test.

        Return the names of those that its program left behind; empty if the program itself was
        still running.
        """
        if run.status is not None and not self.is_stopping:
            self._poll_until_childless(_CHILD_EXIT_TIMEOUT)
        if self._is_childless:
            return []
        pids = self._freeze_processes()
        names = process_tree.read_names(pids) if run.status is not None else []
        self._kill_processes(pids, _STOP_GRACE if self.is_stopping else self.setup.grace)
        return names

    def _freeze_processes(self) -> List[int]:
        return process_tree.freeze(process_tree.DescendantLister(os.getpid()), self._reap_children)

    def _kill_processes(self, pids: List[int], grace: float) -> None:
        """Send SIGTERM to the stopped processes, wait ``grace`` seconds, then send SIGKILL.

        SIGKILL is repeated until wait(2) finds no child.  If that fails, the slot is broken.
        """
        process_tree.send_signal(pids, signal.SIGTERM)
        process_tree.send_signal(pids, signal.SIGCONT)
        self._poll_until_childless(grace)
        deadline = time.monotonic() + _KILL_TIMEOUT
        while not self._is_childless and time.monotonic() < deadline:
            process_tree.signal_groups(self._freeze_processes(), signal.SIGKILL)
            self._poll_until_childless(0.05)
        self.is_broken = not self._is_childless

    # -- waiting ----------------------------------------------------------------

    def _poll_once(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for one event and handle it."""
        for fd, _ in self._poller.poll(max(timeout, 0.0) * 1000):
            if fd == self._wake_fd:
                self._drain_wake_pipe()
            elif fd == self.control.fileno():
                self._read_control()
            else:
                self._read_output(fd)
        self._reap_children()

    def _poll_until_childless(self, timeout: float) -> None:
        if self._is_childless:  # without a child there is no descendant that could be reparented
            return
        deadline = time.monotonic() + timeout
        self._reap_children()
        while not self._is_childless and time.monotonic() < deadline:
            self._poll_once(min(deadline - time.monotonic(), 0.05))

    def _drain_wake_pipe(self) -> None:
        try:
            os.read(self._wake_fd, 4096)
        except BlockingIOError:
            pass

    def _read_output(self, fd: int) -> int:
        """Read from a pipe once; return the number of bytes."""
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return 0
        run = self._running
        if run is not None and data:
            self._store_output(run, fd, data)
        return len(data)

    def _store_output(self, run: _RunningTest, fd: int, data: bytes) -> None:
        if fd == self._out_pipe.read:
            run.out.add(data)
            run.parser.feed(data)
        else:
            run.err.add(data)
        if self.setup.live_output:
            for line in self._line_splitter.feed(fd, data):
                self.control.sendall(frame_message(["line", run.test.id, line]))

    def _reap_children(self) -> None:
        run = self._running
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                self._is_childless = True
                return
            if pid == 0:
                self._is_childless = False
                return
            if run is not None and pid == run.pid:
                run.status, run.usage = status, usage

    def _drain_output(self) -> None:
        """Read what is left in the pipes once the processes of the test are gone.

        The number of bytes is that at the beginning, because a process that could not be killed
        may go on writing.  The number of reads is not limited: a test can make its pipe larger,
        or have each of its writes read separately (O_DIRECT).
        """
        full = {fd for fd, _ in self._output_poller.poll(0)}
        for pipe in {self._out_pipe, self._err_pipe}:
            remaining = pipe.count_unread() if pipe.read in full else 0
            while remaining > 0:
                count = self._read_output(pipe.read)
                if not count:
                    break
                remaining -= count
            pipe.restore_blocking()

    # -- control socket ---------------------------------------------------------

    def serve(self) -> None:
        """Run the tests that arrive until the slot is told to stop or is broken."""
        while not (self.is_stopping or self.is_broken):
            if self.queue:
                execution = self.run(self.queue.popleft())
                text = shorten_to_fit(execution, is_sendable)[1].encode("ascii")
                self.control.sendall(frame_encoded_message(b'["done",' + text + b"]"))
                self.is_broken = self.is_broken or not self._is_clean()
            else:
                self._running = None
                self._poll_once(3600)
        if self.is_broken:  # the queued tests have not been started
            self.control.sendall(frame_message(["retired"]))

    def _is_clean(self) -> bool:
        """Return whether the last test has changed nothing that the next one would inherit."""
        return self._inherited.is_unchanged() and self.scratch.is_intact()

    def _read_control(self) -> None:
        data = self.control.recv(1 << 16)
        if not data:
            self.is_stopping = True
            raise ControlClosed()
        for text in self._frame_decoder.feed(data):
            message: List[Any] = json.loads(text.decode("ascii"))
            if message[0] == "run":
                self.queue.extend(Test(*row) for row in message[1])
            elif message[0] in ("return", "recall"):
                self._return_tests(message[0] + "ed", message[1])
            elif message[0] == "stop":
                self.is_stopping = True

    def _return_tests(self, kind: str, numbers: List[int]) -> None:
        """Give back those of these tests that have not been started.

        ``kind`` is that of the message to send.  Does nothing if sending could block.
        """
        if not select.select([], [self.control], [], 0)[1]:
            return
        returned = [test.id for test in self.queue if test.id in numbers]
        self.queue = collections.deque(test for test in self.queue if test.id not in returned)
        self.control.sendall(frame_message([kind, returned]))

    def abandon(self) -> None:
        """Kill the running test without grace, since its result has no receiver."""
        self._reap_children()
        if not self._is_childless:
            process_tree.signal_groups(self._freeze_processes(), signal.SIGKILL)
            self._poller.unregister(self.control)
            self._kill_processes([], 0.0)


def _watch_children(poller: "select.poll") -> int:
    """Make SIGCHLD wake ``poller``; return the descriptor that becomes readable."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    poller.register(read, select.POLLIN)
    return read


def _disable_core_files() -> None:
    """Disable core files, which would land in the tree; a test may raise the soft limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def _start_session() -> None:
    """Prepare the process for running tests: own session, subreaper, umask, limits, signals."""
    try:
        os.setsid()
    except PermissionError:
        pass  # the process leads a session already
    process_tree.become_subreaper()
    os.umask(0o022)
    _disable_core_files()
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def main(argv: Sequence[str]) -> None:
    """Run a slot; ``argv``: its number, the descriptor of the control socket, its directory."""
    number, descriptor, base = int(argv[0]), int(argv[1]), argv[2]
    _start_session()
    # A program that inherited the socket could send messages in the slot's name, or hide the
    # death of its slot by keeping it open.
    os.set_inheritable(descriptor, False)
    with socket.socket(fileno=descriptor) as control:
        control.set_inheritable(False)
        _serve(number, control, base)


def _serve(number: int, control: socket.socket, base: str) -> None:
    """Run the tests that arrive on ``control``, and remove the slot's directory at the end."""
    setup = _read_setup(control)
    if setup is None:
        remove_if_last_slot(os.path.dirname(base))
        return
    slot = Slot(number, control, setup, base)
    try:
        slot.serve()
    except (ControlClosed, BrokenPipeError, ConnectionResetError):
        slot.abandon()
        os.chdir("/")
        slot.scratch.remove()
        remove_if_last_slot(os.path.dirname(base))
    finally:
        os.chdir("/")
        slot.scratch.remove()


def _read_setup(control: socket.socket) -> Optional[Setup]:
    """Return the Setup, the first message; None if the socket is closed before it arrives."""
    decoder = FrameDecoder()
    while True:
        data = control.recv(1)
        if not data:
            return None
        for text in decoder.feed(data):
            return setup_from_row(json.loads(text.decode("ascii")))


def setup_from_row(row: List[Any]) -> Setup:
    """Restore a Setup from its JSON row."""
    setup = Setup(*row)
    return setup._replace(
        pass_env=tuple(setup.pass_env),
        env=tuple((key, value) for key, value in setup.env),
        formats=tuple((name, source) for name, source in setup.formats),
    )
