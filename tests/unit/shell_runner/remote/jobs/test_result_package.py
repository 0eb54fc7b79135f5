"""Tests of the result package: the same rows make the same bytes, and a reader trusts none."""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shell_runner.remote.jobs import result_package_reader, result_package_writer
from shell_runner.remote.jobs.result_package_format import (
    LIMITS,
    BadPackage,
    Limits,
    Member,
    encode_execution_line,
)
from shell_runner.remote.jobs.result_package_reader import Package, open_package
from shell_runner.remote.jobs.result_package_writer import write_package
from shell_runner.remote.protocol.model import (
    CapturedStream,
    Case,
    Execution,
    ParsedOutput,
    execution_from_row,
)
from tests.helpers.archive_bytes import ZipBuilder

MADE = Execution(
    3, exit_status=1, stdout=CapturedStream("out\udcff\0", 5), leftovers=("sh",),
    artifacts=(("a/b", 4),),
    parsed=ParsedOutput("tap", [Case("one", "passed", duration=0.5, properties=(("k", "v"),))]),
)  # fmt: skip
#: The same execution after its way through JSON.
RUN = execution_from_row(json.loads(json.dumps(MADE)))
ODD = ["artifacts/1/ü ☃", "artifacts/1/\udcff", "artifacts/1/a\\b", "artifacts/1/C:x\n\x1b", "-"]


def line(test: int, number: int = 1, run: Execution = RUN) -> bytes:
    return encode_execution_line(test, number, json.dumps(run))


class PackageFile:
    """A package to write, forge and open."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "job.zip"
        self.target = root / "target"

    def write(self, *members: Member, **manifest: Any) -> tuple[str, int]:
        return write_package(str(self.path), manifest or {"job": "id"}, members)

    def open(self, limits: Limits = LIMITS) -> Package:
        return open_package(str(self.path), limits)

    def forge(
        self, members: dict[bytes, bytes], manifest: Any = None, **lies: dict[str, Any]
    ) -> None:
        """Write a package with a matching manifest, or with the given one."""
        if manifest is None:
            rows = [
                {"name": name.decode("utf-8", "surrogateescape"), "size": len(data),
                 "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in members.items()
            ]  # fmt: skip
            manifest = {"format": 1, "members": rows}
        text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        made = ZipBuilder()
        for name, data in members.items():
            made.add(name, data, **lies.get(name.decode("utf-8", "replace"), {}))
        self.path.write_bytes(made.add(b"manifest.json", text).to_bytes())

    def refuse(self, limits: Limits = LIMITS) -> BadPackage:
        with pytest.raises(BadPackage) as raised:
            self.open(limits)
        return raised.value


@pytest.fixture
def package_file(tmp_path: Path) -> PackageFile:
    return PackageFile(tmp_path)


def row(name: str = "x", data: bytes = b"abc", **lies: Any) -> dict[str, Any]:
    return {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **lies}


# Writing


def test_a_written_package_can_be_read(package_file: PackageFile) -> None:
    (package_file.root / "file").write_bytes(os.urandom(200_000) + bytes(300_000))
    members = [
        Member("executions.jsonl", line(0) + line(1) + line(1, 2)),
        Member("log.txt", b"log " * 50_000), Member("empty", b""), *(Member(o, b"1") for o in ODD),
        Member("artifacts/2/file", path=str(package_file.root / "file")),
    ]  # fmt: skip
    digest, size = package_file.write(*members, job="id", tests=[1, 2])
    data = package_file.path.read_bytes()
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (digest, size)
    with package_file.open() as found:
        assert found.list_members() == [member.name for member in members]
        assert (found.manifest["job"], found.manifest["tests"]) == ("id", [1, 2])
        assert found.read("log.txt") == b"log " * 50_000
        assert found.read("artifacts/2/file") == (package_file.root / "file").read_bytes()
        assert list(found.read_executions()) == [(0, 1, RUN), (1, 1, RUN), (1, 2, RUN)]


def test_the_manifest_tells_size_and_digest_of_all_others(package_file: PackageFile) -> None:
    package_file.write(Member("x", b"abc"), Member("y", b""))
    assert package_file.open().manifest["members"] == [row(), row("y", b"")]


def test_the_same_members_make_the_same_bytes(
    package_file: PackageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [Member("x", b"abc" * 9999), Member("y", os.urandom(9999))]
    first = package_file.write(*members, b=1, a={"d": 1, "c": 2})
    monkeypatch.setattr("time.time", lambda: 0.0)
    os.umask(os.umask(0o077))
    assert package_file.write(*members, a={"c": 2, "d": 1}, b=1) == first


def test_the_bytes_are_those_of_every_python(package_file: PackageFile) -> None:
    """This holds for stored members; the output of deflate depends on the host's zlib."""
    package_file.write(Member("x", b"abc"), Member("ü", b"\0\1\2"))
    with zipfile.ZipFile(package_file.path) as archive:
        infos = [info for info in archive.infolist() if info.filename != "manifest.json"]
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {info.create_system for info in infos} == {3}
    assert package_file.path.read_bytes()[:35] == (
        b"PK\3\4\x14\0\0\0\0\0\0\0\x21\0" + zlib.crc32(b"abc").to_bytes(4, "little")
        + b"\3\0\0\0\3\0\0\0\1\0\0\0xabc\x50"[:17]
    )  # fmt: skip


