"""The slots of a host and the tests that wait for one of them.

Responsible for the slot processes of one session, the order in which tests are assigned to them,
the resources of the host, the replacement of dead slots, and the artifacts of tests.  Must not
depend on channels, messages to a client, jobs or verdicts.  Everything runs in the main thread.
"""

import collections
import os
import select
import signal
import socket
import time
from typing import Any, Deque, Dict, Iterable, List, Optional, Protocol, Set, Tuple

from ..files.remove_tree import remove_tree
from ..processes import process_tree
from ..protocol.frames import encode_json
from ..protocol.model import Execution, Problem, Setup, Test
from . import resource_locks
from .artifacts import ArtifactPiece, read_pieces
from .slot_handle import SlotHandle
from .slot_messages import SlotMessage
from .slot_state import InheritedState

#: Maximum seconds of estimated work, and maximum number of tests, that a slot holds in advance.
_MAX_QUEUED_SECONDS = 0.05
_MAX_QUEUED_TESTS = 32
#: Seconds to wait for further results when all slots are busy with tiny tests.
_GATHER_DELAY = 0.012
#: Maximum seconds that slots get to end when they are told to stop.
_STOP_TIMEOUT = 3.0
#: Maximum seconds spent on killing the processes that a dead slot has left.
_ORPHAN_TIMEOUT = 5.0
#: Deaths of slots in a row, without a finished test, after which SlotStartError is raised.
_MAX_FAILED_STARTS = 3
#: Seconds between two checks of the busy slots.
_SLOT_CHECK_INTERVAL = 1.0
#: Seconds until the listener is told that tests wait for resources of other runs, and until it is
#: told again.
_WAITING_DELAY = 5.0
_WAITING_REPEAT_INTERVAL = 30.0
#: Bytes of artifacts that are sent before the slots are read again.
_MAX_ARTIFACT_BYTES_PER_TURN = 8 << 20
#: Cause of a SlotStartError if the new slot would inherit what a test has changed.
_CHANGED = "a test has changed the limits, priority or processors of the host's process"


class SlotStartError(Exception):
    """Slots die before they finish a test; the message names the cause."""


class SlotPoolListener(Protocol):
    """The owner of a pool, which is told what happens to its tests.

    All methods are called in the main thread, from :meth:`SlotPool.process`.
    """

    def on_running(self, test: Test, slot: int) -> None:
        """Handle that ``test`` has been started on slot number ``slot``."""

    def on_output(self, test: Test, line: str) -> None:
        """Handle one line that a running test has written."""

    def on_artifact(self, test: Test, piece: ArtifactPiece) -> None:
        """Handle the next piece of an artifact of ``test``."""

    def on_result(self, test: Test, row: bytes) -> None:
        """Handle the result of ``test``; its artifacts have been reported before.

        ``row`` is the JSON of its Execution as the slot has sent it: it has not been validated.
        """

    def on_returned(self, numbers: List[int]) -> None:
        """Handle that a slot has given these tests back after :meth:`SlotPool.withdraw`."""

    def on_waiting(self, resource: resource_locks.UnavailableResource) -> None:
        """Handle that no test can be started because another run holds a resource."""

    def flush(self) -> None:
        """Handle together all reports since the last call."""


class _ArtifactUpload:
    """The artifacts of one test that are being sent to the listener."""

    def __init__(self, test: Test, folder: str, files: List[List[Any]]) -> None:
        self.test = test
        self.folder = folder
        self.pieces = read_pieces(folder, [(path, size) for path, size in files])
        #: The result that follows the last piece; empty until the slot has sent it.
        self.row = b""


class _WaitingTests:
    """Tests that are not assigned to a slot yet, in the order in which they are to start."""

    def __init__(self) -> None:
        #: Tests that need nothing but a slot, and tests that need a lock or are serial.
        self.plain: Deque[Test] = collections.deque()
        self.constrained: Deque[Test] = collections.deque()

    def _queue_of(self, test: Test) -> Deque[Test]:
        return self.constrained if _is_constrained(test) else self.plain

    def add(self, tests: Iterable[Test]) -> None:
        """Append tests to the queue."""
        for test in tests:
            self._queue_of(test).append(test)

    def put_first(self, test: Test) -> None:
        """Put a test at the front of the queue."""
        self._queue_of(test).appendleft(test)

    def withdraw(self, numbers: Set[int]) -> List[int]:
        """Remove the tests with these numbers; return the numbers of those that were queued."""
        withdrawn = [test.id for test in (*self.plain, *self.constrained) if test.id in numbers]
        self.plain = collections.deque(t for t in self.plain if t.id not in numbers)
        self.constrained = collections.deque(t for t in self.constrained if t.id not in numbers)
        return withdrawn

    def next_batch(self, seconds: float, limit: int) -> List[Test]:
        """Remove and return at least one and at most ``limit`` plain tests for one slot.

        Their estimates sum up to at most ``seconds``.
        """
        batch = [self.plain.popleft()]
        while self.plain and len(batch) < limit:
            estimate = self.plain[0].estimate
            seconds -= batch[-1].estimate if batch[-1].estimate is not None else 1.0
            if estimate is None or seconds < estimate:
                break
            batch.append(self.plain.popleft())
        return batch


