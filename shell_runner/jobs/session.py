"""A conversation with the desk of a host: one request, one answer.

Owns the connection and the watch over it.  Must not know what requests mean.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..errors import HostError, HostLost, JobRefused
from ..hosts.frame_guard import LIMIT
from ..hosts.gateway import Gateway
from ..hosts.heartbeat import Pulse, Sign
from ..hosts.spec import HostSpec
from ..remote.protocol import frames
from ..remote.protocol.fields import InvalidField
from ..shipping.tree_scan import SourceTree
from ..shipping.upload import Uploaded, upload
from ..text import to_single_line
from .responses import facts_of

#: The session that is asked for, and the version of what is spoken in it.
SESSION, PROTOCOL = "jobs", 1
#: Seconds of silence after which a host is lost.
TIMEOUT = 10.0
#: Seconds that a host may be at one request, its signs of life coming.
_PATIENCE = 600.0
#: Bytes that a host may have sent before they are read.
_UNREAD = 2 * LIMIT
#: A sign of life.
_PONG = b'J[["pong",'

T = TypeVar("T")


class Session:
    """A conversation with the desk of one host: one request at a time."""

    def __init__(
        self,
        spec: HostSpec,
        timeout: float = TIMEOUT,
        cancel: threading.Event | None = None,
    ) -> None:
        """Open the host; raises CannotOpen, also soon after ``cancel`` has been set.

        ``timeout``: seconds of silence to put up with.
        """
        self.host = spec.id
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._came = self._taken = 0
        self._ended = threading.Event()
        #: Why the connection was given up by us.
        self._verdict = ""
        self._gateway = Gateway(
            spec, self._receive, cancel=cancel, silence=timeout * 1.5, session=SESSION
        )
        self._pulse = Pulse(timeout, time.monotonic())
        threading.Thread(target=self._listen, daemon=True, name=f"pulse {spec.id}").start()
        try:
            #: What the host says of itself, to be shown.
            self.facts = self.read(facts_of, self.call("hello", protocol=PROTOCOL))
        except BaseException:
            self.close()
            raise

    def _receive(self, frame: bytes | None) -> None:
        """Called in the gateway's thread: only enqueues."""
        if frame is None:
            self._ended.set()
        elif frame.startswith(_PONG):
            return
        else:
            self._came += len(frame)
            if self._came - self._taken > _UNREAD:
                self._give_up("sent more than it was asked for")
                return
        self._answers.put(frame)

    def _listen(self) -> None:
        """A host that is stopped, or a network that drops all, says nothing."""
        while not self._ended.wait(self._pulse.interval):
            sign = self._pulse.look(time.monotonic(), self._gateway.heard)
            if sign is Sign.ASK:
                self._gateway.ping()
            elif sign is Sign.LOST:
                self._give_up(f"has not answered for {self._pulse.limit:g} s")

    def _give_up(self, why: str) -> None:
        self._verdict = why
        self._ended.set()
        self._gateway.kill()
        self._answers.put(None)

    def _lost(self) -> HostLost:
        words = self._verdict or to_single_line(self._gateway.epitaph()) or "the connection ended"
        return HostLost(self.host, words)

    def odd(self, error: object) -> HostError:
        """What to raise for a host that is not to be believed: nothing more is asked of it."""
        self._give_up("says odd things")
        return HostError(self.host, f"says odd things: {to_single_line(str(error))}")

    def _next(self) -> list[Any] | frames.Blob:
        """The next message that is more than a sign of life."""
        while True:
            try:
                frame = self._answers.get(timeout=_PATIENCE)
            except queue.Empty:
                raise HostLost(self.host, f"has been at it for {_PATIENCE:g} s") from None
            if frame is None:
                self._answers.put(None)
                raise self._lost()
            self._taken += len(frame)
            try:
                found = frames.unpack(frame)
            except ValueError as error:
                raise self.odd(error) from error
            if isinstance(found, tuple):
                return found
            if found == [["took"]]:
                continue
            if len(found) != 1:
                raise self.odd(f"{len(found)} answers to one request")
            if found[0][0] == "trouble":
                words = to_single_line(" ".join(map(str, found[0][1:])))
                raise HostError(self.host, words)
            return found[0]

    def _send(self, frame: bytes) -> None:
        try:
            self._gateway.send(frame)
        except OSError as error:
            raise self._lost() from error

    def _ask(self, name: str, arguments: Mapping[str, Any]) -> tuple[Any, bytes | None]:
        self._send(frames.pack([["call", name, dict(arguments)]]))
        found = self._next()
        body: bytes | None = None
        if isinstance(found, tuple):
            found, body = found
        if isinstance(found, list) and len(found) == 2 and found[0] == "answer":
            return found[1], body
        if isinstance(found, list) and len(found) == 3 and found[0] == "refused":
            kind, message = (to_single_line(str(part)) for part in found[1:])
            raise JobRefused(self.host, kind, message)
        raise self.odd(f"no answer: {str(found)[:50]!r}")

    def call(self, request: str, /, **arguments: Any) -> Any:
        """The answer to one request; JobRefused, HostLost, or HostError for nonsense."""
        value, body = self._ask(request, arguments)
        if body is not None:
            raise self.odd("bytes that nobody asked for")
        return value

    def fetch(self, request: str, /, **arguments: Any) -> tuple[Any, bytes]:
        """The same for a request that is answered with bytes."""
        value, body = self._ask(request, arguments)
        if body is None:
            raise self.odd("no bytes where some were asked for")
        return value, body

    def nudge(self, number: int) -> None:
        """End what waits for news on the host, from any thread; who is sending does not wait."""
        self._gateway.send_if_room(frames.pack([["nudge", number]]), patience=0.2)

    def abort(self) -> None:
        """From any thread: whatever is asked now ends with HostLost."""
        self._give_up("was closed")

    def read(self, parse: Callable[[Any], T], value: Any) -> T:
        """What ``parse`` makes of a value; HostError for what cannot be."""
        try:
            return parse(value)
        except InvalidField as error:
            raise self.odd(error) from error

    def upload(self, tree: SourceTree, progress: Callable[[int, int], None]) -> Uploaded:
        """All contents of a tree are on the host, and stay until the session's next job is in."""

        def wait(name: str) -> list[Any]:
            found = self._next()
            if isinstance(found, tuple) or found[0] != name:
                raise self.odd(f"{str(found)[:50]!r} where {name!r} is expected")
            return found[1:]

        try:
            return upload(tree, self._send, wait, progress)
        except ValueError as error:
            raise self.odd(error) from error

    def close(self) -> None:
        """End the connection."""
        self._ended.set()
        self._gateway.send_if_room(frames.pack([["stop"]]), patience=0.2)
        self._gateway.close()
