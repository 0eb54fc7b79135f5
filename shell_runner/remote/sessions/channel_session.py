"""A client's frames on their way to the main thread of a session, and its answers.

Owns the channel: who enqueues, who wakes the main thread, pings, and how many frames of contents
wait in memory.  Must not know what is asked.  Everything happens in the main thread; the channel's
callback only enqueues, and answers pings: a busy main thread must not look like a dead host.
"""

import collections
import os
import signal
import threading
import traceback
from typing import Any, Deque

from ..files.upload_receiver import Intake
from ..protocol.frames import pack, unpack

#: How the frame of a ping begins; it comes alone.
_PING = b'J[["ping",'
#: Frames of file contents that wait in memory; the next ones wait in the connection.
_BLOBS = 8


class Conversation:
    """One session's end of its channel; what is asked is for who inherits."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.inbox: Deque[Any] = collections.deque()
        #: Until it is told to stop; as long as there is somebody to tell.
        self.running = self.connected = True
        self._blobs = threading.Semaphore(_BLOBS)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)

    # -- what is different in each kind of session ------------------------------

    def command(self, name: str, *arguments: Any) -> None:
        """Do what the client says."""
        raise NotImplementedError

    def contents(self) -> Intake:
        """Who takes the contents that the client sends."""
        raise NotImplementedError

    def say(self, *message: Any) -> None:
        """Send a message."""
        self.send(pack([list(message)]))

    def hangs(self) -> bool:
        """Whether the main thread is as good as lost, and pings are not to be answered."""
        return False

    # -- the channel ------------------------------------------------------------

    def listen(self) -> None:
        """From now on frames arrive."""
        self.channel.setcallback(self._receive, endmarker=None)

    def hush(self) -> None:
        """The main thread is awake."""
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass

    def end(self) -> None:
        """Nobody takes frames any more: the receiving thread must not wait for ever."""
        self.running = False
        self._blobs.release()

    def close(self) -> None:
        """For who goes on after a session: nobody may send to it any more."""
        os.close(self._wake_read)
        os.close(self._wake_write)

    def send(self, frame: bytes) -> None:
        """Send a frame; a client that is gone ends the session."""
        try:
            self.channel.send(frame)
        except OSError:
            self.connected = self.running = False

    def take_all(self) -> None:
        """Do what has arrived."""
        while self.inbox and self.running:
            self._take(self.inbox.popleft())

    def pong(self, rest: bytes) -> None:
        """Called in any thread; costs no credit, for it must come through."""
        try:
            self.channel.send(b'J[["pong",' + rest)
        except OSError:
            pass  # the main thread will see it

    def _receive(self, frame: Any) -> None:
        """Called by the gateway's receiving thread."""
        if isinstance(frame, bytes) and frame.startswith(_PING):
            if not self.hangs():
                self.pong(frame[len(_PING) :])
            return
        if frame is not None and frame[:1] == b"B":
            self._blobs.acquire()
            if not self.running:
                self._blobs.release()
        self.inbox.append(frame)
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            pass

    def _take(self, frame: Any) -> None:
        if frame is None:
            self.connected = self.running = False
            return
        found = unpack(frame)
        if isinstance(found, tuple):
            self.contents().take(*found)
            self._blobs.release()
            self.say("took")  # over a slow line, a ping would be behind all that is on its way
            return
        for name, *arguments in found:
            self.command(name, *arguments)


def leave_terminal() -> None:
    """Ctrl-C in the client's terminal must reach the client alone."""
    try:
        os.setsid()
    except PermissionError:
        pass  # leads a session already
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def report(channel: Any, error: BaseException) -> None:
    """What ends a session that nobody has thought of."""
    channel.send(pack([["trouble", "%r\n%s" % (error, traceback.format_exc())]]))
