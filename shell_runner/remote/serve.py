"""What a host does while a controller is connected: answers its channel.

Owns the slots of the session, the tests that wait for one, the session's folder and
the credit for what is sent.  Must not know verdicts or who else is connected.
Everything happens in the main thread.
"""

import collections
import json
import os
import select
import signal
import socket
import threading
import time
from typing import Any, Callable, Deque, Dict, Iterable, List, Optional

from . import capacity, place, session_dirs, store, tree, upkeep
from .conversation import Conversation, leave_terminal, report
from .intake import Intake
from .machine import cores, facts
from .model import Execution, Problem, Setup, Test
from .outputs import pieces
from .slot import setup_from_row
from .slots import Answer, SlotProcess
from .wire import CREDIT, pack_encoded

#: Seconds of known work that a slot may hold in advance, and tests at most.
_AHEAD = 0.05
_BATCH = 32
#: Seconds to wait for company when all slots are busy with tiny tests.
_GATHER = 0.012
#: Seconds that slots get to end when told to stop.
_STOPPING = 3.0
#: Deaths in a row, without one finished test, after which slots count as impossible.
_HOPELESS = 3
#: Seconds between two looks at the slots that are busy.
_LOOK = 1.0
#: Seconds that the main thread may be at one thing before pings are not answered any more.
_HUNG = 60.0
#: Seconds until the controller hears that tests wait for what other runs have, and until
#: it hears so again.
_STUCK = 5.0
_STILL_STUCK = 30.0


class Upload:
    """The artefacts of one test on their way to the controller."""

    def __init__(self, test: Test, folder: str, files: List[List[Any]]) -> None:
        self.folder = folder
        rows = tuple((path, size) for path, size in files)
        self.pieces = pieces(test.id, test.attempt, folder, rows)
        #: The message that follows the last piece; empty until the slot has sent it.
        self.done = b""


