"""Tests of a hostile nosejobs.toml, and of secrets of the dispatcher.

They use the command `nosejobs up` in its own process, a real repository and real hosts.
"""

from __future__ import annotations

import json
import secrets
import unicodedata
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from dispatcher.cli import api_client, commands
from tests.helpers.crash_scenario import Scenario

pytestmark = pytest.mark.timeout(150)

COMMANDS = {str(each.name): each for each in commands.ALL_COMMANDS}
#: Invalid contents of nosejobs.toml, and the beginning of the message for each.
HOSTILE = {
    "no key": (b"\n[stages.unit]\ntest = ['x']\n", "3: unknown key 'stages.unit.test'"),
    "no toml": (b"[stages.unit]\nhosts = = 1\n", "2: "),
    "no text": (b"# fine\n[stages.unit]\ninstall = '\xff\xfe'\n", "3: "),
    "huge": (b"# " + b"x" * (3 << 20), ""),
    "a huge list": (b"[stages.a]\ntests = [" + b"'a'," * 60_000 + b"]\n", "2: stages.a.tests"),
    "deep": (b"[stages.unit]\ntests = " + b"[" * 50_000 + b"]" * 50_000 + b"\n", "2: "),
    "a deep key": (b"[stages.unit]\n" + b"a." * 20_000 + b"a = 1\n", "2: "),
    "a large number": (b"[stages.unit]\nhosts = 0x" + b"f" * 90_000, "2: stages.unit.hosts"),
    "control characters in a key": (
        b'[stages."\\u001b]0;owned\\u0007\\u001b[2J"]\n', "1: stages.'\\x1b]0;owned\\x07\\x1b[2J'"
    ),
    "control characters in a value": (
        b'[stages.unit]\nmode = "\\u001b[31m\\r\\u202e\\u0000"\n', "2: stages.unit.mode must be"
    ),
    "control characters as such": (b"[stages.unit]\ninstall = '\x1b[2J\x07'\n", "2: "),
    "out of the tree": (b"[build]\ncommand = 'x'\noutput = '../../x'\n", "3: build.output must be"),
    "in a circle": (b"[stages.a]\nneeds = ['a']\n", "2: stages.a.needs has a cycle"),
    "ours in the environment": (
        b"[stages.a.environment]\nNOSEJOBS_JOB = 'x'\n", "1: stages.a.environment must be"
    ),
    "what is said of tests": (b"\n[tests]\ntimeout = 'x'\n", "3: [tests]: timeout: must be"),
    "what is said of some tests": (
        b"[tests]\n['tests'.'*\xc2\x9b.sh']\nleftovers = 1\ntimeot = 1\n",
        "3: [tests.'*\\x9b.sh']: leftovers: must be",
    ),
    "a large number of tests": (b"[tests]\nretries = 0x" + b"f" * 90_000, "2: [tests]: retries"),
    "a large number of hosts": (b"[hosts.x]\nslots = 0o" + b"7" * 90_000, "2: hosts.x.slots"),
}  # fmt: skip


def connect(scenario: Scenario) -> api_client.ApiClient:
    """Return a client of the dispatcher, once it answers."""
    scenario.wait_until("the URL", lambda: api_client.read_url(scenario.data))
    return api_client.ApiClient(api_client.read_url(scenario.data))


def run_command(client: api_client.ApiClient, *arguments: object) -> str:
    """Return the output of a command."""
    command, *rest = map(str, arguments)
    result = CliRunner().invoke(COMMANDS[command], [*rest, "--url", client.url])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_hostile_config_makes_its_build_invalid_and_says_where(scenario: Scenario) -> None:
    dispatcher = scenario.start_dispatcher()
    client = connect(scenario)
    for what, (text, position) in HOSTILE.items():
        (scenario.tree.path / "nosejobs.toml").write_bytes(text)
        revision = scenario.tree.commit(what)
        client.post("/poke/here", actor="ann")
        ended = "SELECT build.id, state, detail FROM build JOIN change ON change.id = build.change"
        ended += " WHERE revision = ? AND state != 'new'"
        scenario.wait_until(what, lambda: scenario.rows(ended, revision))  # noqa: B023
        ((number, state, detail),) = scenario.rows(ended, revision)
        assert state == "invalid", (what, detail)
        assert detail.startswith(f"nosejobs.toml:{position}" if position else "nosejobs.toml"), what
        assert len(detail) < 1000, what
        assert _is_harmless(detail), (what, detail)
        # All views show the error.
        assert client.get(f"/builds/{number}")["state"] == "invalid"
        page = run_command(client, "show", number)
        assert "has an invalid nosejobs.toml" in page, what
        assert f"because   {detail[:60]}" in page, what
        assert _is_harmless(page), (what, page)
    assert not scenario.rows("SELECT id FROM job")
    assert _is_harmless(run_command(client, "builds"))
    assert _is_harmless(scenario.log)
    assert dispatcher.is_alive
    _check_shipped(scenario, client)
    dispatcher.stop()
    scenario.check_data()


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../etc/passwd", "dispatcher.toml"])
def test_a_config_that_is_a_link_reads_nothing_outside(scenario: Scenario, target: str) -> None:
    config = scenario.tree.path / "nosejobs.toml"
    config.unlink()
    config.symlink_to(target)
    scenario.tree.commit()
    scenario.start_dispatcher()
    ended = "SELECT state, detail FROM build WHERE state != 'new'"
    scenario.wait_until(
        "the end of the build", lambda: scenario.rows(ended) or _source_error(scenario)
    )
    messages = str(scenario.rows(ended)) + _source_error(scenario)
    assert "root:" not in messages + scenario.log
    assert not scenario.rows("SELECT id FROM job")


