"""Load the providers of pools: the built-in ones and those of installed plugins."""

from __future__ import annotations

import pluggy

from . import local
from .hookspecs import PROJECT_NAME, PoolHooks
from .provider import ProviderFactory

#: Group of entry points under which plugins are installed.
ENTRY_POINT_GROUP = "nosejobs.pools"


def load_providers(*plugins: object) -> dict[str, ProviderFactory]:
    """Return factories of providers by kind: built in, of installed plugins, and of ``plugins``.

    Of two plugins with the same kind, the one that was registered last wins.
    """
    manager = pluggy.PluginManager(PROJECT_NAME)
    manager.add_hookspecs(PoolHooks)
    manager.register(local)
    manager.load_setuptools_entrypoints(ENTRY_POINT_GROUP)
    for plugin in plugins:
        manager.register(plugin)
    factories: dict[str, ProviderFactory] = {}
    # Pluggy calls the last one that was registered first.
    for kinds in manager.hook.nosejobs_pool_kinds():
        factories = {**kinds, **factories}
    return factories
