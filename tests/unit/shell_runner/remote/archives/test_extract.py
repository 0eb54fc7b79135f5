"""Tests of valid archives, made by common programs."""

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from shell_runner.remote.archives.extract import (
    BadArchive,
    ExtractionSummary,
    check_archive,
    extract_archive,
)
from tests.helpers.archive_bytes import (
    ZipBuilder,
    file,
    folder,
    hard_link,
    link,
    pax,
    python_tar,
    python_zip,
    record,
    tar,
    tar_header,
)

GIT = ["git", "-c", "user.name=n", "-c", "user.email=e", "-c", "init.defaultBranch=main"]


class ArchiveFixture:
    """A source tree, an archive of it, and the folder into which that is extracted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = root / "source"
        self.target = root / "target"
        self.archive = root / "archive"
        self.source.mkdir()
        self.target.mkdir()

    def fill(self) -> None:
        """Create the kinds of files that a build may contain."""
        long = self.source / ("l" * 120) / ("m" * 120)
        long.mkdir(parents=True)
        (long / ("n" * 200)).write_text("long")
        (self.source / "bin").mkdir()
        (self.source / "bin" / "run").write_text("#!/bin/sh\n")
        (self.source / "bin" / "run").chmod(0o755)
        (self.source / "read-only").write_text("data" * 5000)
        (self.source / "read-only").chmod(0o444)
        (self.source / "systemd\\x2dunit").write_text("")
        (self.source / "größe ☃").write_text("utf-8")
        (self.source / "empty").mkdir()
        os.symlink("../read-only", self.source / "bin" / "up")
        os.symlink("bin", self.source / "to-folder")
        os.symlink("nothing", self.source / "dangling")
        os.symlink("ring", self.source / "ring")
        os.link(self.source / "bin" / "run", self.source / "hard")
        os.utime(self.source / "bin" / "run", (1_000_000_000, 1_000_000_000))

    def run(self, *command: str) -> None:
        subprocess.run(command, cwd=self.source, check=True, capture_output=True)

    def unpack(self, data: bytes | None = None) -> ExtractionSummary:
        if data is not None:
            self.archive.write_bytes(data)
        return extract_archive(str(self.archive), str(self.target))

    def path(self, name: str) -> Path:
        return self.target / name

    def mode(self, name: str) -> int:
        return stat.S_IMODE(self.path(name).lstat().st_mode)


@pytest.fixture
def fixture(tmp_path: Path) -> ArchiveFixture:
    return ArchiveFixture(tmp_path)


def describe_tree(root: Path) -> dict[str, object]:
    """Return the names, modes, contents and link targets of a tree."""
    description: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            description[name] = os.readlink(path)
        elif path.is_dir():
            description[name] = stat.S_IMODE(path.stat().st_mode)
        else:
            description[name] = (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
    return description


@pytest.mark.parametrize(
    "options",
    [
        "--format=gnu", "--format=pax", "--format=posix --gzip", "--format=gnu --bzip2",
        "--format=pax --xz",
    ],
)  # fmt: skip
def test_archives_of_gnu_tar_are_extracted_unchanged(options: str, fixture: ArchiveFixture) -> None:
    fixture.fill()
    with open(fixture.source / "holes", "wb") as holes:
        for at in range(1, 12):
            holes.seek(at << 20)
            holes.write(b"data" * 1000)
        holes.truncate(20 << 20)
    fixture.run("tar", "-cf", str(fixture.archive), *options.split(), ".")
    summary = fixture.unpack()
    assert describe_tree(fixture.target) == describe_tree(fixture.source)
    assert fixture.path("hard").samefile(fixture.path("bin/run"))
    assert fixture.path("bin/run").stat().st_mtime == 1_000_000_000
    assert fixture.path("holes").stat().st_blocks * 512 < 2 << 20
    assert summary.members == len(list(fixture.source.rglob("*")))


@pytest.mark.parametrize(
    ("options", "form"),
    [
        ("--format=gnu", "the old GNU format"),
        ("--format=pax --sparse-version=0.0", "pax format 0.0"),
        ("--format=pax --sparse-version=0.1 --gzip", "pax format 0.1"),
        ("--format=pax --sparse-version=1.0", "pax format 1.0"),
    ],
)
def test_a_sparse_archive_is_refused_with_advice(
    options: str, form: str, fixture: ArchiveFixture
) -> None:
    with open(fixture.source / "disk", "wb") as disk:
        disk.write(b"begin")
        disk.truncate(20 << 20)
    fixture.run("tar", "-cf", str(fixture.archive), "--sparse", *options.split(), "disk")
    with pytest.raises(BadArchive) as refusal:
        fixture.unpack()
    assert refusal.value.member == "disk"
    assert form in refusal.value.reason
    assert "pack without --sparse" in refusal.value.reason
    assert list(fixture.target.iterdir()) == []


@pytest.mark.parametrize("archive_format", ["ustar", "pax", "gnu"])
def test_archives_of_tarfile_are_extracted_unchanged(
    archive_format: str, fixture: ArchiveFixture
) -> None:
    fixture.fill()
    if archive_format == "ustar":
        shutil.rmtree(fixture.source / ("l" * 120))
    kind = {"ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}
    fixture.unpack(
        python_tar("w:gz", lambda t: t.add(fixture.source, "."), format=kind[archive_format])
    )
    assert describe_tree(fixture.target) == describe_tree(fixture.source)


@pytest.mark.parametrize("archive_format", ["zip", "tar", "gztar", "bztar", "xztar"])
def test_archives_of_shutil_are_extracted_unchanged(
    archive_format: str, fixture: ArchiveFixture
) -> None:
    (fixture.source / "a").mkdir()
    (fixture.source / "a" / "run").write_text("run")
    (fixture.source / "a" / "run").chmod(0o755)
    fixture.archive = Path(
        shutil.make_archive(str(fixture.root / "made"), archive_format, fixture.source)
    )
    fixture.unpack()
    assert describe_tree(fixture.target) == describe_tree(fixture.source)


@pytest.mark.parametrize("archive_format", ["tar", "tar.gz", "zip"])
def test_archives_of_git_are_extracted_unchanged(
    archive_format: str, fixture: ArchiveFixture
) -> None:
    fixture.fill()
    (fixture.source / "empty").rmdir()
    (fixture.source / "read-only").chmod(0o644)
    fixture.run(*GIT, "init", "-q")
    fixture.run(*GIT, "add", ".")
    fixture.run(*GIT, "commit", "-qm", "all")
    fixture.run(
        "git",
        "archive",
        "--prefix=p/",
        "--format",
        archive_format,
        "-o",
        str(fixture.archive),
        "HEAD",
    )
    shutil.rmtree(fixture.source / ".git")
    if archive_format == "zip":  # a backslash in a zip may mean a folder, and is refused
        (fixture.source / "systemd\\x2dunit").unlink()
        fixture.archive.write_bytes(without(fixture.archive.read_bytes(), "\\"))
    fixture.unpack()
    assert describe_tree(fixture.path("p")) == describe_tree(fixture.source)


def without(data: bytes, part: str) -> bytes:
    """Return a zip archive without the members that have ``part`` in their name."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            if part not in info.filename:
                new.writestr(info, old.read(info))
    return out.getvalue()


