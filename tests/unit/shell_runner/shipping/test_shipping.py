"""Tests of which files a host needs, and of sending those that it lacks."""

import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from shell_runner.errors import UsageError
from shell_runner.remote.files.blob_store import BlobStore
from shell_runner.remote.files.manifest import FILE, LINK, ManifestEntry
from shell_runner.remote.protocol import compression, frames
from shell_runner.shipping.file_selection import Selection
from shell_runner.shipping.tree_scan import SourceTree, scan
from shell_runner.shipping.upload import ship
from tests.helpers.single_host_run import write_program


def names(tree: SourceTree) -> list[str]:
    return [entry.path for entry in tree.entries]


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", root, *arguments], check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    for name in ("test_a.sh", "data/x.txt", "build/out", ".venv/bin/python", "a/.env", "key.pem"):
        write_program(folder / name, name)
    return folder


def test_without_git_all_but_the_usual_folders_and_secrets(root: Path) -> None:
    assert names(scan(root, [])) == ["build/out", "data/x.txt", "test_a.sh"]


def test_with_git_what_it_tracks_and_would_track(root: Path) -> None:
    git(root, "init", "-q")
    (root / ".gitignore").write_text("build\ntest_i*\n.venv\n")
    write_program(root / "tracked", "")
    git(root, "add", "tracked")
    write_program(root / "test_ignored.sh", "")
    expected = [".gitignore", "data/x.txt", "test_a.sh", "tracked"]
    assert names(scan(root, [])) == expected
    shipped = names(scan(root, ["test_ignored.sh"]))
    assert shipped == sorted([*expected, "test_ignored.sh"])


@pytest.mark.parametrize(
    ("selection", "added", "removed"),
    [
        (Selection(include=(".env",)), {"a/.env"}, set()),
        (Selection(include=("*.pem",)), {"key.pem"}, set()),
        (Selection(exclude=("data",)), set(), {"data/x.txt"}),
        (Selection(exclude=("*.txt",)), set(), {"data/x.txt"}),
        (Selection(exclude=("data/*",)), set(), {"data/x.txt"}),
        (Selection(exclude=("test_a.sh",)), set(), set()),
    ],
)
def test_patterns_add_and_remove(
    root: Path, selection: Selection, added: set[str], removed: set[str]
) -> None:
    plain = set(names(scan(root, ["test_a.sh"])))
    assert set(names(scan(root, ["test_a.sh"], selection))) == (plain | added) - removed


def test_links_inside_stay_links_and_links_out_become_files(root: Path, tmp_path: Path) -> None:
    write_program(tmp_path / "outside", "out", 0o750)
    (root / "in").symlink_to("data/x.txt")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "folder").symlink_to("data")
    (root / "dangling").symlink_to("nothing")
    (root / "out_dangling").symlink_to("/no/such")
    entries = {entry.path: entry for entry in scan(root, []).entries}
    assert entries["in"] == ManifestEntry("in", LINK, 0, "data/x.txt")
    assert entries["folder"] == ManifestEntry("folder", LINK, 0, "data")
    assert entries["dangling"] == ManifestEntry("dangling", LINK, 0, "nothing")
    assert (entries["out"].kind, entries["out"].mode, entries["out"].size) == (FILE, 0o750, 3)
    assert "out_dangling" not in entries


def test_a_file_that_git_knows_and_that_is_gone_is_left_out(root: Path) -> None:
    git(root, "init", "-q")
    git(root, "add", "-f", "data/x.txt")
    (root / "data/x.txt").unlink()
    assert "data/x.txt" not in names(scan(root, []))


def test_a_path_that_leads_out_is_refused(root: Path) -> None:
    write_program(root.parent / "test_out", "")
    with pytest.raises((UsageError, ValueError), match="test_out"):
        scan(root, ["../test_out"])


def test_a_log_that_grows_meanwhile_arrives_as_it_was(root: Path, tmp_path: Path) -> None:
    write_program(root / "log", "first\n")
    write_program(root / "large", b"x" * (3 << 20))
    tree = scan(root, [])
    for name in ("log", "large"):
        with open(root / name, "a") as file:
            file.write("more\n")
    host = Host(tmp_path)
    ship(tree, host.send, host.wait)
    assert (host.root / "log").read_text() == "first\n"
    assert (host.root / "large").stat().st_size == 3 << 20


def test_a_file_that_changes_meanwhile_is_named(root: Path, tmp_path: Path) -> None:
    tree = scan(root, [])
    write_program(root / "test_a.sh", "changed!")
    host = Host(tmp_path)
    with pytest.raises(UsageError, match=r"test_a\.sh was changed"):
        ship(tree, host.send, host.wait)


