"""Tests of how the agent parses its command line and a peer's hello."""

import argparse
import json
import sys

import pytest

from shell_runner.remote.agent import main
from shell_runner.remote.agent.connection import PeerRefused, parse_hello
from shell_runner.remote.agent.listener import PeerAddress


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h", ("h", 7)),
        ("h:1", ("h", 1)),
        (":1", ("any", 1)),
        ("[::1]:1", ("::1", 1)),
        ("[::1]", ("::1", 7)),
        ("::1", ("::1", 7)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
    ],
)
def test_addresses_are_parsed(text: str, expected: tuple[str, int]) -> None:
    assert main.parse_address(text, 7, "any") == expected


@pytest.mark.parametrize("text", ["h:x", "h:-1", "h:65536", ":1", ""])
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write HOST:PORT"):
        main.parse_address(text, 7)


def test_a_hello_becomes_a_launch_request() -> None:
    line = json.dumps({"nosejobs": 2, "python": "py -X 'a b'", "bootstrap": "x"}).encode()
    expected = {"python": ["py", "-X", "a b"], "bootstrap": "x", "silence": 15.0}
    assert parse_hello(line) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"silence": 0}, {"silence": 1e9}, {"silence": "x"}, {"silence": None},
        {"silence": float("nan")}, {"bootstrap": None}, {"python": 3}, {"bootstrap": "\0"},
        {"nosejobs": "1"},
    ],
)  # fmt: skip
def test_an_invalid_hello_is_refused(changes: dict[str, object]) -> None:
    hello = {"nosejobs": 2, "python": "", "bootstrap": "", "silence": 15, **changes}
    with pytest.raises(PeerRefused):
        parse_hello(json.dumps(hello).encode())


def test_a_unit_escapes_what_systemd_would_expand(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/no/agent.py"])
    bundle = tmp_path / "50% of $HOME.pem"
    bundle.touch()
    (line,) = [
        line
        for line in main.format_unit([str(bundle), "--print-unit"]).splitlines()
        if "Exec" in line
    ]
    assert line.endswith("50%% of $$HOME.pem'")
    assert "--print-unit" not in line


def test_peers_are_written_as_addresses() -> None:
    assert str(PeerAddress("10.0.0.1", "5")) == "10.0.0.1:5"
    assert str(PeerAddress("::1", "5")) == "[::1]:5"
