"""The client of the API: where it is, one request, and what an answer that is none means.

Owns addresses and statuses.  Must not know commands, nor how answers are shown.
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

ROOT = "/api/v1"
VARIABLE = "NOSEJOBS_URL"
#: Seconds that a connection, and an answer, may take.
_TIMEOUT = (5.0, 60.0)
#: Bytes of a line of events; a piece of a log is a line.
_LONGEST = 16 << 20
#: Seconds that one look waits for news.
WAIT = 25.0
#: Seconds between two requests to a dispatcher that is being started again.
_PATIENCE = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)

T = TypeVar("T")


class Refused(NosejobsError):
    """The dispatcher says no."""


class Unreachable(NosejobsError):
    """No dispatcher answers."""


class Event(NamedTuple):
    """A server-sent event."""

    name: str
    data: dict[str, Any]
    id: str = ""


def address(given: str | None, folder: Path) -> str:
    """The one that is given, else that of the dispatcher whose file is here, else the usual."""
    found = given or os.environ.get(VARIABLE) or _noted(folder)
    found = found or f"http://127.0.0.1:{settings.PORT}"
    if not found.startswith(("http://", "https://")):
        raise Refused(
            f"{strip_control_chars(found)} is no address\n  try: http://127.0.0.1:{settings.PORT}"
        )
    return found.rstrip("/")


def _noted(folder: Path) -> str:
    """What ``nosejobs up`` has written, for whoever is in its folder or below."""
    for each in (folder, *folder.parents):
        path = each / settings.NAME
        if path.is_file():
            data = settings.parse(path.read_bytes(), each, str(path)).data
            return noted(data)
    return ""


def noted(data: Path) -> str:
    """The address in a data folder; empty: no dispatcher has it."""
    try:
        return (data / settings.ADDRESS).read_text("utf-8", "replace").strip()
    except OSError:
        return ""


class Client:
    """Speaks with one dispatcher."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = requests.Session()
        # It is on this machine: no proxy has a part in it.
        self._session.trust_env = False

    def get(self, path: str, **parameters: Any) -> Any:
        """What is there now."""
        return _json(self._send("GET", path, params=parameters))

    def news(self, path: str, tag: str, **parameters: Any) -> tuple[Any, str]:
        """What is there as soon as it is something else than ``tag``, and its tag.

        None if that takes too long: ask again.
        """
        headers = {"If-None-Match": tag} if tag else {}
        given = {**parameters, "wait": WAIT} if tag else parameters
        found = self._send("GET", path, params=given, headers=headers)
        tag = found.headers.get("ETag", tag)
        return (None if found.status_code == 304 else _json(found)), tag

    def text(self, path: str) -> Iterator[bytes]:
        """Bytes as they come."""
        found = self._send("GET", path, stream=True)
        try:
            with found:
                yield from found.iter_content(chunk_size=1 << 16)
        except requests.RequestException as error:
            raise self._gone(error) from error

    def post(self, path: str, **body: Any) -> Any:
        """Do something."""
        return _json(self._send("POST", path, json=body))

    def events(self, path: str, place: str = "") -> Iterator[Event]:
        """What is said of a log that grows; over when the dispatcher says so, or is gone."""
        parameters = {"from": place} if place else {}
        found = self._send("GET", path, params=parameters, stream=True)
        try:
            with found:
                yield from _events(_lines(found.iter_content(chunk_size=None)))
        except requests.RequestException as error:
            raise self._gone(error) from error

    def _send(self, method: str, path: str, **more: Any) -> requests.Response:
        try:
            found = self._session.request(
                method, f"{self.url}{ROOT}{path}", timeout=_TIMEOUT, allow_redirects=False, **more
            )
        except requests.RequestException as error:
            raise self._gone(error) from error
        if found.status_code >= 400:
            _raise(found, self.url)
        return found

    def _gone(self, error: Exception) -> Unreachable:
        hint = f"nosejobs up, or say where it is: --url, {VARIABLE}"
        where = _shown(self.url)
        return Unreachable(f"no dispatcher answers at {where} ({_why(error)})\n  try: {hint}")


def patient(call: Callable[[], T], say: Callable[[str], None]) -> T:
    """A dispatcher that was there comes back: it is asked again for a while."""
    for wait in _PATIENCE:
        try:
            return call()
        except Unreachable as error:
            if wait == _PATIENCE[0]:
                say(f"{str(error).splitlines()[0]}; asking again")
            time.sleep(wait)
    return call()


def path(*parts: object) -> str:
    """Parts of a path, whatever stands in them."""
    return "".join(f"/{quote(str(part), safe='')}" for part in parts)


def _shown(url: str) -> str:
    """An address without who asks, and their password."""
    return re.sub(r"//[^/]*@", "//", url)


def _why(error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return "it takes too long"
    return "the connection is refused or ended"


def _json(found: requests.Response) -> Any:
    try:
        return found.json()
    except (ValueError, RecursionError) as error:
        words = f"what answers at {_shown(found.url)} is no dispatcher of nosejobs"
        raise Unreachable(words) from error


def _raise(found: requests.Response, url: str) -> None:
    """A problem in the dispatcher's own words."""
    try:
        detail = found.json()["detail"]
    except (ValueError, KeyError, TypeError, RecursionError):
        detail = f"what answers at {_shown(url)} is no dispatcher of nosejobs ({found.status_code})"
        raise Unreachable(detail) from None
    words = strip_control_chars(str(detail))
    raise Unreachable(words) if found.status_code >= 500 else Refused(words)


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    pending = b""
    for chunk in chunks:
        *lines, pending = (pending + chunk).split(b"\n")
        if len(pending) > _LONGEST:
            raise Unreachable(f"what answers has sent a line of more than {_LONGEST} bytes")
        yield from lines


def _events(lines: Iterator[bytes]) -> Iterator[Event]:
    fields: Mapping[str, str] = {}
    for line in lines:
        name, _, value = line.decode("utf-8", "replace").partition(": ")
        if name:
            fields = {**fields, name: value}
        elif not line and "data" in fields:
            data = json.loads(fields["data"])
            yield Event(fields.get("event", ""), data, fields.get("id", ""))
            fields = {}
        else:
            fields = {}
