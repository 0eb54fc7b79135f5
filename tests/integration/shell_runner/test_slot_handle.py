"""Tests of a slot process: jumping clocks, a dying parent, resource limits, copied trees."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shell_runner.remote.files import remove_tree
from shell_runner.remote.files.copy_tree import copy_tree
from shell_runner.remote.processes import process_tree
from shell_runner.remote.protocol import model
from shell_runner.remote.protocol.frames import FrameDecoder, frame_message
from shell_runner.remote.protocol.model import Execution, Problem, Setup, execution_from_row

ROOT = Path(__file__).parents[3]
#: Makes the wall clock jump by days with every call.
JUMPING_CLOCK = """
import itertools, time
days = itertools.cycle([0, 1e7, -1e7, 3e8])
real = time.time
time.time = lambda: real() + next(days)
"""

#: Starts a slot as a fork and ends it; the argument is a folder.
FORKED_SLOT = """
import sys
from shell_runner.remote.execution.slot_handle import SlotHandle
from shell_runner.remote.protocol.model import Setup
slot = SlotHandle(0, Setup(sys.argv[1]), sys.argv[1] + "/0", forked=True)
slot.request_stop()
slot.wait_until_dead()
print(slot.reap())
"""


class SlotClient:
    """Sends tests to one slot and receives its messages, as a slot pool does."""

    def __init__(self, root: Path, folder: Path, before: str = "", **setup: Any) -> None:
        self.root = root
        self.base = folder / "0"
        self.socket, slot_socket = socket.socketpair()
        code = f"{before}\nimport sys\nfrom shell_runner.remote.execution import slot\n"
        code += "slot.main(sys.argv[1:])"
        arguments = ["0", str(slot_socket.fileno()), str(self.base)]
        with slot_socket:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, *arguments], pass_fds=[slot_socket.fileno()], cwd=ROOT
            )
        self.socket.settimeout(30)
        self.socket.sendall(frame_message(Setup(str(root), **{"grace": 0.2, **setup})))
        self._frame_decoder = FrameDecoder()
        self._frames: list[bytes] = []
        self._count = 0

    def start(self, script: str, **fields: Any) -> None:
        """Send one test with this script."""
        self._count += 1
        path = self.root / f"test_{self._count}"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        test = model.Test(self._count, path.name, **{"timeout": 20.0, **fields})
        self.socket.sendall(frame_message(["run", [test]]))

    def next_message(self) -> list[Any]:
        """Return the next message."""
        while not self._frames:
            data = self.socket.recv(1 << 16)
            assert data, "the slot is gone"
            self._frames += self._frame_decoder.feed(data)
        message: list[Any] = json.loads(self._frames.pop(0))
        return message

    def next_execution(self) -> Execution:
        """Return the Execution of the next test that ends."""
        while (message := self.next_message())[0] != "done":
            pass
        return execution_from_row(message[1])

    def run(self, script: str, **fields: Any) -> Execution:
        """Run one test with this script."""
        self.start(script, **fields)
        return self.next_execution()

    def close(self) -> None:
        """Close the socket and wait until the slot has ended."""
        self.socket.close()
        self.process.wait(20)


NewClient = Callable[..., SlotClient]


@pytest.fixture
def new_client(tmp_path: Path) -> Iterator[NewClient]:
    """Return a function that starts a slot, which is ended after the test."""
    clients: list[SlotClient] = []

    def make(before: str = "", **setup: Any) -> SlotClient:
        (tmp_path / "tree").mkdir()
        (tmp_path / "session").mkdir()
        clients.append(SlotClient(tmp_path / "tree", tmp_path / "session", before, **setup))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def test_a_wall_clock_that_jumps_changes_no_duration_and_no_deadline(new_client: NewClient) -> None:
    slot = new_client(JUMPING_CLOCK)
    execution = slot.run("sleep 0.3")
    assert execution.exit_status == 0
    assert 0.3 <= execution.duration < 3
    begin = time.monotonic()
    late = slot.run("sleep 60", timeout=0.5)
    assert late.timed_out
    assert 0.5 <= late.duration < 3
    assert time.monotonic() - begin < 5


def test_a_deadline_holds_while_nobody_reads_what_the_slot_says(new_client: NewClient) -> None:
    slot = new_client()
    slot.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(6):
        slot.start("head -c 20000 /dev/zero; exec sleep 60", timeout=0.3)
    time.sleep(2)
    assert all(slot.next_execution().timed_out for _ in range(6))


def test_the_last_slot_of_a_dead_host_removes_the_folder(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    session = tmp_path / "session"
    (session / "tree").mkdir(parents=True)
    (session / "lock").touch()
    slot = SlotClient(tmp_path / "tree", session)
    slot.start("sleep 60 & sleep 60")
    assert slot.next_message()[0] == "running"
    slot.close()
    assert not session.exists()


def test_a_forked_slot_warns_of_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", FORKED_SLOT, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == ("exit 0", "")


def test_a_slot_is_forked_without_standard_error(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" 2>&-', sys.executable, "-c", FORKED_SLOT, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "exit 0\n"


def test_a_slot_that_its_test_has_limited_retires(new_client: NewClient) -> None:
    slot = new_client()
    script = f"exec {sys.executable} -c 'import os, resource; "
    script += "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (64, 64))'"
    assert slot.run(script).exit_status == 0
    assert slot.next_message() == ["retired"]


@pytest.mark.parametrize(("ask", "answer"), [("recall", "recalled"), ("return", "returned")])
def test_a_slot_gives_back_what_it_has_not_started(
    new_client: NewClient, ask: str, answer: str
) -> None:
    slot = new_client()
    slot.start("until [ -e go ]; do sleep 0.02; done")
    slot.start("exit 7")
    assert slot.next_message()[0] == "running"
    slot.socket.sendall(frame_message([ask, [1, 2]]))
    assert slot.next_message() == [answer, [2]]
    (slot.root / "go").touch()
    assert slot.next_execution().id == 1
    assert slot.run("exit 3").id == 3


def test_a_test_cannot_reach_the_socket_of_its_slot(new_client: NewClient) -> None:
    assert new_client().run("ls /proc/self/fd").stdout.text.split() == ["0", "1", "2", "3"]


def test_limits_are_those_of_the_test_alone(new_client: NewClient) -> None:
    slot = new_client()
    script = "ulimit -n; ulimit -Hn; ulimit -t; ulimit -Ht"
    limited = slot.run(script, limits=[["nofile", 99], ["nofile", 64], ["cpu", 7]])
    assert limited.stdout.text.split() == ["64", "64", "7", "8"]
    assert slot.run(script).stdout.text.split() != limited.stdout.text.split()
    assert slot.run("while :; do :; done", limits=[["cpu", 1]]).signal == signal.SIGXCPU
    script = "exec head -c 9999 /dev/zero >$TMPDIR/file"
    assert slot.run(script, limits=[["fsize", 100]]).signal == signal.SIGXFSZ


def test_limits_change_nothing_else(new_client: NewClient) -> None:
    slot = new_client()
    show = "ls -l /proc/self/fd | grep -c pipe; grep SigBlk /proc/self/status; umask; tty; pwd; env"
    plain = slot.run(show)
    assert slot.run(show, limits=[["nofile", 100]]).stdout.text == plain.stdout.text


def test_problems_are_told_apart_under_limits_too(new_client: NewClient) -> None:
    slot = new_client()
    (slot.root / "none").write_text("#!/no/such/thing\n")
    (slot.root / "none").chmod(0o755)
    slot.socket.sendall(frame_message(["run", [model.Test(9, "none", limits=(("nofile", 100),))]]))
    assert slot.next_execution().problem == Problem.NO_INTERPRETER


def test_a_copy_is_private_and_goes_away(new_client: NewClient) -> None:
    slot = new_client()
    (slot.root / "data").write_text("shared")
    script = "cat data; echo changed >data; rm test_1; pwd; echo $TEST_SRCDIR"
    execution = slot.run(script, isolation="copy")
    copy = str(slot.base / "tree")
    assert execution.stdout.text.split() == [f"shared{copy}", copy]
    assert (slot.root / "data").read_text() == "shared"
    assert (slot.root / "test_1").exists()
    assert not Path(copy).exists()
    assert slot.run("echo $TEST_SRCDIR").stdout.text.split() == [str(slot.root)]


def test_a_copy_has_all_that_a_tree_has(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "closed").mkdir(parents=True)
    (source / ".git").mkdir()
    (source / "closed" / "file").write_bytes(os.urandom(3_000_000))
    (source / "closed" / "program").write_text("#!/bin/sh\n")
    (source / "closed" / "program").chmod(0o4751)
    os.utime(source / "closed" / "file", ns=(1, 1_000_000_007))
    (source / "link").symlink_to("closed/file")
    (source / "dangling").symlink_to("nowhere")
    os.mkfifo(source / "fifo")
    (source / "closed").chmod(0o555)
    copy_tree(str(source), str(target))
    assert sorted(os.listdir(target)) == ["closed", "dangling", "fifo", "link"]
    for name in ("closed", "closed/file", "closed/program", "link", "dangling", "fifo"):
        before, after = os.lstat(source / name), os.lstat(target / name)
        assert before.st_mode == after.st_mode
        if not (target / name).is_symlink():
            assert before.st_mtime_ns == after.st_mtime_ns
    assert (target / "link").read_bytes() == (source / "link").read_bytes()


@pytest.mark.parametrize("uid", [0, 65534])
def test_whatever_its_modes_a_folder_is_removed(uid: int, tmp_path: Path) -> None:
    if uid and os.getuid():
        pytest.skip("requires root")
    folder = tmp_path / "x"
    for depth in ("a/b/c", "d"):
        (folder / depth).mkdir(parents=True)
        (folder / depth / "file").touch()
    for path in (*sorted(folder.rglob("*"), reverse=True), folder):
        path.chmod(0)
        if uid:
            os.chown(path, uid, uid)
    assert _run_as(uid, tmp_path, f"remove_tree.remove_tree({str(folder)!r})") == 0
    assert not folder.exists()


def _run_as(uid: int, folder: Path, code: str) -> int:
    """Run code as another user, who may write to ``folder``; return the exit status.

    The module ``remove_tree`` is imported before, since the user may not read its file.
    """
    assert remove_tree.remove_tree
    if uid:
        for parent in (folder, *folder.parents[:3]):
            parent.chmod(parent.stat().st_mode | 0o755)
        os.chown(folder, uid, uid)
    pid = os.fork()
    if pid == 0:
        try:
            if uid:
                os.setuid(uid)
            exec(code, {"remove_tree": remove_tree})
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_lister_leaves_out_what_is_kept_apart() -> None:
    children = [subprocess.Popen(["sleep", "30"]) for _ in range(2)]
    try:
        execution = process_tree.DescendantLister(os.getpid(), unrelated_pids=[children[0].pid])()
        assert children[1].pid in execution
        assert children[0].pid not in execution
        children[1].send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        assert process_tree.is_stopped(children[1].pid)
        assert not process_tree.is_stopped(children[0].pid)
        assert not process_tree.is_dead(children[0].pid)
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert process_tree.is_dead(children[0].pid)
