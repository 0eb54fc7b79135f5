"""Tests of host specs."""

import dataclasses
from pathlib import Path

import pytest

from shell_runner.config import HostEntry
from shell_runner.errors import InvalidHostSpec
from shell_runner.hosts import spec as hosts
from shell_runner.hosts.spec import HostSpec, parse_specs
from shell_runner.remote.protocol.host_facts import count_cores

INVENTORY = {
    "big": HostEntry("big", "ssh=me@big//python=python3.9", 8, ("gpu",)),
    "small": HostEntry("small", "3*popen"),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("popen", HostSpec("popen", "popen", 1)),
        ("4*popen", HostSpec("popen", "popen", 4)),
        ("popen//slots=4", HostSpec("popen", "popen", 4)),
        ("popen//python=/p", HostSpec("popen", "popen", 1, python="/p")),
        ("auto", HostSpec("popen", "popen", count_cores())),
        ("ssh=h", HostSpec("h", "ssh", 0, "h")),
        ("ssh=me@h", HostSpec("me@h", "ssh", 0, "me@h")),
        ("ssh=-p 2200 me@h", HostSpec("me@h", "ssh", 0, "-p 2200 me@h")),
        ("2*ssh=h//ssh_config=/c", HostSpec("h", "ssh", 2, "h", ssh_config="/c")),
        ("ssh=h//slots=8//python=python3.9", HostSpec("h", "ssh", 8, "h", "python3.9")),
        ("ssh=h//id=x", HostSpec("x", "ssh", 0, "h")),
        ("big", HostSpec("big", "ssh", 8, "me@big", "python3.9", labels=("gpu",))),
        ("small", HostSpec("small", "popen", 3)),
        ("agent=h", HostSpec("h", "agent", 0, "h", port=7422)),
        ("2*agent=h:7000", HostSpec("h:7000", "agent", 2, "h", port=7000)),
        ("agent=[::1]:7000//id=x", HostSpec("x", "agent", 0, "::1", port=7000)),
        ("agent=::1", HostSpec("::1", "agent", 0, "::1", port=7422)),
        (
            "agent=10.0.0.1//name=web1//credentials=/c.pem//python=p",
            HostSpec(
                "web1", "agent", 0, "10.0.0.1", "p", port=7422, name="web1", credentials="/c.pem"
            ),
        ),
        ("agent=h//listen=7423", HostSpec("h", "agent", 0, "h", port=7422, listen=7423)),
        ("web1", HostSpec("web1", "agent", 0, "web1", port=7422)),
        (
            "web1.example.org:7000",
            HostSpec("web1.example.org:7000", "agent", 0, "web1.example.org", port=7000),
        ),
        ("4*web1//python=p", HostSpec("web1", "agent", 4, "web1", "p", port=7422)),
        (
            "bgi",
            HostSpec(
                "bgi",
                "agent",
                0,
                "bgi",
                port=7422,
                alternative="did you mean 'big' of nosejobs.toml?",
            ),
        ),
    ],
)
def test_specs(text: str, expected: HostSpec) -> None:
    assert parse_specs([text], INVENTORY) == [expected]


