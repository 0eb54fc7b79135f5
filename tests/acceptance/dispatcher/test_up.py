"""``nosejobs up`` as a process: where it answers, one a folder, how it ends, logs as they come."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]
NOSEJOBS = (sys.executable, "-m", "dispatcher")
SETTINGS = """
[dispatcher]
listen = "127.0.0.1:0"
data = "data"
[sources.app]
directory = "app"
[pools.here]
"""
TREE = """
[stages.unit]
timeout = 60
"""
TEST = """#!/bin/sh
echo "the first line"
until [ -e {gate} ]; do sleep 0.05; done
echo "the last line"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dispatcher's, with a tree of one test that waits for a file."""
    (tmp_path / "dispatcher.toml").write_text(SETTINGS)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "nosejobs.toml").write_text(TREE)
    test = tmp_path / "app" / "test_slow.sh"
    test.write_text(TEST.format(gate=tmp_path / "gate"))
    test.chmod(0o755)
    return tmp_path


def environment() -> dict[str, str]:
    found = {**os.environ, "PYTHONPATH": str(ROOT)}
    found.pop("NOSEJOBS_URL", None)
    return found


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Until it answers."""
    process = subprocess.Popen(
        [*NOSEJOBS, "up"], cwd=folder, env=environment(), stderr=subprocess.PIPE
    )
    until(lambda: (folder / "data" / "url").is_file() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    return process


@pytest.fixture
def up(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = start(folder)
    yield process
    if process.poll() is None:
        process.kill()
        process.communicate()
    # An agent outlives a dispatcher that was killed: the next one takes it down.
    for each in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in each.info["cmdline"] or ()):
            each.kill()


def until(ready: object, seconds: float = 40.0) -> None:
    assert callable(ready)
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NOSEJOBS, *arguments], cwd=folder, env=environment(), capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip


def test_a_folder_has_one_dispatcher_until_ctrl_c(
    folder: Path, up: subprocess.Popen[bytes]
) -> None:
    url = (folder / "data" / "url").read_text().strip()
    assert requests.get(f"{url}/api/v1/status", timeout=20).ok
    done = run(folder, "up")
    assert done.returncode == 2
    assert f"another dispatcher (process {up.pid}) works with" in done.stderr
    up.send_signal(signal.SIGINT)
    words = up.communicate(timeout=30)[1].decode()
    assert up.returncode == 0
    assert f"nosejobs dispatcher: {url}, data in {folder / 'data'}" in words
    assert "Traceback" not in words
    assert not (folder / "data" / "url").exists()
    assert run(folder, "builds", "--url", url).returncode == 6


def test_a_log_is_followed_through_a_kill_of_the_dispatcher(
    folder: Path, up: subprocess.Popen[bytes]
) -> None:
    until(lambda: run(folder, "show", "latest", "--json").returncode == 0)
    url = (folder / "data" / "url").read_text().strip()
    follower = subprocess.Popen(
        [*NOSEJOBS, "logs", "-f", "1", "unit", "--url", url], cwd=folder, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert follower.stdout is not None
    try:
        lines = iter(follower.stdout.readline, b"")
        assert any(b"the first line" in line for line in lines)
        up.kill()
        up.communicate()
        (folder / "data" / "url").unlink()
        port = url.rpartition(":")[2]
        text = SETTINGS.replace('"127.0.0.1:0"', f'"127.0.0.1:{port}"')
        (folder / "dispatcher.toml").write_text(text)
        again = start(folder)
        try:
            (folder / "gate").touch()
            rest = b"".join(lines)
            assert rest.count(b"the last line") == 1
            assert b"the first line" not in rest
            assert follower.wait(30) == 0
            assert run(folder, "show", "1", "--wait").returncode == 0
        finally:
            again.send_signal(signal.SIGINT)
            again.communicate(timeout=30)
    finally:
        follower.kill()
        follower.communicate()
