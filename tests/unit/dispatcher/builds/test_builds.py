"""Tests of the configuration of a tree, and of artifacts, whose tar files are reproducible."""

import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dispatcher.builds import checkout_reader
from dispatcher.builds.blob_store import BlobStore
from dispatcher.builds.build_artifact import (
    BuildFailed,
    build_test,
    failure_reason,
    find_lost_output,
    store_artifact,
)
from dispatcher.builds.checkout_cache import scan_folder
from dispatcher.builds.checkout_reader import examine, stage_tests
from dispatcher.configuration.pipeline import BuildConfig, Stage
from dispatcher.hosts import package_rows
from shell_runner.errors import NosejobsError, UsageError
from shell_runner.remote.protocol.job import JobTest
from shell_runner.remote.protocol.model import CapturedStream, Execution
from shell_runner.shipping import upload
from tests.helpers import job_hosts, package_factories
from tests.helpers.small_filesystem import SmallFilesystem

JOB = "00000000-0000-4000-8000-000000000001"
FULL = BuildConfig("make", "dist", inputs=("src/**",))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    comment = "# nosejobs: tags=fast requires=docker"
    job_hosts.write_script(tmp_path / "tree", "tests/test_a.sh", comment)
    job_hosts.write_script(tmp_path / "tree", "tests/test_b.sh")
    (tmp_path / "tree/.env").write_text("committed, so it belongs to the tree\n")
    (tmp_path / "tree/link").symlink_to("tests/test_b.sh")
    return tmp_path / "tree"


# -- trees ----------------------------------------------------------------------------


def test_all_of_a_tree_is_shipped(tree: Path) -> None:
    checkout = scan_folder(tree, "here")
    paths = [entry.path for entry in checkout.tree.entries]
    assert paths == [".env", "link", "tests/test_a.sh", "tests/test_b.sh"]
    assert checkout.files["link"] == "120000 tests/test_b.sh"
    assert checkout.files["tests/test_a.sh"].startswith("100755 ")
    assert (checkout.content.digest, checkout.content.size) == upload.identify_tree(checkout.tree)


def test_a_tree_without_a_config_has_no_stages(tree: Path) -> None:
    examined = examine(scan_folder(tree, "here"))
    assert examined.config
    assert (
        examined.config.build,
        examined.config.stages,
        examined.inputs_digest,
        examined.error,
    ) == (
        None,
        (),
        "",
        "",
    )


def test_the_key_for_reuse_is_of_the_inputs_only(tree: Path) -> None:
    text = '[build]\ncommand = "make"\noutput = "dist"\ninputs = ["tests"]\n'
    (tree / "nosejobs.toml").write_text(text)
    first = examine(scan_folder(tree, "here"))
    (tree / ".env").write_text("changed")
    second = examine(scan_folder(tree, "here"))
    (tree / "tests/test_a.sh").chmod(0o644)
    third = examine(scan_folder(tree, "here"))
    assert first.inputs_digest == second.inputs_digest != third.inputs_digest
    assert len({first.tree_digest, second.tree_digest, third.tree_digest}) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[build]\ncommand = 'x'\n", "nosejobs.toml:1: build has no 'output'"),
        ("[tests]\ntimeot = 3\n", "nosejobs.toml"),
        ("[tests.'*.sh']\nretries = -1\n", "nosejobs.toml"),
        ("[hosts.x]\nspecs = 'x'\n", "nosejobs.toml"),
        ("[stages.unit\n", "nosejobs.toml"),
        ("x" * 2_000_000, "nosejobs.toml"),
    ],
)
def test_a_config_that_cannot_be_understood_says_where(tree: Path, text: str, words: str) -> None:
    (tree / "nosejobs.toml").write_text(text)
    examined = examine(scan_folder(tree, "here"))
    assert examined.config is None
    assert examined.error.startswith(words)


