"""Tests of git sources: repositories are mirrored in any state, and none of their code is run."""

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dispatcher.builds.source_watcher import CLEAN_UP_INTERVAL
from dispatcher.configuration.settings import Settings, Source
from dispatcher.policy.revision_selection import Commit
from dispatcher.service import Service
from dispatcher.sources import checkout, git_source
from dispatcher.sources import git_command as git_module
from dispatcher.sources.git_command import SourceError, hide_password
from dispatcher.sources.git_source import GitSource
from dispatcher.sources.source import CommitRange, Heads
from dispatcher.store import key_values
from tests.helpers import git_repository
from tests.helpers.git_repository import Repository


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "there")


@pytest.fixture
def source(repo: Repository, tmp_path: Path) -> GitSource:
    return GitSource(str(repo.path), tmp_path / "mirrors" / "here.git", timeout=20)


def files(folder: Path) -> dict[str, str]:
    """Return the contents of files by path; for a link, its target."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            contents[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            contents[name] = path.read_bytes().decode("utf-8", "surrogateescape")
        elif not any(path.iterdir()):
            contents[name] = "(empty)"
    return contents


# -- heads ----------------------------------------------------------------------------


def test_heads_follow_the_repository(source: GitSource, repo: Repository) -> None:
    assert source.heads() == {}
    first = repo.commit(a="1")
    assert source.heads() == {"main": first}
    repo.git("checkout", "-q", "-b", "next")
    second = repo.commit(a="2")
    assert source.heads() == {"main": first, "next": second}
    repo.git("checkout", "-q", "main")
    repo.git("branch", "-q", "-D", "next")
    assert source.heads() == {"main": first}


def test_nothing_is_fetched_if_nothing_has_changed(source: GitSource, repo: Repository) -> None:
    repo.commit(a="1")
    before = source.heads()

    def looks() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in source.mirror.rglob("*")}

    times_before = looks()
    assert source.heads() == before
    assert looks() == times_before


def _write_ref(repo: Repository, name: str, target: str) -> None:
    """Write a ref that git itself would refuse."""
    with (repo.path / ".git" / "packed-refs").open("a") as file:
        file.write(f"{target} refs/heads/{name}\n")


def _add_odd_ref(repo: Repository, kind: str) -> str:
    """Add a branch that cannot be fetched, and return its name."""
    name = {"long name": "n" * 300, "folder": "main/sub"}.get(kind, "odd")
    if kind == "tag":
        repo.git("tag", "-a", "-m", "x", "annotated")
    target = {
        "blob": lambda: repo.git("hash-object", "-w", "--stdin", stdin=b"text"),
        "tree": lambda: repo.git("rev-parse", "HEAD^{tree}"),
        "tag": lambda: repo.git("rev-parse", "annotated"),
        "missing": lambda: "1" * 40,
    }.get(kind, lambda: repo.git("rev-parse", "HEAD"))()
    _write_ref(repo, name, target)
    return name


@pytest.mark.parametrize("kind", ["blob", "tree", "tag", "missing", "long name", "folder"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_branch_that_cannot_be_fetched_does_not_block_the_others(
    source: GitSource, repo: Repository, kind: str, is_first: bool
) -> None:
    first = repo.commit(a="1")
    if not is_first:
        assert source.heads() == {"main": first}
    name = _add_odd_ref(repo, kind)
    heads = source.heads()
    assert heads == {"main": first}
    assert isinstance(heads, Heads)
    assert heads.error.startswith(f"branch {name} cannot be fetched: git fetch: ")
    assert len(heads.error) < 1500
    second = repo.commit(a="2")
    repo.git("branch", "next")
    assert source.heads() == {"main": second, "next": second}
    (repo.path / ".git" / "packed-refs").unlink()
    last = source.heads()
    assert isinstance(last, Heads)
    assert (last, last.error) == ({"main": second, "next": second}, "")


def test_a_branch_that_cannot_be_fetched_is_not_fetched_with_each_poll(
    source: GitSource, repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = repo.commit(a="1")
    _add_odd_ref(repo, "blob")
    source.heads()
    with monkeypatch.context() as patch:
        patch.setattr(source, "_fetch", None)
        heads = source.heads()
    assert isinstance(heads, Heads)
    assert heads == {"main": first}
    assert "branch odd cannot be fetched" in heads.error
    monkeypatch.setattr(git_source, "_BAD_BRANCH_RETRY_DELAY", 0.0)
    (repo.path / ".git" / "packed-refs").unlink()
    _write_ref(repo, "odd", first)
    assert source.heads() == {"main": first, "odd": first}


def test_a_branch_that_becomes_odd_keeps_its_last_revision(
    source: GitSource, repo: Repository
) -> None:
    first = repo.commit(a="1")
    repo.git("branch", "odd")
    source.heads()
    repo.git("branch", "-D", "odd")
    _add_odd_ref(repo, "blob")
    assert source.heads() == {"main": first, "odd": first}


def test_a_rewritten_branch_is_forced(source: GitSource, repo: Repository) -> None:
    first, second = repo.commit("one", a="1"), repo.commit("two", a="2")
    source.heads()
    repo.git("reset", "-q", "--hard", first)
    third = repo.commit("three", a="3")
    assert source.heads() == {"main": third}
    three = Commit(third, "Ann", "three")
    assert source.commits_between(second, third) == CommitRange((three,), forced=True)
    assert source.commits_between(second, first).forced  # back to where it was
    assert not source.commits_between(first, third).forced


def test_a_repository_that_was_created_again_is_followed(
    source: GitSource, repo: Repository
) -> None:
    old = repo.commit("old", a="1")
    repo.git("branch", "topic")
    source.heads()
    shutil.rmtree(repo.path)
    again = Repository(repo.path)
    assert source.heads() == {}
    new = again.commit("new", b="1")
    again.git("branch", "topic/more")  # "topic" is a folder of refs now
    assert source.heads() == {"main": new, "topic/more": new}
    assert source.commits_between(old, new).forced
    assert source.commits_between("0" * 40, new).forced  # one that never was


def test_a_repository_with_another_hash_function_is_followed(
    source: GitSource, repo: Repository
) -> None:
    source.heads()  # empty: the mirror is an ordinary one
    shutil.rmtree(repo.path)
    again = Repository(repo.path, "--object-format=sha256")
    revision = again.commit(a="1")
    assert len(revision) == 64
    assert source.heads() == {"main": revision}


@pytest.mark.parametrize(
    ("ref", "branch"),
    [
        (b"refs/heads/-x", "-x"),
        (b"refs/heads/--upload-pack=id", "--upload-pack=id"),
        (b"refs/heads/a'b;c$(id)", "a'b;c$(id)"),
        ("refs/heads/ünï".encode(), "ünï"),
        (b"refs/heads/b\xffd", r"b\xffd"),
        ("refs/heads/a\u202eb".encode(), r"a\u202eb"),
    ],
)
def test_branches_can_have_any_name(
    source: GitSource, repo: Repository, ref: bytes, branch: str
) -> None:
    revision = repo.commit(a="1")
    repo.git("update-ref", ref, revision)
    assert source.heads() == {"main": revision, branch: revision}
    repo.git("update-ref", "-d", ref)
    assert source.heads() == {"main": revision}


def test_only_branches_are_fetched(source: GitSource, repo: Repository) -> None:
    first, second = repo.commit(a="1"), repo.commit(a="evil")
    for ref in ("refs/tags/v1", "refs/notes/x", f"refs/replace/{first}", "refs/pull/1/head"):
        repo.git("update-ref", ref, second)
    repo.git("reset", "-q", "--hard", first)
    assert source.heads() == {"main": first}
    known = subprocess.run(
        ["git", f"--git-dir={source.mirror}", "for-each-ref"], capture_output=True, text=True
    )
    assert known.stdout.split() == [first, "commit", "refs/heads/main"]


# -- history --------------------------------------------------------------------------


def test_commits_are_listed_oldest_first(source: GitSource, repo: Repository) -> None:
    first = repo.commit("one", a="1", b="1")
    second = repo.commit("two", a="2")
    repo.git("mv", "b", "c")
    third = repo.commit("three")
    source.heads()
    past = source.commits_between(first, third)
    assert past == CommitRange(
        (
            Commit(second, "Ann", "two", ("a",)),
            Commit(third, "Ann", "three", ("b", "c")),
        )
    )
    assert source.commits_between("", third) == CommitRange((Commit(third, "Ann", "three"),))


def test_a_merge_is_one_commit_with_all_its_paths(source: GitSource, repo: Repository) -> None:
    first = repo.commit("one", a="1")
    repo.git("checkout", "-q", "-b", "side")
    repo.commit("side one", b="1")
    repo.commit("side two", c="1")
    repo.git("checkout", "-q", "main")
    repo.git("merge", "-q", "--no-ff", "-m", "merge", "side")
    merged = repo.git("rev-parse", "HEAD")
    source.heads()
    (commit,) = source.commits_between(first, merged).commits
    assert (commit.subject, commit.paths) == ("merge", ("b", "c"))


def test_long_histories_are_bounded(
    source: GitSource, repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    revisions = [repo.commit(f"c{number}", **{f"f{number}": "x"}) for number in range(6)]
    source.heads()
    monkeypatch.setattr(git_source, "_MAX_COMMITS", 2)
    past = source.commits_between(revisions[0], revisions[-1])
    assert [each.revision for each in past.commits] == revisions[-2:]
    # The paths of commits that are left out count for the first one in the list.
    assert past.commits[0].paths == ("f1", "f2", "f3", "f4")
    monkeypatch.setattr(git_source, "_MAX_HISTORY_BYTES", 10)


def test_names_are_printable(source: GitSource, repo: Repository) -> None:
    first = repo.commit(a="1")
    name = b"b\xff\n-d"
    Path(os.fsdecode(os.path.join(os.fsencode(repo.path), name))).write_text("x")
    second = repo.commit("\x1b[31mred\x1b[0m " + "x" * 5000)
    source.heads()
    (commit,) = source.commits_between(first, second).commits
    assert commit.paths == (os.fsdecode(name),)
    assert commit.subject.startswith(r"\x1b[31mred")
    assert len(commit.subject) < 400
    assert commit.revision == second


# -- files ----------------------------------------------------------------------------


def test_a_checkout_has_the_committed_files(
    source: GitSource, repo: Repository, tmp_path: Path
) -> None:
    script = repo.path / "deep" / "er" / "script"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    odd = os.fsdecode(b"-o\xff\n\"'$(id)")
    (repo.path / odd).write_bytes(b"\0\xff\r\n")
    (repo.path / "link").symlink_to("deep/er/script")
    (repo.path / "deep" / "up").symlink_to("../link")
    (repo.path / "dangling").symlink_to("nowhere")
    first = repo.commit("one", a="1", empty="")
    second = repo.commit("two", a="2")
    source.heads()
    target = tmp_path / "trees" / first
    source.checkout(first, target)
    assert files(target) == {
        "-o\udcff\n\"'$(id)": "\0\udcff\r\n",
        "a": "1",
        "dangling": "-> nowhere",
        "deep/er/script": "#!/bin/sh\n",
        "deep/up": "-> ../link",
        "empty": "",
        "link": "-> deep/er/script",
    }
    assert stat.S_IMODE((target / "deep/er/script").stat().st_mode) == 0o755
    assert stat.S_IMODE((target / "a").stat().st_mode) == 0o644
    (target / "a").write_text("touched")
    source.checkout(first, target)  # it is there: nothing is done
    assert (target / "a").read_text() == "touched"
    source.checkout(second, tmp_path / "trees" / "second")
    assert (tmp_path / "trees" / "second" / "a").read_text() == "2"
    assert sorted(each.name for each in target.parent.iterdir()) == sorted([first, "second"])


def test_a_revision_that_was_rewritten_can_still_be_checked_out(
    source: GitSource, repo: Repository, tmp_path: Path
) -> None:
    first = repo.commit(a="1")
    second = repo.commit(a="2")
    source.heads()
    repo.git("reset", "-q", "--hard", first)
    source.heads()
    source.clean_up()
    source.checkout(second, tmp_path / "tree")
    assert files(tmp_path / "tree") == {"a": "2"}


def test_a_running_dispatcher_packs_its_mirrors(repo: Repository, tmp_path: Path) -> None:
    for number in range(25):
        repo.commit(a=f"{number}\n" * 100)
    mirror, now = tmp_path / "data" / "mirrors" / "here.git", [1_000_000_000.0]

    def loose() -> list[Path]:
        return list(mirror.glob("objects/[0-9a-f][0-9a-f]/*"))

    def wait_until(is_true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not is_true():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    wanted = Settings(tmp_path / "data", sources=(Source("here", git=str(repo.path), poll=0.05),))
    with Service(wanted, clock=lambda: now[0]) as service:

        def is_watched() -> bool:
            with service.store.read() as connection:
                return key_values.get(connection, "clean_up here") is not None

        wait_until(is_watched)
        assert len(loose()) == 75
        used = sum(path.stat().st_blocks for path in mirror.rglob("*"))
        now[0] += CLEAN_UP_INTERVAL
        wait_until(lambda: any(mirror.glob("objects/pack/*.pack")))
    assert not loose()  # the end of the dispatcher waits for git
    assert sum(path.stat().st_blocks for path in mirror.rglob("*")) < used / 2


def test_a_clean_up_that_fails_leaves_no_unfinished_pack(
    source: GitSource, repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.commit(a="1")
    source.heads()
    unfinished_pack = source.mirror / "objects" / "pack" / "tmp_pack_x"
    unfinished_pack.write_bytes(b"PACK")
    run = source._run

    def fail(*arguments: str, **options: Any) -> bytes:
        if arguments[0] == "gc":
            raise SourceError("git gc: no end after 1800 s")
        return run(*arguments, **options)

    monkeypatch.setattr(source, "_run", fail)
    with pytest.raises(SourceError, match=r"here\.git cannot be packed: git gc: no end"):
        source.clean_up()
    assert not unfinished_pack.exists()


def test_nothing_in_a_tree_is_executed(
    source: GitSource, repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    evil = f"echo x >> {marker}; cat"
    config = tmp_path / "config"
    config.write_text(
        f'[filter "evil"]\n\tsmudge = "{evil}"\n\tclean = "{evil}"\n\tprocess = "{evil}"\n'
        f'\trequired = true\n[diff "evil"]\n\ttextconv = "{evil}"\n\tcommand = "{evil}"\n'
        f"[log]\n\tshowSignature = true\n[gpg]\n\tprogram = {tmp_path}/gpg\n"
        f"[init]\n\ttemplateDir = {tmp_path}/template\n[core]\n\thooksPath = {tmp_path}/hooks\n"
        "[protocol]\n\tallow = always\n[submodule]\n\trecurse = true\n"
    )
    hooks = [tmp_path / "template" / "hooks", tmp_path / "hooks", repo.path / ".git" / "hooks"]
    for folder in hooks:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("post-checkout", "reference-transaction", "post-update", "pre-auto-gc"):
            (folder / name).write_text(f"#!/bin/sh\necho {name} >> {marker}\n")
            (folder / name).chmod(0o755)
    (repo.path / "text").write_text("$Id$\nline\n")
    (repo.path / ".gitattributes").write_text(
        "* filter=evil diff=evil\ntext ident eol=crlf\na export-ignore\n"
    )
    first = repo.commit("one", a="1")
    second = repo.commit("two", a="2")
    marker.unlink(missing_ok=True)  # making it has run its own hooks
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    assert source.heads() == {"main": second}
    assert source.commits_between(first, second).commits[0].paths == ("a",)
    source.checkout(second, tmp_path / "tree")
    source.clean_up()
    assert files(tmp_path / "tree")["text"] == "$Id$\nline\n"
    assert files(tmp_path / "tree")["a"] == "2"
    assert not marker.exists()


def test_submodules_are_empty_folders(source: GitSource, repo: Repository, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other")
    inner = other.commit(secret="x").encode()
    modules = f'[submodule "sub"]\n\tpath = sub\n\turl = {other.path}\n\tupdate = !id\n'.encode()
    revision = repo.commit_entries(
        ("100644", "blob", b".gitmodules", modules), ("160000", "commit", b"sub", inner)
    )
    source.heads()
    source.checkout(revision, tmp_path / "tree")
    assert files(tmp_path / "tree") == {".gitmodules": modules.decode(), "sub": "(empty)"}


LINK, FILE = "120000", "100644"


@pytest.mark.parametrize(
    "entries",
    [
        [(LINK, "blob", b"l", b"/etc/passwd")],
        [(LINK, "blob", b"l", b"../outside")],
        [(LINK, "blob", b"l", b"a/../../outside")],
        [(LINK, "blob", b"l", b"a\0b")],
        [(LINK, "blob", b"l", b"")],
        [(LINK, "blob", b"l", b"x" * 5000)],
        [(FILE, "blob", b"..", b"x")],
        [(FILE, "blob", b".git", b"x")],
        [(FILE, "blob", b".GIT", b"x")],
        [(FILE, "blob", b"a/../../b", b"x")],
        [(FILE, "blob", b"/a", b"x")],
        [(FILE, "blob", b"a", b"1"), (FILE, "blob", b"a", b"2")],
        [(FILE, "blob", b"n" * 300, b"x")],
        [(LINK, "blob", b"a", b"."), (FILE, "blob", b"a/b", b"x")],
        [(FILE, "commit", b"a", b"1" * 40)],
    ],
    ids=str,
)
def test_entries_that_lead_out_of_the_tree_are_refused(
    source: GitSource,
    repo: Repository,
    tmp_path: Path,
    entries: list[tuple[str, str, bytes, bytes]],
) -> None:
    good = repo.commit(a="1")
    revision = repo.commit_entries(*entries)
    repo.git("update-ref", "refs/heads/good", good)
    with contextlib.suppress(SourceError):  # git itself refuses to fetch some of them
        source.heads()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SourceError):
        source.checkout(revision, tmp_path / "tree")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_that_leads_out_through_another_is_refused(
    source: GitSource, repo: Repository, tmp_path: Path
) -> None:
    (repo.path / "a" / "b").mkdir(parents=True)
    (repo.path / "a" / "b" / "top").symlink_to("../..")
    (repo.path / "a" / "b" / "out").symlink_to("top/../outside")
    revision = repo.commit()
    (tmp_path / "outside").write_text("secret")
    source.heads()
    with pytest.raises(SourceError, match=r"link a/b/out leads out of the tree"):
        source.checkout(revision, tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_the_depth_of_folders_is_limited(
    source: GitSource, repo: Repository, tmp_path: Path
) -> None:
    paths = [b"M 644 inline %sf\ndata 0\n" % (b"z/" * depth) for depth in range(257)]
    repo.git("fast-import", "--quiet", stdin=_COMMIT + b"".join(paths))
    revision = source.heads()["main"]
    with pytest.raises(SourceError, match="components; at most 200 are allowed"):
        source.checkout(revision, tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_links_that_lead_through_many_others_are_limited(
    source: GitSource, repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel does not follow such a chain; here the number of steps is limited."""
    chain = [b"M 120000 inline l%04d\ndata 5\nl%04d\n" % (n + 1, n) for n in range(60)]
    repo.git("fast-import", "--quiet", stdin=_COMMIT + b"".join(chain))
    revision = source.heads()["main"]
    source.checkout(revision, tmp_path / "tree")
    monkeypatch.setattr(checkout, "_MAX_LINK_STEPS", 1000)
    with pytest.raises(SourceError, match="its links lead through too many others"):
        source.checkout(revision, tmp_path / "other")


