"""The API over a real database, through a real socket."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from dispatcher.store import audit, tags
from dispatcher.web.app import CannotListen, Server, create
from shell_runner.remote.notify import SIGNATURE, signature

from . import serving
from .serving import SECRET, Served

WHO = {"who": "ann", "reason": "because"}


@pytest.fixture
def build(served: Served) -> int:
    """One whose unit has passed, and whose audit has failed."""
    return fill(served)


def fill(served: Served) -> int:
    """A build, its number, and a host."""
    with served.store.write() as connection:
        number = serving.add_build(connection)
        serving.finish(connection, number, "unit")
        serving.finish(connection, number, "audit", failed="tests/test_b.sh")
        serving.add_host(connection)
    return number


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, empty: Path) -> Iterator[Served]:
    """With the same build, number 1, for those who change nothing."""
    with serving.serving(tmp_path_factory.mktemp("shared"), empty) as found:
        assert fill(found) == 1
        yield found


def get(served: Served, path: str, **more: Any) -> requests.Response:
    return requests.get(f"{served.url}/api/v1{path}", timeout=20, **more)


def post(served: Served, path: str, body: Any = WHO) -> requests.Response:
    return requests.post(f"{served.url}/api/v1{path}", json=body, timeout=20)


def detail(answer: requests.Response, status: int) -> str:
    """Of a problem."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == status
    return str(found["detail"])


# -- looking ------------------------------------------------------------------------


def test_a_build_is_shown_with_all_that_is_known_of_it(shared: Served) -> None:
    found = get(shared, "/builds/1").json()
    assert found["change"]["subject"] == "more"
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert list(stages) == ["unit", "smoke", "regression", "audit"]
    assert (stages["unit"]["tagged"], stages["audit"]["tagged"]) == (True, False)
    assert stages["smoke"]["manual"]
    assert stages["audit"]["run"]["detail"] == "1 of 2 tests failed"
    assert [each["nodeid"] for each in found["failures"]] == ["tests/test_b.sh"]
    numbers = [(each["stage"], each["name"], each["value"]) for each in found["measurements"]]
    assert numbers == [("unit", "rate", 1234.5), ("audit", "rate", 1234.5)]
    counts = [job["counts"] for job in found["jobs"]]
    assert [(each["passed"], each["failed"]) for each in counts] == [(1, 0), (1, 1)]


def test_a_list_has_pages_and_filters(served: Served, build: int) -> None:
    with served.store.write() as connection:
        other = serving.add_build(connection, "ef01" * 10)
    assert [each["number"] for each in get(served, "/builds").json()] == [other, build]
    assert [b["number"] for b in get(served, f"/builds?before={other}").json()] == [build]
    assert [b["number"] for b in get(served, "/builds?revision=ef01").json()] == [other]
    assert get(served, "/builds?branch=none").json() == []
    assert len(get(served, "/builds?most=1").json()) == 1


def test_results_and_cases_of_a_job(shared: Served) -> None:
    (job,) = get(shared, "/builds/1/stages/audit/jobs").json()
    assert get(shared, f"/jobs/{job['id']}").json() == job
    found = get(shared, f"/jobs/{job['id']}/results").json()
    assert [each["outcome"] for each in found] == ["passed", "failed"]
    failed = get(shared, f"/jobs/{job['id']}/results?outcome=failed").json()
    assert [each["number"] for each in failed] == [1]
    (case,) = get(shared, f"/jobs/{job['id']}/results/0/cases").json()
    assert (case["name"], case["outcome"]) == ("adds", "passed")


def test_hosts_status_and_audit(shared: Served) -> None:
    (host,) = get(shared, "/hosts").json()
    assert (host["name"], host["state"], host["open"]) == ("h1", "up", 0)
    found = get(shared, "/status").json()
    assert found["hosts"] == {"up": 1}
    assert found["active"] == [1]
    assert [each["where"] for each in found["sources"]] == ["/srv/app.git"]
    assert {each["build"] for each in get(shared, "/audit").json()} == {1}


