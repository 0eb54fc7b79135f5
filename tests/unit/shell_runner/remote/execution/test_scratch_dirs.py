"""Tests of the scratch directories, which are empty before each test."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shell_runner.remote.execution.scratch_dirs import ScratchDirectories
from tests.helpers import private_namespace


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


def replace_by_link(base: Path) -> None:
    base.rename(base.with_name("moved"))
    base.symlink_to("foreign")


def replace_by_dangling_link(base: Path) -> None:
    base.rename(base.with_name("moved"))
    base.symlink_to("nowhere")


def replace_by_file(base: Path) -> None:
    base.rename(base.with_name("moved"))
    base.write_text("x")


def replace_by_fifo(base: Path) -> None:
    base.rename(base.with_name("moved"))
    os.mkfifo(base)


def replace_by_other_directory(base: Path) -> None:
    base.rename(base.with_name("moved"))
    shutil.copytree(base.with_name("foreign"), base)


def replace_by_nothing(base: Path) -> None:
    shutil.rmtree(base)


def replace_by_mode(base: Path) -> None:
    base.chmod(0)


def replace_parent_by_link(base: Path) -> None:
    base.parent.rename(base.parent.with_name("elsewhere"))
    (base.parent.parent / "elsewhere" / "foreign").rename(base.parent.parent / "foreign")
    base.parent.symlink_to("/usr")


def replace_parent_by_file(base: Path) -> None:
    replace_parent_by_link(base)
    base.parent.unlink()
    base.parent.touch()


REPLACEMENTS = [value for name, value in sorted(globals().items()) if name.startswith("replace_")]


@pytest.mark.parametrize("replace", REPLACEMENTS)
def test_a_replaced_base_is_noticed_and_removes_nothing_else(
    tmp_path: Path, replace: Callable[[Path], None]
) -> None:
    base = tmp_path / "session" / "0"
    base.parent.mkdir()
    for name in ("tmp", "home", "tree", "0"):
        (base.parent / "foreign" / name).mkdir(parents=True)
        (base.parent / "foreign" / name / "file").touch()
    directories = ScratchDirectories(str(base), ("tmp", "home"))
    directories.prepare()
    assert directories.is_intact()
    (base / "home" / "file").touch()
    assert directories.is_intact()
    replace(base)
    assert not directories.is_intact()
    directories.list_entries("tmp")
    directories.remove_entry("tree")
    directories.move_aside("home", "-artifacts-1-1")
    directories.remove()
    successor = ScratchDirectories(str(base), ("tmp", "home"))
    successor.prepare()
    assert successor.is_intact()
    for path in successor.paths.values():
        assert os.listdir(path) == []
        assert not Path(path).is_symlink()
    foreign = next(path for path in tmp_path.rglob("foreign") if path.is_dir())
    assert len(list(foreign.rglob("file"))) == 4
    assert Path("/usr/bin").is_dir()
    successor.remove()
    assert not os.path.lexists(successor.base)


_MOUNTS = """
import os, subprocess, sys
from shell_runner.remote.execution.scratch_dirs import ScratchDirectories
session, command = sys.argv[1:]
os.makedirs(session + "/foreign/tmp")
open(session + "/foreign/tmp/file", "w").close()
base = session + "/0"
directories = ScratchDirectories(base, ("tmp", "home"))
directories.prepare()
assert directories.is_intact()
subprocess.run(["sh", "-ec", command], cwd=session, check=True)
is_intact = directories.is_intact()
if not is_intact:
    assert directories.list_entries("tmp") == []
    directories.remove()
    directories = ScratchDirectories(base, ("tmp", "home"))
directories.prepare()
assert directories.is_intact()
for path in directories.paths.values():
    assert os.listdir(path) == []
    open(path + "/file", "w").close()
directories.remove()
subprocess.run(["umount", "-l", session], stderr=subprocess.DEVNULL)
assert os.path.exists(session + "/foreign/tmp/file")
print(is_intact)
"""


@private_namespace.needs_namespace
@pytest.mark.parametrize(
    ("command", "is_intact"),
    [
        ("mount --bind foreign 0", False),
        ("mount --bind foreign/tmp 0/tmp", True),
        ("mount --bind 0 0 && mount -o remount,ro,bind 0", False),
        ("mount --bind 0/tmp 0/tmp && mount -o remount,ro,bind 0/tmp", True),
        ("mount --bind . . && mount -o remount,ro,bind .", False),
        ("mount -t tmpfs none 0", False),
        ("mount -t tmpfs none .", False),
        ("chattr +i 0", False),
        ("chattr +i . 0 0/tmp", False),
        ("chattr +a 0/home", True),
    ],
)
def test_mounts_and_flags_are_noticed(command: str, is_intact: bool, tmp_path: Path) -> None:
    if "chattr" in command and private_namespace.run_status("chattr +i . && chattr -i .", tmp_path):
        pytest.skip("the file system has no inode flags")
    output = private_namespace.run_python(_MOUNTS, tmp_path / "session", command)
    assert output == f"{is_intact}\n"
