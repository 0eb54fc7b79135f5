"""The calls of ``vscode_pytest``, with which VS Code discovers and runs tests, as a plugin.

It is a reduction: the tree, the ids and the outcomes are computed as there (version of July 2026);
instead of a pipe, they are written to a file.  ``EDITOR_OUTPUT`` names it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

#: The maximum number of folders above a file; beyond it, the original reports an infinite loop.
_MAX_DEPTH = 100

#: The outcome of each id; the first one counts.
outcomes: dict[str, str] = {}
_paths: dict[str, Path] = {}


def _make_id(node_id: str, path: Path) -> str:
    return "::".join([str(path), *node_id.split("::")[1:]])


@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None]:
    """Remember where an item is."""
    _paths[item.nodeid] = item.path
    if any(each.name == "skip" for each in item.own_markers):
        outcomes.setdefault(_make_id(item.nodeid, item.path), "skipped")
    yield


@pytest.hookimpl(hookwrapper=True, trylast=True)
def pytest_report_teststatus(report: pytest.TestReport) -> Generator[None]:
    """Note the outcome of a report."""
    if report.when == "call" or (report.when == "setup" and report.skipped):
        outcome = "success" if report.passed else "failure" if report.failed else "skipped"
        path = _paths.get(report.nodeid, Path.cwd())
        outcomes.setdefault(_make_id(report.nodeid, path), outcome)
    yield


def pytest_exception_interact(node: Any, call: Any) -> None:
    """Note a failure that no report of a call tells."""
    outcome = "failure" if call.excinfo.typename == "AssertionError" else "error"
    outcomes.setdefault(_make_id(node.nodeid, node.path), outcome)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the ids by folder and file, and the outcomes."""
    tree: dict[str, Any] = {}
    for item in session.items:
        parent = item.parent
        while isinstance(parent, pytest.Class):
            parent = parent.parent
        assert parent is not None
        folders: list[str] = []
        folder = parent.path.parent
        while folder != session.path:
            folders.append(folder.name)
            folder = folder.parent
            if len(folders) > _MAX_DEPTH:
                raise ValueError(f"Infinite loop: {folder} is not below {session.path}")
        place = tree
        for name in [*reversed(folders), parent.path.name]:
            place = place.setdefault(name, {})
        _, line, _ = item.location
        place[item.name] = [
            _make_id(item.nodeid, item.path),
            str(line + 1) if line is not None else "",
        ]
    Path(os.environ["EDITOR_OUTPUT"]).write_text(json.dumps({"tree": tree, "outcomes": outcomes}))
