"""Tests of the files of a tree that are selected, and of the report on those left out."""

import random
import subprocess
from pathlib import Path

import pytest

from shell_runner.shipping.file_selection import (
    BUILT,
    Selection,
    describe_left_out,
    list_left_out,
    suggest_pattern,
)
from shell_runner.shipping.tree_scan import scan
from tests.helpers.single_host_run import write_program

FILES = (
    "test_a.sh", "src/a.c", "src/a.o", "build/app", "build/lib/b.so", "build/.env",
    "build/node_modules/m/i.js", "node_modules/x/i.js", "venv/bin/python", "venv/lib/x",
    "src/__pycache__/a.pyc", ".pytest_cache/v", "a/__pycache__/b.pyc", "secret.pem",
)  # fmt: skip


@pytest.fixture(params=["git", "plain"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    for name in FILES:
        write_program(folder / name, name)
    if request.param == "git":
        subprocess.run(["git", "init", "-q", folder], check=True)
        ignored = "build\n*.o\nnode_modules\nvenv\n__pycache__\n.pytest_cache\n"
        write_program(folder / ".gitignore", ignored)
    return folder


def read_selection(root: Path, *include: str, exclude: tuple[str, ...] = ()) -> list[list[str]]:
    """Return the paths that are shipped, and those that are left out."""
    selection = Selection(include, exclude)
    shipped = [entry.path for entry in scan(root, ["test_a.sh"], selection).entries]
    left_out = list_left_out(root, shipped, selection)
    return [[path for path in shipped if path != ".gitignore"], left_out]


def is_git(root: Path) -> bool:
    return (root / ".git").exists()


CACHES = ["a/__pycache__/", "src/__pycache__/"]


def test_ignored_files_and_folders_are_listed(root: Path) -> None:
    shipped, left_out = read_selection(root)
    folders = {*CACHES, "node_modules/", "venv/"}
    if is_git(root):
        assert shipped == ["src/a.c", "test_a.sh"]
        assert left_out == sorted({*folders, "build/", "src/a.o"})
    else:
        built = ["build/app", "build/lib/b.so"]
        assert shipped == [*built, "src/a.c", "src/a.o", "test_a.sh"]
        assert left_out == sorted({*folders, "build/node_modules/"})


def test_built_ships_what_git_ignores_but_no_secret_and_no_usual_folder(root: Path) -> None:
    shipped, left_out = read_selection(root, BUILT)
    assert shipped == ["build/app", "build/lib/b.so", "src/a.c", "src/a.o", "test_a.sh"]
    folders = [*CACHES, "node_modules/", "venv/", "build/node_modules/"]
    assert left_out == sorted(folders)
    skipped = scan(root, [], Selection((BUILT,))).skipped
    assert skipped == ("build/.env: looks like a secret", "secret.pem: looks like a secret")


@pytest.mark.parametrize("name", ["node_modules", "venv", "build", "__pycache__"])
def test_a_named_folder_is_shipped_and_not_listed(root: Path, name: str) -> None:
    shipped, left_out = read_selection(root, name)
    assert any(name in path.split("/") for path in shipped)
    assert not any(name in path.split("/") for path in left_out)


def test_a_folder_of_which_some_files_are_shipped_is_marked(root: Path) -> None:
    _, left_out = read_selection(root, "venv/bin", "build/app")
    assert "venv/ (in part)" in left_out
    assert ("build/lib/" in left_out) == is_git(root)


def test_excluded_files_are_not_listed(root: Path) -> None:
    _, left_out = read_selection(root, exclude=("build", "__pycache__", "*.o", "venv/"))
    assert left_out == ["node_modules/"]
    skipped = scan(root, [], Selection(exclude=("*.pem", "build"))).skipped
    assert skipped == ()


@pytest.mark.parametrize("seed", range(20))
def test_every_file_is_shipped_or_told(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    parts = ["a", "b", "build", "venv", "node_modules", "__pycache__", "c.o", "k.pem"]
    root = tmp_path / "tree"
    paths: set[str] = set()
    for _ in range(generator.randint(1, 25)):
        path = "/".join(generator.choices(parts, k=generator.randint(1, 4)))
        if not any(other.startswith(path + "/") or path.startswith(other + "/") for other in paths):
            write_program(root / path, path)
            paths.add(path)
    if seed % 2:
        subprocess.run(["git", "init", "-q", root], check=True)
        write_program(root / ".gitignore", "\n".join(generator.sample(parts, 3)))
    include = tuple(generator.sample([*parts, BUILT], generator.randint(0, 2)))
    selection = Selection(include)
    tree = scan(root, [], selection)
    shipped = [entry.path for entry in tree.entries]
    told = [each.split(":")[0] for each in tree.skipped]
    left_out = list_left_out(root, shipped, selection)
    folders = tuple(path.removesuffix(" (in part)") for path in left_out if "/" in path[-11:])
    for path in paths:
        is_told = path in told or path in left_out or path.startswith(folders)
        assert (path in shipped) or is_told, (path, include, left_out)
    for path in left_out:
        assert path not in shipped
        if path.endswith("/"):
            assert not [sent for sent in shipped if sent.startswith(path)]


@pytest.mark.parametrize(
    ("paths", "text", "pattern"),
    [
        (["a/__pycache__/", "b/__pycache__/"], "2 folders __pycache__", "__pycache__"),
        (["node_modules/", "__pycache__/"], "1 folder __pycache__, 1 folder node_modules",
         "node_modules"),
        (["build/", "venv/ (in part)"], "what git ignores (build/), 1 folder venv", "built"),
        (["a", "b", "c", "d"], "what git ignores (a, b, and 2 more)", "built"),
        (["a\x1b[1m\n"], r"what git ignores (a\x1b[1m\n)", "built"),
    ],
)  # fmt: skip
def test_the_line_counts_folders_and_names_files(paths: list[str], text: str, pattern: str) -> None:
    assert describe_left_out(paths, 2) == text
    assert suggest_pattern(paths) == pattern
