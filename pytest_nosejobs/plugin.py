"""The hooks that every session has, also one without shell tests.

PYTEST_DONT_REWRITE: each session in which the plugin is installed loads this module and what it
imports.  ``session_plugin`` has everything else; it is loaded with the first option, host, file or
report that needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shell_runner.collection.file_names import resembles_test
from shell_runner.config_file import find_root

from . import newhooks, option_definitions
from .fast_directory import create_directory

if TYPE_CHECKING:
    from .session_plugin import SessionPlugin

#: Options of pytest for which the other hooks are needed before a test is collected.
_EARLY_OPTIONS = ("markers", "usepdb")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Define the plugin's options."""
    option_definitions.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Define the plugin's own hooks."""
    pluginmanager.add_hookspecs(newhooks)


def pytest_configure(config: pytest.Config) -> None:
    """Create the plugin object of a session, and load what its options require."""
    loader = SessionPluginLoader(config)
    config.pluginmanager.register(loader, "nosejobs-loader")
    if config.getoption("dist", "no") != "no":
        config.pluginmanager.register(XdistReportHooks(loader), "nosejobs-xdist-reports")
    if _is_needed_early(config):
        loader.load()


class SessionPluginLoader:
    """Loads the hooks of a session when there is a file, or a report, of a shell test."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._patterns = tuple(config.getini("nosejobs_patterns"))
        self._import_path = sys.path[:]
        self._has_started = False
        self._loaded: SessionPlugin | None = None

    def load(self) -> SessionPlugin:
        """Return the other hooks; the first call registers them.

        Raises pytest.UsageError for invalid options, or an invalid nosejobs.toml.
        """
        if self._loaded is None:
            self._loaded = self._register()
            if self._has_started:
                self._loaded.start_session()
        return self._loaded

    def _register(self) -> SessionPlugin:
        """Import the other hooks and register them.

        Pytest may have added folders of Python tests to the path, with a queue.py of their own.
        """
        current, sys.path[:] = sys.path[:], self._import_path
        try:
            from .session_plugin import register_session_plugin
        finally:
            sys.path[:] = current
        return register_session_plugin(self._config, not self._has_started)

    def pytest_sessionstart(self) -> None:
        """Start opening the hosts."""
        self._has_started = True
        if self._loaded is not None:
            self._loaded.start_session()

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> Any:
        """Collect a program."""
        if file_path.suffix == ".py":
            return None
        is_named = parent.session.isinitpath(file_path)
        if self._loaded is None and not is_named and not self._resembles_test(file_path.name):
            return None
        return self.load().collection.collect(str(file_path), parent, is_named)

    def collect_unnamed(self, path: str, parent: pytest.Collector) -> Any:
        """Collect a program that is not named on the command line, for ``fast_directory``."""
        if self._loaded is None and not self._resembles_test(os.path.basename(path)):
            return None
        return self.load().collection.collect(path, parent, is_named=False)

    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> Any:
        """Collect a folder faster than pytest."""
        return create_directory(path, parent, self)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Write the sections of shell tests, at their place among those of other plugins."""
        if self._loaded is not None:
            self._loaded.write_summary(terminalreporter)

    def _resembles_test(self, name: str) -> bool:
        return resembles_test(name, self._patterns)


class XdistReportHooks:
    """A plugin for the controller of xdist, which publishes the reports of its workers itself."""

    def __init__(self, loader: SessionPluginLoader) -> None:
        self._loader = loader

    @pytest.hookimpl(wrapper=True)
    def pytest_report_from_serializable(
        self, data: dict[str, Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Restore the text of a failure; called in a thread for each worker."""
        if "nosejobs_host" not in data:
            return (yield)
        from .failure_text import take_text

        text = take_text(data)
        report = yield
        if text is not None and report is not None:
            report.longrepr = text
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, None, None]:
        """Do around the hook what the publisher does when it calls it."""
        if not hasattr(report, "nosejobs_host"):
            return (yield)
        publisher = self._loader.load().services.publisher
        publisher.prepare(report)
        yield
        publisher.complete(report)


def _is_needed_early(config: pytest.Config) -> bool:
    """Return whether options, a conftest file or nosejobs.toml concern shell tests."""
    return (
        option_definitions.has_settings(config)
        or any(config.getoption(name, False) for name in _EARLY_OPTIONS)
        or bool(config.hook.pytest_nosejobs_formats.get_hookimpls())
        or find_root(config.rootpath) is not None
        or any(_may_be_case(arg, config.invocation_params.dir) for arg in config.args)
    )


def _may_be_case(arg: str, base: Path) -> bool:
    """Return whether pytest may have to be told what an argument with ``::`` or ``[`` means."""
    path = arg.partition("::")[0].partition("[")[0]
    return path != arg and not (path.endswith(".py") and os.path.isfile(base / path))
