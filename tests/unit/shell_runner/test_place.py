"""Private directories: clean before each test, whatever the last one did."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shell_runner.remote.place import Place, remove


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(str(tmp_path / "base"), ("tmp", "home"))
    made.prepare()
    return made


def spoil_by_file(path: Path) -> None:
    (path / "file").write_text("x")


def spoil_by_file_and_old_times(path: Path) -> None:
    found = path.stat()
    (path / "file").write_text("x")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


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
def test_directories_are_clean_again(place: Place, spoil: Callable[[Path], None]) -> None:
    spoil(Path(place.paths["tmp"]))
    place.prepare()
    tmp = Path(place.paths["tmp"])
    assert list(tmp.iterdir()) == []
    assert not tmp.is_symlink()
    assert tmp.stat().st_mode & 0o7777 == 0o700
    assert Path("/usr/bin").is_dir()


def test_an_untouched_directory_serves_again(place: Place) -> None:
    before = os.stat(place.paths["tmp"]).st_ino
    place.prepare()
    assert os.stat(place.paths["tmp"]).st_ino == before


def test_entries_tell_what_is_there(place: Place) -> None:
    assert place.entries("home") == []
    (Path(place.paths["home"]) / "x").touch()
    assert place.entries("home") == ["x"]
    os.unlink(Path(place.paths["home"]) / "x")
    os.rmdir(place.paths["home"])
    assert place.entries("home") == []


def test_trees_deeper_than_recursion_go(tmp_path: Path) -> None:
    top = tmp_path / "deep"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    remove(str(top))
    assert not top.exists()


def test_removing_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "link").symlink_to(tmp_path / "kept")
    remove(str(tmp_path / "gone"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").exists()


def test_removing_nothing_is_no_error(tmp_path: Path) -> None:
    remove(str(tmp_path / "never"))
    assert list(tmp_path.iterdir()) == []
