"""Tests of two runs on one host over ssh: they share its slots, and report when they wait."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.helpers.single_host_run import write_program
from tests.helpers.sshd import Sshd

NOTE = "#!/bin/sh\n# nosejobs: {metadata}\necho + >> {log}\n{body}\necho - >> {log}\n"


def start(folder: Path, spec: str) -> subprocess.Popen[str]:
    (folder / "pytest.ini").touch()
    ours = ["-p", "no:cacheprovider", f"--rootdir={folder}", f"--nosejobs={spec}"]
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *ours],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_runs_share_a_host_and_the_second_says_that_it_waits(
    sshd: Sshd, tmp_path: Path
) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    log.touch()
    for name, metadata, body in (
        ("a/test_1", "lock=host:gpu timeout=60", f"until [ -e {go} ]; do sleep 0.05; done"),
        ("b/test_1", "tags=x", "sleep 0.05"),
        ("b/test_2", "lock=host:gpu", "sleep 0.05"),
        ("b/test_3", "serial", "sleep 0.05"),
    ):
        write_program(tmp_path / name, NOTE.format(metadata=metadata, log=log, body=body))
    with start(tmp_path / "a", sshd.spec(slots=1)) as one:
        deadline = time.monotonic() + 20
        while not log.read_text():
            assert time.monotonic() < deadline, "the first run has not started its test"
            time.sleep(0.02)
        with start(tmp_path / "b", sshd.spec(slots=1)) as two:
            assert two.stdout is not None
            waiting_line = next((line for line in two.stdout if "waiting for " in line), "")
            meanwhile = log.read_text()
            go.touch()
            rest = two.communicate(timeout=60)[0]
        first = one.communicate(timeout=60)[0]
    assert meanwhile == "+\n", f"{first}\n{waiting_line}{rest}"
    assert "1 passed" in first
    assert waiting_line.startswith("nosejobs: there: waiting for ")
    assert "3 passed" in rest
    assert log.read_text().split() == ["+", "-"] * 4