def test_names_and_subjects_of_any_size_do_not_stop_a_source(
    source: GitSource, repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = repo.commit(a="1")
    subject = "\u0301" * 50_000  # without any width, so that git does not shorten it
    author = {"GIT_AUTHOR_NAME": "A" * 100_000}
    monkeypatch.setattr(git_source, "_MAX_HISTORY_BYTES", 1 << 16)
    monkeypatch.setattr(git_repository, "ENVIRONMENT", {**git_repository.ENVIRONMENT, **author})
    second = repo.commit(a="2")
    source.heads()
    (commit,) = source.commits_between(first, second).commits
    assert (commit.author[:2], commit.subject, commit.paths) == ("AA", "more", ("a",))
    third = repo.commit(subject, a="3")
    source.heads()
    (commit,) = source.commits_between(second, third).commits
    assert (commit.revision, commit.author, commit.subject) == (third, "", "")


#: Input of git fast-import.
_COMMIT = b"commit refs/heads/main\ncommitter A <a@b> 0 +0000\ndata 0\n"


def test_the_size_of_trees_is_limited(
    source: GitSource, repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few objects can describe millions of files; such a tree is refused before it is written."""
    revision = repo.commit_entries((FILE, "blob", b"f", b"x"))
    tree = repo.git("rev-parse", f"{revision}^{{tree}}")
    for _ in range(6):
        rows = b"".join(b"40000 %d\0" % each + bytes.fromhex(tree) for each in range(10))
        tree = repo.git("hash-object", "-w", "--literally", "--stdin", "-t", "tree", stdin=rows)
    revision = repo.git("commit-tree", "-m", "bomb", tree)
    repo.git("update-ref", "refs/heads/main", revision)
    source.heads()
    monkeypatch.setattr(git_source, "_MAX_FILE_LIST_BYTES", 1 << 20)
    with pytest.raises(SourceError, match="more than 1048576 bytes"):
        source.checkout(revision, tmp_path / "tree")
    small = repo.commit(a="12345")
    source.heads()
    for name in ("_MAX_TREE_ENTRIES", "_MAX_TREE_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(git_source, name, 0)
            with pytest.raises(SourceError, match="too large"):
                source.checkout(small, tmp_path / "tree")
    assert not list(tmp_path.glob("tree*")) + list(tmp_path.glob(".part*"))


@pytest.mark.parametrize("revision", ["", "HEAD", "main", "--all", "a" * 39, "A" * 40, "a" * 40])
def test_only_revisions_are_checked_out(
    source: GitSource, repo: Repository, tmp_path: Path, revision: str
) -> None:
    repo.commit(a="1")
    source.heads()
    with pytest.raises(SourceError):
        source.checkout(revision, tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


# -- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "",
        "-x",
        "--upload-pack=touch MARKER",
        "ext::sh -c touch% MARKER",
        "fd::17",
        "sh::x",
        "ftp://example.org/x",
        "rsync://example.org/x",
        "https://example.org/a\nb",
        "/a\0b",
    ],
)
def test_addresses_that_run_a_program_are_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        GitSource(address.replace("MARKER", str(tmp_path / "marker")), tmp_path / "m.git")
    assert not (tmp_path / "marker").exists()


def test_a_host_cannot_be_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GIT_SSH_COMMAND", raising=False)
    for host in ("-oProxyCommand=touch${IFS}marker", "-v"):
        with pytest.raises(SourceError, match=r"blocked|cannot be read"):
            GitSource(f"ssh://{host}/x", tmp_path / "m.git", timeout=10).heads()
    assert not list(tmp_path.rglob("marker"))


def test_an_error_names_the_repository_and_the_reason(source: GitSource, repo: Repository) -> None:
    revision = repo.commit(a="1")
    assert source.heads() == {"main": revision}
    away = repo.path.rename(repo.path.with_name("away"))
    with pytest.raises(
        SourceError, match=r"there cannot be read: git ls-remote: .*not appear to be"
    ):
        source.heads()
    away.rename(repo.path)
    assert source.heads() == {"main": revision}


def test_a_server_that_never_answers_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"git://127.0.0.1:{server.getsockname()[1]}/x"
        began = time.monotonic()
        with pytest.raises(SourceError, match=r"timeout after 0\.5 s"):
            GitSource(address, tmp_path / "m.git", timeout=0.5).heads()
        assert time.monotonic() - began < 10
        connection, _ = server.accept()
        connection.settimeout(10)
        while connection.recv(1000):
            pass  # it was killed: the connection ends
        connection.close()


@pytest.fixture
def server() -> Iterator[str]:
    """Yield the address of an HTTP server that requires a password."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


@pytest.mark.parametrize("who", ["", "ann:hunter2@"])
def test_git_never_asks_for_a_password(
    server: str, tmp_path: Path, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_ASKPASS", "/bin/cat")
    began = time.monotonic()
    with pytest.raises(SourceError) as caught:
        GitSource(f"http://{who}{server}/x.git", tmp_path / "m.git", timeout=20).heads()
    assert "terminal prompts disabled" in str(caught.value) or "Authentication" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert time.monotonic() - began < 15


def test_a_password_is_not_shown() -> None:
    assert hide_password("https://ann:hunter2@example.org/x") == "https://ann:***@example.org/x"
    assert hide_password("git@example.org:x") == "git@example.org:x"


def test_a_helper_that_keeps_running_does_not_hang_git(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like ssh with ControlPersist, the helper keeps the error output open."""
    revision = repo.commit(a="1")
    pid = tmp_path / "pid"
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f'#!/bin/sh\nsleep 30 </dev/null >/dev/null & echo $! > {pid}\nshift\nexec sh -c "$*"\n'
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(ssh))
    monkeypatch.setenv("GIT_SSH_VARIANT", "simple")
    source = GitSource(f"ssh://host{repo.path}", tmp_path / "m.git", timeout=15)
    began = time.monotonic()
    try:
        assert source.heads() == {"main": revision}
        assert time.monotonic() - began < 10
    finally:
        subprocess.run(["kill", pid.read_text().strip()], check=False)


def test_messages_of_a_server_cannot_control_a_terminal(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\nprintf '\\033[2Jgone\\007 https://a:hunter2@h/\\n' >&2\nexit 1\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(ssh))
    with pytest.raises(SourceError) as caught:
        GitSource("ssh://host/x", tmp_path / "m.git", timeout=15).heads()
    assert "gone" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert "\x07" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_variables_of_another_git_have_no_effect(
    source: GitSource, repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = repo.commit(a="1")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    assert source.heads() == {"main": revision}
    source.checkout(revision, tmp_path / "tree")
    assert files(tmp_path / "tree") == {"a": "1"}


# -- the mirror -----------------------------------------------------------------------


def test_lock_files_of_a_killed_git_are_removed(source: GitSource, repo: Repository) -> None:
    repo.commit(a="1")
    source.heads()
    second = repo.commit(a="2")
    lock = source.mirror / "refs" / "heads" / "main.lock"
    lock.touch()
    with pytest.raises(SourceError, match=r"cannot be fetched: .*lock"):
        source.heads()  # it may belong to a git that is alive
    os.utime(lock, (1, 1))
    assert source.heads() == {"main": second}


def break_objects(mirror: Path) -> None:
    for path in [*mirror.rglob("*.pack"), *mirror.glob("objects/??/*")]:
        path.chmod(0o600)
        path.write_bytes(b"")


def break_config(mirror: Path) -> None:
    (mirror / "config").write_bytes(b"[core")


def break_head(mirror: Path) -> None:
    (mirror / "HEAD").unlink()


def break_all(mirror: Path) -> None:
    shutil.rmtree(mirror)
    mirror.mkdir()
    (mirror / "HEAD").touch()


@pytest.mark.parametrize("harm", [break_objects, break_config, break_head, break_all])
def test_a_broken_mirror_is_replaced(
    source: GitSource, repo: Repository, tmp_path: Path, harm: object
) -> None:
    repo.commit(a="1")
    source.heads()
    harm(source.mirror)
    second = repo.commit(a="2")
    assert source.heads() == {"main": second}
    source.checkout(second, tmp_path / "tree")
    assert files(tmp_path / "tree") == {"a": "2"}


def test_a_full_disk_leaves_no_files(
    source: GitSource, repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = repo.commit(a="1", b="2")
    source.heads()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(SourceError, match="cannot be written: No space left on device"):
        source.checkout(revision, tmp_path / "trees" / "x")
    assert list((tmp_path / "trees").iterdir()) == []


def test_output_is_limited() -> None:
    with pytest.raises(SourceError, match="more than 3 bytes"):
        git_module.run_git("--version", max_bytes=3)
