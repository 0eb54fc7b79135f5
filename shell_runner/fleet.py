"""The hosts of a live run: opened side by side, given the tree, then tests.

Owns one thread a host until it is ready, and the one queue in which all that hosts
say arrives.  Must not know schedules, pytest, or verdicts.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import CannotOpen, HostError
from .gateways import OPEN_TIMEOUT, Gateway, clean
from .hosts import HostSpec
from .remote import wire
from .remote.model import HostFacts, Setup, Test, facts_of_host
from .shipping import Shipped, Tree, ship

#: Bytes that are processed before their credit goes back.
_CREDIT = 1 << 20


@dataclass(frozen=True)
class Ready:
    """A host can take tests."""

    host: Host
    slots: int
    #: Seconds there and back.
    latency: float


@dataclass(frozen=True)
class Said:
    """A host sent a frame."""

    host: Host
    frame: bytes


@dataclass(frozen=True)
class Ended:
    """A host is gone, or never came."""

    host: Host
    error: HostError


@dataclass(frozen=True)
class Woken:
    """Nothing of a host: the reader of the queue is asked to look around."""


Event = Ready | Said | Ended | Woken


class Host:
    """One host of the run."""

    def __init__(self, spec: HostSpec, setup: Setup, events: queue.SimpleQueue[Event]) -> None:
        self.spec = spec
        self.id = spec.id
        self.facts: HostFacts | None = None
        self.shipped: Shipped | None = None
        self.error: HostError | None = None
        #: While the tree goes there: bytes that have been sent, and of how many.
        self.shipping: tuple[int, int] | None = None
        self._setup = setup
        self._events = events
        self._answers: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self._gateway: Gateway | None = None
        self._is_ready = False
        self._closing = False
        self._owed = 0
        self._said_bye = threading.Event()

    # -- becoming ready, in a thread of its own -----------------------------------

    def prepare(self, tree: Callable[[], Tree]) -> None:
        """Open, bring the tree, start the slots; ends in Ready or Ended."""
        try:
            self._gateway = Gateway(self.spec, self._receive)
            root = self._setup.root
            if not self.spec.in_place:
                root = self._ship(tree(), self._gateway)
            self._gateway.say(["open", self._setup._replace(root=root, slots=self.spec.slots)])
            (facts,) = self._await("ready")
            self.facts = _cleaned(facts_of_host(facts))
        except HostError as error:
            self._end(error)
        except Exception as error:
            self._end(CannotOpen(self.id, f"{type(error).__name__}: {error}"))
        else:
            self._events.put(Ready(self, self.facts.slots, self._gateway.latency))

    def _ship(self, tree: Tree, gateway: Gateway) -> str:
        """Bring the tree; where it is now."""

        def tell(done: int, total: int) -> None:
            self.shipping = (done, total)

        try:
            self.shipped = ship(tree, gateway.send, self._await, self.spec.cache, tell)
        finally:
            self.shipping = None
        return self.shipped.root

    def _end(self, error: HostError) -> None:
        if self.error is None and not self._closing:
            self.error = error
            self._events.put(Ended(self, error))

    def _await(self, name: str) -> list[Any]:
        try:
            message = self._answers.get(timeout=OPEN_TIMEOUT * 20)
        except queue.Empty:
            message = ["nothing"]
        if message is None:
            raise CannotOpen(self.id, f"the connection ended while waiting for {name!r}")
        if message[0] == "trouble":
            raise CannotOpen(self.id, clean(str(message[1])))
        if message[0] != name:
            raise CannotOpen(self.id, f"expected {name!r}, got {clean(str(message[0]))!r}")
        return message[1:]

    def _receive(self, frame: bytes | None) -> None:
        """Called in the gateway's thread: only enqueues."""
        if frame is None:
            self._said_bye.set()
            self._answers.put(None)
            if self._is_ready:
                self._end(HostError(self.id, "the connection ended"))
        elif self._is_ready:
            self._events.put(Said(self, frame))
        else:
            self._take_answer(frame)

    def _take_answer(self, frame: bytes) -> None:
        try:
            messages = list(self._decode(frame))
        except ValueError as error:
            messages = [["trouble", f"sent garbage: {error}"]]
        for message in messages:
            if message[0] == "took":
                continue  # a sign of life while files go there
            # From here on the frames are those of the run.
            self._is_ready = self._is_ready or message[0] == "ready"
            self._answers.put(message)

    def _decode(self, frame: bytes) -> Iterator[list[Any]]:
        found = wire.unpack(frame)
        if isinstance(found, tuple):
            raise ValueError("a host sends no blobs in a live run")
        yield from found

    # -- tests --------------------------------------------------------------------

    def run(self, tests: Sequence[Test]) -> None:
        """Send tests; a host that is gone says so by its Ended."""
        self._say("run", list(tests))

    def messages(self, frame: bytes) -> list[list[Any]]:
        """The messages of a frame; its credit goes back.  ValueError for garbage."""
        self._owed += len(frame)
        if self._owed >= _CREDIT:
            self._say("credit", self._owed)
            self._owed = 0
        found = wire.unpack(frame)
        if not isinstance(found, tuple):
            return found
        header, body = found
        if not (isinstance(header, list) and header[:1] == ["artefact"]):
            raise ValueError("a host sends no blobs but artefacts in a live run")
        return [[*header, body]]

    def _say(self, *message: Any) -> None:
        if self._gateway is None:
            return
        try:
            self._gateway.say(list(message))
        except OSError:
            self._end(HostError(self.id, "the connection ended"))

    # -- the end ------------------------------------------------------------------

    def stop(self) -> None:
        """Ask the host to end what it runs."""
        self._closing = True
        self._say("stop")

    def close(self, timeout: float) -> None:
        """Wait for the host's good-bye, then end the connection."""
        if self._gateway is not None:
            self._said_bye.wait(timeout)
            self._gateway.close()


