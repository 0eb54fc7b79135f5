"""The interface between a pool and the provider of its hosts.

Must not know when a host is wanted: the caller decides that.  Every provider keeps the rules that
``tests/contract/shell_runner/test_pool_providers.py`` tests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

#: The data by which a provider finds a host again, as JSON that only the provider reads.
Handle = Mapping[str, Any]


@dataclass(frozen=True)
class PoolOptions:
    """The part of a pool's configuration that its provider needs."""

    #: Name of the pool, as in ``[pools.NAME]``.
    name: str
    #: Maximum number of hosts that run at the same time.
    max_hosts: int = 1
    #: The table ``[pools.NAME.options]``; only the provider knows its keys.
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunningHost:
    """A host that a provider has started."""

    #: The spec by which the host is reached, as ``spec`` in ``[hosts.NAME]``.
    spec: str
    handle: Handle
    #: Tests that the host runs at a time; 0: as many as it has cores.
    slots: int = 0


class Provider(Protocol):
    """A provider of hosts of one kind.  Methods may block, and several threads call them.

    The caller may be killed between any two steps.  It stores the name of a host before it calls
    ``bring_up`` with it, so each method may be called again, and a provider must be able to
    remove a host of which it knows nothing but the name.
    """

    def check(self, pool: PoolOptions) -> None:
        """Check the options of ``pool``, without starting anything.

        Raises UsageError if an option is unknown or invalid.
        """

    def bring_up(self, name: str, pool: PoolOptions, handle: Handle | None) -> RunningHost:
        """Return the host called ``name`` of ``pool``, and start it unless it is running.

        ``handle`` is what an earlier call returned, or None if none was stored.

        Raises NosejobsError or OSError, with a message for people, if the host cannot be started;
        the caller tries again later.
        """

    def is_alive(self, name: str, handle: Handle) -> bool:
        """Return whether the host called ``name`` that ``handle`` describes is running.

        A handle that is incomplete or not one of this provider's describes no running host.

        Raises NosejobsError or OSError if that cannot be found out.
        """

    def take_down(self, name: str, handle: Handle | None) -> None:
        """Remove all that is left of the host called ``name``, also if it never ran.

        ``handle`` is what ``bring_up`` returned, or None if none was stored.

        Raises NosejobsError or OSError if something is left; the caller tries again later.
        """

    def existing(self) -> Collection[str]:
        """Return the names of all hosts of which anything is left.

        Raises NosejobsError or OSError if that cannot be found out.
        """

    def close(self) -> None:
        """Release resources, because the caller stops; hosts that cost nothing may be kept.

        Raises NosejobsError or OSError if something cannot be released.
        """


#: Creates the provider of a kind.  The argument is a folder for the provider's own files.
ProviderFactory = Callable[[Path], Provider]