def test_patterns_that_would_take_minutes_to_compare_are_refused(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = "".join(f"[tests.'t{number}']\nretries = 1\n" for number in range(1001))
    (tree / "nosejobs.toml").write_text(many)
    assert (
        "tests must be of at most 1000 patterns, not 1001"
        in examine(scan_folder(tree, "here")).error
    )
    text = "[build]\ncommand = 'x'\noutput = 'y'\ninputs = ['a', 'b', 'c']\n"
    (tree / "nosejobs.toml").write_text(text)
    assert examine(scan_folder(tree, "here")).error == ""
    monkeypatch.setattr(checkout_reader, "_MAX_INPUT_COMPARISONS", 5)
    why = examine(scan_folder(tree, "here")).error
    assert why.startswith("nosejobs.toml:4: build.inputs has 3 patterns for ")


@pytest.mark.parametrize(
    "text",
    ['[tests]\ntimeout = "%s"\n' % ("a" * 60_000), '[tests]\nenv = {"A\\u0000\\u001b[2J" = "x"}\n'],
    ids=["huge", "escapes"],
)
def test_what_a_tree_says_of_tests_is_told_in_few_harmless_words(tree: Path, text: str) -> None:
    (tree / "nosejobs.toml").write_text(text)
    why = examine(scan_folder(tree, "here")).error
    assert why.startswith("nosejobs.toml:2: ")
    assert len(why) < 1000
    assert why.isprintable()


def test_a_stage_has_the_tests_that_it_names(tree: Path) -> None:
    checkout = scan_folder(tree, "here")
    assert [case.nodeid for case in stage_tests(checkout, Stage("unit"))] == [
        "tests/test_a.sh",
        "tests/test_b.sh",
    ]
    (case,) = stage_tests(checkout, Stage("unit", tags=("fast",)), ["docker"], "h1")
    assert (case.nodeid, case.unmet, case.test.timeout) == ("tests/test_a.sh", "", 600.0)
    (case,) = stage_tests(checkout, Stage("unit", tags=("fast",), timeout=5.0), (), "h1")
    assert case.test.timeout == 5.0
    assert "docker" in case.unmet


def test_the_tree_says_how_long_a_test_takes_if_its_stage_does_not(tree: Path) -> None:
    (tree / "nosejobs.toml").write_text("[tests]\ntimeout = 30\n")
    checkout = scan_folder(tree, "here")
    assert {case.test.timeout for case in stage_tests(checkout, Stage("unit"))} == {30.0}


def test_tests_that_cannot_run_are_named(tree: Path) -> None:
    (tree / "tests/test_b.sh").chmod(0o644)
    with pytest.raises(UsageError, match=r"cannot run:\n  tests/test_b.sh"):
        stage_tests(scan_folder(tree, "here"), Stage("unit"))


# -- the build command ----------------------------------------------------------------


def run(
    tree: Path, command: str, output: str, outputs: Path, temporary: Path = Path("/tmp")
) -> "subprocess.CompletedProcess[str]":
    """Run a build command as a slot does."""
    test = build_test(BuildConfig(command, output)).test
    outputs.mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"], "TEST_UNDECLARED_OUTPUTS_DIR": str(outputs),
        "TMPDIR": str(temporary),
    }  # fmt: skip
    return subprocess.run(
        [*test.argv, test.path], cwd=tree, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("command", "output", "names"),
    [
        ("mkdir -p d && cd d && echo a > 'a b' && ln -s 'a b' l", "d", [".", "./a b", "./l"]),
        ("mkdir -p d/e && echo a > d/e/f", "d/e/f", ["./f"]),
        ("echo a > -x", "-x", ["./-x"]),
        ("echo a > f # quoted \"'", "f", ["./f"]),
    ],
)
def test_the_output_comes_as_a_tar(
    tree: Path, tmp_path: Path, command: str, output: str, names: list[str]
) -> None:
    done = run(tree, command, output, tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    with tarfile.open(tmp_path / "out/output.tar") as archive:
        assert sorted(archive.getnames()) == [name.removesuffix("/") for name in names]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("exit 3", 3),
        ("true", 113),
        ("exit 113", 1),
        ("exit 114", 1),
        ("kill -9 $$", 137),
        ("if", 2),
    ],
)
def test_without_output_there_is_a_status_that_says_why(
    tree: Path, tmp_path: Path, command: str, status: int
) -> None:
    assert run(tree, command, "dist", tmp_path / "out").returncode == status
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("place", ["tree", "outputs", "temporary"])
@pytest.mark.parametrize("is_full", [True, False])
@pytest.mark.parametrize("fails", ["command", "tar"])
def test_a_full_disk_of_the_host_has_a_status_of_its_own(
    tmp_path: Path, place: str, is_full: bool, fails: str
) -> None:
    for name in ("tree", "outputs", "temporary", "bin"):
        (tmp_path / name).mkdir()
    tar = job_hosts.write_script(tmp_path / "bin", "tar", "exit 2" if fails == "tar" else "exit 0")
    disk = SmallFilesystem(tmp_path / place, "2m")
    disk.mount()
    try:
        (tmp_path / "tree" / "dist").mkdir()
        if is_full:
            disk.fill()
        folders = (tmp_path / name for name in ("outputs", "temporary"))
        command = "exit 3" if fails == "command" else "true"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{tar.parent}:{os.environ['PATH']}")
            done = run(tmp_path / "tree", command, "dist", *folders)
        shown = f"the disk of {tmp_path / place} is full\n" if is_full else ""
        status = 3 if fails == "command" else 2
        assert (done.returncode, done.stdout) == (114 if is_full else status, shown)
        assert not list(tmp_path.rglob(".nosejobs-*"))
    finally:
        disk.unmount()


# -- artifacts ------------------------------------------------------------------------


