"""Tests of ``nosejobs up`` as a process: its URL, its lock, its end, and logs that grow."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.helpers.crash_scenario import environment
from tests.helpers.dispatcher_processes import DispatcherProcess, ForkServer

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


class Shell:
    """Runs commands in a folder; their output is in files there."""

    def __init__(self, folder: Path, fork_server: ForkServer) -> None:
        self.folder, self._fork_server = folder, fork_server
        self._running: list[DispatcherProcess] = []

    def begin(self, *words: str, name: str) -> DispatcherProcess:
        """Start a command; ``name`` is the name of its output files without suffix."""
        variables = {key: text for key, text in environment().items() if key != "NOSEJOBS_URL"}
        out, error = f"{name}.out", f"{name}.err"
        self._running.append(
            self._fork_server.start_command(self.folder, variables, *words, out=out, error=error)
        )
        return self._running[-1]

    def start_dispatcher(self, name: str) -> DispatcherProcess:
        """Start a dispatcher; return once it answers."""
        process = self.begin("up", name=name)
        wait_until(lambda: self.address.is_file() or not process.is_alive)
        assert process.is_alive, self.stderr(name)
        return process

    def run(self, *words: str, name: str) -> int:
        """Run a command; return its exit status."""
        return self.end(self.begin(*words, name=name))

    def end(self, process: DispatcherProcess) -> int:
        """Wait for a process; return its exit status."""
        self._running.remove(process)
        return process.wait_for_status()

    @property
    def address(self) -> Path:
        """Return the path of the file with the URL of the dispatcher."""
        return self.folder / "data" / "url"

    def stderr(self, name: str) -> str:
        """Return the standard error of a command."""
        return (self.folder / f"{name}.err").read_text()

    def stdout(self, name: str) -> str:
        """Return the standard output of a command."""
        return (self.folder / f"{name}.out").read_text()

    def close(self) -> None:
        """Kill all processes."""
        for process in self._running:
            process.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a dispatcher, with a tree of one test that waits for a file."""
    (tmp_path / "dispatcher.toml").write_text(SETTINGS)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "nosejobs.toml").write_text(TREE)
    test = tmp_path / "app" / "test_slow.sh"
    test.write_text(TEST.format(gate=tmp_path / "gate"))
    test.chmod(0o755)
    return tmp_path


@pytest.fixture
def shell(folder: Path, fork_server: ForkServer) -> Iterator[Shell]:
    found = Shell(folder, fork_server)
    yield found
    found.close()
    # An agent survives a kill of its dispatcher; the next dispatcher would stop it.
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or ()):
            process.kill()


def wait_until(ready: Callable[[], object], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_folder_has_one_dispatcher_until_ctrl_c(shell: Shell) -> None:
    up = shell.start_dispatcher("up")
    url = shell.address.read_text().strip()
    assert requests.get(f"{url}/api/v1/status", timeout=20).ok
    assert shell.run("up", name="another") == 2
    assert f"another dispatcher (process {up.pid}) uses" in shell.stderr("another")
    up.send(signal.SIGINT)
    assert shell.end(up) == 0
    messages = shell.stderr("up")
    assert f"nosejobs dispatcher: {url}, data in {shell.folder / 'data'}" in messages
    assert "Traceback" not in messages
    assert not shell.address.exists()
    assert shell.run("builds", "--url", url, name="builds") == 6


def test_a_log_is_followed_through_a_kill_of_the_dispatcher(shell: Shell) -> None:
    up = shell.start_dispatcher("up")
    url = shell.address.read_text().strip()
    wait_until(lambda: requests.get(f"{url}/api/v1/builds", timeout=20).json())
    follower = shell.begin("logs", "-f", "1", "unit", "--url", url, name="logs")
    wait_until(lambda: "the first line" in shell.stdout("logs"))
    up.kill()
    shell.address.unlink()
    port = url.rpartition(":")[2]
    text = SETTINGS.replace('"127.0.0.1:0"', f'"127.0.0.1:{port}"')
    (shell.folder / "dispatcher.toml").write_text(text)
    again = shell.start_dispatcher("again")
    (shell.folder / "gate").touch()
    assert shell.end(follower) == 0
    assert [shell.stdout("logs").count(f"the {each} line") for each in ("first", "last")] == [1, 1]
    assert shell.run("show", "1", "--wait", name="show") == 0
    again.send(signal.SIGINT)
    assert shell.end(again) == 0
