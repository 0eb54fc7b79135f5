"""Tests of copying contents, with reflinks and holes."""

import errno
import fcntl
import os
import random
from pathlib import Path
from typing import Any

import pytest

from shell_runner.remote.files import copy_tree as copying
from shell_runner.remote.files.copy_tree import LARGE_FILE_BYTES, copy_contents, copy_tree

NOISE = random.Random(3).randbytes(LARGE_FILE_BYTES + 12345)
HOLE = bytes(4 << 20)


def copied(tmp_path: Path, data: bytes) -> Path:
    """Write a file with these contents and return a copy of it."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    with source.open("rb") as read, target.open("wb") as write:
        copy_contents(read.fileno(), write.fileno())
    return target


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1",
        b"x" * LARGE_FILE_BYTES,
        NOISE,
        HOLE,
        HOLE + NOISE,
        NOISE + HOLE,
        HOLE + b"1" + HOLE,
    ],
    ids=["empty", "small", "large", "noise", "hole", "hole first", "hole last", "in between"],
)
def test_contents_are_the_same(tmp_path: Path, data: bytes) -> None:
    assert copied(tmp_path, data).read_bytes() == data


def test_holes_stay_holes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.write(b"1")
        file.truncate(1 << 30)
        file.seek(1 << 29)
        file.write(b"2")
    (tmp_path / "tree").mkdir()
    source.rename(tmp_path / "tree" / "file")
    copy_tree(str(tmp_path / "tree"), str(tmp_path / "copy"))
    status = (tmp_path / "copy" / "file").stat()
    assert (status.st_size, status.st_blocks * 512 < 1 << 20) == (1 << 30, True)
    with open(tmp_path / "copy" / "file", "rb") as file:
        assert file.read(2) == b"1\0"
        file.seek(1 << 29)
        assert file.read(2) == b"2\0"


@pytest.mark.parametrize(("size", "asked"), [(LARGE_FILE_BYTES - 1, 0), (LARGE_FILE_BYTES, 1)])
def test_a_large_file_shares_its_blocks_if_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, asked: int
) -> None:
    """A file system with reflinks copies the contents itself; they are not copied again."""
    calls: list[int] = []

    def ioctl(write: Any, request: int, read: int) -> int:
        calls.append(request)
        os.pwrite(write, b"cloned", 0)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    copy = copied(tmp_path, b"x" * size).read_bytes()
    assert calls == [copying._FICLONE] * asked
    assert (copy == b"cloned") == bool(asked)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EXDEV, errno.ENOTTY, errno.EINVAL])
def test_a_file_system_that_cannot_share_gets_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def ioctl(*_: Any) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert copied(tmp_path, NOISE).read_bytes() == NOISE


def test_a_full_disk_is_no_reason_to_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ioctl(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    with pytest.raises(OSError, match="No space"):
        copied(tmp_path, NOISE)
