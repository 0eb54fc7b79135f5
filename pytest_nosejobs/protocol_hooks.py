"""Hooks of other plugins in pytest's protocol of a test: setup, call, teardown and its reports.

A test that runs on a host has no protocol of its own.  If another plugin or a conftest file takes
part in it, pytest's protocol is run around the result once that has arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest

#: The hooks of the protocol of one test.
_HOOKS = (
    "pytest_runtest_protocol",
    "pytest_runtest_setup",
    "pytest_runtest_call",
    "pytest_runtest_teardown",
    "pytest_runtest_makereport",
    "pytest_exception_interact",
)
#: Modules whose hooks do nothing for a program, by what they do.  A dot ends each name.
_IRRELEVANT_MODULES = (
    "_pytest.", f"{__package__}.",
    # Reports of their own Python tests.
    "_hypothesis_pytestplugin.", "hypothesis.", "pytest_bdd.",
    "pytest_check.",  # a fixture, which a program cannot use
    "pytest_randomly.",  # seeds of Python's generators in this process
    # Reruns and timeouts are the plugin's own, by the settings of these plugins.
    "pytest_rerunfailures.", "pytest_timeout.",
    "xdist.",
)  # fmt: skip
#: Modules whose hooks do nothing for a program unless an option is given.  That of pytest-html
#: adds ``extras`` to reports, which only its own report shows.
_IRRELEVANT_WITHOUT_OPTION = {"pytest_html.": "htmlpath"}
#: Modules whose hooks do nothing for a program unless it has a marker, or an ini option is set.
_IRRELEVANT_WITHOUT_MARKER = {
    "pytest_benchmark.": ("benchmark", ""),
    "pytest_dependency.": ("dependency", "automark_dependency"),
    "pytest_retry.": ("flaky", ""),
}


class ProtocolHooks:
    """Finds the hooks that take part in the protocol of items, by their folders."""

    def __init__(self) -> None:
        self._listeners: dict[Any, _Listeners] = {}
        self._setup_hooks: dict[Any, Sequence[Any]] = {}

    def has_listeners(self, item: pytest.Item) -> bool:
        """Return whether another plugin or a conftest file takes part."""
        hooks = item.ihook
        found = self._listeners.get(hooks)
        if found is None:
            found = self._listeners[hooks] = _find_listeners(item.config, hooks)
        return found.to_all or any(
            item.get_closest_marker(name) is not None for name in found.to_markers
        )

    def call_setup_hooks(self, item: pytest.Item) -> tuple[BaseException | None, Sequence[object]]:
        """Call the setup hooks of others, which may skip ``item``, before it is sent.

        Returns what one of them raised, and the plugins whose hooks need not be called again.
        Wrappers are left to the protocol.  Raises KeyboardInterrupt and pytest's Exit.
        """
        hooks = item.ihook
        if hooks not in self._setup_hooks:
            found = _list_relevant(item.config, hooks, "pytest_runtest_setup")
            self._setup_hooks[hooks] = [each for each in reversed(found) if not _is_wrapper(each)]
        implementations = self._setup_hooks[hooks]
        plugins = [each.plugin for each in implementations]
        capture: Any = item.config.pluginmanager.get_plugin("capturemanager")
        captures = capture.item_capture("setup", item) if capture and plugins else nullcontext()
        try:
            with captures:
                for each in implementations:
                    each.function(*[item for _ in each.argnames])
        except (KeyboardInterrupt, pytest.exit.Exception):
            raise
        except BaseException as error:
            return error, plugins
        return None, plugins


@dataclass(frozen=True)
class _Listeners:
    """The items of a folder that plugins listen to."""

    #: Whether a plugin listens to all of them.
    to_all: bool
    #: Names of the markers of those that a plugin listens to.
    to_markers: Sequence[str]


class HooksWithoutSetup:
    """The hooks of an item, without the setup hooks of plugins that have been called already."""

    def __init__(self, config: pytest.Config, hooks: Any, called: Sequence[object]) -> None:
        self._config = config
        self._hooks = hooks
        self._called = called

    def __getattr__(self, name: str) -> Any:
        hook = getattr(self._hooks, name)
        if name != "pytest_runtest_setup":
            return hook
        manager = self._config.pluginmanager
        wanted = {id(each.plugin) for each in hook.get_hookimpls()}
        wanted -= {id(each) for each in self._called}
        others = [each for each in manager.get_plugins() if id(each) not in wanted]
        return manager.subset_hook_caller(name, others)


def _find_listeners(config: pytest.Config, hooks: Any) -> _Listeners:
    modules = {_get_module(each) for name in _HOOKS for each in _list_relevant(config, hooks, name)}
    marked = {
        module: marker
        for module in modules
        for start, (marker, option) in _IRRELEVANT_WITHOUT_MARKER.items()
        if module.startswith(start) and not (option and config.getini(option))
    }
    return _Listeners(bool(modules - marked.keys()), sorted(set(marked.values())))


def _list_relevant(config: pytest.Config, hooks: Any, name: str) -> list[Any]:
    """Return the implementations of a hook that may do something for a program."""
    irrelevant = _IRRELEVANT_MODULES + tuple(
        module
        for module, option in _IRRELEVANT_WITHOUT_OPTION.items()
        if not config.getoption(option, None)
    )
    return [
        each
        for each in getattr(hooks, name).get_hookimpls()
        if not _get_module(each).startswith(irrelevant)
    ]


def _get_module(implementation: Any) -> str:
    """Return the name of the module of a hook, and a dot."""
    return f"{implementation.function.__module__}."


def _is_wrapper(implementation: Any) -> bool:
    return bool(implementation.hookwrapper or getattr(implementation, "wrapper", False))