def _cleaned(facts: HostFacts) -> HostFacts:
    """They are shown on the user's terminal: no text of a host may drive it."""
    return facts._replace(
        name=clean(facts.name),
        system=clean(facts.system),
        machine=clean(facts.machine),
        python=clean(facts.python),
    )


class Fleet:
    """All hosts of a run."""

    def __init__(self, specs: Sequence[HostSpec], setup: Setup) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.hosts = [Host(spec, setup, self.events) for spec in specs]
        self._tree: Tree | None = None
        self._tree_error: Exception | None = None
        self._tree_known = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def needs_tree(self) -> bool:
        """Some host is not this machine."""
        return any(not host.spec.in_place for host in self.hosts)

    def open(self) -> None:
        """Start opening all hosts; returns at once."""
        for host in self.hosts:
            thread = threading.Thread(
                target=host.prepare, args=(self._await_tree,), daemon=True, name=f"host {host.id}"
            )
            self._threads.append(thread)
            thread.start()

    def give_tree(self, tree: Tree) -> None:
        """The tree is known: hosts that wait for it go on."""
        self._tree = tree
        self._tree_known.set()

    def _await_tree(self) -> Tree:
        self._tree_known.wait()
        if self._tree is None:
            raise CannotOpen("all", "the run ended before the tree was known")
        return self._tree

    def failed(self) -> list[HostError]:
        """Hosts that could not be opened so far."""
        return [host.error for host in self.hosts if host.error]

    def wake(self) -> None:
        """Let the reader of the events look around."""
        self.events.put(Woken())

    def close(self, timeout: float = 5.0) -> None:
        """End all hosts, side by side; nothing is left running on any of them."""
        self._tree_known.set()
        for host in self.hosts:
            host.stop()
        closers = [
            threading.Thread(target=host.close, args=(timeout,), daemon=True)
            for host in self.hosts
        ]
        for thread in closers:
            thread.start()
        for thread in closers:
            thread.join(timeout + 5.0)
