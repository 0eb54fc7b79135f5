"""The web server: one application on one loopback address, in one thread.

Responsible for its start and stop.  Must not know what the routes do.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from shell_runner import __version__
from shell_runner.errors import NosejobsError

from ..hosts.job_logs import JobLogReader
from . import actions_api, logs_api, read_api
from .errors import add_errors
from .parameters import Context, Service
from .request_guard import (
    NOT_LOOPBACK,
    PROBLEM_MEDIA_TYPE,
    SECURITY_HEADERS,
    RequestGuard,
    is_loopback,
    problem,
)

_DESCRIPTION = """\
The REST API of the nosejobs dispatcher.  It can be reached from its own machine only.  Times are
seconds since the epoch.  Errors are problems (RFC 9457) whose detail is for people.  Requests that
change something need Content-Type: application/json, or the header X-Nosejobs.\
"""
#: Seconds that open requests may take after the stop of the server.
_SHUTDOWN_TIMEOUT = 3
#: Seconds that the head of a request may take: an idle connection uses the place of another one.
_REQUEST_HEAD_TIMEOUT = 10.0
#: Maximum connections; beyond them, requests are answered with 503.
_MAX_CONNECTIONS = 500
#: Maximum connections without a complete request; beyond them, the oldest of these is closed.
_MAX_WAITING_CONNECTIONS = 100


class CannotListen(NosejobsError):
    """The server cannot listen on the address."""


def create_app(service: Service, packages: Callable[[str], Path | None], secret: str) -> FastAPI:
    """Return the application, behind its request guard.

    ``packages`` returns the path of a result package by its digest, or None if it was removed.
    ``secret`` is the key with which hosts sign notifications.
    """
    context = Context(service, JobLogReader(service.store, packages), secret)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context.change_notifier.start()
        yield
        context.change_notifier.stop()
        context.log_streams.stop()

    app = create_routes(lifespan)
    app.state.context = context
    app.add_middleware(RequestGuard)
    return app


class _Api(FastAPI):
    """An application whose document names the media type of problems."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document; FastAPI itself knows one media type for all responses."""
        document = super().openapi()
        for methods in document["paths"].values():
            for operation in methods.values():
                for status, response in operation["responses"].items():
                    if status >= "400":
                        (content,) = response["content"].values()
                        response["content"] = {PROBLEM_MEDIA_TYPE: content}
        return document


def create_routes(lifespan: Any = None) -> FastAPI:
    """Return an application that only has the routes and error handlers."""
    app = _Api(
        title="nosejobs dispatcher",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,  # it would load scripts from another site
        redoc_url=None,
        redirect_slashes=False,  # the target of a redirect would be what the request says
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    for module in (read_api, logs_api, actions_api):
        app.include_router(module.routes)
    add_errors(app)
    return app


class Server:
    """A server that runs an application in its own thread."""

    def __init__(self, app: FastAPI, address: str, port: int) -> None:
        """Listen at once, on any free port if ``port`` is 0.  Raises ``CannotListen``."""
        self._app = app
        self._socket = _listen(address, port)
        self._server = _UvicornServer(
            uvicorn.Config(
                app,
                log_level="error",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT,
                limit_concurrency=_MAX_CONNECTIONS,
                h11_max_incomplete_event_size=64 << 10,
                http=_TimedProtocol,
                ws="none",
            )
        )
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    @property
    def url(self) -> str:
        """Return the URL of the server."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self) -> None:
        """Start to answer requests; return once that has begun."""
        self._thread.start()
        self._server.has_started.wait()

    def stop(self) -> None:
        """Answer the requests that wait, stop, and free the port."""
        if self._thread.is_alive():
            self._server.request_stop(self._app.state.context)
            self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._server.has_started.set()


class _TimedProtocol(H11Protocol):
    """The h11 parser, even if others are installed; it closes idle connections.

    Clients of loopback cannot be told apart.  Therefore idle connections are limited together,
    with the oldest closed first: a client that sends its request at once is served, unless the
    other clients open more than `_MAX_WAITING_CONNECTIONS` connections in that moment.
    """

    _timer: asyncio.TimerHandle | None = None
    #: Time of the event loop since which the next request is awaited.
    _waiting_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of a new connection."""
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        self._update_timer()
        self._close_oldest_waiting()

    def data_received(self, data: bytes) -> None:
        """Parse data, and stop the timer once a request is complete."""
        super().data_received(data)
        self._update_timer()

    def on_response_complete(self) -> None:
        """Start the timer for the next request on the same connection."""
        super().on_response_complete()
        self._waiting_since = self.loop.time()
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        super().connection_lost(exc)
        self._cancel_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not valid HTTP with a problem, as other errors."""
        body = json.dumps(problem(400, msg)).encode()
        headers = [(b"content-type", PROBLEM_MEDIA_TYPE.encode()), (b"connection", b"close")]
        events: list[h11.Event] = [
            h11.Response(status_code=400, headers=[*headers, *SECURITY_HEADERS]),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ]
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _close_oldest_waiting(self) -> None:
        connections = (each for each in self.connections if isinstance(each, _TimedProtocol))
        waiting = [each for each in connections if each.is_waiting()]
        if len(waiting) > _MAX_WAITING_CONNECTIONS:
            min(waiting, key=lambda each: each._waiting_since).transport.close()

    def is_waiting(self) -> bool:
        """Return whether no complete request has arrived since the last one was answered."""
        if self.transport.is_closing():
            return False
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _update_timer(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel_timer()
        elif self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(_REQUEST_HEAD_TIMEOUT, self.transport.close)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _UvicornServer(uvicorn.Server):
    """A server that signals that it has started, and that other threads can stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = threading.Event()
        self._own_loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, and signal it."""
        await super().startup(sockets)
        self._own_loop = asyncio.get_running_loop()
        self.has_started.set()

    def request_stop(self, context: Context) -> None:
        """Stop the server.

        Requests that wait are answered first; else the stop would take ``_SHUTDOWN_TIMEOUT``.
        """
        context.change_notifier.stop()
        if self._own_loop is not None:
            self._own_loop.call_soon_threadsafe(context.log_streams.stop)
        self.should_exit = True


def _listen(address: str, port: int) -> socket.socket:
    """Return a listening socket on a loopback address.  Raises ``CannotListen``."""
    if not is_loopback(address):
        raise CannotListen(f"{address} is {NOT_LOOPBACK}")
    try:
        addresses = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, socket_address = addresses[0]
        if not is_loopback(str(socket_address[0])):
            raise CannotListen(
                f"{address} resolves to {socket_address[0]}, which is {NOT_LOOPBACK}"
            )
        server_socket = socket.socket(family, kind, protocol)
        try:
            server_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server_socket.bind(socket_address)
            server_socket.listen(256)
        except BaseException:
            server_socket.close()
            raise
    except OSError as error:
        hint = "is another dispatcher running? try: set listen in dispatcher.toml"
        raise CannotListen(
            f"cannot listen on {address}, port {port}: {error.strerror} ({hint})"
        ) from error
    server_socket.setblocking(False)
    return server_socket
