"""Collect the kinds of pools: the built-in ones and those of installed plugins."""

from __future__ import annotations

import pluggy

from . import local_pool
from .hookspecs import PROJECT, Maker, Specs

#: Group of entry points under which plugins are installed.
ENTRY_POINTS = "nosejobs.dispatcher"


def pool_kinds(*plugins: object) -> dict[str, Maker]:
    """Return makers of providers by kind: built in, of installed plugins, and of ``plugins``.

    Of two plugins with the same kind, the one that was registered last wins.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Specs)
    manager.register(local_pool)
    manager.load_setuptools_entrypoints(ENTRY_POINTS)
    for plugin in plugins:
        manager.register(plugin)
    found: dict[str, Maker] = {}
    # Pluggy calls the last one that was registered first.
    for more in manager.hook.nosejobs_pool_kinds():
        found = {**more, **found}
    return found