def test_options_and_commas_add_up_and_names_are_unique() -> None:
    specs = parse_specs(["popen, 2*popen", "big", "popen"], INVENTORY)
    assert [spec.id for spec in specs] == ["popen", "popen-2", "big", "popen-3"]
    assert [spec.slots for spec in specs] == [1, 2, 8, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs a host"),
        (",", "needs a host"),
        ("0*popen", "host spec '0*popen': the number of slots must be 1 to 1024, not '0'"),
        ("x*popen", "host spec 'x*popen': the number of slots must be 1 to 1024, not 'x'"),
        ("popen*4", "try: --nosejobs='4*popen'"),
        ("*ssh=h", "the number of slots must be 1 to 1024, not ''"),
        ("2*popen//slots=3", "give the slots once"),
        ("popen//slots=x", "slots must be a whole number, 1 to 1024"),
        ("popen//slots=0", "slots must be a whole number, 1 to 1024"),
        ("popen//slots=1//slots=2", "given twice"),
        ("popen//slot=2", "unknown option 'slot'; did you mean 'slots'?"),
        ("ssh=", "needs an address"),
        ("ssh=h//popen", "only one of popen, ssh"),
        ("poepn", "try: --nosejobs='4*popen'"),
        ("atuo", "auto"),
        ("2*poopen", "2*poopen"),
        ("4popen", "try: --nosejobs='4*popen'"),
        ("/", "it is a file"),
        ("me@h", "try: --nosejobs=ssh=me@h"),
        ("ssh=h//agent=h", "only one of agent, ssh"),
        ("ssh=h//listen=1", "option 'listen' is for agent hosts"),
        ("agent=h//ssh_config=x", "option 'ssh_config' is for ssh hosts"),
        ("popen//credentials=x", "option 'credentials' is for agent hosts"),
        ("agent=", "needs a host"),
        ("agent=a b", "needs a host"),
        ("agent=me@h", "runs as its own user"),
        ("agent=h:x", "the port must be a number from 1 to 65535"),
        ("agent=h//listen=0", "listen must be a number from 1 to 65535"),
        ("h:99999", "the port must be a number from 1 to 65535"),
        ("-2*popen", "the number of slots must be 1 to 1024, not '-2'"),
    ],
)
def test_bad_specs_say_what_to_try(text: str, words: str) -> None:
    with pytest.raises(InvalidHostSpec) as caught:
        parse_specs([text], INVENTORY)
    assert words in str(caught.value)


def test_an_inventory_entry_bounds_the_cache() -> None:
    entries = {"a": HostEntry("a", "ssh=a", cache=5), "b": HostEntry("b", "ssh=b")}
    assert [spec.cache for spec in parse_specs(["a", "b"], entries)] == [5, 4 << 30]


def test_an_inventory_entry_cannot_name_another() -> None:
    with pytest.raises(InvalidHostSpec, match=r"\[hosts.a\].* has no kind"):
        parse_specs(["a"], {"a": HostEntry("a", "b"), "b": HostEntry("b", "popen")})


def test_a_file_is_no_host_unless_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    with pytest.raises(InvalidHostSpec, match="--nosejobs=auto tests, or agent=tests for a host"):
        parse_specs(["tests"], {})
    assert parse_specs(["agent=tests"], {})[0].address == "tests"


def test_only_popen_uses_the_tree_in_place() -> None:
    in_place = [spec.is_in_place for spec in parse_specs(["popen", "ssh=h", "agent=h"], {})]
    assert in_place == [True, False, False]


def test_a_host_of_the_inventory_takes_options() -> None:
    known = {"web1": HostEntry("web1", "ssh=me@web1//python=python3.9", 2, ("docker",))}
    (plain,) = parse_specs(["web1"], known)
    (more,) = parse_specs(["4*web1//python=python3.8"], known)
    assert more == dataclasses.replace(plain, slots=4, python="python3.8")
    for bad in ("web1//agent=x", "web1//credentials=c", "2*web1//slots=3", "web1//slots=0"):
        with pytest.raises(InvalidHostSpec):
            parse_specs([bad], known)


@pytest.mark.parametrize(
    "text",
    [
        "popen", "popen//id=there//labels=a+b", "ssh=root@h//ssh_config=/c//python=py",
        "ssh=-p 22 root@h", "agent=h", "agent=[::1]:9//name=n//credentials=/c//listen=5//slots=3",
    ],
)  # fmt: skip
def test_a_host_is_written_as_it_can_be_typed(text: str) -> None:
    (spec,) = hosts.parse_specs([text], {})
    assert hosts.parse_specs([hosts.format_spec(spec)], {}) == [spec]


def test_a_port_of_ssh_has_its_place_elsewhere() -> None:
    with pytest.raises(
        InvalidHostSpec, match=r"does not take HOST:PORT\n  try: Port in ~/.ssh/config"
    ):
        hosts.parse_specs(["ssh=root@127.0.0.1:1"], {})
