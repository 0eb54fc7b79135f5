"""The base class of sessions: passes a client's frames to the main thread, and sends answers.

Owns the channel, the queue of received frames, pings, and the limit on blobs in memory.  Must not
know the messages.  All work happens in the main thread.  The channel's callback only enqueues
frames and answers pings, so that a busy main thread does not look like a dead host.
"""

import collections
import os
import signal
import threading
import traceback
from typing import Any, Deque

from ..files.upload_receiver import UploadReceiver
from ..protocol.frames import encode_json, pack_messages, split_messages, unpack_frame

#: Start of the frame of a ping, which holds no other message.
_PING = b'J[["ping",'
#: Maximum blob frames in memory; further ones wait in the connection.
_MAX_QUEUED_BLOBS = 8


class ChannelSession:
    """The host's end of a channel; subclasses handle the messages."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.inbox: Deque[Any] = collections.deque()
        #: ``running``: not stopped yet; ``connected``: the client can still receive messages.
        self.running = self.connected = True
        self._blob_slots = threading.Semaphore(_MAX_QUEUED_BLOBS)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)

    # -- to be overridden --------------------------------------------------------

    def handle_message(self, name: str, *arguments: Any) -> None:
        """Handle a message of the client."""
        raise NotImplementedError

    def open_receiver(self) -> UploadReceiver:
        """Return the receiver of the file contents that the client sends."""
        raise NotImplementedError

    def send_message(self, *message: Any) -> None:
        """Send a message, in parts if it is large: its name and its arguments."""
        for frame in split_messages([encode_json(list(message))]):
            self.send_frame(frame)

    def is_hung(self) -> bool:
        """Return whether the main thread is stuck, so that pings must not be answered."""
        return False

    # -- the channel ------------------------------------------------------------

    def start_receiving(self) -> None:
        """Start to receive frames."""
        self.channel.setcallback(self._receive, endmarker=None)

    def drain_wakeups(self) -> None:
        """Clear the wake-up pipe: the main thread is awake."""
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass

    def stop_receiving(self) -> None:
        """Stop handling frames; release the receiving thread if it waits to enqueue a blob."""
        self.running = False
        self._blob_slots.release()

    def close(self) -> None:
        """Close the wake-up pipe; afterwards no frame may be received."""
        os.close(self._wake_read)
        os.close(self._wake_write)

    def send_frame(self, frame: bytes) -> None:
        """Send a frame; end the session if the client is gone."""
        try:
            self.channel.send(frame)
        except OSError:
            self.connected = self.running = False

    def handle_inbox(self) -> None:
        """Handle all frames that have been received."""
        while self.inbox and self.running:
            self._handle_frame(self.inbox.popleft())

    def send_pong(self, rest: bytes) -> None:
        """Send a pong, at once and without credit; may be called in any thread."""
        try:
            self.channel.send(b'J[["pong",' + rest)
        except OSError:
            pass  # the main thread will notice it

    def _receive(self, frame: Any) -> None:
        """Enqueue a frame; None: the end of the channel.  Runs in the gateway's thread."""
        if isinstance(frame, bytes) and frame.startswith(_PING):
            if not self.is_hung():
                self.send_pong(frame[len(_PING) :])
            return
        if frame is not None and frame[:1] == b"B":
            self._blob_slots.acquire()
            if not self.running:
                self._blob_slots.release()
        self.inbox.append(frame)
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            pass

    def _handle_frame(self, frame: Any) -> None:
        if frame is None:
            self.connected = self.running = False
            return
        content = unpack_frame(frame)
        if isinstance(content, tuple):
            self.open_receiver().receive(*content)
            self._blob_slots.release()
            # A sign of life: on a slow network a ping would wait behind all contents in transit.
            self.send_message("received")
            return
        for name, *arguments in content:
            self.handle_message(name, *arguments)


def detach_from_terminal() -> None:
    """Detach from the client's terminal, so that Ctrl-C there reaches the client alone."""
    try:
        os.setsid()
    except PermissionError:
        pass  # this process leads a session already
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def send_error(channel: Any, error: BaseException) -> None:
    """Send an unexpected error, with its traceback, as the last message of a session."""
    channel.send(pack_messages([["error", "%r\n%s" % (error, traceback.format_exc())]]))
