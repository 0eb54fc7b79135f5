"""Tests of the metadata of tests: values in comments and tables, and error messages."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shell_runner.collection.metadata import (
    Metadata,
    apply_values,
    read_metadata,
    resolve_defaults,
)
from shell_runner.config import TABLE_KEYS, load_config
from shell_runner.errors import InvalidMetadata


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("# nosejobs: timeout=30", Metadata(timeout=30.0)),
        ("#nosejobs: timeout=0.5", Metadata(timeout=0.5)),
        ("# nosejobs: tags=smoke,net", Metadata(tags=("smoke", "net"))),
        ("// nosejobs: tags=a", Metadata(tags=("a",))),
        ("-- nosejobs: cwd=root", Metadata(cwd="root")),
        ("; nosejobs: home=keep", Metadata(home="keep")),
        ("/* nosejobs: tags=a */", Metadata(tags=("a",))),
        ("# nosejobs: pass=FOO,BAR_*", Metadata(pass_env=("FOO", "BAR_*"))),
        ("# nosejobs: env=A=1,B=x=y", Metadata(env=(("A", "1"), ("B", "x=y")))),
        ("# nosejobs: timeout=1 tags=a # why", Metadata(timeout=1.0, tags=("a",))),
        ("# nosejobs: tags=a\n\n# nosejobs: tags=b", Metadata(tags=("a", "b"))),
        ("# not ours\n\n# nosejobs: timeout=3", Metadata(timeout=3.0)),
        ("echo\n# nosejobs: timeout=3", Metadata()),
        ("# mentions nosejobs: timeout=3", Metadata()),
    ],
)
def test_the_leading_comment_is_read(comment: str, expected: Metadata) -> None:
    text = f"#!/bin/sh\n{comment}\necho\n"
    assert read_metadata(Metadata(), "test_a.sh", text.encode()) == expected


@pytest.mark.parametrize(
    ("comment", "line", "key", "message"),
    [
        ("# nosejobs: timout=3", 2, "timout", "did you mean 'timeout'?"),
        ("# nosejobs: color=red", 2, "color", "known: "),
        ("# nosejobs: timeout=soon", 2, "timeout", "'soon'"),
        ("# nosejobs: timeout=0", 2, "timeout", "above 0"),
        ("# nosejobs: timeout=-1", 2, "timeout", "above 0"),
        ("# nosejobs: timeout=nan", 2, "timeout", "above 0"),
        ("# nosejobs: timeout", 2, "timeout", "needs a value"),
        ("# first\n# nosejobs: tags=a,,b", 3, "tags", "not a word"),
        ("# nosejobs: tags=1st", 2, "tags", "not a word"),
        ("# nosejobs: cwd=there", 2, "cwd", '"dir" or "root"'),
        ("# nosejobs: home=no", 2, "home", '"private" or "keep"'),
        ("# nosejobs: env=1A=2", 2, "env", "name of a variable"),
        ("# nosejobs: timeout=1 timeout=2", 2, "timeout", "twice"),
        ("# nosejobs: tags='a", 2, "nosejobs", "quotation"),
    ],
)
def test_bad_metadata_names_file_line_and_key(
    comment: str, line: int, key: str, message: str
) -> None:
    with pytest.raises(InvalidMetadata) as caught:
        read_metadata(Metadata(), "d/test_a.sh", f"#!/bin/sh\n{comment}\n".encode())
    assert str(caught.value).startswith(f"d/test_a.sh:{line}: {key}: ")
    assert message in str(caught.value)


def test_binaries_have_no_comments() -> None:
    head = b"\x7fELF\0# nosejobs: timout=1\n"
    assert read_metadata(Metadata(), "test_a", head) == Metadata()


def test_bats_tags_are_tags_anywhere_in_a_bats_file() -> None:
    head = b"# bats file_tags=a\n@test x {\n}\n# bats test_tags=b, c:1\n@test y {\n}\n"
    assert read_metadata(Metadata(), "a.bats", head).tags == ("a", "b", "c:1")


@pytest.mark.parametrize(
    ("values", "tags"),
    [
        ([""], ()),
        (["a", ""], ("a",)),
        ([" a , b "], ("a", "b")),
        (["dep:x", "2nd", "-x", "_y", "bats:focus"], ("dep:x", "2nd", "-x", "_y", "bats:focus")),
        (["a,,b"], ("a", "b")),
        (["a b", "c;d", "e"], ("e",)),
    ],
)
def test_no_bats_tag_makes_collection_fail(values: list[str], tags: tuple[str, ...]) -> None:
    """Bats' own rule is ``[-_:[:alnum:]]+``, or nothing; it reports other tags itself."""
    head = "".join(f"  # bats file_tags={value}\n" for value in values).encode()
    assert read_metadata(Metadata(), "a.bats", head).tags == tags


@given(st.text(max_size=30))
def test_any_text_may_follow_a_bats_key(text: str) -> None:
    head = f"# bats test_tags={text}\n".encode("utf-8", "replace")
    for tag in read_metadata(Metadata(), "a.bats", head).tags:
        assert re.fullmatch(r"[-:\w]+", tag)
    assert read_metadata(Metadata(), "a.sh", head).tags == ()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"timeout": 5}, Metadata(5.0, ("x",))),
        ({"tags": ["y", "x"]}, Metadata(1.0, ("x", "y"))),
        ({"env": {"A": "1"}}, Metadata(1.0, ("x",), env=(("A", "1"),))),
        ({}, Metadata(1.0, ("x",))),
    ],
)
def test_later_sources_win_and_lists_add_up(values: dict[str, Any], expected: Metadata) -> None:
    assert apply_values(Metadata(1.0, ("x",)), values, "f", 1) == expected


