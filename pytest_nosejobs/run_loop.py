"""The loop of the main thread during a run on hosts.

Pytest's hooks belong to the main thread: it reports the tests of the hosts in the order of
completion, and runs Python items in between.
"""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Protocol

import pytest

from shell_runner.run.controller import RunController
from shell_runner.run.events import ControllerCrashed, Finished, Line, RunListener

from . import other_plugins


class SessionListener(RunListener, Protocol):
    """A listener that also knows the tests of the session."""

    @property
    def open_tests(self) -> int:
        """Return the number of tests of the controller that are not reported yet."""

    def is_ready(self, item: pytest.Item) -> bool:
        """Return whether a Python item need not wait for tests on hosts."""

    def on_reported(self, item: pytest.Item) -> None:
        """Handle that a Python item has run."""


class RunLoop:
    """Passes the events of a controller to a listener until all tests are reported."""

    def __init__(
        self,
        session: pytest.Session,
        listener: SessionListener,
        python_items: Sequence[pytest.Item],
    ) -> None:
        self._session = session
        self._listener = listener
        self._python_items = python_items
        self._has_timeout = other_plugins.has_session_timeout(session.config)

    def run(self, controller: RunController) -> None:
        """Loop until all tests are reported and all Python items have run.

        Raises Session.Failed and Session.Interrupted as pytest's own loop does, and what the
        controller crashed with.
        """
        listener = self._listener
        self._check_stop()
        next_items = [*self._python_items[1:], None]
        for item, nextitem in zip(self._python_items, next_items, strict=False):
            while listener.open_tests and not listener.is_ready(item):
                self._handle_batch(controller, block=True)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
            listener.on_reported(item)
            self._check_stop()
            while listener.open_tests and self._handle_batch(controller, block=False):
                pass
        while listener.open_tests:
            self._handle_batch(controller, block=True)

    def _handle_batch(self, controller: RunController, block: bool) -> bool:
        """Return whether there was a batch of events."""
        try:
            batch = controller.results.get(block, self._listener.on_tick())
        except queue.Empty:
            return False
        if isinstance(batch, ControllerCrashed):
            raise batch.error
        for event in batch:
            if isinstance(event, Finished):
                self._listener.on_finished(event)
                if self._has_timeout and not self._session.shouldfail:
                    self._session.shouldfail = other_plugins.check_session_timeout(self._session)
                self._check_stop()
            else:
                if isinstance(event, Line):
                    controller.acknowledge_line(event)
                self._listener.on_progress(event)
        return True

    def _check_stop(self) -> None:
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)
