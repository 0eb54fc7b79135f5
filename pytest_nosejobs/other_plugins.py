"""What the settings of other plugins mean for shell tests: pytest-timeout, pytest-rerunfailures.

Owns the reading of their options, ini values and marks.  Without them nothing is asked.
"""

from __future__ import annotations

import time
from typing import Any

import pytest


def timeout(item: pytest.Item) -> float | None:
    """Seconds by pytest-timeout's mark, option, environment or ini; None if it says nothing.

    Its 0 is "no timeout": then ours holds, for no shell test is waited for without end.
    """
    plugin: Any = _plugin(item.config, "timeout")
    if not hasattr(plugin, "get_env_settings"):
        return None
    mark = item.get_closest_marker("timeout")
    given = None
    if mark is not None:
        given = mark.args[0] if mark.args else mark.kwargs.get("timeout")
    if given is None:
        given = plugin.get_env_settings(item.config).timeout
    return float(given) if given and float(given) > 0 else None


def has_session_timeout(config: pytest.Config) -> bool:
    """There is a plugin that has the option ``--session-timeout``."""
    return hasattr(_plugin(config, "timeout"), "SESSION_EXPIRE_KEY")


def session_timeout(session: pytest.Session) -> str:
    """Why the session must end now by ``--session-timeout``, or nothing."""
    plugin: Any = _plugin(session.config, "timeout")
    key = getattr(plugin, "SESSION_EXPIRE_KEY", None)
    expires = session.config.stash.get(key, 0.0) if key is not None else 0.0
    if expires and expires < time.time():
        seconds = session.config.stash[plugin.SESSION_TIMEOUT_KEY]
        return f"session-timeout: {seconds} sec exceeded"
    return ""


def _plugin(config: pytest.Config, name: str) -> Any:
    """By its entry point's name, or by its module's, if it was loaded with ``-p``."""
    manager = config.pluginmanager
    return manager.get_plugin(name) or manager.get_plugin(f"pytest_{name}")


def reruns(item: pytest.Item, said: int | None) -> int:
    """How often ``item`` may run again: ``said`` by its metadata, else by pytest-rerunfailures.

    Only ``--force-reruns`` is stronger than metadata.
    """
    plugin = _plugin(item.config, "rerunfailures")
    count = getattr(plugin, "get_reruns_count", None)
    if count is None or (said is not None and item.config.getoption("force_reruns", None) is None):
        return said or 0
    return max(int(count(item) or 0), 0)


def tell_reruns(item: Any) -> None:
    """For ``--fail-on-flaky``: how often the item has run.  Only after its teardown."""
    item.execution_count = len(item.earlier) + 1
