"""The slots of a host and the tests that wait for one of them.

Owns the slot processes of one session, the order in which tests are given to them, the resources
of the host, the replacement of dead slots and the artifacts that a test has left.  Must not know
channels, messages to a client, jobs or verdicts.  Everything happens in the main thread.
"""

import collections
import os
import select
import signal
import socket
import time
from typing import Any, Deque, Dict, Iterable, List, Optional, Protocol, Set, Tuple

from ..files import remove_tree as place
from ..processes import process_tree
from ..protocol.frames import encode
from ..protocol.model import Execution, Problem, Setup, Test
from . import host_resources
from .artifacts import Piece, pieces
from .slot_process import Answer, SlotProcess

#: Seconds of known work that a slot may hold in advance, and maximum number of tests.
_MAX_QUEUED_SECONDS = 0.05
_MAX_QUEUED_TESTS = 32
#: Seconds to wait for further results when all slots are busy with tiny tests.
_GATHER_DELAY = 0.012
#: Seconds that slots may take to end when they are told to stop.
_STOP_TIMEOUT = 3.0
#: Seconds until the processes that a dead slot has left are no longer searched.
_ORPHAN_TIMEOUT = 5.0
#: Deaths in a row, without one finished test, after which slots count as impossible.
_MAX_FAILED_STARTS = 3
#: Seconds between two checks of the busy slots.
_SLOT_CHECK_INTERVAL = 1.0
#: Seconds until the listener hears that tests wait for what other runs hold, and until it hears
#: so again.
_WAITING_DELAY = 5.0
_WAITING_REPEAT_INTERVAL = 30.0
#: Bytes of artifacts that are passed on before the slots are read again.
_MAX_ARTIFACT_BYTES_PER_TURN = 8 << 20


class SlotStartError(Exception):
    """Slots die before they have finished a test; the message says how."""


class SlotPoolListener(Protocol):
    """The owner of a pool, which hears what happens to its tests.

    All methods are called in the main thread, from :meth:`SlotPool.process`.
    """

    def on_running(self, test: Test, slot: int) -> None:
        """Take note that ``test`` has been started on slot number ``slot``."""

    def on_output(self, test: Test, line: str) -> None:
        """Take one line that a running test has written."""

    def on_artifact(self, test: Test, piece: Piece) -> None:
        """Take the next piece of a file that ``test`` has left."""

    def on_result(self, test: Test, row: bytes) -> None:
        """Take the result of ``test``; its artifacts have been passed on before.

        ``row`` is the JSON of its Execution as the slot has sent it: it has not been validated.
        """

    def on_returned(self, numbers: List[int]) -> None:
        """Take note that a slot has given these tests back after :meth:`SlotPool.withdraw`."""

    def on_waiting(self, refusal: host_resources.Refusal) -> None:
        """Take note that no test can be started because of what other runs hold."""

    def flush(self) -> None:
        """Handle together what has been reported since the last call."""


class _Upload:
    """The artifacts of one test that are being passed on."""

    def __init__(self, test: Test, folder: str, files: List[List[Any]]) -> None:
        self.test = test
        self.folder = folder
        self.pieces = pieces(folder, [(path, size) for path, size in files])
        #: The result that follows the last piece; empty until the slot has sent it.
        self.row = b""


class _WaitingTests:
    """Tests that have not been given to a slot, in the order in which they are to start."""

    def __init__(self) -> None:
        #: Those that need nothing but a slot, and those that need more of the host.
        self.plain: Deque[Test] = collections.deque()
        self.constrained: Deque[Test] = collections.deque()

    def _queue_of(self, test: Test) -> Deque[Test]:
        return self.constrained if _is_constrained(test) else self.plain

    def add(self, tests: Iterable[Test]) -> None:
        """Queue tests behind the others."""
        for test in tests:
            self._queue_of(test).append(test)

    def put_first(self, test: Test) -> None:
        """Queue a test in front of the others."""
        self._queue_of(test).appendleft(test)

    def withdraw(self, numbers: Set[int]) -> List[int]:
        """Remove the tests with these numbers; return the numbers of those that there were."""
        withdrawn = [test.id for test in (*self.plain, *self.constrained) if test.id in numbers]
        self.plain = collections.deque(t for t in self.plain if t.id not in numbers)
        self.constrained = collections.deque(t for t in self.constrained if t.id not in numbers)
        return withdrawn

    def next_batch(self, seconds: float, limit: int) -> List[Test]:
        """Remove at most ``limit`` plain tests that take ``seconds`` in all, but at least one."""
        batch = [self.plain.popleft()]
        while self.plain and len(batch) < limit:
            estimate = self.plain[0].estimate
            seconds -= batch[-1].estimate if batch[-1].estimate is not None else 1.0
            if estimate is None or seconds < estimate:
                break
            batch.append(self.plain.popleft())
        return batch


