"""The meaning of pytest's own skip and xfail markers for a shell test.

A conftest file may put them on items.  In the ordinary protocol pytest evaluates them in its
setup; a test that runs on a host has none, so it is done here.
"""

from __future__ import annotations

import pytest
from _pytest.skipping import evaluate_skip_marks, evaluate_xfail_marks, xfailed_key


def evaluate_markers(item: pytest.Item) -> str | None:
    """Return the reason why ``item`` is skipped, or None.

    If it is not skipped, its xfail markers are evaluated and stored for pytest's makereport
    hook and for the functions below.
    """
    if not any(item.iter_markers()) or not item.config.pluginmanager.has_plugin("skipping"):
        return None
    skip = evaluate_skip_marks(item)
    if skip:
        return skip.reason
    item.stash[xfailed_key] = evaluate_xfail_marks(item)
    return None


def get_not_run_reason(item: pytest.Item) -> str | None:
    """Return pytest's text for ``xfail(run=False)``, or None if the test runs.

    Call it after the markers have been evaluated.
    """
    xfail = item.stash.get(xfailed_key, None)
    if xfail is None or xfail.run or item.config.option.runxfail:
        return None
    return f"[NOTRUN] {xfail.reason}"


def has_expected_failure(item: pytest.Item) -> bool:
    """Return whether an xfail marker applies, or would without ``--runxfail``.

    Call it after the markers have been evaluated.
    """
    return item.stash.get(xfailed_key, None) is not None


def is_expected_to_fail(item: pytest.Item) -> bool:
    """Return whether an xfail marker applies.

    Call it after the markers have been evaluated.
    """
    return has_expected_failure(item) and not item.config.getoption("runxfail", False)
