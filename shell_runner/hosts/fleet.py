"""The hosts of a live run: opened concurrently, given the tree, then tests.

Responsible for one thread per host until it is ready, the one queue in which all events of hosts
arrive, and the thread that pings silent hosts.  A host that is opened again is another
:class:`Host` with the same name, so that late events of the old one can be recognized.  Must not
know schedules, pytest, or verdicts.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config import MAX_SLOTS
from ..errors import HostError, HostOpenError
from ..remote.protocol import frames
from ..remote.protocol.model import HostFacts, Setup, Test, host_facts_from_json
from ..text import to_single_line
from .frame_guard import MAX_PAYLOAD_BYTES
from .gateway import OPEN_TIMEOUT, Gateway
from .heartbeat import HOST_TIMEOUT, HostHealth, SilenceMonitor, backoff
from .spec import HostSpec

if TYPE_CHECKING:
    from ..shipping.tree_scan import SourceTree
    from ..shipping.upload import Shipped

#: Bytes that are processed before their credit is returned.
_CREDIT_BATCH_SIZE = 1 << 20
#: Maximum bytes that a host may have sent before they are processed: its credit and one message
#: more.
_MAX_UNREAD_BYTES = frames.CREDIT_BYTES + _CREDIT_BATCH_SIZE + MAX_PAYLOAD_BYTES
#: The reason for a connection that ended without one.
_CONNECTION_ENDED = "the connection ended"
#: Maximum characters of one fact about a host.
_MAX_FACT_CHARS = 100
#: The beginning of the answer to a ping, which is a frame of its own and costs no credit.
_PONG_PREFIX = b'J[["pong",'


@dataclass(frozen=True)
class HostReady:
    """A host is ready for tests."""

    host: Host
    slots: int
    #: Seconds of one round trip.
    latency: float


@dataclass(frozen=True)
class FrameReceived:
    """A host sent a frame."""

    host: Host
    frame: bytes


@dataclass(frozen=True)
class HostEnded:
    """A host was lost, or could not be opened."""

    host: Host
    error: HostError
    #: Whether it may be opened again, since it was open before.
    can_reopen: bool = False


@dataclass(frozen=True)
class Wakeup:
    """The reader of the queue is woken up; no host has sent anything."""


Event = HostReady | FrameReceived | HostEnded | Wakeup


class Host:
    """One host of the run, from its opening to the end of that connection."""

    def __init__(
        self,
        spec: HostSpec,
        setup: Setup,
        events: queue.SimpleQueue[Event],
        timeout: float = HOST_TIMEOUT,
        reopened: bool = False,
    ) -> None:
        self.spec = spec
        self.id = spec.id
        self.facts: HostFacts | None = None
        self.shipped: Shipped | None = None
        self.error: HostError | None = None
        #: While the tree is sent: the bytes done and their total.
        self.shipping_progress: tuple[int, int] | None = None
        self._setup = setup
        self._events = events
        self._monitor = SilenceMonitor(timeout, time.monotonic())
        self._reopened = reopened
        self._answers: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self._gateway: Gateway | None = None
        self._is_ready = False
        self._cancel = threading.Event()
        self._closing = False
        self._error_lock = threading.Lock()
        self._credit_owed = 0
        self._joiner = frames.FrameJoiner()
        #: Bytes received, counted by the gateway's thread, and processed, counted by the reader.
        self._bytes_received = self._bytes_processed = 0
        self._has_disconnected = threading.Event()

    # -- becoming ready, in a thread of its own -----------------------------------

    def prepare(self, tree: Callable[[], SourceTree]) -> None:
        """Open the host, send the tree and start the slots; emit HostReady or HostEnded."""
        try:
            # The kernel's limit is longer, so that the heartbeat reports a silent host first.
            silence = self._monitor.limit * 1.5
            self._gateway = Gateway(self.spec, self._on_frame, self._cancel, silence)
            if self._cancel.is_set():
                self._gateway.close(1.0)
            root = self._setup.root
            if not self.spec.is_in_place:
                self._gateway.send_messages(["keepalive", self._monitor.limit / 4])
                root = self._ship(tree())
            shared = self._setup.shared_resources or not self.spec.is_in_place
            setup = self._setup._replace(root=root, slots=self.spec.slots, shared_resources=shared)
            self._gateway.send_messages(["open", setup])
            (facts,) = self._await_message("ready")
            self.facts = self._check_facts(facts)
        except HostError as error:
            self._report_end(error)
        except OSError as error:  # an error on the host explains more than the failure to send
            reason = self._find_close_reason()
            is_known = reason != _CONNECTION_ENDED
            self._report_end(
                HostOpenError(self.id, reason if is_known else f"{type(error).__name__}: {error}")
            )
        except Exception as error:
            self._report_end(HostOpenError(self.id, f"{type(error).__name__}: {error}"))
        else:
            with self._error_lock:
                if self.error is None:
                    self._events.put(HostReady(self, self.facts.slots, self._gateway.latency))

    def _send_tree_frame(self, frame: bytes) -> None:
        assert self._gateway is not None
        if self._closing:
            raise HostOpenError(self.id, "the run has ended")
        self._gateway.send(frame)

    def _check_facts(self, values: Any) -> HostFacts:
        """Return the host's description of itself, checked and safe to show."""
        try:
            facts = host_facts_from_json(values)
            if type(facts.slots) is not int or not 0 < facts.slots <= MAX_SLOTS:
                raise ValueError(f"{facts.slots!r} slots")
            if self.spec.slots and facts.slots != self.spec.slots:
                raise ValueError(f"{facts.slots} slots, where {self.spec.slots} were requested")
            return _sanitize_facts(facts)
        except (TypeError, ValueError, AttributeError) as error:
            message = f"sent invalid facts about itself: {to_single_line(str(error))}"
            raise HostOpenError(self.id, message) from error

    def _ship(self, tree: SourceTree) -> str:
        """Send the tree; return its root on the host."""
        from ..shipping.upload import ship  # hosts on this machine need no copy of the tree

        def report(done: int, total: int) -> None:
            self.shipping_progress = (done, total)

        try:
            self.shipped = ship(
                tree, self._send_tree_frame, self._await_message, self.spec.cache, report
            )
        finally:
            self.shipping_progress = None
        return self.shipped.root

    def _report_end(self, error: HostError, hostile: bool = False) -> None:
        """Put HostEnded into the queue, once; a hostile host is not opened again."""
        with self._error_lock:
            if self.error is not None or self._closing:
                return
            self.error = error
        self._events.put(HostEnded(self, error, self.was_opened and not hostile))

    def drop(self, error: HostError) -> None:
        """End a host that violated the protocol, at once."""
        self._report_end(error, hostile=True)
        if self._gateway is not None:
            self._gateway.kill()

    @property
    def was_opened(self) -> bool:
        """Return whether it was open in this run, on this or an earlier connection."""
        return self._is_ready or self._reopened

    def check_liveness(self, now: float) -> None:
        """Ping a silent host; end one that has been silent or has blocked us for too long."""
        gateway = self._gateway
        if gateway is None or self._closing or self.error is not None:
            return
        # Until our code runs there, an interpreter must start and the code must arrive.
        limit = 0.0 if gateway.has_answered else OPEN_TIMEOUT
        health = self._monitor.check(now, gateway.last_heard, limit)
        if health is HostHealth.PING_DUE:
            gateway.ping()
        elif health is HostHealth.LOST:
            seconds = max(self._monitor.limit, limit)
            self._report_end(HostError(self.id, f"has not answered for {seconds:g} s"))
            gateway.kill()
        elif self._is_ready and 0 < gateway.sending_since < now - self._monitor.limit:
            # The sending thread is blocked, and with it all other hosts.
            self._report_end(HostError(self.id, f"has read nothing for {self._monitor.limit:g} s"))
            gateway.kill()

    def _await_message(self, name: str) -> list[Any]:
        try:
            message = self._answers.get(timeout=OPEN_TIMEOUT * 20)
        except queue.Empty:
            message = ["nothing"]
        self._bytes_processed = self._bytes_received
        if message is None:
            raise HostOpenError(self.id, f"{self._find_close_reason()} while waiting for {name!r}")
        if message[0] == "error":
            raise HostOpenError(self.id, to_single_line(" ".join(map(str, message[1:]))))
        if message[0] != name:
            raise HostOpenError(
                self.id, f"expected {name!r}, got {to_single_line(str(message[0]))!r}"
            )
        return message[1:]

    def _on_frame(self, frame: bytes | None) -> None:
        """Enqueue a frame, or the end of the connection; called in the gateway's thread."""
        if frame is None:
            self._has_disconnected.set()
            self._answers.put(None)
            if self._is_ready:
                hostile = self._gateway is not None and self._gateway.was_ended_by_guard()
                self._report_end(HostError(self.id, self._find_close_reason()), hostile)
        elif frame.startswith(_PONG_PREFIX):
            pass  # the gateway has recorded that it arrived
        elif self._is_ready:
            self._bytes_received += len(frame)
            if self._bytes_received - self._bytes_processed > _MAX_UNREAD_BYTES:
                self.drop(HostError(self.id, "sent more than its credit allows"))
                return
            self._events.put(FrameReceived(self, frame))
        else:
            self._handle_answer(frame)

    def _find_close_reason(self) -> str:
        reason = self._gateway.close_reason() if self._gateway else ""
        return to_single_line(reason) or _CONNECTION_ENDED

    def _handle_answer(self, frame: bytes) -> None:
        self._bytes_received += len(frame)
        if self._bytes_received - self._bytes_processed > _MAX_UNREAD_BYTES:
            self.drop(HostOpenError(self.id, "sent more than its credit allows"))
            return
        try:
            whole = self._joiner.add(frame)
            messages = list(self._decode(whole)) if whole else []
        except ValueError as error:
            messages = [["error", f"sent garbage: {error}"]]
        for message in messages:
            if message[0] == "received":
                self._bytes_processed += len(frame)
                continue  # a sign of life while files are sent
            # All later frames belong to the run.
            self._is_ready = self._is_ready or message[0] == "ready"
            self._answers.put(message)

    def _decode(self, frame: bytes) -> Iterator[list[Any]]:
        content = frames.unpack_frame(frame)
        if isinstance(content, tuple):
            raise ValueError("a blob before the run has started")
        yield from content

    # -- tests --------------------------------------------------------------------

    def run_tests(self, tests: Sequence[Test]) -> None:
        """Send tests; a lost host is reported by HostEnded."""
        self._send_message("run", list(tests))

    def request_return(self, tests: Sequence[int]) -> None:
        """Request the return of tests that the host has not started; its answer names them."""
        self._send_message("return", list(tests))

    def unpack_messages(self, frame: bytes) -> list[list[Any]]:
        """Return the messages of a frame, and its credit to the host; none if parts are missing.

        Raises :exc:`ValueError` for an invalid frame.
        """
        self._credit_owed += len(frame)
        self._bytes_processed += len(frame)
        if self._credit_owed >= _CREDIT_BATCH_SIZE:
            self._send_message("credit", self._credit_owed)
            self._credit_owed = 0
        whole = self._joiner.add(frame)
        content = frames.unpack_frame(whole) if whole else []
        if not isinstance(content, tuple):
            return content
        header, body = content
        if not (isinstance(header, list) and header[:1] == ["artifact"]):
            raise ValueError("a blob that is not an artifact")
        return [[*header, body]]

    def _send_message(self, *message: Any) -> None:
        if self._gateway is None:
            return
        try:
            self._gateway.send_messages(list(message))
        except OSError:
            self._report_end(HostError(self.id, _CONNECTION_ENDED))

    # -- the end ------------------------------------------------------------------

    def stop(self) -> None:
        """Tell the host to stop its tests."""
        self._closing = True
        if self._gateway is not None:
            self._gateway.send_if_room(frames.pack_messages([["stop"]]), timeout=1.0)

    def close(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for the host to disconnect, then close the connection."""
        self._cancel.set()
        if self._gateway is not None:
            started = time.monotonic()
            self._gateway.ping()
            # A host that still cleans up answers the ping.
            is_alive = self._has_disconnected.wait(timeout) or self._gateway.last_heard > started
            if self.error is not None or not is_alive:
                self._gateway.kill()  # execnet's own shutdown could block
            self._gateway.close()


def _sanitize_facts(facts: HostFacts) -> HostFacts:
    """Return facts without control characters, since they are shown on a terminal."""
    return facts._replace(
        name=to_single_line(facts.name, _MAX_FACT_CHARS),
        system=to_single_line(facts.system, _MAX_FACT_CHARS),
        machine=to_single_line(facts.machine, _MAX_FACT_CHARS),
        python=to_single_line(facts.python, _MAX_FACT_CHARS),
        note=to_single_line(str(facts.note)),
    )


class Fleet:
    """All hosts of a run."""

    def __init__(
        self, specs: Sequence[HostSpec], setup: Setup, timeout: float = HOST_TIMEOUT
    ) -> None:
        """Create the hosts without opening them.

        ``timeout``: seconds of silence after which a host is lost.
        """
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._setup = setup
        self._timeout = timeout
        self.hosts = [Host(spec, setup, self.events, timeout) for spec in specs]
        self._tree: SourceTree | None = None
        self._tree_known = threading.Event()
        self._threads: list[threading.Thread] = []
        #: Number of times that each host was opened again, by its id.
        self._reopen_counts: dict[str, int] = {}
        #: Prevents that a host is opened again while all are closed.
        self._hosts_lock = threading.Lock()
        self._closed = threading.Event()

    @property
    def needs_tree(self) -> bool:
        """Return whether some host does not use the tree in place."""
        return any(not host.spec.is_in_place for host in self.hosts)

    def open(self) -> None:
        """Start opening all hosts; return at once."""
        for host in self.hosts:
            thread = threading.Thread(
                target=host.prepare, args=(self._await_tree,), daemon=True, name=f"host {host.id}"
            )
            self._threads.append(thread)
            thread.start()
        threading.Thread(target=self._monitor_hosts, daemon=True, name="heartbeat").start()

    def _monitor_hosts(self) -> None:
        interval = SilenceMonitor(self._timeout, 0.0).interval
        while not self._closed.wait(interval):
            for host in list(self.hosts):
                host.check_liveness(time.monotonic())

    def reopen(self, host: Host) -> Host | None:
        """Replace a lost host by a new one, which is opened after a delay; return the new one.

        Returns None if the fleet is closed.
        """
        with self._hosts_lock:
            if self._closed.is_set():
                return None
            new_host = Host(host.spec, self._setup, self.events, self._timeout, reopened=True)
            self.hosts[self.hosts.index(host)] = new_host
            attempt = self._reopen_counts.get(host.id, 0)
            self._reopen_counts[host.id] = attempt + 1
        thread = threading.Thread(
            target=self._reopen_after_delay,
            args=(host, new_host, attempt),
            daemon=True,
            name=f"host {host.id}",
        )
        self._threads.append(thread)
        thread.start()
        return new_host

    def _reopen_after_delay(self, lost: Host, host: Host, attempt: int) -> None:
        lost.close(0.0)
        if not self._closed.wait(backoff(attempt)):
            host.prepare(self._await_tree)

    def provide_tree(self, tree: SourceTree) -> None:
        """Provide the tree to the hosts that wait for it."""
        self._tree = tree
        self._tree_known.set()

    def _await_tree(self) -> SourceTree:
        self._tree_known.wait()
        if self._tree is None:
            raise HostOpenError("all", "the run ended before the tree was known")
        return self._tree

    def opening_errors(self) -> list[HostError]:
        """Return the errors of hosts that could not be opened so far."""
        return [host.error for host in self.hosts if host.error and not host.was_opened]

    def wake(self) -> None:
        """Wake up the reader of the events."""
        self.events.put(Wakeup())

    def close(self, timeout: float = 5.0) -> None:
        """Stop and close all hosts concurrently; nothing is left running on them.

        ``timeout``: seconds that each host has to disconnect.
        """
        with self._hosts_lock:
            self._closed.set()
        self._tree_known.set()
        for host in self.hosts:
            host.stop()
        closers = [
            threading.Thread(target=host.close, args=(timeout,), daemon=True) for host in self.hosts
        ]
        for thread in closers:
            thread.start()
        for thread in closers:
            thread.join(timeout + 5.0)
        deadline = time.monotonic() + 2.0
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
