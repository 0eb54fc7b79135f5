"""Tests of the selection of artifacts and of reading them in pieces."""

import json
import os
from pathlib import Path

import pytest

from shell_runner.remote.execution import artifacts
from shell_runner.remote.execution.artifacts import SelectedArtifacts, read_pieces, select_artifacts


def contents(folder: Path, chosen: SelectedArtifacts) -> dict[str, bytes]:
    contents_by_path: dict[str, bytes] = {}
    ended = set()
    for path, body, last in read_pieces(str(folder), chosen.files):
        assert path not in ended
        assert len(body) <= artifacts._MAX_PIECE_BYTES
        contents_by_path[path] = contents_by_path.get(path, b"") + body
        if last:
            ended.add(path)
    assert ended == set(contents_by_path)
    return contents_by_path


def test_regular_files_are_selected_in_order_of_name(tmp_path: Path) -> None:
    for name in ("b", "a", "sub/z", "sub/deep/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    chosen = select_artifacts(str(tmp_path), 1000)
    assert chosen == SelectedArtifacts((("a", 1), ("b", 1), ("sub/z", 5), ("sub/deep/y", 10)), 0)
    assert contents(tmp_path, chosen) == {path: path.encode() for path, _ in chosen.files}


def test_links_pipes_and_sockets_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/secret").write_text("x")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "file").symlink_to("../elsewhere/secret")
    (folder / "folder").symlink_to("../elsewhere")
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "fifo")
    assert select_artifacts(str(folder), 1000) == SelectedArtifacts((), 0)
    (tmp_path / "link").symlink_to("elsewhere")
    assert select_artifacts(str(tmp_path / "link"), 1000) == SelectedArtifacts((), 0)


def test_the_limit_is_for_all_files_together(tmp_path: Path) -> None:
    for name, size in (("a", 60), ("b", 60), ("c", 40), ("d", 0), ("e", 1)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert select_artifacts(str(tmp_path), 100) == SelectedArtifacts(
        (("a", 60), ("c", 40), ("d", 0)), 2
    )


def test_very_many_files_are_counted_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "_MAX_FILES", 3)
    for number in range(5):
        (tmp_path / str(number)).touch()
    chosen = select_artifacts(str(tmp_path), 1000)
    assert len(chosen.files) == 3
    assert chosen.omitted_count == 2


@pytest.mark.parametrize(
    "size",
    [
        0,
        1,
        artifacts._MAX_PIECE_BYTES - 1,
        artifacts._MAX_PIECE_BYTES,
        artifacts._MAX_PIECE_BYTES * 2 + 1,
    ],
)
def test_files_of_about_the_piece_size_are_complete(tmp_path: Path, size: int) -> None:
    body = os.urandom(size)
    (tmp_path / "a").write_bytes(body)
    assert contents(tmp_path, select_artifacts(str(tmp_path), 1 << 30)) == {"a": body}


def test_files_that_change_after_the_selection_are_handled(tmp_path: Path) -> None:
    for name in ("gone", "shorter", "longer", "link", "fifo"):
        (tmp_path / name).write_bytes(b"0123456789")
    chosen = select_artifacts(str(tmp_path), 1000)
    for name in ("gone", "link", "fifo"):
        (tmp_path / name).unlink()
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "shorter").write_bytes(b"01")
    (tmp_path / "longer").write_bytes(b"0123456789more")
    contents_by_path = contents(tmp_path, chosen)
    assert contents_by_path.pop("fifo", b"") == b""
    assert contents_by_path == {"shorter": b"01", "longer": b"0123456789"}


def test_names_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\n\x1b")
    (tmp_path / name).write_text("x")
    chosen = select_artifacts(str(tmp_path), 10)
    json.dumps(chosen).encode("ascii")
    assert contents(tmp_path, chosen) == {name: b"x"}