def test_who_waits_is_answered_by_a_commit(served: Served, build: int) -> None:
    first = get(served, f"/builds/{build}")
    tag = {"If-None-Match": first.headers["ETag"]}
    assert get(served, f"/builds/{build}", headers=tag).status_code == 304
    answers: list[requests.Response] = []
    asked = threading.Thread(
        target=lambda: answers.append(get(served, f"/builds/{build}?wait=20", headers=tag))
    )
    began = time.monotonic()
    asked.start()
    post(served, f"/builds/{build}/stages/smoke/approve")
    asked.join()
    assert time.monotonic() - began < 10
    assert answers[0].status_code == 200
    assert [each["kind"] for each in answers[0].json()["decisions"]] == ["approved"]
    assert answers[0].headers["ETag"] != first.headers["ETag"]


def test_many_who_wait_keep_nobody_from_asking(served: Served, build: int) -> None:
    tag = get(served, f"/builds/{build}").headers["ETag"]
    waiting = []
    for _ in range(60):  # more than there are threads
        connection = http.client.HTTPConnection(served.url[7:], timeout=20)
        connection.request("GET", f"/api/v1/builds/{build}?wait=30", headers={"If-None-Match": tag})
        waiting.append(connection)
    began = time.monotonic()
    assert get(served, "/hosts").ok
    post(served, f"/builds/{build}/stages/smoke/hold")
    assert {connection.getresponse().status for connection in waiting} == {200}
    assert time.monotonic() - began < 15
    for connection in waiting:
        connection.close()


def test_the_end_does_not_wait_for_who_waits(served: Served, build: int) -> None:
    tag = get(served, "/hosts").headers["ETag"]
    connection = http.client.HTTPConnection(served.url[7:], timeout=20)
    connection.request("GET", "/api/v1/hosts?wait=60", headers={"If-None-Match": tag})
    assert get(served, "/hosts").ok  # it waits by now
    began = time.monotonic()
    served.server.stop()
    assert time.monotonic() - began < 2.5
    connection.close()


# -- acting -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("stages/smoke/approve", "smoke of build 1 is approved"),
        ("stages/smoke/hold", "smoke of build 1 is held"),
        ("stages/smoke/tag", "build 1 is tagged smoke by hand"),
        ("stages/unit/revoke", "the tag unit of build 1 revoked"),
        ("stages/smoke/cancel", "smoke of build 1 is cancelled"),
        ("cancel", "build 1 is cancelled: smoke, regression"),
    ],
)
def test_actions_are_audited(served: Served, build: int, action: str, words: str) -> None:
    answer = post(served, f"/builds/{build}/{action}")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"changed": True, "words": words}
    with served.store.read() as connection:
        last = audit.entries(connection, build=build, most=1)[0]
    assert (last.who, last.build) == ("ann", build)
    assert "because" in last.detail


def test_said_twice_is_done_once(served: Served, build: int) -> None:
    assert post(served, f"/builds/{build}/stages/smoke/tag").json()["changed"]
    again = post(served, f"/builds/{build}/stages/smoke/tag").json()
    assert again == {"changed": False, "words": "build 1 is tagged smoke by hand already"}
    with served.store.read() as connection:
        found = [tag for tag in tags.of_build(connection, build) if tag.stage == "smoke"]
    assert len(found) == 1


def test_a_rerun_can_be_of_failed_tests_only(served: Served, build: int) -> None:
    answer = post(served, f"/builds/{build}/stages/audit/rerun", {**WHO, "failed": True})
    assert answer.status_code == 201
    assert (answer.json()["number"], answer.json()["only"]) == (2, 1)
    again = post(served, f"/builds/{build}/stages/audit/rerun")
    assert "run 2 of audit is waiting: it has not run yet" in detail(again, 409)


def test_hosts_are_drained_and_resumed(served: Served, build: int) -> None:
    assert post(served, "/hosts/h1/drain").json()["changed"]
    (host,) = get(served, "/hosts").json()
    assert (host["state"], host["reason"]) == ("draining", "because")
    assert not post(served, "/hosts/h1/drain").json()["changed"]
    assert post(served, "/hosts/h1/resume").json()["changed"]
    assert get(served, "/hosts").json()[0]["state"] == "up"
    assert "there is no host 'h2'" in detail(post(served, "/hosts/h2/drain"), 404)


def test_the_doorbell_needs_no_body(served: Served) -> None:
    url = f"{served.url}/api/v1/poke/app"
    assert requests.post(url, headers={"X-Nosejobs": "1"}, timeout=20).status_code == 202
    assert served.service.poked == ["app"]
    assert "did you mean 'app'?" in detail(post(served, "/poke/ap"), 404)
    assert post(served, "/poke/app").status_code == 202
    assert post(served, "/poke/app", {}).status_code == 202
    rung = [each for each in get(served, "/audit").json() if each["what"] == "poke app"]
    empty, named, nameless = rung
    assert (nameless["who"], named["who"], empty["who"]) == ("", "ann", "")
    assert nameless["detail"].startswith("from 127.0.0.1, python-requests/")
    assert named["detail"].endswith(": because")


