"""Tests of the scan cache: what it stores, and when it is not used."""

import builtins
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shell_runner.shipping import scan_cache
from shell_runner.shipping.tree_scan import SourceTree, scan
from tests.helpers.single_host_run import write_program

Reads = Callable[[], list[str]]


def settle(root: Path) -> None:
    """Let the files look as if nobody had touched them for an hour."""
    for path in root.rglob("*"):
        os.utime(path, ns=(0, time.time_ns() - 3600 * 10**9), follow_symlinks=False)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a tree of old files; since ctime cannot be set back, the clock is set forward."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "tree"
    for name in ("a", "d/b", "d/c"):
        write_program(folder / name, name)
    settle(folder)
    monkeypatch.setattr(time, "time_ns", lambda now=time.time_ns: now() + 5 * 10**9)
    return folder


@pytest.fixture
def reads(root: Path, monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Return a function that returns the files of the tree that were opened since its last call."""
    opened: list[str] = []

    def watch(real: Callable[..., Any]) -> Callable[..., Any]:
        def spy(name: Any, *arguments: Any, **more: Any) -> Any:
            if isinstance(name, (str, Path)) and str(name).startswith(f"{root}/"):
                opened.append(os.path.relpath(name, root))
            return real(name, *arguments, **more)

        return spy

    monkeypatch.setattr(builtins, "open", watch(builtins.open))
    monkeypatch.setattr(os, "open", watch(os.open))

    def since() -> list[str]:
        names = sorted(opened)
        opened.clear()
        return names

    return since


def kept(root: Path) -> Path:
    (path,) = (root.parent / "cache" / "nosejobs" / "scan").iterdir()
    return path


def digests(tree: SourceTree) -> dict[str, str]:
    return {entry.path: entry.digest for entry in tree.entries}


def test_a_second_scan_reads_no_contents(root: Path, reads: Reads) -> None:
    first = scan(root, [])
    assert reads() == ["a", "d/b", "d/c"]
    assert scan(root, []) == first
    assert reads() == []


def test_a_changed_file_is_read_alone(root: Path, reads: Reads) -> None:
    before = digests(scan(root, []))
    write_program(root / "d/b", "B")
    reads()
    after = digests(scan(root, []))
    assert reads() == ["d/b"]
    assert {path for path in after if after[path] != before[path]} == {"d/b"}


def test_a_young_file_is_read_again(
    root: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(root, [])
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(root.parent / "cache"))
    scan_cache.invalidate(root)
    scan(root, [])  # by the true clock all of them were just made
    assert json.loads(kept(root).read_bytes())["files"] == {}


def test_a_change_that_keeps_size_and_mtime_is_seen(root: Path) -> None:
    before = digests(scan(root, []))
    status = (root / "a").stat()
    (root / "a").write_text("A")
    os.utime(root / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digests(scan(root, []))["a"] != before["a"]


def test_another_file_in_its_place_is_seen(root: Path) -> None:
    before = digests(scan(root, []))
    write_program(root / "other", "A")
    os.utime(root / "other", ns=(0, (root / "a").stat().st_mtime_ns))
    os.replace(root / "other", root / "a")
    assert digests(scan(root, []))["a"] != before["a"]


def test_a_mode_is_the_one_of_now(root: Path) -> None:
    scan(root, [])
    (root / "a").chmod(0o640)
    assert {e.path: e.mode for e in scan(root, []).entries}["a"] == 0o640


def test_what_is_gone_is_forgotten(root: Path, reads: Reads) -> None:
    scan(root, [])
    (root / "a").unlink()
    reads()
    assert set(digests(scan(root, []))) == {"d/b", "d/c"}
    assert reads() == []
    assert set(json.loads(kept(root).read_bytes())["files"]) == {"d/b", "d/c"}


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '{"version": 2, "files": {}}', '{"version": 1}',
        '{"version": 1, "files": {"a": [1, 2]}}', '{"version": 1, "files": []}', "\udcff",
        "[" * 9999,
    ],
)  # fmt: skip
def test_a_spoilt_memory_is_no_memory(root: Path, reads: Reads, text: str) -> None:
    first = scan(root, [])
    kept(root).write_bytes(os.fsencode(text))
    reads()
    assert scan(root, []) == first
    assert reads() == ["a", "d/b", "d/c"]
    assert set(json.loads(kept(root).read_bytes())["files"]) == {"a", "d/b", "d/c"}


def test_a_cache_that_cannot_be_written_does_no_harm(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(write_program(root.parent / "file", "")))
    assert len(scan(root, []).entries) == 3


def test_trees_that_nobody_scans_are_forgotten(root: Path) -> None:
    scan(root, [])
    mine = kept(root)
    old = write_program(mine.with_name("old.json"), "{}")
    os.utime(old, (0, 0))
    os.utime(mine, (0, 0))
    scan(root, [])  # nothing has changed, and yet it is in use
    assert mine.stat().st_mtime > 1
    write_program(root / "new", "")
    scan(root, [])
    assert kept(root) == mine


def test_what_takes_long_is_told(root: Path) -> None:
    write_program(root / "large", b"x" * (3 << 20))
    reported: list[tuple[int, int]] = []
    for number in range(300):
        write_program(root / f"n{number}", "1")
    scan(root, [], progress=lambda done, total: reported.append((done, total)))
    assert reported
    assert {total for _, total in reported} == {(3 << 20) + 300 + len("ad/bd/c")}
