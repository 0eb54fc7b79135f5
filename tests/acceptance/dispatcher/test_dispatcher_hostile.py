"""What strangers and secrets meet: whoever can push writes nosejobs.toml; nobody else reads ours.

The command `nosejobs up` in a process of its own, a real repository, real hosts.
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

COMMANDS = {str(each.name): each for each in commands.ALL}
#: What is written, and what is said of it, from its beginning.
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


def client_of(scenario: Scenario) -> api_client.Client:
    """Once it answers."""
    scenario.wait_until("an address", lambda: api_client.noted(scenario.data))
    return api_client.Client(api_client.noted(scenario.data))


def shown(client: api_client.Client, *words: object) -> str:
    """What a command prints."""
    command, *rest = map(str, words)
    found = CliRunner().invoke(COMMANDS[command], [*rest, "--url", client.url])
    assert found.exit_code == 0, found.output
    return found.output


def test_a_hostile_config_makes_its_build_invalid_and_says_where(scenario: Scenario) -> None:
    dispatcher = scenario.start_dispatcher()
    client = client_of(scenario)
    for what, (text, words) in HOSTILE.items():
        (scenario.tree.path / "nosejobs.toml").write_bytes(text)
        revision = scenario.tree.commit(what)
        client.post("/poke/here", who="ann")
        ended = "SELECT build.id, state, detail FROM build JOIN change ON change.id = build.change"
        ended += " WHERE revision = ? AND state != 'new'"
        scenario.wait_until(what, lambda: scenario.rows(ended, revision))  # noqa: B023
        ((number, state, detail),) = scenario.rows(ended, revision)
        assert state == "invalid", (what, detail)
        assert detail.startswith(f"nosejobs.toml:{words}" if words else "nosejobs.toml"), what
        assert len(detail) < 1000, what
        assert _is_harmless(detail), (what, detail)
        # It is seen by all that look.
        assert client.get(f"/builds/{number}")["state"] == "invalid"
        page = shown(client, "show", number)
        assert "has an invalid nosejobs.toml" in page, what
        assert f"because   {detail[:60]}" in page, what
        assert _is_harmless(page), (what, page)
    assert not scenario.rows("SELECT id FROM job")
    assert _is_harmless(shown(client, "builds"))
    assert _is_harmless(scenario.log)
    assert dispatcher.is_alive
    _comes_to_ship(scenario, client)
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
    scenario.wait_until("its end", lambda: scenario.rows(ended) or _trouble(scenario))
    words = str(scenario.rows(ended)) + _trouble(scenario)
    assert "root:" not in words + scenario.log
    assert not scenario.rows("SELECT id FROM job")


def _trouble(scenario: Scenario) -> str:
    return "".join(f"{row[0]}" for row in scenario.rows("SELECT detail FROM build"))


def _is_harmless(text: str) -> bool:
    """Nothing that drives a terminal, or turns the order of letters around."""
    return not any(
        unicodedata.category(each) in ("Cc", "Cf", "Cs") for each in text if each != "\n"
    )


def _comes_to_ship(scenario: Scenario, client: api_client.Client) -> None:
    scenario.write_config()
    scenario.commit()
    client.post("/poke/here", who="ann")
    scenario.wait_until("ship", lambda: scenario.rows("SELECT id FROM build WHERE level = 'ship'"))


# -- secrets ---------------------------------------------------------------------------


def test_what_the_dispatcher_has_in_its_environment_is_nowhere(scenario: Scenario) -> None:
    """Not in rows, logs, packages, answers; not on its hosts, nor in what tests print."""
    secret = secrets.token_hex(20)
    scenario.commit(extra="env; set; cat /proc/self/environ; echo the-end-of-it")
    dispatcher = scenario.start_dispatcher(
        DEPLOY_TOKEN=secret, NOSEJOBS_TOKEN=secret, GIT_ASKPASS_TOKEN=secret
    )
    client = client_of(scenario)
    scenario.wait_until_shipped()
    answers = _everything(client, scenario)
    assert "the-end-of-it" in answers["log"]
    for each, text in answers.items():
        assert secret not in text, each
    dispatcher.stop()
    assert secret not in scenario.log
    for folder in ("data", "state", "cache", "tmp"):
        assert not _holders(scenario.folder / folder, secret.encode())


def test_what_notifications_are_signed_with_is_in_the_database_alone(scenario: Scenario) -> None:
    scenario.commit()
    dispatcher = scenario.start_dispatcher()
    client = client_of(scenario)
    scenario.wait_until_shipped()
    ((secret,),) = scenario.rows("SELECT value FROM key_value WHERE name = 'notify.secret'")
    for each, text in _everything(client, scenario).items():
        assert secret.decode() not in text, each
    dispatcher.stop()
    assert secret.decode() not in scenario.log
    for folder in ("state", "cache", "tmp"):
        assert not _holders(scenario.folder / folder, secret)
    holders = _holders(scenario.data, secret)
    assert {path.name.partition("-")[0] for path in holders} == {"dispatcher.db"}
    assert scenario.data.stat().st_mode & 0o77 == 0
    assert not [path for path in holders if path.stat().st_mode & 0o77]


def _everything(client: api_client.Client, scenario: Scenario) -> dict[str, str]:
    """What commands and the API say of all there is."""
    found = {path: json.dumps(client.get(path)) for path in ("/status", "/sources", "/builds")}
    found |= {path: json.dumps(client.get(path)) for path in ("/hosts", "/audit", "/builds/1")}
    ids = [row[0] for row in scenario.rows("SELECT id FROM job")]
    assert len(ids) == 3
    for id in ids:
        for path in (f"/jobs/{id}", f"/jobs/{id}/results", f"/jobs/{id}/results/0/cases"):
            found[path] = json.dumps(client.get(path))
    found |= {name: shown(client, name) for name in ("builds", "hosts")}
    found["show"] = shown(client, "show", 1) + shown(client, "show", 1, "--json")
    found["log"] = shown(client, "logs", 1, "unit")
    return found


def _holders(folder: Path, secret: bytes) -> list[Path]:
    """Files in which the bytes are, also in what is packed."""
    return [path for path in folder.rglob("*") if path.is_file() and _holds(path, secret)]


def _holds(path: Path, secret: bytes) -> bool:
    data = path.read_bytes()
    if secret in data or not data.startswith(b"PK\3\4"):
        return secret in data
    with zipfile.ZipFile(path) as archive:
        return any(secret in archive.read(name) for name in archive.namelist())
