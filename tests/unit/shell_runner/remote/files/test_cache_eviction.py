"""Tests of the size limit of a cache and of its lock."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from shell_runner.remote.files import cache_eviction
from shell_runner.remote.files.blob_store import BlobStore
from shell_runner.remote.files.manifest import FILE, ManifestEntry

MB = 1 << 20


def contents(number: int) -> bytes:
    return bytes([number]) * MB


def entry(number: int) -> ManifestEntry:
    data = contents(number)
    return ManifestEntry(f"f{number}", FILE, 0o644, hashlib.sha256(data).hexdigest(), len(data))


def filled(cache: Path, count: int) -> BlobStore:
    """Return a store with files of 1 MiB, of which the first is the least recently used."""
    store = BlobStore(str(cache))
    for number in range(1, count + 1):
        store.add(entry(number).digest, contents(number))
        used = time.time() - 10_000 + number
        os.utime(path_of(store, number), (used, used))
    return store


def path_of(store: BlobStore, number: int) -> Path:
    digest = entry(number).digest
    return Path(store.folder, digest[:2], digest[2:])


def left(store: BlobStore) -> list[int]:
    return [number for number in range(1, 10) if path_of(store, number).exists()]


def test_the_least_recently_used_files_are_removed(tmp_path: Path) -> None:
    store = filled(tmp_path, 4)
    assert cache_eviction.evict_to_limit(str(tmp_path), 4 * MB + 4) == 0
    assert cache_eviction.evict_to_limit(str(tmp_path), 2 * MB + MB // 2) == 2
    assert left(store) == [3, 4]
    assert cache_eviction.evict_to_limit(str(tmp_path), 0) == 2


def test_a_file_that_a_run_needs_counts_as_used(tmp_path: Path) -> None:
    store = filled(tmp_path, 3)
    assert store.find_missing([entry(1)]) == ([], [])
    cache_eviction.evict_to_limit(str(tmp_path), MB + MB // 2)
    assert left(store) == [1]


def test_nothing_is_removed_while_a_session_needs_files(tmp_path: Path) -> None:
    store, others = filled(tmp_path, 3), BlobStore(str(tmp_path))
    store.acquire()
    others.acquire()
    assert cache_eviction.evict_to_limit(str(tmp_path), 0) == 0
    store.release()
    assert cache_eviction.evict_to_limit(str(tmp_path), 0) == 0
    others.release()
    assert cache_eviction.evict_to_limit(str(tmp_path), 0) == 3


def test_a_session_that_begins_waits_for_the_removal(tmp_path: Path) -> None:
    """Otherwise the session could find a file that is removed a moment later."""
    store = filled(tmp_path, 1)
    removed: list[object] = []
    real = os.unlink

    def unlink(path: str) -> None:
        with pytest.raises(BlockingIOError):
            cache_eviction.fcntl.flock(
                os.open(tmp_path / "blobs.lock", os.O_RDWR),
                cache_eviction.fcntl.LOCK_SH | cache_eviction.fcntl.LOCK_NB,
            )
        removed.append(path)
        real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        cache_eviction.evict_to_limit(str(tmp_path), 0)
    assert removed == [str(path_of(store, 1))]


def test_files_of_dead_sessions_are_removed_below_the_limit_too(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    path = path_of(store, 1)
    for junk in (path.with_name(f"{path.name}.123"), Path(store.folder, "d" * 64 + ".x.partial")):
        junk.write_bytes(b"1")
    resumable = Path(store.folder, "d" * 64 + ".partial")
    resumable.write_bytes(b"1")
    assert cache_eviction.evict_to_limit(str(tmp_path), 10 * MB) == 2
    assert (left(store), resumable.exists()) == ([1], True)
    cache_eviction.evict_to_limit(str(tmp_path), 0)
    assert not resumable.exists()


def test_holes_do_not_count(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    digest = hashlib.sha256(bytes(8 * MB)).hexdigest()
    store.append_piece(digest, 0, bytes(8 * MB), True)
    assert cache_eviction.evict_to_limit(str(tmp_path), 2 * MB) == 0


def test_code_that_was_not_used_for_a_month_is_removed(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    for name, days in (("old", 31), ("new", 29)):
        (tmp_path / "code" / name / "nosejobs_host").mkdir(parents=True)
        used = time.time() - days * 86_400
        os.utime(tmp_path / "code" / name, (used, used))
    cache_eviction.evict_to_limit(str(tmp_path), 4 * MB)
    assert [path.name for path in (tmp_path / "code").iterdir()] == ["new"]
    assert left(store) == [1]


def test_a_cache_without_new_files_is_checked_once_a_day(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    store.acquire()
    store.release()
    assert not cache_eviction.is_eviction_due(str(tmp_path))
    os.utime(tmp_path / "blobs.lock", (0, 0))
    assert cache_eviction.is_eviction_due(str(tmp_path))
    cache_eviction.evict_to_limit(str(tmp_path), 4 * MB)
    assert not cache_eviction.is_eviction_due(str(tmp_path))


def test_a_missing_cache_is_ignored(tmp_path: Path) -> None:
    assert cache_eviction.evict_to_limit(str(tmp_path / "none"), 0) == 0
