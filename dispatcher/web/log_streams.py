"""Logs that are followed: each has a thread, so there is a bound on how many there are.

Owns their number, their end, and what goes over the wire.  Must not know where logs come from.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import threading
from collections.abc import AsyncGenerator, Generator

from shell_runner.errors import NosejobsError
from shell_runner.jobs.log_position import LogChunk

#: Logs that are followed at the same time.
MOST = 32
#: Logs that are read at the same time: fewer than there are threads for all that is asked, so that
#: hosts that do not answer keep nobody from asking for something else.
READ = 16
#: Pieces that a reader is ahead of who it reads for.
_AHEAD = 4


class TooMany(NosejobsError):
    """More logs are read than this dispatcher has threads for; try again later."""


class Streams:
    """All logs that are being followed."""

    def __init__(self) -> None:
        self._free = threading.Semaphore(MOST)
        self._unread = threading.Semaphore(READ)
        self._readers: set[_Reader] = set()
        self._ended = False

    def end(self) -> None:
        """No log is followed any further; in the loop."""
        self._ended = True
        for reader in tuple(self._readers):
            reader.stop()

    def counted(self, pieces: Generator[LogChunk, None, None]) -> Generator[LogChunk, None, None]:
        """The same pieces, if not too many others are read; TooMany instead of the first."""
        if not self._unread.acquire(blocking=False):
            raise TooMany
        try:
            with contextlib.closing(pieces):
                yield from pieces
        finally:
            self._unread.release()

    async def events(self, pieces: Generator[LogChunk, None, None]) -> AsyncGenerator[bytes, None]:
        """Server-sent events."""
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        # Whoever follows knows that there is somebody, before there is a log.
        yield b": here\n\n"
        try:
            async with contextlib.aclosing(self._read(pieces)) as found:
                async for piece in found:
                    text = decoder.decode(piece.data, piece.is_end)
                    yield (
                        _event("log", {"text": text}, str(piece.position))
                        if text
                        else b": still\n\n"
                    )
        except NosejobsError as error:
            yield _event("trouble", {"detail": str(error)})
            return
        if not self._ended:
            yield _event("end", {})

    async def _read(
        self, pieces: Generator[LogChunk, None, None]
    ) -> AsyncGenerator[LogChunk, None]:
        if self._ended or not self._free.acquire(blocking=False):
            raise TooMany
        reader = _Reader(pieces, asyncio.get_running_loop(), self._free)
        self._readers.add(reader)
        try:
            reader.start()
            while (found := await reader.queue.get()) is not None:
                if isinstance(found, NosejobsError):
                    raise found
                yield found
        finally:
            self._readers.discard(reader)
            reader.stop()


class _Reader(threading.Thread):
    """Reads one log.  A thread that waits for a host ends when that has answered."""

    def __init__(
        self,
        pieces: Generator[LogChunk, None, None],
        loop: asyncio.AbstractEventLoop,
        free: threading.Semaphore,
    ) -> None:
        super().__init__(name="web-log", daemon=True)
        self.queue: asyncio.Queue[LogChunk | NosejobsError | None] = asyncio.Queue(_AHEAD)
        self._pieces, self._loop, self._free = pieces, loop, free
        self._stopped = False

    def stop(self) -> None:
        """Nobody reads any more; in the loop."""
        self._stopped = True
        while not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(None)

    def run(self) -> None:
        """To the end, or until it is stopped."""
        try:
            with contextlib.closing(self._pieces):
                self._run()
        finally:
            self._free.release()

    def _run(self) -> None:
        try:
            for piece in self._pieces:
                if not self._put(piece):
                    return
            self._put(None)
        except NosejobsError as error:
            self._put(error)
        except Exception as error:
            self._put(NosejobsError(f"the log cannot be read: {type(error).__name__}: {error}"))

    def _put(self, found: LogChunk | NosejobsError | None) -> bool:
        """Once there is room for it; False: nobody waits for it."""
        if self._stopped:
            return False
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            put = self.queue.put(found)
            try:
                asyncio.run_coroutine_threadsafe(put, self._loop).result()
            finally:
                put.close()
            return not self._stopped
        return False


def _event(name: str, values: dict[str, str], place: str = "") -> bytes:
    """JSON has no line ends, so that a text cannot make an event of its own."""
    head = f"id: {place}\n" if place else ""
    return f"{head}event: {name}\ndata: {json.dumps(values)}\n\n".encode()
