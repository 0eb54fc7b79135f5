"""Tests of hostile archives, from the command to the host's disk, and of hostile packages.

Each is refused by name, and no file is written outside its folder.  The unit tests of the modules
cover each kind of invalid archive in detail.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import struct
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from shell_runner.cli.main import main
from shell_runner.jobs import submission
from shell_runner.jobs.client import JobClient
from shell_runner.remote.jobs import paths, queue, queue_location
from shell_runner.remote.protocol.job import JobConfig
from tests.helpers import job_hosts
from tests.helpers.archive_bytes import (
    ZipBuilder,
    file,
    folder,
    hard_link,
    link,
    sparse,
    tar,
    tar_header,
)

pytestmark = pytest.mark.timeout(120)


class User:
    """A user of ``nosejobs job``, with this machine as the host."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.here = home / "here"
        self.here.mkdir()
        self.tests = home / "tests"
        job_hosts.write_script(self.tests, "test_a.sh", "echo fine")

    def job(self, *words: object, status: int = 0) -> tuple[str, str]:
        """Run a command; return its standard output and standard error."""
        done = CliRunner().invoke(main, ["job", *map(str, words)])
        assert done.exit_code == status, f"{words}: {done.exit_code}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout, done.stderr

    def submit(self, *words: object) -> str:
        """Submit the tests; return the UUID of the job."""
        return self.job("submit", "--tests", self.tests, *words)[0].strip()

    def list_files(self) -> set[str]:
        """Return the paths of all files except those of the queue and its worker."""
        paths_below = {str(path.relative_to(self.home)) for path in self.home.rglob("*")}
        return {path for path in paths_below if "/jobs/" not in path or "/work/" in path}


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    with job_hosts.isolate_state(tmp_path):
        new_user = User(tmp_path)
        monkeypatch.chdir(new_user.here)
        monkeypatch.setenv("NOSEJOBS_HOST", "popen")
        yield new_user


# -- archives ---------------------------------------------------------------------------

#: Invalid builds by name: the archive, the invalid member, and a part of the error message.
BUILDS: dict[str, tuple[bytes, str, str]] = {
    "path-traversal": (tar(file(b"../../victim", b"x")), "../../victim", "leads out"),
    "absolute-name": (tar(file(b"/tmp/nosejobs-victim", b"x")), "/tmp/nosejobs-victim", "absolute"),
    "symlink-out": (tar(link(b"l", b"../../victim")), "l", "out of the folder"),
    "through-a-symlink": (tar(link(b"l", b"."), file(b"l/x")), "l/x", "its folder is a link"),
    "hard-link-out": (tar(hard_link(b"h", b"../../victim")), "h", "leads out"),
    "device": (tar(tar_header(b"null", b"3")), "null", "character device"),
    "FIFO": (tar(tar_header(b"pipe", b"6")), "pipe", "FIFO"),
    "duplicate-name": (tar(folder(b"d/"), file(b"d/a"), file(b"d/a")), "d/a", "twice"),
    "zip-path-traversal": (ZipBuilder().add(b"../victim").to_bytes(), "../victim", "leads out"),
    "zip-symlink-out": (
        ZipBuilder().add(b"l", b"../../victim", mode=0o120777).to_bytes(), "l", "out of the folder",
    ),
    "zip-duplicate-name": (ZipBuilder().add(b"a").add(b"a").to_bytes(), "a", "twice"),
    "bomb": (
        tar(tar_header(b"b", size=b"\x80" + ((64 << 30) + 1).to_bytes(11, "big"))),
        "b", "bytes; the limit is 68719476736",
    ),
    "sparse": (
        tar(tar_header(b"s", b"S", 0, sparse=sparse(real=(1 << 33) - 1))), "s", "without --sparse",
    ),
    "zip-bomb": (
        ZipBuilder().add(b"b", b"boom" * 4096, method=8, size=0xFFFFFFF0).to_bytes(),
        "b",
        "it claims",
    ),
    "wrong-digest": (ZipBuilder().add(b"a", b"data", crc=1).to_bytes(), "a", "CRC"),
    "no-archive": (b"#!/bin/sh\nrm -rf /\n" * 99, "", "is not a zip or tar archive"),
}  # fmt: skip


