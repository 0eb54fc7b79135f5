"""Where further hosts come from: the hook by which others add kinds of pools.

Owns the shape of a provider, and the plugin manager.  Must not know when a host is wanted: policy
says so, ``pools`` does it.  ``tests/contract/dispatcher`` has the rules that every provider keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pluggy

from .settings import Pool

#: Name of the project, and of the entry points of plugins.
PROJECT, ENTRY_POINTS = "nosejobs", "nosejobs.dispatcher"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

#: A provider's own words for a host, as JSON: by them it is found again.
Handle = Mapping[str, Any]


@dataclass(frozen=True)
class Raised:
    """A host that is up."""

    #: As in ``[hosts.NAME]``: how it is reached.
    spec: str
    handle: Handle
    #: Programs at a time; 0: as many as it has cores.
    slots: int = 0


class Provider(Protocol):
    """Hosts of one kind.  Its methods may block, and are called from several threads.

    The dispatcher may be killed between any two of its steps.  The name of a host is in the
    database before ``bring_up`` is asked for it, so each method can be said again, and what the
    provider cannot find again by name alone it must be able to remove by name.
    Trouble is raised as a NosejobsError or an OSError, in words for people.
    """

    def check(self, pool: Pool) -> None:
        """UsageError if the options of a pool of this kind cannot be."""

    def bring_up(self, name: str, pool: Pool, handle: Handle | None) -> Raised:
        """The host of this name.  One that lives is given as it is; one that does not starts again.

        ``handle``: what was given before, if that has been written down.
        """

    def is_alive(self, name: str, handle: Handle) -> bool:
        """Whether that very host lives."""

    def take_down(self, name: str, handle: Handle | None) -> None:
        """Nothing of it is left; also if it is gone already, or was never complete."""

    def existing(self) -> Collection[str]:
        """Names of all hosts of which there is something left."""

    def close(self) -> None:
        """The dispatcher stops in good order: whatever costs nothing to keep may stay."""


#: Makes the provider of a kind; the folder is below the dispatcher's data, and its own.
Maker = Callable[[Path], Provider]


class Specs:
    """The hooks."""

    @hookspec
    def nosejobs_pool_kinds(self) -> Mapping[str, Maker]:  # type: ignore[empty-body]
        """Kinds of pools by their names, as ``kind`` of ``[pools.NAME]`` has them."""


def kinds(*plugins: object) -> dict[str, Maker]:
    """All kinds that there are: ours, those of installed plugins, and of these."""
    from . import local_pool

    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Specs)
    manager.register(local_pool)
    manager.load_setuptools_entrypoints(ENTRY_POINTS)
    for plugin in plugins:
        manager.register(plugin)
    found: dict[str, Maker] = {}
    # The last one that was registered answers first, and wins.
    for more in manager.hook.nosejobs_pool_kinds():
        found = {**more, **found}
    return found