class Host:
    """The host's end of the transfer, with a real store."""

    def __init__(self, folder: Path) -> None:
        self.store = BlobStore(str(folder / "cache"))
        self.root = folder / "there"
        self.entries: list[ManifestEntry] = []
        #: Frames with contents of files, as they were sent.
        self.blobs: list[bytes] = []
        self.answers: dict[str, list[object]] = {}

    def send(self, frame: bytes) -> None:
        content = frames.unpack_frame(frame)
        if isinstance(content, tuple):
            self.blobs.append(frame)
            self._take(*content)
            return
        for name, *arguments in content:
            if name == "tree":
                self.store.acquire()
                self.entries, parts = self.store.read_manifest(*arguments)
                answer = (None, parts) if parts else self.store.find_missing(self.entries)
                self.answers["missing"] = [*answer]
            else:
                self.root.mkdir()
                self.store.create_tree(self.entries, str(self.root))
                self.answers["unpacked"] = [str(self.root)]

    def _take(self, header: list[Any], body: bytes) -> None:
        kind, encoding, size, *rest = header
        body = compression.decode_body(encoding, size, body)
        if kind == "piece":
            digest, offset, last = rest
            self.store.append_piece(digest, offset, body, last)
            return
        for entry in (self.entries[number] for number in rest[0]):
            self.store.add(entry.digest, body[: entry.size])
            body = body[entry.size :]

    def wait(self, name: str) -> list[object]:
        return self.answers.pop(name)


def test_only_what_is_missing_is_sent(root: Path, tmp_path: Path) -> None:
    write_program(root / "large", bytes(range(256)) * 10_000)
    write_program(root / "empty", b"")
    write_program(root / "same", "data/x.txt")
    tree = scan(root, [])
    host = Host(tmp_path)
    shipped = ship(tree, host.send, host.wait)
    assert (shipped.files, shipped.bytes) == (5, tree.size - len("data/x.txt"))
    for entry in tree.entries:
        assert (host.root / entry.path).read_bytes() == (root / entry.path).read_bytes()
    again = Host(tmp_path)
    again.root = tmp_path / "again"
    write_program(root / "new", "12345")
    shipped = ship(scan(root, []), again.send, again.wait)
    assert (shipped.files, shipped.bytes) == (1, 5)
    assert (again.root / "new").read_text() == "12345"


def test_a_link_to_a_secret_or_to_a_folder_outside_stays_and_is_named(
    root: Path, tmp_path: Path
) -> None:
    write_program(tmp_path / "id_rsa", "private")
    (tmp_path / "folder").mkdir()
    (root / "innocent").symlink_to(tmp_path / "id_rsa")
    (root / "elsewhere").symlink_to(tmp_path / "folder")
    tree = scan(root, [])
    assert {"innocent", "elsewhere"}.isdisjoint(names(tree))
    assert [left.split(":")[0] for left in tree.skipped] == [
        "a/.env", "key.pem", "elsewhere", "innocent",
    ]  # fmt: skip


def test_what_must_not_be_shipped_wins_over_what_may(root: Path) -> None:
    selection = Selection(include=("*.pem",), exclude=("key.*",))
    assert "key.pem" not in names(scan(root, [], selection))


def test_a_tree_that_is_there_costs_one_short_message(root: Path, tmp_path: Path) -> None:
    tree, host = scan(root, []), Host(tmp_path)
    cold = ship(tree, host.send, host.wait)
    again = Host(tmp_path)
    again.root = tmp_path / "again"
    warm = ship(tree, again.send, again.wait)
    assert (warm.files, warm.bytes, again.blobs) == (0, 0, [])
    assert warm.wire_bytes < 150 < cold.wire_bytes


def test_a_changed_file_leaves_most_of_the_manifest_as_it_was(root: Path, tmp_path: Path) -> None:
    for number in range(2000):
        write_program(root / f"d/n{number}", str(number))
    host = Host(tmp_path)
    cold = ship(scan(root, []), host.send, host.wait)
    write_program(root / "d/n1000", "changed")
    write_program(root / "d/n10a", "new")
    (root / "d/n5").unlink()
    again = Host(tmp_path)
    again.root = tmp_path / "again"
    warm = ship(scan(root, []), again.send, again.wait)
    assert (warm.files, warm.bytes) == (2, len("changednew"))
    assert warm.wire_bytes < cold.wire_bytes / 2
    assert sorted(path.name for path in (again.root / "d").iterdir()) == sorted(
        path.name for path in (root / "d").iterdir()
    )


def test_contents_are_compressed_when_it_pays(root: Path, tmp_path: Path) -> None:
    write_program(root / "text", b"a line of text\n" * 500_000)
    write_program(root / "zeros", bytes(64 << 20))
    host = Host(tmp_path)
    shipped = ship(scan(root, []), host.send, host.wait)
    assert shipped.bytes > 70 << 20
    assert shipped.wire_bytes < 1 << 18
    assert (host.root / "text").read_bytes() == (root / "text").read_bytes()
    assert (host.root / "zeros").stat().st_size == 64 << 20
    assert (host.root / "zeros").stat().st_blocks * 512 < 1 << 20


