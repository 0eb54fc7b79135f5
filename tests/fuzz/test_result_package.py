"""Fuzz the readers of result packages: right digests around odd values.

Each package is read as a dispatcher records it and as ``nosejobs job harvest`` writes its files.
A malformed one is refused by name; nothing else may happen.
"""

from __future__ import annotations

import copy
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dispatcher.builds import build_artifact
from dispatcher.builds.blob_store import BlobStore
from dispatcher.builds.build_artifact import BuildFailed
from dispatcher.configuration.pipeline import BuildConfig
from dispatcher.hosts import package_rows
from dispatcher.hosts.job_builder import job_fingerprint
from shell_runner.errors import HostError
from shell_runner.jobs import results
from shell_runner.remote.jobs.result_package_format import EXECUTIONS, INSTALL, Member
from shell_runner.remote.jobs.result_package_writer import write_package
from shell_runner.remote.protocol.job import TREE, Content, JobConfig, JobTest
from shell_runner.remote.protocol.model import CapturedStream, Case, Execution, ParsedOutput
from shell_runner.remote.protocol.model import Test as Program
from tests.helpers import fuzzing
from tests.helpers.json_mutation import change_json
from tests.helpers.package_factories import make_tar

JOB = "00000000-0000-4000-8000-000000000001"
OUTPUT = "artifacts/0/output.tar"


def make_contents() -> dict[str, Any]:
    """Return the JSON values of a valid package that uses every field."""
    program = Program(
        0, "a/test_\udcff.sh", 5.0, ("sh", "-e"), env=(("A", "b"),), pass_env=("X*",), estimate=1.5,
        output_format="tap", limits=(("nofile", 9),), locks=("db",), serial=True,
    )  # fmt: skip
    tests = [
        JobTest("a/test_\udcff.sh", program, 2, "", (("owner", "ann"),)),
        JobTest("test_b.sh", Program(1, "test_b.sh"), unmet="requires docker"),
    ]
    case = Case("one", "failed", "boom", "rate: 3 ms", 0.5, "group", (("speed", "4 ms"),))
    execution = Execution(
        0, 2, 1, 1e9, 0.5, 1, stdout=CapturedStream("out\udcff", 5, 2), leftovers=("sleep",),
        max_rss=9, cpu_seconds=0.1, parsed=ParsedOutput("tap", [case], "planned 2, saw 1"),
        artifacts=(("output.tar", 10),),
    )  # fmt: skip
    attempt = {"id": JOB, "number": 1, "detail": "", "started_at": 1e9, "ended_at": 1e9}
    values = {
        "manifest": {
            "job": {"id": JOB, "name": "n", "labels": ["l"], "priority": 0, "submitted_at": 1e9},
            "end_reason": "install-failed", "detail": "d", "attempt": attempt,
            "attempts": [attempt], "config": JobConfig(retries=2)._asdict(),
            "build": None, "content": Content(TREE, "a" * 64, 3, "t"),
            "host": {"name": "h", "cores": 2}, "tests": tests,
        },
        "executions": [
            [0, 1, execution], [0, 2, Execution(0, 2, exit_status=0)],
            [1, 1, Execution(1, problem="unmet-requirement", detail="requires docker")],
        ],
        "install": Execution(0, exit_status=1, stderr=CapturedStream("no\n", 3)),
    }  # fmt: skip
    return json.loads(json.dumps(values))  # type: ignore[no-any-return]


def write(path: Path, contents: Any) -> None:
    """Write a package whose digests are right, whatever its values are."""
    rows = contents["executions"]
    lines = [json.dumps(row) + "\n" for row in (rows if isinstance(rows, list) else [rows])]
    members = [
        Member(EXECUTIONS, "".join(lines).encode()),
        Member(INSTALL, json.dumps(contents["install"]).encode()),
        Member("log.txt", b"build | \xff\x1b[31mred\n"),
        Member(OUTPUT, make_tar({"app": b"the app\n"})),
    ]
    manifest = contents["manifest"]
    write_package(str(path), manifest if isinstance(manifest, dict) else {}, members)


class Reader:
    """Reads packages in a folder of its own, in both ways."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "job.zip"
        self._database = sqlite3.connect(":memory:")
        self._blobs = BlobStore(folder / "blobs")

    def read(self, contents: Any) -> None:
        """Read a package of these contents; anything but a refusal by name is raised."""
        write(self.path, contents)
        for read in (self._record, self._harvest):
            refusal = ""
            try:
                read()
            except HostError as error:
                refusal = str(error)
            assert not refusal or f"the package of job {JOB} is refused: " in refusal
            assert refusal.replace("\n  try: ", "").isprintable()
            assert len(refusal) < 1500

    def _record(self) -> None:
        """Do with the package as a dispatcher does; check that the database can hold the rows."""
        with package_rows.open_verified(self.path, "h1", JOB) as package:
            rows = package_rows.read_rows(package, JOB)
            manifest = package.manifest
            nodeids = [row[0] for row in manifest["tests"]]
            job_fingerprint(manifest.get("content"), manifest.get("build"), nodeids)
            package_rows.log_tail(package)
            try:
                build_artifact.failure_reason(package, BuildConfig("make", "app"))
                build_artifact.store_artifact(package, BuildConfig("make", "app"), self._blobs)
            except BuildFailed:
                pass
        texts = [rows.end_reason, rows.detail, *rows.durations]
        for row in (*rows.results, *rows.cases, *rows.measurements):
            texts += [value for value in row if isinstance(value, str)]
            self._database.execute(f"SELECT {','.join('?' * len(row))}", row)
        assert all(text.replace("\n", "").replace("\t", "").isprintable() for text in texts)

    def _harvest(self) -> None:
        """Do with the package as ``nosejobs job harvest`` does."""
        client: Any = SimpleNamespace(spec=SimpleNamespace(id="h1"), download=self._download)
        into, report = self.folder / "into", self.folder / "report.xml"
        shutil.rmtree(into, ignore_errors=True)
        result = results.harvest(client, JOB, self.path, into, report, lambda done, total: None)
        assert isinstance(result, tuple)

    def _download(self, job: str, path: Path, verify: Callable[[Path], None], _: object) -> None:
        verify(path)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def test_the_package_that_is_changed_is_valid(reader: Reader) -> None:
    write(reader.path, make_contents())
    reader._record()
    reader._harvest()


def test_found_cases(reader: Reader) -> None:
    for case in fuzzing.load_corpus("result_package"):
        reader.read(json.loads(case))


def test_odd_values_are_refused_by_name(reader: Reader) -> None:
    contents = make_contents()
    for rng in fuzzing.iterate_seeds():
        part = rng.choice(("manifest", "executions", "install"))
        changed = copy.copy(contents)
        changed[part] = change_json(rng, contents[part])
        reader.read(changed)
