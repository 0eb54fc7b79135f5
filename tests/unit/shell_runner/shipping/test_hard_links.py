"""Tests that hard links of a tree stay hard links on a host, and in a test's own copy."""

import errno
import os
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from shell_runner.remote.files import copy_tree
from shell_runner.remote.files.blob_store import BlobStore
from shell_runner.remote.files.manifest import (
    FILE,
    HARD_LINK,
    LINK,
    BadManifestEntry,
    ManifestEntry,
    check_hard_links,
    validate_entry,
)
from shell_runner.shipping.file_selection import Selection
from shell_runner.shipping.tree_scan import replace_hard_links, scan, scan_all
from shell_runner.shipping.upload import ship
from tests.helpers.single_host_run import write_program
from tests.unit.shell_runner.shipping.test_shipping import Host

SIZE = 100_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a tree of one file with 20 names, in which two other files have the same contents."""
    folder = tmp_path / "tree"
    data = random.Random(1).randbytes(SIZE)
    write_program(folder / "bin/git", data)
    for number in range(19):
        os.link(folder / "bin/git", folder / f"bin/git-{number}")
    write_program(folder / "lib/git", data)
    write_program(folder / "lib/other", data)
    return folder


def group_names(root: Path) -> set[frozenset[str]]:
    """Return the paths of the files of a tree, grouped by inode."""
    groups: dict[int, set[str]] = defaultdict(set)
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            groups[path.stat().st_ino].add(os.fspath(path.relative_to(root)))
    return set(map(frozenset, groups.values()))


def send(root: Path, folder: Path) -> Host:
    host = Host(folder)
    ship(scan(root, []), host.send, host.wait)
    return host


def test_hard_links_arrive_as_hard_links(root: Path, tmp_path: Path) -> None:
    host = send(root, tmp_path)
    assert group_names(host.root) == group_names(root)
    assert sorted(map(len, group_names(host.root))) == [1, 1, 20]
    assert (host.root / "bin/git-7").stat().st_mode == (root / "bin/git-7").stat().st_mode


def test_a_write_to_one_name_does_not_reach_the_cache(root: Path, tmp_path: Path) -> None:
    host = send(root, tmp_path)
    (host.root / "bin/git-7").write_bytes(b"changed")
    assert (host.root / "bin/git").read_bytes() == b"changed"
    assert (host.root / "lib/git").stat().st_size == SIZE
    again = Host(tmp_path)
    again.root = tmp_path / "again"
    assert ship(scan(root, []), again.send, again.wait).files == 0
    assert (again.root / "bin/git-7").read_bytes() == (root / "bin/git").read_bytes()


def test_a_copy_for_one_test_keeps_hard_links(root: Path, tmp_path: Path) -> None:
    copy_tree.copy_tree(str(root), str(tmp_path / "copy"))
    assert group_names(tmp_path / "copy") == group_names(root)
    (tmp_path / "copy/bin/git-7").write_bytes(b"changed")
    assert (root / "bin/git").stat().st_size == SIZE


def test_links_that_the_file_system_refuses_become_copies(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = scan(root, [])

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EMLINK, "Too many links")

    host = Host(tmp_path)
    monkeypatch.setattr(os, "link", refuse)
    ship(tree, host.send, host.wait)
    copy_tree.copy_tree(str(root), str(tmp_path / "copy"))
    for folder in (host.root, tmp_path / "copy"):
        assert len(group_names(folder)) == 22
        assert (folder / "bin/git-7").read_bytes() == (root / "bin/git").read_bytes()
        assert (folder / "bin/git-7").stat().st_mode == (root / "bin/git").stat().st_mode


def test_a_name_outside_of_the_selection_is_no_link(root: Path) -> None:
    selection = Selection(exclude=("bin/git", "bin/git-1*"))
    entries = {entry.path: entry for entry in scan(root, [], selection).entries}
    assert entries["bin/git-0"].kind == FILE
    assert entries["bin/git-2"] == ManifestEntry("bin/git-2", HARD_LINK, 0, "bin/git-0")


def test_symbolic_links_to_one_file_outside_stay_separate_copies(tmp_path: Path) -> None:
    write_program(tmp_path / "outside/x", "x")
    os.link(tmp_path / "outside/x", tmp_path / "outside/y")
    (tmp_path / "tree").mkdir()
    for name in "ab":
        (tmp_path / "tree" / name).symlink_to(tmp_path / "outside/x")
    assert [entry.kind for entry in scan(tmp_path / "tree", []).entries] == [FILE, FILE]


@pytest.mark.parametrize("seed", range(20))
def test_any_tree_arrives_with_its_links_and_contents(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    root = tmp_path / "tree"
    paths = [f"{folder}/{number}" for folder in ("a", "a/b", "c") for number in range(6)]
    for path in generator.sample(paths, 12):
        full = root / path
        full.parent.mkdir(parents=True, exist_ok=True)
        files = [each for each in root.rglob("*") if each.is_file() and not each.is_symlink()]
        kind = generator.choice(["new", "link", "symlink"]) if files else "new"
        if kind == "link":
            os.link(generator.choice(files), full)
        elif kind == "symlink":
            full.symlink_to(os.path.relpath(generator.choice(files), full.parent))
        else:
            write_program(full, generator.choice(["same", f"{path}"]))
    (tmp_path / "host").mkdir()
    host = send(root, tmp_path / "host")
    copy_tree.copy_tree(str(root), str(tmp_path / "copy"))
    for there in (host.root, tmp_path / "copy"):
        assert group_names(there) == group_names(root)
        for path in root.rglob("*"):
            if path.is_file():
                assert (there / path.relative_to(root)).read_bytes() == path.read_bytes()
    assert scan_all(root).entries == scan(root, []).entries
    replaced = list(replace_hard_links(scan_all(root).entries))
    assert {entry.kind for entry in replaced} <= {FILE, LINK}
    for entry in replaced:
        if entry.kind == FILE:
            assert entry.size == (root / entry.path).stat().st_size


A_FILE = ManifestEntry("a", FILE, 0o644, "0" * 64, 1)


@pytest.mark.parametrize(
    "entries",
    [
        [ManifestEntry("b", HARD_LINK, 0, "a")],
        [ManifestEntry("b", HARD_LINK, 0, "a"), A_FILE],
        [A_FILE, ManifestEntry("b", HARD_LINK, 0, "../a")],
        [A_FILE, ManifestEntry("b", HARD_LINK, 0, "/etc/passwd")],
        [A_FILE, ManifestEntry("b", HARD_LINK, 0, "./a")],
        [A_FILE, ManifestEntry("b", HARD_LINK, 0, "")],
        [ManifestEntry("s", LINK, 0, "x"), ManifestEntry("t", HARD_LINK, 0, "s")],
        [A_FILE, ManifestEntry("b", HARD_LINK, 0, "a"), ManifestEntry("c", HARD_LINK, 0, "b")],
    ],
)
def test_a_hard_link_to_anything_but_an_earlier_file_is_refused(
    entries: list[ManifestEntry],
) -> None:
    check_hard_links([A_FILE, ManifestEntry("b", HARD_LINK, 0, "a")])
    with pytest.raises(BadManifestEntry, match="not a file before it"):
        check_hard_links(entries)


def test_a_host_refuses_a_manifest_with_such_a_link(tmp_path: Path) -> None:
    host = Host(tmp_path)
    tree = scan(tmp_path, [])
    bad = ManifestEntry("b", HARD_LINK, 0, "/etc/passwd")
    with pytest.raises(BadManifestEntry, match="not a file before it"):
        ship(type(tree)(tmp_path, (bad,)), host.send, host.wait)


def test_the_path_of_a_hard_link_is_validated() -> None:
    with pytest.raises(BadManifestEntry, match="leads out"):
        validate_entry(ManifestEntry("../b", HARD_LINK, 0, "a"))


def test_a_store_creates_links_without_the_target_in_the_cache(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path / "cache"))
    data = b"x"
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    store.add(digest, data)
    (tmp_path / "tree").mkdir()
    file = ManifestEntry("d/a", FILE, 0o755, digest, 1)
    store.create_tree([file, ManifestEntry("e/b", HARD_LINK, 0, "d/a")], str(tmp_path / "tree"))
    first, second = (os.stat(tmp_path / "tree" / name) for name in ("d/a", "e/b"))
    assert first.st_ino == second.st_ino != os.stat(store.path(digest)).st_ino
