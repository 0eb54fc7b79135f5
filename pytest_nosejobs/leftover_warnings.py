"""Warnings about processes that tests leave behind.

The host finds and kills them; this module only tells pytest.
"""

from __future__ import annotations

import contextlib
import warnings
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pytest

from shell_runner.remote.protocol.model import Execution, Test
from shell_runner.remote.protocol.verdict import format_leftovers

if TYPE_CHECKING:
    from .items import ShellItem


class LeftoversWarning(pytest.PytestWarning):
    """A test left processes behind, which were killed."""

    __module__ = "pytest_nosejobs"


def warn_of_leftovers(item: ShellItem, test: Test, execution: Execution) -> Test:
    """Issue a LeftoversWarning if the test left processes behind and asks for a warning.

    Returns the test; where warnings are errors, it is changed so that it fails for them.
    """
    if not execution.leftovers or test.leftovers != "warn":
        return test
    message = f"{item.program_id}: left {format_leftovers(execution.leftovers)}"
    try:
        with _apply_filters(item):
            # Python shows a warning once for each file and line: the registry is a new one.
            warnings.warn_explicit(LeftoversWarning(message), None, str(item.path), 1, registry={})
    except LeftoversWarning:
        return test._replace(leftovers="fail")
    return test


def _apply_filters(item: pytest.Item) -> AbstractContextManager[Any]:
    """Return a context with pytest's warning filters, in which its summary records warnings."""
    if not item.config.pluginmanager.has_plugin("warnings"):
        return contextlib.nullcontext()
    from _pytest.warnings import catch_warnings_for_item

    return catch_warnings_for_item(item.config, item.ihook, when="runtest", item=item)
