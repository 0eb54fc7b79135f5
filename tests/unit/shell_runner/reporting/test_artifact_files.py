"""Tests that files that a host sends are checked before they are written."""

from pathlib import Path

import pytest

from shell_runner.errors import UsageError
from shell_runner.reporting import artifact_files
from shell_runner.reporting.artifact_files import ArtifactFiles


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactFiles:
    return ArtifactFiles(tmp_path / "art", 100, tmp_path / "tree")


@pytest.mark.parametrize(
    "path",
    ["", "/etc", "../x", "a/../../x", "a/..", ".", "a//b", "a/", "a\0b", "\ud800", 7, None, ["a"]],
)
def test_paths_that_leave_the_folder_are_refused(
    artifacts: ArtifactFiles, tmp_path: Path, path: str
) -> None:
    folder = artifacts.get_folder("test_a", 1)
    with pytest.raises(ValueError):  # noqa: PT011
        artifacts.add(folder, path, b"x")
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == []


def test_chunks_become_one_file(artifacts: ArtifactFiles) -> None:
    folder = artifacts.get_folder("sub/test_a", 1)
    artifacts.add(folder, "x/y", b"one ")
    artifacts.add(folder, "z", b"")
    artifacts.add(folder, "x/y", b"two")
    assert (artifacts.folder / "sub/test_a/x/y").read_bytes() == b"one two"
    assert (artifacts.folder / "sub/test_a/z").read_bytes() == b""


def test_only_files_that_were_sent_count_as_received(artifacts: ArtifactFiles) -> None:
    folder = artifacts.get_folder("t", 1)
    artifacts.add(folder, "a", b"x")
    assert artifacts.has_received(folder, "a")
    for path in ("b", "../t/a", "/etc/passwd", "../../../etc/passwd", "", 7, None):
        assert not artifacts.has_received(folder, path)  # type: ignore[arg-type]
    (artifacts.folder / "u").touch()
    artifacts.add(artifacts.get_folder("u", 1), "a", b"x")
    assert not artifacts.has_received(artifacts.get_folder("u", 1), "a")


def test_more_than_the_limit_is_refused(artifacts: ArtifactFiles) -> None:
    folder = artifacts.get_folder("test_a", 1)
    artifacts.add(folder, "a", b"x" * 60)
    with pytest.raises(ValueError, match="than 100 bytes"):
        artifacts.add(folder, "b", b"x" * 60)
    artifacts.add(artifacts.get_folder("test_b", 1), "b", b"x" * 60)


def test_more_files_than_the_limit_are_refused(
    artifacts: ArtifactFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_files, "_MAX_FILES", 3)
    folder = artifacts.get_folder("test_a", 1)
    for name in "abcabc":
        artifacts.add(folder, name, b"")
    with pytest.raises(ValueError, match="more than 3 files"):
        artifacts.add(folder, "d", b"")
    artifacts.add(artifacts.get_folder("test_b", 1), "d", b"")


def test_attempts_have_folders_of_their_own(artifacts: ArtifactFiles) -> None:
    for attempt in (1, 2):
        artifacts.add(artifacts.get_folder("t", attempt), "a", b"%d" % attempt)
    assert (artifacts.folder / "t/a").read_bytes() == b"1"
    assert (artifacts.folder / "t.attempt-2/a").read_bytes() == b"2"


def test_an_attempt_that_is_a_path_is_refused(artifacts: ArtifactFiles) -> None:
    with pytest.raises(ValueError, match="name"):
        artifacts.get_folder("t", "/../../x")  # type: ignore[arg-type]


def test_node_ids_stay_inside(artifacts: ArtifactFiles) -> None:
    for nodeid in ("../../x", "/x", "a/../../x", "./x"):
        assert artifacts.get_folder(nodeid, 1).is_relative_to(artifacts.folder)


def test_files_of_an_earlier_run_are_removed_but_no_link_is_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    art = tmp_path / "art"
    (art / "t").mkdir(parents=True)
    (art / "t/old").write_text("x")
    (art / "link").symlink_to(precious)
    artifacts = ArtifactFiles(art, 100)
    artifacts.add(artifacts.get_folder("t", 1), "new", b"")
    artifacts.add(artifacts.get_folder("link", 1), "new", b"")
    assert [path.name for path in (art / "t").iterdir()] == ["new"]
    assert (precious / "file").exists()


def test_the_folder_may_not_hold_the_tests(tmp_path: Path) -> None:
    tree = tmp_path / "a/b"
    for folder in (tree, tmp_path / "a", tmp_path / "a/b/../b"):
        with pytest.raises(UsageError, match="name another folder"):
            ArtifactFiles(folder, 100, tmp_path / "other", tree)
    ArtifactFiles(tree / "art", 100, tree)


def test_write_errors_of_this_machine_are_recorded(artifacts: ArtifactFiles) -> None:
    (artifacts.folder / "t").write_text("in the way")
    artifacts.add(artifacts.get_folder("t", 1), "a", b"x")
    assert list(artifacts.write_errors.values()) == ["File exists"]
