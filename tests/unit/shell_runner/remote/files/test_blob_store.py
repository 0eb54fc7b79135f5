"""Tests of the blob store, its trees, partial files and session folders."""

import fcntl
import hashlib
import os
import random
import threading
from pathlib import Path

import pytest

from shell_runner.remote.files.blob_store import BlobStore
from shell_runner.remote.files.manifest import (
    FILE,
    LINK,
    BadManifestEntry,
    ManifestEntry,
    validate_entry,
)
from shell_runner.remote.files.session_dirs import create_session_folder, remove_if_last_slot
from shell_runner.remote.protocol import frames


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file(path: str, data: bytes, mode: int = 0o644) -> ManifestEntry:
    return ManifestEntry(path, FILE, mode, digest(data), len(data))


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "entry",
    [
        file("a", b""), file("a/b c/d", b""), file("...", b""), file("a..", b""),
        ManifestEntry("a/link", LINK, 0, "b"), ManifestEntry("a/link", LINK, 0, "../b"),
        ManifestEntry("a/b/link", LINK, 0, "../../c/./d"), ManifestEntry("link", LINK, 0, "a/../b"),
    ],
)  # fmt: skip
def test_entries_inside_the_tree_are_accepted(entry: ManifestEntry) -> None:
    assert validate_entry(entry) is entry


@pytest.mark.parametrize(
    "entry",
    [
        file("", b""), file("/a", b""), file("..", b""), file("../a", b""), file("a/../b", b""),
        file("a//b", b""), file("a/./b", b""), file("a/", b""), file("a\0b", b""),
        ManifestEntry("a", LINK, 0, "/etc"), ManifestEntry("a", LINK, 0, ".."),
        ManifestEntry("a/b", LINK, 0, "../.."), ManifestEntry("a", LINK, 0, "x/../../y"),
        ManifestEntry("a", LINK, 0, "b\0"), ManifestEntry("a", "d", 0, ""),
        ManifestEntry("a", FILE, 0, "x"), ManifestEntry("a", FILE, 0, "../" * 21 + "x"),
    ],
)  # fmt: skip
def test_entries_that_lead_out_are_refused(entry: ManifestEntry) -> None:
    with pytest.raises(BadManifestEntry):
        validate_entry(entry)


def test_added_files_are_not_missing(store: BlobStore) -> None:
    entries = [file("a", b"1"), file("b", b"1"), file("c", b"2"), ManifestEntry("l", LINK, 0, "a")]
    assert store.find_missing(entries) == ([0, 2], [])
    store.add(digest(b"1"), b"1")
    assert store.find_missing(entries) == ([2], [])


def test_wrong_contents_are_refused(store: BlobStore) -> None:
    with pytest.raises(ValueError, match="digest"):
        store.add(digest(b"1"), b"2")
    assert not store.append_piece(digest(b"1"), 0, b"2", True)
    assert store.find_missing([file("a", b"1")]) == ([0], [])
    assert list(Path(store.folder).glob("*/*")) == []
    assert [path for path in Path(store.folder).iterdir() if path.is_file()] == []


def test_large_files_come_in_pieces(store: BlobStore) -> None:
    assert store.append_piece(digest(b"123"), 0, b"1", False)
    assert store.find_missing([file("a", b"123")]) == ([0], [(0, 1)])
    assert store.append_piece(digest(b"123"), 1, b"23", True)
    assert store.find_missing([file("a", b"123")]) == ([], [])


def test_trees_are_unpacked_with_modes_and_links(store: BlobStore, tmp_path: Path) -> None:
    store.add(digest(b"1"), b"1")
    root = tmp_path / "tree"
    root.mkdir()
    entries = [
        file("d/e/a", b"1", 0o4755),
        file("b", b"1", 0o600),
        ManifestEntry("d/l", LINK, 0, "e/a"),
    ]
    store.create_tree(entries, str(root))
    assert (root / "d/l").read_bytes() == b"1"
    assert os.readlink(root / "d/l") == "e/a"
    assert (root / "d/e/a").stat().st_mode & 0o7777 == 0o755
    assert (root / "b").stat().st_mode & 0o7777 == 0o600


