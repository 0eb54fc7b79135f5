"""Waiting for changes of rows: one thread serves any number of waiting requests.

A request that waits needs no thread of its own.  Must not know what has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from ..store import ChangeSignal

T = TypeVar("T")
#: Seconds between a commit and the read that it causes; commits come in bursts.
_COALESCE_DELAY = 0.02


class ChangeNotifier:
    """Forwards the signals of the store to an event loop."""

    def __init__(self, changed: ChangeSignal) -> None:
        self._changed = changed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next: asyncio.Future[None] | None = None
        self._thread: threading.Thread | None = None
        self._is_stopped = False

    def start(self) -> None:
        """Start to forward signals to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.create_future()
        self._thread = threading.Thread(target=self._listen, name="web-news", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End all waits now; may be called from any thread."""
        self._is_stopped = True
        self._changed.signal()
        if self._thread is not None:
            self._thread.join()
            self._call_in_loop(self._wake)

    @property
    def ended(self) -> bool:
        """Return whether ``stop`` was called."""
        return self._is_stopped

    def _listen(self) -> None:
        seen = self._changed.count()
        while not self._is_stopped:
            seen = self._changed.wait(seen)
            self._call_in_loop(self._wake)

    def _call_in_loop(self, function: Callable[[], None]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                self._loop.call_soon_threadsafe(function)

    def _wake(self) -> None:
        if self._next is not None and self._loop is not None and not self._next.done():
            self._next.set_result(None)
            self._next = self._loop.create_future()

    async def wait_until(
        self, read: Callable[[], T], is_enough: Callable[[T], bool], seconds: float
    ) -> T:
        """Return the value of ``read``, as soon as ``is_enough`` accepts it or the time is over."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            signal = self._next  # before the read, so that no signal in between is missed
            value = await run_in_threadpool(read)
            left = deadline - asyncio.get_running_loop().time()
            if is_enough(value) or left <= 0 or self._is_stopped or signal is None:
                return value
            await asyncio.wait([signal], timeout=left)
            await asyncio.sleep(min(_COALESCE_DELAY, left))
