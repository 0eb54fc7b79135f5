"""Tests of the settings of the proxy, and of the explanation of its errors."""

from pathlib import Path

import pytest

from shell_runner.config import HostEntry
from shell_runner.errors import HostOpenError
from shell_runner.hosts import gateway as gateways
from shell_runner.hosts import tls
from shell_runner.hosts.spec import parse_specs


def settings(spec: str) -> dict[str, str | int]:
    return gateways.make_proxy_settings(parse_specs([spec], {})[0])


def test_the_proxy_is_told_what_a_kind_needs() -> None:
    assert settings("ssh=me@h//ssh_config=/c//python=p") == {
        "kind": "ssh", "address": "me@h", "python": "p", "ssh_config": "/c",
    }  # fmt: skip
    assert settings("agent=h:7000//name=n//credentials=/c//listen=7001") == {
        "kind": "agent", "address": "h", "port": 7000, "name": "n", "credentials": "/c",
        "listen": 7001, "python": "",
    }  # fmt: skip


class ErrorFile:
    """A file of error messages with a given text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def read(self) -> str:
        return self._text


def explain(spec: str, said: str, monkeypatch: pytest.MonkeyPatch) -> HostOpenError:
    (parsed,) = parse_specs([spec], {"web1": HostEntry("web1", "popen")})
    gateway = gateways.Gateway.__new__(gateways.Gateway)
    monkeypatch.setattr(gateway, "spec", parsed, raising=False)
    monkeypatch.setattr(gateway, "_errors", ErrorFile(said), raising=False)
    return gateway._explain_failure(None)


def test_a_complaint_of_tls_is_shown_with_its_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    text = tls.CannotConnect("no agent at h:7422", "start one {there}").format_for_error_file()
    error = explain("agent=h", f"nosejobs-pid: 1\n{text}", monkeypatch)
    assert str(error) == "host h: no agent at h:7422\n  try: start one {there}"


def test_a_bare_name_that_is_not_reached_may_have_been_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    text = tls.CannotConnect(
        "the name wbe1 is unknown", "check the spelling"
    ).format_for_error_file()
    error = explain("wbe1", text, monkeypatch)
    assert error.hint == "check the spelling; did you mean 'web1' of nosejobs.toml?"


@pytest.mark.parametrize(
    ("said", "cause", "hint"),
    [
        (
            "Can't open user config file /no/such: No such file or directory",
            "cannot read the ssh configuration /no/such: No such file or directory",
            "//ssh_config=FILE",
        ),
        (
            "Can't open user config file a b: Permission denied",
            "cannot read the ssh configuration a b: Permission denied",
            "//ssh_config=FILE",
        ),
        (
            "c: line 2: Bad configuration option: foo\nc: terminating, 1 bad configuration options",
            "invalid ssh configuration: c: line 2: Bad configuration option: foo",
            "correct the file",
        ),
        (
            "Warning: Identity file /no not accessible: No such file or directory.\n"
            "me@h: Permission denied (publickey).",
            "key refused (publickey)",
            "ssh-add",
        ),
        (
            "Warning: Identity file /no not accessible: No such file or directory.\n"
            "ssh: connect to host h port 22: Connection refused",
            "Connection refused",
            "sshd",
        ),
        (
            "/bin/bash: line 1: /no/proxy: No such file or directory\n"
            "banner exchange: Connection to UNKNOWN port 65535: Broken pipe",
            "the ProxyCommand or ProxyJump of ssh failed: "
            "/bin/bash: line 1: /no/proxy: No such file or directory",
            "in your ssh configuration",
        ),
        (
            "ssh: Could not resolve hostname jump: Name or service not known\n"
            "Connection closed by UNKNOWN port 65535",
            "the ProxyCommand or ProxyJump of ssh failed: "
            "ssh: Could not resolve hostname jump: Name or service not known",
            "in your ssh configuration",
        ),
        ("bash: line 1: exec: py9: not found", "py9 not found on the host", "//python="),
        ("bash: line 1: /a/py: No such file or directory", "/a/py not found on the", "//python="),
        ("sh: 1: exec: python3: not found", "python3 not found on the host", "//python="),
    ],
)
def test_words_of_ssh_become_a_cause_and_a_hint(
    monkeypatch: pytest.MonkeyPatch, said: str, cause: str, hint: str
) -> None:
    error = explain("ssh=h", f"{said}\n", monkeypatch)
    assert str(error).startswith(f"host h: {cause}")
    assert hint in error.hint
    assert ("//python=" in error.hint) is ("//python=" in hint)
