"""What a host does with what its controller sends."""

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shell_runner.remote import contents, conversation, place, wire
from shell_runner.remote.serve import Serve


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Serve(None)
    yield made
    if made.intake is not None:
        made.intake.store.end()
    made.close()
    place.remove_tree(made.folder)


def piece(data: bytes, offset: int, last: bool, digest: str) -> bytes:
    encoding, body = contents.encode(data)
    return wire.pack_blob(["piece", encoding, len(data), digest, offset, last], body)


def test_pieces_wait_in_the_connection_not_in_memory(host: Serve) -> None:
    data = [bytes([number]) * 1000 for number in range(30)]
    digest = hashlib.sha256(b"".join(data)).hexdigest()
    frames = [piece(each, n * 1000, n == 29, digest) for n, each in enumerate(data)]
    sending = threading.Thread(target=lambda: [host._receive(frame) for frame in frames])
    sending.start()
    most = 0
    deadline = time.monotonic() + 20
    while not host.contents().store.holds(digest, 30_000):
        assert time.monotonic() < deadline
        if len(host.inbox) < conversation._BLOBS and sending.is_alive():
            time.sleep(0.001)  # it fills up, and no further
            continue
        most = max(most, len(host.inbox))
        host._take(host.inbox.popleft())
    sending.join(10)
    assert most == conversation._BLOBS


def test_who_sends_does_not_wait_for_a_host_that_has_ended(host: Serve) -> None:
    host.running = False
    host._blobs.release()
    frames: list[Any] = [piece(b"1", 0, True, "0" * 64)] * 30
    sending = threading.Thread(
        target=lambda: [host._receive(frame) for frame in [*frames, None]], daemon=True
    )
    sending.start()
    sending.join(20)
    assert not sending.is_alive()


def test_a_bomb_is_refused(host: Serve) -> None:
    _, body = contents.encode(b"a" * (1 << 20))
    bomb = wire.pack_blob(["piece", contents.DEFLATED, 1 << 10, "0" * 64, 0, True], body)
    host._receive(bomb)
    with pytest.raises(ValueError, match="more than the 1024 bytes"):
        host._take(host.inbox.popleft())


def test_each_piece_is_a_sign_of_life(host: Serve) -> None:
    digest = hashlib.sha256(b"12").hexdigest()
    for frame in (piece(b"1", 0, False, digest), piece(b"2", 1, True, digest)):
        host._receive(frame)
        host._take(host.inbox.popleft())
    assert host.outbox == [b'["took"]'] * 2