def test_a_zip_of_unix_keeps_links_and_execute_bits(fixture: ArchiveFixture) -> None:
    run, to = zipfile.ZipInfo("bin/run"), zipfile.ZipInfo("bin/to")
    run.external_attr, to.external_attr = 0o100755 << 16, 0o120777 << 16
    run.create_system = to.create_system = 3
    fixture.unpack(python_zip([(run, b"#!"), (to, b"run"), ("plain", b"")]))
    assert (fixture.mode("bin/run"), fixture.mode("plain")) == (0o755, 0o600)
    assert os.readlink(fixture.path("bin/to")) == "run"


def test_a_zip_of_windows_gets_default_modes(fixture: ArchiveFixture) -> None:
    fixture.unpack(
        ZipBuilder().add(b"a/", system=0, mode=0).add(b"a/x", system=0, mode=0o777).to_bytes()
    )
    assert (fixture.mode("a"), fixture.mode("a/x")) == (0o755, 0o644)


def test_a_folder_of_maven_with_all_mode_bits_is_accepted(fixture: ArchiveFixture) -> None:
    fixture.unpack(ZipBuilder().add(b"META-INF/", mode=0xFFFF).add(b"META-INF/x").to_bytes())
    assert fixture.mode("META-INF") == 0o755


def test_names_of_an_old_zip_are_cp437_unless_they_are_utf8(fixture: ArchiveFixture) -> None:
    fixture.unpack(ZipBuilder().add(b"\x81x").add("ü".encode()).to_bytes())
    assert sorted(path.name for path in fixture.target.iterdir()) == ["ü", "üx"]