class SlotPool:
    """The slots of one session, and the tests that have been given to it."""

    def __init__(
        self, listener: SlotPoolListener, folder: str, wake_fd: int, forks: bool = False
    ) -> None:
        """``folder`` is for the directories of the slots.

        :meth:`wait` also ends when ``wake_fd`` can be read; its owner drains it.  With ``forks``
        slots are forks of this process, which then must have no threads.
        """
        self._listener = listener
        self._folder = folder
        self._forks = forks
        self._setup = Setup("/")
        self._resources = host_resources.Capacity()
        #: By the descriptors of their sockets.
        self._slots: Dict[int, SlotProcess] = {}
        self._waiting = _WaitingTests()
        #: Tests have come that have not been offered to the slots.
        self._has_new_tests = False
        self._uploads: Dict[int, _Upload] = {}
        self._is_paused = False
        self._failed_starts = 0
        self._next_check = 0.0
        self._stuck_since = self._next_report = 0.0
        self._poller = select.poll()
        self._poller.register(wake_fd, select.POLLIN)

    # -- for its owner ------------------------------------------------------------

    def start(self, setup: Setup, resources: host_resources.Capacity) -> None:
        """Start ``setup.slots`` slots; ``resources`` are closed by :meth:`close`."""
        self._setup = setup
        self._resources = resources
        for number in range(setup.slots):
            self._start_slot(number)

    def add(self, tests: Iterable[Test]) -> None:
        """Queue tests behind those that wait."""
        self._waiting.add(tests)
        self._has_new_tests = True

    def withdraw(self, numbers: Iterable[int]) -> List[int]:
        """Take back tests that have not been started.

        Return the numbers of those that waited here.  Slots are asked for the others that they
        have not started, and ``on_returned`` names what they gave back.
        """
        wanted = set(numbers)
        withdrawn = self._waiting.withdraw(wanted)
        for slot in self._slots.values():
            slot.take_back([test.id for test in list(slot.given)[1:] if test.id in wanted])
        return withdrawn

    def pause(self) -> None:
        """Read no slot and pass on no artifact: the slots wait, and their answers stay there."""
        self._is_paused = True
        for slot in self._slots.values():
            self._poller.modify(slot.socket, 0)

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._is_paused = False
        for slot in self._slots.values():
            self._poller.modify(slot.socket, select.POLLIN)
            slot.since = time.monotonic()  # it may have said long ago that it is done

    def wait(self) -> List[Tuple[int, int]]:
        """Wait until there is something to do; return the events for :meth:`process`."""
        return self._poller.poll(self._timeout())

    def process(self, events: List[Tuple[int, int]]) -> None:
        """Read the slots that ``events`` name, report to the listener, give out waiting tests.

        Raises SlotStartError if slots cannot be started.
        """
        for fd, event in events:
            if fd in self._slots and (not self._is_paused or event & select.POLLHUP):
                self._read_slot(fd)
        self._check_slots()
        self._assign_tests()
        self._pass_on_artifacts()
        self._listener.flush()
        if self._all_busy_with_tiny_tests():
            # Reporting each result alone would cost a wake-up on both sides.
            time.sleep(_GATHER_DELAY)

    def close(self) -> None:
        """End all slots and what runs in them, and free the host's resources."""
        for slot in self._slots.values():
            slot.stop()
        deadline = time.monotonic() + _STOP_TIMEOUT
        for slot in self._slots.values():
            _await_end(slot.socket, deadline)
            if _is_alive(slot.socket):
                slot.process.kill()
            slot.await_death()
        _kill_orphans(self._slots.values())
        for slot in self._slots.values():
            slot.bury()
        self._slots = {}
        self._resources.close()

    def _timeout(self) -> Optional[float]:
        """Return the milliseconds until there is something to do even if nothing happens."""
        if self._has_new_tests or self._has_artifacts():
            return 0
        if self._resources.refusal:
            return host_resources.LOOK * 1000
        return _SLOT_CHECK_INTERVAL * 1000 if self._busy() else None

    # -- giving tests to slots ----------------------------------------------------

    def _assign_tests(self) -> None:
        """Give waiting tests to the slots with the least to do, as the host has room."""
        self._has_new_tests = False
        if self._assign_constrained():
            while self._waiting.plain:
                slots = self._slots_with_room()
                number = self._resources.slot(list(slots))
                if number is None:
                    break
                slot = slots[number]
                share = (len(self._waiting.plain) - 1) // len(self._slots)
                limit = min(_MAX_QUEUED_TESTS - len(slot.given), share)
                slot.give(self._waiting.next_batch(_MAX_QUEUED_SECONDS - slot.load, limit))
        for slot in self._slots.values():
            if len(slot.given) > 1 and self._resources.is_wanted(slot.number):
                slot.recall()
        self._resources.settle(self._busy())
        self._report_waiting()

    def _assign_constrained(self) -> bool:
        """Start tests that need more than a slot.

        Return False if the next of them must run alone and cannot yet: nothing else may start.
        """
        for test in list(self._waiting.constrained):
            idle = {slot.number: slot for slot in self._slots.values() if not slot.given}
            numbers = [] if test.serial and len(idle) < len(self._slots) else list(idle)
            number = self._resources.start(test.id, numbers, test.locks, test.serial)
            if number is not None:
                self._waiting.constrained.remove(test)
                idle[number].give([test])
            elif test.serial:
                return False
        return True

    def _slots_with_room(self) -> Dict[int, SlotProcess]:
        """Return the slots that can take tests, those with the least to do first."""
        rated = [(len(slot.given) > 0, slot.load, slot) for slot in self._slots.values()]
        rated.sort(key=lambda row: row[:2])
        return {
            slot.number: slot
            for busy, load, slot in rated
            if not busy or (load < _MAX_QUEUED_SECONDS and len(slot.given) < _MAX_QUEUED_TESTS)
        }

    def _report_waiting(self) -> None:
        """Report a run that does not progress because of what another run holds."""
        refusal, now = self._resources.refusal, time.monotonic()
        if refusal is None or (refusal.kind == host_resources.SLOTS and self._busy()):
            self._stuck_since = 0.0
            return
        self._stuck_since = self._stuck_since or now
        if now >= max(self._stuck_since + _WAITING_DELAY, self._next_report):
            self._next_report = now + _WAITING_REPEAT_INTERVAL
            self._listener.on_waiting(refusal)

    def _requeue(self, tests: Iterable[Test]) -> None:
        """Put tests that have not been started in front of all others."""
        for test in reversed(list(tests)):
            self._release(test)
            self._waiting.put_first(test)

    def _release(self, test: Test) -> None:
        if _is_constrained(test):
            self._resources.end(test.id)

    def _busy(self) -> List[int]:
        return [slot.number for slot in self._slots.values() if slot.given]

    def _all_busy_with_tiny_tests(self) -> bool:
        return bool(self._slots) and all(len(slot.given) > 1 for slot in self._slots.values())

    # -- slots --------------------------------------------------------------------

    def _start_slot(self, number: int) -> None:
        base = os.path.join(self._folder, str(number))
        slot = SlotProcess(number, self._setup, base, self._forks)
        self._slots[slot.socket.fileno()] = slot
        self._poller.register(slot.socket, 0 if self._is_paused else select.POLLIN)

    def _check_slots(self) -> None:
        """Kill slots that hang; in a pause nothing is known of them."""
        now = time.monotonic()
        if now >= self._next_check and not self._is_paused:
            self._next_check = now + _SLOT_CHECK_INTERVAL
            for slot in self._slots.values():
                slot.look_after(now)

    def _read_slot(self, fd: int) -> None:
        slot = self._slots[fd]
        answers, is_alive = slot.read()
        for answer in answers:
            self._handle_answer(slot, answer)
        self._requeue(slot.returned)
        slot.returned = []
        if not is_alive:
            self._replace_slot(fd, slot)

    def _handle_answer(self, slot: SlotProcess, answer: Answer) -> None:
        if answer.kind == "done":
            self._failed_starts = 0
            self._handle_result(answer.test, answer.row)
        elif answer.kind == "line":
            self._listener.on_output(answer.test, answer.values[1])
        elif answer.kind == "kept":
            _, folder, files = answer.values
            self._uploads[answer.test.id] = _Upload(answer.test, folder, files)
        elif answer.kind == "returned":
            self._listener.on_returned(answer.values[0])
        else:
            self._listener.on_running(answer.test, slot.number)

    def _handle_result(self, test: Test, row: bytes) -> None:
        """Report a result, but not before the artifacts of its test."""
        self._release(test)
        upload = self._uploads.get(test.id)
        if upload is None:
            self._listener.on_result(test, row)
        else:
            upload.row = row

    def _replace_slot(self, fd: int, slot: SlotProcess) -> None:
        """Start another slot for one that has died.

        The test that it ran is lost with it; the others of its batch go to another slot.
        """
        self._poller.unregister(fd)
        slot.await_death()
        _kill_orphans(self._slots.values())
        del self._slots[fd]
        cause = slot.bury()
        if slot.retired:
            self._requeue(slot.given)
        elif slot.given:
            self._fail_first(slot, cause)
        elif not slot.answered:
            self._failed_starts += 1
            if self._failed_starts >= _MAX_FAILED_STARTS:
                raise SlotStartError("a slot cannot be started: %s" % cause)
        self._start_slot(slot.number)

    def _fail_first(self, slot: SlotProcess, cause: str) -> None:
        """Report the test that ran in a slot that has died."""
        test = slot.given.popleft()
        self._uploads.pop(test.id, None)
        self._release(test)
        self._requeue(slot.given)
        execution = Execution(
            test.id, test.attempt, slot.number, time.time(),
            problem=Problem.SLOT_DIED, detail=cause,
        )  # fmt: skip
        self._listener.on_result(test, encode(execution))

    # -- artifacts ----------------------------------------------------------------

    def _has_artifacts(self) -> bool:
        return not self._is_paused and any(upload.row for upload in self._uploads.values())

    def _pass_on_artifacts(self) -> None:
        """Pass on pieces of the files of ended tests, until the owner pauses the pool."""
        left = _MAX_ARTIFACT_BYTES_PER_TURN
        for number, upload in list(self._uploads.items()):
            while upload.row and left > 0 and not self._is_paused:
                piece = next(upload.pieces, None)
                if piece is None:
                    del self._uploads[number]
                    place.remove_tree(upload.folder)
                    self._listener.on_result(upload.test, upload.row)
                    break
                left -= len(piece.data)
                self._listener.on_artifact(upload.test, piece)


