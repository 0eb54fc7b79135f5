"""What pytest's own skip and xfail marks mean for a shell test.

A conftest may put them on items.  By the ordinary protocol pytest evaluates them in its
set-up; a test that a host runs has none, so it is done here.
"""

from __future__ import annotations

import pytest
from _pytest.skipping import evaluate_skip_marks, evaluate_xfail_marks, xfailed_key


def why_skipped(item: pytest.Item) -> str | None:
    """The reason if the test is not to run; else what an xfail mark says is remembered."""
    if not any(item.iter_markers()) or not item.config.pluginmanager.has_plugin("skipping"):
        return None
    skip = evaluate_skip_marks(item)
    if skip:
        return skip.reason
    item.stash[xfailed_key] = evaluate_xfail_marks(item)
    return None


def not_run(item: pytest.Item) -> str | None:
    """What pytest says of ``xfail(run=False)``; asked when the marks have been evaluated."""
    xfail = item.stash.get(xfailed_key, None)
    if xfail is None or xfail.run or item.config.option.runxfail:
        return None
    return f"[NOTRUN] {xfail.reason}"


def should_fail(item: pytest.Item) -> bool:
    """An xfail mark holds; asked when the marks have been evaluated."""
    runxfail = item.config.getoption("runxfail", False)
    return item.stash.get(xfailed_key, None) is not None and not runxfail
