"""Tests of the POST that notifies of the end of a job."""

import hashlib
import hmac
from collections.abc import Iterator

import pytest

from shell_runner.remote.jobs import webhook
from tests.helpers.queue_host import WebhookReceiver


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    made = WebhookReceiver([])
    yield made
    made.close()


def test_a_post_is_signed(receiver: WebhookReceiver) -> None:
    assert webhook.post(receiver.url, "sécret", '{"job": "é"}') == ""
    ((path, headers, body),) = receiver.got
    assert (path, body) == ("/hook", '{"job": "é"}'.encode())
    assert headers["Content-Type"] == "application/json"
    wanted = hmac.new("sécret".encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Nosejobs-Signature"] == f"sha256={wanted}"


def test_without_a_secret_nothing_is_signed(receiver: WebhookReceiver) -> None:
    assert webhook.post(receiver.url, "", "{}") == ""
    assert "X-Nosejobs-Signature" not in receiver.got[0][1]


@pytest.mark.parametrize("status", [302, 307, 404, 500])
def test_anything_but_a_yes_is_trouble(status: int) -> None:
    receiver = WebhookReceiver([status])
    try:
        assert str(status) in webhook.post(receiver.url, "", "{}")
        assert len(receiver.got) == 1, "a redirect was followed"
    finally:
        receiver.close()


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://127.0.0.1:1/", "http://[::1", "http://127.0.0.1:99999/"]
)
def test_an_unreachable_address_is_an_error(url: str) -> None:
    assert webhook.post(url, "s", "{}")


def test_backoff_doubles_up_to_five_minutes() -> None:
    assert [webhook.compute_retry_delay(n) for n in (1, 2, 3, 9, 10, 12, 10**9)] == [
        1,
        2,
        4,
        256,
        300,
        300,
        300,
    ]
