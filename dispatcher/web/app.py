"""The web server: one application, on one address of this machine, in one thread.

Owns when it begins and ends.  Must not know what its routes do.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from shell_runner import __version__
from shell_runner.errors import NosejobsError

from ..hosts.job_logs import Logs
from . import actions_api, api, logs_api
from .errors import add_errors
from .parameters import Context, Service
from .request_guard import Door, is_local

_DESCRIPTION = """\
What the dispatcher of nosejobs has, and what people do to it.  For this machine alone.  Dates are
seconds since the epoch.  Errors are problems (RFC 9457) whose detail is for people.  What changes
something needs Content-Type: application/json, or the header X-Nosejobs.\
"""
#: Seconds that open requests have at the end.
_GRACE = 3


#: Seconds that the head of a request may take; who only holds a connection takes others' place.
_PATIENCE = 10.0


class CannotListen(NosejobsError):
    """The address cannot be listened on."""


def create(service: Service, packages: Callable[[str], Path | None], secret: str) -> FastAPI:
    """The application behind its door."""
    context = Context(service, Logs(service.store, packages), secret)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context.news.begin()
        yield
        context.news.end()
        context.streams.end()

    app = bare(lifespan)
    app.state.context = context
    app.add_middleware(Door)
    return app


def bare(lifespan: Any = None) -> FastAPI:
    """Routes and errors, for who only wants to know them."""
    app = FastAPI(
        title="nosejobs dispatcher",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    for module in (api, logs_api, actions_api):
        app.include_router(module.routes)
    add_errors(app)
    return app


class Server:
    """Serves an application from a thread of its own."""

    def __init__(self, app: FastAPI, address: str, port: int) -> None:
        """Listens at once; port 0: any that is free."""
        self._app = app
        self._socket = _listen(address, port)
        self._server = _Server(
            uvicorn.Config(
                app,
                log_level="error",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_GRACE,
                limit_concurrency=500,
                h11_max_incomplete_event_size=64 << 10,
                http=_Protocol,
                ws="none",
            )
        )
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()
        self._server.ready.wait()

    def stop(self) -> None:
        """Answer those who wait, and end; the port is free."""
        if self._thread.is_alive():
            self._server.end(self._app.state.context)
            self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._server.ready.set()


class _Protocol(H11Protocol):
    """The same parser whatever else is installed; who asks nothing is not waited for."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody is there."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """A piece of a request, or all of it."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """There may be another request on this connection."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        super().connection_lost(exc)
        self._rest()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._rest()
        elif self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(_PATIENCE, self.transport.close)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Server(uvicorn.Server):
    """Says when it is ready, and ends from another thread."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._own_loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it, and then say so."""
        await super().startup(sockets)
        self._own_loop = asyncio.get_running_loop()
        self.ready.set()

    def end(self, context: Context) -> None:
        """Who waits is answered first, or the grace would be waited for."""
        context.news.end()
        if self._own_loop is not None:
            self._own_loop.call_soon_threadsafe(context.streams.end)
        self.should_exit = True


def _listen(address: str, port: int) -> socket.socket:
    """On loopback, and nowhere else."""
    if not is_local(address):
        words = f"{address} is not an address of this machine alone (127.0.0.1, [::1])"
        raise CannotListen(f"{words}: nobody is asked who they are yet")
    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, where = found[0]
        if not is_local(str(where[0])):
            raise CannotListen(f"{address} is {where[0]} here, which others reach")
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(where)
            made.listen(256)
        except BaseException:
            made.close()
            raise
    except OSError as error:
        hint = "another one runs there? try: listen = in dispatcher.toml"
        raise CannotListen(
            f"cannot listen on {address}, port {port}: {error.strerror} ({hint})"
        ) from error
    made.setblocking(False)
    return made