def test_writing_to_a_tree_does_not_reach_the_cache(store: BlobStore, tmp_path: Path) -> None:
    store.add(digest(b"1"), b"1")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    store.create_tree([file("a", b"1")], str(tmp_path / "one"))
    (tmp_path / "one" / "a").write_bytes(b"spoilt")
    store.create_tree([file("a", b"1")], str(tmp_path / "two"))
    assert (tmp_path / "two" / "a").read_bytes() == b"1"


def test_folders_of_dead_sessions_are_removed_and_others_kept() -> None:
    living, living_lock = create_session_folder()
    dead, dead_lock = create_session_folder()
    os.close(dead_lock)
    fresh, fresh_lock = create_session_folder()
    try:
        assert os.path.isdir(living)
        assert not os.path.exists(dead)
        assert os.stat(fresh).st_mode & 0o777 == 0o700
        with pytest.raises(BlockingIOError), open(os.path.join(fresh, "lock")) as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(living_lock)
        os.close(fresh_lock)
        os.close(create_session_folder()[1])


def test_the_last_slot_of_a_dead_session_removes_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "nosejobs-x"
    (folder / "1").mkdir(parents=True)
    (folder / "lock").touch()
    remove_if_last_slot(str(folder))
    assert folder.exists()
    (folder / "1").rmdir()
    remove_if_last_slot(str(folder))
    assert not folder.exists()


def test_a_slot_that_starts_during_the_removal_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "nosejobs-x"
    folder.mkdir()  # made anew by it, without the lock that the other one removed
    remove_if_last_slot(str(folder))
    assert not folder.exists()


def test_a_folder_without_a_lock_stays(tmp_path: Path) -> None:
    folder = tmp_path / "nosejobs-x"
    folder.mkdir()
    (folder / "theirs").touch()
    remove_if_last_slot(str(folder))
    assert (folder / "theirs").exists()


