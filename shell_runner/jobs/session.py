"""A session with the job queue of one host: one request, one response.

Responsible for the connection and for noticing that it is lost.  Must not know what requests mean.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..errors import HostError, HostLost, JobRefused
from ..hosts.frame_guard import MAX_PAYLOAD_BYTES
from ..hosts.gateway import Gateway
from ..hosts.heartbeat import HostHealth, SilenceMonitor
from ..hosts.spec import HostSpec
from ..remote.protocol import frames
from ..remote.protocol.fields import InvalidField
from ..shipping.tree_scan import SourceTree
from ..shipping.upload import Uploaded, upload
from ..text import to_single_line
from .responses import parse_facts

#: The name of the session on the host, and the version of its protocol.
SESSION_NAME, PROTOCOL_VERSION = "jobs", 1
#: Seconds of silence after which a host is lost.
HOST_TIMEOUT = 10.0
#: Maximum seconds for one request while the host answers pings.
_REQUEST_TIMEOUT = 600.0
#: Maximum bytes that a host may have sent before they are read.
_MAX_UNREAD_BYTES = 2 * MAX_PAYLOAD_BYTES
#: The beginning of the answer to a ping, which is a frame of its own.
_PONG_PREFIX = b'J[["pong",'

T = TypeVar("T")


class HostSession:
    """A session with the job queue of one host, one request at a time.

    Requests raise :exc:`HostLost` if the connection ends, and :exc:`HostError` if the host sends
    what the protocol does not allow.
    """

    def __init__(
        self,
        spec: HostSpec,
        timeout: float = HOST_TIMEOUT,
        cancel: threading.Event | None = None,
    ) -> None:
        """Open the host.

        ``timeout``: seconds of silence after which the host is lost.  Raises
        :exc:`HostOpenError` if it cannot be opened, also soon after ``cancel`` was set.
        """
        self.host = spec.id
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._joiner = frames.FrameJoiner()
        self._bytes_received = self._bytes_processed = 0
        #: Frames that were sent and not acknowledged; not every frame is.
        self._unacknowledged_count = 0
        self._has_ended = threading.Event()
        #: The reason why this side has given the connection up; empty if it has not.
        self._give_up_reason = ""
        self._gateway = Gateway(
            spec, self._on_frame, cancel=cancel, silence=timeout * 1.5, session=SESSION_NAME
        )
        self._monitor = SilenceMonitor(timeout, time.monotonic())
        threading.Thread(
            target=self._monitor_host, daemon=True, name=f"heartbeat {spec.id}"
        ).start()
        try:
            #: The host's description of itself, safe to show.
            self.facts = self.parse_response(
                parse_facts, self.call("hello", protocol=PROTOCOL_VERSION)
            )
        except BaseException:
            self.close()
            raise

    def _on_frame(self, frame: bytes | None) -> None:
        """Enqueue a frame, or the end of the connection; called in the gateway's thread."""
        if frame is None:
            self._has_ended.set()
        elif frame.startswith(_PONG_PREFIX):
            return
        else:
            self._bytes_received += len(frame)
            if self._bytes_received - self._bytes_processed > _MAX_UNREAD_BYTES:
                self._give_up("sent more than was requested")
                return
        self._answers.put(frame)

    def _monitor_host(self) -> None:
        """Give up a host that is silent: stopped, or behind a network that drops everything."""
        while not self._has_ended.wait(self._monitor.interval):
            health = self._monitor.check(time.monotonic(), self._gateway.last_heard)
            if health is HostHealth.PING_DUE:
                self._gateway.ping()
            elif health is HostHealth.LOST:
                self._give_up(f"has not answered for {self._monitor.limit:g} s")

    def _give_up(self, reason: str) -> None:
        self._give_up_reason = reason
        self._has_ended.set()
        self._gateway.kill()
        self._answers.put(None)

    def _make_lost_error(self) -> HostLost:
        reason = self._give_up_reason or to_single_line(self._gateway.close_reason())
        return HostLost(self.host, reason or "the connection ended")

    def reject_response(self, error: object) -> HostError:
        """Close the connection because of an invalid response; return the error to raise."""
        self._give_up("sent an invalid response")
        return HostError(self.host, f"sent an invalid response: {to_single_line(str(error))}")

    def _await_message(self) -> list[Any] | frames.Blob:
        """Wait for the next message that is not a mere sign of life."""
        deadline = time.monotonic() + _REQUEST_TIMEOUT
        while True:
            try:
                frame = self._answers.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                raise HostLost(
                    self.host, f"has not finished a request within {_REQUEST_TIMEOUT:g} s"
                ) from None
            if frame is None:
                self._answers.put(None)
                raise self._make_lost_error()
            self._bytes_processed += len(frame)
            try:
                whole = self._joiner.add(frame)
                if not whole:
                    continue
                content = frames.unpack_frame(whole)
            except ValueError as error:
                raise self.reject_response(error) from error
            if isinstance(content, tuple):
                return content
            if content == [["received"]]:
                self._accept_acknowledgment()
                deadline = time.monotonic() + _REQUEST_TIMEOUT
                continue
            if len(content) != 1:
                raise self.reject_response(f"{len(content)} responses to one request")
            (message,) = content
            if message[0] == "error":
                raise HostError(self.host, to_single_line(" ".join(map(str, message[1:]))))
            return message

    def _accept_acknowledgment(self) -> None:
        """Accept one for each frame: a host must not prolong a request for ever."""
        self._unacknowledged_count -= 1
        if self._unacknowledged_count < 0:
            self._give_up("sent more than was requested")
            raise self._make_lost_error()

    def _send(self, frame: bytes) -> None:
        self._unacknowledged_count += 1
        try:
            self._gateway.send(frame)
        except OSError as error:
            raise self._make_lost_error() from error

    def _request(self, name: str, arguments: Mapping[str, Any]) -> tuple[Any, bytes | None]:
        self._send(frames.pack_messages([["call", name, dict(arguments)]]))
        response = self._await_message()
        body: bytes | None = None
        if isinstance(response, tuple):
            response, body = response
        if isinstance(response, list) and len(response) == 2 and response[0] == "answer":
            return response[1], body
        if isinstance(response, list) and len(response) == 3 and response[0] == "refused":
            kind, message = (to_single_line(str(part)) for part in response[1:])
            raise JobRefused(self.host, kind, message)
        raise self.reject_response(f"not an answer: {str(response)[:50]!r}")

    def call(self, request: str, /, **arguments: Any) -> Any:
        """Perform a request; return the JSON value of the answer.

        Raises :exc:`JobRefused` if the host refuses it.
        """
        value, body = self._request(request, arguments)
        if body is not None:
            raise self.reject_response("bytes that were not requested")
        return value

    def fetch(self, request: str, /, **arguments: Any) -> tuple[Any, bytes]:
        """Perform a request that is answered with a JSON value and bytes; see :meth:`call`."""
        value, body = self._request(request, arguments)
        if body is None:
            raise self.reject_response("no bytes where some were requested")
        return value, body

    def wake(self, number: int) -> None:
        """End a wait for changes on the host; may be called in any thread.

        ``number`` grows with each call.  Does nothing if another thread is sending, which ends the
        wait, too.
        """
        self._gateway.send_if_room(frames.pack_messages([["wake", number]]), timeout=0.2)

    def abort(self) -> None:
        """End the current request with :exc:`HostLost`; may be called in any thread."""
        self._give_up("was closed")

    def parse_response(self, parse: Callable[[Any], T], value: Any) -> T:
        """Return ``parse(value)``; raise :exc:`HostError` if it raises :exc:`InvalidField`."""
        try:
            return parse(value)
        except InvalidField as error:
            raise self.reject_response(error) from error

    def upload(self, tree: SourceTree, progress: Callable[[int, int], None]) -> Uploaded:
        """Upload a tree; the host keeps it until the session has submitted its next job.

        ``progress`` receives the bytes done and their total.
        """

        def wait(name: str) -> list[Any]:
            message = self._await_message()
            if isinstance(message, tuple) or message[0] != name:
                raise self.reject_response(f"expected {name!r}, got {str(message)[:50]!r}")
            return message[1:]

        try:
            return upload(tree, self._send, wait, progress)
        except ValueError as error:
            raise self.reject_response(error) from error

    def close(self) -> None:
        """Close the connection."""
        self._has_ended.set()
        self._gateway.send_if_room(frames.pack_messages([["stop"]]), timeout=0.2)
        self._gateway.close()