def test_others_can_read_it(package_file: PackageFile) -> None:
    package_file.write(Member("x", b"abc" * 999), Member("ü/y", b""), Member("\udcff", b""))
    with zipfile.ZipFile(package_file.path) as archive:
        assert archive.testzip() is None
        assert archive.read("x") == b"abc" * 999
        assert archive.namelist()[:2] == ["x", "ü/y"]
        assert json.loads(archive.read("manifest.json"))["format"] == 1


def test_members_beyond_4_gib_have_the_fields_of_zip64(
    package_file: PackageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_package_writer, "_ZIP64_SIZE", 1000)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    package_file.write(
        Member("small", b"1"), Member("x", b"abc" * 999), Member("y", os.urandom(2000))
    )
    with zipfile.ZipFile(package_file.path) as archive:
        assert archive.testzip() is None
        assert archive.getinfo("x").file_size == 2997
    assert package_file.open().read("x") == b"abc" * 999


@pytest.mark.parametrize("count", [0xFFFE, 0x10001])
def test_more_members_than_16_bits_can_count(count: int, package_file: PackageFile) -> None:
    """With the manifest, the first number is the largest that 16 bits can count."""
    names = [f"{number}" for number in range(count)]
    package_file.write(*(Member(name, b"") for name in names))
    assert package_file.path.read_bytes()[-14:-10] == b"\xff" * 4
    with zipfile.ZipFile(package_file.path) as archive:
        assert archive.namelist() == [*names, "manifest.json"]
    assert package_file.open().list_members() == names


def test_a_member_that_compresses_too_well_is_stored_with_holes(package_file: PackageFile) -> None:
    package_file.write(Member("zeros", bytes(8 << 20)), Member("ys", b"y\n" * 99_999))
    with zipfile.ZipFile(package_file.path) as archive:
        assert archive.getinfo("zeros").compress_type == zipfile.ZIP_STORED
    assert package_file.path.stat().st_blocks * 512 < 1 << 20
    assert package_file.open(Limits(free=0)).read("zeros") == bytes(8 << 20)


def test_a_package_is_there_completely_or_not_at_all(package_file: PackageFile) -> None:
    def members() -> Iterator[Member]:
        yield Member("x", b"abc")
        assert not package_file.path.exists()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_package(str(package_file.path), {}, members())
    assert list(package_file.root.iterdir()) == []


def test_files_of_a_dead_writer_are_replaced(package_file: PackageFile) -> None:
    (package_file.root / "job.zip.part").write_bytes(b"garbage" * 9999)
    package_file.write(Member("x", b"abc"))
    assert package_file.open().read("x") == b"abc"
    assert [path.name for path in package_file.root.iterdir()] == ["job.zip"]


