"""A client of the dispatcher's API: its URL, requests, and errors.

Must not know commands, nor how responses are shown.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import requests

from shell_runner.errors import NosejobsError
from shell_runner.text import strip_control_chars

from ..configuration import settings

API_ROOT = "/api/v1"
URL_VARIABLE = "NOSEJOBS_URL"
#: Seconds that a connection and a response may take.
_REQUEST_TIMEOUTS = (5.0, 60.0)
#: Maximum bytes of a line of server-sent events; a chunk of a log is one line.
_MAX_EVENT_LINE_BYTES = 16 << 20
#: Fields of an event that are read; others are ignored.
_EVENT_FIELDS = ("event", "data", "id")
#: Seconds that one request waits for a change.
MAX_WAIT_SECONDS = 25.0
#: Seconds between two requests to a dispatcher that is being restarted.
_RETRY_DELAYS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)

T = TypeVar("T")


class RequestRefused(NosejobsError):
    """The dispatcher has rejected a request."""


class DispatcherUnreachable(NosejobsError):
    """No dispatcher answers."""


class ServerSentEvent(NamedTuple):
    """A server-sent event."""

    name: str
    data: dict[str, Any]
    id: str = ""


def find_url(given: str | None, folder: Path) -> str:
    """Return the URL of the dispatcher.

    It is ``given``, else ``$NOSEJOBS_URL``, else that of the dispatcher whose settings are in
    ``folder`` or above, else the default.  Raises ``RequestRefused`` if it is not a URL.
    """
    url = given or os.environ.get(URL_VARIABLE) or _read_noted_url(folder)
    url = url or f"http://127.0.0.1:{settings.DEFAULT_PORT}"
    if not url.startswith(("http://", "https://")):
        raise RequestRefused(
            f"{strip_control_chars(url)} is not a URL\n  try: http://127.0.0.1:{settings.DEFAULT_PORT}"
        )
    return url.rstrip("/")


def _read_noted_url(folder: Path) -> str:
    """Return the URL that ``nosejobs up`` has written for this folder or one above; or nothing."""
    for each in (folder, *folder.parents):
        path = each / settings.FILE_NAME
        if path.is_file():
            data = settings.parse(path.read_bytes(), each, str(path)).data
            return read_url(data)
    return ""


def read_url(data: Path) -> str:
    """Return the URL in a data folder; empty if no dispatcher uses the folder."""
    try:
        return (data / settings.ADDRESS_FILE).read_text("utf-8", "replace").strip()
    except OSError:
        return ""


class ApiClient:
    """A connection to the API of one dispatcher."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = requests.Session()
        # The dispatcher is on this machine: ignore proxies of the environment.
        self._session.trust_env = False

    def get(self, path: str, **parameters: Any) -> Any:
        """Return the current value."""
        return _parse_json(self._send("GET", path, params=parameters))

    def wait_for_change(self, path: str, etag: str, **parameters: Any) -> tuple[Any, str]:
        """Return the value as soon as its ETag differs from ``etag``, and its ETag.

        The value is None if it has not changed within ``MAX_WAIT_SECONDS``.
        """
        headers = {"If-None-Match": etag} if etag else {}
        query = {**parameters, "wait": MAX_WAIT_SECONDS} if etag else parameters
        response = self._send("GET", path, params=query, headers=headers)
        etag = response.headers.get("ETag", etag)
        return (None if response.status_code == 304 else _parse_json(response)), etag

    def stream_bytes(self, path: str) -> Iterator[bytes]:
        """Yield bytes as they arrive."""
        response = self._send("GET", path, stream=True)
        try:
            with response:
                yield from response.iter_content(chunk_size=1 << 16)
        except requests.RequestException as error:
            raise self._unreachable_error(error) from error

    def post(self, path: str, **body: Any) -> Any:
        """Request an action; return its result."""
        return _parse_json(self._send("POST", path, json=body))

    def stream_events(self, path: str, position: str = "") -> Iterator[ServerSentEvent]:
        """Yield the events of a growing log, until the dispatcher ends them or is gone."""
        parameters = {"offset": position} if position else {}
        response = self._send("GET", path, params=parameters, stream=True)
        try:
            with response:
                yield from _parse_events(_split_lines(response.iter_content(chunk_size=None)))
        except requests.RequestException as error:
            raise self._unreachable_error(error) from error

    def _send(self, method: str, path: str, **more: Any) -> requests.Response:
        try:
            response = self._session.request(
                method,
                f"{self.url}{API_ROOT}{path}",
                timeout=_REQUEST_TIMEOUTS,
                allow_redirects=False,
                **more,
            )
        except requests.RequestException as error:
            raise self._unreachable_error(error) from error
        if response.status_code >= 400:
            _raise_problem(response, self.url)
        return response

    def _unreachable_error(self, error: Exception) -> DispatcherUnreachable:
        hint = f"start it with nosejobs up, or give its URL: --url, {URL_VARIABLE}"
        where = _hide_credentials(self.url)
        return DispatcherUnreachable(
            f"no dispatcher answers at {where} ({_describe_connection_error(error)})\n  try: {hint}"
        )


def retry_until_reachable(call: Callable[[], T], say: Callable[[str], None]) -> T:
    """Return the result of ``call``; repeat it for half a minute if no dispatcher answers."""
    for delay in _RETRY_DELAYS:
        try:
            return call()
        except DispatcherUnreachable as error:
            if delay == _RETRY_DELAYS[0]:
                say(f"{str(error).splitlines()[0]}; trying again")
            time.sleep(delay)
    return call()


def build_path(*parts: object) -> str:
    """Return a URL path with all parts quoted."""
    return "".join(f"/{quote(str(part), safe='')}" for part in parts)


def _hide_credentials(url: str) -> str:
    """Return a URL without user name and password."""
    return re.sub(r"//[^/]*@", "//", url)


def _describe_connection_error(error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return "timeout"
    return "connection refused or closed"


def _parse_json(response: requests.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError) as error:
        message = f"what answers at {_hide_credentials(response.url)} is not a nosejobs dispatcher"
        raise DispatcherUnreachable(message) from error


def _raise_problem(response: requests.Response, url: str) -> None:
    """Raise the exception for a response with an error status."""
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError, RecursionError):
        detail = f"what answers at {_hide_credentials(url)} is not a nosejobs dispatcher"
        raise DispatcherUnreachable(f"{detail} (status {response.status_code})") from None
    message = strip_control_chars(str(detail))
    raise DispatcherUnreachable(message) if response.status_code >= 500 else RequestRefused(message)


def _split_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    pending = b""
    for chunk in chunks:
        *lines, pending = (pending + chunk).split(b"\n")
        if len(pending) > _MAX_EVENT_LINE_BYTES:
            raise DispatcherUnreachable(
                f"the response has a line of more than {_MAX_EVENT_LINE_BYTES} bytes"
            )
        yield from lines


def _parse_events(lines: Iterator[bytes]) -> Iterator[ServerSentEvent]:
    fields: Mapping[str, str] = {}
    for line in lines:
        name, _, value = line.decode("utf-8", "replace").partition(": ")
        if name in _EVENT_FIELDS:
            fields = {**fields, name: value}
        elif line:
            continue  # a comment or an unknown field
        elif "data" in fields:
            data = json.loads(fields["data"])
            yield ServerSentEvent(fields.get("event", ""), data, fields.get("id", ""))
            fields = {}
        else:
            fields = {}
