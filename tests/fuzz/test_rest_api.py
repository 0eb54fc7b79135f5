"""A fuzzer of the REST API: any request gets the response that the OpenAPI document describes.

Requests go through a socket to the real application with a real database.  A response is never an
internal error; an error is a problem (RFC 9457); a request that only reads or is refused changes
nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import select
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import h11
import jsonschema
import pytest

from dispatcher.web.openapi import document_text
from dispatcher.web.request_guard import MAX_BODY_BYTES
from shell_runner.remote.jobs.webhook import SIGNATURE_HEADER, sign
from shell_runner.remote.protocol.job import JobTest
from shell_runner.remote.protocol.model import Execution
from shell_runner.remote.protocol.model import Test as Program
from tests.helpers import package_factories
from tests.helpers.fuzzing import iterate_seeds, load_corpus, mutate
from tests.helpers.json_mutation import ODD_VALUES, change_json
from tests.integration.dispatcher import api_server
from tests.integration.dispatcher.api_server import SECRET, RunningApi

PROBLEM = "application/problem+json"
#: Requests to one database; then a new one begins, so that it does not grow.
_REQUESTS_PER_DATABASE = 100
_TIMEOUT = 30.0
#: Seconds to wait for the response to a request that is not complete: it can be refused at once.
_INCOMPLETE_AFTER = 0.5
#: Values of parameters that are valid for some route, or odd.
_TEXTS = (
    "1", "2", "0", "-1", "unit", "smoke", "audit", "app", "h1", "built", "failed", "ship", "main",
    "abcd", "tests/test_b.sh", "01", "1.0", "1e3", "nan", "inf", "0.01", "9" * 30, str(1 << 62),
    str(1 << 63), "", "x", "..", "../..", "%", "a/b", "\0", "\n", "é", "\u202e", "'", '"', "null",
    "x" * 400, "1:0:0", "1:99:5", ":::",
)  # fmt: skip
#: Seconds to wait that make a run slow are left out.
_WAITS = ("0", "0.01", "-1", "61", "nan", "inf", "x", "1e-3", "")
_HOSTS = ("127.0.0.1", "localhost", "[::1]", "127.9.9.9:1")
_ODD_HOSTS = ("example.org", "127.0.0.1.example.org", "", "0", "[::1", "localhost:999999", "\xe9")
_ODD_HEADERS = (
    ("Origin", "http://example.org"), ("Origin", "null"), ("Sec-Fetch-Site", "cross-site"),
    ("Content-Type", "text/plain"), ("Content-Type", "application/json; charset=latin-1"),
    ("Content-Type", "multipart/form-data; boundary=x"), ("Content-Type", "\xff"),
    ("Content-Length", "5"), ("Content-Length", "-1"), ("Content-Length", "99999999"),
    ("Transfer-Encoding", "chunked"), ("Expect", "100-continue"), ("If-None-Match", "*"),
    ("If-None-Match", '"x", \xe9'), ("Last-Event-ID", "1:5:\xe9"), ("Accept", "text/html"),
    (SIGNATURE_HEADER, "sha256=\xe9"), ("X-HTTP-Method-Override", "DELETE"),
    ("Upgrade", "websocket"), ("Range", "bytes=0-"), ("X-Forwarded-For", "10.0.0.1"),
    ("X", "y" * 5000),
)  # fmt: skip
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "x")


class Operation(NamedTuple):
    """An operation of the document."""

    path: str
    method: str
    definition: dict[str, Any]


@cache
def read_document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    document: dict[str, Any] = json.loads(document_text())
    return document


@cache
def list_operations() -> list[Operation]:
    """Return all operations of the document."""
    return [
        Operation(path, method.upper(), definition)
        for path, methods in read_document()["paths"].items()
        for method, definition in methods.items()
    ]


#: The values of each path parameter that exist in the database.
_EXISTING: dict[str, tuple[str, ...]] = {
    "build": ("1", "2"), "stage": ("unit", "smoke", "regression", "audit"), "host": ("h1", "h 2/é"),
    "source": ("app",), "number": ("0", "1"), "job": tuple(map(api_server.uuid, (100, 400))),
}  # fmt: skip
_BODIES: dict[str, Any] = {
    "ActionRequest": {"actor": "ann", "reason": ""},
    "ReasonRequest": {"actor": "ann", "reason": "because"},
    "RerunRequest": {"actor": "ann", "reason": "", "failed_only": True},
    "PollRequest": {"actor": "", "reason": ""},
    "notify": {"id": api_server.uuid(100), "end_reason": "completed"},
}


class Request(NamedTuple):
    """A request: its method, its path as it is sent, without the query, and its bytes."""

    method: str
    path: str
    data: bytes


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return api_server.create_database(tmp_path_factory.mktemp("empty"))


def add_rows(api: RunningApi) -> None:
    """Add builds, hosts, jobs, results, and the package of each job."""
    with api.store.write() as connection:
        first = api_server.add_build(connection)
        api_server.add_build(connection, "beef" * 10)
        for stage, failed in (("unit", ""), ("audit", "tests/test_b.sh")):
            job = api_server.finish_stage(connection, first, stage, failed=failed)
            package_factories.write_package(
                api.service.settings.data / f"p1-{job[-4:]}", job,
                [JobTest("t", Program(0, "t"))], [(0, 1, Execution(0, exit_status=0))],
                {"log.txt": b"a log\n\xff\x1b[2J\n"},
            )  # fmt: skip
        api_server.add_host(connection)
        api_server.add_host(connection, "h 2/é")


# -- requests ---------------------------------------------------------------------------


def make_request(rng: random.Random, corpus: list[bytes]) -> Request:
    """Return a request to a route, most of it valid; sometimes any bytes."""
    operation = rng.choice(list_operations())
    path = _make_path(rng, operation)
    method = rng.choice(_METHODS) if rng.random() < 0.1 else operation.method
    target = path + _make_query(rng, operation)
    body = _make_body(rng, operation)
    head = [f"{method} {target} HTTP/1.1", *map(": ".join, _make_headers(rng, body))]
    data = "\r\n".join([*head, "", ""]).encode("latin-1") + body
    kind = rng.random()
    if kind < 0.03:
        data = mutate(rng, data)
    elif kind < 0.06:
        data = mutate(rng, rng.choice(corpus))
    return parse_request(data)


def parse_request(data: bytes) -> Request:
    """Return the request of some bytes; what is not HTTP has no path."""
    parts = data.decode("latin-1").partition("\r\n")[0].split(" ")
    return Request(parts[0], parts[1].partition("?")[0] if len(parts) == 3 else "", data)


def _make_path(rng: random.Random, operation: Operation) -> str:
    def value(match: re.Match[str]) -> str:
        if rng.random() < 0.8:
            return quote(rng.choice(_EXISTING[match[1]]), safe="")
        text = rng.choice(_TEXTS)
        return quote(text, safe=rng.choice(("", "/.")))

    path = re.sub(r"\{(\w+)\}", value, operation.path)
    if rng.random() < 0.05:
        path = rng.choice((path + "/", "/" + path, path[:-1], path.upper(), "*", "/", path + "%ff"))
    return path


def _make_query(rng: random.Random, operation: Operation) -> str:
    pairs = []
    for parameter in operation.definition.get("parameters", ()):
        name = parameter["name"]
        if parameter["in"] == "query" and rng.random() < 0.3:
            values = _WAITS if name == "wait" else _TEXTS
            pairs += [(name, rng.choice(values)) for _ in range(rng.choice((1, 1, 1, 2, 12)))]
    if rng.random() < 0.05:
        pairs.append((rng.choice(_TEXTS), rng.choice(_TEXTS)))
    if rng.random() < 0.02:
        return "?" + rng.choice(("%", "&&", "=", "%ff=%ff", "wait=0;wait=0", "a" * 3000))
    return f"?{urlencode(pairs)}" if pairs else ""


def _make_headers(rng: random.Random, body: bytes) -> list[tuple[str, str]]:
    headers = [("Host", rng.choice(_HOSTS)), ("Connection", "close")]
    if body or rng.random() < 0.5:
        headers.append(("Content-Length", str(len(body))))
        headers.append(("Content-Type", "application/json"))
    headers.append((SIGNATURE_HEADER, sign(SECRET, body)))
    if rng.random() < 0.2:
        headers.append(("X-Nosejobs", "1"))
    if rng.random() < 0.2:
        headers.append(rng.choice(_ODD_HEADERS))
    if rng.random() < 0.05:
        headers[0] = ("Host", rng.choice(_ODD_HOSTS))
    if rng.random() < 0.03:
        del headers[rng.randrange(len(headers))]
    return headers


def _make_body(rng: random.Random, operation: Operation) -> bytes:
    if operation.method == "GET" and rng.random() < 0.95:
        return b""
    text = json.dumps(operation.definition.get("requestBody", {}))
    names = re.findall(r"schemas/(\w+)", text) or ["notify"]
    value = _BODIES[names[0]]
    if rng.random() < 0.5:
        value = change_json(rng, value)
    body = json.dumps(value).encode()
    kind = rng.random()
    if kind < 0.05:
        return mutate(rng, body)
    if kind < 0.1:
        odd = (b"", b"[" * 30_000, b'{"a":' * 9_000, b"\xff", b"9" * 5_000, b" " * 66_000, b"nul")
        return rng.choice(odd)
    if kind < 0.15:
        return json.dumps(rng.choice(ODD_VALUES)).encode()
    return body


# -- responses --------------------------------------------------------------------------


def exchange(api: RunningApi, request: Request) -> tuple[int, dict[str, str], bytes]:
    """Send a request; return status, headers and the body of the response.

    Raises BadStatusLine if there is none, since the request is not complete.
    """
    port = int(api.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), _TIMEOUT) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before its end
            connection.sendall(request.data)
        if not is_complete(request.data):
            select.select([connection], [], [], _INCOMPLETE_AFTER)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(connection, method=request.method)
        response.begin()
        body = response.read()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, body


def is_complete(data: bytes) -> bool:
    """Return whether a server would answer a request without any further byte."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=64 << 10)
    parser.receive_data(data)
    try:
        while (event := parser.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.EndOfMessage):
                return True
    except h11.RemoteProtocolError:
        return True
    return False


