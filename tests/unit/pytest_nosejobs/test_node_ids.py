"""Tests of the rewriting of arguments that pytest cannot parse."""

from pathlib import Path

import pytest

from pytest_nosejobs.node_ids import rewrite_arguments

FILES = ["test_a", "test_b::c", "test_d[1].sh", "sub/test_e", "sub/test_f::[x].sh", "test_g.py"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("arg", "seen"),
    [
        ("test_a", "test_a"),
        ("test_a::case", "test_a"),
        ("test_a::group > case::with [all] :: of it", "test_a"),
        ("sub/test_e::case", "sub/test_e"),
        ("sub", "sub"),
        # pytest's own affair:
        ("test_g.py::test_x[a::b]", "test_g.py::test_x[a::b]"),
        ("no/such::case", "no/such::case"),
        ("sub::case", "sub::case"),
        ("test_a\0::x", "test_a\0::x"),
        ("x" * 5000 + "::y", "x" * 5000 + "::y"),
    ],
)
def test_one_argument(base: Path, arg: str, seen: str) -> None:
    rewritten = rewrite_arguments([arg], base)
    assert rewritten.args == [seen]
    assert not rewritten.only


def test_absolute_paths_are_read_like_others(base: Path) -> None:
    assert rewrite_arguments([f"{base}/test_a::case"], Path("/")).args == [f"{base}/test_a"]


@pytest.mark.parametrize("arg", ["test_b::c", "test_b::c::case", "test_b::c::x::y"])
def test_a_name_that_pytest_would_split_is_asked_for_by_its_folder(base: Path, arg: str) -> None:
    rewritten = rewrite_arguments([arg], base)
    assert rewritten.args == [str(base)]
    assert [name for name in FILES if not rewritten.ignores(base / name)] == [
        "test_b::c", "sub/test_e", "sub/test_f::[x].sh",
    ]  # fmt: skip
    assert rewritten.ignores(base / "sub")  # and so what is in it


def test_several_of_one_folder(base: Path) -> None:
    rewritten = rewrite_arguments(["test_b::c", "test_d[1].sh::x", "test_a", "sub/test_e"], base)
    wanted = [name for name in [*FILES, "sub"] if not rewritten.ignores(base / name)]
    assert wanted == [
        "test_a", "test_b::c", "test_d[1].sh", "sub/test_e", "sub/test_f::[x].sh", "sub",
    ]  # fmt: skip


@pytest.mark.parametrize("whole", [".", "sub", "sub/", "./sub/../sub"])
def test_a_folder_that_is_asked_for_as_well_is_wanted_whole(base: Path, whole: str) -> None:
    rewritten = rewrite_arguments([whole, "sub/test_f::[x].sh"], base)
    assert not any(rewritten.ignores(base / name) for name in FILES)


def test_an_iterator_will_do(base: Path) -> None:
    rewritten = rewrite_arguments(iter(["sub", "sub/test_f::[x].sh"]), base)
    assert not rewritten.ignores(base / "sub/test_e")