class Serve(Conversation):
    """One session on this host."""

    def __init__(self, channel: Any, forks: bool = False) -> None:
        """``forks``: slots are forks of this process, which then must have no threads."""
        super().__init__(channel)
        self._forks = forks
        self.waiting: Deque[Test] = collections.deque()
        #: Those of them that need more than a slot.
        self.choosy: Deque[Test] = collections.deque()
        self.capacity = capacity.Capacity()
        self._stuck_since = self._next_complaint = 0.0
        self.outbox: List[bytes] = []
        self.uploads: Dict[int, Upload] = {}
        self.credit = CREDIT
        self.slots: Dict[int, SlotProcess] = {}
        self.setup: Optional[Setup] = None
        self.folder, self._lock = session_dirs.work_folder()
        self.intake: Optional[Intake] = None
        self._hopeless = 0
        self._next_look = 0.0
        self._beating = threading.Event()
        #: Since when the main thread is at what it does; 0: it waits.
        self._at_work_since = 0.0
        self._poller = select.poll()
        self._poller.register(self._wake_read, select.POLLIN)
        self._commands: Dict[str, Callable[..., None]] = {
            "open": self._open,
            "run": self._run,
            "stop": self._stop,
            "credit": self._add_credit,
            "beat": self._beat,
            "return": self._return,
            "tree": self._answer_missing,
            "unpack": self._unpack,
        }

    # -- the loop ---------------------------------------------------------------

    def serve(self) -> None:
        """Answer until told to stop, or until nobody is there any more."""
        self.listen()
        try:
            while self.running:
                self._turn()
        finally:
            self._beating.set()
            self.end()
            self._end_slots()
            self.capacity.close()
            if self.intake is not None:
                self.intake.store.end()
            os.chdir("/")
            place.remove_tree(self.folder)
        if self.connected:
            super().say("bye")

    def close(self) -> None:
        """For who goes on after a session: nobody may send to it any more."""
        super().close()
        os.close(self._lock)

    def hangs(self) -> bool:
        """The main thread does not come back, from a dead disk perhaps: we are as good as lost."""
        since = self._at_work_since
        return self.setup is not None and since > 0 and time.monotonic() - since > _HUNG

    def _turn(self) -> None:
        self._at_work_since = 0.0
        events = self._poller.poll(self._patience())
        self._at_work_since = time.monotonic()
        for fd, event in events:
            if fd == self._wake_read:
                self.hush()
            elif fd in self.slots and (self.credit > 0 or event & select.POLLHUP):
                self._read_slot(fd)
        self.take_all()
        self._look_after_slots()
        self._feed()
        self._upload()
        self._flush()
        if self._all_busy_with_tiny_tests():
            # Each answer of its own would cost a round of waking up here and there.
            time.sleep(_GATHER)

    def _patience(self) -> Optional[float]:
        """Milliseconds until there is something to do even if nothing happens."""
        if self.capacity.refusal:
            return capacity.LOOK * 1000
        return _LOOK * 1000 if self._busy() else None

    def command(self, name: str, *arguments: Any) -> None:
        """Do what the controller says."""
        self._commands[name](*arguments)

    def _flush(self) -> None:
        if self.outbox and self.connected:
            frame = pack_encoded(self.outbox)
            self.outbox = []
            self.send(frame)

    def send(self, frame: bytes) -> None:
        """What is sent costs credit."""
        before = self.credit
        self.credit -= len(frame)
        if before > 0 >= self.credit:
            self._listen_to_slots(False)
        super().send(frame)

    def say(self, *message: Any) -> None:
        """Queue a message for the controller."""
        self.outbox.append(json.dumps(message, separators=(",", ":")).encode("ascii"))

    # -- commands ---------------------------------------------------------------

    def _open(self, row: List[Any]) -> None:
        self.credit = CREDIT  # what was said before has been taken
        setup = setup_from_row(row)
        count = setup.slots or cores()
        self.setup = setup._replace(slots=count, root=setup.root or self._root)
        try:
            self.capacity = capacity.shared() if setup.shared else self.capacity
        except OSError as error:
            self.say("trouble", str(error))
            self.running = False
            return
        for number in range(count):
            self._start_slot(number)
        self._beating.set()
        note = self.capacity.note
        found = facts()._replace(slots=count, root=self.setup.root, note=note)
        self.say("ready", found._asdict())

    def _run(self, rows: List[List[Any]]) -> None:
        for row in rows:
            test = Test(*row)
            (self.choosy if _is_choosy(test) else self.waiting).append(test)

    def _stop(self) -> None:
        self.running = False

    def _add_credit(self, size: int) -> None:
        before = self.credit
        self.credit += size
        if before <= 0 < self.credit:
            self._listen_to_slots(True)
            for slot in self.slots.values():
                slot.since = time.monotonic()  # it may have said long ago that it is done

    def _beat(self, seconds: float) -> None:
        """Give signs of life until the session is open: a ping may wait behind the tree."""

        def beat() -> None:
            self.pong(b"0]]")
            while not self._beating.wait(seconds):
                self.pong(b"0]]")

        threading.Thread(target=beat, daemon=True).start()

    def _return(self, numbers: List[int]) -> None:
        """Give tests back that have not been started; of the others the end is told."""
        wanted = set(numbers)
        here = [test.id for test in (*self.waiting, *self.choosy) if test.id in wanted]
        self.waiting = collections.deque(test for test in self.waiting if test.id not in wanted)
        self.choosy = collections.deque(test for test in self.choosy if test.id not in wanted)
        if here:
            self.say("returned", here)
        for slot in self.slots.values():
            slot.take_back([test.id for test in list(slot.given)[1:] if test.id in wanted])

    # -- the tree ---------------------------------------------------------------

    @property
    def _root(self) -> str:
        return os.path.join(self.folder, "tree")

    def contents(self) -> Intake:
        """The host's cache, opened when the first of them come."""
        if self.intake is None:
            self.intake = Intake(store.Store(store.cache_folder()))
        return self.intake

    def _answer_missing(self, digest: str, size: int) -> None:
        """The manifest by its digest: only what is new of it here is asked for."""
        self.say("missing", *self.contents().missing(digest, size))

    def _unpack(self, limit: int) -> None:
        os.mkdir(self._root, 0o755)
        intake = self.contents()
        there = intake.store
        there.unpack(intake.entries, self._root)
        there.end()
        intake.entries = []
        self.say("unpacked", self._root)
        upkeep.start(there.cache, limit, there.added)

    # -- slots ------------------------------------------------------------------

    def _start_slot(self, number: int) -> None:
        assert self.setup is not None
        base = os.path.join(self.folder, str(number))
        slot = SlotProcess(number, self.setup, base, self._forks)
        self.slots[slot.socket.fileno()] = slot
        self._poller.register(slot.socket, select.POLLIN)

    def _listen_to_slots(self, on: bool) -> None:
        """Without credit their answers stay where they are, and they wait."""
        for slot in self.slots.values():
            self._poller.modify(slot.socket, select.POLLIN if on else 0)

    def _look_after_slots(self) -> None:
        """Without credit nothing is known of them: their answers have not been read."""
        now = time.monotonic()
        if now >= self._next_look and self.credit > 0:
            self._next_look = now + _LOOK
            for slot in self.slots.values():
                slot.look_after(now)

    def _feed(self) -> None:
        """Give waiting tests to the slots with the least to do, as the host has room."""
        if self._feed_choosy():
            while self.waiting:
                free = self._with_room()
                number = self.capacity.slot(list(free))
                if number is None:
                    break
                slot = free[number]
                slot.give(self._next_batch(_AHEAD - slot.load, _BATCH - len(slot.given)))
        for slot in self.slots.values():
            if len(slot.given) > 1 and self.capacity.is_wanted(slot.number):
                slot.recall()
        self.capacity.settle(self._busy())
        self._complain()

    def _feed_choosy(self) -> bool:
        """Tests that need more than a slot; False if one must be alone that cannot be yet."""
        for test in list(self.choosy):
            idle = {each.number: each for each in self.slots.values() if not each.given}
            slots = [] if test.serial and len(idle) < len(self.slots) else list(idle)
            number = self.capacity.start(test.id, slots, test.locks, test.serial)
            if number is not None:
                self.choosy.remove(test)
                idle[number].give([test])
            elif test.serial:
                return False
        return True

    def _with_room(self) -> Dict[int, SlotProcess]:
        """The slots that can take tests, those with the least to do first."""
        found = [(len(each.given) > 0, each.load, each) for each in self.slots.values()]
        found.sort(key=lambda rated: rated[:2])
        return {
            each.number: each
            for busy, load, each in found
            if not busy or (load < _AHEAD and len(each.given) < _BATCH)
        }

    def _busy(self) -> List[int]:
        return [slot.number for slot in self.slots.values() if slot.given]

    def _complain(self) -> None:
        """Somebody looks at a run that does not get on, because of another run."""
        refusal, now = self.capacity.refusal, time.monotonic()
        if refusal is None or (refusal.kind == capacity.SLOTS and self._busy()):
            self._stuck_since = 0.0
            return
        self._stuck_since = self._stuck_since or now
        if now >= max(self._stuck_since + _STUCK, self._next_complaint):
            self._next_complaint = now + _STILL_STUCK
            self.say("waiting", *refusal)

    def _next_batch(self, room: float, most: int) -> List[Test]:
        batch = [self.waiting.popleft()]
        share = max(len(self.waiting) // max(len(self.slots), 1), 0)
        while self.waiting and len(batch) < min(most, share):
            estimate = self.waiting[0].estimate
            room -= batch[-1].estimate if batch[-1].estimate is not None else 1.0
            if estimate is None or room < estimate:
                break
            batch.append(self.waiting.popleft())
        return batch

    def _all_busy_with_tiny_tests(self) -> bool:
        return bool(self.slots) and all(len(slot.given) > 1 for slot in self.slots.values())

    def _read_slot(self, fd: int) -> None:
        slot = self.slots[fd]
        answers, alive = slot.read()
        for answer in answers:
            self._pass_on(slot, answer)
        self._take_back(slot.returned)
        slot.returned = []
        if not alive:
            self._replace(fd, slot)

    def _pass_on(self, slot: SlotProcess, answer: Answer) -> None:
        if answer.kind == "done":
            self._hopeless = 0
            self._pass_on_done(answer)
        elif answer.kind == "kept":
            _, number, folder, files = json.loads(answer.text.decode("ascii"))
            self.uploads[number] = Upload(answer.test, folder, files)
        elif answer.kind in ("line", "returned"):
            self.outbox.append(answer.text)
        else:
            self.say("running", answer.test.id, slot.number)

    def _pass_on_done(self, answer: Answer) -> None:
        """What a test wrote arrives before the word that it is done."""
        self._release(answer.test)
        text = b'["done",' + answer.text + b"]"
        upload = self.uploads.get(answer.test.id)
        if upload is None:
            self.outbox.append(text)
        else:
            upload.done = text

    def _upload(self) -> None:
        """Send pieces while there is credit."""
        for number, upload in list(self.uploads.items()):
            while self.credit > 0 and upload.done:
                piece = next(upload.pieces, None)
                if piece is None:
                    del self.uploads[number]
                    place.remove_tree(upload.folder)
                    self.outbox.append(upload.done)
                    break
                self.send(piece)

    def _replace(self, fd: int, slot: SlotProcess) -> None:
        """A slot has died: one test with it; the others of its batch go to another."""
        self._poller.unregister(fd)
        slot.await_death()
        self._kill_orphans()
        del self.slots[fd]
        how = slot.bury()
        retired = slot.retired or (slot.answered and not slot.given)
        if slot.retired:
            self._take_back(slot.given)
        elif slot.given:
            victim = slot.given.popleft()
            self.uploads.pop(victim.id, None)
            self._release(victim)
            self._take_back(slot.given)
            lost = Execution(
                victim.id, victim.attempt, slot.number, time.time(),
                problem=Problem.SLOT_DIED, detail=how,
            )  # fmt: skip
            self.say("done", lost)
        elif not retired:
            self._hopeless += 1
            if self._hopeless >= _HOPELESS:
                self.say("trouble", "a slot cannot be started: %s" % how)
                self.running = False
                self._flush()
                return
        self._start_slot(slot.number)

    def _take_back(self, tests: Iterable[Test]) -> None:
        """They have not been started; their turn comes first."""
        for test in reversed(list(tests)):
            self._release(test)
            (self.choosy if _is_choosy(test) else self.waiting).appendleft(test)

    def _release(self, test: Test) -> None:
        if _is_choosy(test):
            self.capacity.end(test.id)

    def _kill_orphans(self) -> None:
        """What a dead slot ran has come down to us: nothing of it may stay."""
        ours = [slot.process.pid for slot in self.slots.values()]
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            found = tree.freeze(tree.Lister(os.getpid(), apart=ours), lambda: _reap_zombies(ours))
            if not found:
                return
            tree.send_groups(found, signal.SIGKILL)
            _reap(found)

    def _end_slots(self) -> None:
        for slot in self.slots.values():
            slot.stop()
        deadline = time.monotonic() + _STOPPING
        for slot in self.slots.values():
            _await_end(slot.socket, deadline)
            if _is_alive(slot.socket):
                slot.process.kill()
            slot.await_death()
        self._kill_orphans()
        for slot in self.slots.values():
            slot.bury()
        self.slots = {}


def _is_choosy(test: Test) -> bool:
    return bool(test.locks) or test.serial


def _await_end(connection: socket.socket, deadline: float) -> None:
    """Read and forget until the other end is closed."""
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


def _reap_zombies(apart: List[int]) -> None:
    """The children that have ended, without the slots: their status is Popen's."""
    _reap_ended([pid for pid in tree.children(os.getpid()) if pid not in apart])


def _reap_ended(pids: List[int]) -> None:
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


def main(channel: Any) -> None:
    """Serve one controller in the gateway's main thread."""
    leave_terminal()
    tree.become_subreaper()
    try:
        Serve(channel).serve()
    except Exception as error:
        report(channel, error)
