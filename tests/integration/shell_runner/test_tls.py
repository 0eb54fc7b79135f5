"""Tests of the controller's TLS transport with agents that are slow, broken or hostile."""

from __future__ import annotations

import json
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from shell_runner.hosts import tls
from shell_runner.hosts.tls_transport import TlsTransport
from shell_runner.remote.agent.credentials import create_server_context
from tests.helpers.agent_processes import FleetAuthority

Talk = Callable[[ssl.SSLSocket], None]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> FleetAuthority:
    authority = FleetAuthority(tmp_path_factory.mktemp("fleet"))
    authority.issue_host()
    authority.issue_client()
    return authority


@contextmanager
def fake_agent(authority: FleetAuthority, talk: Talk) -> Iterator[dict[str, object]]:
    """Run a server with the certificate of an agent; yield the settings to reach it."""
    context = create_server_context(str(authority.folder / "localhost.pem"), [])

    def serve() -> None:
        with suppress(OSError), server.accept()[0] as plain:
            plain.settimeout(20)
            with context.wrap_socket(plain, server_side=True) as secured:
                talk(secured)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        client = str(authority.folder / "laptop.pem")
        yield {"address": "127.0.0.1", "port": server.getsockname()[1], "credentials": client}
        server.close()
        thread.join(20)


def hello(peer: ssl.SSLSocket) -> dict[str, object]:
    with peer.makefile("rb") as lines:
        message = json.loads(lines.readline())
    assert isinstance(message, dict)
    return message


def make_answer(answer: bytes) -> Talk:
    """Return a server that sends ``answer`` and then waits for the end."""

    def talk(peer: ssl.SSLSocket) -> None:
        hello(peer)
        peer.sendall(answer)
        while peer.recv(1 << 16):
            pass

    return talk


def refusal(authority: FleetAuthority, talk: Talk) -> str:
    """Connect to an agent that cannot be used; return the error."""
    with fake_agent(authority, talk) as settings, pytest.raises(tls.CannotConnect) as caught:
        tls.connect(settings, "")
    return str(caught.value)


def read(transport: TlsTransport) -> bytes:
    while True:
        data = transport.read()
        if data is not None:
            return data
        wait(transport, 10)


def wait(transport: TlsTransport, seconds: float) -> bool:
    poller = select.poll()
    for descriptor, events in transport.list_poll_events():
        poller.register(descriptor, events)
    return bool(poller.poll(seconds * 1000))


def test_the_hello_says_what_to_run(authority: FleetAuthority) -> None:
    received: list[dict[str, object]] = []

    def talk(peer: ssl.SSLSocket) -> None:
        received.append(hello(peer))
        peer.sendall(b'{"ok": true}\n')

    with fake_agent(authority, talk) as settings:
        transport = tls.connect({**settings, "python": "python3.9"}, "print(1)")
        assert read(transport) == b""
        transport.close()
    expected = {"nosejobs": 2, "python": "python3.9", "bootstrap": "print(1)", "silence": 15.0}
    assert received == [expected]


def test_bytes_behind_the_answer_are_not_lost(authority: FleetAuthority) -> None:
    with fake_agent(authority, make_answer(b'{"ok": true}\nfirst\nwords')) as settings:
        transport = tls.connect(settings, "")
        assert transport.has_pending()
        assert read(transport) == b"first\nwords"
        assert not transport.has_pending()
        assert transport.read() is None
        transport.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"1\n", "is invalid"),
        (b"[" * 9000 + b"\n", "is invalid"),
        (b"\xff\n", "is invalid"),
        (b'{"error": "\\u001b[31m no \\n way"}\n', r"says: \?\[31m no \? way"),
        (b"x" * 100_000, "closed the connection"),
    ],
)
def test_a_bad_answer_is_an_error(authority: FleetAuthority, answer: bytes, words: str) -> None:
    assert re.search(words, error := refusal(authority, make_answer(answer)))
    assert "\x1b" not in error


def test_one_that_hangs_up_is_an_error(authority: FleetAuthority) -> None:
    assert "closed the connection" in refusal(authority, lambda peer: None)


def test_one_that_dribbles_is_ended_in_time(
    authority: FleetAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talk(peer: ssl.SSLSocket) -> None:
        while True:
            peer.sendall(b" ")
            time.sleep(0.02)

    monkeypatch.setattr(tls, "_ANSWER_TIMEOUT", 0.5)
    begin = time.monotonic()
    assert "not start an interpreter in time" in refusal(authority, talk)
    assert time.monotonic() - begin < 5


def test_one_that_never_speaks_is_ended_in_time(
    authority: FleetAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "CONNECT_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = {
            "address": "127.0.0.1", "port": server.getsockname()[1],
            "credentials": str(authority.folder / "laptop.pem"),
        }  # fmt: skip
        with pytest.raises(tls.CannotConnect, match=r"not with TLS within 0\.3 s"):
            tls.connect(settings, "")


def test_one_that_does_not_read_blocks_writing_but_not_us(authority: FleetAuthority) -> None:
    release = threading.Event()
    taken: list[int] = []

    def talk(peer: ssl.SSLSocket) -> None:
        hello(peer)
        peer.sendall(b'{"ok": true}\n')
        release.wait(20)
        while len(taken) == 0 or sum(taken) < total:
            taken.append(len(peer.recv(1 << 16)))

    total, chunk = 0, memoryview(b"x" * (1 << 16))
    with fake_agent(authority, talk) as settings:
        transport = tls.connect(settings, "")
        while count := transport.write(chunk):
            total += count
        assert total < 64 << 20
        assert transport.list_poll_events()[0][1] & select.POLLOUT
        assert transport.read() is None
        release.set()
        # Calls of read() alone send the remaining data to the peer.
        while transport.list_poll_events()[0][1] & select.POLLOUT:
            assert wait(transport, 10)
            assert transport.read() in (None, b"")
        while transport.read() is None:
            assert wait(transport, 10)
        transport.close()
    assert sum(taken) == total


def test_a_error_is_two_lines_for_the_file_of_errors() -> None:
    error = tls.CannotConnect("no\nagent", "start one")
    assert error.format_for_error_file() == "nosejobs-cannot: no agent\nnosejobs-try: start one\n"
    assert str(error) == "no\nagent\n  try: start one"


def test_the_network_is_watched(authority: FleetAuthority) -> None:
    with fake_agent(authority, make_answer(b'{"ok": true}\n')) as settings:
        transport = tls.connect({**settings, "silence": 30}, "")
        sock = transport._sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
        transport.close()