def test_a_notification_is_a_hint_with_a_signature(served: Served, build: int) -> None:
    (job,) = get(served, f"/builds/{build}/stages/unit/jobs").json()
    body = json.dumps({"job": job["id"], "how": "completed"}).encode()

    def notify(data: bytes, secret: str) -> requests.Response:
        headers = {"Content-Type": "application/json", SIGNATURE: signature(secret, data)}
        url = f"{served.url}/api/v1/notify"
        return requests.post(url, data=data, headers=headers, timeout=20)

    before = served.store.changed.now()
    assert "not signed" in detail(notify(body, "other"), 403)
    assert served.store.changed.now() == before
    assert notify(body, SECRET).status_code == 202
    assert served.store.changed.now() > before
    assert "names no job" in detail(notify(b'{"job": 7}', SECRET), 422)
    assert "names no job" in detail(notify(b"[" * 50_000, SECRET), 422)


# -- what makes no sense ------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/builds/99", 404, "there is no build 99"),
        ("/builds/0", 422, "build: "),
        ("/builds/x", 422, "build: "),
        ("/builds/99999999999999999999999", 422, "build: "),
        ("/builds?most=100000", 422, "most: "),
        ("/builds?state=odd", 422, "state: "),
        ("/builds/1/stages/unitt/jobs", 404, "did you mean 'unit'?"),
        ("/builds/1/stages/unit/jobs?run=9", 404, "there is no run 9 of unit"),
        ("/jobs/00000000-0000-4000-8000-999999999999", 404, "there is no job"),
        ("/jobs/zz", 422, "job: "),
        (
            "/jobs/00000000-0000-4000-8000-000000000100/log/events?from=1:2",
            422,
            "not a position in a log",
        ),
        ("/nowhere", 404, "there is no /api/v1/nowhere here"),
        ("/builds/%2e%2e/%2e%2e/etc/passwd", 404, "here"),
        ("/builds/1/stages/..%2f..%2fetc/jobs", 404, "here"),
        ("/builds/1/stages/%00/jobs", 422, "stage: "),
        ("/builds?source=%1b%5b31m%00", 200, ""),
    ],
)
def test_odd_requests_get_words(shared: Served, path: str, status: int, words: str) -> None:
    answer = get(shared, path)
    if status == 200:
        assert answer.json() == []
    else:
        found = detail(answer, status)
        assert words in found
        assert found.isprintable() or "\n" in found


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "who: Field required"),
        ({"who": "policy"}, "who: must be the name of whoever asks"),
        ({"who": "a\x1b[31m"}, "who: must be one line"),
        ({"who": "ann", "reason": "x" * 2000}, "reason: "),
        ({"who": "ann", "more": 1}, "more: "),
        ([1], "body: "),
        ("x", "body: "),
    ],
)
def test_bodies_are_checked(shared: Served, body: Any, words: str) -> None:
    answer = post(shared, "/builds/1/stages/smoke/approve", body)
    assert words in detail(answer, 422)


def test_what_needs_a_reason_needs_words(shared: Served) -> None:
    answer = post(shared, "/builds/1/stages/smoke/tag", {"who": "ann", "reason": "  "})
    assert "reason: must say why" in detail(answer, 422)


def test_json_that_is_none_is_named(shared: Served) -> None:
    url = f"{shared.url}/api/v1/builds/1/cancel"
    headers = {"Content-Type": "application/json"}
    for data in (b"{", b"\xff", b"[" * 60_000):
        answer = requests.post(url, data=data, headers=headers, timeout=20)
        assert detail(answer, answer.status_code)
        assert answer.status_code in (400, 422)


# -- pages of strangers, and worse --------------------------------------------------


def raw(served: Served, text: bytes, end: bool = False) -> bytes:
    """All that is answered to some bytes; a connection that is reset ends the answer too."""
    host, _, port = served.url[7:].rpartition(":")
    found = b""
    with socket.create_connection((host, int(port)), 20) as connection, suppress(OSError):
        connection.sendall(text)
        if end:
            connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(65_536):
            found += data
    return found


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
def test_only_names_of_this_machine_are_answered(shared: Served, host: bytes, wanted: int) -> None:
    text = b"GET /api/v1/hosts HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % host
    assert status(raw(shared, text)) == wanted


