"""The implementation of ``nosejobs up``: a dispatcher and its API in one process.

Responsible for the order of start and stop, for signals, and for the file with the URL of the API.
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

from .configuration.settings import ADDRESS_FILE, Settings
from .service import Service
from .store import Store, key_values
from .web.server import Server, create_app

#: Key of the secret with which hosts sign notifications, in the table ``key_value``.
NOTIFY_SECRET_KEY = "notify.secret"
#: Signals that stop the dispatcher.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Parameters of glibc's ``mallopt``.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
#: Bytes from which a block is mapped by itself, and of free memory that the heap may end with.
_MAX_HEAP_BLOCK = 128 << 10


def run(settings: Settings, say: Callable[[str], None]) -> None:
    """Run a dispatcher until SIGINT or SIGTERM."""
    _configure_logging()
    tune_process()
    with stop_signals() as wait_for_signal, run_service(settings) as server:
        say(f"nosejobs dispatcher: {server.url}, data in {settings.data}")
        say("next: nosejobs builds, nosejobs hosts; Ctrl-C stops the dispatcher")
        wait_for_signal()
        say("stopping; Ctrl-C again ends the process at once")
    say(
        "stopped; running jobs continue and are harvested after the next start"
        + ("; those of local pools start again" if settings.pools else "")
    )


def tune_process() -> None:
    """Tune the garbage collector and the heap for a long-running process with waiting threads."""
    # Hundreds of thousands of rows have no cycles; the search for cycles took half of the time.
    gc.set_threshold(10_000, 10, 10)
    # With one heap for all threads, any thread can use memory that another one has freed.
    with contextlib.suppress(OSError, AttributeError):  # another libc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        # By default glibc raises both once a large block was freed, and keeps what it could return.
        mallopt(_M_MMAP_THRESHOLD, _MAX_HEAP_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, _MAX_HEAP_BLOCK)


class _CleanFormatter(logging.Formatter):
    """A formatter that removes control characters, since messages quote hosts and git."""

    def format(self, record: logging.LogRecord) -> str:
        return strip_control_chars(super().format(record))


def _configure_logging() -> None:
    """Log warnings and errors to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _CleanFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


@contextmanager
def run_service(settings: Settings) -> Iterator[Server]:
    """Run a dispatcher and its API."""
    service = Service(settings)
    try:
        app = create_app(service, partial(_find_package, service), notify_secret(service.store))
        server = Server(app, settings.address, settings.port)
        try:
            service.start()
            server.start()
            with _publish_url(settings.data / ADDRESS_FILE, server.url):
                yield server
        finally:
            server.stop()
    finally:
        service.stop()


def _find_package(service: Service, digest: str) -> Path | None:
    return service.blobs.path(digest) if service.blobs.has(digest) else None


def notify_secret(store: Store) -> str:
    """Return the secret with which hosts sign notifications; create it at the first start."""
    with store.write() as connection:
        secret = key_values.get(connection, NOTIFY_SECRET_KEY)
        if secret is None:
            secret = secrets.token_hex(32).encode()
            key_values.put(connection, NOTIFY_SECRET_KEY, secret)
    return secret.decode()


@contextmanager
def _publish_url(path: Path, url: str) -> Iterator[None]:
    """Write the URL of the API to a file for the commands; remove it at the end."""
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
