"""``nosejobs up``: the dispatcher and its API in one process, from start to Ctrl-C.

Owns the order in which they begin and end, the signals, and the file that says where it answers.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from shell_runner.text import strip_control_chars

from .configuration.settings import ADDRESS, Settings
from .service import Service
from .store import Store, key_values
from .web.app import Server, create

#: Under which the store keeps what notifications of hosts are signed with.
SECRET = "notify.secret"
#: Signals that stop the dispatcher.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Of glibc's mallopt: M_ARENA_MAX.
_ARENAS = -8


def run(settings: Settings, say: Callable[[str], None]) -> None:
    """Until SIGINT or SIGTERM."""
    _log()
    settle()
    with stop_signals() as wait_for_signal, running(settings) as server:
        say(f"nosejobs dispatcher: {server.url}, data in {settings.data}")
        say("next: nosejobs builds, nosejobs hosts; Ctrl-C ends it, and up goes on where it was")
        wait_for_signal()
        say("the dispatcher ends; jobs on hosts go on, and the next one harvests them")


def settle() -> None:
    """What a process that runs for long, and whose threads mostly wait, is better off with."""
    # Rows by the hundred thousand have no cycles: to look for some took half of the time.
    gc.set_threshold(10_000, 10, 10)
    # One heap for all threads: what each had left free was lost to the others.
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).mallopt(_ARENAS, 1)


class _Clean(logging.Formatter):
    """Words of hosts and of git are in there: they cannot drive the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return strip_control_chars(super().format(record))


def _log() -> None:
    """What goes wrong behind the scenes, on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Clean("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


@contextmanager
def running(settings: Settings) -> Iterator[Server]:
    """A dispatcher and its API."""
    service = Service(settings)
    try:
        app = create(service, partial(_package, service), notify_secret(service.store))
        server = Server(app, settings.address, settings.port)
        try:
            service.start()
            server.start()
            with _noted(settings.data / ADDRESS, server.url):
                yield server
        finally:
            server.stop()
    finally:
        service.stop()


def _package(service: Service, digest: str) -> Path | None:
    return service.blobs.path(digest) if service.blobs.holds(digest) else None


def notify_secret(store: Store) -> str:
    """Made at the first start."""
    with store.write() as connection:
        found = key_values.get(connection, SECRET)
        if found is None:
            found = secrets.token_hex(32).encode()
            key_values.put(connection, SECRET, found)
    return found.decode()


@contextmanager
def _noted(path: Path, url: str) -> Iterator[None]:
    """Where it answers, for the command line; not there when nobody does."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(f"{url}\n")
    os.replace(part, path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def stop_signals() -> Iterator[Callable[[], None]]:
    """Handle SIGINT and SIGTERM; yield a function that waits for the first one of them.

    The second one ends the process at once.

    The function reads from a pipe to which the interpreter writes the numbers of signals.  A
    ``threading.Event`` does not work here: a signal right before the main thread blocks would
    not wake it, and ``set`` in a handler that interrupts ``wait`` would block for ever.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    has_received = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal has_received
        if has_received:
            os._exit(128 + number)
        has_received = True

    def wait() -> None:
        while os.read(reader, 1)[0] not in _STOP_SIGNALS:
            pass

    old_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    old_handlers = {number: signal.signal(number, handle) for number in _STOP_SIGNALS}
    try:
        yield wait
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_writer)
        os.close(reader)
        os.close(writer)