def test_two_names_are_one_too_many(shared: Served) -> None:
    text = b"GET /api/v1/hosts HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert status(raw(shared, text)) == 400
    assert status(raw(shared, b"GET /api/v1/hosts HTTP/1.0\r\n\r\n")) == 400


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
def test_a_page_of_a_stranger_changes_nothing(shared: Served, headers: dict[str, str]) -> None:
    url = f"{shared.url}/api/v1/builds/1/cancel"
    answer = requests.post(url, data=json.dumps(WHO), headers=headers, timeout=20)
    assert detail(answer, 403)
    assert "access-control-allow-origin" not in answer.headers
    with shared.store.read() as connection:
        assert audit.entries(connection, most=1)[0].what != "cancel"


def test_a_preflight_is_not_granted(shared: Served) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = requests.options(f"{shared.url}/api/v1/poke/app", headers=headers, timeout=20)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_a_page_of_ours_may(served: Served) -> None:
    headers = {"Origin": served.url, "X-Nosejobs": "1", "Sec-Fetch-Site": "same-origin"}
    answer = requests.post(f"{served.url}/api/v1/poke/app", headers=headers, timeout=20)
    assert answer.status_code == 202


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 99999999", b"Content-Length: 9" + b"9" * 40, b"Transfer-Encoding: chunked"],
)
def test_huge_bodies_are_refused_unread(shared: Served, head: bytes) -> None:
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    text = b"POST /api/v1/poke/app HTTP/1.1\r\nHost: localhost\r\nX-Nosejobs: 1\r\n%s\r\n\r\n"
    answer = raw(shared, text % head + (chunk * 2 if b"chunked" in head else b""))
    # Who goes on sending may find the connection reset before the answer.
    assert not answer or status(answer) in (400, 413)
    assert shared.service.poked == []
    assert get(shared, "/hosts").ok


def test_noise_hurts_nobody(shared: Served) -> None:
    for text in (b"\0" * 1000, b"GET / HTTP/9\r\n\r\n", b"GET " + b"/" * 200_000, b"\x16\x03\x01"):
        raw(shared, text, end=True)
    assert get(shared, "/hosts").ok


def test_who_asks_nothing_is_not_waited_for(
    shared: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or 500 of them would be all that are served."""
    monkeypatch.setattr("dispatcher.web.app._PATIENCE", 0.1)
    where = shared.url[7:].split(":")
    for said in (b"", b"GET / HT", b"GET /api/v1/hosts HTTP/1.1\r\nHost: localhost\r\n\r\nGET"):
        with socket.create_connection((where[0], int(where[1])), timeout=20) as connection:
            connection.sendall(said)
            while connection.recv(1 << 16):
                pass  # the answer, then the end, which a connection that is kept would not have


def test_who_waits_for_an_answer_may_be_silent(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.web.app._PATIENCE", 0.05)
    tag = {"If-None-Match": get(served, "/hosts").headers["ETag"]}
    assert get(served, "/hosts?wait=0.3", headers=tag).status_code == 304


def test_answers_cannot_be_framed_or_kept(shared: Served) -> None:
    found = get(shared, "/hosts").headers
    assert found["cache-control"] == "no-store"
    assert found["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in found["content-security-policy"]
    assert "server" not in found


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_other_addresses_are_refused_with_words(shared: Served, address: str) -> None:
    app = create(shared.service, shared.service.package, SECRET)
    with pytest.raises(CannotListen, match="nobody is asked who they are yet"):
        Server(app, address, 0)


def test_a_name_that_leads_elsewhere_is_refused(
    shared: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: there)
    app = create(shared.service, shared.service.package, SECRET)
    with pytest.raises(CannotListen, match=r"localhost is 192\.0\.2\.1 here, which others reach"):
        Server(app, "localhost", 0)


def test_an_address_that_is_taken_is_named(shared: Served) -> None:
    app = create(shared.service, shared.service.package, SECRET)
    port = int(shared.url.rpartition(":")[2])
    with pytest.raises(CannotListen, match=f"port {port}: Address already in use"):
        Server(app, "127.0.0.1", port)
