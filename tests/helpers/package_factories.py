"""Result packages as a host would make them, without a host."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from shell_runner.remote.jobs import package_writer
from shell_runner.remote.jobs.package_format import EXECUTIONS, Member, encode_execution_line
from shell_runner.remote.protocol.job import JobTest, NewJob
from shell_runner.remote.protocol.model import Execution


def write_package(
    path: Path,
    job: str,
    tests: Sequence[JobTest],
    executions: Sequence[tuple[int, int, Execution]],
    members: Mapping[str, bytes] | None = None,
    how: str = "completed",
    **manifest: object,
) -> Path:
    """A package; ``executions``: test, try and what happened."""
    rows = b"".join(
        encode_execution_line(test, number, json.dumps(execution))
        for test, number, execution in executions
    )
    found = [Member(EXECUTIONS, rows)]
    found += [Member(name, data) for name, data in (members or {}).items()]
    whole = {"job": {"id": job}, "how": how, "detail": "", "tests": list(tests), **manifest}
    package_writer.write_package(str(path), whole, found)
    return path


def write_job_package(path: Path, job: NewJob, exit: int = 0, how: str = "completed") -> Path:
    """One in which all tests end so; a build command leaves a file called ``app``."""
    executions = [
        (n, 1, Execution(n, exit_status=exit, duration=0.5)) for n in range(len(job.cases))
    ]
    members = {"log.txt": b"nosejobs | attempt 1\nbuild | all is well\n"}
    if [case.nodeid for case in job.cases] == ["build"]:
        members["artefacts/0/output.tar"] = make_tar({"app": b"the app\n"})
    told = {"content": job.tests, "build": job.build}
    return write_package(path, job.id, job.cases, executions, members, how, **told)


def make_tar(files: Mapping[str, bytes]) -> bytes:
    """As make_tar(1) makes it of a folder."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size, member.mode = len(data), 0o755
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()
