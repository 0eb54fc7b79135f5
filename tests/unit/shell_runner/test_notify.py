"""One POST that says that a job has ended."""

import hashlib
import hmac
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from shell_runner.remote import notify


class Receiver:
    """An HTTP server on loopback that answers as it is told, then with 204."""

    def __init__(self, answers: list[int]) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                outer.got.append((self.path, dict(self.headers), self.rfile.read(size)))
                self.send_response(answers.pop(0) if answers else 204)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver([])
    yield made
    made.close()


def test_a_post_is_signed(receiver: Receiver) -> None:
    assert notify.post(receiver.url, "sécret", '{"job": "é"}') == ""
    ((path, headers, body),) = receiver.got
    assert (path, body) == ("/hook", '{"job": "é"}'.encode())
    assert headers["Content-Type"] == "application/json"
    wanted = hmac.new("sécret".encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Nosejobs-Signature"] == f"sha256={wanted}"


def test_without_a_secret_nothing_is_signed(receiver: Receiver) -> None:
    assert notify.post(receiver.url, "", "{}") == ""
    assert "X-Nosejobs-Signature" not in receiver.got[0][1]


@pytest.mark.parametrize("status", [302, 307, 404, 500])
def test_anything_but_a_yes_is_trouble(status: int) -> None:
    receiver = Receiver([status])
    try:
        assert str(status) in notify.post(receiver.url, "", "{}")
        assert len(receiver.got) == 1, "a redirect was followed"
    finally:
        receiver.close()


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://127.0.0.1:1/", "http://[::1", "http://127.0.0.1:99999/"]
)
def test_what_cannot_be_reached_is_said(url: str) -> None:
    assert notify.post(url, "s", "{}")


def test_backoff_doubles_up_to_five_minutes() -> None:
    assert [notify.backoff(n) for n in (1, 2, 3, 9, 10, 12, 10**9)] == [1, 2, 4, 256, 300, 300, 300]
