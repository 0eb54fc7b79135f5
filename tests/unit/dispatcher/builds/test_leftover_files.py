"""Tests of partial files: upkeep keeps them, and the next start removes them."""

import os
from pathlib import Path

from dispatcher.builds.blob_store import BlobStore
from dispatcher.builds.checkout_cache import CheckoutCache
from dispatcher.sources import source_factory


def test_upkeep_leaves_what_is_being_written(tmp_path: Path) -> None:
    tree, blob = tmp_path / "trees" / "app" / ".part-x", tmp_path / "blobs" / ".part-y"
    for folder in (tree, blob):
        folder.mkdir(parents=True)
        os.utime(folder, (0, 0))
    CheckoutCache(tmp_path / "trees", {}).sweep([])
    assert BlobStore(tmp_path / "blobs").sweep([]) == []
    assert tree.is_dir()
    assert blob.is_dir()


def test_a_start_removes_what_a_dead_one_was_writing_and_nothing_else(tmp_path: Path) -> None:
    partial = [
        tmp_path / name for name in ("trees/app/.part-x", "blobs/.part-y", "mirrors/.part-z")
    ]
    complete = [tmp_path / name for name in ("trees/app/abc", "blobs/ab", "mirrors/app.git")]
    for folder in (*partial, *complete):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    (tmp_path / "blobs" / ".part-file").touch()
    CheckoutCache(tmp_path / "trees", {}).recover()
    BlobStore(tmp_path / "blobs").recover()
    source_factory.recover(tmp_path / "mirrors")
    left = {path for path in tmp_path.glob("*/**/") if path.parent != tmp_path}
    assert left >= set(complete)
    assert not left & set(partial)
    assert not list(tmp_path.rglob(".part-*"))


def test_a_data_folder_without_anything_is_fine(tmp_path: Path) -> None:
    CheckoutCache(tmp_path / "trees", {}).recover()
    BlobStore(tmp_path / "blobs").recover()
    source_factory.recover(tmp_path / "mirrors")
    assert not list(tmp_path.iterdir())
