"""Tests that a session finds its tree as it was shipped, whatever earlier ones did to theirs."""

import hashlib
import mmap
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from shell_runner.remote.files import kept_trees, tree_state
from shell_runner.remote.files.blob_store import BlobStore
from shell_runner.remote.files.kept_trees import SessionTree
from shell_runner.remote.files.manifest import FILE, HARD_LINK, LINK, ManifestEntry

LIMIT = 1 << 20
CONTENTS = {
    "a": "a", "x/b": "bb", "x/c": "ccc", "x/y/d": "dddd", "z/e": "eeeee",
}  # fmt: skip


class Cache:
    """The cache of a host and the sessions that use it, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = BlobStore(str(folder / "cache"))
        self.count = 0

    def entries(self, contents: dict[str, str]) -> list[ManifestEntry]:
        rows = [ManifestEntry("x/link", LINK, 0, "b")]
        for path, text in contents.items():
            digest = hashlib.sha256(text.encode()).hexdigest()
            self.store.add(digest, text.encode())
            rows.append(ManifestEntry(path, FILE, 0o755, digest, len(text)))
        return sorted(rows)

    def open(self, entries: list[ManifestEntry]) -> tuple[Path, SessionTree]:
        self.count += 1
        root = self.folder / f"session{self.count}" / "tree"
        root.parent.mkdir()
        tree = SessionTree(str(root), str(self.folder / "cache"))
        is_unchanged = tree.take_unchanged(hashlib.sha256(repr(entries).encode()).hexdigest())
        tree.create([] if is_unchanged else entries, self.store)
        return root, tree

    def kept(self) -> list[Path]:
        return sorted((self.folder / "cache" / "trees").glob("*/tree"))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def describe(root: Path) -> dict[str, object]:
    """Return all that a test can see of a tree, except times."""
    return {
        str(path.relative_to(root)): (
            stat.S_IMODE(path.lstat().st_mode),
            os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes(),
        )
        for path in sorted(root.rglob("*"))
    }


def inodes(root: Path) -> dict[str, tuple[int, int]]:
    """Return inode and ctime of each file: a file system may use the number of a removed file."""
    found = {path: path.lstat() for path in root.rglob("*") if not path.is_dir()}
    return {
        str(path.relative_to(root)): (each.st_ino, each.st_ctime_ns) for path, each in found.items()
    }


def test_an_unchanged_tree_is_used_again_without_its_entries(cache: Cache) -> None:
    entries = cache.entries(CONTENTS)
    root, tree = cache.open(entries)
    expected, numbers = describe(root), inodes(root)
    for _ in range(3):
        tree.keep(LIMIT)
        assert not root.exists()
        root, tree = cache.open(entries)
        assert describe(root) == expected
        assert inodes(root) == numbers


def overwrite(root: Path) -> None:
    path = root / "x" / "b"
    before = path.stat()
    path.write_text("BB")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def write_by_mmap(root: Path) -> None:
    with (
        open(root / "x" / "b", "r+b") as file,
        mmap.mmap(file.fileno(), 0) as memory,
    ):
        memory[:1] = memory[1:] = b"B"


def replace_folder(root: Path) -> None:
    shutil.copytree(root / "x", root / "copy", symlinks=True)
    shutil.rmtree(root / "x")
    (root / "copy").rename(root / "x")


def replace_file_by_folder(root: Path) -> None:
    (root / "a").unlink()
    (root / "a" / "below").mkdir(parents=True)


def replace_folder_by_link(root: Path) -> None:
    (root / "x" / "y").rename(root.parent / "elsewhere")
    (root / "x" / "y").symlink_to(root.parent / "elsewhere")


def swap_files(root: Path) -> None:
    (root / "x" / "b").rename(root / "b")
    (root / "x" / "c").rename(root / "x" / "b")
    (root / "b").rename(root / "x" / "c")


def change_link(root: Path) -> None:
    (root / "x" / "link").unlink()
    (root / "x" / "link").symlink_to("c")


def add_files(root: Path) -> None:
    for name in ("new", "x/y/.hidden", "deep/er/file"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("secret of a test")


CHANGES: list[Callable[[Path], object]] = [
    overwrite,
    write_by_mmap,
    replace_folder,
    replace_file_by_folder,
    replace_folder_by_link,
    swap_files,
    change_link,
    add_files,
    lambda root: (root / "a").unlink(),
    lambda root: (root / "a").chmod(0o600),
    lambda root: (root / "x" / "y").chmod(0o700),
    lambda root: root.chmod(0o700),
    lambda root: shutil.rmtree(root / "x"),
    lambda root: (root / "x").rename(root / "w"),
    lambda root: os.link(root / "a", root.parent / "outside"),
    lambda root: os.mkfifo(root / "x" / "fifo"),
    shutil.rmtree,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("reads_contents", [False, True])
def test_what_a_session_changes_is_gone_in_the_next_one(
    cache: Cache,
    change: Callable[[Path], object],
    reads_contents: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if reads_contents:
        monkeypatch.setattr(tree_state, "has_reliable_times", lambda path: False)
    elif change is write_by_mmap and not tree_state.has_reliable_times(str(cache.folder)):
        pytest.skip("a change through mmap does not change times here")
    entries = cache.entries(CONTENTS)
    root, tree = cache.open(entries)
    expected = describe(root)
    change(root)
    tree.keep(LIMIT)
    for kept in cache.kept():
        assert set(describe(kept).items()) <= set(expected.items()), "a change was kept"
    shutil.rmtree(root.parent)
    root, tree = cache.open(entries)
    assert describe(root) == expected
    change(root)
    tree.keep(LIMIT)
    root, _ = cache.open(entries)
    assert describe(root) == expected


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_between_two_sessions_is_noticed(
    cache: Cache, change: Callable[[Path], object]
) -> None:
    entries = cache.entries(CONTENTS)
    root, tree = cache.open(entries)
    expected = describe(root)
    tree.keep(LIMIT)
    (kept,) = cache.kept()
    change(kept)
    root, _ = cache.open(entries)
    assert describe(root) == expected


@pytest.mark.parametrize(
    "contents",
    [
        {**CONTENTS, "x/b": "other"},
        {**CONTENTS, "x/new": "new", "n/e/w": "new"},
        {path: text for path, text in CONTENTS.items() if path != "x/y/d"},
        {path: text for path, text in CONTENTS.items() if path != "z/e"},
        {**{path: text for path, text in CONTENTS.items() if path != "a"}, "a/b": "a folder now"},
        {"x/b": "all", "else": "is gone"},
    ],
)
def test_another_manifest_gives_the_tree_that_a_new_one_would_be(
    cache: Cache, contents: dict[str, str], tmp_path: Path
) -> None:
    root, tree = cache.open(cache.entries(CONTENTS))
    (root / "x" / "y" / "new").touch()
    before = inodes(root)
    tree.keep(LIMIT)
    entries = cache.entries(contents)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    cache.store.create_tree(entries, str(fresh))
    root, tree = cache.open(entries)
    assert describe(root) == describe(fresh)
    if "a" in contents and "z/e" in contents and "x/new" not in contents:
        assert inodes(root)["z/e"] == before["z/e"], "an unchanged folder was written again"
    tree.keep(LIMIT)
    root, tree = cache.open(entries)
    assert describe(root) == describe(fresh)


@pytest.mark.parametrize("limit", [0, 8])
def test_no_tree_is_kept_beyond_the_limit(cache: Cache, limit: int) -> None:
    root, tree = cache.open(cache.entries(CONTENTS))
    tree.keep(limit)
    assert root.exists()
    assert cache.kept() == []


def test_a_tree_with_hard_links_is_not_kept(cache: Cache) -> None:
    entries = [*cache.entries(CONTENTS), ManifestEntry("zz", HARD_LINK, 0, "a")]
    _, tree = cache.open(entries)
    tree.keep(LIMIT)
    assert cache.kept() == []


def test_a_tree_is_used_by_one_session_at_a_time(cache: Cache) -> None:
    entries = cache.entries(CONTENTS)
    _, tree = cache.open(entries)
    tree.keep(LIMIT)
    roots = [cache.open(entries)[0] for _ in range(2)]
    assert inodes(roots[0]) != inodes(roots[1])
    assert describe(roots[0]) == describe(roots[1])
    assert cache.kept() == []


@pytest.mark.parametrize("record", ["", "[]", '["a"]', "[1,2,3,4,5,{}]", '{"a":1}'])
def test_a_tree_with_an_invalid_record_is_not_used(cache: Cache, record: str) -> None:
    entries = cache.entries(CONTENTS)
    root, tree = cache.open(entries)
    expected = describe(root)
    tree.keep(LIMIT)
    (kept,) = cache.kept()
    (kept.parent / "record").write_text(record)
    (kept / "x" / "b").write_text("BB")
    root, _ = cache.open(entries)
    assert describe(root) == expected


def test_a_tree_of_before_a_restart_or_of_long_ago_is_not_used(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = cache.entries(CONTENTS)
    root, tree = cache.open(entries)
    expected = describe(root)
    for name, value in (("_read_boot_id", lambda: "another"), ("_MAX_AGE", -1.0)):
        before = inodes(root)
        tree.keep(LIMIT)
        with monkeypatch.context() as patch:
            patch.setattr(kept_trees, name, value)
            root, tree = cache.open(entries)
        assert inodes(root) != before
        assert describe(root) == expected


def test_no_tree_is_kept_if_the_clock_was_set(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tree = cache.open(cache.entries(CONTENTS))
    offset = tree_state._read_offset()
    monkeypatch.setattr(tree_state, "_read_offset", lambda: offset - 1.0)
    tree.keep(LIMIT)
    assert cache.kept() == []


def test_few_trees_are_kept(cache: Cache) -> None:
    for number in range(7):
        _, tree = cache.open(cache.entries({f"{number}/only": str(number), "x/b": str(number)}))
        tree.keep(LIMIT)
    assert len(cache.kept()) == 4