def find_operation(path: str, method: str) -> Operation | None:
    """Return the operation of a path as it is sent, without its query."""
    for operation in list_operations():
        pattern = re.sub(r"\{\w+\}", "[^/]+", operation.path)
        if operation.method == method and re.fullmatch(pattern, path):
            return operation
    return None


@cache
def make_validator(schema: str) -> jsonschema.Draft202012Validator:
    """Return the validator of a schema, given as JSON, of the document."""
    whole = {**json.loads(schema), "components": read_document()["components"]}
    return jsonschema.Draft202012Validator(whole)


def check_response(request: Request, status: int, headers: dict[str, str], body: bytes) -> None:
    """Check that the OpenAPI document describes the response."""
    media_type = headers.get("content-type", "").partition(";")[0]
    assert headers["cache-control"] == "no-store"
    operation = find_operation(request.path, request.method)
    if status >= 400:
        assert media_type == PROBLEM
        assert status != 500
        if operation is not None:
            assert str(status) in operation.definition["responses"]
        if request.method != "HEAD":
            problem = json.loads(body)
            assert problem["status"] == status
            make_validator('{"$ref": "#/components/schemas/Problem"}').validate(problem)
            assert all(c.isprintable() or c == "\n" for c in problem["detail"]), problem
            assert len(problem["detail"]) < 3000
        return
    assert operation is not None, "no such operation, and no error"
    described = operation.definition["responses"][str(status)]
    if status == 304:
        assert body == b""
        return
    schema = described["content"][media_type].get("schema", {})
    if media_type == "application/json":
        make_validator(json.dumps(schema)).validate(json.loads(body))


