"""Result packages as a host would build them, without a host."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from shell_runner.remote.jobs import result_package_writer
from shell_runner.remote.jobs.result_package_format import EXECUTIONS, Member, encode_execution_line
from shell_runner.remote.protocol.job import JobTest, NewJob
from shell_runner.remote.protocol.model import Execution


def write_package(
    path: Path,
    job: str,
    tests: Sequence[JobTest],
    executions: Sequence[tuple[int, int, Execution]],
    members: Mapping[str, bytes] | None = None,
    end_reason: str = "completed",
    **manifest: object,
) -> Path:
    """Write a package; ``executions`` has number of the test, attempt and Execution of each row."""
    rows = b"".join(
        encode_execution_line(test, number, json.dumps(execution))
        for test, number, execution in executions
    )
    all_members = [Member(EXECUTIONS, rows)]
    all_members += [Member(name, data) for name, data in (members or {}).items()]
    full_manifest = {
        "job": {"id": job},
        "end_reason": end_reason,
        "detail": "",
        "tests": list(tests),
        **manifest,
    }
    result_package_writer.write_package(str(path), full_manifest, all_members)
    return path


def write_job_package(
    path: Path, job: NewJob, exit: int = 0, end_reason: str = "completed"
) -> Path:
    """Write a package in which all tests have the same exit status.

    The build command leaves a file ``app``.
    """
    executions = [
        (n, 1, Execution(n, exit_status=exit, duration=0.5)) for n in range(len(job.cases))
    ]
    members = {"log.txt": b"nosejobs | attempt 1\nbuild | all is well\n"}
    if [case.nodeid for case in job.cases] == ["build"]:
        members["artifacts/0/output.tar"] = make_tar({"app": b"the app\n"})
    contents = {"content": job.tests, "build": job.build}
    return write_package(path, job.id, job.cases, executions, members, end_reason, **contents)


def make_tar(files: Mapping[str, bytes]) -> bytes:
    """Return a tar archive of a folder with these files, as tar(1) makes it."""
    data_file = io.BytesIO()
    with tarfile.open(fileobj=data_file, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size, member.mode = len(data), 0o755
            archive.addfile(member, io.BytesIO(data))
    return data_file.getvalue()
