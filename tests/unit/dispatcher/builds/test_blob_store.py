"""Tests of the blob store: files are complete, stored once, and kept while a row refers to them."""

import hashlib
import os
from pathlib import Path

import pytest

from dispatcher.builds.blob_store import BlobStore
from shell_runner.errors import NosejobsError


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def put(blobs: BlobStore, data: bytes) -> str:
    with blobs.temporary_file() as part:
        part.write_bytes(data)
        return blobs.take(part).digest


def test_a_file_is_moved_to_where_its_digest_says(blobs: BlobStore, tmp_path: Path) -> None:
    path = tmp_path / "p.zip"
    path.write_bytes(b"package")
    kept = blobs.take(path)
    assert kept == (hashlib.sha256(b"package").hexdigest(), 7)
    assert not path.exists()
    assert blobs.has(kept.digest)
    assert blobs.path(kept.digest).read_bytes() == b"package"
    assert blobs.path(kept.digest).stat().st_mode & 0o777 == 0o600


def test_the_same_file_is_kept_once(blobs: BlobStore) -> None:
    first = put(blobs, b"x")
    inode = blobs.path(first).stat().st_ino
    assert put(blobs, b"x") == first
    assert blobs.path(first).stat().st_ino == inode


def test_nothing_stays_of_what_was_not_finished(blobs: BlobStore) -> None:
    with pytest.raises(ZeroDivisionError), blobs.temporary_file() as part:  # noqa: PT012
        part.write_bytes(b"half")
        raise ZeroDivisionError
    assert list(blobs.folder.iterdir()) == []


def test_what_nobody_refers_to_goes_once_it_is_old(blobs: BlobStore) -> None:
    old, young, referred = (put(blobs, data) for data in (b"old", b"young", b"referred"))
    for digest in (old, referred):
        os.utime(blobs.path(digest), (1.0, 1.0))
    assert blobs.sweep({referred}) == [old]
    assert [blobs.has(digest) for digest in (old, young, referred)] == [False, True, True]


@pytest.mark.parametrize("digest", ["", "..", "a" * 63, "../" + "a" * 61])
def test_only_digests_are_names(blobs: BlobStore, digest: str) -> None:
    assert not blobs.has(digest)
    with pytest.raises(ValueError, match="not a digest"):
        blobs.path(digest)


def test_trouble_with_the_disk_says_where(blobs: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(NosejobsError, match="blobs: No such file or directory"):
        blobs.take(tmp_path / "nothing")