@pytest.mark.parametrize("method", [0, 8, 12], ids=["stored", "deflated", "bzip2"])
def test_a_zip_may_be_written_to_a_pipe(method: int, fixture: ArchiveFixture) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise OSError("a pipe")

        def tell(self) -> int:
            raise OSError("a pipe")

    out = Pipe()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("x", b"data" * 99_999)
        with archive.open("y", "w", force_zip64=True) as member:
            member.write(b"more")
    fixture.unpack(out.getvalue())
    assert fixture.path("x").read_bytes() == b"data" * 99_999
    assert fixture.path("y").read_bytes() == b"more"


def test_a_wheel_and_a_comment_are_accepted(fixture: ArchiveFixture) -> None:
    data = python_zip([("p/__init__.py", b""), ("p-1.dist-info/RECORD", b"p/__init__.py,,\n")])
    fixture.unpack(data[:-2] + b"\7\0comment")
    assert fixture.path("p-1.dist-info/RECORD").is_file()


def test_members_of_a_zip_may_be_in_another_order(fixture: ArchiveFixture) -> None:
    made = ZipBuilder().add(b"a", b"1").add(b"b", b"2")
    made.rows.reverse()
    fixture.unpack(made.to_bytes())
    assert fixture.path("a").read_bytes() == b"1"


@pytest.mark.parametrize(
    "data", [tar(), ZipBuilder().to_bytes(), bytes(10240)], ids=["tar", "zip", "GNU"]
)
def test_an_archive_may_be_empty(data: bytes, fixture: ArchiveFixture) -> None:
    assert fixture.unpack(data) == (0, 0, 0)


def test_the_name_of_an_archive_is_ignored(fixture: ArchiveFixture) -> None:
    fixture.archive = fixture.root / "build.zip"
    fixture.unpack(tar(file(b"x", b"1")))
    assert fixture.path("x").read_bytes() == b"1"


@pytest.mark.parametrize("several", [["gzip", "-c"], ["bzip2", "-c"], ["xz", "-c"]])
def test_several_streams_count_as_one(several: list[str], fixture: ArchiveFixture) -> None:
    data = tar(file(b"x", os.urandom(100_000)))
    parts = [data[:30_001], b"", data[30_001:]]
    packed = [subprocess.run(several, input=p, capture_output=True).stdout for p in parts]
    fixture.unpack(b"".join(packed) + bytes(512))
    assert fixture.path("x").read_bytes() == data[512:100_512]


def holes_in_the_archive(fixture: ArchiveFixture) -> None:
    with open(fixture.archive, "wb") as archive:
        archive.write(tar_header(b"disk", size=2 << 30) + b"begin")
        archive.seek(512 + (1 << 30))
        archive.write(b"middle")
        archive.truncate(512 + (2 << 30) + 1024)


def zeros_in_gzip(fixture: ArchiveFixture) -> None:
    """Write an archive like ``tar -cz`` would, but faster."""
    piece = 16 << 20
    zeros, middle = gzip.compress(bytes(piece)), b"middle".ljust(piece, b"\0")
    begin = tar_header(b"disk", size=2 << 30) + b"begin".ljust(piece, b"\0")
    parts = [gzip.compress(begin), zeros * 63, gzip.compress(middle), zeros * 63]
    fixture.archive.write_bytes(b"".join([*parts, gzip.compress(bytes(1024))]))


