"""Tests of ``make demo-dispatcher`` without the installation."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[3]


def test_a_commit_comes_to_ship_and_a_bad_one_is_stopped(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "dispatcher" / "demo.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "level     ship" in lines
    assert any(line.startswith("performance rate = ") for line in lines)
    assert "now       stopped at unit" in lines
    assert "tests/unit/test_lines.sh | 3 words, and tally says 4" in lines
    stages = [line.split() for line in lines if "passed" in line and " yes " in line]
    assert [row[0] for row in stages] == [
        "unit", "smoke", "regression", "performance", "scalability", "resilience",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    left = [p.info for p in psutil.process_iter(["pid", "cmdline"]) if belongs_to_demo(p, tmp_path)]
    assert left == []


def belongs_to_demo(process: psutil.Process, folder: Path) -> bool:
    """Return whether a process belongs to the demo."""
    return any(str(folder) in each for each in process.info["cmdline"] or ())


def test_pytest_leaves_the_sample_to_the_dispatcher() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "examples"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "test_sort.sh" in done.stdout
    assert "examples/dispatcher" not in done.stdout