def test_file_and_folder_are_on_the_disk_before_it_has_its_name(
    package_file: PackageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def note(what: str, real: Callable[..., None], *values: Any) -> None:
        done.append(what)
        real(*values)

    monkeypatch.setattr(os, "fsync", lambda fd: note(os.readlink(f"/proc/self/fd/{fd}"), sync, fd))
    monkeypatch.setattr(os, "replace", lambda a, b: note("replace", replace, a, b))
    package_file.write(Member("x", b"abc"))
    assert done == [f"{package_file.path}.part", "replace", str(package_file.root)]


@pytest.mark.parametrize(
    "name",
    ["", "/x", "../x", "a/../x", "./x", "a//x", "x/", ".", "x\0", "\ud800", "n" * 256,
     "manifest.json", "twice"],
)  # fmt: skip
def test_a_member_with_no_good_name_is_not_written(name: str, package_file: PackageFile) -> None:
    with pytest.raises(BadPackage, match=r"\S"):
        package_file.write(Member("twice", b""), Member(name, b""))
    assert list(package_file.root.iterdir()) == []


def test_a_file_that_grows_or_is_a_link_does_no_harm(package_file: PackageFile) -> None:
    os.symlink("/etc/passwd", package_file.root / "link")
    with pytest.raises(OSError, match="symbolic link"):
        package_file.write(Member("x", path=str(package_file.root / "link")))
    os.mkfifo(package_file.root / "fifo")
    with pytest.raises(BadPackage, match="is not a file"):
        package_file.write(Member("x", path=str(package_file.root / "fifo")))


# Reading


def test_extracting_gives_all_members_as_files(package_file: PackageFile) -> None:
    package_file.write(Member("log.txt", b"log"), *(Member(name, b"1") for name in ODD))
    package_file.open().extract(str(package_file.target))
    found = {
        str(p.relative_to(package_file.target))
        for p in package_file.target.rglob("*")
        if p.is_file()
    }
    assert found == {"log.txt", "manifest.json", *ODD}
    assert (package_file.target / "log.txt").read_bytes() == b"log"


def test_extracting_replaces_nothing(package_file: PackageFile) -> None:
    package_file.target.mkdir()
    (package_file.target / "mine").touch()
    package_file.write(Member("x", b"abc"))
    with pytest.raises(FileExistsError, match="not empty"):
        package_file.open().extract(str(package_file.target))
    assert [path.name for path in package_file.target.iterdir()] == ["mine"]


def test_a_bomb_is_not_extracted(package_file: PackageFile) -> None:
    package_file.forge({b"x": b"fine", b"y": b"boom" * 500_000}, None, y={"method": 8})
    with (
        package_file.open(Limits(free=1 << 20)) as found,
        pytest.raises(BadPackage, match="of the disk"),
    ):
        found.extract(str(package_file.target))
    assert not package_file.target.exists()


NAMES = {
    b"../victim": "leads out", b"/tmp/victim": "absolute", b"a/../../x": "leads out",
    b"./x": "canonical form", b"a//x": "canonical form", b"a/": "canonical form", b"x\0y": "NUL",
    b"C:/x": "absolute", b"..\\x": "leads out", b"": "no name", b"n" * 300: "255",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere_is_refused(name: bytes, package_file: PackageFile) -> None:
    package_file.forge({name: b"abc"})
    found = package_file.refuse()
    assert (found.member, NAMES[name] in found.reason) == (name.decode(), True), found


BOTH = {b"x": b"abc", b"y": b"def"}
MANIFESTS: dict[str, tuple[Any, str, str]] = {
    "not in the manifest": ({"format": 1, "members": [row()]}, "y", "does not name it"),
    "not in the package": (
        {"format": 1, "members": [row(), row("y", b"def"), row("z")]}, "z", "it is missing",
    ),
    "twice": ({"format": 1, "members": [row(), row()]}, "x", "twice"),
    "itself": ({"format": 1, "members": [row("manifest.json")]}, "manifest.json", "twice"),
    "other size": ({"format": 1, "members": [row(size=4)]}, "x", "manifest says 4"),
    "other digest": (
        {"format": 1, "members": [row(sha256="0" * 64), row("y", b"def")]}, "x", "SHA-256",
    ),
    "format": ({"format": 2, "members": []}, "manifest.json", "reads format 1"),
    "no format": ({"members": []}, "manifest.json", "reads format 1"),
    "no members": ({"format": 1}, "manifest.json", "no list of members"),
    "members, a table": ({"format": 1, "members": {}}, "manifest.json", "no list of members"),
    "member, no table": ({"format": 1, "members": [1]}, "manifest.json", "not an object"),
    "size, a text": ({"format": 1, "members": [row(size="3")]}, "manifest.json", "without name"),
    "size, negative": ({"format": 1, "members": [row(size=-3)]}, "manifest.json", "without name"),
    "size, true": ({"format": 1, "members": [row(size=True)]}, "manifest.json", "without name"),
    "digest, null": ({"format": 1, "members": [row(sha256=None)]}, "manifest.json", "without"),
    "name, a number": ({"format": 1, "members": [row(name=1)]}, "manifest.json", "without name"),
    "a list": ([], "manifest.json", "no list of members"),
    "not JSON": (b"{", "manifest.json", ""),
    "not UTF-8": (b"\xff", "manifest.json", ""),
    "deep": (b"[" * 200_000, "manifest.json", "deep"),
    "deep tables": (b'{"a":' * 200_000, "manifest.json", "deep"),
    "infinite": (b'{"format": 1, "members": [], "x": Infinity}', "manifest.json", "invalid number"),
    "NaN": (b'{"format": 1, "members": [], "x": NaN}', "manifest.json", "invalid number"),
    "infinite, by digits": (b'{"x": 1e999}', "manifest.json", "too large"),
    "a number of many digits": (b'{"x": ' + b"9" * 5000 + b"}", "manifest.json", "digits"),
    "many values": (b"[" + b"[]," * 4_100_000 + b"1]", "manifest.json", "values"),
}  # fmt: skip


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_lies_is_refused(case: str, package_file: PackageFile) -> None:
    manifest, member, message = MANIFESTS[case]
    package_file.forge(BOTH, manifest)
    found = package_file.refuse()
    assert (found.member, message in found.reason) == (member, True), found


def test_a_package_without_a_manifest_is_refused(package_file: PackageFile) -> None:
    package_file.path.write_bytes(ZipBuilder().add(b"x").to_bytes())
    assert "manifest.json" in package_file.refuse().reason


def test_a_manifest_too_large_is_not_read(package_file: PackageFile) -> None:
    package_file.path.write_bytes(
        ZipBuilder().add(b"manifest.json", b" " * 5000, method=8).to_bytes()
    )
    assert "4000 bytes" in package_file.refuse(Limits(manifest=4000)).reason


def test_sizes_are_added_up_before_anything_is_inflated(package_file: PackageFile) -> None:
    made = ZipBuilder()
    for name in (b"x", b"y"):
        made.add(name, b"", method=8, size=1 << 31)
    package_file.path.write_bytes(made.add(b"manifest.json", b"{}").to_bytes())
    found = package_file.refuse(Limits(size=3 << 30))
    assert (found.member, "in total" in found.reason) == ("y", True)


@pytest.mark.parametrize("mode", [0o120777, 0o040755, 0o010644, 0o020644])
def test_a_member_that_is_no_file_is_refused(mode: int, package_file: PackageFile) -> None:
    package_file.forge({b"x": b"../victim"}, None, x={"mode": mode})
    assert "regular" in package_file.refuse().reason


def test_a_file_that_is_a_folder_too_is_refused(package_file: PackageFile) -> None:
    package_file.forge({b"a!": b"", b"a/b/c": b"", b"a-": b"", b"a": b""})
    assert package_file.refuse().member == "a"


@pytest.mark.parametrize("lie", [{"local_name": b"y"}, {"crc": 1}, {"flags": 1}, {"method": 99}])
def test_a_zip_that_lies_is_refused(lie: dict[str, Any], package_file: PackageFile) -> None:
    package_file.forge({b"x": b"abc"}, None, x=lie)
    assert package_file.refuse().member == "x"


def test_contents_that_change_after_the_look_are_not_returned(package_file: PackageFile) -> None:
    package_file.write(Member("x", os.urandom(100_000)))
    found = package_file.open()
    data = bytearray(package_file.path.read_bytes())
    data[50_000] ^= 1
    package_file.path.write_bytes(data)
    with pytest.raises(BadPackage, match="CRC"):
        found.read("x")


def test_a_large_member_is_not_read_at_once(package_file: PackageFile) -> None:
    package_file.write(Member("x", b"abc"))
    with pytest.raises(BadPackage, match="extract"):
        package_file.open(Limits(read=2)).read("x")


LINES = {
    "no list": b"{}\n", "too short": b"[1, 1]\n", "no test": b'["1", 1, []]\n',
    "test true": b"[true, 1, [1]]\n", "try 0": b"[1, 0, [1]]\n", "negative": b"[-1, 1, [1]]\n",
    "no JSON": b"[\n", "empty": b"\n", "no execution": b"[1, 1, 5]\n", "a text": b'[1, 1, "abc"]\n',
    "too many fields": b"[1, 1, [%s]]\n" % b", ".join([b"1"] * 40), "no end": line(1)[:-1],
    "infinite": b"[1, 1, [1, 1, 1, 1e999]]\n",
    "no stream": b'[1,1,[1,1,1,1,1,1,1,false,"","",5]]\n',
    "twice": line(1) + line(1), "out of order": line(2) + line(1), "deep": b"[" * 99_999 + b"\n",
    "text of a list": b'[1,1,[1,1,1,1,1,1,1,false,"","",[[],1,-1]]]\n',
    "outcome": line(1, 1, RUN._replace(parsed=ParsedOutput("tap", [Case("x", "perfect")]))),
}  # fmt: skip


@pytest.mark.parametrize("case", LINES)
def test_executions_that_are_none_are_refused(case: str, package_file: PackageFile) -> None:
    package_file.write(Member("executions.jsonl", LINES[case]))
    with pytest.raises(BadPackage, match=r"\S") as raised:
        list(package_file.open().read_executions())
    assert raised.value.member == "executions.jsonl"


def test_a_line_is_bounded(package_file: PackageFile) -> None:
    package_file.write(Member("executions.jsonl", b"[" + b" " * 200_000))
    with pytest.raises(BadPackage, match="a line of more than"):
        list(package_file.open(Limits(row=100_000)).read_executions())


def test_the_install_command_has_an_execution_or_none(package_file: PackageFile) -> None:
    package_file.write(
        Member("install.json", json.dumps(RUN).encode()), Member("bad.json", b"[1]x")
    )
    found = package_file.open()
    assert found.read_install() == RUN
    assert found.read_install("attempts/1/install.json") is None
    with pytest.raises(BadPackage):
        found.read_install("bad.json")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text(max_size=3),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=2), below),
    max_leaves=8,
)


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_row_is_an_execution_or_is_refused(data: st.DataObject) -> None:
    values = json.loads(json.dumps(RUN))
    for _ in range(data.draw(st.integers(1, 3))):
        values[data.draw(st.integers(0, len(values) - 1))] = data.draw(VALUES)
    try:
        found = result_package_reader._parse_execution(json.loads(json.dumps(values)))
    except ValueError:
        return
    assert isinstance(found, Execution)
    assert isinstance(found.stdout.text, str)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> PackageFile:
    package_file = PackageFile(tmp_path_factory.mktemp("sound"))
    package_file.write(Member("executions.jsonl", line(0)), Member("a/log", b"log " * 200))
    package_file.path.rename(package_file.root / "sound.zip")
    return package_file


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(changes=st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=3)), min_size=1))
def test_a_mutated_package_is_sound_or_refused(
    changes: list[tuple[int, bytes]], sound: PackageFile
) -> None:
    data = bytearray((sound.root / "sound.zip").read_bytes())
    for at, new in changes:
        at %= len(data)
        data[at : at + len(new)] = new
    sound.path.write_bytes(data)
    try:
        with sound.open() as found:
            assert {name: found.read(name) for name in found.list_members()} == {
                "executions.jsonl": line(0), "a/log": b"log " * 200,
            }  # fmt: skip
            found.extract(str(sound.target))
    except BadPackage:
        assert not sound.target.exists()
        return
    for path in sorted(sound.target.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    sound.target.rmdir()


def test_any_bytes_are_refused(package_file: PackageFile) -> None:
    for data in (b"", b"PK\3\4", b"PK\5\6" + bytes(17), os.urandom(3000)):
        package_file.path.write_bytes(data)
        package_file.refuse()