def test_many_small_files_share_a_frame(root: Path, tmp_path: Path) -> None:
    for number in range(500):
        write_program(root / f"n{number}", str(number))
    host = Host(tmp_path)
    ship(scan(root, []), host.send, host.wait)
    assert len(host.blobs) < 10  # parts of the manifest, and all files


def test_frames_are_small(root: Path, tmp_path: Path) -> None:
    for number in range(5):
        write_program(root / f"n{number}", random.Random(number).randbytes((1 << 20) - 1))
    write_program(root / "large", random.Random(9).randbytes(5 << 20))
    host = Host(tmp_path)
    ship(scan(root, []), host.send, host.wait)
    assert max(map(len, host.blobs)) < (1 << 20) + 1000


def test_what_was_spoilt_between_two_connections_is_sent_anew(root: Path, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(4 << 20)
    write_program(root / "large", data)
    tree, host = scan(root, []), Host(tmp_path)
    (entry,) = (each for each in tree.entries if each.path == "large")
    host.store.append_piece(entry.digest, 0, bytes(3 << 20), False)
    host.store.release()
    reported: list[tuple[int, int]] = []
    progress = lambda done, total: reported.append((done, total))  # noqa: E731
    shipped = ship(tree, host.send, host.wait, progress=progress)
    assert (host.root / "large").read_bytes() == data
    assert shipped.bytes == tree.size - (3 << 20) + len(data)
    assert reported == sorted(reported)
    assert reported[-1][0] == reported[-1][1] == shipped.bytes


def test_a_large_file_that_changes_meanwhile_is_named(root: Path, tmp_path: Path) -> None:
    write_program(root / "large", b"x" * (3 << 20))
    tree = scan(root, [])
    write_program(root / "large", b"y" * (3 << 20))
    host = Host(tmp_path)
    with pytest.raises(UsageError, match=r"large was changed"):
        ship(tree, host.send, host.wait)


def test_a_large_file_that_becomes_shorter_is_named(root: Path, tmp_path: Path) -> None:
    write_program(root / "large", b"x" * (3 << 20))
    tree = scan(root, [])
    write_program(root / "large", b"x")
    host = Host(tmp_path)
    with pytest.raises(UsageError, match=r"large was changed"):
        ship(tree, host.send, host.wait)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([[99], []], "does not say"),
        ([["a"], []], "does not say"),
        ([3], "does not say"),
        ([None, [7]], "no part of the manifest"),
        ([None, 7], "no part of the manifest"),
        ([None, [0]], "does not say"),
        ([[0], [[0, 10**9]]], "beyond its end"),
        ([[0], [[0, -1]]], "beyond its end"),
        ([[1], []], "asks for a link"),
    ],
)
def test_a_host_that_asks_for_nonsense_is_refused(
    root: Path, answer: list[Any], words: str
) -> None:
    (root / "data/y").symlink_to("x.txt")
    tree = scan(root, ["data/x.txt"], Selection(exclude=("build", "test_a.sh")))
    assert names(tree) == ["data/x.txt", "data/y"]
    with pytest.raises(ValueError, match=words):
        ship(tree, lambda frame: None, lambda name: answer)


@pytest.mark.parametrize("pattern", ["conf", "conf/", "/conf", "./conf", "conf/*", "c*f/x.txt"])
def test_patterns_read_like_those_of_gitignore(tmp_path: Path, pattern: str) -> None:
    write_program(tmp_path / "conf" / "x.txt", "x", 0o644)
    write_program(tmp_path / "other" / "y.txt", "y", 0o644)
    assert names(scan(tmp_path, [], Selection(exclude=(pattern,)))) == ["other/y.txt"]


@pytest.mark.parametrize("pattern", ["a/conf", "/a/conf/", "other"])
def test_a_pattern_from_the_root_is_for_nothing_deeper(tmp_path: Path, pattern: str) -> None:
    write_program(tmp_path / "b" / "a" / "conf" / "x.txt", "x", 0o644)
    assert names(scan(tmp_path, [], Selection(exclude=(pattern,)))) == ["b/a/conf/x.txt"]


def test_what_is_named_may_be_in_an_ignored_folder(tmp_path: Path) -> None:
    write_program(tmp_path / "node_modules" / "m" / "i.js", "x", 0o644)
    assert names(scan(tmp_path, [], Selection(include=("node_modules/m",)))) == [
        "node_modules/m/i.js"
    ]


@pytest.mark.parametrize("name", [".Env", "A.PEM", "CREDENTIALS.json", ".git-credentials"])
def test_secrets_are_known_in_any_case_of_letters(tmp_path: Path, name: str) -> None:
    write_program(tmp_path / name, "x", 0o644)
    assert names(scan(tmp_path, [], Selection())) == []
