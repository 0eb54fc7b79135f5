"""Tests of directory sources, whose revision is the digest of the files that are shipped."""

import hashlib
import os
from pathlib import Path

import pytest

from dispatcher.configuration import settings
from dispatcher.sources import directory_source
from dispatcher.sources.directory_source import DirectorySource, tree_digest
from dispatcher.sources.git_command import SourceError
from dispatcher.sources.git_source import GitSource
from dispatcher.sources.source_factory import open_source
from shell_runner.remote.files.manifest import ManifestEntry


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "sub" / "b").write_text("2")
    (folder / "link").symlink_to("sub/b")
    return folder


def revision(source: DirectorySource) -> str:
    (head,) = source.heads().values()
    return head


def test_the_revision_depends_on_names_modes_and_contents(here: Path) -> None:
    source = DirectorySource(here)
    revisions = [revision(source)]
    assert revision(source) == revisions[0]
    os.utime(here / "a", (1, 1))
    assert revision(source) == revisions[0]
    (here / "a").write_text("2")
    revisions.append(revision(source))
    (here / "a").chmod(0o755)
    revisions.append(revision(source))
    (here / "a").rename(here / "c")
    revisions.append(revision(source))
    (here / "link").unlink()
    (here / "link").symlink_to("c")
    revisions.append(revision(source))
    assert len(set(revisions)) == 5


def test_names_cannot_be_mistaken_for_others() -> None:
    def entry(path: str, digest: str) -> ManifestEntry:
        return ManifestEntry(path, "link", 0, digest)

    assert tree_digest([entry("ab", "c")]) != tree_digest([entry("a", "bc")])
    assert tree_digest([entry("a\udcff", "b")]) == tree_digest([entry("a\udcff", "b")])
    one, two = entry("a", "x"), entry("b", "y")
    assert tree_digest([one, two]) == tree_digest([two, one])


def test_changed_paths_are_known_for_trees_that_were_scanned(here: Path) -> None:
    source = DirectorySource(here)
    first = revision(source)
    (here / "a").write_text("2")
    (here / "new").write_text("")
    second = revision(source)
    (commit,) = source.commits_between(first, second).commits
    assert commit.paths == ("a", "new")
    assert DirectorySource(here).commits_between(first, second).commits[0].paths is None
    assert source.commits_between("", second).commits[0].paths is None


def test_a_checkout_is_a_copy(here: Path, tmp_path: Path) -> None:
    (here / "a").chmod(0o750)
    (here / os.fsdecode(b"o\xff")).write_bytes(b"\0")
    source = DirectorySource(here)
    target = tmp_path / "trees" / "x"
    head = revision(source)
    source.checkout(head, target)
    assert revision(DirectorySource(target)) == head
    assert (target / "a").stat().st_mode & 0o7777 == 0o750
    assert os.readlink(target / "link") == "sub/b"
    assert [each.name for each in target.parent.iterdir()] == ["x"]


def test_a_checkout_keeps_hard_links_and_a_change_is_one_of_all_names(
    here: Path, tmp_path: Path
) -> None:
    source = DirectorySource(here)
    copies = revision(source)
    (here / "sub" / "b").unlink()
    (here / "sub" / "b").write_text("1")
    first = revision(source)
    (here / "sub" / "b").unlink()
    os.link(here / "a", here / "sub" / "b")
    assert copies != first == revision(source)
    source.checkout(first, tmp_path / "x")
    assert (tmp_path / "x" / "a").samefile(tmp_path / "x" / "sub" / "b")
    assert revision(DirectorySource(tmp_path / "x")) == first
    (here / "a").write_text("3")
    (commit,) = source.commits_between(first, revision(source)).commits
    assert commit.paths == ("a", "sub/b")


def test_a_checkout_of_an_old_revision_is_an_error(here: Path, tmp_path: Path) -> None:
    source = DirectorySource(here)
    head = revision(source)
    (here / "a").write_text("2")
    with pytest.raises(SourceError, match="has changed; the revision does not exist any more"):
        source.checkout(head, tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_a_file_that_changes_while_it_is_copied_is_an_error(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DirectorySource(here)
    head = revision(source)
    real = directory_source.write_file

    def meddle(root: bytes, path: bytes, *rest: object) -> None:
        (here / "sub" / "b").write_text("meanwhile")
        real(root, path, *rest)

    monkeypatch.setattr(directory_source, "write_file", meddle)
    with pytest.raises(SourceError, match="sub/b has changed while it was copied"):
        source.checkout(head, tmp_path / "trees" / "x")
    assert list((tmp_path / "trees").iterdir()) == []


def test_a_link_to_a_file_outside_becomes_that_file(here: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("text")
    (here / "out").symlink_to(tmp_path / "outside")
    source = DirectorySource(here)
    source.checkout(revision(source), tmp_path / "tree")
    assert not (tmp_path / "tree" / "out").is_symlink()
    assert (tmp_path / "tree" / "out").read_text() == "text"


@pytest.mark.parametrize("harm", ["missing", "empty", "file"])
def test_a_directory_that_cannot_be_read_is_an_error(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "here"
    if harm == "empty":
        folder.mkdir()
    if harm == "file":
        folder.touch()
    with pytest.raises(SourceError, match="here"):
        DirectorySource(folder).heads()


def test_secrets_are_left_out(here: Path, tmp_path: Path) -> None:
    before = revision(DirectorySource(here))
    (here / "id_rsa").write_text(hashlib.sha256(b"x").hexdigest())
    assert revision(DirectorySource(here)) == before


def test_sources_are_opened_by_their_configuration(here: Path, tmp_path: Path) -> None:
    opened = open_source(settings.Source("a", directory=str(here)), tmp_path / "m")
    assert isinstance(opened, DirectorySource)
    opened = open_source(settings.Source("b", git="https://example.org/x"), tmp_path / "m")
    assert isinstance(opened, GitSource)
    assert opened.mirror == tmp_path / "m" / "b.git"
