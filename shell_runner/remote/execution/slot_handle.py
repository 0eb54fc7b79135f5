"""The slot processes of a host, as the slot pool sees them.

Responsible for starting them, for the tests that are assigned to each and have no result yet,
and for the cause of death of a slot.  Must not depend on channels or trees of files.
"""

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from collections import deque
from typing import Deque, List, Optional, Set, Tuple, Union

from .. import command_lines
from ..processes import process_tree
from ..protocol import verdict
from ..protocol.frames import FrameDecoder, frame_message
from ..protocol.model import Setup, Test
from . import slot
from .slot_messages import NO_TEST, InvalidMessageError, SlotMessage, parse_slot_message

#: Seconds after the end of timeout and grace at which a slot is killed: a slot that is stopped
#: (SIGSTOP), one that uses no CPU time, and one that does (it may have to remove millions of
#: files).
_STOPPED_SLOT_TIMEOUT = 2.0
_IDLE_SLOT_TIMEOUT = 10.0
_BUSY_SLOT_TIMEOUT = 60.0
#: Maximum seconds to wait for the end of a slot that has been killed or has closed its socket.
_EXIT_TIMEOUT = 5.0


def _spawn_slot(arguments: Tuple[str, ...]) -> "subprocess.Popen[bytes]":
    """Start a slot in a new interpreter; the second argument is the socket that it inherits."""
    return subprocess.Popen(
        command_lines.build_command("slot", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[int(arguments[1])],
    )


class ForkedProcess:
    """A slot that is a fork of this process, which starts no interpreter and loads no module.

    Implements the methods of ``subprocess.Popen`` that a slot needs.  The child has one thread; of
    the locks that others may have held, those of Python and glibc are made free again, and the
    slot uses no other.
    """

    def __init__(self, arguments: Tuple[str, ...], folder: str) -> None:
        _flush_stderr()
        self._status: Optional[int] = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, about threads
            self.pid = os.fork()
        if self.pid == 0:
            _run_slot_and_exit(arguments, folder)

    def wait(self, timeout: float) -> int:
        """Return the exit status, or the negative signal number.

        Raises ``subprocess.TimeoutExpired`` after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while self._status is None:
            self._status = self._poll_status()
            if self._status is None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("slot", timeout)
            if self._status is None:
                time.sleep(0.001)
        return self._status

    def _poll_status(self) -> Optional[int]:
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return 0  # it has been reaped elsewhere
        if pid == 0:
            return None
        return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has been reaped and its id may have been reused."""
        if self._status is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _run_slot_and_exit(arguments: Tuple[str, ...], folder: str) -> None:
    """Run the slot in the child process and exit; never returns.

    Only the memory of the parent remains: other open files are closed.
    """
    status = 1
    try:
        # A finalizer of the parent's objects would close descriptors that the slot has reused.
        gc.freeze()
        _close_other_descriptors(int(arguments[1]))
        _silence_standard_streams()
        _limit_imports()
        # /proc shows the environment of the parent for a fork, so the slots of an attempt are
        # recognized by their working directory.
        with contextlib.suppress(OSError):  # each test changes it, and says why if it cannot
            os.chdir(folder)
        slot.main(arguments)
        status = 0
    except BaseException:
        with contextlib.suppress(Exception):
            traceback.print_exc()
    finally:
        _flush_stderr()
        os._exit(status)


def _flush_stderr() -> None:
    """Write what is buffered, unless standard error is closed, or nobody can take it."""
    with contextlib.suppress(Exception):
        sys.stderr.flush()


def is_fork_safe() -> bool:
    """Return whether a process with threads may be forked to start a slot.

    The child allocates memory, which only glibc allows then.
    """
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, OSError, ValueError):
        return False


