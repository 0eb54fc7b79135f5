"""Tests that a host whose results are large is not taken for a hostile one."""

from __future__ import annotations

import os
import sys

import pytest

from tests.helpers.single_host_run import write_program
from tests.nasty.corpus import PROGRAMS

from .conftest import Project

_PYTHON = f"#!{sys.executable} -IS\n"
#: Programs with results of more than the frame guard passes at once; each with its outcome and
#: the words that the terminal must show.
LARGE = {
    "details": ((PROGRAMS / "large_failures.py").read_text(), "failed", "300 failed, 1 passed"),
    "cases": (
        _PYTHON
        + "print('\\n'.join(f'ok {n} - {n:01000}' for n in range(1, 20001)) + '\\n1..20000')",
        "passed",
        "",
    ),
    "too-many-cases": (
        _PYTHON + "print('\\n'.join(f'ok {n}' for n in range(1, 700001)) + '\\n1..700000')",
        "error",
        "its 700000 cases are too large for a result; none is kept",
    ),
    "binary": (
        _PYTHON + "import sys\nfor file in (sys.stdout, sys.stderr):\n"
        "    file.buffer.write(bytes([255]) * 6_000_000)\nsys.exit(1)",
        "failed",
        "exit 1",
    ),
    "commas": (
        _PYTHON + "import sys\nfor file in (sys.stdout, sys.stderr):\n"
        "    file.write(',' * 6_000_000)\nsys.exit(1)",
        "failed",
        "exit 1",
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_result_arrives_through_the_frame_guard(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    program, outcome, words = LARGE[name]
    ssh = '#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n'
    write_program(project.root.parent / "bin" / "ssh", ssh)
    monkeypatch.setenv("PATH", f"{project.root.parent / 'bin'}:{os.environ['PATH']}")
    project.ini("nosejobs_keep_output = 20000000")
    project.add("test_large", program)
    project.add("test_other.sh")
    done = project.run(f"--nosejobs=ssh=there//python={sys.executable}", "--tb=line", "-q")
    text = done.stdout.str()
    assert "sent" not in text
    assert "hosts lost" not in text
    assert words in text
    assert done.ret == (0 if outcome == "passed" else 1)
