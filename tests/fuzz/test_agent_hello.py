"""A fuzzer of the hello, the first line that a client sends to an agent."""

from __future__ import annotations

import json
import random
import shlex
import sys

import pytest

from shell_runner.remote.agent.connection import PeerRefused, parse_hello
from tests.helpers.fuzzing import ForbiddenInput, iterate_seeds, load_corpus, mutate

_KEYS = ("nosejobs", "python", "bootstrap", "silence")


def _make_value(rng: random.Random, depth: int = 0) -> object:
    """Return a value of any type of JSON."""
    texts = ("", "python3 -X dev", "'", "\0", "\ud800", "x" * 5000, "#", "\\")
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind < 6:
        numbers = (2, 15, 0, -1, 10 ** rng.randint(1, 500), 1e308, float("nan"), 0.5)
        return (
            None, rng.random() < 0.5, rng.choice(numbers), rng.choice(texts),
            rng.randint(-9, 4000), 15.0,
        )[kind]  # fmt: skip
    values = [_make_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return values if kind == 6 else {str(number): each for number, each in enumerate(values)}


def _make_line(rng: random.Random, corpus: list[bytes]) -> bytes:
    if rng.random() < 0.5:
        return mutate(rng, rng.choice(corpus))
    hello: object = {"nosejobs": 2, "python": "python3 -X dev", "bootstrap": "1", "silence": 15}
    assert isinstance(hello, dict)
    for key in rng.sample(_KEYS, rng.randint(1, 4)):
        hello[key] = _make_value(rng)
    if rng.random() < 0.2:
        del hello[rng.choice(_KEYS)]
    return json.dumps(hello).encode()


def _check(line: bytes) -> bool:
    """Parse a line; return whether it was accepted.  Any error but a refusal is a failure."""
    try:
        request = parse_hello(line)
    except PeerRefused:
        return False
    assert set(request) == {"python", "bootstrap", "silence"}
    assert 1 <= request["silence"] <= 3600
    assert isinstance(request["silence"], float)
    for text in (*request["python"], request["bootstrap"]):
        assert isinstance(text, str)
        assert b"\0" not in text.encode()
    assert shlex.split(shlex.join(request["python"])) == request["python"]
    return True


@pytest.fixture(autouse=True)
def no_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", ForbiddenInput())


@pytest.mark.parametrize("line", load_corpus("agent_hello"), ids=lambda line: line[:40].decode())
def test_found_hellos(line: bytes) -> None:
    _check(line)


def test_a_hello_is_accepted_or_refused() -> None:
    corpus = load_corpus("agent_hello")
    outcomes = {_check(_make_line(rng, corpus)) for rng in iterate_seeds()}
    assert outcomes == {True, False}
