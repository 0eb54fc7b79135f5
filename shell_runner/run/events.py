"""Events of a run: what the run controller reports to a front end.

The front end (pytest, a command, another test runner) implements ``RunListener``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ..errors import HostError
from ..remote.protocol.model import Execution


@dataclass(frozen=True)
class Finished:
    """A test has ended on a host, or was given up."""

    execution: Execution
    #: Empty if the test was on no host.
    host: str
    #: Whether it failed and runs once more.
    will_rerun: bool = False
    #: The hosts that were lost while they had the test, one entry for each loss.
    lost_with: tuple[str, ...] = ()
    #: Seconds that the host takes for one second of history.
    speed_factor: float = 1.0


@dataclass(frozen=True)
class Running:
    """A test occupies a slot for more than a moment."""

    test: int
    host: str
    slot: int


@dataclass(frozen=True)
class Line:
    """A line of output of a running test."""

    test: int
    host: str
    text: str

    @property
    def size(self) -> int:
        """Return the memory that the line takes while it waits, in characters."""
        return len(self.text) + 100


@dataclass(frozen=True)
class Waiting:
    """Tests on a host wait for something that another run holds there."""

    host: str
    #: The reason, as shown to people.
    reason: str


@dataclass(frozen=True)
class HostDisconnected:
    """A host was lost; it may be connected again later."""

    error: HostError


@dataclass(frozen=True)
class ControllerCrashed:
    """The run controller itself failed because of a bug; no other event follows."""

    error: BaseException


RunEvent = Finished | Running | Line | Waiting | HostDisconnected


@dataclass
class Loss:
    """The loss of one host and what became of the tests that it had."""

    error: HostError
    #: Tests that have been sent to another host, by that host.
    moved: dict[str, list[int]] = field(default_factory=dict)
    given_up: list[int] = field(default_factory=list)
    #: Whether the host was connected again.
    is_back: bool = False


class RunListener(Protocol):
    """A front end of a run.  All methods are called in the front end's own thread."""

    def on_finished(self, event: Finished) -> None:
        """Report a test that has ended, or an attempt that another one follows."""

    def on_progress(self, event: Running | Line | Waiting | HostDisconnected) -> None:
        """Show an event that does not end a test."""

    def on_tick(self) -> float | None:
        """Refresh the display.  Return the seconds until the next call, None for no limit."""


def describe_losses(hosts: tuple[str, ...]) -> str:
    """Return the names of lost hosts for people: ``a and b``, ``a (twice)``."""
    counts = {host: hosts.count(host) for host in hosts}
    times = {1: "", 2: " (twice)"}
    names = [host + times.get(count, f" ({count} times)") for host, count in counts.items()]
    return " and ".join(names)
