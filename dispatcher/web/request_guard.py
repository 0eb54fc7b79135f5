"""Who may knock: the checks that every request passes before a route sees it.

Owns the rules against web pages of strangers, and the bounds on what a request may cost.  There
are no names and passwords yet, so only this machine is listened to; but any page that somebody
here looks at in a browser can make that browser send requests to this machine.  Therefore:

- The Host header names this machine: a page whose own name was bent to 127.0.0.1 does not.
- What has an Origin comes from a page of ours.
- What changes something has a header that a form or a link cannot send (JSON as its type, or
  ``X-Nosejobs``); a script could only after a preflight, and none is answered.

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

#: As ASGI has them.
Scope = Any
Receive = Any
Send = Any

#: With any value: whoever can send it is no page of a stranger.
HEADER = "X-Nosejobs"
#: Bytes of a body, and seconds in which it has to come.
MOST, PATIENCE = 64 << 10, 10.0
PROBLEM = "application/problem+json"
#: A name or an address, and a port.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?", re.ASCII)
_READS = ("GET", "HEAD")
_ALWAYS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


class Closed(Exception):
    """A request that is not let in: status, and why in words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


def problem(status: int, detail: str) -> dict[str, Any]:
    """An error as RFC 9457 has it."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }


class Door:
    """ASGI: lets in what is sound, with its whole body, and answers the rest itself."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, _with_headers(send))
        else:
            # There is nothing that speaks websocket.
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            check(scope["method"], scope["headers"])
            body = await _body(scope, receive)
        except Closed as error:
            await _refuse(send, error.status, str(error))
            return
        await self._app(scope, _replayed(body, receive), send)


def check(method: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise Closed for what a page of a stranger could have sent."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    _check_host(found.get("host", []))
    _check_origin(found.get("origin", []), found["host"][0])
    if method not in _READS:
        _check_intent(found)


def _check_host(values: list[str]) -> None:
    if len(values) != 1:
        raise Closed(400, "a request needs one Host header")
    found = _HOST.fullmatch(values[0])
    if not found or not is_local(found[1].strip("[]")):
        words = (
            "this address is for this machine alone: Host has to be 127.0.0.1, [::1] or localhost"
        )
        raise Closed(421, words)


def is_local(name: str) -> bool:
    """It is localhost, or an address of loopback."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _check_origin(values: list[str], host: str) -> None:
    for value in values:
        if value.lower() != f"http://{host}".lower():
            raise Closed(403, "the page that sent this is not one of ours")


def _check_intent(found: Mapping[str, list[str]]) -> None:
    if any(value in ("cross-site", "same-site") for value in found.get("sec-fetch-site", [])):
        raise Closed(403, "the page that sent this is not one of ours")
    kinds = [value.split(";")[0].strip().lower() for value in found.get("content-type", [])]
    if kinds != ["application/json"] and HEADER.lower() not in found:
        words = (
            f"a request that changes something needs Content-Type: application/json, or {HEADER}: 1"
        )
        raise Closed(403, words)


async def _body(scope: Scope, receive: Receive) -> bytes:
    """All of it, if it is not too much and comes in time."""
    lengths = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
    if any(not value.isdigit() or len(value) > 18 or int(value) > MOST for value in lengths):
        raise Closed(413, f"a request may have a body of {MOST} bytes")
    try:
        async with asyncio.timeout(PATIENCE):
            return await _received(receive)
    except TimeoutError:
        raise Closed(408, f"the body did not come within {PATIENCE:g} s") from None


async def _received(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Closed(400, "the connection ended before the request")
        body += message.get("body", b"")
        if len(body) > MOST:
            raise Closed(413, f"a request may have a body of {MOST} bytes")
        if not message.get("more_body", False):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body again; afterwards whatever the connection says."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Any:
        return left.pop() if left else await receive()

    return again


def _with_headers(send: Send) -> Send:
    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_ALWAYS]}
        await send(message)

    return sent


async def _refuse(send: Send, status: int, words: str) -> None:
    body = json.dumps(problem(status, words)).encode()
    headers = [
        (b"content-type", PROBLEM.encode()),
        (b"content-length", b"%d" % len(body)),
        # What is left of its body is not waited for.
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
