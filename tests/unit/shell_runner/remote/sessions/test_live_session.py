"""Tests of how a host handles the messages of its controller."""

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shell_runner.remote.execution.artifacts import ArtifactPiece
from shell_runner.remote.execution.resource_locks import LOCK, UnavailableResource
from shell_runner.remote.execution.slot_pool import SlotStartError
from shell_runner.remote.files import remove_tree as place
from shell_runner.remote.protocol import compression
from shell_runner.remote.protocol import frames as wire
from shell_runner.remote.protocol.model import Setup, Test
from shell_runner.remote.sessions import channel_session
from shell_runner.remote.sessions.live_session import LiveSession


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveSession]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = LiveSession(None)
    yield made
    if made.receiver is not None:
        made.receiver.store.release()
    made.close()
    place.remove_tree(made.folder)


def piece(data: bytes, offset: int, last: bool, digest: str) -> bytes:
    encoding, body = compression.encode_body(data)
    return wire.pack_blob(["piece", encoding, len(data), digest, offset, last], body)


def test_pieces_wait_in_the_connection_not_in_memory(host: LiveSession) -> None:
    data = [bytes([number]) * 1000 for number in range(30)]
    digest = hashlib.sha256(b"".join(data)).hexdigest()
    frames = [piece(each, n * 1000, n == 29, digest) for n, each in enumerate(data)]
    sending = threading.Thread(target=lambda: [host._receive(frame) for frame in frames])
    sending.start()
    most = 0
    deadline = time.monotonic() + 20
    while not host.open_receiver().store.has_blob(digest, 30_000):
        assert time.monotonic() < deadline
        if len(host.inbox) < channel_session._MAX_QUEUED_BLOBS and sending.is_alive():
            time.sleep(0.001)  # it fills up, and no further
            continue
        most = max(most, len(host.inbox))
        host._handle_frame(host.inbox.popleft())
    sending.join(10)
    assert most == channel_session._MAX_QUEUED_BLOBS


def test_who_sends_does_not_wait_for_a_host_that_has_ended(host: LiveSession) -> None:
    host.running = False
    host._blob_slots.release()
    frames: list[Any] = [piece(b"1", 0, True, "0" * 64)] * 30
    sending = threading.Thread(
        target=lambda: [host._receive(frame) for frame in [*frames, None]], daemon=True
    )
    sending.start()
    sending.join(20)
    assert not sending.is_alive()


def test_a_bomb_is_refused(host: LiveSession) -> None:
    _, body = compression.encode_body(b"a" * (1 << 20))
    bomb = wire.pack_blob(["piece", compression.DEFLATED, 1 << 10, "0" * 64, 0, True], body)
    host._receive(bomb)
    with pytest.raises(ValueError, match="more than the 1024 bytes"):
        host._handle_frame(host.inbox.popleft())


def test_each_piece_is_a_sign_of_life(host: LiveSession) -> None:
    digest = hashlib.sha256(b"12").hexdigest()
    for frame in (piece(b"1", 0, False, digest), piece(b"2", 1, True, digest)):
        host._receive(frame)
        host._handle_frame(host.inbox.popleft())
    assert host.outbox == [b'["received"]'] * 2


class Channel:
    """A channel that records the frames that are sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)


class Pool:
    """A slot pool that records the calls of a session."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def start(self, *_: Any) -> None:
        self.calls.append("start")


@pytest.fixture
def channel(host: LiveSession) -> Channel:
    host.channel = Channel()
    return host.channel


@pytest.fixture
def pool(host: LiveSession) -> Pool:
    made: Any = Pool()
    host.pool = made
    return made  # type: ignore[no-any-return]


@pytest.mark.usefixtures("channel")
def test_without_credit_the_pool_pauses(host: LiveSession, pool: Pool) -> None:
    host.send_frame(bytes(wire.CREDIT_BYTES - 1))
    assert pool.calls == []
    host.send_frame(bytes(10))
    host.send_frame(bytes(10))
    assert pool.calls == ["pause"]
    host.handle_message("credit", 19)
    assert pool.calls == ["pause"], "it still owes"
    host.handle_message("credit", 1)
    host.handle_message("credit", 1)
    assert pool.calls == ["pause", "resume"]


@pytest.mark.usefixtures("channel")
def test_a_session_opens_with_full_credit(host: LiveSession, pool: Pool) -> None:
    host.send_frame(bytes(wire.CREDIT_BYTES + 1))  # of what is missing of a large tree
    host.handle_message("open", list(Setup("/")))
    assert host.credit == wire.CREDIT_BYTES
    assert pool.calls == ["pause", "resume", "start"]


def test_a_piece_of_an_artifact_is_sent_at_once(host: LiveSession, channel: Channel) -> None:
    host.on_artifact(Test(7, "x", attempt=2), ArtifactPiece("a/b", b"data", True))
    assert [wire.unpack_frame(frame) for frame in channel.sent] == [
        (["artifact", 7, 2, "a/b", True], b"data")
    ]
    assert host.credit == wire.CREDIT_BYTES - len(channel.sent[0])


def test_reports_are_sent_in_one_frame(host: LiveSession, channel: Channel) -> None:
    test = Test(7, "x")
    host.on_running(test, 1)
    host.on_output(test, "\udcff")
    host.on_result(test, b"[7,1]")
    host.on_returned([8, 9])
    host.on_waiting(UnavailableResource(LOCK, "gpu"))
    assert channel.sent == []
    host.flush()
    host.flush()
    assert [wire.unpack_frame(frame) for frame in channel.sent] == [
        [
            ["running", 7, 1],
            ["line", 7, "\udcff"],
            ["done", [7, 1]],
            ["returned", [8, 9]],
            ["waiting", LOCK, "gpu"],
        ]
    ]


def test_a_large_result_waits_for_credit(host: LiveSession, channel: Channel, pool: Pool) -> None:
    host.setup = Setup("/")
    row = b'["' + b"x" * (3 * wire.CREDIT_BYTES) + b'"]'
    host.on_result(Test(7, "x"), row)
    joiner, received = wire.FrameJoiner(), b""
    for _ in range(1000):
        host.flush()
        assert sum(map(len, channel.sent)) <= wire.CREDIT_BYTES + wire.MAX_FRAME_BYTES
        for frame in channel.sent:
            received += joiner.add(frame)
            host.handle_message("credit", len(frame))
        channel.sent.clear()
        if received:
            break
    assert received == b'J[["done",' + row + b"]]"
    assert pool.calls[:2] == ["pause", "resume"]


def test_slots_that_cannot_start_end_the_session(
    host: LiveSession, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> None:
        raise SlotStartError("a slot cannot be started: exit 1")

    monkeypatch.setattr(host.pool, "wait", list)
    monkeypatch.setattr(host.pool, "process", fail)
    host.on_result(Test(7, "x"), b"[7,1]")
    host._run_once()
    assert [wire.unpack_frame(frame) for frame in channel.sent] == [
        [["done", [7, 1]], ["error", "a slot cannot be started: exit 1"]]
    ]
    assert not host.running
