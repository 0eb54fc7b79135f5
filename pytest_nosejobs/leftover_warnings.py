"""Warnings of the processes that tests leave behind.

Owns how pytest hears of them.  What is left, and that it was killed, is the host's.
"""

from __future__ import annotations

import contextlib
import warnings
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pytest

from shell_runner.remote.model import Execution, Test
from shell_runner.remote.verdict import leftover_words

if TYPE_CHECKING:
    from .items import ShellItem


class LeftoversWarning(pytest.PytestWarning):
    """A test left processes behind, which were killed."""

    __module__ = "pytest_nosejobs"


def warn(item: ShellItem, test: Test, execution: Execution) -> Test:
    """Warn of what the test left; the test, which fails for it where warnings are errors."""
    if not execution.leftovers or test.leftovers != "warn":
        return test
    words = f"{item.nodeid}: left {leftover_words(execution.leftovers)}"
    try:
        with _filters(item):
            # A name of its own each: Python shows a warning once for a file and line.
            warnings.warn_explicit(LeftoversWarning(words), None, str(item.path), 1, registry={})
    except LeftoversWarning:
        return test._replace(leftovers="fail")
    return test


def _filters(item: ShellItem) -> AbstractContextManager[Any]:
    """pytest's own filters and summary, which know nothing of tests on hosts."""
    if not item.config.pluginmanager.has_plugin("warnings"):
        return contextlib.nullcontext()
    from _pytest.warnings import catch_warnings_for_item

    return catch_warnings_for_item(item.config, item.ihook, when="runtest", item=item)
