"""Tests that the code for hosts runs with every other Python version that is installed."""

import glob
import io
import os
import re
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

from shell_runner.errors import HostOpenError
from shell_runner.hosts import gateway
from tests.helpers.queue_host import QueueHost
from tests.helpers.single_host_run import LEAVE_SLEEP, HostRun

SH = "#!/bin/sh\n"
_FOLDERS = [*os.get_exec_path(), "~/.pyenv/versions/*/bin", "/opt/python*/bin", "/usr/bin"]


@cache
def interpreters() -> dict[tuple[int, int], str]:
    """Return an interpreter of each other version, found in the usual folders."""
    paths: dict[tuple[int, int], str] = {}
    for pattern in _FOLDERS:
        for name in glob.glob(os.path.join(os.path.expanduser(pattern), "python[23].*")):
            version = _version(os.path.realpath(name))
            if version and version != sys.version_info[:2]:
                paths.setdefault(version, name)
    return paths


def _version(path: str) -> tuple[int, int] | None:
    """Return the version of an interpreter; of a script of pyenv that starts one, None.

    Its standard library is beside it.  To start each would take a second in each process that
    collects the tests.
    """
    folder, name = os.path.split(path)
    match = re.fullmatch(r"python(\d)\.(\d+)", name)
    if not match or not os.path.exists(os.path.join(folder, "..", "lib", name, "os.py")):
        return None
    return int(match[1]), int(match[2])


def versions(good: bool) -> list[object]:
    wanted = sorted(version for version in interpreters() if (version >= (3, 8)) is good)
    if not wanted:
        which = "another Python >= 3.8" if good else "a Python older than 3.8"
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"{which} is not installed"))]
    return [pytest.param(version, id="{}.{}".format(*version)) for version in wanted]


@pytest.mark.parametrize("version", versions(good=True))
def test_a_host_works_under_another_version(version: tuple[int, int], tmp_path: Path) -> None:
    spec = f"popen//python={interpreters()[version]}"
    with HostRun(tmp_path, spec, grace=0.2) as bench:
        assert bench.host.facts.python.startswith("{}.{}.".format(*version))
        bench.run(f"{SH}mkdir -p $TMPDIR/a/b; chmod 0 $TMPDIR/a; touch $HOME/x")
        execution = bench.run(f"{SH}ls -A $TMPDIR $HOME; printf '\\377'; echo err >&2; exit 3")
        assert (execution.exit_status, execution.stderr.text, execution.stdout.text[-1]) == (
            3,
            "err\n",
            "\udcff",
        )
        assert len(execution.stdout.text.split()) == 3
        assert bench.run(f"{SH}{LEAVE_SLEEP}; exit 0").leftovers == ("sleep",)
        assert bench.run(f"{SH}sleep 60", timeout=0.2).timed_out
        assert bench.run("#!/no/such\n").problem == "no-interpreter"
        assert bench.run(f"{SH}ls /proc/self/fd").stdout.text.split() == ["0", "1", "2", "3"]


@pytest.mark.parametrize("version", versions(good=False))
def test_a_version_that_is_too_old_is_refused(version: tuple[int, int], tmp_path: Path) -> None:
    python = interpreters()[version]
    with pytest.raises(HostOpenError) as caught, HostRun(tmp_path, f"popen//python={python}"):
        pass
    assert "3.8" in str(caught.value)


#: An install command that hangs in the first of two attempts.
INSTALL = """
flag="$NOSEJOBS_BUILD/../../../again"
test -e "$flag" || {
    touch "$flag"
    echo here >"$NOSEJOBS_BUILD/../../../../script.fifo"
    sleep 1000
}
echo x >"$NOSEJOBS_PREFIX/x"
"""
#: A program that takes a job from its submission to its package, with the code for hosts.
QUEUE = """\
import sys
sys.path.insert(0, sys.argv[1])
from nosejobs_host.jobs import queue
from nosejobs_host.protocol import job, model
name = "12345678-1234-1234-1234-123456789012"
worker = job.Identity(1, "2", "3")
case = job.JobTest("t\\udcff", model.Test(0, "t\\udcff"))
new = job.NewJob(name, job.Content("tree", "d", 1), cases=(case,), labels=("x",))
with queue.Queue(sys.argv[2]) as one:
    row = one.submit(new, "c", 1.0)
    assert one.submit(new, "c", 2.0) == row == one.find("1234") == one.list_jobs(label="x")[0]
    assert one.get_tests(row.number) == [case]
    one.register_worker(worker, "c", 1.0)
    _, attempt = one.claim(worker, "c", "a", 1.0)
    one.record_executions("a", [(0, 1, "passed", "{}")])
    assert list(one.read_executions("a")) == [(0, 1, "passed", "{}")]
    assert one.list_stale_attempts(worker) == []
    one.finish("a", queue.EndReason.COMPLETED, "", 1.0)
    one.acknowledge(one.record_package(1, "d", 1, 1.0), "d", 1.0)
    print("%s %s" % (one.forget(row, False).state, one.deregister_if_idle(worker)))
with open(sys.argv[2] + "/queue.db", "w") as file:
    file.write("no database" * 1000)
try:
    queue.Queue(sys.argv[2])
except queue.RequestRefused as refused:
    print(refused.kind)
"""


@pytest.mark.parametrize("version", [sys.version_info[:2], *versions(good=True)])
def test_a_queue_works_under_another_version(version: tuple[int, int], tmp_path: Path) -> None:
    digest, data = gateway.pack_host_code()
    zipfile.ZipFile(io.BytesIO(data)).extractall(tmp_path / digest)
    (tmp_path / "jobs").mkdir()
    python = interpreters().get(version, sys.executable)
    command = [python, "-I", "-S", "-c", QUEUE, tmp_path / digest, tmp_path / "jobs"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("harvested True\ncorrupt\n", "")


@pytest.mark.parametrize("version", versions(good=True))
def test_a_worker_works_under_another_version(version: tuple[int, int], tmp_path: Path) -> None:
    with QueueHost(tmp_path / "jobs") as host:
        build = host.tree({"made": ""})
        job = host.submit({"test_a": "cat $NOSEJOBS_PREFIX/x"}, build=build, install=INSTALL)
        killed = host.worker(interpreters()[version])
        host.fifo.read_line()
        killed.kill()
        killed.wait()
        assert host.worker(interpreters()[version]).wait(60) == 0, host.log()
        package = host.package(job)
        assert package.executions()[0, 1].stdout.text == "x\n"
        assert package.manifest["host"]["python"].startswith("{}.{}.".format(*version))
        assert package.manifest["attempt"]["number"] == 2
        assert host.log().count("its worker died") == 1


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/false", "/bin/cat"])
def test_a_program_that_is_not_python_is_refused(python: str, tmp_path: Path) -> None:
    with pytest.raises(HostOpenError) as caught, HostRun(tmp_path, f"popen//python={python}"):
        pass
    assert python in str(caught.value)