class SlotPool:
    """The slots of one session and the tests that are to run on them."""

    def __init__(
        self, listener: SlotPoolListener, folder: str, wake_fd: int, forks: bool = False
    ) -> None:
        """Create a pool whose slots have their scratch directories in ``folder``.

        :meth:`wait` also returns when ``wake_fd`` is readable; the owner drains it.  With
        ``forks`` the slots are forks of this process; if it has threads, only where
        ``is_fork_safe``.
        """
        self._listener = listener
        self._folder = folder
        self._forks = forks
        self._setup = Setup("/")
        self._resources = resource_locks.HostResources()
        #: The slots by the descriptors of their sockets.
        self._slots: Dict[int, SlotHandle] = {}
        self._waiting = _WaitingTests()
        #: Tests were added since the last assignment.
        self._has_new_tests = False
        self._uploads: Dict[int, _ArtifactUpload] = {}
        self._is_paused = False
        self._failed_starts = 0
        self._next_check = 0.0
        self._stuck_since = self._next_report = 0.0
        self._poller = select.poll()
        self._poller.register(wake_fd, select.POLLIN)
        self._inherited = InheritedState()

    # -- for its owner ------------------------------------------------------------

    def start(self, setup: Setup, resources: resource_locks.HostResources) -> None:
        """Start ``setup.slots`` slots; ``resources`` are closed by :meth:`close`."""
        self._setup = setup
        self._resources = resources
        for number in range(setup.slots):
            self._start_slot(number)

    def add(self, tests: Iterable[Test]) -> None:
        """Append tests to the waiting ones."""
        self._waiting.add(tests)
        self._has_new_tests = True

    def withdraw(self, numbers: Iterable[int]) -> List[int]:
        """Take back tests that have not been started.

        Return the numbers of those that were waiting in the pool.  Slots are asked to return the
        others that they have not started, and ``on_returned`` names what they return.
        """
        wanted = set(numbers)
        withdrawn = self._waiting.withdraw(wanted)
        for slot in self._slots.values():
            slot.request_return([test.id for test in list(slot.assigned)[1:] if test.id in wanted])
        return withdrawn

    def pause(self) -> None:
        """Stop reading slots and sending artifacts; messages stay in the slots' sockets."""
        self._is_paused = True
        for slot in self._slots.values():
            self._poller.modify(slot.socket, 0)

    def resume(self) -> None:
        """Continue after :meth:`pause`."""
        self._is_paused = False
        for slot in self._slots.values():
            self._poller.modify(slot.socket, select.POLLIN)
            slot.active_since = time.monotonic()  # its messages may be old

    def wait(self) -> List[Tuple[int, int]]:
        """Wait until there is something to do; return the events for :meth:`process`."""
        return self._poller.poll(self._timeout())

    def process(self, events: List[Tuple[int, int]]) -> None:
        """Read the slots that ``events`` name, report to the listener, assign waiting tests.

        Raises SlotStartError if slots cannot be started.
        """
        for fd, event in events:
            if fd in self._slots and (not self._is_paused or event & select.POLLHUP):
                self._read_slot(fd)
        self._check_slots()
        self._assign_tests()
        self._send_artifacts()
        self._listener.flush()
        if self._is_busy_with_tiny_tests():
            # Reporting each result separately would cost a wake-up at both ends.
            time.sleep(_GATHER_DELAY)

    def close(self) -> None:
        """Stop all slots and their running tests, and release the host's resources."""
        for slot in self._slots.values():
            slot.request_stop()
        deadline = time.monotonic() + _STOP_TIMEOUT
        for slot in self._slots.values():
            _drain_until_closed(slot.socket, deadline)
            if _is_open(slot.socket):
                slot.process.kill()
            slot.wait_until_dead()
        _kill_orphans(self._slots.values())
        for slot in self._slots.values():
            slot.reap()
        self._slots = {}
        self._resources.close()
        self._inherited.close()

    def _timeout(self) -> Optional[float]:
        """Return the milliseconds until there is something to do without an event, or None."""
        if self._has_new_tests or self._has_artifacts_to_send():
            return 0
        if self._resources.unavailable:
            return resource_locks.POLL_INTERVAL * 1000
        return _SLOT_CHECK_INTERVAL * 1000 if self._busy_slots() else None

    # -- assigning tests to slots -------------------------------------------------

    def _assign_tests(self) -> None:
        """Assign waiting tests to the least loaded slots, as far as resources are available."""
        self._has_new_tests = False
        if self._assign_constrained():
            while self._waiting.plain:
                slots = self._slots_with_room()
                number = self._resources.acquire_slot(list(slots))
                if number is None:
                    break
                slot = slots[number]
                share = (len(self._waiting.plain) - 1) // len(self._slots)
                limit = min(_MAX_QUEUED_TESTS - len(slot.assigned), share)
                slot.assign(self._waiting.next_batch(_MAX_QUEUED_SECONDS - slot.load, limit))
        for slot in self._slots.values():
            if len(slot.assigned) > 1 and self._resources.is_slot_wanted(slot.number):
                slot.request_recall()
        self._resources.finish_round(self._busy_slots())
        self._report_waiting()

    def _assign_constrained(self) -> bool:
        """Assign tests that need more than a slot.

        Return False if a serial test is next and cannot start yet: then nothing else may start.
        """
        for test in list(self._waiting.constrained):
            idle = {slot.number: slot for slot in self._slots.values() if not slot.assigned}
            numbers = [] if test.serial and len(idle) < len(self._slots) else list(idle)
            number = self._resources.acquire_for_test(test.id, numbers, test.locks, test.serial)
            if number is not None:
                self._waiting.constrained.remove(test)
                idle[number].assign([test])
            elif test.serial:
                return False
        return True

    def _slots_with_room(self) -> Dict[int, SlotHandle]:
        """Return the slots that can take tests by their numbers, the least loaded first."""
        rated = [(len(slot.assigned) > 0, slot.load, slot) for slot in self._slots.values()]
        rated.sort(key=lambda entry: entry[:2])
        return {
            slot.number: slot
            for busy, load, slot in rated
            if not busy or (load < _MAX_QUEUED_SECONDS and len(slot.assigned) < _MAX_QUEUED_TESTS)
        }

    def _report_waiting(self) -> None:
        """Tell the listener if the run makes no progress because of another run."""
        unavailable, now = self._resources.unavailable, time.monotonic()
        if unavailable is None or (unavailable.kind == resource_locks.SLOTS and self._busy_slots()):
            self._stuck_since = 0.0
            return
        self._stuck_since = self._stuck_since or now
        if now >= max(self._stuck_since + _WAITING_DELAY, self._next_report):
            self._next_report = now + _WAITING_REPEAT_INTERVAL
            self._listener.on_waiting(unavailable)

    def _requeue(self, tests: Iterable[Test]) -> None:
        """Put tests that have not been started at the front of the queue."""
        for test in reversed(list(tests)):
            self._release_resources(test)
            self._waiting.put_first(test)

    def _release_resources(self, test: Test) -> None:
        if _is_constrained(test):
            self._resources.release_test(test.id)

    def _busy_slots(self) -> List[int]:
        return [slot.number for slot in self._slots.values() if slot.assigned]

    def _is_busy_with_tiny_tests(self) -> bool:
        return bool(self._slots) and all(len(slot.assigned) > 1 for slot in self._slots.values())

    # -- slots --------------------------------------------------------------------

    def _start_slot(self, number: int) -> None:
        base = os.path.join(self._folder, str(number))
        slot = SlotHandle(number, self._setup, base, self._forks)
        self._slots[slot.socket.fileno()] = slot
        self._poller.register(slot.socket, 0 if self._is_paused else select.POLLIN)

    def _check_slots(self) -> None:
        """Kill slots that hang, except while the pool is paused and does not read them."""
        now = time.monotonic()
        if now >= self._next_check and not self._is_paused:
            self._next_check = now + _SLOT_CHECK_INTERVAL
            for slot in self._slots.values():
                slot.check_liveness(now)

    def _read_slot(self, fd: int) -> None:
        slot = self._slots[fd]
        messages, is_alive = slot.read()
        for message in messages:
            self._handle_message(slot, message)
        self._requeue(slot.recalled)
        slot.recalled = []
        if not is_alive:
            self._replace_slot(fd, slot)

    def _handle_message(self, slot: SlotHandle, message: SlotMessage) -> None:
        if message.kind == "done":
            self._failed_starts = 0
            self._handle_result(message.test, message.row)
        elif message.kind == "line":
            self._listener.on_output(message.test, message.values[1])
        elif message.kind == "artifacts":
            _, folder, files = message.values
            self._uploads[message.test.id] = _ArtifactUpload(message.test, folder, files)
        elif message.kind == "returned":
            self._listener.on_returned(message.values[0])
        else:
            self._listener.on_running(message.test, slot.number)

    def _handle_result(self, test: Test, row: bytes) -> None:
        """Report a result, after the artifacts of its test."""
        self._release_resources(test)
        upload = self._uploads.get(test.id)
        if upload is None:
            self._listener.on_result(test, row)
        else:
            upload.row = row

    def _replace_slot(self, fd: int, slot: SlotHandle) -> None:
        """Start a new slot for one that has died.

        Its running test gets a result that says so; its other tests are queued again.
        """
        self._poller.unregister(fd)
        slot.wait_until_dead()
        _kill_orphans(self._slots.values())
        del self._slots[fd]
        cause = slot.reap()
        if slot.has_retired:
            self._requeue(slot.assigned)
        elif slot.assigned:
            self._fail_running_test(slot, cause)
        elif not slot.finished_count:
            self._failed_starts += 1
            if self._failed_starts >= _MAX_FAILED_STARTS:
                raise SlotStartError("a slot cannot be started: %s" % cause)
        if not self._inherited.restore():
            raise SlotStartError(_CHANGED)
        self._start_slot(slot.number)

    def _fail_running_test(self, slot: SlotHandle, cause: str) -> None:
        """Report the test that was running in a slot that has died."""
        test = slot.assigned.popleft()
        self._uploads.pop(test.id, None)
        self._release_resources(test)
        self._requeue(slot.assigned)
        execution = Execution(
            test.id, test.attempt, slot.number, time.time(),
            problem=Problem.SLOT_DIED, detail=cause,
        )  # fmt: skip
        self._listener.on_result(test, encode_json(execution))

    # -- artifacts ----------------------------------------------------------------

    def _has_artifacts_to_send(self) -> bool:
        return not self._is_paused and any(upload.row for upload in self._uploads.values())

    def _send_artifacts(self) -> None:
        """Send pieces of the artifacts of ended tests, until the owner pauses the pool."""
        remaining = _MAX_ARTIFACT_BYTES_PER_TURN
        for number, upload in list(self._uploads.items()):
            while upload.row and remaining > 0 and not self._is_paused:
                piece = next(upload.pieces, None)
                if piece is None:
                    del self._uploads[number]
                    remove_tree(upload.folder)
                    self._listener.on_result(upload.test, upload.row)
                    break
                remaining -= len(piece.data)
                self._listener.on_artifact(upload.test, piece)


