"""Tests of the identity of a process: process id, start time and boot."""

import os
import subprocess
import sys

from shell_runner.remote.processes import process_identity


def test_a_process_identifies_itself() -> None:
    own = process_identity.identify_self()
    assert own.pid == os.getpid()
    assert own.start_ticks.isdigit()
    assert len(own.boot_id) == 36
    assert process_identity.is_alive(own)


def test_an_ended_process_is_not_alive() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        identity = process_identity.identify(process.pid)
        assert identity is not None
        assert process_identity.is_alive(identity)
    assert process_identity.identify(process.pid) is None
    assert not process_identity.is_alive(identity)


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process_identity.identify(process.pid) is None
    finally:
        process.wait()


def test_the_same_pid_with_another_start_is_another_process() -> None:
    own = process_identity.identify_self()
    assert not process_identity.is_alive(own._replace(start_ticks=str(int(own.start_ticks) - 1)))


def test_the_same_pid_and_start_after_another_boot_is_another_process() -> None:
    own = process_identity.identify_self()
    assert not process_identity.is_alive(own._replace(boot_id="0" * 8 + own.boot_id[8:]))


def test_a_name_with_blanks_and_parentheses_is_parsed() -> None:
    script = "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'a) Z 1 (', 0, 0, 0); print(flush=1)"
    command = [sys.executable, "-c", script + "; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        identity = process_identity.identify(process.pid)
        assert identity is not None
        assert identity.start_ticks.isdigit()
        assert process_identity.is_alive(identity)


def test_an_impossible_pid_is_not_alive() -> None:
    assert not process_identity.is_alive(process_identity.identify_self()._replace(pid=0))
    assert not process_identity.is_alive(process_identity.identify_self()._replace(pid=-1))
