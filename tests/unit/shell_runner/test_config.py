"""Tests of the keys of nosejobs.toml and their validation."""

from pathlib import Path

import pytest

from shell_runner.collection.metadata import Metadata, resolve_defaults
from shell_runner.config import Config, HostEntry, load_config
from shell_runner.config_file import find_root
from shell_runner.errors import InvalidConfig


def load_text(root: Path, text: str) -> Config:
    (root / "nosejobs.toml").write_text(text)
    return load_config(root)


def test_no_file_is_an_empty_config(tmp_path: Path) -> None:
    assert load_config(tmp_path) == Config(tmp_path)


def test_hosts(tmp_path: Path) -> None:
    text = (
        '[hosts.big]\nspec = "ssh=me@big"\nslots = 8\nlabels = ["gpu"]\n'
        '[hosts.plain]\n[hosts.here]\nspec = "2*popen"\n'
    )
    assert load_text(tmp_path, text).hosts == {
        "big": HostEntry("big", "ssh=me@big", 8, ("gpu",)),
        "plain": HostEntry("plain", "ssh=plain"),
        "here": HostEntry("here", "2*popen"),
    }


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("1000", 1000), ("'1000'", 1000), ("'4GiB'", 4 << 30), ("'4 GB'", 4 * 10**9),
        ("'1.5G'", 1_500_000_000), ("'512MiB'", 512 << 20), ("'10kB'", 10_000),
        ("'2T'", 2 * 10**12),
    ],
)  # fmt: skip
def test_the_cache_of_a_host_has_a_size(tmp_path: Path, text: str, size: int) -> None:
    assert load_text(tmp_path, f"[hosts.a]\ncache = {text}\n").hosts["a"].cache == size


def test_tests_are_defaults_and_patterns_in_order(tmp_path: Path) -> None:
    text = '[tests]\ntimeout = 9\n[tests."slow_*"]\ntimeout = 90\n[tests."a/*"]\ntags = ["a"]\n'
    config = load_text(tmp_path, text)
    assert config.defaults == {"timeout": 9}
    assert config.patterns == (("slow_*", {"timeout": 90}), ("a/*", {"tags": ["a"]}))


def test_tables_of_other_parts_are_left_alone(tmp_path: Path) -> None:
    load_text(tmp_path, "[build]\nx = 1\n[stages.smoke]\n[levels]\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[host.a]\n", "unknown key 'host'; did you mean 'hosts'?"),
        ("[hosts.a]\nslot = 1\n", ":2: unknown key 'hosts.a.slot'; did you mean 'slots'?"),
        ("[hosts.a]\nslots = 0\n", "hosts.a.slots must be a whole number, 1 to 1024"),
        ("[hosts.a]\nslots = true\n", "hosts.a.slots must be a whole number, 1 to 1024"),
        ("[hosts.a]\nspec = 1\n", "hosts.a.spec must be a text of one line"),
        ('[hosts.a]\nlabels = "x"\n', "hosts.a.labels must be a list of at most 1000 labels"),
        ("[hosts.a]\ncache = -1\n", 'hosts.a.cache must be a size as "4GiB", "500MB" or 0, not -1'),
        ("[hosts.a]\ncache = true\n", "hosts.a.cache must be a size"),
        ("[hosts.a]\ncache = '4 gigs'\n", "hosts.a.cache must be a size"),
        ("[hosts.a]\ncache = '-1GB'\n", "hosts.a.cache must be a size"),
        ("hosts = 1\n", "1: hosts must be a table, not 1"),
        ("[hosts]\na = 1\n", "2: hosts.a must be a table, not 1"),
        ("tests = []\n", "1: tests must be a table"),
        ("[hosts\n", ":1: "),
    ],
)
def test_errors_name_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load_text(tmp_path, text)
    assert str(tmp_path / "nosejobs.toml") in str(caught.value)
    assert words in str(caught.value)


def test_undecodable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "nosejobs.toml").write_bytes(b"# \xff\n")
    with pytest.raises(InvalidConfig, match=":1: not UTF-8"):
        load_config(tmp_path)


def test_the_nearest_file_marks_the_root(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    load_text(tmp_path, "")
    assert find_root(below) == tmp_path
    load_text(tmp_path / "a", "")
    assert find_root(below) == tmp_path / "a"


def test_tables_of_keys_are_not_patterns(tmp_path: Path) -> None:
    text = '[tests]\nenv = { A = "b" }\nlimits = { cpu = 3 }\n[tests."a*"]\ntimeout = 3\n'
    (tmp_path / "nosejobs.toml").write_text(text)
    config = load_config(tmp_path)
    assert config.patterns == (("a*", {"timeout": 3}),)
    metadata = resolve_defaults(Metadata(), config)
    assert (metadata.env, metadata.limits) == ((("A", "b"),), (("cpu", 3),))
