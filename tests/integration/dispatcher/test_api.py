"""Tests of the API with a real database, through a real socket."""

import http.client
import json
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from dispatcher.store import audit, tags
from dispatcher.web.server import CannotListen, Server, create_app
from shell_runner.remote.jobs.webhook import SIGNATURE_HEADER, sign

from . import api_server
from .api_server import SECRET, RunningApi

ACTOR = {"actor": "ann", "reason": "because"}
#: The description of the API; another test compares it to the program.
DOCUMENT = Path(__file__).parents[3] / "docs" / "openapi.json"


@pytest.fixture
def build(api: RunningApi) -> int:
    """Add a build whose stage unit has passed and whose stage audit has failed."""
    return add_rows(api)


def add_rows(api: RunningApi) -> int:
    """Add a host and a build; return the number of the build."""
    with api.store.write() as connection:
        number = api_server.add_build(connection)
        api_server.finish_stage(connection, number, "unit")
        api_server.finish_stage(connection, number, "audit", failed="tests/test_b.sh")
        api_server.add_host(connection)
    return number


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, empty: Path) -> Iterator[RunningApi]:
    """Yield an API with build number 1, for tests that change nothing."""
    with api_server.run_api(tmp_path_factory.mktemp("shared"), empty) as running_api:
        assert add_rows(running_api) == 1
        yield running_api


def get(api: RunningApi, path: str, **more: Any) -> requests.Response:
    return requests.get(f"{api.url}/api/v1{path}", timeout=20, **more)


def post(api: RunningApi, path: str, body: Any = ACTOR) -> requests.Response:
    return requests.post(f"{api.url}/api/v1{path}", json=body, timeout=20)


