"""Settings of other plugins that apply to shell tests.

They are those of pytest-timeout, pytest-rerunfailures and pytest-dependency.

Without those plugins, all functions return what means "no setting".
"""

from __future__ import annotations

import time
from typing import Any

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
    if count is None or (retries is not None and not is_forced):
        return retries or 0
    return max(int(count(item) or 0), 0)


def has_dependencies(config: pytest.Config) -> bool:
    """Return whether pytest-dependency is active."""
    return _get_plugin(config, "dependency") is not None


def set_execution_count(item: Any, count: int) -> None:
    """Tell ``--fail-on-flaky`` how many times ``item`` has run.  Call it after its teardown."""
    item.execution_count = count


def _get_plugin(config: pytest.Config, name: str) -> Any:
    """Return a plugin by the name of its entry point, or of its module if loaded by ``-p``."""
    manager = config.pluginmanager
    return manager.get_plugin(name) or manager.get_plugin(f"pytest_{name}")
