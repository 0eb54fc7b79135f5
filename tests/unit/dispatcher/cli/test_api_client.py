"""Tests of the bounds of what the commands read from the API."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher.cli import api_client
from dispatcher.cli.api_client import ApiClient, DispatcherUnreachable


class FakeResponse:
    """A response that streams chunks."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks

    def __enter__(self) -> "FakeResponse":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def iter_content(self, chunk_size: int | None) -> Iterator[bytes]:
        return iter(self._chunks)


def read_events(monkeypatch: pytest.MonkeyPatch, *chunks: bytes) -> list[Any]:
    client = ApiClient("http://127.0.0.1:1")
    monkeypatch.setattr(client, "_send", lambda *_, **__: FakeResponse(list(chunks)))
    return list(client.stream_events("/x"))


def test_events_are_read_from_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b'event: log\ndata: {"a": 1}\nid: 5\n\n: comment\n\ndata: 2\n\n'
    expected = [("log", {"a": 1}, "5"), ("", 2, "")]
    for size in (1, 7, len(text)):
        chunks = [text[at : at + size] for at in range(0, len(text), size)]
        events = read_events(monkeypatch, *chunks)
        assert [(each.name, each.data, each.id) for each in events] == expected


def test_an_endless_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_client, "_MAX_EVENT_LINE_BYTES", 1000)
    with pytest.raises(DispatcherUnreachable, match="a line of more than 1000 bytes"):
        read_events(monkeypatch, *[b"x" * 100] * 11)


def test_unknown_fields_of_an_event_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    names = b"".join(b"field%d: x\n" % number for number in range(100_000))
    (event,) = read_events(monkeypatch, names + b"data: " + json.dumps("y").encode() + b"\n\n")
    assert event.data == "y"
