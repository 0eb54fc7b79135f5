"""Tests of hostile archives: each is refused by name and leaves no file."""

import bz2
import contextlib
import gzip
import lzma
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shell_runner.remote.archives.decompress import ByteSource, open_source
from shell_runner.remote.archives.extract import check_archive, extract_archive
from shell_runner.remote.archives.limits import BadArchive, Limits
from shell_runner.remote.archives.tar_reader import TarReader
from tests.helpers.archive_bytes import (
    ZipBuilder,
    file,
    folder,
    hard_link,
    link,
    long_name,
    padded,
    pax,
    record,
    sparse,
    tar,
    tar_header,
)
from tests.helpers.fuzzing import limit_processor_time

Pack = Callable[[bytes], bytes]
LIMITS = Limits()
LONG = b"n" * 256
DEEP = b"/".join([b"d"] * 300)


class Sandbox:
    """A folder to extract into, and files around it that must not change."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.inside = root / "outside" / "inside"
        self.inside.mkdir(parents=True)
        (root / "victim").write_text("untouched")
        (root / "outside" / "victim").write_text("untouched")
        self.archive = root / "archive"
        self.archive.write_bytes(b"")
        self._before = self.snapshot()

    def snapshot(self) -> dict[str, tuple[int, int, bytes]]:
        """Return modes, link counts and contents of all files but the archive."""
        states = {}
        for path in sorted(self.root.rglob("*")):
            if path == self.archive:
                continue
            state = path.lstat()
            data = path.read_bytes() if path.is_file() else b""
            links = 0 if path.is_dir() else state.st_nlink
            states[str(path)] = (state.st_mode, links, data)
        return states

    def extract(self, data: bytes, limits: Limits = LIMITS) -> None:
        self.archive.write_bytes(data)
        extract_archive(str(self.archive), str(self.inside), "build.tar", limits)

    def refuse(self, data: bytes, limits: Limits = LIMITS) -> BadArchive:
        with pytest.raises(BadArchive) as raised:
            self.extract(data, limits)
        self.check()
        return raised.value

    def check(self) -> None:
        assert self.snapshot() == self._before


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


TARS = {
    # Names
    "up": (tar(file(b"../victim")), "../victim", "leads out"),
    "up below": (tar(file(b"a/../../victim")), "a/../../victim", "leads out"),
    "up and down again": (tar(file(b"a/../b")), "a/../b", "leads out"),
    "up by backslash": (tar(file(b"..\\victim")), "..\\victim", "leads out"),
    "up by pax": (tar(pax(record(b"path", b"../v")), file(b"a")), "../v", "leads out"),
    "up by long name": (tar(long_name(b"../v\0"), file(b"a")), "../v", "leads out"),
    "up by prefix": (tar(file(b"v", prefix=b"..")), "../v", "leads out"),
    "up, a folder": (tar(folder(b"../x/")), "../x/", "leads out"),
    "absolute": (tar(file(b"/tmp/victim")), "/tmp/victim", "absolute"),
    "absolute by drive": (tar(file(b"C:\\victim")), "C:\\victim", "absolute"),
    "absolute by UNC": (tar(file(b"\\\\host\\x")), "\\\\host\\x", "absolute"),
    "no name": (tar(file(b"")), "", "no name"),
    "dot": (tar(file(b".")), ".", "name of one"),
    "dot slash": (tar(file(b"./.")), "./.", "name of one"),
    "NUL": (tar(pax(record(b"path", b"a\0b")), file(b"a")), "a\0b", "NUL"),
    "long part": (tar(long_name(LONG), file(b"a")), LONG.decode(), "255"),
    "long name": (tar(long_name(b"a/" * 2049), file(b"a")), "a/" * 2049, "4096"),
    "deep": (tar(long_name(DEEP), file(b"a")), DEEP.decode(), "256 folders"),
    # Twice
    "twice": (tar(file(b"a"), file(b"a")), "a", "twice"),
    "twice by dot": (tar(file(b"a"), file(b"./a")), "./a", "twice"),
    "twice by slashes": (tar(file(b"a/b"), file(b"a//b")), "a//b", "twice"),
    "folder twice": (tar(folder(b"a/"), folder(b"./a/")), "./a/", "twice"),
    "file and folder": (tar(file(b"a"), folder(b"a/")), "a/", "its folder is a file"),
    "folder and file": (tar(folder(b"a/"), file(b"a")), "a", "twice"),
    "file as folder": (tar(file(b"a"), file(b"a/b")), "a/b", "its folder is a file"),
    "link over file": (tar(file(b"a"), link(b"a", b"b")), "a", "twice"),
    "file over link": (tar(link(b"a", b"b"), file(b"a", b"x")), "a", "twice"),
    "hard link over file": (tar(file(b"a"), file(b"b"), hard_link(b"b", b"a")), "b", "twice"),
    # Contents of what has none: they would be read as members
    "label": (tar(tar_header(b"v", b"V", 512), file(b"x")), "v", "label with contents"),
    "label after a size": (
        tar(pax(record(b"size", b"512")), tar_header(b"v", b"V"), file(b"x")), "v", "a label",
    ),
    "label after a name": (
        tar(pax(record(b"path", b"y")), tar_header(b"v", b"V"), file(b"x")), "v", "a label",
    ),
    # Links
    "link up": (tar(link(b"l", b"../victim")), "l", "out of the folder"),
    "link absolute": (tar(link(b"l", b"/etc")), "l", "out of the folder"),
    "link to nothing": (tar(link(b"l", b"")), "l", "link is invalid"),
    "link with NUL": (
        tar(pax(record(b"linkpath", b"a\0b")), link(b"l", b"x")), "l", "link is invalid",
    ),
    "link deep up": (tar(link(b"a/b/l", b"../../../victim")), "a/b/l", "out of the folder"),
    "chain": (
        tar(folder(b"a/b/"), link(b"a/b/up", b"../.."), link(b"l", b"a/b/up/../victim")),
        "l", "out of the folder",
    ),
    "chain, the other way round": (
        tar(link(b"l", b"m/../victim"), link(b"m", b"a/b/up"), link(b"a/b/up", b"../..")),
        "l", "out of the folder",
    ),
    "through a link": (tar(link(b"l", b"."), file(b"l/x")), "l/x", "its folder is a link"),
    "through a link out": (tar(link(b"l", b"../.."), file(b"l/x")), "l/x", "its folder is a link"),
    "through a link by folder": (
        tar(link(b"l", b"."), folder(b"l/")), "l/", "its folder is a link",
    ),
    "folder becomes link": (tar(file(b"d/a"), link(b"d", b"..")), "d", "twice"),
    "link with slash": (tar(link(b"l/", b"x")), "l/", "name of one"),
    "hard link out": (tar(hard_link(b"h", b"../victim")), "h", "leads out"),
    "hard link absolute": (tar(hard_link(b"h", b"/etc/passwd")), "h", "absolute"),
    "hard link later": (tar(hard_link(b"h", b"a"), file(b"a")), "h", "before it"),
    "hard link to folder": (tar(folder(b"a/"), hard_link(b"h", b"a")), "h", "before it"),
    "hard link to itself": (tar(hard_link(b"h", b"h")), "h", "before it"),
    "hard link to root": (tar(hard_link(b"h", b".")), "h", "before it"),
    "hard link through link": (
        tar(link(b"l", b"../.."), hard_link(b"h", b"l/victim")), "h", "before it",
    ),
    "hard link to link moves it": (
        tar(link(b"a/b/l", b"../x"), hard_link(b"h", b"a/b/l")), "h", "out of the folder",
    ),
    # Kinds
    "character device": (tar(tar_header(b"x", b"3")), "x", "character device"),
    "block device": (tar(tar_header(b"x", b"4")), "x", "block device"),
    "FIFO": (tar(tar_header(b"x", b"6")), "x", "FIFO"),
    "unknown kind": (tar(tar_header(b"x", b"Z")), "x", "unknown type"),
    "multi volume": (tar(tar_header(b"x", b"M")), "x", "another volume"),
    "folder with contents": (
        tar(tar_header(b"x/", b"5", 512), b"a" * 512), "x/", "interpret differently",
    ),
    "link with contents": (
        tar(tar_header(b"x", b"2", 512, target=b"a")), "x", "interpret differently",
    ),
    # Numbers
    "negative size": (tar(tar_header(b"x", size=b"\xff" * 12)), "x", "out of range"),
    "huge size": (tar(tar_header(b"x", size=b"\x80" + b"\xff" * 11)), "x", "out of range"),
    "large size": (tar(tar_header(b"x", size=b"\x80\0\0\0\0" + b"\x7f" * 7)), "x", "limit"),
    "size of words": (tar(tar_header(b"x", size=b"-0000000001\0")), "x", "invalid number"),
    "cut": (file(b"x", b"a" * 600)[:900], "x", "truncated"),
    "cut between": (file(b"x", b"a"), "x", "truncated"),
    "cut after long name": (tar(long_name(b"x")), "", "truncated"),
    "spoilt sum": (file(b"x") + file(b"y", sum=b"000000\0 ") + bytes(1024), "x", "wrong checksum"),
    "more after the end": (tar(file(b"x")) + tar(file(b"y")), "x", "follows the end"),
    # Extended headers
    "pax, huge": (tar(tar_header(b"p", b"x", 1 << 40)), "", "extended header"),
    "pax, negative": (tar(tar_header(b"p", b"x", b"\xff" * 12)), "", "out of range"),
    "pax, two": (tar(pax(record(b"a", b"b")), pax(record(b"a", b"b")), file(b"x")), "", "two"),
    "pax, length 0": (tar(pax(b"0 a=b\n"), file(b"x")), "", "invalid extended header"),
    "pax, length beyond": (tar(pax(b"99 a=b\n"), file(b"x")), "", "invalid extended header"),
    "pax, length huge": (
        tar(pax(b"9" * 40 + b" a=b\n"), file(b"x")), "", "invalid extended header",
    ),
    "pax, length negative": (tar(pax(b"-6 a=b\n"), file(b"x")), "", "invalid extended header"),
    "pax, no equals": (tar(pax(b"6 abc\n"), file(b"x")), "", "invalid extended header"),
    "pax, size negative": (tar(pax(record(b"size", b"-1")), file(b"x")), "x", "invalid number"),
    "pax, size endless": (tar(pax(record(b"size", b"9" * 19)), file(b"x")), "x", "invalid number"),
    "pax, size large": (tar(pax(record(b"size", b"9" * 18)), file(b"x")), "x", "limit"),
    "pax, size digits": (tar(pax(record(b"size", b"9" * 5000)), file(b"x")), "x", "invalid number"),
    "pax, size of words": (tar(pax(record(b"size", b"1e3")), file(b"x")), "x", "invalid number"),
    "pax, path of all": (tar(pax(record(b"path", b"x"), kind=b"g"), file(b"x")), "", "global"),
    "pax and long name": (
        tar(pax(record(b"path", b"y")), long_name(b"z"), file(b"x")), "y", "different names",
    ),
    "two long names": (tar(long_name(b"y"), long_name(b"z"), file(b"x")), "", "two long"),
    # Sparse files
    "sparse, old": (
        tar(tar_header(b"x", b"S", 20, sparse=sparse((0, 10), (50, 10), real=100)), bytes(512)),
        "x", "old GNU format of GNU tar: pack without --sparse",
    ),
    "sparse, old, endless map": (
        tar_header(b"x", b"S", 0, sparse=sparse(real=9, more=b"\1"))
        + (b"%011o\0" % 0 * 42 + bytes([1] * 8)) * 3000,
        "x", "without --sparse",
    ),
    "sparse, 0.0": (
        tar(pax(record(b"GNU.sparse.size", b"9"), record(b"GNU.sparse.numblocks", b"1"),
                record(b"GNU.sparse.offset", b"0"), record(b"GNU.sparse.numbytes", b"1")),
            file(b"x", b"1")),
        "x", "pax format 0.0 of GNU tar: pack without --sparse",
    ),
    "sparse, 0.1": (
        tar(pax(record(b"GNU.sparse.size", b"9"), record(b"GNU.sparse.map", b"0,1"),
                record(b"GNU.sparse.name", b"x")), file(b"y", b"1")),
        "x", "pax format 0.1 of GNU tar: pack without --sparse",
    ),
    "sparse, 1.0": (
        tar(pax(record(b"GNU.sparse.major", b"1"), record(b"GNU.sparse.realsize", b"9"),
                record(b"GNU.sparse.name", b"x")), file(b"y", b"1\n0\n1\n".ljust(512, b"\0"))),
        "x", "pax format 1.0 of GNU tar: pack without --sparse",
    ),
    "sparse, 1.0, count": (
        tar(pax(record(b"GNU.sparse.major", b"1"), record(b"GNU.sparse.realsize", b"9"),
                record(b"GNU.sparse.name", b"x")), file(b"y", b"9" * 18 + b"\n")),
        "x", "without --sparse",
    ),
    "sparse, no size": (
        tar(pax(record(b"GNU.sparse.major", b"1")), file(b"x")), "x", "without --sparse",
    ),
    "sparse link": (
        tar(pax(record(b"GNU.sparse.size", b"9")), link(b"x", b"y")), "x", "without --sparse",
    ),
}  # fmt: skip


def both(name: bytes = b"x", data: bytes = b"abc", **lies: object) -> bytes:
    return ZipBuilder().add(name, data, **lies).to_bytes()


def mode(kind: int, name: bytes = b"x", data: bytes = b"") -> bytes:
    return both(name, data, mode=kind)


DEFLATED = zlib.compress(b"abc")[2:-4]
ZIPS = {
    "up": (both(b"../victim"), "../victim", "leads out"),
    "absolute": (both(b"/etc/x"), "/etc/x", "absolute"),
    "backslash": (both(b"a\\b"), "a\\b", "backslash"),
    "drive": (both(b"C:x"), "C:x", "drive"),
    "no name": (both(b""), "", "no name"),
    "NUL": (both(b"x\0.txt"), "x\0.txt", "NUL"),
    "twice": (ZipBuilder().add(b"a").add(b"a").to_bytes(), "a", "twice"),
    "twice by dot": (ZipBuilder().add(b"a").add(b"./a").to_bytes(), "./a", "twice"),
    "file and folder": (ZipBuilder().add(b"a").add(b"a/").to_bytes(), "a/", "its folder is a file"),
    "folder twice": (ZipBuilder().add(b"a/").add(b"a/").to_bytes(), "a/", "twice"),
    "FIFO": (mode(0o010644), "x", "device, FIFO or socket"),
    "character device": (mode(0o020644), "x", "device, FIFO or socket"),
    "block device": (mode(0o060644), "x", "device, FIFO or socket"),
    "socket": (mode(0o140644), "x", "device, FIFO or socket"),
    "folder without slash": (mode(0o040755), "x", "disagree on its type"),
    "link with slash": (mode(0o120777, b"x/"), "x/", "disagree on its type"),
    "folder with contents": (both(b"x/"), "x/", "folder with contents"),
    "link up": (mode(0o120777, data=b"../victim"), "x", "out of the folder"),
    "link absolute": (mode(0o120777, data=b"/etc"), "x", "out of the folder"),
    "link to nothing": (mode(0o120777), "x", "link is invalid"),
    "link of many bytes": (mode(0o120777, data=b"a" * 5000), "x", "5000 bytes"),
    "through a link": (
        ZipBuilder().add(b"l", b".", mode=0o120777).add(b"l/x").to_bytes(),
        "l/x", "its folder is a link",
    ),
    "encrypted": (both(flags=1), "x", "encrypted"),
    "encrypted, strongly": (both(flags=0x41), "x", "encrypted"),
    "encrypted here only": (both(local_flags=1), "x", "disagree"),
    "headers hidden": (both(flags=0x2000), "x", "encrypted"),
    "method": (both(method=14, packed_data=b"abc"), "x", "method 14"),
    "other name": (both(local_name=b"y"), "x", "disagree"),
    "other method": (both(method=0, local_method=8), "x", "disagree"),
    "other size": (both(local_size=4), "x", "disagree"),
    "other CRC": (both(local_crc=4), "x", "disagree"),
    "wrong CRC": (both(crc=4), "x", "CRC"),
    "stored, two sizes": (both(size=4), "x", "two different sizes"),
    "larger than said": (both(method=8, size=2), "x", "more than the 2 bytes"),
    "smaller than said": (both(method=8, size=9), "x", "it claims 9 bytes and has 3"),
    "more data": (both(method=8, packed_data=DEFLATED + b"x"), "x", "more data follows"),
    "cut data": (both(method=8, packed_data=DEFLATED[:-1]), "x", "truncated"),
    "no deflate": (both(method=8, packed_data=b"\xff\xff\xff"), "x", "cannot be decompressed"),
    "no bzip2": (both(method=12, packed_data=b"\xff\xff\xff"), "x", "cannot be decompressed"),
    "header elsewhere": (both(at=1), "x", "its header is invalid"),
    "header outside": (both(at=1 << 30), "x", "not in the archive"),
    "contents outside": (both(packed=1 << 20, size=1 << 20), "x", "not in the archive"),
    "the same contents twice": (
        ZipBuilder().add(b"a", b"x" * 9).add(b"b", b"x" * 9, at=0, no_data=True).to_bytes(),
        "b", "disagree",
    ),
    "the same header twice": (
        ZipBuilder().add(b"a", b"x" * 9).add(b"a", b"x" * 9, at=0, no_data=True).to_bytes(),
        "a", "overlaps",
    ),
    "one in the other": (
        ZipBuilder().add(b"a", (inner := ZipBuilder().add(b"b", b"x" * 9).data))
        .add(b"b", b"x" * 9, at=31, no_data=True).to_bytes(),
        "b", "overlaps",
    ),
    "zip64 without field": (both(size=0xFFFFFFFF, packed=0xFFFFFFFF), "x", "zip64"),
    "zip64, short": (
        both(size=0xFFFFFFFF, packed=0xFFFFFFFF, extra=b"\1\0\4\0abcd"), "x", "too short",
    ),
    "zip64, huge": (
        both(size=0xFFFFFFFF, packed=0xFFFFFFFF, extra=b"\1\0\x10\0" + b"\xff" * 16),
        "x", "not in the archive",
    ),
    "cut": (both()[:-10], "", "truncated"),
    "cut to a header": (both()[:30], "", "truncated"),
    "directory elsewhere": (ZipBuilder().add(b"x").to_bytes(at=3), "", "offset that it claims"),
    "directory too large": (
        ZipBuilder().add(b"x").to_bytes(size=1 << 30), "", "offset that it claims",
    ),
    "count too low": (
        ZipBuilder().add(b"x").add(b"y").to_bytes(count=1, here=1), "", "claims 1 members",
    ),
    "count too high": (ZipBuilder().add(b"x").to_bytes(count=9, here=9), "", "claims 9 members"),
    "volumes": (ZipBuilder().add(b"x").to_bytes(disk=1), "", "several volumes"),
    "comment too long": (ZipBuilder().add(b"x").to_bytes(comment=9), "", "truncated"),
    "data after the end": (ZipBuilder().add(b"x").to_bytes() + b"x", "", "truncated"),
}  # fmt: skip

NEITHER = {
    "nothing": b"", "text": b"#!/bin/sh\n" * 200, "zeros, half a block": bytes(100),
    "zstd": b"(\xb5/\xfd" + bytes(600), "7z": b"7z\xbc\xaf'\x1c" + bytes(600),
    "gzip of text": gzip.compress(b"text" * 999), "random": os.urandom(4096),
    "gzip in gzip": gzip.compress(gzip.compress(tar(file(b"x")))),
}  # fmt: skip


@pytest.mark.parametrize("case", TARS)
def test_a_hostile_tar_is_refused_by_name(case: str, sandbox: Sandbox) -> None:
    data, member, reason = TARS[case]
    # A lower limit than the default one: the error must not depend on the limit.
    error = sandbox.refuse(data, Limits(size=1 << 35))
    assert (error.member, reason in error.reason) == (member, True), error


@pytest.mark.parametrize("case", ZIPS)
def test_a_hostile_zip_is_refused_by_name(case: str, sandbox: Sandbox) -> None:
    data, member, reason = ZIPS[case]
    error = sandbox.refuse(data)
    assert (error.member, reason in error.reason) == (member, True), error


@pytest.mark.parametrize("case", NEITHER)
def test_a_file_that_is_not_an_archive_is_refused(case: str, sandbox: Sandbox) -> None:
    assert "build.tar is not a zip or tar archive" in str(sandbox.refuse(NEITHER[case]))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
class TestCompressed:
    def test_a_truncated_archive_is_refused(self, pack: Pack, sandbox: Sandbox) -> None:
        packed = pack(tar(file(b"x", os.urandom(5000))))
        for size in (9, len(packed) // 2, len(packed) - 1):
            sandbox.refuse(packed[:size])

    def test_a_wrong_checksum_at_the_end_is_refused(self, pack: Pack, sandbox: Sandbox) -> None:
        packed = bytearray(pack(tar(file(b"x", b"data"))))
        at = {gzip.compress: -8, bz2.compress: -4, lzma.compress: -30}[pack]
        packed[at] ^= 0x40
        assert "decompressed" in sandbox.refuse(bytes(packed)).reason

    def test_garbage_behind_is_refused(self, pack: Pack, sandbox: Sandbox) -> None:
        assert "decompressed" in sandbox.refuse(pack(tar(file(b"x"))) + b"garbage" * 9).reason

    def test_a_bomb_is_stopped(self, pack: Pack, sandbox: Sandbox) -> None:
        bomb = pack(tar(file(b"x", b"boom" * (1 << 19))))
        error = sandbox.refuse(bomb, Limits(base_disk_bytes=1 << 20, ratio=20))
        assert (error.member, "of the disk" in error.reason) == ("x", True)


def test_a_bomb_of_deflate_is_stopped(sandbox: Sandbox) -> None:
    bomb = ZipBuilder().add(b"fine").add(b"x", b"boom" * (1 << 20), method=8).to_bytes()
    error = sandbox.refuse(bomb, Limits(base_disk_bytes=1 << 20, ratio=20))
    assert (error.member, "of the disk" in error.reason) == ("x", True)


def test_many_small_files_count_as_the_blocks_that_they_take(sandbox: Sandbox) -> None:
    members = [file(b"%d" % n, b"x") for n in range(300)]
    error = sandbox.refuse(gzip.compress(tar(*members)), Limits(base_disk_bytes=1 << 20, ratio=1))
    assert "of the disk" in error.reason


@pytest.mark.parametrize(
    "data",
    [
        tar(*[file(b"%d" % n) for n in range(11)]),
        tar(*[folder(b"%d" % n) for n in range(11)]),
        tar(*[link(b"%d" % n, b"x") for n in range(11)]),
        tar(file(b"d/" * 11 + b"x")),
        ZipBuilder().add(b"d/" * 11 + b"x").to_bytes(),
    ],
    ids=["files", "folders", "links", "folders of one file", "folders of one file in a zip"],
)
def test_members_are_bounded(data: bytes, sandbox: Sandbox) -> None:
    assert "more than 10 members" in sandbox.refuse(data, Limits(members=10)).reason


def test_members_of_a_zip_are_bounded_by_what_its_directory_says(sandbox: Sandbox) -> None:
    data = ZipBuilder().add(b"x").to_bytes(count=60_000, here=60_000)
    assert "more than 10 members" in sandbox.refuse(data, Limits(members=10)).reason


def test_names_are_bounded_in_all(sandbox: Sandbox) -> None:
    members = [link(b"%d" % n, b"x" * 90) for n in range(20)]
    assert "bytes of names" in sandbox.refuse(tar(*members), Limits(total_name_bytes=1000)).reason


@pytest.mark.parametrize("tail", [b"", bytes(1 << 20)], ids=["files", "padding"])
def test_bytes_of_files_are_limited_including_holes(tail: bytes, sandbox: Sandbox) -> None:
    data = tar(*[file(b"%d" % n, bytes(60_000)) for n in range(1 if tail else 5)]) + tail
    assert "limit" in sandbox.refuse(gzip.compress(data), Limits(size=200_000)).reason


def test_links_that_are_too_complex_are_refused(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shell_runner.remote.archives.extraction_directory._MAX_LINK_STEPS", 500)
    chain = [link(b"%d" % n, b"./" * 20 + b"%d" % (n + 1)) for n in range(40)]
    assert "too complex" in sandbox.refuse(tar(*chain)).reason


#: Pax headers with parts in which a record has no length; the first one was an endless loop.
RECORDS_WITHOUT_LENGTH = [
    b"12 path=abc\n" + b"x" * 20,
    b"12 path=abc\n" + b"x",
    b"12 path=abc\n" + b"9" * 25,
    b"12 path=abc\n" + bytes(500),
    b"12 path=abc\n0 path=abc\n",
    b"12 path=abc\n1 path=abc\n",
    b"12 path=abc\n2 \n",
    b"12 path=abc\n ",
    b"12 path=abc\n-12 path=abc\n",
    b"12 path=abc\n\xb2 path=abc\n",
    b"0",
    b" ",
    b"x" * 20,
]


@pytest.mark.parametrize("kind", [b"x", b"X", b"g"])
@pytest.mark.parametrize("data", RECORDS_WITHOUT_LENGTH)
def test_a_record_without_length_is_refused_at_once(
    kind: bytes, data: bytes, sandbox: Sandbox
) -> None:
    with limit_processor_time(5):
        error = sandbox.refuse(tar(tar_header(b"p", kind, len(data)), padded(data), file(b"x")))
    assert "invalid extended header" in error.reason


def repeat_members(count: int, *members: bytes) -> bytes:
    return tar(*members * count, file(b"last"))


#: Archives of some kilobytes when compressed, with 32 MB of what is not contents of files.
OVERHEAD = {
    "extended headers": repeat_members(8, pax(b"6 a=b\n" * 690_000), file(b"x")),
    "global headers": repeat_members(8, pax(b"6 a=b\n" * 690_000, kind=b"g")),
    "large records": repeat_members(8, pax(record(b"a", b"b" * 4_000_000), kind=b"g")),
    "labels": repeat_members(64_000, tar_header(b"label", b"V")),
    "long names": repeat_members(8, long_name(b"x" * 4_000_000), file(b"x")),
    "members": repeat_members(64_000, folder(b".")),
    "deep folders": repeat_members(4_000, long_name(b"d/" * 250 + b"x"), file(b"x")),
    "padding": tar(file(b"x")) + bytes(32_000_000),
}


@pytest.mark.parametrize("pack", [lzma.compress, bz2.compress])
@pytest.mark.parametrize("case", OVERHEAD)
def test_headers_and_padding_are_bounded_by_the_size_of_the_archive(
    case: str, pack: Pack, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(pack(OVERHEAD[case]))
    size = archive.stat().st_size
    with archive.open("rb") as data:
        source = CountingSource(open_source(data, LIMITS.size))
        with pytest.raises(BadArchive, match="headers and padding"):
            list(TarReader(source, LIMITS, size).members())
    # One more header may have been read than the limit allows.
    limit = LIMITS.base_overhead + LIMITS.overhead_ratio * size
    assert source.count <= limit + LIMITS.header_bytes


class CountingSource(ByteSource):
    """A source that counts the bytes which are read."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.count = 0

    def read(self, count: int) -> bytes:
        data = self._source.read(count)
        self.count += len(data)
        return data