def _is_constrained(test: Test) -> bool:
    """Return whether a test needs more of the host than a slot."""
    return bool(test.locks) or test.serial


def _kill_orphans(slots: Iterable[SlotProcess]) -> None:
    """Kill all processes that dead slots have left; they are now children of this process."""
    pids = [slot.process.pid for slot in slots]
    deadline = time.monotonic() + _ORPHAN_TIMEOUT
    while time.monotonic() < deadline:
        lister = process_tree.Lister(os.getpid(), apart=pids)
        orphans = process_tree.freeze(lister, lambda: _reap_zombies(pids))
        if not orphans:
            return
        process_tree.send_groups(orphans, signal.SIGKILL)
        _reap(orphans)


def _await_end(connection: socket.socket, deadline: float) -> None:
    """Discard what comes until the other end is closed, or until ``deadline``."""
    connection.settimeout(max(deadline - time.monotonic(), 0.01))
    try:
        while connection.recv(1 << 18):
            connection.settimeout(max(deadline - time.monotonic(), 0.01))
    except OSError:
        pass


def _is_alive(connection: socket.socket) -> bool:
    connection.settimeout(0.0)
    try:
        return bool(connection.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _reap(pids: List[int]) -> None:
    for pid in pids:
        for _ in range(100):
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    break
            except ChildProcessError:
                break
            time.sleep(0.005)


def _reap_zombies(slots: List[int]) -> None:
    """Reap the children that have ended, without ``slots``: their status is Popen's."""
    for pid in process_tree.children(os.getpid()):
        if pid in slots:
            continue
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass
