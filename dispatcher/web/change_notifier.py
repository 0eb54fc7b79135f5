"""Waiting for rows to change, for any number of clients, by one thread.

A route that waits holds no thread: it awaits here.  Must not know what has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from ..store import Changed

T = TypeVar("T")
#: Seconds between a commit and the look that it causes.
_TOGETHER = 0.02


class News:
    """Carries the store's signals from its condition into an event loop."""

    def __init__(self, changed: Changed) -> None:
        self._changed = changed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next: asyncio.Future[None] | None = None
        self._thread: threading.Thread | None = None
        self._ended = False

    def begin(self) -> None:
        """From now on, in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.create_future()
        self._thread = threading.Thread(target=self._listen, name="web-news", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Whoever waits is answered now; from any thread."""
        self._ended = True
        self._changed.signal()
        if self._thread is not None:
            self._thread.join()
            self._call(self._wake)

    @property
    def ended(self) -> bool:
        """There is nothing to wait for any more."""
        return self._ended

    def _listen(self) -> None:
        seen = self._changed.now()
        while not self._ended:
            seen = self._changed.wait(seen)
            self._call(self._wake)

    def _call(self, function: Callable[[], None]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                self._loop.call_soon_threadsafe(function)

    def _wake(self) -> None:
        if self._next is not None and self._loop is not None and not self._next.done():
            self._next.set_result(None)
            self._next = self._loop.create_future()

    async def until(self, look: Callable[[], T], enough: Callable[[T], bool], seconds: float) -> T:
        """What ``look`` finds, as soon as it is enough or the time is over."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            signal = self._next  # before the look: nothing is missed in between
            found = await run_in_threadpool(look)
            left = deadline - asyncio.get_running_loop().time()
            if enough(found) or left <= 0 or self._ended or signal is None:
                return found
            await asyncio.wait([signal], timeout=left)
            # Commits come in bursts; one look is enough for what comes together.
            await asyncio.sleep(min(_TOGETHER, left))
