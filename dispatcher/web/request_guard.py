"""The checks that every request must pass before a route gets it.

Responsible for the rules against web pages of other sites, and for the limits of a request.  The
API has no authentication yet, so the server only listens on loopback.  But any page that a user of
this machine opens in a browser can make the browser send requests to it.  Therefore:

- The Host header must name this machine.  A page of another site cannot do that, even if DNS
  rebinding lets its name resolve to 127.0.0.1.
- An Origin header must be that of this server.
- A request that changes something must have a header that a form or a link cannot send (JSON as
  its type, or ``X-Nosejobs``); a script can send it only after a preflight, and none is answered.

Must not know routes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

#: Arguments of an ASGI application.
Scope = Any
Receive = Any
Send = Any

#: Header of requests that change something; a form or a link of a page cannot send it.
INTENT_HEADER = "X-Nosejobs"
#: Maximum bytes of a body, and seconds in which it has to arrive.
MAX_BODY_BYTES, BODY_TIMEOUT = 64 << 10, 10.0
PROBLEM_MEDIA_TYPE = "application/problem+json"
#: Message about an address that may not be listened on.
NOT_LOOPBACK = "not a loopback address; without authentication only 127.0.0.1 or [::1] is allowed"
#: A name or an address, and perhaps a port.
_HOST_PATTERN = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?", re.ASCII)
_READ_METHODS = ("GET", "HEAD")
#: Headers of all responses.
SECURITY_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


class RequestRejected(Exception):
    """A request does not pass the checks; ``status`` is the HTTP status of the response."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def problem(status: int, detail: str) -> dict[str, Any]:
    """Return an error in the form of RFC 9457."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }


class RequestGuard:
    """An ASGI middleware: passes on valid requests with their bodies, and rejects all others."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, _add_headers(send))
        else:
            # No route supports websockets.
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            check_headers(scope["method"], scope["headers"])
            body = await _read_body(scope, receive)
        except RequestRejected as error:
            await _send_problem(send, error.status, str(error))
            return
        await self._app(scope, _replay_body(body, receive), send)


def check_headers(method: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise ``RequestRejected`` for a request that a page of another site could have sent."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    _check_host(found.get("host", []))
    _check_origin(found.get("origin", []), found["host"][0])
    if method not in _READ_METHODS:
        _check_intent(found)


def _check_host(values: list[str]) -> None:
    if len(values) != 1:
        raise RequestRejected(400, "a request must have one Host header")
    found = _HOST_PATTERN.fullmatch(values[0])
    if not found or not is_loopback(found[1].strip("[]")):
        detail = "the Host header must be 127.0.0.1, [::1] or localhost"
        raise RequestRejected(421, detail)


def is_loopback(name: str) -> bool:
    """Return whether ``name`` is localhost or a loopback address."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _check_origin(values: list[str], host: str) -> None:
    for value in values:
        if value.lower() != f"http://{host}".lower():
            raise RequestRejected(403, "the request was sent by a page of another site")


def _check_intent(found: Mapping[str, list[str]]) -> None:
    if any(value in ("cross-site", "same-site") for value in found.get("sec-fetch-site", [])):
        raise RequestRejected(403, "the request was sent by a page of another site")
    kinds = [value.split(";")[0].strip().lower() for value in found.get("content-type", [])]
    if kinds != ["application/json"] and INTENT_HEADER.lower() not in found:
        detail = (
            "a request that changes something needs Content-Type: application/json"
            f" or {INTENT_HEADER}: 1"
        )
        raise RequestRejected(403, detail)


async def _read_body(scope: Scope, receive: Receive) -> bytes:
    """Return the complete body.  Raises ``RequestRejected`` if it is too large or late."""
    lengths = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
    if any(
        not value.isdigit() or len(value) > 18 or int(value) > MAX_BODY_BYTES for value in lengths
    ):
        raise RequestRejected(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await _receive_all(receive)
    except TimeoutError:
        raise RequestRejected(408, f"the body did not arrive within {BODY_TIMEOUT:g} s") from None


async def _receive_all(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise RequestRejected(400, "the connection ended before the request was complete")
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise RequestRejected(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
        if not message.get("more_body", False):
            return bytes(body)


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that returns the body again, and then messages of the connection."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Any:
        return left.pop() if left else await receive()

    return again


def _add_headers(send: Send) -> Send:
    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *SECURITY_HEADERS]}
        await send(message)

    return sent


async def _send_problem(send: Send, status: int, detail: str) -> None:
    body = json.dumps(problem(status, detail)).encode()
    headers = [
        (b"content-type", PROBLEM_MEDIA_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        # The rest of its body is not read.
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
