"""A live session: runs tests for a connected controller.

Owns the commands of the controller, the credit for sent bytes, keepalive messages and the folder of
the session.  Must not know how tests are run, verdicts, or other sessions.  Everything except
keepalive messages happens in the main thread.
"""

import collections
import json
import os
import threading
import time
from typing import Any, Callable, Deque, Dict, Iterable, List, Optional

from ..execution import resource_locks
from ..execution.artifacts import ArtifactPiece
from ..execution.slot import setup_from_row
from ..execution.slot_handle import is_fork_safe
from ..execution.slot_pool import SlotPool, SlotStartError
from ..files import blob_store, cache_eviction, remove_tree, session_dirs
from ..files.kept_trees import SessionTree
from ..files.upload_receiver import UploadReceiver
from ..processes import process_tree
from ..protocol.frames import CREDIT_BYTES, pack_blob, split_messages
from ..protocol.host_facts import collect_host_facts, count_cores
from ..protocol.model import Setup, Test
from .channel_session import ChannelSession, detach_from_terminal, send_error

#: Seconds for which the main thread may be busy before pings are no longer answered.
_HANG_TIMEOUT = 60.0
#: Encodes a message; json.dumps would create an encoder for each one.
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


class LiveSession(ChannelSession):
    """A session of one controller, and the listener of its slot pool."""

    def __init__(self, channel: Any) -> None:
        super().__init__(channel)
        self.outbox: List[bytes] = []
        #: Frames of messages that wait for credit.
        self._waiting_frames: Deque[bytes] = collections.deque()
        self.credit = CREDIT_BYTES
        self.setup: Optional[Setup] = None
        self.folder, self._lock = session_dirs.create_session_folder()
        self.pool = SlotPool(self, self.folder, self._wake_read, forks=is_fork_safe())
        self.receiver: Optional[UploadReceiver] = None
        self.tree = SessionTree(self._root, blob_store.cache_folder())
        #: Bytes of files that the host may keep for other sessions.
        self._cache_limit = 0
        #: Set once the session is open or has ended.
        self._is_open = threading.Event()
        #: When the main thread last woke up, by the monotonic clock; 0 while it waits.
        self._busy_since = 0.0
        self._commands: Dict[str, Callable[..., None]] = {
            "open": self._open,
            "run": self._run,
            "stop": self._stop,
            "credit": self._add_credit,
            "keepalive": self._keep_alive,
            "return": self._return,
            "tree": self._answer_missing,
            "unpack": self._unpack,
        }

    # -- the loop ---------------------------------------------------------------

    def serve(self) -> None:
        """Run the session until the controller stops it or disconnects."""
        self.start_receiving()
        try:
            while self.running:
                self._run_once()
        finally:
            self._is_open.set()
            self.stop_receiving()
            self.pool.close()
            self.tree.keep(self._cache_limit)
            if self.receiver is not None:
                self.receiver.store.release()
            os.chdir("/")
            remove_tree.remove_tree(self.folder)
        if self.connected:
            super().send_message("bye")

    def close(self) -> None:
        """Release all resources; afterwards no frame may be received."""
        super().close()
        os.close(self._lock)

    def is_hung(self) -> bool:
        """Return whether the main thread is stuck, for example in I/O of a dead disk."""
        since = self._busy_since
        return self.setup is not None and since > 0 and time.monotonic() - since > _HANG_TIMEOUT

    def _run_once(self) -> None:
        self._busy_since = 0.0
        events = self.pool.wait()
        self._busy_since = time.monotonic()
        self.drain_wakeups()
        self.handle_inbox()
        try:
            self.pool.process(events)
        except SlotStartError as error:
            self._fail(str(error))
            self._flush_all()

    def handle_message(self, name: str, *arguments: Any) -> None:
        """Handle a command of the controller."""
        self._commands[name](*arguments)

    def flush(self) -> None:
        """Send the queued messages, as far as there is credit; before a run none is needed."""
        self._flush_all(is_limited=self.setup is not None)

    def _flush_all(self, is_limited: bool = False) -> None:
        self._waiting_frames.extend(split_messages(self.outbox))
        self.outbox = []
        while self._waiting_frames and self.connected and (self.credit > 0 or not is_limited):
            self.send_frame(self._waiting_frames.popleft())

    def send_frame(self, frame: bytes) -> None:
        """Send a frame, which costs credit; pause the pool when the credit is used up."""
        before = self.credit
        self.credit -= len(frame)
        if before > 0 >= self.credit:
            self.pool.pause()
        super().send_frame(frame)

    def send_message(self, *message: Any) -> None:
        """Queue a message for the controller."""
        self.outbox.append(_ENCODE(message).encode("ascii"))

    def _fail(self, message: str) -> None:
        self.send_message("error", message)
        self.running = False

    # -- events of the pool -----------------------------------------------------

    def on_running(self, test: Test, slot: int) -> None:
        """Queue the message that a test has started."""
        self.send_message("running", test.id, slot)

    def on_output(self, test: Test, line: str) -> None:
        """Queue a line of output."""
        self.send_message("line", test.id, line)

    def on_artifact(self, test: Test, piece: ArtifactPiece) -> None:
        """Send a piece of a file at once, so that it does not stay in memory."""
        header = ["artifact", test.id, test.attempt, piece.path, piece.is_last]
        self.send_frame(pack_blob(header, piece.data))

    def on_result(self, test: Test, row: bytes) -> None:
        """Queue a result; ``row`` is its JSON."""
        self.outbox.append(b'["done",' + row + b"]")

    def on_returned(self, numbers: List[int]) -> None:
        """Queue the message that tests are returned and will not be started here."""
        self.send_message("returned", numbers)

    def on_waiting(self, refusal: resource_locks.UnavailableResource) -> None:
        """Queue the message that tests wait for a resource that another run holds."""
        self.send_message("waiting", *refusal)

    # -- commands ---------------------------------------------------------------

    def _open(self, row: List[Any]) -> None:
        self.credit = CREDIT_BYTES  # the controller has processed everything sent before
        self.pool.resume()
        setup = setup_from_row(row)
        setup = setup._replace(slots=setup.slots or count_cores(), root=setup.root or self._root)
        self.setup = setup
        try:
            resources = (
                resource_locks.open_shared_resources()
                if setup.shared_resources
                else resource_locks.HostResources()
            )
        except OSError as error:
            self._fail(str(error))
            return
        self.pool.start(setup, resources)
        self._is_open.set()
        host_facts = collect_host_facts()._replace(
            slots=setup.slots, root=setup.root, note=resources.note
        )
        self.send_message("ready", host_facts._asdict())

    def _run(self, rows: List[List[Any]]) -> None:
        self.pool.add(Test(*row) for row in rows)

    def _stop(self) -> None:
        self.running = False

    def _add_credit(self, size: int) -> None:
        before = self.credit
        self.credit += size
        if before <= 0 < self.credit:
            self.pool.resume()

    def _keep_alive(self, seconds: float) -> None:
        """Send a pong every ``seconds`` until the session is open.

        Until then a ping of the controller may wait behind the upload of the tree.
        """

        def send_pongs() -> None:
            self.send_pong(b"0]]")
            while not self._is_open.wait(seconds):
                self.send_pong(b"0]]")

        threading.Thread(target=send_pongs, daemon=True).start()

    def _return(self, numbers: Iterable[int]) -> None:
        """Return tests that have not been started; the results of the others follow."""
        returned = self.pool.withdraw(numbers)
        if returned:
            self.send_message("returned", returned)

    # -- the tree ---------------------------------------------------------------

    @property
    def _root(self) -> str:
        return os.path.join(self.folder, "tree")

    def open_receiver(self) -> UploadReceiver:
        """Return the receiver into the host's cache, opened on first use."""
        if self.receiver is None:
            self.receiver = UploadReceiver(blob_store.BlobStore(blob_store.cache_folder()))
        return self.receiver

    def _answer_missing(self, digest: str, size: int) -> None:
        """Answer which contents this host lacks of the tree with this manifest."""
        if self.tree.take_unchanged(digest):
            self.send_message("missing", [], [])
        else:
            self.send_message("missing", *self.open_receiver().find_missing(digest, size))

    def _unpack(self, limit: int) -> None:
        receiver = self.open_receiver()
        store = receiver.store
        self.tree.create(receiver.entries, store)
        self._cache_limit = limit
        store.release()
        receiver.entries = []
        self.send_message("unpacked", self._root)
        cache_eviction.start_eviction(store.cache_folder, limit, store.added_count)


def main(channel: Any) -> None:
    """Serve one controller; runs in the gateway's main thread."""
    detach_from_terminal()
    process_tree.become_subreaper()
    try:
        LiveSession(channel).serve()
    except Exception as error:
        send_error(channel, error)