@pytest.mark.parametrize("make", [holes_in_the_archive, zeros_in_gzip])
def test_a_file_of_two_gigabytes_of_holes_is_extracted(
    make: Callable[[ArchiveFixture], None], fixture: ArchiveFixture
) -> None:
    make(fixture)
    summary = fixture.unpack()
    with open(fixture.path("disk"), "rb") as disk:
        assert os.fstat(disk.fileno()).st_size == 2 << 30
        assert os.fstat(disk.fileno()).st_blocks * 512 < 1 << 20
        disk.seek(1 << 30)
        assert disk.read(8) == b"middle\0\0"
    assert (summary.size, summary.disk_bytes < 1 << 20) == (2 << 30, True)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_memory_does_not_grow_with_a_file(
    pack: Callable[[bytes], bytes], fixture: ArchiveFixture
) -> None:
    fixture.archive.write_bytes(pack(tar(file(b"x", bytes(24 << 20)))))
    tracemalloc.start()
    try:
        fixture.unpack()
        # The dictionary of xz needs 8 MiB.
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("before", "after"),
    [(0o6755, 0o755), (0o1777, 0o755), (0o000, 0o400), (0o777, 0o755), (0o444, 0o444)],
)
def test_modes_are_masked_and_special_bits_removed(
    before: int, after: int, fixture: ArchiveFixture
) -> None:
    fixture.unpack(tar(file(b"x", mode=b"%07o\0" % before)))
    assert fixture.mode("x") == after


def test_a_folder_can_be_removed_whatever_its_mode(fixture: ArchiveFixture) -> None:
    fixture.unpack(tar(folder(b"a/", mode=b"0000000\0"), file(b"a/x")))
    assert fixture.mode("a") == 0o700


def test_a_folder_keeps_its_date_though_files_come_later(fixture: ArchiveFixture) -> None:
    fixture.unpack(tar(folder(b"a/", mtime=b"00000001750\0"), file(b"a/x")))
    assert fixture.path("a").stat().st_mtime == 1000


@pytest.mark.parametrize("date", [b"nan", b"inf", b"-1e300", b"-1", b"1e400", b"x", b"9" * 70])
def test_an_invalid_date_becomes_zero(date: bytes, fixture: ArchiveFixture) -> None:
    fixture.unpack(tar(pax(record(b"mtime", date)), file(b"x")))
    assert fixture.path("x").stat().st_mtime == 0


def test_names_are_bytes(fixture: ArchiveFixture) -> None:
    fixture.unpack(tar(file(b"a\xff\nb"), pax(record(b"path", b"c\xfe")), file(b"x")))
    assert sorted(os.listdir(os.fsencode(fixture.target))) == [b"a\xff\nb", b"c\xfe"]


def test_a_hard_link_to_a_link_is_a_link(fixture: ArchiveFixture) -> None:
    fixture.unpack(tar(file(b"x", b"1"), link(b"l", b"x"), hard_link(b"h", b"l")))
    assert os.readlink(fixture.path("h")) == "x"


def test_links_may_lead_anywhere_inside(fixture: ArchiveFixture) -> None:
    members = [
        folder(b"a/b/"), link(b"a/b/top", b"../.."), link(b"same", b"a/b/top/a/../a"),
        link(b"self", b"."), link(b"later", b"z"), file(b"z", b"1"),
    ]  # fmt: skip
    fixture.unpack(tar(*members))
    assert fixture.path("later").read_bytes() == b"1"
    assert fixture.path("same").resolve() == fixture.path("a").resolve()


def test_a_folder_may_come_after_what_lies_in_it(fixture: ArchiveFixture) -> None:
    fixture.unpack(tar(file(b"a/x"), folder(b"a/", mode=b"0000750\0")))
    assert fixture.mode("a") == 0o750


def test_labels_and_comments_are_skipped(fixture: ArchiveFixture) -> None:
    label = tar_header(b"a label", b"V")
    fixture.unpack(tar(pax(record(b"comment", b"0" * 40), kind=b"g"), label, file(b"x")))
    assert [path.name for path in fixture.target.iterdir()] == ["x"]


@pytest.mark.skipif(sys.platform != "linux", reason="wants /proc")
def test_no_descriptor_stays_open(fixture: ArchiveFixture) -> None:
    before = os.listdir("/proc/self/fd")
    fixture.unpack(tar(file(b"x", b"1")))
    with pytest.raises(FileExistsError):
        fixture.unpack(tar(file(b"x", b"1")))
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "xztar"])
def test_the_check_detects_a_truncated_archive(tmp_path: Path, kind: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "app").write_bytes(os.urandom(50_000))
    path = Path(shutil.make_archive(str(tmp_path / "a"), kind, tmp_path / "source"))
    check_archive(str(path))
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(BadArchive):
        check_archive(str(path))


def test_the_check_names_a_file_that_is_not_an_archive(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("#!/bin/sh\n")
    with pytest.raises(BadArchive, match="app is not a zip or tar archive"):
        check_archive(str(tmp_path / "a"), "app")
