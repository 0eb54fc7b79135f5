"""Two runs on one host over ssh: they share its slots, and say when they wait."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.bench import write
from tests.sshd import Sshd

NOTE = '#!/bin/sh\n{comment}\necho "+" >> {log}\nsleep {seconds}\necho "-" >> {log}\n'


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
    log = tmp_path / "log"
    log.touch()
    long = "# nosejobs: lock=host:gpu"
    write(tmp_path / "a/test_1", NOTE.format(comment=long, log=log, seconds=6.3))
    for name in ("b/test_1", "b/test_2", "b/test_3"):
        comment = "# nosejobs: serial" if name == "b/test_3" else ""
        write(tmp_path / name, NOTE.format(comment=comment, log=log, seconds=0.05))
    with start(tmp_path / "a", sshd.spec(slots=1)) as one:
        deadline = time.monotonic() + 20
        while not log.read_text():
            assert time.monotonic() < deadline, "the first run has not started its test"
            time.sleep(0.02)
        with start(tmp_path / "b", sshd.spec(slots=1)) as two:
            said = two.communicate(timeout=60)[0]
        assert "1 passed" in one.communicate(timeout=60)[0]
    assert "3 passed" in said
    assert said.count("nosejobs: there: waiting for ") == 1
    assert log.read_text().split() == ["+", "-"] * 4
