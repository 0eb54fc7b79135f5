"""Logs that clients follow, as server-sent events.

Each followed log has a thread, so their number is limited.  Must not know where logs come from.
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

#: Maximum number of logs that are followed at the same time.
MAX_FOLLOWED_LOGS = 32
#: Maximum number of logs that are read at the same time: fewer than there are threads for
#: requests, so that hosts that do not answer do not block other requests.
MAX_READ_LOGS = 16
#: Maximum number of chunks that a thread has read and the client has not received.
_MAX_QUEUED_CHUNKS = 4


class TooManyReaders(NosejobsError):
    """Too many logs are being read; try again later."""


class LogStreams:
    """All logs that are being followed."""

    def __init__(self) -> None:
        self._free_slots = threading.Semaphore(MAX_FOLLOWED_LOGS)
        self._read_slots = threading.Semaphore(MAX_READ_LOGS)
        self._readers: set[_ReaderThread] = set()
        self._is_stopped = False

    def stop(self) -> None:
        """Stop to follow logs; to be called in the event loop."""
        self._is_stopped = True
        for reader in tuple(self._readers):
            reader.stop()

    def limit_readers(
        self, chunks: Generator[LogChunk, None, None]
    ) -> Generator[LogChunk, None, None]:
        """Yield the same chunks.

        Raises ``TooManyReaders`` instead of the first one if too many other logs are read.
        """
        if not self._read_slots.acquire(blocking=False):
            raise TooManyReaders
        try:
            with contextlib.closing(chunks):
                yield from chunks
        finally:
            self._read_slots.release()

    async def events(self, chunks: Generator[LogChunk, None, None]) -> AsyncGenerator[bytes, None]:
        """Yield server-sent events; an error ends them with an event ``failure``."""
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        # The client learns that the connection works before there is a log.
        yield b": here\n\n"
        try:
            async with contextlib.aclosing(self._read(chunks)) as found:
                async for chunk in found:
                    text = decoder.decode(chunk.data, chunk.is_end)
                    yield (
                        _format_event("log", {"text": text}, str(chunk.position))
                        if text
                        else b": still\n\n"
                    )
        except NosejobsError as error:
            yield _format_event("failure", {"detail": str(error)})
            return
        if not self._is_stopped:
            yield _format_event("end", {})

    async def _read(
        self, chunks: Generator[LogChunk, None, None]
    ) -> AsyncGenerator[LogChunk, None]:
        if self._is_stopped or not self._free_slots.acquire(blocking=False):
            raise TooManyReaders
        reader = _ReaderThread(chunks, asyncio.get_running_loop(), self._free_slots)
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


class _ReaderThread(threading.Thread):
    """A thread that reads one log.  While it waits for a host, it cannot be stopped."""

    def __init__(
        self,
        chunks: Generator[LogChunk, None, None],
        loop: asyncio.AbstractEventLoop,
        free_slots: threading.Semaphore,
    ) -> None:
        super().__init__(name="web-log", daemon=True)
        self.queue: asyncio.Queue[LogChunk | NosejobsError | None] = asyncio.Queue(
            _MAX_QUEUED_CHUNKS
        )
        self._chunks, self._loop, self._free_slots = chunks, loop, free_slots
        self._is_stopped = False

    def stop(self) -> None:
        """Stop reading; to be called in the event loop."""
        self._is_stopped = True
        while not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(None)

    def run(self) -> None:
        """Read to the end, or until ``stop`` is called."""
        try:
            with contextlib.closing(self._chunks):
                self._run()
        finally:
            self._free_slots.release()

    def _run(self) -> None:
        try:
            for chunk in self._chunks:
                if not self._put(chunk):
                    return
            self._put(None)
        except NosejobsError as error:
            self._put(error)
        except Exception as error:
            self._put(NosejobsError(f"the log cannot be read: {type(error).__name__}: {error}"))

    def _put(self, found: LogChunk | NosejobsError | None) -> bool:
        """Put a chunk into the queue once it has room; return False if the client is gone."""
        if self._is_stopped:
            return False
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            put = self.queue.put(found)
            try:
                asyncio.run_coroutine_threadsafe(put, self._loop).result()
            finally:
                put.close()
            return not self._is_stopped
        return False


def _format_event(name: str, values: dict[str, str], position: str = "") -> bytes:
    """Return the bytes of an event.  JSON has no line ends, so a text cannot contain an event."""
    head = f"id: {position}\n" if position else ""
    return f"{head}event: {name}\ndata: {json.dumps(values)}\n\n".encode()
