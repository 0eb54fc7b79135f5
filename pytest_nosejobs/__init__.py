"""Pytest glue: non-Python tests as items, run here and on hosts.

This package owns options, collection, the run loop and reports.  It knows
``shell_runner`` and nothing of builds or stages.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """The warning that users filter by name; nothing is imported before pytest asks for us."""
    if name == "LeftoversWarning":
        from .leftover_warnings import LeftoversWarning

        return LeftoversWarning
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
