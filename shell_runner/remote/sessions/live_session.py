"""A live session: what a host does while a controller is connected.

Owns the commands of the channel, the credit for what is sent, the signs of life and the folder of
the session.  Must not know how tests are run, verdicts, or other sessions.  Everything but signs
of life happens in the main thread.
"""

import json
import os
import threading
import time
from typing import Any, Callable, Dict, Iterable, List, Optional

from ..execution import host_resources
from ..execution.artifacts import Piece
from ..execution.slot import setup_from_row
from ..execution.slot_pool import SlotPool, SlotStartError
from ..files import blob_store, cache_eviction, session_dirs
from ..files import remove_tree as place
from ..files.upload_receiver import Intake
from ..processes import process_tree
from ..protocol.frames import CREDIT, pack_blob, pack_encoded
from ..protocol.host_facts import cores, facts
from ..protocol.model import Setup, Test
from .channel_session import Conversation, leave_terminal, report

#: Seconds that the main thread may be busy with one thing before pings are no longer answered.
_HANG_TIMEOUT = 60.0
#: An encoder for many messages: json.dumps would make one for each.
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


class LiveSession(Conversation):
    """One session on this host, and the listener of its slot pool."""

    def __init__(self, channel: Any) -> None:
        super().__init__(channel)
        self.outbox: List[bytes] = []
        self.credit = CREDIT
        self.setup: Optional[Setup] = None
        self.folder, self._lock = session_dirs.work_folder()
        self.pool = SlotPool(self, self.folder, self._wake_read)
        self.intake: Optional[Intake] = None
        #: Set once the session is open, or over.
        self._is_open = threading.Event()
        #: When the main thread began what it does, by the monotonic clock; 0 while it waits.
        self._busy_since = 0.0
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
        """Run the session until the controller stops it or is gone."""
        self.listen()
        try:
            while self.running:
                self._turn()
        finally:
            self._is_open.set()
            self.end()
            self.pool.close()
            if self.intake is not None:
                self.intake.store.end()
            os.chdir("/")
            place.remove_tree(self.folder)
        if self.connected:
            super().say("bye")

    def close(self) -> None:
        """Release the session; nothing may be sent to it any more."""
        super().close()
        os.close(self._lock)

    def hangs(self) -> bool:
        """Return whether the main thread does not come back, perhaps from a dead disk."""
        since = self._busy_since
        return self.setup is not None and since > 0 and time.monotonic() - since > _HANG_TIMEOUT

    def _turn(self) -> None:
        self._busy_since = 0.0
        events = self.pool.wait()
        self._busy_since = time.monotonic()
        self.hush()
        self.take_all()
        try:
            self.pool.process(events)
        except SlotStartError as error:
            self._give_up(str(error))
            self.flush()

    def command(self, name: str, *arguments: Any) -> None:
        """Do what the controller says."""
        self._commands[name](*arguments)

    def flush(self) -> None:
        """Send the messages that have been queued, in one frame."""
        if self.outbox and self.connected:
            frame = pack_encoded(self.outbox)
            self.outbox = []
            self.send(frame)

    def send(self, frame: bytes) -> None:
        """Send a frame, which costs credit; without credit the pool is paused."""
        before = self.credit
        self.credit -= len(frame)
        if before > 0 >= self.credit:
            self.pool.pause()
        super().send(frame)

    def say(self, *message: Any) -> None:
        """Queue a message for the controller."""
        self.outbox.append(_ENCODE(message).encode("ascii"))

    def _give_up(self, message: str) -> None:
        self.say("trouble", message)
        self.running = False

    # -- what the pool reports ----------------------------------------------------

    def on_running(self, test: Test, slot: int) -> None:
        """Queue the message that a test has been started."""
        self.say("running", test.id, slot)

    def on_output(self, test: Test, line: str) -> None:
        """Queue a line of output."""
        self.say("line", test.id, line)

    def on_artifact(self, test: Test, piece: Piece) -> None:
        """Send a piece of a file at once: it costs credit, and no memory."""
        header = ["artefact", test.id, test.attempt, piece.path, piece.is_last]
        self.send(pack_blob(header, piece.data))

    def on_result(self, test: Test, row: bytes) -> None:
        """Queue a result; its row is JSON already."""
        self.outbox.append(b'["done",' + row + b"]")

    def on_returned(self, numbers: List[int]) -> None:
        """Queue the message that tests will not be started here."""
        self.say("returned", numbers)

    def on_waiting(self, refusal: host_resources.Refusal) -> None:
        """Queue the message that tests wait for what other runs hold."""
        self.say("waiting", *refusal)

    # -- commands ---------------------------------------------------------------

    def _open(self, row: List[Any]) -> None:
        self.credit = CREDIT  # the controller has taken what was sent before
        self.pool.resume()
        setup = setup_from_row(row)
        setup = setup._replace(slots=setup.slots or cores(), root=setup.root or self._root)
        self.setup = setup
        try:
            resources = host_resources.shared() if setup.shared else host_resources.Capacity()
        except OSError as error:
            self._give_up(str(error))
            return
        self.pool.start(setup, resources)
        self._is_open.set()
        found = facts()._replace(slots=setup.slots, root=setup.root, note=resources.note)
        self.say("ready", found._asdict())

    def _run(self, rows: List[List[Any]]) -> None:
        self.pool.add(Test(*row) for row in rows)

    def _stop(self) -> None:
        self.running = False

    def _add_credit(self, size: int) -> None:
        before = self.credit
        self.credit += size
        if before <= 0 < self.credit:
            self.pool.resume()

    def _beat(self, seconds: float) -> None:
        """Give signs of life until the session is open: a ping may wait behind the tree."""

        def beat() -> None:
            self.pong(b"0]]")
            while not self._is_open.wait(seconds):
                self.pong(b"0]]")

        threading.Thread(target=beat, daemon=True).start()

    def _return(self, numbers: Iterable[int]) -> None:
        """Give tests back that have not been started; the results of the others follow."""
        returned = self.pool.withdraw(numbers)
        if returned:
            self.say("returned", returned)

    # -- the tree ---------------------------------------------------------------

    @property
    def _root(self) -> str:
        return os.path.join(self.folder, "tree")

    def contents(self) -> Intake:
        """Return the host's cache, which is opened when the first contents come."""
        if self.intake is None:
            self.intake = Intake(blob_store.Store(blob_store.cache_folder()))
        return self.intake

    def _answer_missing(self, digest: str, size: int) -> None:
        """Ask for what this host lacks of the tree with this manifest."""
        self.say("missing", *self.contents().missing(digest, size))

    def _unpack(self, limit: int) -> None:
        os.mkdir(self._root, 0o755)
        intake = self.contents()
        there = intake.store
        there.unpack(intake.entries, self._root)
        there.end()
        intake.entries = []
        self.say("unpacked", self._root)
        cache_eviction.start(there.cache, limit, there.added)


def main(channel: Any) -> None:
    """Serve one controller in the gateway's main thread."""
    leave_terminal()
    process_tree.become_subreaper()
    try:
        LiveSession(channel).serve()
    except Exception as error:
        report(channel, error)