def test_the_removal_waits_for_a_dying_owner(tmp_path: Path) -> None:
    folder = tmp_path / "nosejobs-x"
    folder.mkdir()
    lock = (folder / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    dying = threading.Timer(0.2, lock.close)
    dying.start()
    remove_if_last_slot(str(folder))
    dying.join()
    assert not folder.exists()


LARGE = random.Random(2).randbytes(3 << 20)


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_received_bytes_outlast_the_connection(store: BlobStore) -> None:
    entry = file("a", LARGE)
    store.append_piece(entry.digest, 0, LARGE[: 1 << 20], False)
    store.release()
    again = BlobStore(os.path.dirname(store.folder))
    assert again.find_missing([entry]) == ([0], [(0, 1 << 20)])
    assert again.append_piece(entry.digest, 1 << 20, LARGE[1 << 20 :], True)
    assert again.find_missing([entry]) == ([], [])


def test_a_complete_partial_file_needs_its_last_byte_again(store: BlobStore) -> None:
    entry = file("a", LARGE)
    store.append_piece(entry.digest, 0, LARGE, False)
    store.release()
    assert store.find_missing([entry]) == ([0], [(0, len(LARGE) - 1)])
    assert store.append_piece(entry.digest, len(LARGE) - 1, LARGE[-1:], True)


def test_a_corrupt_partial_file_is_requested_again(store: BlobStore) -> None:
    entry = file("a", LARGE)
    store.append_piece(entry.digest, 0, LARGE[: 1 << 20], False)
    store.release()
    (partial,) = Path(store.folder).glob("*.partial")
    partial.write_bytes(bytes(1 << 20))
    assert store.find_missing([entry]) == ([0], [(0, 1 << 20)])
    assert not store.append_piece(entry.digest, 1 << 20, LARGE[1 << 20 :], True)
    assert list(Path(store.folder).glob("*.partial")) == []
    assert store.find_missing([entry]) == ([0], [])


def test_a_piece_may_overlap_but_must_leave_no_gap(store: BlobStore) -> None:
    entry = file("a", LARGE)
    store.append_piece(entry.digest, 0, LARGE[: 2 << 20], False)
    with pytest.raises(ValueError, match=r"begins at 3145728 instead of 2097152"):
        store.append_piece(entry.digest, 3 << 20, b"", False)
    store.append_piece(entry.digest, 0, LARGE[: 1 << 20], False)
    assert store.append_piece(entry.digest, 1 << 20, LARGE[1 << 20 :], True)
    assert store.find_missing([entry]) == ([], [])


def test_two_sessions_with_the_same_file_do_not_conflict(store: BlobStore) -> None:
    entry, other = file("a", LARGE), BlobStore(os.path.dirname(store.folder))
    half = 1 << 20
    store.append_piece(entry.digest, 0, LARGE[:half], False)
    assert other.find_missing([entry]) == ([0], [])  # what the first one has is not for the other
    other.append_piece(entry.digest, 0, LARGE[:half], False)
    for session_store in (store, other):
        assert session_store.append_piece(entry.digest, half, LARGE[half:], True)
        assert session_store.find_missing([entry]) == ([], [])
    assert [path for path in Path(store.folder).iterdir() if path.is_file()] == []


def test_an_aborted_session_leaves_no_private_partial_file(store: BlobStore) -> None:
    entry, other = file("a", LARGE), BlobStore(os.path.dirname(store.folder))
    for session_store in (store, other):
        session_store.append_piece(entry.digest, 0, LARGE[: 1 << 20], False)
    other.release()
    store.release()
    names = [path.name for path in Path(store.folder).iterdir()]
    assert names == [f"{entry.digest}.partial"]


def test_a_file_of_wrong_size_is_missing(store: BlobStore) -> None:
    """The machine may have crashed before the whole file was on the disk."""
    entry = file("a", b"123")
    store.add(entry.digest, b"123")
    path = Path(store.folder, entry.digest[:2], entry.digest[2:])
    path.write_bytes(b"")
    assert store.find_missing([entry]) == ([0], [])


def test_zeros_are_stored_as_holes(store: BlobStore, tmp_path: Path) -> None:
    hole = bytes(8 << 20)
    data = b"1" + hole + b"2" + hole
    entry = file("a", data)
    for at in range(0, len(data), 1 << 20):
        store.append_piece(entry.digest, at, data[at : at + (1 << 20)], at + (1 << 20) >= len(data))
    blob = Path(store.folder, entry.digest[:2], entry.digest[2:])
    root = tmp_path / "tree"
    root.mkdir()
    store.create_tree([entry], str(root))
    assert (root / "a").read_bytes() == data
    assert blocks(blob) < 1 << 20
    assert blocks(root / "a") < 1 << 20


def test_a_manifest_is_stored_in_parts(store: BlobStore) -> None:
    entries = [file("a", b"1"), ManifestEntry("l", LINK, 0, "a")]
    parts = [frames.encode_json([entry]) for entry in entries]
    index = frames.encode_json([[digest(part), len(part)] for part in parts])
    manifest = digest(index), len(index)
    assert store.read_manifest(*manifest) == ([], [0])
    store.add(digest(index), index)
    assert store.read_manifest(*manifest) == ([], [1, 2])
    store.add(digest(parts[0]), parts[0])
    assert store.read_manifest(*manifest) == ([], [2])
    store.add(digest(parts[1]), parts[1])
    assert store.read_manifest(*manifest) == (entries, [])


@pytest.mark.parametrize(
    ("rows", "message"),
    [([ManifestEntry("l", LINK, 0, "../a")], "leads out"), ([file("../a", b"")], "leads out")],
)
def test_a_manifest_cannot_lead_out(
    store: BlobStore, rows: list[ManifestEntry], message: str
) -> None:
    part = frames.encode_json(rows)
    index = frames.encode_json([[digest(part), len(part)]])
    for data in (part, index):
        store.add(digest(data), data)
    with pytest.raises(BadManifestEntry, match=message):
        store.read_manifest(digest(index), len(index))


def test_a_digest_cannot_lead_out(store: BlobStore) -> None:
    index = frames.encode_json([["../" * 21 + "x", 1]])
    store.add(digest(index), index)
    with pytest.raises(ValueError, match="not a digest"):
        store.read_manifest(digest(index), len(index))
    with pytest.raises(ValueError, match="not a digest"):
        store.append_piece("../x", 0, b"", True)
