"""The main thread's part of a run on hosts."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

import pytest

from shell_runner.run.controller import RunController
from shell_runner.run.events import ControllerCrashed, Finished, Line

from . import other_plugins as neighbours
from .items import ShellItem

if TYPE_CHECKING:
    from .plugin import Plugin


class Loop:
    """The main thread's part: reports and Python items."""

    def __init__(self, session: pytest.Session, plugin: Plugin, items: list[ShellItem]) -> None:
        self._session = session
        self._plugin = plugin
        self._items = items
        self._local = [item for item in session.items if not isinstance(item, ShellItem)]
        self._open = len(items)
        self._has_timeout = neighbours.has_session_timeout(session.config)

    def run(self, pump: RunController) -> None:
        """Until all is reported.  Raises Session.Failed and Interrupted as pytest's own loop."""
        for number, item in enumerate(self._local):
            following = self._local[number + 1] if number + 1 < len(self._local) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            self._check()
            while self._open and self._report(pump, block=False):
                pass
        while self._open:
            self._report(pump, block=True)

    def _report(self, pump: RunController, block: bool) -> bool:
        try:
            batch = pump.results.get(block, self._plugin.tick())
        except queue.Empty:
            return False
        if isinstance(batch, ControllerCrashed):
            raise batch.error
        for news in batch:
            if isinstance(news, Finished):
                self._open -= not news.will_rerun
                self._plugin.report(news)
                if self._has_timeout and not self._session.shouldfail:
                    self._session.shouldfail = neighbours.session_timeout(self._session)
                self._check()
            else:
                if isinstance(news, Line):
                    pump.acknowledge_line(news)
                self._plugin.tell(news)
        return True

    def _check(self) -> None:
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)
