"""The hook by which plugins add kinds of pools, and the interface of a provider of hosts.

Must not know when a host is wanted: policy decides that, and ``pools`` does it.  The rules that
every provider keeps are tested in ``tests/contract/dispatcher``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pluggy

from ..configuration.settings import Pool

#: Name of the project in pluggy.
PROJECT = "nosejobs"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

#: How a provider finds a host again, as JSON that only the provider reads.
Handle = Mapping[str, Any]


@dataclass(frozen=True)
class Raised:
    """A running host."""

    #: As in ``[hosts.NAME]``: how it is reached.
    spec: str
    handle: Handle
    #: Programs at a time; 0: as many as it has cores.
    slots: int = 0


class Provider(Protocol):
    """A provider of hosts of one kind.  Methods may block; several threads call them.

    The dispatcher may be killed between any two steps.  The name of a host is in the database
    before ``bring_up`` is called with it, so each method may be called again, and a host that the
    provider cannot find again by its name it must be able to remove by its name.
    Failures are raised as NosejobsError or OSError, with a message for people.
    """

    def check(self, pool: Pool) -> None:
        """Raise UsageError if the options of a pool of this kind are invalid."""

    def bring_up(self, name: str, pool: Pool, handle: Handle | None) -> Raised:
        """Return the host of this name, and start it unless it is running.

        ``handle`` is what an earlier call returned, if that was stored; None otherwise.
        """

    def is_alive(self, name: str, handle: Handle) -> bool:
        """Return whether the host that ``handle`` describes is running."""

    def take_down(self, name: str, handle: Handle | None) -> None:
        """Remove all of a host, also if it is gone already or was never complete."""

    def existing(self) -> Collection[str]:
        """Return the names of all hosts of which anything is left."""

    def close(self) -> None:
        """Release resources, because the dispatcher stops; what costs nothing may be kept."""


#: Creates the provider of a kind; the folder, below the dispatcher's data, is its own.
Maker = Callable[[Path], Provider]


class Specs:
    """The hooks."""

    @hookspec
    def nosejobs_pool_kinds(self) -> Mapping[str, Maker]:  # type: ignore[empty-body]
        """Return makers of providers by kind, the value of ``kind`` in ``[pools.NAME]``."""