@pytest.fixture
def fuzz(tmp_path: Path, empty: Path) -> Callable[[random.Random], set[tuple[str, int]]]:
    """Return a function that makes requests to a new database; it returns their outcomes."""
    corpus, count = load_corpus("rest_api"), iter(range(1 << 30))

    def run(rng: random.Random) -> set[tuple[str, int]]:
        folder = tmp_path / str(next(count))
        folder.mkdir()
        outcomes = set()
        with api_server.run_api(folder, empty) as api:
            add_rows(api)
            with closing(sqlite3.connect(folder / "dispatcher.db")) as database:
                for _ in range(_REQUESTS_PER_DATABASE):
                    request = make_request(rng, corpus)
                    outcomes.add((request.method, try_request(api, database, request)))
        return outcomes

    return run


def try_request(api: RunningApi, database: sqlite3.Connection, request: Request) -> int:
    """Make a request and check all of its effects; return the status, 0 if it is not complete."""

    def read_state() -> tuple[list[str], int]:
        return list(database.iterdump()), len(api.service.poked)

    before = read_state()
    try:
        status, headers, body = exchange(api, request)
    except (http.client.BadStatusLine, ConnectionResetError):
        # A body that is refused before it was read can reset the connection.
        is_large = len(request.data) > MAX_BODY_BYTES
        assert is_large or not is_complete(request.data), request.data[:2000]
        return 0
    try:
        check_response(request, status, headers, body)
        if status >= 400 or request.method in ("GET", "HEAD"):
            assert read_state() == before, "it has changed something"
    except (AssertionError, KeyError, ValueError, jsonschema.ValidationError) as error:
        error.add_note(f"{request.data[:2000]!r}\n{status} {headers} {body[:2000]!r}")
        raise
    return status


def test_found_requests(tmp_path: Path, empty: Path) -> None:
    with api_server.run_api(tmp_path, empty) as api:
        add_rows(api)
        with closing(sqlite3.connect(tmp_path / "dispatcher.db")) as database:
            for data in load_corpus("rest_api"):
                assert try_request(api, database, parse_request(data)) > 0


def test_any_request_gets_a_described_response_and_changes_nothing_if_refused(
    fuzz: Callable[[random.Random], set[tuple[str, int]]],
) -> None:
    outcomes: set[tuple[str, int]] = set()
    for rng in iterate_seeds():
        outcomes |= fuzz(rng)
    # The fuzzer reaches the actions, and is not only refused.
    assert {("GET", 200), ("POST", 200), ("POST", 422)} <= outcomes