def test_a_hostile_build_is_refused_by_name(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host refuses each build by itself, and none prevents the next job from running."""
    # Another client may send an archive without checking it.
    monkeypatch.setattr(submission, "_check_archive", lambda archive: None)
    jobs = {}
    with JobClient(job_hosts.POPEN) as client:
        for name, (data, _, _) in BUILDS.items():
            path = tmp_path / f"{name}.bin"
            path.write_bytes(data)
            jobs[name] = str(uuid.uuid4())
            config = JobConfig(keep_workspace="always")
            ready = job_hosts.prepare_submission(
                job_hosts.JobDescription(user.tests, path, config=config),
                job_hosts.POPEN,
                jobs[name],
            )
            client.submit(ready.job, ready.trees)
            if name == "path-traversal":
                before = user.list_files()
    sound = user.submit()
    user.job("harvest", "--wait", sound)
    for name, (_, member, why) in BUILDS.items():
        with queue.Queue(queue_location.find_queue_folder()) as there:
            row = there.find(jobs[name])
            (attempt,) = there.get_attempts(row.number)
        assert str(row.end_reason) == "refused", name
        assert row.detail.startswith("the build cannot be unpacked: "), name
        assert why in row.detail, (name, row.detail)
        assert repr(member) in row.detail or not member, (name, row.detail)
        work = Path(paths.workspace_path(queue_location.find_queue_folder(), attempt.id))
        assert os.listdir(work / "build") == [], name
        assert os.listdir(work / "tests") == [], name
    new = {path for path in user.list_files() - before if "/work/" not in path}
    assert {path for path in new if "victim" in path} == set()
    assert not Path("/tmp/nosejobs-victim").exists()


def test_what_a_refused_build_says(user: User, tmp_path: Path) -> None:
    path = tmp_path / "it.tar"
    path.write_bytes(BUILDS["symlink-out"][0])
    job = user.submit("--build", path)
    out, _ = user.job("harvest", "--wait", job, "--junitxml", "r.xml", status=6)
    message = "the build cannot be unpacked: 'l': "
    assert f"ERROR test_a.sh - {message}" in out or message in out
    assert message in user.job("show", job)[0]
    assert "<error" in (user.here / "r.xml").read_text()


def test_hostile_tests_do_not_leave_their_sender(user: User, tmp_path: Path) -> None:
    """The client unpacks the archive to list its tests, by the same rules as a host."""
    path = tmp_path / "tests.tar"
    path.write_bytes(BUILDS["path-traversal"][0])
    _, err = user.job("submit", "--tests", path, status=2)
    assert "'../../victim': " in err
    assert not (tmp_path.parent / "victim").exists()


# -- packages ------------------------------------------------------------------------------


class Forger:
    """A host that sends a forged package, of which its queue has digest and size."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.job = user.submit()
        user.job("harvest", "--wait", "--no-ack", self.job)
        (user.here / f"{self.job}.zip").unlink()
        job_hosts.await_worker()
        self.path = Path(paths.package_path(queue_location.find_queue_folder(), self.job))
        self.sound = self.path.read_bytes()
        self.members = read_members(self.path)

    def replace_package(self, data: bytes, digest: str = "", size: int = -1) -> None:
        """Replace the package by ``data``, with this digest and size in the queue, by default the
        true ones.
        """
        self.path.write_bytes(data)
        values = (
            digest or hashlib.sha256(data).hexdigest(),
            len(data) if size < 0 else size,
            self.job,
        )
        with (
            closing(sqlite3.connect(Path(queue_location.find_queue_folder()) / "queue.db")) as db,
            db,
        ):
            db.execute("UPDATE job SET package_digest = ?, package_size = ? WHERE id = ?", values)

    def forge(self, **changes: Any) -> bytes:
        """Return a package with changes: ``manifest`` fields, members ``instead``, and members to
        ``add``.
        """
        rows = dict(self.members)
        manifest = {**json.loads(rows.pop("manifest.json")), **changes.get("manifest", {})}
        rows.update(changes.get("instead", {}))
        added: list[tuple[bytes, bytes, dict[str, Any]]] = changes.get("add", [])
        every = [(name.encode(), data, {}) for name, data in rows.items()] + added
        manifest["members"] = [
            {"name": name.decode(), "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data, _ in every
        ]
        made = ZipBuilder()
        for name, data, lies in every:
            made.add(name, data, **lies)
        return made.add(b"manifest.json", json.dumps(manifest).encode()).to_bytes()

    def assert_refused(self, *words: str) -> None:
        """Check that the package is refused with these texts, leaves no file, and is not
        acknowledged.
        """
        before = self.user.list_files()
        into = self.user.here / "into"
        command = ("harvest", self.job, "--into", into, "--junitxml", self.user.here / "r.xml")
        _, err = self.user.job(*command, status=6)
        for word in words:
            assert word in err, err
        assert "nothing was acknowledged" in err
        assert self.user.list_files() == before
        assert os.listdir(self.user.here) == []
        with queue.Queue(queue_location.find_queue_folder()) as there:
            assert str(there.find(self.job).state) == "ready"


def read_members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_hostile_package_is_refused_by_name(user: User) -> None:
    """A host sends other bytes in place of the package of a job."""
    forger = Forger(user)
    sound, job = forger.sound, forger.job
    spoilt = bytearray(sound)
    spoilt[len(sound) // 2] ^= 1

    forger.replace_package(bytes(spoilt), hashlib.sha256(sound).hexdigest())
    forger.assert_refused("does not match its digest")
    forger.replace_package(bytes(spoilt))
    forger.assert_refused(f"the package of job {job} is refused: ")
    forger.replace_package(forger.forge(add=[(b"../../victim", b"x", {})]))
    forger.assert_refused("is refused: '../../victim': ", "leads out")
    forger.replace_package(forger.forge(add=[(b"/tmp/nosejobs-victim", b"x", {})]))
    forger.assert_refused("is refused: '/tmp/nosejobs-victim': ", "absolute")
    forger.replace_package(forger.forge(add=[(b"log.txt", b"x", {})]))
    forger.assert_refused("is refused: 'log.txt': ", "twice")
    forger.replace_package(forger.forge(add=[(b"link", b"/etc/passwd", {"mode": 0o120777})]))
    forger.assert_refused("is refused: 'link': ", "regular")
    forger.replace_package(
        forger.forge(add=[(b"b", b"boom" * 9, {"method": 8, "size": 0xFFFFFFF0})])
    )
    forger.assert_refused("is refused: 'b': ")
    forger.replace_package(forger.forge(instead={"executions.jsonl": b""}))
    forger.assert_refused("it has 1 test, but executions of 0")
    other = {**json.loads(forger.members["manifest.json"])["job"], "id": str(uuid.uuid4())}
    forger.replace_package(forger.forge(manifest={"job": other}))
    forger.assert_refused("it belongs to another job")
    forger.replace_package(struct.pack("<4s", b"PK\3\4") + os.urandom(999))
    forger.assert_refused(f"the package of job {job} is refused: ")
    # The true package is still accepted afterwards.
    forger.replace_package(sound)
    assert "1 passed" in user.job("harvest", job)[0]
    assert not Path("/tmp/nosejobs-victim").exists()


def test_a_package_of_another_size_is_refused(user: User) -> None:
    """Bytes after the announced size are not read, and a package that ends early is refused."""
    forger = Forger(user)
    forger.replace_package(forger.sound + b"x" * 4096, size=len(forger.sound))
    forger.assert_refused("does not match its digest")
    forger.replace_package(forger.sound[:-100], size=len(forger.sound))
    _, err = user.job("harvest", forger.job, status=6)
    assert "0 bytes of a package where 100 were requested" in err
    forger.replace_package(forger.sound, size=1 << 50)
    _, err = user.job("harvest", forger.job, status=2)
    assert "the package needs" in err
    assert not (user.here / f"{forger.job}.zip").exists()
