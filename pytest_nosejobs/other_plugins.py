"""Settings of other plugins that apply to shell tests, and what others need of their reports.

Without those plugins, all functions return what means "no setting", or do nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import pytest


def get_timeout(item: pytest.Item) -> float | None:
    """Return the seconds by pytest-timeout's marker, option, environment or ini; else None.

    Its 0 means "no timeout"; then None is returned too, as a shell test always has a timeout.
    """
    plugin: Any = _get_plugin(item.config, "timeout")
    if not hasattr(plugin, "get_env_settings"):
        return None
    marker = item.get_closest_marker("timeout")
    seconds = None
    if marker is not None:
        seconds = marker.args[0] if marker.args else marker.kwargs.get("timeout")
    if seconds is None:
        seconds = plugin.get_env_settings(item.config).timeout
    return float(seconds) if seconds and float(seconds) > 0 else None


def has_session_timeout(config: pytest.Config) -> bool:
    """Return whether a plugin has the option ``--session-timeout``."""
    return hasattr(_get_plugin(config, "timeout"), "SESSION_EXPIRE_KEY")


def check_session_timeout(session: pytest.Session) -> str:
    """Return why ``--session-timeout`` ends the session now; empty if it does not."""
    plugin: Any = _get_plugin(session.config, "timeout")
    key = getattr(plugin, "SESSION_EXPIRE_KEY", None)
    expires = session.config.stash.get(key, 0.0) if key is not None else 0.0
    if expires and expires < time.time():
        seconds = session.config.stash[plugin.SESSION_TIMEOUT_KEY]
        return f"session-timeout: {seconds} sec exceeded"
    return ""


def get_reruns(item: pytest.Item, retries: int | None) -> int:
    """Return how many times ``item`` may run again after a failure.

    ``retries``: the number in the test's metadata, or None.  It takes precedence over the
    settings of pytest-rerunfailures, except over ``--force-reruns``.
    """
    plugin = _get_plugin(item.config, "rerunfailures")
    count = getattr(plugin, "get_reruns_count", None)
    is_forced = item.config.getoption("force_reruns", None) is not None
    if retries is None:
        retries = getattr(item, "plugin_retries", None)
    if count is None or (retries is not None and not is_forced):
        return retries or 0
    return max(int(count(item) or 0), 0)


def take_retries(config: pytest.Config, items: Iterable[Any]) -> None:
    """Take the number of retries of each item from pytest-retry, which runs fixtures again."""
    plugin: Any = _get_plugin(config, "pytest-retry", "pytest_retry.retry_plugin")
    if plugin is None:
        return
    for item in items:
        markers = [each for each in item.own_markers if each.name == "flaky"]
        for mark in markers:
            item.own_markers.remove(mark)
            if item.plugin_retries is None and mark.kwargs.get("condition", True):
                item.plugin_retries = int(mark.kwargs.get("retries", plugin.Defaults.RETRIES))


def get_repeat_count(config: pytest.Config) -> int | None:
    """Return how many times each test runs by pytest-repeat's ``--count``; else None."""
    plugin = _get_plugin(config, "repeat", "pytest_repeat")
    count = config.getoption("count", 1) if plugin is not None else 1
    return int(count) if count > 1 else None


def count_program_once(config: pytest.Config, report: Any, counted: set[str]) -> None:
    """Let the bar of pytest-sugar count a program once, and not each of its cases.

    Call it before the hooks of a report of a setup, from which on the bar must have room for the
    test, or of a teardown, at which it counts the test.  ``counted``: the programs in the bar.
    """
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    if not isinstance(getattr(reporter, "tests_taken", None), int):
        return
    if report.nosejobs_program in counted:
        reporter.tests_taken -= 1
        counted.remove(report.nosejobs_program)
    if report.when == "teardown":
        counted.add(report.nosejobs_program)


def link_files(config: pytest.Config, report: Any) -> None:
    """Link the artifacts of a test in the row of pytest-html; call it before the hooks."""
    path = config.getoption("htmlpath", None)
    if not path or not report.nosejobs_files:
        return
    start = config.invocation_params.dir
    folder = os.path.dirname(start / os.path.expanduser(os.path.expandvars(path)))
    links = [
        {
            "name": os.path.basename(file),
            "format_type": "url",
            "content": quote(os.path.relpath(start / file, folder)),
            "mime_type": None,
            "extension": None,
        }
        for file in report.nosejobs_files
    ]
    report.extras = [*getattr(report, "extras", ()), *links]


def has_dependencies(config: pytest.Config) -> bool:
    """Return whether pytest-dependency is active."""
    return _get_plugin(config, "dependency") is not None


def set_execution_count(item: Any, count: int) -> None:
    """Tell ``--fail-on-flaky`` how many times ``item`` has run.  Call it after its teardown."""
    item.execution_count = count


def note_current_item(item: pytest.Item) -> None:
    """Tell teamcity-messages which test runs; its own hook comes after ours, which ends the call.

    Otherwise it would show the values that an earlier Python test has compared.
    """
    plugin: Any = getattr(item.config, "_teamcityReporting", None)
    if plugin is not None:
        plugin.current_test_item = item


def _get_plugin(config: pytest.Config, name: str, module: str = "") -> Any:
    """Return a plugin by the name of its entry point, or of its module if loaded by ``-p``."""
    manager = config.pluginmanager
    return manager.get_plugin(name) or manager.get_plugin(module or f"pytest_{name}")
