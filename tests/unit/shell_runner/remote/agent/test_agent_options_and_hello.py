"""Tests of how the agent parses its command line and a peer's hello."""

import argparse
import json
import sys

import pytest

from shell_runner.remote.agent import main
from shell_runner.remote.agent.connection import PeerRefused, parse_hello
from shell_runner.remote.agent.listener import PeerAddress
from tests.helpers.fuzzing import ForbiddenInput


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


#: Values of each type of JSON, and at the limits of numbers.
JSON_VALUES = [
    None, True, False, 0, 1, -1, 3, 10**400, -(10**400), 0.5, 1e9, float("nan"), float("inf"),
    "", "x", "\0", "\ud800", "x\udcff", "'", [], [None], ["python3"], {}, {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("key", ["nosejobs", "python", "bootstrap", "silence"])
@pytest.mark.parametrize("value", JSON_VALUES, ids=lambda value: repr(value)[:20])
def test_a_hello_with_any_value_is_accepted_or_refused(
    key: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", ForbiddenInput())
    hello = {"nosejobs": 2, "python": "", "bootstrap": "", "silence": 15, key: value}
    accepted = {"python": ("", "x"), "bootstrap": ("", "x", "'"), "silence": (1, 3)}
    valid = not isinstance(value, bool) and value in accepted.get(key, ())
    try:
        parse_hello(json.dumps(hello).encode())
    except PeerRefused:
        assert not valid
    else:
        assert valid


@pytest.mark.parametrize("key", ["nosejobs", "python", "bootstrap"])
def test_a_hello_without_a_key_is_refused(key: str) -> None:
    hello = {"nosejobs": 2, "python": "", "bootstrap": ""}
    del hello[key]
    with pytest.raises(PeerRefused):
        parse_hello(json.dumps(hello).encode())


@pytest.mark.parametrize("line", [b"null", b"3", b'"x"', b"[]", b"", b"\xff", b"9" * 60000])
def test_a_line_that_is_not_an_object_is_refused(line: bytes) -> None:
    with pytest.raises(PeerRefused, match="not a hello"):
        parse_hello(line)


def test_a_python_at_the_limit_is_accepted_and_a_longer_one_refused() -> None:
    hello = {"nosejobs": 2, "python": "x" * 4096, "bootstrap": ""}
    assert parse_hello(json.dumps(hello).encode())["python"] == ["x" * 4096]
    hello["python"] = "x" * 4097
    with pytest.raises(PeerRefused, match="longer than 4096"):
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


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ([], (32, 16)),
        (["--max-connections", "1"], (1, 1)),
        (["--max-connections", "5"], (5, 3)),
        (["--max-connections", "0", "--max-client-connections", "-1"], (1, 1)),
        (["--max-client-connections", "32"], (32, 32)),
    ],
)
def test_one_client_gets_half_of_the_connections_by_default(
    options: list[str], limits: tuple[int, int]
) -> None:
    made = main._make_options(main._create_parser().parse_args(["b.pem", *options]))
    assert (made.max_connections, made.max_client_connections) == limits


def test_peers_are_written_as_addresses() -> None:
    assert str(PeerAddress("10.0.0.1", "5")) == "10.0.0.1:5"
    assert str(PeerAddress("::1", "5")) == "[::1]:5"
