"""Tests of the scratch directories, which are empty before each test."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shell_runner.remote.execution.scratch_dirs import ScratchDirectories


@pytest.fixture
def directories(tmp_path: Path) -> ScratchDirectories:
    made = ScratchDirectories(str(tmp_path / "base"), ("tmp", "home"))
    made.prepare()
    return made


def spoil_by_file(path: Path) -> None:
    (path / "file").write_text("x")


def spoil_by_file_and_old_times(path: Path) -> None:
    status = path.stat()
    (path / "file").write_text("x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def spoil_by_mode(path: Path) -> None:
    path.chmod(0)


def spoil_by_removal(path: Path) -> None:
    path.rmdir()


def spoil_by_link(path: Path) -> None:
    path.rmdir()
    path.symlink_to("/usr")


def spoil_by_exchange(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.mkdir()


def spoil_by_file_in_place(path: Path) -> None:
    path.rmdir()
    path.write_text("x")


def spoil_by_locked_tree(path: Path) -> None:
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "b" / "file").write_text("x")
    (path / "a" / "b").chmod(0)
    (path / "a").chmod(0o400)


def spoil_by_hidden_file(path: Path) -> None:
    (path / ".x").write_text("x")
    (path / ".x").unlink()
    (path / ".y").touch()


SPOILS = [value for name, value in sorted(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILS)
def test_directories_are_clean_again(
    directories: ScratchDirectories, spoil: Callable[[Path], None]
) -> None:
    spoil(Path(directories.paths["tmp"]))
    directories.prepare()
    tmp = Path(directories.paths["tmp"])
    assert list(tmp.iterdir()) == []
    assert not tmp.is_symlink()
    assert tmp.stat().st_mode & 0o7777 == 0o700
    assert Path("/usr/bin").is_dir()


def test_an_unchanged_directory_is_used_again(directories: ScratchDirectories) -> None:
    before = os.stat(directories.paths["tmp"]).st_ino
    directories.prepare()
    assert os.stat(directories.paths["tmp"]).st_ino == before


def test_entries_are_listed(directories: ScratchDirectories) -> None:
    assert directories.list_entries("home") == []
    (Path(directories.paths["home"]) / "x").touch()
    assert directories.list_entries("home") == ["x"]
    os.unlink(Path(directories.paths["home"]) / "x")
    os.rmdir(directories.paths["home"])
    assert directories.list_entries("home") == []
