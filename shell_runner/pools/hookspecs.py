"""The hook by which plugins add kinds of pools."""

from __future__ import annotations

from collections.abc import Mapping

import pluggy

from .provider import ProviderFactory

#: Name of the project in pluggy.
PROJECT_NAME = "nosejobs"

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)


class PoolHooks:
    """The hooks of a plugin in the entry point group ``nosejobs.pools``."""

    @hookspec
    def nosejobs_pool_kinds(self) -> Mapping[str, ProviderFactory]:  # type: ignore[empty-body]
        """Return factories of providers by kind, the value of ``kind`` in ``[pools.NAME]``.

        A factory is called with a folder for the provider's own files.  A kind of a plugin
        replaces the built-in kind of the same name.

        Raises nothing: an error of a plugin ends the command that loads it.
        """