@pytest.mark.parametrize(
    ("key", "value"), [("timeout", True), ("tags", 3), ("tags", [1]), ("env", 3), ("cwd", 1)]
)
def test_values_of_the_wrong_type_are_refused(key: str, value: Any) -> None:
    with pytest.raises(InvalidMetadata, match=rf"nosejobs.toml:\[tests\]: {key}: "):
        apply_values(Metadata(), {key: value}, "nosejobs.toml", "[tests]")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("timeout", "1e3", Metadata(timeout=1000.0)),
        ("timeout", "10m", Metadata(timeout=600.0)),
        ("retries", 3, Metadata(retries=3)),
        ("repeat", "10000", Metadata(repeat=10_000)),
        ("serial", "no", Metadata()),
        ("serial", True, Metadata(serial=True)),
        ("lock", "host:db, a", Metadata(locks=("host:db", "a"))),
        ("requires", ["gpu", "gpu"], Metadata(requires=("gpu",))),
        ("env", {"A": 1, "B": True}, Metadata(env=(("A", "1"), ("B", "True")))),
        ("limits", "as:2G nofile:256", Metadata(limits=(("as", 2 << 30), ("nofile", 256)))),
        ("limits", {"core": 0, "cpu": "9"}, Metadata(limits=(("core", 0), ("cpu", 9)))),
    ],
)
def test_values_of_comments_and_tables(key: str, value: Any, expected: Metadata) -> None:
    assert apply_values(Metadata(), {key: value}, "f", 1) == expected


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("timeout", 16**5000, "must be a time above 0"),
        ("retries", 16**5000, "must be a whole number, 0 to 100, not a number of 20001 bits"),
        ("retries", "+1", "must be a whole number, 0 to 100, not '+1'"),
        ("repeat", 0, "must be a whole number, 1 to 10000, not 0"),
        ("serial", "maybe", "must be yes or no, not 'maybe'"),
        ("lock", "a+b", "'a+b' is not the name of a lock"),
        ("requires", "a b", "'a b' is not a label"),
        ("env", {"A": 16**5000}, "A is a number of 20001 bits"),
        ("env", {"A": "\0"}, "A is '\\x00'"),
        ("limits", "ass:1", "ass is not one; did you mean 'as'?"),
        ("limits", {"as": 16**5000}, "optionally with k, m, g or t; as is not"),
        ("limits", "as:1x", "optionally with k, m, g or t; as is not"),
        ("isolation", "none", 'must be "shared" or "copy", not \'none\''),
        ("x\x1b[2J", 1, "'x\\x1b[2J': unknown key; known: "),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "value",
)
def test_an_error_names_the_allowed_values(key: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidMetadata) as caught:
        apply_values(Metadata(), {key: value}, "f", 1)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tests]\n\ntimeot = 3\n", "nosejobs.toml:3: [tests]: timeot: unknown key"),
        ("[tests.'a*']\nretries = 1\nretris = 1\n", "nosejobs.toml:3: [tests.'a*']: retris: "),
        ("[tests]\nserial = 1\n", "nosejobs.toml:2: [tests]: serial: must be yes or no, not 1"),
    ],
)
def test_a_mistake_in_a_table_has_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "nosejobs.toml").write_text(text)
    with pytest.raises(InvalidMetadata) as caught:
        resolve_defaults(Metadata(), load_config(tmp_path))
    assert f"{tmp_path}/{message}" in str(caught.value)


@pytest.mark.parametrize("key", TABLE_KEYS)
def test_keys_of_the_config_that_may_be_tables_are_keys_of_metadata(key: str) -> None:
    assert apply_values(Metadata(), {key: {}}, "f", 1) == Metadata()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("./runtest {file}", ("./runtest", "{file}")),
        ("sh -c 'a b'", ("sh", "-c", "a b")),
        (["a", "a", "b c", ""], ("a", "a", "b c", "")),
        ("", ()),
        ([], ()),
    ],
)
@pytest.mark.parametrize("key", ["run", "args"])
def test_words_of_a_command(key: str, value: Any, words: tuple[str, ...]) -> None:
    assert getattr(apply_values(Metadata(), {key: value}, "f", 1), key) == words


@pytest.mark.parametrize(
    "value", [5, {"a": "b"}, "a 'b", ["a", 5], ["", "a"], ["a\0b"], "x" * 4097, ["a"] * 101, "'' a"]
)
@pytest.mark.parametrize("key", ["run", "args"])
def test_odd_words_are_errors(key: str, value: Any) -> None:
    with pytest.raises(InvalidMetadata, match=f"f:1: {key}: must be words"):
        apply_values(Metadata(), {key: value}, "f", 1)


def test_a_preset_comes_before_all_other_keys_of_its_table() -> None:
    values = {"cwd": "dir", "env": {"TERM": "vt100"}, "preset": "perl"}
    metadata = apply_values(Metadata(env=(("A", "1"),)), values, "f", 1)
    assert (metadata.preset, metadata.cwd) == ("perl", "dir")
    env = dict(metadata.env)
    assert (env["A"], env["TERM"], env["HARNESS_ACTIVE"]) == ("1", "vt100", "1")
    assert env["PERL5LIB"].startswith("{root}/lib:")


@pytest.mark.parametrize("name", ["perl", "bats", "automake"])
def test_presets_are_valid(name: str) -> None:
    metadata = read_metadata(Metadata(), "a.sh", f"# nosejobs: preset={name}\n".encode())
    assert metadata.preset == name
    assert dict(metadata.env)["TERM"] == "dumb"


def test_an_unknown_preset_is_an_error() -> None:
    with pytest.raises(InvalidMetadata, match='f:1: preset: must be "perl" or "bats"'):
        apply_values(Metadata(), {"preset": "ruby"}, "f", 1)