def kept(
    folder: Path, data: bytes | None, exit: int | None = 0, **facts: Any
) -> tuple[BlobStore, package_rows.Package]:
    blobs = BlobStore(folder / "blobs")
    members = {} if data is None else {"artifacts/0/output.tar": data}
    rows = [(0, 1, Execution(0, exit_status=exit, **facts))]
    test: list[JobTest] = [build_test(FULL)]
    path = package_factories.write_package(folder / "p.zip", JOB, test, rows, members)
    return blobs, package_rows.open_package(str(path))


def test_the_same_files_make_the_same_artifact(tmp_path: Path) -> None:
    artifacts = []
    for name, files in (("a", {"x": b"1", "y/z": b"2"}), ("b", {"y/z": b"2", "x": b"1"})):
        (tmp_path / name).mkdir()
        blobs, package = kept(tmp_path / name, package_factories.make_tar(files))
        with package:
            artifacts.append(store_artifact(package, FULL, blobs))
        assert [path.name[:1] for path in blobs.folder.iterdir()] != ["."]
    assert artifacts[0] == artifacts[1]
    with tarfile.open(blobs.path(artifacts[0].digest)) as archive:
        assert archive.getnames() == ["x", "y", "y/z"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "dist was removed before it was sent"),
        (package_factories.make_tar({}), "dist is empty"),
        (package_factories.make_tar({"../x": b""}), "dist cannot be stored: .*x"),
        (b"no tar", "dist cannot be stored: dist is not a zip or tar archive"),
    ],
)
def test_what_cannot_be_an_artifact_is_the_builds_failure(
    tmp_path: Path, data: bytes | None, words: str
) -> None:
    blobs, package = kept(tmp_path, data)
    with package, pytest.raises(BuildFailed, match=words):
        store_artifact(package, FULL, blobs)
    assert list(blobs.folder.glob("*")) == []


@pytest.mark.parametrize(
    ("facts", "lost", "words"),
    [
        # Too large for the host's limit: that is the tree's fault.
        ({"artifacts_omitted": 1}, False, "dist is larger than .* bytes, so it was not sent"),
        # Named and not there: the host has lost it.
        ({"artifacts": (("output.tar", 7),)}, True, "the host has lost the output"),
        ({"artifacts": (("output.tar", 7),), "artifacts_omitted": 1}, True, "the host has lost"),
        ({"artifacts": (("other", 7),)}, False, "dist was removed before it was sent"),
    ],
)
def test_an_output_that_is_missing_is_explained_by_what_the_host_has_named(
    tmp_path: Path, facts: dict[str, Any], lost: bool, words: str
) -> None:
    blobs, package = kept(tmp_path, None, **facts)
    with package:
        assert bool(find_lost_output(package)) is lost
        with pytest.raises(BuildFailed, match=words):
            store_artifact(package, FULL, blobs)


def test_a_full_disk_is_no_failure_of_the_build(tmp_path: Path) -> None:
    data = package_factories.make_tar({"x": os.urandom(2 << 20)})
    blobs, package = kept(tmp_path, data)
    blobs.folder.mkdir()
    disk = SmallFilesystem(blobs.folder, "8m")
    disk.mount()
    try:
        for leave in (0, 1 << 20, 3 << 20, 5 << 20):
            disk.fill(leave)
            with pytest.raises((OSError, NosejobsError), match=r"No space left") as error:
                store_artifact(package, FULL, blobs)
            assert not isinstance(error.value, BuildFailed)
            disk.clear()
        with package:
            assert blobs.has(store_artifact(package, FULL, blobs).digest)
    finally:
        disk.unmount()


@pytest.mark.parametrize(
    ("status", "facts", "words"),
    [
        (114, {}, "the host has no room for the build: the disk of /x is full"),
        (114, {"artifacts": (("output.tar", 7),)}, "the host has no room for the build: the disk"),
        (2, {"artifacts": (("output.tar", 7),)}, ""),
        (None, {"artifacts": (("output.tar", 7),), "timed_out": True}, ""),
        (None, {"artifacts": (("output.tar", 7),), "signal": 9}, ""),
    ],
)
def test_a_build_that_failed_is_no_loss_of_its_output(
    tmp_path: Path, status: int | None, facts: dict[str, Any], words: str
) -> None:
    stdout = CapturedStream("tar: it broke\nthe disk of /x is full\n")
    _, package = kept(tmp_path, None, status, stdout=stdout, **facts)
    with package:
        reason = find_lost_output(package)
        assert reason.startswith(words)
        assert bool(reason) is bool(words)


def test_an_output_that_came_is_not_lost(tmp_path: Path) -> None:
    data = package_factories.make_tar({"x": b"1"})
    _, package = kept(tmp_path, data, artifacts=(("output.tar", len(data)),))
    with package:
        assert find_lost_output(package) == ""


def test_a_command_that_left_nothing_is_told_from_one_that_failed(tmp_path: Path) -> None:
    reasons = []
    for status in (113, 3):
        _, package = kept(tmp_path, None, status)
        with package:
            reasons.append(failure_reason(package, FULL))
    assert reasons == ["it has left no dist", ""]
