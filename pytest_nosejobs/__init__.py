"""Pytest plugin: non-Python tests as items that run on this machine and on hosts.

This package holds the glue to pytest: options, collection, the run loop, reports and terminal
output.  It uses ``shell_runner`` and must not know builds or stages.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Return ``LeftoversWarning``, which users name in warning filters.

    It is imported on demand, so that the package itself imports nothing.  Raises AttributeError
    for any other name.
    """
    if name == "LeftoversWarning":
        from .leftover_warnings import LeftoversWarning

        return LeftoversWarning
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