def detail(answer: requests.Response, status: int) -> str:
    """Return the detail of a problem, after checking its form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    return str(problem["detail"])


# -- reading ------------------------------------------------------------------------


def test_a_build_is_shown_with_all_details(shared: RunningApi) -> None:
    shown = get(shared, "/builds/1").json()
    assert shown["change"]["subject"] == "more"
    stages = {stage["name"]: stage for stage in shown["stages"]}
    assert list(stages) == ["unit", "smoke", "regression", "audit"]
    assert (stages["unit"]["tagged"], stages["audit"]["tagged"]) == (True, False)
    assert stages["smoke"]["manual"]
    assert stages["audit"]["run"]["detail"] == "1 of 2 tests failed"
    assert [each["nodeid"] for each in shown["failures"]] == ["tests/test_b.sh"]
    numbers = [(each["stage"], each["name"], each["value"]) for each in shown["measurements"]]
    assert numbers == [("unit", "rate", 1234.5), ("audit", "rate", 1234.5)]
    counts = [job["counts"] for job in shown["jobs"]]
    assert [(each["passed"], each["failed"]) for each in counts] == [(1, 0), (1, 1)]


def test_a_list_has_pages_and_filters(api: RunningApi, build: int) -> None:
    with api.store.write() as connection:
        other = api_server.add_build(connection, "ef01" * 10)
    assert [each["number"] for each in get(api, "/builds").json()] == [other, build]
    assert [b["number"] for b in get(api, f"/builds?before={other}").json()] == [build]
    assert [b["number"] for b in get(api, "/builds?revision=ef01").json()] == [other]
    assert get(api, "/builds?branch=none").json() == []
    assert len(get(api, "/builds?limit=1").json()) == 1


def test_results_and_cases_of_a_job(shared: RunningApi) -> None:
    (job,) = get(shared, "/builds/1/stages/audit/jobs").json()
    assert get(shared, f"/jobs/{job['id']}").json() == job
    results = get(shared, f"/jobs/{job['id']}/results").json()
    assert [each["outcome"] for each in results] == ["passed", "failed"]
    failed = get(shared, f"/jobs/{job['id']}/results?outcome=failed").json()
    assert [each["number"] for each in failed] == [1]
    (case,) = get(shared, f"/jobs/{job['id']}/results/0/cases").json()
    assert (case["name"], case["outcome"]) == ("adds", "passed")


def test_hosts_status_and_audit(shared: RunningApi) -> None:
    (host,) = get(shared, "/hosts").json()
    assert (host["name"], host["state"], host["open_jobs"]) == ("h1", "up", 0)
    shown = get(shared, "/status").json()
    assert shown["hosts"] == {"up": 1}
    assert shown["active_builds"] == [1]
    assert [each["location"] for each in shown["sources"]] == ["/srv/app.git"]
    assert {each["build"] for each in get(shared, "/audit").json()} == {1}


def test_a_waiting_request_is_answered_after_a_commit(api: RunningApi, build: int) -> None:
    first = get(api, f"/builds/{build}")
    tag = {"If-None-Match": first.headers["ETag"]}
    assert get(api, f"/builds/{build}", headers=tag).status_code == 304
    answers: list[requests.Response] = []
    requester = threading.Thread(
        target=lambda: answers.append(get(api, f"/builds/{build}?wait=20", headers=tag))
    )
    began = time.monotonic()
    requester.start()
    post(api, f"/builds/{build}/stages/smoke/approve")
    requester.join()
    assert time.monotonic() - began < 10
    assert answers[0].status_code == 200
    assert [each["kind"] for each in answers[0].json()["decisions"]] == ["approved"]
    assert answers[0].headers["ETag"] != first.headers["ETag"]


def test_many_waiting_requests_do_not_block_others(api: RunningApi, build: int) -> None:
    tag = get(api, f"/builds/{build}").headers["ETag"]
    waiting = []
    for _ in range(60):  # more than there are threads
        connection = http.client.HTTPConnection(api.url[7:], timeout=20)
        connection.request("GET", f"/api/v1/builds/{build}?wait=30", headers={"If-None-Match": tag})
        waiting.append(connection)
    began = time.monotonic()
    assert get(api, "/hosts").ok
    post(api, f"/builds/{build}/stages/smoke/hold")
    assert {connection.getresponse().status for connection in waiting} == {200}
    assert time.monotonic() - began < 15
    for connection in waiting:
        connection.close()


def test_the_stop_does_not_wait_for_waiting_requests(api: RunningApi, build: int) -> None:
    tag = get(api, "/hosts").headers["ETag"]
    connection = http.client.HTTPConnection(api.url[7:], timeout=20)
    connection.request("GET", "/api/v1/hosts?wait=60", headers={"If-None-Match": tag})
    assert get(api, "/hosts").ok  # it waits by now
    began = time.monotonic()
    api.server.stop()
    assert time.monotonic() - began < 2.5
    connection.close()


# -- actions -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("stages/smoke/approve", "smoke of build 1 is approved"),
        ("stages/smoke/hold", "smoke of build 1 is held"),
        ("stages/smoke/tag", "build 1 is tagged smoke by hand"),
        ("stages/unit/revoke", "the tag unit of build 1 is revoked"),
        ("stages/smoke/cancel", "smoke of build 1 is canceled"),
        ("cancel", "build 1 is canceled: smoke, regression"),
    ],
)
def test_actions_are_audited(api: RunningApi, build: int, action: str, message: str) -> None:
    answer = post(api, f"/builds/{build}/{action}")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"changed": True, "message": message}
    with api.store.read() as connection:
        last = audit.list_entries(connection, build=build, limit=1)[0]
    assert (last.actor, last.build) == ("ann", build)
    assert "because" in last.detail


def test_a_repeated_action_has_no_effect(api: RunningApi, build: int) -> None:
    assert post(api, f"/builds/{build}/stages/smoke/tag").json()["changed"]
    again = post(api, f"/builds/{build}/stages/smoke/tag").json()
    assert again == {"changed": False, "message": "build 1 is tagged smoke by hand already"}
    with api.store.read() as connection:
        smoke_tags = [tag for tag in tags.list_by_build(connection, build) if tag.stage == "smoke"]
    assert len(smoke_tags) == 1


def test_a_rerun_can_be_of_failed_tests_only(api: RunningApi, build: int) -> None:
    answer = post(api, f"/builds/{build}/stages/audit/rerun", {**ACTOR, "failed_only": True})
    assert answer.status_code == 201
    assert (answer.json()["number"], answer.json()["selected_test_count"]) == (2, 1)
    again = post(api, f"/builds/{build}/stages/audit/rerun")
    assert "run 2 of audit is waiting: it has not run yet" in detail(again, 409)


def test_hosts_are_drained_and_resumed(api: RunningApi, build: int) -> None:
    assert post(api, "/hosts/h1/drain").json()["changed"]
    (host,) = get(api, "/hosts").json()
    assert (host["state"], host["reason"]) == ("draining", "because")
    assert not post(api, "/hosts/h1/drain").json()["changed"]
    assert post(api, "/hosts/h1/resume").json()["changed"]
    assert get(api, "/hosts").json()[0]["state"] == "up"
    assert "there is no host 'h2'" in detail(post(api, "/hosts/h2/drain"), 404)


def test_a_poll_request_needs_no_body(api: RunningApi) -> None:
    url = f"{api.url}/api/v1/poke/app"
    assert requests.post(url, headers={"X-Nosejobs": "1"}, timeout=20).status_code == 202
    assert api.service.poked == ["app"]
    assert "did you mean 'app'?" in detail(post(api, "/poke/ap"), 404)
    assert post(api, "/poke/app").status_code == 202
    assert post(api, "/poke/app", {}).status_code == 202
    rung = [each for each in get(api, "/audit").json() if each["action"] == "poke app"]
    empty, named, unnamed = rung
    assert (unnamed["actor"], named["actor"], empty["actor"]) == ("", "ann", "")
    assert unnamed["detail"].startswith("from 127.0.0.1, python-requests/")
    assert named["detail"].endswith(": because")


def test_a_notification_is_a_hint_with_a_signature(api: RunningApi, build: int) -> None:
    (job,) = get(api, f"/builds/{build}/stages/unit/jobs").json()
    body = json.dumps({"id": job["id"], "end_reason": "completed"}).encode()

    def notify(data: bytes, secret: str) -> requests.Response:
        headers = {"Content-Type": "application/json", SIGNATURE_HEADER: sign(secret, data)}
        url = f"{api.url}/api/v1/notify"
        return requests.post(url, data=data, headers=headers, timeout=20)

    before = api.store.changed.count()
    assert "not signed" in detail(notify(body, "other"), 403)
    assert api.store.changed.count() == before
    assert notify(body, SECRET).status_code == 202
    assert api.store.changed.count() > before
    assert "names no job" in detail(notify(b'{"id": 7}', SECRET), 422)
    assert "names no job" in detail(notify(b"[" * 50_000, SECRET), 422)


# -- invalid requests ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/builds/99", 404, "there is no build 99"),
        ("/builds/0", 422, "build: "),
        ("/builds/x", 422, "build: "),
        ("/builds/99999999999999999999999", 422, "build: "),
        ("/builds?limit=100000", 422, "limit: "),
        ("/builds?state=odd", 422, "state must be one of new, building, built, failed, invalid"),
        ("/builds/1/stages/unitt/jobs", 404, "did you mean 'unit'?"),
        (
            "/builds/1/stages/unit/jobs?run_number=9",
            404,
            "build 1 has no run 9 of unit; its runs: 1",
        ),
        ("/jobs/00000000-0000-4000-8000-999999999999", 404, "there is no job"),
        ("/jobs/zz", 422, "job: "),
        (
            "/jobs/00000000-0000-4000-8000-000000000100/log/events?offset=1:2",
            422,
            "is not a position in a log",
        ),
        ("/nowhere", 404, "unknown path /api/v1/nowhere"),
        ("/builds/%2e%2e/%2e%2e/etc/passwd", 404, "unknown path"),
        ("/builds/1/stages/..%2f..%2fetc/jobs", 404, "unknown path"),
        ("/builds/1/stages/%00/jobs", 422, "stage: "),
        ("/builds?source=%1b%5b31m%00", 422, "there is no source '\\x1b[31m"),
        ("/builds?level=shipp", 422, "there is no level 'shipp'; did you mean 'ship'?"),
        ("/jobs/00000000-0000-4000-8000-000000000100/results?outcome=odd", 422, "outcome.0: "),
    ],
)
def test_invalid_requests_get_a_message(
    shared: RunningApi, path: str, status: int, words: str
) -> None:
    answer = get(shared, path)
    if status == 200:
        assert answer.json() == []
    else:
        message = detail(answer, status)
        assert words in message
        assert message.isprintable() or "\n" in message


def list_routes() -> list[tuple[str, str]]:
    """Return method and path of each route, with values for the parameters of the path."""
    values = {"job": "00000000-0000-4000-8000-000000000100", "build": "1", "number": "0"}
    routes = []
    for path, methods in json.loads(DOCUMENT.read_text())["paths"].items():
        filled = re.sub(r"\{(\w+)\}", lambda name: values.get(name[1], "unit"), path)
        routes += [(method, filled) for method in methods]
    return routes


@pytest.mark.parametrize(("method", "path"), list_routes())
def test_no_route_ignores_unknown_parameters(shared: RunningApi, method: str, path: str) -> None:
    more = "&".join(f"x%1b{number}=1" for number in range(9))
    answer = requests.request(method, f"{shared.url}{path}?limitt=3&{more}", json=ACTOR, timeout=20)
    message = detail(answer, 422)
    assert message.startswith("unknown query parameters 'limitt', ")
    assert "and 5 more" in message
    assert message.isprintable()


def test_the_parameter_that_was_meant_is_named(shared: RunningApi) -> None:
    assert detail(get(shared, "/audit?limitt=3"), 422) == (
        "unknown query parameter 'limitt'; did you mean 'limit'?"
    )
    assert "known: before, build, limit" in detail(get(shared, "/audit?x=3"), 422)
    assert "this path has no parameters" in detail(get(shared, "/status?x=3"), 422)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "actor: Field required"),
        ({"actor": "policy"}, "actor: must be the name of a person"),
        ({"actor": "a\x1b[31m"}, "actor: must be one line"),
        ({"actor": "ann", "reason": "x" * 2000}, "reason: "),
        ({"actor": "ann", "more": 1}, "more: "),
        ([1], "body: "),
        ("x", "body: "),
    ],
)
def test_bodies_are_checked(shared: RunningApi, body: Any, words: str) -> None:
    answer = post(shared, "/builds/1/stages/smoke/approve", body)
    assert words in detail(answer, 422)


def test_a_required_reason_must_not_be_blank(shared: RunningApi) -> None:
    answer = post(shared, "/builds/1/stages/smoke/tag", {"actor": "ann", "reason": "  "})
    assert "reason: must not be empty" in detail(answer, 422)


def test_invalid_json_is_reported(shared: RunningApi) -> None:
    url = f"{shared.url}/api/v1/builds/1/cancel"
    headers = {"Content-Type": "application/json"}
    for data in (b"{", b"\xff", b"[" * 60_000):
        answer = requests.post(url, data=data, headers=headers, timeout=20)
        assert detail(answer, answer.status_code)
        assert answer.status_code in (400, 422)


# -- pages of other sites, hostile input --------------------------------------------------


def send_raw(api: RunningApi, text: bytes, end: bool = False) -> bytes:
    """Return the response to some bytes; a reset of the connection ends it, too."""
    host, _, port = api.url[7:].rpartition(":")
    response = b""
    with socket.create_connection((host, int(port)), 20) as connection, suppress(OSError):
        connection.sendall(text)
        if end:
            connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(65_536):
            response += data
    return response


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        (b"127.0.0.1", 200),
        (b"localhost:80", 200),
        (b"[::1]:7433", 200),
        (b"127.0.0.2", 200),
        (b"evil.example:7433", 421),
        (b"localhost.evil.example", 421),
        (b"127.0.0.1.evil.example", 421),
        (b"localhost@evil.example", 421),
        (b"evil.example@localhost", 421),
        (b"localhost/evil.example", 421),
        (b"10.0.0.1", 421),
        (b"[::", 421),
        (b"", 421),
    ],
)
def test_only_host_names_of_this_machine_are_accepted(
    shared: RunningApi, host: bytes, wanted: int
) -> None:
    text = b"GET /api/v1/hosts HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % host
    assert status(send_raw(shared, text)) == wanted


def test_exactly_one_host_header_is_required(shared: RunningApi) -> None:
    text = b"GET /api/v1/hosts HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert status(send_raw(shared, text)) == 400
    assert status(send_raw(shared, b"GET /api/v1/hosts HTTP/1.0\r\n\r\n")) == 400


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "text/plain; application/json"},
        {"Content-Type": "application/json", "Origin": "http://evil.example"},
        {"Content-Type": "application/json", "Origin": "null"},
        {"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"},
        {"X-Nosejobs": "1", "Origin": "https://localhost"},
    ],
)
def test_a_page_of_another_site_changes_nothing(
    shared: RunningApi, headers: dict[str, str]
) -> None:
    url = f"{shared.url}/api/v1/builds/1/cancel"
    answer = requests.post(url, data=json.dumps(ACTOR), headers=headers, timeout=20)
    assert detail(answer, 403)
    assert "access-control-allow-origin" not in answer.headers
    with shared.store.read() as connection:
        assert audit.list_entries(connection, limit=1)[0].action != "cancel"


def test_a_preflight_is_not_granted(shared: RunningApi) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = requests.options(f"{shared.url}/api/v1/poke/app", headers=headers, timeout=20)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_a_page_of_the_dispatcher_may_act(api: RunningApi) -> None:
    headers = {"Origin": api.url, "X-Nosejobs": "1", "Sec-Fetch-Site": "same-origin"}
    answer = requests.post(f"{api.url}/api/v1/poke/app", headers=headers, timeout=20)
    assert answer.status_code == 202


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 99999999", b"Content-Length: 9" + b"9" * 40, b"Transfer-Encoding: chunked"],
)
def test_huge_bodies_are_refused_unread(shared: RunningApi, head: bytes) -> None:
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    text = b"POST /api/v1/poke/app HTTP/1.1\r\nHost: localhost\r\nX-Nosejobs: 1\r\n%s\r\n\r\n"
    answer = send_raw(shared, text % head + (chunk * 2 if b"chunked" in head else b""))
    # A client that continues to send may find the connection reset before the response.
    assert not answer or status(answer) in (400, 413)
    assert shared.service.poked == []
    assert get(shared, "/hosts").ok


def test_garbage_does_not_stop_the_server(shared: RunningApi) -> None:
    for text in (b"\0" * 1000, b"GET / HTTP/9\r\n\r\n", b"GET " + b"/" * 200_000, b"\x16\x03\x01"):
        send_raw(shared, text, end=True)
    assert get(shared, "/hosts").ok


def test_a_connection_without_a_request_is_closed(
    shared: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of time is needed: 500 such connections would block all others."""
    monkeypatch.setattr("dispatcher.web.server._REQUEST_HEAD_TIMEOUT", 0.1)
    host, port = shared.url[7:].split(":")
    for data in (b"", b"GET / HT", b"GET /api/v1/hosts HTTP/1.1\r\nHost: localhost\r\n\r\nGET"):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(data)
            while connection.recv(1 << 16):
                pass  # the response, then the end, which a kept connection would not have


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HT",
        b"GET /api/v1/hosts HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /api/v1/poke/app HTTP/1.1\r\nHost: localhost\r\nX-Nosejobs: 1\r\n"
        b"Content-Length: 9\r\n\r\nx",
    ],
    ids=["idle", "half a head", "kept alive", "half a body"],
)
def test_idle_connections_take_no_place_of_requests(
    shared: RunningApi, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """Without a limit of their own, 500 of them let all requests fail for 10 s."""
    monkeypatch.setattr("dispatcher.web.server._REQUEST_HEAD_TIMEOUT", 600.0)
    monkeypatch.setattr("dispatcher.web.request_guard.BODY_TIMEOUT", 600.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    host, port = shared.url[7:].split(":")
    tag = get(shared, "/hosts").headers["ETag"]
    request = (
        "GET /api/v1/hosts?wait=2 HTTP/1.1\r\nHost: localhost\r\n"
        f"If-None-Match: {tag}\r\nConnection: close\r\n\r\n"
    )
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
        complete = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
        complete.sendall(request.encode())
        get(shared, "/hosts")  # the server has read the request before it answers a later one
        for _ in range(600):
            connection = socket.create_connection((host, int(port)), timeout=20)
            stack.enter_context(connection)
            with suppress(OSError):  # it may have been closed already
                connection.sendall(data)
                if b"hosts" in data:
                    connection.recv(1 << 16)
        assert get(shared, "/hosts").status_code == 200
        # A complete request is older than all of them, and is not closed.
        assert status(complete.recv(1 << 16)) == 304


def test_a_waiting_request_is_not_closed(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.web.server._REQUEST_HEAD_TIMEOUT", 0.05)
    tag = {"If-None-Match": get(api, "/hosts").headers["ETag"]}
    assert get(api, "/hosts?wait=0.3", headers=tag).status_code == 304


def test_responses_cannot_be_framed_or_cached(shared: RunningApi) -> None:
    headers = get(shared, "/hosts").headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "server" not in headers


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_other_addresses_are_refused(shared: RunningApi, address: str) -> None:
    app = create_app(shared.service, shared.service.package, SECRET)
    with pytest.raises(CannotListen, match="not a loopback address; without authentication"):
        Server(app, address, 0)


def test_a_name_that_resolves_to_another_machine_is_refused(
    shared: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: there)
    app = create_app(shared.service, shared.service.package, SECRET)
    with pytest.raises(
        CannotListen, match=r"localhost resolves to 192\.0\.2\.1, which is not a loopback"
    ):
        Server(app, "localhost", 0)


def test_an_address_that_is_taken_is_named(shared: RunningApi) -> None:
    app = create_app(shared.service, shared.service.package, SECRET)
    port = int(shared.url.rpartition(":")[2])
    with pytest.raises(CannotListen, match=f"port {port}: Address already in use"):
        Server(app, "127.0.0.1", port)
