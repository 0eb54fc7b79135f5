"""What pytest's own skip and xfail marks mean for a shell test.

A conftest may put them on items.  By the ordinary protocol pytest evaluates them in its
set-up; a test that a host runs has none, so it is done here.
"""

from __future__ import annotations

import pytest
from _pytest.skipping import evaluate_skip_marks, evaluate_xfail_marks, xfailed_key


def why_skipped(item: pytest.Item) -> str | None:
    """The reason if the test is not to run; else what an xfail mark says is remembered."""
    if not any(item.iter_markers()):
        return None
    skip = evaluate_skip_marks(item)
    if skip:
        return skip.reason
    xfail = item.stash[xfailed_key] = evaluate_xfail_marks(item)
    if xfail and not xfail.run and not item.config.option.runxfail:
        return f"[NOTRUN] {xfail.reason}"
    return None


def should_fail(item: pytest.Item) -> bool:
    """An xfail mark holds; asked when the marks have been evaluated."""
    return item.stash.get(xfailed_key, None) is not None and not item.config.option.runxfail