def _source_error(scenario: Scenario) -> str:
    return "".join(f"{row[0]}" for row in scenario.rows("SELECT detail FROM build"))


def _is_harmless(text: str) -> bool:
    """Return whether a text has no control characters, and none that change its direction."""
    return not any(
        unicodedata.category(each) in ("Cc", "Cf", "Cs") for each in text if each != "\n"
    )


def _check_shipped(scenario: Scenario, client: api_client.ApiClient) -> None:
    scenario.write_config()
    scenario.commit()
    client.post("/poke/here", actor="ann")
    scenario.wait_until("ship", lambda: scenario.rows("SELECT id FROM build WHERE level = 'ship'"))


# -- secrets ---------------------------------------------------------------------------


def test_what_the_dispatcher_has_in_its_environment_is_nowhere(scenario: Scenario) -> None:
    """The secret is in no row, log, package and response, on no host and in no output of a test."""
    secret = secrets.token_hex(20)
    scenario.commit(extra="env; set; cat /proc/self/environ; echo the-end-of-it")
    dispatcher = scenario.start_dispatcher(
        DEPLOY_TOKEN=secret, NOSEJOBS_TOKEN=secret, GIT_ASKPASS_TOKEN=secret
    )
    client = connect(scenario)
    scenario.wait_until_shipped()
    answers = _collect_output(client, scenario)
    assert "the-end-of-it" in answers["log"]
    for place, text in answers.items():
        assert secret not in text, place
    dispatcher.stop()
    assert secret not in scenario.log
    for folder in ("data", "state", "cache", "tmp"):
        assert not _holders(scenario.folder / folder, secret.encode())


def test_what_notifications_are_signed_with_is_in_the_database_alone(scenario: Scenario) -> None:
    scenario.commit()
    dispatcher = scenario.start_dispatcher()
    client = connect(scenario)
    scenario.wait_until_shipped()
    ((secret,),) = scenario.rows("SELECT value FROM key_value WHERE name = 'notify.secret'")
    for place, text in _collect_output(client, scenario).items():
        assert secret.decode() not in text, place
    dispatcher.stop()
    assert secret.decode() not in scenario.log
    for folder in ("state", "cache", "tmp"):
        assert not _holders(scenario.folder / folder, secret)
    holders = _holders(scenario.data, secret)
    assert {path.name.partition("-")[0] for path in holders} == {"dispatcher.db"}
    assert scenario.data.stat().st_mode & 0o77 == 0
    assert not [path for path in holders if path.stat().st_mode & 0o77]


def _collect_output(client: api_client.ApiClient, scenario: Scenario) -> dict[str, str]:
    """Return the output of commands and all responses of the API."""
    output = {path: json.dumps(client.get(path)) for path in ("/status", "/sources", "/builds")}
    output |= {path: json.dumps(client.get(path)) for path in ("/hosts", "/audit", "/builds/1")}
    ids = [row[0] for row in scenario.rows("SELECT id FROM job")]
    assert len(ids) == 3
    for id in ids:
        for path in (f"/jobs/{id}", f"/jobs/{id}/results", f"/jobs/{id}/results/0/cases"):
            output[path] = json.dumps(client.get(path))
    output |= {name: run_command(client, name) for name in ("builds", "hosts")}
    output["show"] = run_command(client, "show", 1) + run_command(client, "show", 1, "--json")
    output["log"] = run_command(client, "logs", 1, "unit")
    return output


def _holders(folder: Path, secret: bytes) -> list[Path]:
    """Return the files that contain the secret, also in compressed form."""
    return [path for path in folder.rglob("*") if path.is_file() and _holds(path, secret)]


def _holds(path: Path, secret: bytes) -> bool:
    data = path.read_bytes()
    if secret in data or not data.startswith(b"PK\3\4"):
        return secret in data
    with zipfile.ZipFile(path) as archive:
        return any(secret in archive.read(name) for name in archive.namelist())