def test_many_records_count_more_than_their_bytes(sandbox: Sandbox) -> None:
    data = tar(pax(b"6 a=b\n" * 600_000), file(b"x"))
    limits = Limits(base_overhead=len(data) * 2, overhead_ratio=0)
    assert "headers and padding" in sandbox.refuse(data, limits).reason


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_many_empty_files_with_long_names_are_extracted(pack: Pack, sandbox: Sandbox) -> None:
    members = [
        pax(record(b"path", b"d/" * 60 + b"%06d" % n)) + file(b"short") for n in range(10_000)
    ]
    sandbox.archive.write_bytes(pack(tar(*members)))
    check_archive(str(sandbox.archive), "build.tar")


def test_an_extended_header_is_not_read_if_it_is_too_large(sandbox: Sandbox) -> None:
    bomb = gzip.compress(tar(tar_header(b"p", b"x", 64 << 20), bytes(64 << 20), file(b"x")))
    tracemalloc.start()
    try:
        sandbox.refuse(bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_an_xz_that_wants_a_huge_dictionary_is_refused(sandbox: Sandbox) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
    data = bytearray(lzma.compress(tar(file(b"x")), filters=filters))
    # Block header: size, flags, filter id, size of properties, the dictionary's exponent.
    assert data[13:16] == b"\0\x21\x01"
    data[16] = 40  # 4 GiB
    data[20:24] = struct.pack("<L", zlib.crc32(bytes(data[12:20])))
    assert "emory" in sandbox.refuse(bytes(data)).reason


def test_a_folder_that_is_not_empty_is_left_alone(sandbox: Sandbox) -> None:
    (sandbox.inside / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        sandbox.extract(tar(file(b"x")))
    assert (sandbox.inside / "mine").read_text() == "mine"


def test_a_full_disk_is_not_an_error_of_the_archive(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shell_runner.remote.archives.extraction_directory.write_all", full)
    with pytest.raises(OSError, match="No space left"):
        sandbox.extract(tar(folder(b"a/"), file(b"a/x", b"data")))
    sandbox.check()


def test_an_error_shows_a_shortened_name() -> None:
    assert len(str(BadArchive("x" * 5000, "why"))) < 300


# Any bytes are either refused or extracted inside the folder.

SEEDS = [data for data, _, _ in [*TARS.values(), *ZIPS.values()] if len(data) < 20_000]
SOUND = [
    tar(folder(b"a/"), file(b"a/b", b"data" * 300), link(b"a/l", b"b"), hard_link(b"h", b"a/b")),
    tar(pax(record(b"path", b"long/name"), record(b"size", b"4")), file(b"x", b"data")),
    gzip.compress(tar(file(b"a/b", b"data" * 300))),
    ZipBuilder()
    .add(b"a/")
    .add(b"a/b", b"data" * 300, method=8)
    .add(b"l", b"a", mode=0o120777)
    .to_bytes(),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SOUND + SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        action = draw(st.sampled_from(["set", "number", "cut", "insert", "copy", "sum"]))
        if action == "set":
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=2))
        elif action == "number":
            data[at : at + 4] = draw(st.sampled_from([b"\xff" * 4, bytes(4), b"\x80\0\0\0"]))
        elif action == "cut":
            del data[at : at + draw(st.integers(1, 600))]
        elif action == "insert":
            data[at:at] = draw(st.binary(max_size=30))
        elif action == "copy":
            start = at // 512 * 512
            data += data[start : start + 512]
        else:
            data = fix_checksums(data)
    return bytes(fix_checksums(data) if draw(st.booleans()) else data)


def fix_checksums(data: bytearray) -> bytearray:
    """Correct the checksums of headers, so that mutations of other fields have an effect."""
    for at in range(0, len(data) - 511, 512):
        block = data[at : at + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    return data


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return Sandbox(tmp_path_factory.mktemp("field"))


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(data=mutated())
@example(data=b"BZh")
def test_any_bytes_are_extracted_inside_or_refused(data: bytes, field: Sandbox) -> None:
    with contextlib.suppress(BadArchive):
        field.extract(data, Limits(size=1 << 24, base_disk_bytes=1 << 22))
    for path in sorted(field.inside.rglob("*"), reverse=True):
        assert os.path.realpath(path).startswith(str(field.inside.resolve()))
        assert path.lstat().st_mode & 0o6022 == 0 or path.is_symlink()
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    field.check()
