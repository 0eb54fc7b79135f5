"""Sound archives, by the programs that people make them with."""

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
    tar_header,
    link,
    pax,
    python_tar,
    python_zip,
    record,
    tar,
)

GIT = ["git", "-c", "user.name=n", "-c", "user.email=e", "-c", "init.defaultBranch=main"]


class Field:
    """A source tree, an archive of it, and where that is unpacked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = root / "source"
        self.target = root / "target"
        self.archive = root / "archive"
        self.source.mkdir()
        self.target.mkdir()

    def fill(self) -> None:
        """What a build may hold."""
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
def field(tmp_path: Path) -> Field:
    return Field(tmp_path)


def looks(root: Path) -> dict[str, object]:
    """Names, kinds, modes, contents and where links lead to."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = stat.S_IMODE(path.stat().st_mode)
        else:
            found[name] = (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
    return found


@pytest.mark.parametrize(
    "options",
    [
        "--format=gnu", "--format=pax", "--format=posix --gzip", "--format=gnu --bzip2",
        "--format=pax --xz",
    ],
)  # fmt: skip
def test_what_gnu_tar_packs_comes_out_the_same(options: str, field: Field) -> None:
    field.fill()
    with open(field.source / "holes", "wb") as holes:
        for at in range(1, 12):
            holes.seek(at << 20)
            holes.write(b"data" * 1000)
        holes.truncate(20 << 20)
    field.run("tar", "-cf", str(field.archive), *options.split(), ".")
    found = field.unpack()
    assert looks(field.target) == looks(field.source)
    assert field.path("hard").samefile(field.path("bin/run"))
    assert field.path("bin/run").stat().st_mtime == 1_000_000_000
    assert field.path("holes").stat().st_blocks * 512 < 2 << 20
    assert found.members == len(list(field.source.rglob("*")))


@pytest.mark.parametrize(
    ("options", "form"),
    [
        ("--format=gnu", "the old GNU format"),
        ("--format=pax --sparse-version=0.0", "pax format 0.0"),
        ("--format=pax --sparse-version=0.1 --gzip", "pax format 0.1"),
        ("--format=pax --sparse-version=1.0", "pax format 1.0"),
    ],
)
def test_a_sparse_archive_is_refused_with_advice(options: str, form: str, field: Field) -> None:
    with open(field.source / "disk", "wb") as disk:
        disk.write(b"begin")
        disk.truncate(20 << 20)
    field.run("tar", "-cf", str(field.archive), "--sparse", *options.split(), "disk")
    with pytest.raises(BadArchive) as refusal:
        field.unpack()
    assert refusal.value.member == "disk"
    assert form in refusal.value.reason
    assert "pack without --sparse" in refusal.value.reason
    assert list(field.target.iterdir()) == []


@pytest.mark.parametrize("how", ["ustar", "pax", "gnu"])
def test_what_tarfile_packs_comes_out_the_same(how: str, field: Field) -> None:
    field.fill()
    if how == "ustar":
        shutil.rmtree(field.source / ("l" * 120))
    kind = {"ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}
    field.unpack(python_tar("w:gz", lambda t: t.add(field.source, "."), format=kind[how]))
    assert looks(field.target) == looks(field.source)


@pytest.mark.parametrize("how", ["zip", "tar", "gztar", "bztar", "xztar"])
def test_what_shutil_packs_comes_out(how: str, field: Field) -> None:
    (field.source / "a").mkdir()
    (field.source / "a" / "run").write_text("run")
    (field.source / "a" / "run").chmod(0o755)
    field.archive = Path(shutil.make_archive(str(field.root / "made"), how, field.source))
    field.unpack()
    assert looks(field.target) == looks(field.source)


@pytest.mark.parametrize("how", ["tar", "tar.gz", "zip"])
def test_what_git_archives_comes_out_the_same(how: str, field: Field) -> None:
    field.fill()
    (field.source / "empty").rmdir()
    (field.source / "read-only").chmod(0o644)
    field.run(*GIT, "init", "-q")
    field.run(*GIT, "add", ".")
    field.run(*GIT, "commit", "-qm", "all")
    field.run("git", "archive", "--prefix=p/", "--format", how, "-o", str(field.archive), "HEAD")
    shutil.rmtree(field.source / ".git")
    if how == "zip":  # a backslash in a zip may mean a folder, and is refused
        (field.source / "systemd\\x2dunit").unlink()
        field.archive.write_bytes(without(field.archive.read_bytes(), "\\"))
    field.unpack()
    assert looks(field.path("p")) == looks(field.source)


def without(data: bytes, part: str) -> bytes:
    """A zip archive without the members that have ``part`` in their name."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            if part not in info.filename:
                new.writestr(info, old.read(info))
    return out.getvalue()


def test_a_zip_of_unix_keeps_links_and_who_may_execute(field: Field) -> None:
    run, to = zipfile.ZipInfo("bin/run"), zipfile.ZipInfo("bin/to")
    run.external_attr, to.external_attr = 0o100755 << 16, 0o120777 << 16
    run.create_system = to.create_system = 3
    field.unpack(python_zip([(run, b"#!"), (to, b"run"), ("plain", b"")]))
    assert (field.mode("bin/run"), field.mode("plain")) == (0o755, 0o600)
    assert os.readlink(field.path("bin/to")) == "run"


def test_a_zip_of_windows_has_usual_modes(field: Field) -> None:
    field.unpack(
        ZipBuilder().add(b"a/", system=0, mode=0).add(b"a/x", system=0, mode=0o777).to_bytes()
    )
    assert (field.mode("a"), field.mode("a/x")) == (0o755, 0o644)


def test_a_folder_of_maven_is_one_though_all_its_bits_are_set(field: Field) -> None:
    field.unpack(ZipBuilder().add(b"META-INF/", mode=0xFFFF).add(b"META-INF/x").to_bytes())
    assert field.mode("META-INF") == 0o755


def test_names_of_an_old_zip_are_of_a_pc_unless_they_are_utf8(field: Field) -> None:
    field.unpack(ZipBuilder().add(b"\x81x").add("ü".encode()).to_bytes())
    assert sorted(path.name for path in field.target.iterdir()) == ["ü", "üx"]


@pytest.mark.parametrize("method", [0, 8, 12], ids=["stored", "deflated", "bzip2"])
def test_a_zip_may_be_written_to_a_pipe(method: int, field: Field) -> None:
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
    field.unpack(out.getvalue())
    assert field.path("x").read_bytes() == b"data" * 99_999
    assert field.path("y").read_bytes() == b"more"


def test_a_wheel_and_a_comment_are_fine(field: Field) -> None:
    data = python_zip([("p/__init__.py", b""), ("p-1.dist-info/RECORD", b"p/__init__.py,,\n")])
    field.unpack(data[:-2] + b"\7\0comment")
    assert field.path("p-1.dist-info/RECORD").is_file()


def test_members_of_a_zip_may_stand_in_another_order(field: Field) -> None:
    made = ZipBuilder().add(b"a", b"1").add(b"b", b"2")
    made.rows.reverse()
    field.unpack(made.to_bytes())
    assert field.path("a").read_bytes() == b"1"


@pytest.mark.parametrize(
    "data", [tar(), ZipBuilder().to_bytes(), bytes(10240)], ids=["tar", "zip", "GNU"]
)
def test_an_archive_may_be_empty(data: bytes, field: Field) -> None:
    assert field.unpack(data) == (0, 0, 0)


def test_the_name_of_an_archive_tells_nothing(field: Field) -> None:
    field.archive = field.root / "build.zip"
    field.unpack(tar(file(b"x", b"1")))
    assert field.path("x").read_bytes() == b"1"


@pytest.mark.parametrize("several", [["gzip", "-c"], ["bzip2", "-c"], ["xz", "-c"]])
def test_several_streams_count_as_one(several: list[str], field: Field) -> None:
    data = tar(file(b"x", os.urandom(100_000)))
    parts = [data[:30_001], b"", data[30_001:]]
    packed = [subprocess.run(several, input=p, capture_output=True).stdout for p in parts]
    field.unpack(b"".join(packed) + bytes(512))
    assert field.path("x").read_bytes() == data[512:100_512]


def holes_in_the_archive(field: Field) -> None:
    with open(field.archive, "wb") as archive:
        archive.write(tar_header(b"disk", size=2 << 30) + b"begin")
        archive.seek(512 + (1 << 30))
        archive.write(b"middle")
        archive.truncate(512 + (2 << 30) + 1024)


def zeros_in_gzip(field: Field) -> None:
    """As ``tar -cz`` makes of it, but for the time that this takes."""
    piece = 16 << 20
    zeros, middle = gzip.compress(bytes(piece)), b"middle".ljust(piece, b"\0")
    begin = tar_header(b"disk", size=2 << 30) + b"begin".ljust(piece, b"\0")
    parts = [gzip.compress(begin), zeros * 63, gzip.compress(middle), zeros * 63]
    field.archive.write_bytes(b"".join([*parts, gzip.compress(bytes(1024))]))


@pytest.mark.parametrize("make", [holes_in_the_archive, zeros_in_gzip])
def test_a_file_of_two_gigabytes_of_holes_is_one(
    make: Callable[[Field], None], field: Field
) -> None:
    make(field)
    found = field.unpack()
    with open(field.path("disk"), "rb") as disk:
        assert os.fstat(disk.fileno()).st_size == 2 << 30
        assert os.fstat(disk.fileno()).st_blocks * 512 < 1 << 20
        disk.seek(1 << 30)
        assert disk.read(8) == b"middle\0\0"
    assert (found.size, found.disk_bytes < 1 << 20) == (2 << 30, True)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_memory_does_not_grow_with_a_file(pack: Callable[[bytes], bytes], field: Field) -> None:
    field.archive.write_bytes(pack(tar(file(b"x", bytes(24 << 20)))))
    tracemalloc.start()
    try:
        field.unpack()
        # The dictionary of xz takes 8 MiB.
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("before", "after"),
    [(0o6755, 0o755), (0o1777, 0o755), (0o000, 0o400), (0o777, 0o755), (0o444, 0o444)],
)
def test_modes_are_those_of_a_umask_without_bits_that_raise_rights(
    before: int, after: int, field: Field
) -> None:
    field.unpack(tar(file(b"x", mode=b"%07o\0" % before)))
    assert field.mode("x") == after


def test_a_folder_can_be_cleared_away_whatever_its_mode(field: Field) -> None:
    field.unpack(tar(folder(b"a/", mode=b"0000000\0"), file(b"a/x")))
    assert field.mode("a") == 0o700


def test_a_folder_keeps_its_date_though_files_come_later(field: Field) -> None:
    field.unpack(tar(folder(b"a/", mtime=b"00000001750\0"), file(b"a/x")))
    assert field.path("a").stat().st_mtime == 1000


@pytest.mark.parametrize("date", [b"nan", b"inf", b"-1e300", b"-1", b"1e400", b"x", b"9" * 70])
def test_a_date_that_cannot_be_is_none(date: bytes, field: Field) -> None:
    field.unpack(tar(pax(record(b"mtime", date)), file(b"x")))
    assert field.path("x").stat().st_mtime == 0


def test_names_are_bytes(field: Field) -> None:
    field.unpack(tar(file(b"a\xff\nb"), pax(record(b"path", b"c\xfe")), file(b"x")))
    assert sorted(os.listdir(os.fsencode(field.target))) == [b"a\xff\nb", b"c\xfe"]


def test_a_hard_link_to_a_link_is_a_link(field: Field) -> None:
    field.unpack(tar(file(b"x", b"1"), link(b"l", b"x"), hard_link(b"h", b"l")))
    assert os.readlink(field.path("h")) == "x"


def test_links_may_lead_anywhere_inside(field: Field) -> None:
    members = [
        folder(b"a/b/"), link(b"a/b/top", b"../.."), link(b"same", b"a/b/top/a/../a"),
        link(b"self", b"."), link(b"later", b"z"), file(b"z", b"1"),
    ]  # fmt: skip
    field.unpack(tar(*members))
    assert field.path("later").read_bytes() == b"1"
    assert field.path("same").resolve() == field.path("a").resolve()


def test_a_folder_may_come_after_what_lies_in_it(field: Field) -> None:
    field.unpack(tar(file(b"a/x"), folder(b"a/", mode=b"0000750\0")))
    assert field.mode("a") == 0o750


def test_labels_and_comments_are_passed_over(field: Field) -> None:
    label = tar_header(b"a label", b"V")
    field.unpack(tar(pax(record(b"comment", b"0" * 40), kind=b"g"), label, file(b"x")))
    assert [path.name for path in field.target.iterdir()] == ["x"]


@pytest.mark.skipif(sys.platform != "linux", reason="wants /proc")
def test_no_descriptor_stays_open(field: Field) -> None:
    before = os.listdir("/proc/self/fd")
    field.unpack(tar(file(b"x", b"1")))
    with pytest.raises(FileExistsError):
        field.unpack(tar(file(b"x", b"1")))
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "xztar"])
def test_a_look_tells_whether_an_archive_is_whole(tmp_path: Path, kind: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "app").write_bytes(os.urandom(50_000))
    path = Path(shutil.make_archive(str(tmp_path / "a"), kind, tmp_path / "source"))
    check_archive(str(path))
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(BadArchive):
        check_archive(str(path))


def test_a_look_names_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("#!/bin/sh\n")
    with pytest.raises(BadArchive, match="app is not a zip or tar archive"):
        check_archive(str(tmp_path / "a"), "app")
