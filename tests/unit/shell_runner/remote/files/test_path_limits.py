"""Tests that the depth and the size of every path have one limit, whoever supplies it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from shell_runner.remote.execution import artifacts
from shell_runner.remote.files.manifest import FILE, LINK, ManifestEntry, validate_entry
from shell_runner.remote.files.path_limits import MAX_PATH_BYTES, MAX_PATH_COMPONENTS
from shell_runner.remote.jobs.pool_run import ArtifactWriter
from shell_runner.remote.protocol.model import Test
from shell_runner.reporting.artifact_files import ArtifactFiles
from shell_runner.shipping import tree_scan

DEEP = "/".join(["d"] * MAX_PATH_COMPONENTS)
LONG = "/".join(["d" * 100] * 40 + ["d" * (MAX_PATH_BYTES - 40 * 101)])
BEYOND = [
    DEEP + "/d",
    "/".join(["d"] * 2000),
    LONG + "d",
    "\ud800" * (MAX_PATH_BYTES // 3 + 1),
    "x" * 1_000_000,
    "/" * 5000,
    "a/" * 1_000_000,
]


def test_the_longest_paths_are_valid() -> None:
    assert len(LONG) == MAX_PATH_BYTES
    for path in (DEEP, LONG):
        assert validate_entry(ManifestEntry(path, FILE, 0, "0" * 64)).path == path


def _add_artifact(folder: Path, path: str) -> None:
    files = ArtifactFiles(folder / "art", 100)
    files.add(files.get_folder("test_a", 1), path, b"x")


def _write_job_artifact(folder: Path, path: str) -> None:
    writer = ArtifactWriter(lambda *_: str(folder), lambda _: None, lambda: False)
    writer.write(Test(1, "test_a"), artifacts.ArtifactPiece(path, b"x", True))


def _validate_file(_: Path, path: str) -> None:
    validate_entry(ManifestEntry(path, FILE, 0o644, "0" * 64))


def _validate_link(_: Path, path: str) -> None:
    validate_entry(ManifestEntry(path, LINK, 0, "x"))


@pytest.mark.parametrize("path", BEYOND, ids=range(len(BEYOND)))
@pytest.mark.parametrize(
    "border", [_add_artifact, _write_job_artifact, _validate_file, _validate_link]
)
def test_longer_paths_are_refused_in_words(
    border: Callable[[Path, str], None], path: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"the path has \d+ (components|bytes); at most") as caught:
        border(tmp_path, path)
    assert len(str(caught.value)) < 1000
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]


def make_nested(folder: Path, depth: int, name: str = "d") -> None:
    """Create nested folders with a file in the innermost, by short paths."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("deep", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


@pytest.mark.parametrize(
    ("depth", "name", "is_sent"),
    [
        (MAX_PATH_COMPONENTS - 1, "d", True),
        (MAX_PATH_COMPONENTS, "d", False),
        (3000, "d", False),
        (35, "d" * 100, True),
        (40, "d" * 100, False),
        (41, "d" * 100, False),
        (150, "d" * 250, False),
    ],
)
def test_nested_folders_of_a_test_and_of_a_tree(
    tmp_path: Path, request: pytest.FixtureRequest, depth: int, name: str, is_sent: bool
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    # pytest itself cannot remove such a folder.
    request.addfinalizer(lambda: subprocess.run(["rm", "-rf", root], check=True))
    (root / "top").touch()
    make_nested(root, depth, name)
    (root / "z").mkdir()
    (root / "z" / "last").touch()
    deep = [f"{name}/" * depth + "deep"] if is_sent else []

    chosen = artifacts.select_artifacts(str(root), 1000)
    assert sorted(path for path, _ in chosen.files) == sorted(["top", *deep, "z/last"])
    assert chosen.omitted_count == (not is_sent)

    tree = tree_scan.scan(root, [])
    assert sorted(entry.path for entry in tree.entries) == sorted(["top", *deep, "z/last"])
    assert len(tree.skipped) == (not is_sent)
    assert all("at most" in reason or "too long" in reason for reason in tree.skipped)
    assert all(len(reason) < 300 for reason in tree.skipped)
    if not is_sent:
        with pytest.raises((ValueError, OSError)):
            tree_scan.scan_all(root)