def _silence_standard_streams() -> None:
    """Connect standard input and output to /dev/null, as for a slot in a new interpreter."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def _limit_imports() -> None:
    """Let the slot import only what a new interpreter with ``-I -S`` could: no file of the tree."""
    package = sys.modules[__name__.split(".", 1)[0]].__file__ or ""
    kept = [
        os.path.dirname(os.path.dirname(os.path.abspath(package))),
        os.path.dirname(os.__file__),
    ]
    version = sys.version_info[:2]
    names = ["python%d.%d" % version, "lib-dynload", "python%d%d.zip" % version]
    sys.path[:] = [path for path in sys.path if path in kept or os.path.basename(path) in names]


def _close_other_descriptors(kept: int) -> None:
    """Close all descriptors but the standard ones and ``kept``; programs must not inherit them."""
    try:
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        descriptors = list(range(os.sysconf("SC_OPEN_MAX")))
    for descriptor in descriptors:
        if descriptor > 2 and descriptor != kept:
            with contextlib.suppress(OSError):
                os.close(descriptor)


class SlotHandle:
    """One slot process and the tests that are assigned to it."""

    def __init__(self, number: int, setup: Setup, base: str, forked: bool = False) -> None:
        """Start the slot with the scratch directory ``base``.

        With ``forked`` the slot is a fork of this process; if it has threads, only where
        ``is_fork_safe``.
        """
        self.number = number
        self.assigned: Deque[Test] = deque()
        self.finished_count = 0
        #: Monotonic time at which the slot last got its current test or sent a message.
        self.active_since = 0.0
        #: Tests that the slot has given back after ``request_recall``.
        self.recalled: List[Test] = []
        #: Numbers of tests that the slot was asked to give back.
        self._requested: Set[int] = set()
        self._is_recall_pending = False
        #: The slot ended by itself, between two tests.
        self.has_retired = False
        #: The current test was reported as running.
        self._is_running_reported = False
        self._grace = setup.grace
        self._kill_reason = ""
        self._session_folder = os.path.dirname(base)
        #: CPU time of the slot in clock ticks, and the monotonic time at which it last changed.
        self._cpu_ticks = -1
        self._idle_since = 0.0
        self._frame_decoder = FrameDecoder()
        self.socket, slot_socket = socket.socketpair()
        with slot_socket:
            # The arguments of ``slot.main``.
            arguments = (str(number), str(slot_socket.fileno()), base)
            self.process: "Union[ForkedProcess, subprocess.Popen[bytes]]" = (
                ForkedProcess(arguments, setup.root) if forked else _spawn_slot(arguments)
            )
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # see ``assign``
            self.socket.sendall(frame_message(setup))

    @property
    def load(self) -> float:
        """The estimated seconds of work assigned to the slot; 1 second for an unknown test."""
        return sum(1.0 if test.estimate is None else test.estimate for test in self.assigned)

    def assign(self, tests: List[Test]) -> None:
        """Assign tests.  The death of the slot is not reported here but by ``read``."""
        if not self.assigned:
            self.active_since = time.monotonic()
        self.assigned.extend(tests)
        try:
            self.socket.sendall(frame_message(["run", tests]))
        except (BrokenPipeError, ConnectionResetError):
            pass

    def request_return(self, numbers: List[int]) -> None:
        """Ask the slot to return those of these tests that it has not started.

        Its ``returned`` message, which is for the controller, names them.
        """
        if numbers:
            self._send_request("return", numbers)

    def request_recall(self) -> None:
        """Ask the slot for all tests that it has not started; ``recalled`` gets them."""
        if len(self.assigned) > 1 and not self._is_recall_pending:
            self._is_recall_pending = True
            self._send_request("recall", [test.id for test in list(self.assigned)[1:]])

    def _send_request(self, name: str, numbers: List[int]) -> None:
        self._requested.update(numbers)
        try:
            self.socket.sendall(frame_message([name, numbers]))
        except OSError:
            pass  # ``read`` reports the death of the slot

    def request_stop(self) -> None:
        """Ask the slot to end its running test and itself."""
        try:
            self.socket.sendall(frame_message(["stop"]))
        except OSError:
            pass

    def read(self) -> Tuple[List[SlotMessage], bool]:
        """Return the messages of the slot, and whether it is still alive.

        A slot that sends anything else is killed: its test has written to its socket.
        """
        messages: List[SlotMessage] = []
        try:
            data = self.socket.recv(1 << 18)
        except (ConnectionResetError, BrokenPipeError):
            data = b""
        try:
            for text in self._frame_decoder.feed(data):
                message = self._handle_message(text)
                if message is not None:
                    messages.append(message)
        except ValueError as error:
            self._kill_reason = "it sent an invalid message (%s)" % error
            self.process.kill()
            return messages, False
        return messages, bool(data)

    def _handle_message(self, text: bytes) -> Optional[SlotMessage]:
        """Return a message for the pool; None if there is nothing left to do about it."""
        self.active_since = time.monotonic()
        self._is_recall_pending = False
        running = self.assigned[0] if self.assigned else None
        message = parse_slot_message(text, running, self._session_folder)
        self._check_order(message.kind)
        if message.kind == "done":
            self.finished_count += 1
            self._is_running_reported = False
            self.assigned.popleft()
        elif message.kind == "retired":
            self.has_retired = True
            return None
        elif message.kind == "running":
            self._is_running_reported = True
        elif message.kind in ("returned", "recalled"):
            return self._remove_returned(message.kind, message.values[0])
        return message

    def _check_order(self, kind: str) -> None:
        """Raise InvalidMessageError for a message that no slot sends at this moment."""
        if self.has_retired:
            raise InvalidMessageError("a message after its last one")
        if kind == "retired" and (self._is_running_reported or not self.finished_count):
            raise InvalidMessageError("it ends before its test")
        if kind == "running" and self._is_running_reported:
            raise InvalidMessageError("its test starts twice")

    def _remove_returned(self, name: str, numbers: List[int]) -> Optional[SlotMessage]:
        """Remove tests that the slot has given back.

        Recalled tests stay on this host; returned ones are reported to the controller.  Raises
        InvalidMessageError for a test that was not requested: it may be running.
        """
        if not self._requested.issuperset(numbers):
            raise InvalidMessageError("a test that it was not asked for")
        returned = [test for test in self.assigned if test.id in numbers]
        self.assigned = deque(test for test in self.assigned if test.id not in numbers)
        if name == "returned" and returned:
            return SlotMessage(name, NO_TEST, [numbers])
        if name == "recalled":
            self.recalled += returned
        return None

    def check_liveness(self, now: float) -> None:
        """Continue a slot that its test has stopped; kill one that no longer responds."""
        if not self.assigned:
            return
        delay = now - self.active_since - self.assigned[0].timeout - self._grace
        is_stopped = process_tree.is_stopped(self.process.pid)
        if delay > self._kill_delay(is_stopped, now):
            self._kill_reason = "stopped from outside" if is_stopped else "no answer from the slot"
            self._kill_reason += ", %.0f s after the deadline" % delay
            self.process.kill()
        elif is_stopped:
            self.process.send_signal(signal.SIGCONT)

    def _kill_delay(self, is_stopped: bool, now: float) -> float:
        """Return the seconds after the deadline at which the slot is killed."""
        if is_stopped:
            return _STOPPED_SLOT_TIMEOUT
        ticks = process_tree.read_cpu_ticks(self.process.pid)
        if ticks != self._cpu_ticks:
            self._cpu_ticks, self._idle_since = ticks, now
        is_idle = now - self._idle_since >= _IDLE_SLOT_TIMEOUT
        return _IDLE_SLOT_TIMEOUT if is_idle else _BUSY_SLOT_TIMEOUT

    def wait_until_dead(self) -> None:
        """Wait until the process is dead.

        The socket closes a moment before the slot's children become children of this process.
        """
        deadline = time.monotonic() + _EXIT_TIMEOUT
        while not process_tree.is_dead(self.process.pid) and time.monotonic() < deadline:
            time.sleep(0.001)

    def reap(self) -> str:
        """Reap a slot that has died and return the cause of its death for the report.

        Its test's processes are dead already: a slot under a debugger stays until that is gone.
        """
        self.socket.close()
        try:
            status = self.process.wait(_EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            return "cannot be killed"
        if self._kill_reason:
            self.has_retired = False
            return self._kill_reason
        if status < 0:  # perhaps its test has written its last message
            self.has_retired = False
            return "killed by %s" % verdict.format_signal(-status)
        return verdict.format_exit_status(status)
