"""Fuzzers of the readers of tar and zip archives."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import shutil
from pathlib import Path

import pytest

from shell_runner.remote.archives.extract import check_archive, extract_archive
from shell_runner.remote.archives.limits import BadArchive, Limits
from tests.helpers.archive_bytes import (
    ZipBuilder,
    file,
    folder,
    hard_link,
    link,
    long_name,
    pax,
    record,
    tar,
    tar_header,
)
from tests.helpers.fuzzing import iterate_seeds, limit_processor_time, load_corpus, mutate

#: Limits that let a mutated size neither fill the disk nor take long.
_LIMITS = Limits(members=500, size=1 << 24, base_disk_bytes=1 << 22, base_overhead=1 << 20)
#: Seconds of processor time for one archive of some kilobytes; correct readers take milliseconds.
_MAX_SECONDS = 5
_BLOCK = 512
_NUMBERS = (0, 1, 2, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _make_name(rng: random.Random) -> bytes:
    parts = (b"a", b"b", b"..", b".", b"", b"d" * 30, b"\xff", b"\\", b"C:", b"n" * 256)
    return b"/".join(rng.choice(parts[: rng.choice((2, 4, 10))]) for _ in range(rng.randint(1, 4)))


def _make_record(rng: random.Random) -> bytes:
    keys = (b"path", b"linkpath", b"size", b"mtime", b"comment", b"GNU.sparse.major", b"\xff", b"")
    values = (_make_name(rng), b"%d" % rng.choice(_NUMBERS), b"", b"9" * 40, b"1e400", b"-1", b"x=")
    data = record(rng.choice(keys), rng.choice(values))
    return mutate(rng, data, 2) if rng.random() < 0.3 else data


def _make_member(rng: random.Random) -> bytes:
    """Return one member of a tar archive, with a correct checksum, or a header without one."""
    name, other = _make_name(rng), _make_name(rng)
    kind = rng.choice((b"x", b"X", b"g"))
    size = rng.choice((0, 1, 511, 512, 513, 1 << 20, 1 << 32))
    field = rng.choice((b"-1", b"\xff" * 12, b"\x80" + b"\0" * 10 + b"\7", b" 7 \0", b"\0" * 12))
    makers = (
        lambda: file(name, rng.randbytes(rng.choice((0, 1, 512, 700)))),
        lambda: folder(name),
        lambda: link(name, other),
        lambda: hard_link(name, other),
        lambda: long_name(name, rng.choice((b"L", b"K"))),
        lambda: pax(*(_make_record(rng) for _ in range(rng.randint(1, 4))), kind=kind),
        lambda: tar_header(name, bytes([rng.randrange(256)]), rng.choice((size, field))),
        lambda: tar_header(name, rng.choice((b"V", b"S", b"5", b"x", b"L")), size),
    )
    return rng.choice(makers)()


def _correct_checksums(data: bytes) -> bytes:
    """Correct the checksums of headers, so that mutations of other fields have an effect."""
    result = bytearray(data)
    for at in range(0, len(result) - _BLOCK + 1, _BLOCK):
        if result[at + 257 : at + 262] == b"ustar":
            result[at + 148 : at + 156] = b" " * 8
            result[at + 148 : at + 156] = b"%06o\0 " % sum(result[at : at + _BLOCK])
    return bytes(result)


def _make_tar(rng: random.Random, corpus: list[bytes]) -> bytes:
    if rng.random() < 0.4:
        data = mutate(rng, rng.choice(corpus))
    else:
        data = tar(*(_make_member(rng) for _ in range(rng.randint(1, 6))))
    if rng.random() < 0.5:
        data = _correct_checksums(data)
    pack = rng.choice((bytes, bytes, gzip.compress, bz2.compress, lzma.compress))
    packed = pack(data)
    return mutate(rng, packed, 2) if rng.random() < 0.2 else packed


def _make_zip(rng: random.Random, corpus: list[bytes]) -> bytes:
    if rng.random() < 0.4:
        return mutate(rng, rng.choice(corpus))
    builder = ZipBuilder()
    fields = ("flags", "method", "crc", "packed", "size", "at", "mode", "system", "disk")
    for _ in range(rng.randint(1, 5)):
        wrong: dict[str, int] = {"method": rng.choice((0, 8, 8, 12))}
        if rng.random() < 0.4:
            name = rng.choice(fields)
            value = rng.choice(_NUMBERS)
            narrow = {"crc": value, "packed": value, "size": value, "at": value}
            wrong[rng.choice(("", "local_")) + name] = narrow.get(name, value & 0xFF)
        extra = rng.choice((b"", b"", b"\1\0\4\0abcd", b"\1\0\x10\0" + b"\xff" * 16, b"\1\0\xff"))
        data = rng.choice((b"", b"data" * 300, bytes(1 << 16)))
        builder.add(_make_name(rng), data, extra=extra, **wrong)
    end = {rng.choice(("count", "here", "size", "at", "disk")): rng.choice(_NUMBERS[:5])}
    return builder.to_bytes(**(end if rng.random() < 0.2 else {}))


class _Folder:
    """A folder to extract into, beside a file that must not change."""

    def __init__(self, root: Path) -> None:
        self._archive = root / "archive"
        self._inside = root / "inside"
        self._victim = root / "victim"
        self._victim.write_text("untouched")

    def check(self, data: bytes) -> bool:
        """Extract an archive; return whether it was accepted."""
        self._archive.write_bytes(data)
        self._inside.mkdir()
        try:
            with limit_processor_time(_MAX_SECONDS):
                return self._extract()
        finally:
            shutil.rmtree(self._inside)
            assert self._victim.read_text() == "untouched"
            assert self._victim.stat().st_nlink == 1

    def _extract(self) -> bool:
        is_valid = self._is_valid()
        try:
            extract_archive(str(self._archive), str(self._inside), "archive", _LIMITS)
        except BadArchive:
            assert not list(self._inside.iterdir())
            return False
        assert is_valid
        for path in self._inside.rglob("*"):
            assert os.path.realpath(path).startswith(str(self._inside.resolve()))
        return True

    def _is_valid(self) -> bool:
        try:
            check_archive(str(self._archive), "archive", _LIMITS)
        except BadArchive:
            return False
        return True


@pytest.fixture
def target(tmp_path: Path) -> _Folder:
    return _Folder(tmp_path)


@pytest.mark.parametrize("format_name", ["tar", "zip"])
def test_found_archives(format_name: str, target: _Folder) -> None:
    for data in load_corpus(format_name):
        target.check(data)


def test_a_tar_is_extracted_inside_or_refused(target: _Folder) -> None:
    corpus = load_corpus("tar")
    assert {target.check(_make_tar(rng, corpus)) for rng in iterate_seeds()} == {True, False}


def test_a_zip_is_extracted_inside_or_refused(target: _Folder) -> None:
    corpus = load_corpus("zip")
    assert {target.check(_make_zip(rng, corpus)) for rng in iterate_seeds()} == {True, False}