def _is_constrained(test: Test) -> bool:
    """Return whether a test needs a lock or must run alone."""
    return bool(test.locks) or test.serial


def _kill_orphans(slots: Iterable[SlotHandle]) -> None:
    """Kill the processes that dead slots have left, which are children of this process now."""
    pids = [slot.process.pid for slot in slots]
    deadline = time.monotonic() + _ORPHAN_TIMEOUT
    while time.monotonic() < deadline:
        lister = process_tree.DescendantLister(os.getpid(), unrelated_pids=pids)
        orphans = process_tree.freeze(lister, lambda: _reap_zombies(pids))
        if not orphans:
            return
        process_tree.signal_groups(orphans, signal.SIGKILL)
        _reap_processes(orphans)


def _drain_until_closed(connection: socket.socket, deadline: float) -> None:
    """Discard incoming data until the other end is closed, or until ``deadline``."""
    connection.settimeout(max(deadline - time.monotonic(), 0.01))
    try:
        while connection.recv(1 << 18):
            connection.settimeout(max(deadline - time.monotonic(), 0.01))
    except OSError:
        pass


def _is_open(connection: socket.socket) -> bool:
    connection.settimeout(0.0)
    try:
        return bool(connection.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _reap_processes(pids: List[int]) -> None:
    for pid in pids:
        for _ in range(100):
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    break
            except ChildProcessError:
                break
            time.sleep(0.005)


def _reap_zombies(slots: List[int]) -> None:
    """Reap children that have exited, except ``slots``, which ``Popen`` reaps."""
    for pid in process_tree.list_children(os.getpid()):
        if pid in slots:
            continue
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass
